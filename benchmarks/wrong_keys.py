"""What 100,000 wrong keys a minute cost those who have a right one: a whole gateway, with and without them, in turns.

    python -m benchmarks.wrong_keys --ours VENV [--rounds 5] [--seconds 6]

--ours: the gateway's virtual environment. The gateway is what the `processes` runtime starts, with one worker, before
an upstream that answers at once; 1,000 people have keys. Keyed clients ask RATE times a second over CONNECTIONS
connections, whatever the answers take, and then as fast as they are answered. Meanwhile another process shows wrong
keys, 100,000 a minute, over KEPT connections in turn (`kept`), or over a new one for each (`anew`); or GREEDY
connections ask as soon as they are answered (`greedy`).

Gateway, upstream and both kinds of client share the cores of this machine, so a part of what strangers cost is their
own work. So each kind is also sent elsewhere, to a bare server that answers every request with the same bytes
(`kept elsewhere`, `anew elsewhere`): what the gateway itself costs is what lies above that. Told are medians, of each
round's ratio to the same without wrong keys, too; and what a wrong key takes of the gateway's processor.

Writes benchmarks/results/wrong_keys.json; ends with 1 where a keyed request failed, or a wrong key was let in. Touches
loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
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
RATE, CONNECTIONS = 100, 8
# Each kept connection shows a key every 2.1 s, later than the gateway lets it rest, and a new one has 0.15 s for its
# answer: nobody waits, and no request costs the strangers more than a few calls of the system.
KEPT, OPEN_AT_ONCE, GREEDY = 3500, 256, 256
ELSEWHERE = " elsewhere"
KINDS = ("kept", "kept elsewhere", "anew", "anew elsewhere", "greedy")


class Ports(Struct, frozen=True, kw_only=True):
    """Where the gateway listens, and the bare server."""

    gateway: int
    bare: int


def strangers(port: int, seconds: float, kind: str) -> Counter[str]:
    """Show wrong keys; return how often each status came, `none` where no answer had come in time."""
    request = request_bytes("smoke", f"sk-{os.urandom(36).hex()}")
    if kind == "greedy":
        return asyncio.run(ask_greedily(port, request, seconds))
    found: Counter[str] = Counter()
    opened: deque[socket.socket] = deque()
    every_s, most = 60 / A_MINUTE, KEPT if kind == "kept" else OPEN_AT_ONCE
    at_s = time.perf_counter()
    ends_s = at_s + seconds
    while at_s < ends_s:
        time.sleep(max(at_s - time.perf_counter(), 0))
        at_s += every_s
        asker = None
        if len(opened) == most:
            asker = opened.popleft()
            found[status_of(asker)] += 1
            if kind == "anew":
                asker.close()
                asker = None
        asker = asker or socket.create_connection(("127.0.0.1", port))
        with contextlib.suppress(OSError):
            asker.sendall(request)
        opened.append(asker)
    time.sleep(OPEN_AT_ONCE * every_s)
    for asker in opened:
        found[status_of(asker)] += 1
        asker.close()
    return found


def status_of(asker: socket.socket) -> str:
    """Return the status that has come, `none` where there is none."""
    try:
        return asker.recv(65536, socket.MSG_DONTWAIT)[9:12].decode() or "none"
    except OSError:
        return "none"


async def ask_greedily(port: int, request: bytes, seconds: float) -> Counter[str]:
    """Show a wrong key on many connections, as soon as each is answered; return how often each status came."""
    found: Counter[str] = Counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(content_length(head))
                found[head[9:12].decode()] += 1

    tasks = [asyncio.create_task(one()) for _ in range(GREEDY)]
    await asyncio.wait(tasks, timeout=seconds)
    return found


async def at_rate(port: int, request: bytes, seconds: float) -> tuple[list[float], int]:
    """Ask at the keyed clients' rate; return the latencies and how many failed."""
    times_s: list[float] = []
    failed, began = 0, time.perf_counter()

    async def one(number: int) -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due_s = began + number / RATE
        while due_s < began + seconds:
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            asked_s = time.perf_counter()  # not the moment that was due: a sleep ends up to 1 ms late
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(content_length(head))
            times_s.append(time.perf_counter() - asked_s)
            failed += head[9:12] != b"200"
            due_s += CONNECTIONS / RATE
        writer.close()

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))
    return times_s, failed


@contextlib.contextmanager
def attacked(ports: Ports, seconds: float, kind: str | None, shown: Counter[str]) -> Iterator[None]:
    """Let strangers show wrong keys while the block lasts; without a kind, nobody does."""
    if kind is None:
        yield
        return
    port = ports.bare if kind.endswith(ELSEWHERE) else ports.gateway
    command = [sys.executable, "-P", "-m", "benchmarks.wrong_keys", "--port", str(port)]
    command += ["--strangers", kind.removesuffix(ELSEWHERE)]
    with subprocess.Popen([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) as process:
        yield
        told, _ = process.communicate()
    shown.update(json.loads(told))


def measure_once(
    ports: Ports, request: bytes, pid: int, seconds: float, kind: str | None, shown: Counter[str]
) -> dict[str, float]:
    """Return the figures of the keyed clients."""
    before = cpu_s(family(pid))
    with attacked(ports, seconds, kind, shown):
        times_s, failed = asyncio.run(at_rate(ports.gateway, request, seconds))
    used_s = cpu_s(family(pid)) - before
    with attacked(ports, seconds, kind, shown):
        busy_s, failed_too = load(ports.gateway, request, CONNECTIONS, seconds)
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


def more_share(of: dict[str | None, dict[str, float]], kind: str) -> float:
    """Return what more of a core the gateway used while strangers of a kind were there, in one round."""
    return of[kind]["gateway_core_share"] - of[None]["gateway_core_share"]


def measure(
    ports: Ports, request: bytes, pid: int, seconds: float, rounds: int
) -> tuple[list[dict[str | None, dict[str, float]]], dict[str, Counter[str]]]:
    """Return the clients' figures of each round, and how often strangers of each kind met each status."""
    shown: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    found = []
    for number in range(rounds):
        order = (None, *KINDS) if number % 2 == 0 else (*reversed(KINDS), None)
        found.append(
            {
                kind: measure_once(ports, request, pid, seconds, kind, shown[kind] if kind else Counter())
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
        bare = free_port()
        for port in (upstream, str(bare)):
            engine = [sys.executable, "-P", "-m", "benchmarks.gateway", "--upstream", port]
            opened.enter_context(running(engine, os.environ, folder / f"upstream.{port}.log"))
        start_redis(programs["redis"], folder, opened)
        setting = our_setting(programs["gateway"], stack, folder, 1)
        log = folder / "gateway.log"
        process = opened.enter_context(running(setting.command, setting.environment, log))
        await_ready(setting, process, log)
        request = request_bytes(setting.model, texts[0])
        load(setting.port, request, CONNECTIONS, seconds)
        found, shown = measure(Ports(gateway=setting.port, bare=bare), request, process.pid, seconds, rounds)
    a_minute = {kind: round(of.total() / (2 * rounds * seconds) * 60) for kind, of in shown.items()}
    return {
        "machine": describe_machine(ours),
        "rounds": rounds,
        "seconds": seconds,
        "keyed_requests_per_s": RATE,
        "wrong_keys_shown": {kind: dict(counts) for kind, counts in shown.items()},
        "wrong_keys_a_minute": a_minute,
        "gateway_us_per_wrong_key": {
            kind: round(statistics.median(more_share(of, kind) for of in found) / (a_minute[kind] / 60) * 1e6)
            for kind in ("kept", "anew")
        },
        "clients": summarize(found),
    }


def main() -> int:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--strangers", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.strangers is not None:
        print(json.dumps(strangers(given.port, given.seconds, given.strangers)))
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
    is_let_in = any("200" in counts for kind, counts in shown.items() if not kind.endswith(ELSEWHERE))
    return int(any(row["failed"] for row in clients.values()) or is_let_in)


if __name__ == "__main__":
    sys.exit(main())
