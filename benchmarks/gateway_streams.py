"""How many streams one worker of the gateway holds open at once, and what memory they take.

    python benchmarks/gateway_streams.py --ours VENV [--streams 10000] [--seconds 20]

--ours: a virtual environment from generator/stackwright/runtime/requirements/gateway.txt. The gateway is what the
`processes` runtime starts, with one worker, before a server whose streams write an event each second until the end.
All streams are opened, then read until each has had its events, then ended. Needs a limit of open files of three times
as many (`ulimit -Hn`). Writes benchmarks/results/gateway_streams.json. Touches loopback and a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "generator")]

from stackwright.runtime.programs import Provisions, stack_programs

from benchmarks.gateway import await_ready, describe_machine, make_stack, our_setting, start_redis
from benchmarks.gateway_load import CHUNK, cpu_s, family, free_port, pss_mb, request_bytes, running

RESULT = CHECKOUT / "benchmarks" / "results" / "gateway_streams.json"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b"data: " + CHUNK + b"\n\n"
PIECE = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
EVERY_S = 1.0
AT_ONCE = 200


async def serve(port: int, seconds: float) -> None:
    """Be an engine whose streams last so long."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-le"))
                await reader.readexactly(length)
                writer.write(HEAD)
                for _ in range(int(seconds / EVERY_S)):
                    writer.write(PIECE)
                    await writer.drain()
                    await asyncio.sleep(EVERY_S)
                writer.write(DONE)

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


async def stream(port: int, request: bytes, opened: asyncio.Semaphore, started: list[float]) -> str:
    """Open a stream and read it to its end; return how it went."""
    try:
        async with opened:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if head[9:12] != b"200":
                return head[9:12].decode()
            await reader.readuntil(EVENT)
            started.append(time.monotonic())
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as failure:
        return type(failure).__name__
    return "whole"


async def measure(port: int, request: bytes, streams: int, pid: int) -> dict[str, object]:
    """Open all streams; return how they went, and what the gateway took when all were open."""
    opened, started = asyncio.Semaphore(AT_ONCE), list[float]()
    began, before_s = time.monotonic(), cpu_s(family(pid))
    tasks = [asyncio.create_task(stream(port, request, opened, started)) for _ in range(streams)]
    while len(started) < streams and not any(task.done() for task in tasks):
        await asyncio.sleep(0.2)
    opened_s, open_at_once = time.monotonic() - began, len(started) - sum(task.done() for task in tasks)
    memory_mb = sum(pss_mb(member) for member in family(pid))
    ended = Counter(await asyncio.gather(*tasks))
    return {
        "open_at_once": open_at_once,
        "opened_within_s": round(opened_s, 1),
        "memory_pss_mb": memory_mb,
        "processor_s": round(cpu_s(family(pid)) - before_s, 1),
        "ended": dict(ended),
    }


def main() -> int:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    if arguments.upstream is not None:
        asyncio.run(serve(arguments.upstream, arguments.seconds))
    if arguments.ours is None:
        parser.error("--ours names a virtual environment")
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments.ours, arguments.streams, arguments.seconds, Path(folder))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if result["ended"] == {"whole": arguments.streams} else 1


def run(ours: Path, streams: int, seconds: float, folder: Path) -> dict[str, object]:
    """Start engine, Redis and gateway, and measure."""
    with contextlib.ExitStack() as opened:
        stack = make_stack(folder / "stack", None, None, f"GATEWAY_MAX_CONCURRENT_REQUESTS={streams}")
        ports = {"redis": free_port()} | {replica.name: free_port() for replica in stack.plan.replicas}
        upstream = ports[stack.plan.replicas[0].name]
        machine = Provisions(
            virtual_environments={"engine": Path(), "gateway": ours.absolute()},
            ports=ports,
            shared_memory_bytes=2**30,
        )
        programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
        engine = [sys.executable, __file__, "--upstream", str(upstream), "--seconds", str(seconds)]
        opened.enter_context(running(engine, os.environ, folder / "upstream.log"))
        start_redis(programs["redis"], folder, opened)
        setting = our_setting(programs["gateway"], stack, folder, 1)
        log = folder / "gateway.log"
        process = opened.enter_context(running(setting.command, setting.environment, log))
        await_ready(setting, process, log)
        idle_mb = sum(pss_mb(member) for member in family(process.pid))
        request = request_bytes(setting.model, setting.key, stream=True)
        row = asyncio.run(measure(setting.port, request, streams, process.pid))
        told = [line for line in log.read_text(errors="replace").splitlines() if "Too many open files" in line]
    return {
        "machine": describe_machine(ours),
        "streams": streams,
        "idle_pss_mb": idle_mb,
        **row,
        "file_limit_faults": len(told),
    }


if __name__ == "__main__":
    sys.exit(main())
