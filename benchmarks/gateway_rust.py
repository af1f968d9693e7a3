"""The gateways in Rust beside ours: what they cost, and which of our promises they keep.

    python -m benchmarks.gateway_rust --ours VENV --rust VENV [--rounds 4] [--seconds 3]

--ours: the gateway's virtual environment. --rust: one with `smg` 1.13.0 and `vllm-router` 0.1.17 and what they ask for.
Ours is what the `processes` runtime starts, with one worker and everything switched on; the others are started as their
help says, with a key where they take one. All stand before the same upstream, which answers at once, and are measured
in turns in one run, as in benchmarks/gateway.py: CONNECTIONS clients that ask again as soon as they are answered, then
PACED_CONNECTIONS streams whose events come one by one, then one client. Processor time is that of all processes of a
gateway, memory their proportional set size.

Then each promise is tried: what a request without a key, with a wrong one, for the list of models, of a wrong shape, or
of 40 MB gets; what becomes of many requests where 2 may work and 2 wait; and what of 20 requests where one of two
engines says 200 to `/health` and answers nothing else (ours leaves that to the engine's heartbeat, and shows it).

Writes benchmarks/results/gateway_rust.json. Touches loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from stackwright.runtime.programs import Provisions, stack_programs

from benchmarks.gateway import (
    CONNECTIONS,
    Record,
    added_ms,
    await_ready,
    describe_machine,
    make_stack,
    our_setting,
    start_redis,
    turn,
)
from benchmarks.gateway_load import CHUNKS, Upstream, cpu_s, family, free_port, load, pss_mb, request_bytes, running
from tests.integration.gateway.exchange import Ask, exchange

RESULTS = Path(__file__).resolve().parent / "results" / "gateway_rust.json"
KEY = "sk-" + "1" * 64
OURS, SMG, ROUTER = "ours", "smg 1.13.0", "vllm-router 0.1.17"
READY_S = 60
MODEL = "smoke"
WORKING, WAITING, AT_ONCE = 2, 2, 12
WEDGED_REQUESTS, WEDGE_S, PATIENCE_S = 20, 3, 25


class Door(Struct, frozen=True, kw_only=True):
    """A gateway that runs: where, by which key, and its first process."""

    name: str
    port: int
    key: str
    pid: int


class Engine(Upstream):
    """The upstream of benchmarks/gateway.py, which also says which model it has; a wedged one answers nothing else."""

    MODELS = json.dumps(
        {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 4096}]}
    ).encode()
    wedged = False

    def data_received(self, data: bytes) -> None:
        """Answer what is not a completion."""
        head, _, rest = data.partition(b"\r\n\r\n")
        if head.startswith(b"GET ") and not rest:
            body = self.MODELS if head.startswith(b"GET /v1/models") else b"{}"
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            self._transport.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        elif not self.wedged:
            super().data_received(data)


async def be_engine(port: int, wedged: bool) -> None:
    """Be an engine, until ended."""
    Engine.wedged = wedged
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    await server.serve_forever()


@contextlib.contextmanager
def engine(folder: Path, *, port: int | None = None, wedged: bool = False) -> Iterator[int]:
    """Run an engine; give its port."""
    port = port or free_port()
    command = [sys.executable, "-P", "-m", "benchmarks.gateway_rust", "--engine-port", str(port)]
    with running([*command, *(["--wedged"] if wedged else [])], os.environ, folder / f"engine-{port}.log"):
        yield port


def rust_command(name: str, rust: Path, port: int, engines: Sequence[int], *, limits: bool) -> list[str]:
    """Return how a gateway in Rust is started before these engines."""
    urls = [f"http://127.0.0.1:{engine}" for engine in engines]
    command = [str(rust / "bin" / ("smg" if name == SMG else "vllm-router")), *(["launch"] if name == SMG else [])]
    command += ["--worker-urls", *urls, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(free_port()), "--api-key", KEY]
    command += ["--log-level", "error"]
    if name == SMG:
        command += ["--worker-wedge-secs", str(WEDGE_S)]
    if len(engines) > 1:
        command += ["--policy", "round_robin"]
    if limits:
        command += ["--max-concurrent-requests", str(WORKING), "--queue-size", str(WAITING)]
    return command


@contextlib.contextmanager
def rust_door(name: str, rust: Path, folder: Path, engines: Sequence[int], *, limits: bool = False) -> Iterator[Door]:
    """Start a gateway in Rust; give it once it answers a completion."""
    port = free_port()
    log = folder / f"{port}.log"
    command, environment = rust_command(name, rust, port, engines, limits=limits), {**os.environ, "HOME": str(folder)}
    with running(command, environment, log) as process:
        end = time.monotonic() + READY_S
        while status(port, chat(KEY)) != 200:
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} does not answer: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield Door(name=name, port=port, key=KEY, pid=process.pid)


@contextlib.contextmanager
def our_door(ours: Path, folder: Path, upstream: int, *pins: str) -> Iterator[Door]:
    """Start ours before this engine."""
    folder.mkdir()
    with contextlib.ExitStack() as ended:
        stack = make_stack(folder / "stack", None, None, *pins)
        ports = {"redis": free_port(), stack.plan.replicas[0].name: upstream}
        venv = ours.absolute()
        machine = Provisions(
            virtual_environments={"engine": Path(), "gateway": venv}, ports=ports, shared_memory_bytes=2**30
        )
        programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
        start_redis(programs["redis"], folder, ended)
        setting = our_setting(programs["gateway"], stack, folder, 1)
        log = folder / "gateway.log"
        process = ended.enter_context(running(setting.command, setting.environment, log))
        await_ready(setting, process, log)
        yield Door(name=OURS, port=setting.port, key=setting.key, pid=process.pid)


def chat(key: str | None, **further: object) -> Ask:
    """Return a request for a completion."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, **further}
    return Ask(path="/v1/chat/completions", content=json.dumps(asked).encode(), key=key)


def status(port: int, ask: Ask) -> int:
    """Return the status of one answer; 0 where there is none."""

    async def once() -> int:
        async with asyncio.timeout(PATIENCE_S):
            return (await exchange(port, ask)).status

    with contextlib.suppress(OSError, TimeoutError):
        return asyncio.run(once())
    return 0


def answers(door: Door) -> dict[str, int]:
    """Return the status that each kind of request gets."""
    wrong = "sk-" + "0" * 64
    tries = {
        "no key": chat(None),
        "wrong key": chat(wrong),
        "list of models without a key": Ask(path="/v1/models", method="GET"),
        "list of models with a wrong key": Ask(path="/v1/models", method="GET", key=wrong),
        "messages is a text": chat(door.key, messages="hi"),
        "tools is a list of numbers": chat(door.key, tools=[1]),
        "stream is a word": chat(door.key, stream="yes"),
        "n is a million": chat(door.key, n=1_000_000),
        "not JSON": Ask(path="/v1/chat/completions", content=b'{"model"', key=door.key),
        "40 MB": chat(door.key, messages=[{"role": "user", "content": "x" * 40_000_000}]),
        "unknown model": chat(door.key, model="nobody"),
    }
    return {name: status(door.port, ask) for name, ask in tries.items()}


def crowd(door: Door) -> dict[str, object]:
    """Ask at once for more than may work and wait; return the statuses, and how many refusals say when to come back."""

    async def ask_all() -> list[Any]:
        asks = [chat(door.key, stream=True, seed=4, max_tokens=CHUNKS) for _ in range(AT_ONCE)]
        return await asyncio.gather(*(exchange(door.port, ask) for ask in asks))

    found = asyncio.run(ask_all())
    refused = [answer for answer in found if answer.status in (429, 503)]
    return {
        "statuses": {str(code): count for code, count in sorted(Counter(answer.status for answer in found).items())},
        "with_retry_after": sum("retry-after" in answer.headers for answer in refused),
    }


def wedge(door: Door) -> dict[str, object]:
    """Ask twenty times, two a second, where one of two engines answers nothing; return how many got an answer."""

    async def one(wait_s: float) -> bool:
        await asyncio.sleep(wait_s)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(PATIENCE_S):
                return (await exchange(door.port, chat(door.key))).status == 200
        return False

    async def ask_all() -> list[bool]:
        return await asyncio.gather(*(one(number / 2) for number in range(WEDGED_REQUESTS)))

    answered = asyncio.run(ask_all())
    return {"answered": sum(answered), "answered_of_the_second_half": sum(answered[WEDGED_REQUESTS // 2 :])}


def summarize(record: Record, bare: Record, ours: Record) -> dict[str, object]:
    """Return the figures of one gateway."""

    def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
        return round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2)

    return {
        "requests_per_s": round(statistics.mean(record.rates)),
        "cpu_ms_per_request": round(statistics.mean(record.cpu_ms), 3),
        "paced_events_per_s": round(statistics.mean(record.paced_rates) * CHUNKS),
        "cpu_us_per_paced_event": round(statistics.mean(record.paced_cpu_ms) * 1000 / CHUNKS, 1),
        f"added_ms_{CONNECTIONS}_connections": added_ms(record.busy_s, bare.busy_s),
        "added_ms_1_connection": added_ms(record.single_s, bare.single_s),
        "memory_pss_mb": record.total_pss_mb,
        "rate_beside_ours": ratio(record.rates, ours.rates),
        "cpu_of_ours_beside_it": ratio(ours.cpu_ms, record.cpu_ms),
        "failed": record.failed,
    }


def measure(doors: Sequence[Door], upstream: int, rounds: int, seconds: float) -> dict[str, dict[str, object]]:
    """Measure all in turns."""
    records, bare = {door.name: Record() for door in doors}, Record()
    for door in doors:
        load(door.port, request_bytes(MODEL, door.key), CONNECTIONS, seconds)
    for number in range(rounds):
        turn(upstream, MODEL, KEY, bare, [], seconds)
        for door in doors if number % 2 == 0 else reversed(doors):
            turn(door.port, MODEL, door.key, records[door.name], family(door.pid), seconds)
    for door in doors:
        records[door.name].total_pss_mb = sum(pss_mb(member) for member in family(door.pid))
        assert cpu_s(family(door.pid)) > 0
    return {name: summarize(record, bare, records[OURS]) for name, record in records.items()}


def main() -> int:
    """Measure, try the promises, write the results and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--rust", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--engine-port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--wedged", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine_port is not None:
        asyncio.run(be_engine(given.engine_port, given.wedged))
    if given.ours is None or given.rust is None:
        parser.error("--ours and --rust name two virtual environments")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ended:
        folder = Path(name)
        upstream = ended.enter_context(engine(folder))
        wedged = ended.enter_context(engine(folder, wedged=True))
        doors = [ended.enter_context(our_door(given.ours, folder / "ours", upstream))]
        doors += [ended.enter_context(rust_door(one, given.rust, folder, [upstream])) for one in (SMG, ROUTER)]
        figures = measure(doors, upstream, given.rounds, given.seconds)
        promises: dict[str, dict[str, object]] = {door.name: dict(answers(door)) for door in doors}
        pins = (f"GATEWAY_MAX_CONCURRENT_REQUESTS={WORKING}", f"GATEWAY_MAX_QUEUED_REQUESTS={WAITING}")
        with our_door(given.ours, folder / "limited", upstream, *pins) as door:
            promises[OURS]["2 work, 2 wait, 12 come"] = crowd(door)
        for one in (SMG, ROUTER):
            with rust_door(one, given.rust, folder, [upstream], limits=True) as door:
                promises[one]["2 work, 2 wait, 12 come"] = crowd(door)
            with rust_door(one, given.rust, folder, [upstream, wedged]) as door:
                promises[one]["one of two engines wedged, 20 requests"] = wedge(door)
    machine = describe_machine(given.ours)
    results = {"machine": machine, "rounds": given.rounds, "seconds": given.seconds}
    results |= {"gateways": figures, "promises": promises}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    return int(any(row["failed"] for row in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
