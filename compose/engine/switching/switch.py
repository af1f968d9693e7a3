"""Several models on one seat, one loaded at a time: a proxy that starts, stops and switches vLLM's own server.

    python switch.py SPEC [--host 0.0.0.0] [--port 8000]

SPEC is JSON, or the path of a JSON file; numbers may be strings:

    {"schema": 1, "minimum_residence_s": 30, "drain_s": 300, "preload": "a", "pinned": ["a"],
     "models": [{"name": "a", "arguments": ["--model=…"], "environment": {}, "start_limit_s": 900}]}

`environment` is laid over this program's own. `command` may name a program in the place of vLLM's server. Runs where
that would run, and needs nothing but aiohttp, which vLLM itself requires (0.32.0, `Requires-Dist: aiohttp`). Its own
lines in the log begin with `switch: `. Why it is there: docs/decisions/0033-switching.md.
"""

import argparse
import asyncio
import hmac
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout, UnixConnector, web
from child import Child, become_subreaper, is_healthy
from group import EngineError, Group, RefusedError, Rules

COMMAND = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]

SCHEMA = 1

ENDING_S = 10
"""How long an engine that no longer listens may take to end; a request waits for that, and for the next load."""

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}
"""Headers of one connection alone (RFC 9110, 7.6.1), and those that aiohttp writes itself."""

FORM_FIELD = re.compile(rb'\bname="?model"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)\r\n')


def say(text: str) -> None:
    """Tell the log one line."""
    print(f"switch: {text}", flush=True)


class Proxy:
    """Answers for the engines of a group; `key` is what clients must present."""

    def __init__(self, group: Group, key: str) -> None:
        self._group, self._key = group, key

    def application(self) -> web.Application:
        """Return the application; bodies may have any size, as with vLLM itself."""
        app = web.Application(client_max_size=0)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/loaded", self.loaded)
        app.router.add_get("/load", self.load)
        app.router.add_post("/{path:.*}", self.serve)
        return app

    async def health(self, _: web.Request) -> web.Response:
        """Answer 200 where requests can be served; while a model is being switched, they can: they wait."""
        socket = self._group.socket
        healthy = self._group.healthy and (socket is None or await is_healthy(socket) or socket != self._group.socket)
        return web.Response(status=200 if healthy else 503)

    async def models(self, request: web.Request) -> web.Response:
        """List every model of the group, loaded or not."""
        self._check_key(request)
        listed = [{"id": name, "object": "model", "owned_by": "vllm"} for name in self._group.rules.models]
        return web.json_response({"object": "list", "data": listed})

    async def loaded(self, _: web.Request) -> web.Response:
        """Tell which model is loaded, null during a switch, and how many requests wait."""
        waiting = sum(map(self._group.waiting, self._group.tallies))
        return web.json_response({"loaded": self._group.loaded, "waiting": waiting})

    async def load(self, _: web.Request) -> web.Response:
        """Count the requests that the loaded engine works on, as vLLM counts its own; those that wait are not hung."""
        return web.json_response({"server_load": self._group.at_work})

    async def metrics(self, _: web.Request) -> web.Response:
        """Give the loaded engine's figures and this program's own."""
        text, socket = "", self._group.socket
        if socket is not None:
            try:
                async with _session(socket) as session, session.get("http://engine/metrics") as answer:
                    text = await answer.text()
            except (ClientError, OSError):
                text = ""
        return web.Response(text=text + "\n".join(self._figures()) + "\n")

    def _figures(self) -> Iterator[str]:
        group = self._group
        rows = {
            "loads_total": ("counter", lambda name: group.tallies[name].loads),
            "load_seconds_total": ("counter", lambda name: group.tallies[name].load_s),
            "load_failures_total": ("counter", lambda name: group.tallies[name].failures),
            "loaded": ("gauge", lambda name: int(group.loaded == name)),
            "requests_waiting": ("gauge", group.waiting),
        }
        for row, (kind, value) in rows.items():
            yield f"# TYPE stackwright_model_{row} {kind}"
            yield from (f"stackwright_model_{row}{{model={json.dumps(name)}}} {value(name)}" for name in group.tallies)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Pass a request to the engine of the model that it names, once that is loaded."""
        self._check_key(request)
        body = await request.read()
        model = asked_model(request.content_type, body)
        if model is None:
            raise _refusal(web.HTTPBadRequest, "the request names no `model`", "BadRequestError")
        if model not in self._group.tallies:
            raise _refusal(web.HTTPNotFound, f"The model `{model}` does not exist.", "NotFoundError")
        until = time.monotonic() + ENDING_S
        while True:
            try:
                async with self._group.place(model) as socket:
                    return await _pass_on(request, body, socket)
            except RefusedError as error:
                raise _unavailable(str(error), error.retry_s) from error
            except ClientConnectorError as error:
                if time.monotonic() > until:
                    raise _unavailable("the engine does not answer", 1) from error
            await asyncio.sleep(0.1)

    def _check_key(self, request: web.Request) -> None:
        """Refuse who has no key before a model is switched for them."""
        given = request.headers.get("Authorization", "")
        if self._key and not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {self._key}".encode()):
            raise _refusal(web.HTTPUnauthorized, "wrong or missing key", "Unauthorized")


def asked_model(content_type: str, body: bytes) -> str | None:
    """Return the model that a body names, as JSON, as a form, or as a form of several parts; None where it names
    none.
    """
    if content_type == "multipart/form-data":
        field = FORM_FIELD.search(body)
        return field[1].decode(errors="replace") if field else None
    if content_type == "application/x-www-form-urlencoded":
        return parse_qs(body.decode(errors="replace")).get("model", [None])[0]
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, str) else None


async def _pass_on(request: web.Request, body: bytes, socket: Path) -> web.StreamResponse:
    """Send a request to the engine and its answer back, piece by piece; a client that goes cancels both.

    Raises:
        ClientConnectorError: nobody listens any more; nothing was sent.
    """
    url, headers = f"http://engine{request.raw_path}", _end_to_end(request.headers)
    response = None
    try:
        async with (
            _session(socket) as session,
            session.request(request.method, url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response
    except ClientConnectorError:
        raise
    except (ClientError, OSError) as error:
        if response is None:
            raise _unavailable("the engine ended before it answered", 1) from error
        if request.transport is not None:
            request.transport.abort()  # the status is sent; nobody shall take a part for the whole
        return response


def _session(socket: Path) -> ClientSession:
    """Open a session for one request: an engine closes idle connections at any moment, and a POST is not sent twice."""
    return ClientSession(
        connector=UnixConnector(str(socket), force_close=True),
        timeout=ClientTimeout(total=None),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


def _end_to_end(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP]


def _refusal(
    kind: type[web.HTTPException], message: str, name: str, headers: Mapping[str, str] | None = None
) -> web.HTTPException:
    """Return an error in OpenAI's form, as vLLM words its own."""
    error = {"message": message, "type": name, "param": None, "code": kind.status_code}
    return kind(text=json.dumps({"error": error}), content_type="application/json", headers=headers)


def _unavailable(message: str, retry_s: float) -> web.HTTPException:
    headers = {"Retry-After": str(math.ceil(retry_s))}
    return _refusal(web.HTTPServiceUnavailable, message, "ServiceUnavailableError", headers)


def read_group(text: str, folder: Path) -> Group:
    """Make the group that a specification describes; its engines' sockets lie in `folder`.

    Raises:
        KeyError, TypeError, ValueError: it lacks something or has it in another form.
    """
    spec = json.loads(text)
    if spec["schema"] != SCHEMA:
        raise ValueError(f"schema {spec['schema']}, where {SCHEMA} is read")
    models, pinned, preload = {model["name"]: model for model in spec["models"]}, spec["pinned"], spec["preload"]
    if len(pinned) > 1 or {*pinned, preload} - {None, *models}:
        raise ValueError(f"`preload` and `pinned` may name one of {', '.join(models)}")

    # The model to preload may have to be downloaded for hours: who started this program watches what moves.
    first_limits = {preload: math.inf}

    def make(name: str) -> Child:
        model = models[name]
        command = [*spec.get("command", COMMAND), *model["arguments"]]
        environment = {**os.environ, **model.get("environment", {})}
        limit_s = first_limits.pop(name, float(model["start_limit_s"]))
        return Child(command, environment, folder / "engine.sock", limit_s)

    rules = Rules(
        models=tuple(models),
        minimum_residence_s=float(spec["minimum_residence_s"]),
        drain_s=float(spec["drain_s"]),
        preload=preload,
        pinned=pinned[0] if pinned else None,
    )
    return Group(rules=rules, make=make, say=say)


async def run(group: Group, host: str, port: int) -> int:
    """Serve until a signal comes or the model to preload fails; return the exit status."""
    proxy = Proxy(group, os.environ.get("VLLM_API_KEY", ""))
    runner = web.AppRunner(proxy.application(), handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        say(f"cannot listen on {host}:{port}: {error.strerror}")
        await runner.cleanup()
        return 1
    try:
        driving = asyncio.create_task(group.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            # Once: a second one would cut the engine's own end short.
            asyncio.get_running_loop().add_signal_handler(number, lambda: driving.cancelling() or driving.cancel())
        await driving
    except asyncio.CancelledError:
        return 0
    except EngineError as error:
        say(f"{group.rules.preload} failed: {error}")
        return error.status
    finally:
        await runner.cleanup()


def main() -> int:
    """Read the specification and run; return the exit status."""
    parser = argparse.ArgumentParser(description="serve several models in turn on the same GPUs")
    parser.add_argument("spec", help="JSON, or the path of a JSON file")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="switch-") as folder:
        try:
            text = words.spec if words.spec.startswith("{") else Path(words.spec).read_text(encoding="utf-8")
            group = read_group(text, Path(folder))
        except (OSError, KeyError, TypeError, ValueError) as error:
            say(f"the specification cannot be used: {error!r}")
            return 2
        become_subreaper()
        return asyncio.run(run(group, words.host, words.port))


if __name__ == "__main__":
    sys.exit(main())
