"""What 100,000 wrong keys a minute cost those who have a right one: a whole gateway, with and without them, in turns.

    python -m benchmarks.wrong_keys --ours VENV [--rounds 5] [--seconds 6]

--ours: the gateway's virtual environment. The gateway is what the `processes` runtime starts, with one worker, before
an upstream that answers at once; 1,000 people have keys. Keyed clients ask RATE times a second over CONNECTIONS
connections, whatever the answers take, and then as fast as they are answered. Meanwhile another process shows wrong
keys, 100,000 a minute, over connections that it keeps (`kept`), or over a new one for each (`anew`). Told are the
medians of each round's ratio to the same without wrong keys. Gateway, upstream and both kinds of client share the cores
of this machine, so a part of the ratio is the strangers' own work.

Writes benchmarks/results/wrong_keys.json; ends with 1 where a keyed request failed, or a wrong key was let in. Touches
loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.access_key import AccessKeys, text_of_key
from stackwright.domain.environment import KEYS_FOLDER
from stackwright.project.access_keys import FILE
from stackwright.reading import to_plain
from stackwright.runtime.programs import Provisions, stack_programs

from benchmarks.gateway import await_ready, describe_machine, make_stack, our_setting, start_redis
from benchmarks.gateway_load import content_length, cpu_s, family, free_port, load, request_bytes, running
from benchmarks.keys import stored_key

RESULTS = Path(__file__).resolve().parent / "results" / "wrong_keys.json"
A_MINUTE, PEOPLE = 100_000, 1000
RATE, CONNECTIONS, STRANGERS = 100, 8, 32
KINDS = ("kept", "anew")


async def strangers(port: int, seconds: float, kind: str) -> Counter[str]:
    """Show wrong keys at the rate; return how often each status came."""
    found: Counter[str] = Counter()
    request = request_bytes("smoke", f"sk-{os.urandom(36).hex()}")
    every_s, began = STRANGERS * 60 / A_MINUTE, time.perf_counter()

    async def one(number: int) -> None:
        kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        at_s = began + number * every_s / STRANGERS
        while at_s < began + seconds:
            await asyncio.sleep(max(at_s - time.perf_counter(), 0))
            at_s += every_s
            reader, writer = kept or await asyncio.open_connection("127.0.0.1", port)
            kept = reader, writer
            writer.write(request)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(content_length(head))
                found[head[9:12].decode()] += 1
            except (OSError, asyncio.IncompleteReadError):
                found["cut"] += 1
                kept = None
            if kind == "anew" or kept is None:
                writer.close()
                kept = None

    await asyncio.gather(*(one(number) for number in range(STRANGERS)))
    return found


async def at_rate(port: int, request: bytes, seconds: float) -> tuple[list[float], int]:
    """Ask at the keyed clients' rate; return the latencies, from the moment that was due, and how many failed."""
    times_s: list[float] = []
    failed, began = 0, time.perf_counter()

    async def one(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due_s = began + number / RATE
        while due_s < began + seconds:
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(content_length(head))
            times_s.append(time.perf_counter() - due_s)
            failed += head[9:12] != b"200"
            due_s += CONNECTIONS / RATE
        writer.close()

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    return times_s, failed


@contextlib.contextmanager
def attacked(port: int, seconds: float, kind: str | None, shown: Counter[str]) -> Iterator[None]:
    """Let strangers show wrong keys while the block lasts; without a kind, nobody does."""
    if kind is None:
        yield
        return
    command = [sys.executable, "-P", "-m", "benchmarks.wrong_keys", "--strangers", kind, "--port", str(port)]
    with subprocess.Popen([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        yield
        told, _ = process.communicate()
    shown.update(json.loads(told))


def measure_once(
    port: int, request: bytes, pid: int, seconds: float, kind: str | None, shown: Counter[str]
) -> dict[str, float]:
    """Return the figures of the keyed clients."""
    before = cpu_s(family(pid))
    with attacked(port, seconds, kind, shown):
        times_s, failed = asyncio.run(at_rate(port, request, seconds))
    used_s = cpu_s(family(pid)) - before
    with attacked(port, seconds, kind, shown):
        busy_s, failed_too = load(port, request, CONNECTIONS, seconds)
    times_s.sort()
    return {
        "p50_ms": times_s[len(times_s) // 2] * 1000,
        "p99_ms": times_s[len(times_s) * 99 // 100] * 1000,
        "requests_per_s": len(busy_s) / seconds,
        "gateway_core_share": used_s / seconds,
        "failed": failed + failed_too,
    }


def summarize(rounds: list[dict[str | None, dict[str, float]]]) -> dict[str, dict[str, object]]:
    """Return the medians of each kind, and of the rounds' ratios to what was without strangers."""
    rows: dict[str, dict[str, object]] = {}
    for kind in (None, *KINDS):
        row: dict[str, object] = {}
        for name in ("p50_ms", "p99_ms", "requests_per_s", "gateway_core_share"):
            row[name] = round(statistics.median(of[kind][name] for of in rounds), 3)
            ratios = [of[kind][name] / of[None][name] for of in rounds]
            row[f"{name}_ratio"] = round(statistics.median(ratios), 2)
        row["failed"] = sum(of[kind]["failed"] for of in rounds)
        rows[kind or "nobody"] = row
    return rows


def measure(
    port: int, request: bytes, pid: int, seconds: float, rounds: int
) -> tuple[list[dict[str | None, dict[str, float]]], dict[str, Counter[str]]]:
    """Return the clients' figures of each round, and how often strangers of each kind met each status."""
    shown: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    found = []
    for number in range(rounds):
        order = (None, *KINDS) if number % 2 == 0 else (*reversed(KINDS), None)
        found.append(
            {
                kind: measure_once(port, request, pid, seconds, kind, shown[kind] if kind else Counter())
                for kind in order
            }
        )
    return found, shown


def run(ours: Path, folder: Path, rounds: int, seconds: float) -> dict[str, object]:
    """Start upstream, Redis and gateway, and measure."""
    texts = [text_of_key(f"{number:08x}", os.urandom(32).hex()) for number in range(PEOPLE)]
    stored = AccessKeys(keys=tuple(stored_key(number, text) for number, text in enumerate(texts)))
    with contextlib.ExitStack() as opened:
        stack = make_stack(folder / "stack", None, None)
        (stack.paths.folder(KEYS_FOLDER) / FILE).write_text(json.dumps(to_plain(stored)), encoding="utf-8")
        ports = {"redis": free_port()} | {replica.name: free_port() for replica in stack.plan.replicas}
        venv, upstream = ours.absolute(), str(ports[stack.plan.replicas[0].name])
        machine = Provisions(
            virtual_environments={"engine": Path(), "gateway": venv}, ports=ports, shared_memory_bytes=2**30
        )
        programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
        engine = [sys.executable, "-P", "-m", "benchmarks.gateway", "--upstream", upstream]
        opened.enter_context(running(engine, os.environ, folder / "upstream.log"))
        start_redis(programs["redis"], folder, opened)
        setting = our_setting(programs["gateway"], stack, folder, 1)
        log = folder / "gateway.log"
        process = opened.enter_context(running(setting.command, setting.environment, log))
        await_ready(setting, process, log)
        request = request_bytes(setting.model, texts[0])
        load(setting.port, request, CONNECTIONS, seconds)
        found, shown = measure(setting.port, request, process.pid, seconds, rounds)
    return {
        "machine": describe_machine(ours),
        "rounds": rounds,
        "seconds": seconds,
        "keyed_requests_per_s": RATE,
        "wrong_keys_shown": {kind: dict(counts) for kind, counts in shown.items()},
        "wrong_keys_a_minute": {
            kind: round(sum(of.values()) / (2 * rounds * seconds) * 60) for kind, of in shown.items()
        },
        "clients": summarize(found),
    }


def main() -> int:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--strangers", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.strangers is not None:
        print(json.dumps(asyncio.run(strangers(given.port, given.seconds, given.strangers))))
        return 0
    if given.ours is None:
        parser.error("--ours names a virtual environment")
    with tempfile.TemporaryDirectory() as name:
        results = run(given.ours, Path(name), given.rounds, given.seconds)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    clients, shown = results["clients"], results["wrong_keys_shown"]
    assert isinstance(clients, dict)
    assert isinstance(shown, dict)
    return int(any(row["failed"] for row in clients.values()) or any("200" in counts for counts in shown.values()))


if __name__ == "__main__":
    sys.exit(main())
