"""Serve Open WebUI for one stack: what it lacks to stand in front of it safely, around the program as its maker has it.

Sign-ups are taken one at a time, pages of other origins are refused, and at every start the gateway's address and key
are put wherever the ones before stood. Standard library and Open WebUI's own packages; runs in its environment, as one
process (docs/how-to/webui.md).
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trust import certificate_in, trust_gateway

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

READY = "/ready"
FILES = ("/_app/", "/assets/", "/static/")
SIGN_UP = "/api/v1/auths/signup"
SELF_TEST = "/stackwright/self-test"
"""Answers whoever shows the key that Open WebUI asks the gateway by."""

REMEMBERED = "stackwright.gateway"
"""The row of Open WebUI's settings that says which address and key they had at the last start."""


class Door:
    """Open WebUI as clients reach it.

    `started` runs once Open WebUI has started, before any request. `tested` says what the self-test found.
    """

    def __init__(
        self,
        app: App,
        key: str,
        started: Callable[[], Awaitable[None]],
        tested: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._app, self._key, self._started, self._tested = app, key, started, tested
        self._signing_up = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._after_start(send))
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not is_own_page(headers):
            await _refuse(scope, send)
        elif scope["path"] == SELF_TEST:
            await self._test(headers, send)
        elif scope["path"] == SIGN_UP:
            # It asks whether somebody is there, adds the account, and makes it the administrator's if it is the only
            # one (0.12.4, routers/auths.py): of several at once, none would be, and nobody could sign up any more.
            async with self._signing_up:
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _after_start(self, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await self._started()
            await send(message)

        return told

    async def _test(self, headers: Mapping[bytes, str], send: Send) -> None:
        shown = headers.get(b"authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(shown.encode(), self._key.encode()):
            await _answer(send, 401, {"detail": "wrong or missing key"})
            return
        try:
            await _answer(send, 200, await self._tested())
        except (OSError, ValueError, LookupError) as failure:
            await _answer(send, 502, {"detail": f"{type(failure).__name__}: {failure}"[:500]})


def is_own_page(headers: Mapping[bytes, str]) -> bool:
    """Return whether a request comes from no page, or from one of this very address.

    Open WebUI answers pages of every origin, and a browser sends its cookie from any port of the same host.
    """
    origin = headers.get(b"origin")
    return origin is None or urlsplit(origin).netloc == headers.get(b"host")


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, 403, {"detail": "a page of another origin"})


async def _answer(send: Send, status: int, document: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


def gateway_settings(stored: Mapping[str, Any], url: str, key: str, models: list[str]) -> dict[str, Any]:
    """Return the settings of Open WebUI that have to change, so that it asks the gateway at `url` with `key`.

    Open WebUI takes its variables at the first start alone, and what it has stored after that. What a person set there
    stays: only the address, the key and the list of models of the last start give way.
    """
    last = stored.get(REMEMBERED) or {"url": url, "key": key, "models": []}
    fresh = {last["url"]: url, last["key"]: key}
    changed = {name: _renewed(value, fresh) for name, value in stored.items() if name != REMEMBERED}
    urls = changed.get("openai.api_base_urls") or []
    if url in urls:
        place = str(urls.index(url))
        connections = dict(changed.get("openai.api_configs") or {})
        connection = dict(connections.get(place) or {})
        if connection.get("model_ids", last["models"]) == last["models"]:
            connections[place] = {"enable": True, "connection_type": "local", **connection, "model_ids": models}
        changed["openai.api_configs"] = connections
    changed[REMEMBERED] = {"url": url, "key": key, "models": models}
    return {name: value for name, value in changed.items() if stored.get(name) != value}


def _renewed(value: Any, fresh: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return fresh.get(value, value)
    return [_renewed(item, fresh) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class GatewayAccess:
    """How the gateway is asked: its address, the front end's key, its certificate if it has one, and its models."""

    url: str
    key: str = field(repr=False)
    certificate: Path | None
    models: list[str]


def read_access(environment: Mapping[str, str], secrets: Path) -> GatewayAccess:
    """Return how this stack's gateway is asked."""
    certificate = certificate_in(secrets)
    return GatewayAccess(
        url=f"{'http' if certificate is None else 'https'}://{environment['WEBUI_GATEWAY']}/v1",
        key=(secrets / "webui_gateway_key").read_text(encoding="utf-8").strip(),
        certificate=certificate,
        models=json.loads(environment["WEBUI_MODELS"])["models"],
    )


def variables(access: GatewayAccess, secrets: Path) -> dict[str, str]:
    """Return the variables that Open WebUI takes its secrets and its gateway from."""
    own = (secrets / "webui_secret_key").read_text(encoding="utf-8").strip()
    return {"WEBUI_SECRET_KEY": own, "OPENAI_API_KEY": access.key, "OPENAI_API_BASE_URL": access.url}


def make_door(access: GatewayAccess, own: str) -> Door:
    """Return Open WebUI with its door; importing it takes seconds. `own` is the address that it serves."""
    import open_webui.env

    url, key, models = access.url, access.key, access.models
    if access.certificate is not None:
        open_webui.env.AIOHTTP_CLIENT_SESSION_SSL = trust_gateway(access.certificate, str(urlsplit(url).hostname))
    # What reads it takes it from there when it is imported.
    from open_webui.main import app
    from open_webui.models.config import Config

    async def started() -> None:
        await Config.upsert(gateway_settings(await Config.get_all(), url, key, models))

    async def tested() -> dict[str, Any]:
        import aiohttp

        trust = open_webui.env.AIOHTTP_CLIENT_SESSION_SSL
        async with aiohttp.ClientSession(raise_for_status=True, timeout=aiohttp.ClientTimeout(total=20)) as session:
            async with session.get(own) as page:
                title = "<title>Open WebUI" in await page.text()
            async with session.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}, ssl=trust) as answer:
                listed = {str(model["id"]) for model in (await answer.json())["data"]}
        return {"page": title, "missing": [name for name in models if name not in listed]}

    return Door(app, key, started, tested)


def _is_told(record: logging.LogRecord) -> bool:
    """Return whether a request is worth a line: the watch asks every few seconds, and a page for a hundred files."""
    words = record.args if isinstance(record.args, tuple) else ()
    return not any(str(word).startswith((READY, *FILES)) for word in words)


def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    import uvicorn

    secrets = Path(os.environ.get("SECRETS_DIRECTORY", "/run/secrets"))
    access = read_access(os.environ, secrets)
    os.environ.update(variables(access, secrets))
    door = make_door(access, f"http://127.0.0.1:{given.port}/")
    logging.getLogger("uvicorn.access").addFilter(_is_told)
    # A browser keeps its connection open, and a stop has less than the 20 s after which it is killed.
    uvicorn.run(door, host=given.host, port=given.port, timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main()
