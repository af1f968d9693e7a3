"""How fast the gateway is: ours beside LiteLLM's own defaults, in turns in one run.

    python benchmarks/gateway.py --plain VENV --ours VENV [--workers 1 2] [--engine URL --model NAME --key-file FILE]

Both are virtual environments that hold LiteLLM: --plain as `pip install "litellm[proxy]" prometheus-client` leaves it,
--ours from generator/stackwright/runtime/requirements/gateway.txt. LiteLLM's defaults are `litellm --config FILE` with
one model, a master key and nothing else; with metrics and Redis, they are given what ours has besides its limits. Ours
is what the
`processes` runtime starts: compose/gateway/start.sh with rendered files, and Redis where this machine has it.

What is asked is a small chat completion. Upstream is a server that answers at once with fixed bytes (the gateway alone
is measured), or, with --engine, a running engine. Each round measures every setting once, for SECONDS with CONNECTIONS
clients that ask again as soon as they are answered; then the same for streams of CHUNKS events, which come at once;
then for PACED_CONNECTIONS streams whose events come one by one, PACED_MS apart; then with a single client. What is told
beside the defaults is the median over the rounds: the two measured one after the other are compared, so that other work
on the machine falls on both. Added latency is what the gateway takes on top of the same load without it, percentile by
percentile. Processor time is that of all processes of the gateway.

Writes benchmarks/results/gateway.json and .svg (gateway_engine with --engine). Touches loopback, a temporary folder
and those two files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from msgspec import Struct
from msgspec.structs import replace

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "generator")]

from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.project import folder as project  # found through the line above
from stackwright.runtime import Stack
from stackwright.runtime.programs import Program, Provisions, stack_programs

from benchmarks.gateway_load import CHUNKS, cpu_s, family, free_port, load, pss_mb, request_bytes, running, serve

RESULTS = CHECKOUT / "benchmarks" / "results"
CONNECTIONS, PACED_CONNECTIONS = 16, 64
READY_S = 300
PERCENTILES = (50, 95, 99)
PLAIN, EQUIPPED, OURS = "LiteLLM's defaults", "LiteLLM with metrics and Redis", "ours"


class Setting(Struct, frozen=True, kw_only=True):
    """One way to start the gateway."""

    name: str
    workers: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    key: str
    model: str


@dataclass(kw_only=True)
class Record:
    """What was measured of one setting; latencies in seconds, of all rounds together."""

    ready_s: float = 0.0
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)
    single_s: list[float] = field(default_factory=list)
    stream_s: list[float] = field(default_factory=list)
    stream_rates: list[float] = field(default_factory=list)
    stream_cpu_ms: list[float] = field(default_factory=list)
    paced_rates: list[float] = field(default_factory=list)
    paced_cpu_ms: list[float] = field(default_factory=list)
    failed: int = 0
    worker_pss_mb: list[int] = field(default_factory=list)
    total_pss_mb: int = 0


def plain_settings(
    venv: Path, folder: Path, entry: Mapping[str, object], workers: int, redis: Mapping[str, str]
) -> list[Setting]:
    """Return LiteLLM as its own documentation starts it: one model, a master key; and the same with what ours has in
    it.

    `redis` are the router's settings for it; empty where there is none.
    """
    bare: dict[str, object] = {"model_list": [entry]}
    equipped = {**bare, "litellm_settings": {"callbacks": ["prometheus"]}, "router_settings": redis}
    settings: list[Setting] = []
    for name, config in ((PLAIN, bare), (EQUIPPED, equipped)):
        file, port, master = folder / f"{len(settings)}.{workers}.yaml", free_port(), f"sk-{secrets.token_hex(32)}"
        file.write_text(json.dumps(config))
        command = (str(venv / "bin/python"), str(venv / "bin/litellm"), "--config", str(file))
        listen = ("--host", "127.0.0.1", "--port", str(port), "--num_workers", str(workers))
        environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "LITELLM_MASTER_KEY": master}
        # Without a way out its download of prices would fail slowly at the start; that is not what is compared.
        environment["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        if workers > 1 and name == EQUIPPED:
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder / f"counters.{workers}")
        settings.append(
            Setting(
                name=name,
                workers=workers,
                command=(*command, *listen),
                environment=environment,
                port=port,
                key=master,
                model=str(entry["model_name"]),
            )
        )
    return settings


def our_setting(program: Program, stack: Stack, folder: Path, workers: int) -> Setting:
    """Return the gateway as the runtime starts it."""
    port, arguments = free_port(), [*program.arguments]
    arguments[arguments.index("--num_workers") + 1] = str(workers)
    arguments[arguments.index("--port") + 1] = str(port)
    environment = {**program.inherited, **program.environment, "GATEWAY_SLOTS": str(folder / f"slots.{workers}")}
    if workers > 1:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder / f"metrics.{workers}")
    return Setting(
        name=OURS,
        workers=workers,
        command=("/bin/sh", str(program.script), *arguments),
        environment=environment,
        port=port,
        key=(stack.secrets / "litellm_master_key").read_text().strip(),
        model=stack.plan.replicas[0].model,
    )


def make_stack(folder: Path, model: str | None, key_file: Path | None, *pins: str) -> Stack:
    """Render a stack for this machine as `configure-gpu` does, in a folder of its own.

    Its engine is never started; its key becomes that of the engine that is measured with, where there is one.
    """
    command = [sys.executable, "-m", "stackwright", "configure-gpu", "cpu", "--env=dev", f"--out={folder}"]
    command += [f"--model={model}"] if model else []
    command += [f"--set={pin}" for pin in pins]
    subprocess.run(command, cwd=CHECKOUT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    stack = project.load_stack(EnvironmentPaths(root=folder, state=folder / "state", environment=Environment.DEV))
    assert stack is not None
    if key_file is not None:
        (stack.secrets / "engine_key").write_text(key_file.read_text())
    return stack


def start_redis(redis: Program, folder: Path, opened: contextlib.ExitStack) -> bool:
    """Run Redis until the end, as the runtime starts it; return whether this machine has it."""
    if shutil.which("redis-server") is None:
        return False
    command = ["/bin/sh", str(redis.script), *redis.arguments]
    opened.enter_context(running(command, {**redis.inherited, **redis.environment}, folder / "redis.log"))
    return True


def await_ready(setting: Setting, process: subprocess.Popen[bytes], log: Path) -> float:
    """Wait until the gateway answers; return the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() - began < READY_S:
        with contextlib.suppress(URLError, ConnectionError, TimeoutError):
            urlopen(f"http://127.0.0.1:{setting.port}/health/readiness", timeout=5)
            return round(time.monotonic() - began, 1)
        if process.poll() is not None:
            break
        time.sleep(0.2)
    sys.exit(f"{setting.name}: the gateway did not start: {log.read_text(errors='replace')[-2000:]}")


def measure(
    settings: Sequence[Setting], folder: Path, direct: tuple[int, str, str], rounds: int, seconds: float
) -> Result:
    """Start all settings, then measure them and the bare upstream in turns."""
    records = {setting.name: Record() for setting in settings}
    bare = Record()
    with contextlib.ExitStack() as opened:
        pids = {}
        for setting in settings:
            log = folder / f"{setting.port}.log"
            process = opened.enter_context(running(setting.command, setting.environment, log))
            records[setting.name].ready_s = await_ready(setting, process, log)
            load(setting.port, request_bytes(setting.model, setting.key), CONNECTIONS, seconds)
            pids[setting.name] = process.pid
        for number in range(rounds):
            turn(*direct, bare, [], seconds)
            for setting in settings if number % 2 == 0 else reversed(settings):
                record, members = records[setting.name], family(pids[setting.name])
                turn(setting.port, setting.model, setting.key, record, members, seconds)
        for name, pid in pids.items():
            # The first is the parent, and the worker too where there is one worker and uvicorn.
            shares = [pss_mb(member) for member in family(pid)]
            records[name].total_pss_mb, records[name].worker_pss_mb = sum(shares), shares
    return Result(records=records, bare=bare)


class Result(Struct, frozen=True, kw_only=True):
    """The records by name, and that of the upstream without a gateway."""

    records: Mapping[str, Record]
    bare: Record

    def as_json(self) -> dict[str, object]:
        """Return the rows of the result file."""
        return {name: self._row(record) for name, record in self.records.items()}

    def _row(self, record: Record) -> dict[str, object]:
        plain = self.records[PLAIN]
        return {
            "requests_per_s": round(statistics.mean(record.rates), 1),
            "cpu_ms_per_request": round(statistics.mean(record.cpu_ms), 2),
            "rate_beside_defaults": median_ratio(record.rates, plain.rates),
            "cpu_beside_defaults": median_ratio(plain.cpu_ms, record.cpu_ms),
            f"added_ms_{CONNECTIONS}_connections": added_ms(record.busy_s, self.bare.busy_s),
            "streams_per_s": round(statistics.mean(record.stream_rates), 1),
            "cpu_ms_per_stream": round(statistics.mean(record.stream_cpu_ms), 2),
            "stream_rate_beside_defaults": median_ratio(record.stream_rates, plain.stream_rates),
            "stream_cpu_beside_defaults": median_ratio(plain.stream_cpu_ms, record.stream_cpu_ms),
            "added_ms_streams": added_ms(record.stream_s, self.bare.stream_s),
            "paced_events_per_s": round(statistics.mean(record.paced_rates) * CHUNKS),
            "cpu_us_per_paced_event": round(statistics.mean(record.paced_cpu_ms) * 1000 / CHUNKS, 1),
            "paced_rate_beside_defaults": median_ratio(record.paced_rates, plain.paced_rates),
            "paced_cpu_beside_defaults": median_ratio(plain.paced_cpu_ms, record.paced_cpu_ms),
            "added_ms_1_connection": added_ms(record.single_s, self.bare.single_s),
            "failed": record.failed,
            "ready_s": record.ready_s,
            "processes_pss_mb": record.worker_pss_mb,
            "total_pss_mb": record.total_pss_mb,
            "rounds": {
                "requests_per_s": rounded(record.rates),
                "cpu_ms_per_request": rounded(record.cpu_ms),
                "streams_per_s": rounded(record.stream_rates),
                "cpu_ms_per_stream": rounded(record.stream_cpu_ms),
            },
        }


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the rounds' own ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def rounded(values: Sequence[float]) -> list[float]:
    """Return the values with two digits."""
    return [round(value, 2) for value in values]


def turn(port: int, model: str, key: str, record: Record, pids: Sequence[int], seconds: float) -> None:
    """Measure once: many clients, the same with streams, then one client."""
    asked, streamed = request_bytes(model, key), request_bytes(model, key, stream=True)
    paced = request_bytes(model, key, paced=True)
    for request, connections, cpu_ms, rates, latencies_s in (
        (asked, CONNECTIONS, record.cpu_ms, record.rates, record.busy_s),
        (streamed, CONNECTIONS, record.stream_cpu_ms, record.stream_rates, record.stream_s),
        (paced, PACED_CONNECTIONS, record.paced_cpu_ms, record.paced_rates, []),
        (asked, 1, [], [], record.single_s),
    ):
        before, began = cpu_s(pids), time.perf_counter()
        times_s, failed = load(port, request, connections, seconds)
        cpu_ms.append((cpu_s(pids) - before) * 1000 / len(times_s))
        rates.append(len(times_s) / (time.perf_counter() - began))
        latencies_s.extend(times_s)
        record.failed += failed


def added_ms(times_s: Sequence[float], bare_s: Sequence[float]) -> dict[str, float]:
    """Return what the gateway adds at each percentile, in milliseconds."""

    def percentile(values: Sequence[float], percent: int) -> float:
        return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]

    return {f"p{p}": round((percentile(times_s, p) - percentile(bare_s, p)) * 1000, 1) for p in PERCENTILES}


def run_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Result]:
    """Measure each number of workers, behind the same upstream and beside the same Redis."""
    stack = make_stack(folder / "stack", arguments.model, arguments.key_file)
    model, ports = stack.plan.replicas[0].model, {"redis": free_port()}
    ports |= {replica.name: free_port() for replica in stack.plan.replicas}
    upstream = arguments.engine or f"http://127.0.0.1:{ports[stack.plan.replicas[0].name]}/v1"
    machine = Provisions(
        virtual_environments={"engine": Path(), "gateway": arguments.ours.absolute()},
        ports=ports,
        shared_memory_bytes=2**30,
    )
    programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
    gateway = programs["gateway"]
    address = {stack.plan.replicas[0].url_variable: upstream}
    gateway = replace(gateway, environment={**gateway.environment, **address})
    key = (stack.secrets / "engine_key").read_text().strip()
    results, state = {}, {}
    with contextlib.ExitStack() as opened:
        if arguments.engine is None:
            mine = [sys.executable, __file__, "--upstream", upstream.rpartition(":")[2].partition("/")[0]]
            opened.enter_context(running(mine, os.environ, folder / "upstream.log"))
        if start_redis(programs["redis"], folder, opened):
            password = (stack.secrets / "redis_password").read_text().strip()
            state = {"redis_host": "127.0.0.1", "redis_port": str(ports["redis"]), "redis_password": password}
        direct = int(upstream.rpartition(":")[2].partition("/")[0]), model, key
        entry = {
            "model_name": model,
            "litellm_params": {"model": f"hosted_vllm/{model}", "api_base": upstream, "api_key": key},
        }
        for workers in arguments.workers:
            settings = [
                *plain_settings(arguments.plain.absolute(), folder, entry, workers, state),
                our_setting(gateway, stack, folder, workers),
            ]
            results[str(workers)] = measure(settings, folder, direct, arguments.rounds, arguments.seconds)
            # After each number of workers: a later one may fail to start on a machine that has too few cores for it.
            write(arguments, results)
    return results


def draw(results: Mapping[str, Result]) -> str:
    """Draw requests per second, a bar for each setting and number of workers."""
    bars = [
        (f"{name}, {workers} worker{'s' if workers != '1' else ''}", statistics.mean(record.rates))
        for workers, result in results.items()
        for name, record in result.records.items()
    ]
    most = max(rate for _, rate in bars)
    shapes = []
    for position, (label, rate) in enumerate(bars):
        top = position * 28 + 8
        colour = "#888" if label.startswith(PLAIN) else "#2a6"
        shapes.append(f'<rect x="330" y="{top}" width="{rate / most * 300:.0f}" height="20" fill="{colour}"/>')
        shapes.append(
            f'<text x="10" y="{top + 15}">{label}</text><text x="640" y="{top + 15}">{rate:.0f} requests/s</text>'
        )
    height = len(bars) * 28 + 16
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def describe_machine(venv: Path) -> dict[str, object]:
    """Return what the figures depend on."""
    asked = "import importlib.metadata as m, platform as p; print(m.version('litellm'), p.python_version())"
    told = subprocess.run([str(venv / "bin/python"), "-c", asked], check=True, capture_output=True, text=True)
    litellm, python = told.stdout.split()
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "litellm": litellm,
        "python": python,
        "redis": shutil.which("redis-server") is not None,
        "load_average": [round(average, 1) for average in os.getloadavg()],
    }


def write(arguments: argparse.Namespace, results: Mapping[str, Result]) -> None:
    """Write the result file and its plot."""
    name = "gateway_engine" if arguments.engine else "gateway"
    machine = {"ours": describe_machine(arguments.ours), "defaults": describe_machine(arguments.plain)}
    shape = {"connections": CONNECTIONS, "rounds": arguments.rounds, "seconds": arguments.seconds}
    rows = {workers: result.as_json() for workers, result in results.items()}
    result = {"machine": machine, "load": shape, "workers": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{name}.svg").write_text(draw(results))


def main() -> int:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--engine", help="a running engine's address, as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", help="what that engine serves, as `configure-gpu --model` takes it")
    parser.add_argument("--key-file", type=Path, help="that engine's key")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.upstream is not None:
        asyncio.run(serve(arguments.upstream))
    # A time limit around this program must not leave gateways behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if arguments.plain is None or arguments.ours is None:
        parser.error("--plain and --ours name two virtual environments")
    with tempfile.TemporaryDirectory() as folder:
        results = run_all(arguments, Path(folder))
    rows = {workers: result.as_json() for workers, result in results.items()}
    print(json.dumps(rows, indent=2))
    return 1 if any(record.failed for result in results.values() for record in result.records.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
