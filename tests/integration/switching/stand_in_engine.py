"""An engine in the place of vLLM's server: listens on a Unix socket, and misbehaves in the ways that it is asked for.

    python stand_in_engine.py MODEL [--load-s S] [--fails-while FILE] [--stubborn] --uds SOCKET

`POST /v1/…` is answered, once the file is there that `until` of the body names, with the model's name; with `stream` in
pieces, one every 50 ms; `/v1/crash` ends the program. `--stubborn` neither ends at SIGTERM nor lets the child end that
it has started. Run by a Python that has aiohttp.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer with the model's name, whole or in pieces; note in the log whoever leaves."""
    asked = await request.json() if request.content_type == "application/json" else {}
    if not asked.get("stream"):
        if "until" in asked:
            print("stand-in: waits for a file", flush=True)
            while not Path(asked["until"]).exists():  # it takes no time
                await asyncio.sleep(0.05)
        return web.json_response({"model": request.app["model"]}, headers={"X-Path": request.path})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        for number in range(asked["stream"]):
            await response.write(f"data: {request.app['model']} {number}\n\n".encode())
            await asyncio.sleep(0.05)
    except (asyncio.CancelledError, ConnectionError):
        print("stand-in: a client has left", flush=True)
        raise
    return response


async def crash(_: web.Request) -> web.Response:
    """End as an engine does that the kernel kills."""
    os.kill(os.getpid(), signal.SIGKILL)
    return web.Response()


async def main() -> None:
    """Load, then serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--uds", required=True)
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--fails-while", type=Path)
    parser.add_argument("--stubborn", action="store_true")
    words = parser.parse_args()
    ended = asyncio.Event()
    if words.stubborn:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", SLEEP)
        print(f"stand-in: child {child.pid}", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"stand-in: loading, pid {os.getpid()}", flush=True)
    await asyncio.sleep(words.load_s)
    if words.fails_while is not None and words.fails_while.exists():
        sys.exit(7)
    app = web.Application(client_max_size=0)
    app["model"] = words.model
    app.router.add_get("/health", lambda _: asyncio.sleep(0, web.Response()))
    app.router.add_get("/metrics", lambda _: asyncio.sleep(0, web.Response(text="vllm:stand_in 1\n")))
    app.router.add_post("/v1/crash", crash)
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, words.uds).start()
    if not words.stubborn:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print(f"stand-in: {words.model} answers, {os.environ.get('STAND_IN', '')}", flush=True)
    await ended.wait()
    await runner.cleanup()


asyncio.run(main())
