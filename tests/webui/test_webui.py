"""What stands before Open WebUI: one sign-up at a time, its own pages alone, the gateway's key wherever it stood."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from webui import (
    SELF_TEST,
    SIGN_UP,
    Door,
    Message,
    Receive,
    Scope,
    Send,
    gateway_settings,
    is_own_page,
    read_access,
    variables,
)

START = Path(__file__).resolve().parents[2] / "compose" / "webui" / "start.sh"
KEY = "sk-of-the-front-end"
URL = "http://gateway:4000/v1"
FIRST = {
    "openai.api_base_urls": [URL],
    "openai.api_keys": [KEY],
    "openai.api_configs": {},
    "rag.openai_api_key": KEY,
    "ui.enable_signup": False,
}


class Program:
    """Stands in for Open WebUI: counts who is inside at the same time."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.log: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 200 after a few turns of the others; say that the start is complete."""
        if scope["type"] == "lifespan":
            self.log.append((await receive())["type"])
            await send({"type": "lifespan.startup.complete"})
            return
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(5):
            await asyncio.sleep(0)
        self.inside -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def nothing() -> None:
    """Do nothing after the start."""


async def found() -> dict[str, Any]:
    """Find a page and every model."""
    return {"page": True, "missing": []}


def door_of(program: Program, tested: Callable[[], Awaitable[dict[str, Any]]] = found) -> Door:
    """Return the door of a stand-in."""
    return Door(program, KEY, nothing, tested)


async def ask(door: Door, path: str, headers: Mapping[str, str] | None = None, kind: str = "http") -> list[Message]:
    """Send one request through the door, and return what comes back."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await door({"type": kind, "path": path, "headers": pairs}, receive, send)
    return sent


def answer(door: Door, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Return the status and the document of one answer."""
    begun, body = asyncio.run(ask(door, path, headers))
    return begun["status"], json.loads(body["body"])


@pytest.mark.parametrize(("path", "most"), [(SIGN_UP, 1), ("/api/chat/completions", 3)])
def test_sign_ups_come_in_one_at_a_time_and_nothing_else_waits(path: str, most: int) -> None:
    program = Program()

    async def crowd() -> None:
        door = door_of(program)
        await asyncio.gather(*(ask(door, path) for _ in range(3)))

    asyncio.run(crowd())
    assert program.most == most


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        ({"host": "127.0.0.1:3000"}, True),
        ({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:3000"}, True),
        ({"host": "chat.example.org", "origin": "https://chat.example.org"}, True),
        ({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:8888"}, False),
        ({"host": "127.0.0.1:3000", "origin": "http://localhost:3000"}, False),
        ({"host": "127.0.0.1:3000", "origin": "null"}, False),
        ({"origin": "http://127.0.0.1:3000"}, False),
    ],
)
def test_pages_of_other_origins_are_refused(headers: dict[str, str], own: bool) -> None:
    assert is_own_page({name.encode(): value for name, value in headers.items()}) is own
    status, _ = answer(door_of(Program()), "/api/v1/chats/", headers)
    assert status == (200 if own else 403)


def test_a_websocket_of_another_origin_is_closed() -> None:
    headers = {"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:8888"}
    (closed,) = asyncio.run(ask(door_of(Program()), "/ws/socket.io/", headers, "websocket"))
    assert closed["type"] == "websocket.close"


def test_the_start_is_complete_once_the_gateway_is_in_the_settings() -> None:
    program = Program()

    async def started() -> None:
        program.log.append("settings")

    async def run() -> list[str]:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            program.log.append(message["type"])

        await Door(program, KEY, started, found)({"type": "lifespan"}, receive, send)
        return program.log

    assert asyncio.run(run()) == ["lifespan.startup", "settings", "lifespan.startup.complete"]


def test_the_self_test_answers_its_own_key_alone() -> None:
    async def refused() -> dict[str, Any]:
        raise OSError("connection refused")

    door = door_of(Program())
    assert answer(door, SELF_TEST, {"authorization": f"Bearer {KEY}"}) == (200, {"page": True, "missing": []})
    for shown in ({}, {"authorization": "Bearer "}, {"authorization": f"Bearer {KEY}x"}, {"authorization": "é"}):
        assert answer(door, SELF_TEST, shown)[0] == 401
    failing = door_of(Program(), refused)
    assert answer(failing, SELF_TEST, {"authorization": f"Bearer {KEY}"}) == (
        502,
        {"detail": "OSError: connection refused"},
    )


def after(stored: dict[str, Any], url: str = URL, key: str = KEY, models: list[str] | None = None) -> dict[str, Any]:
    """Return the settings as they are after a start."""
    return {**stored, **gateway_settings(stored, url, key, ["smoke"] if models is None else models)}


def test_a_first_start_lists_the_chat_models() -> None:
    stored = after(FIRST)
    assert stored["openai.api_configs"] == {
        "0": {"enable": True, "connection_type": "local", "model_ids": ["smoke"]},
    }
    assert gateway_settings(stored, URL, KEY, ["smoke"]) == {}


def test_a_new_key_and_address_stand_wherever_the_old_ones_did() -> None:
    stored = after(after(FIRST), "https://127.0.0.1:4001/v1", "sk-fresh", ["large", "small"])
    assert stored["openai.api_base_urls"] == ["https://127.0.0.1:4001/v1"]
    assert stored["openai.api_keys"] == ["sk-fresh"]
    assert stored["rag.openai_api_key"] == "sk-fresh"
    assert stored["openai.api_configs"]["0"]["model_ids"] == ["large", "small"]


def test_what_a_person_set_stays() -> None:
    other = "https://api.example.org/v1"
    stored = after(FIRST) | {
        "openai.api_base_urls": [other, URL],
        "openai.api_keys": ["sk-theirs", KEY],
        "openai.api_configs": {"0": {"enable": False}, "1": {"model_ids": ["small"], "prefix_id": "here"}},
        "ui.enable_signup": True,
    }
    again = after(stored, key="sk-fresh", models=["large", "small"])
    assert again["openai.api_base_urls"] == [other, URL]
    assert again["openai.api_keys"] == ["sk-theirs", "sk-fresh"]
    assert again["openai.api_configs"] == stored["openai.api_configs"]
    assert again["ui.enable_signup"] is True


def test_a_connection_that_was_removed_stays_away() -> None:
    stored = after(FIRST) | {"openai.api_base_urls": [], "openai.api_keys": [], "openai.api_configs": {}}
    again = after(stored, key="sk-fresh")
    assert again["openai.api_base_urls"] == again["openai.api_keys"] == []
    assert again["openai.api_configs"] == {}


@pytest.mark.parametrize(("certificate", "scheme"), [("", "http"), ("-----BEGIN CERTIFICATE-----", "https")])
def test_the_gateway_is_asked_as_it_listens(tmp_path: Path, certificate: str, scheme: str) -> None:
    for name, text in {
        "webui_secret_key": "00ff\n",
        "webui_gateway_key": f"{KEY}\n",
        "tls_certificate": certificate,
    }.items():
        (tmp_path / name).write_text(text)
    access = read_access({"WEBUI_GATEWAY": "gateway:4000", "WEBUI_MODELS": '{"models": ["smoke"]}'}, tmp_path)
    assert (access.url, access.models) == (f"{scheme}://gateway:4000/v1", ["smoke"])
    assert access.certificate == (tmp_path / "tls_certificate" if certificate else None)
    assert variables(access, tmp_path) == {
        "OPENAI_API_KEY": KEY,
        "WEBUI_SECRET_KEY": "00ff",
        "OPENAI_API_BASE_URL": f"{scheme}://gateway:4000/v1",
    }
    assert KEY not in repr(access)


@pytest.mark.subprocess
def test_no_secret_stands_in_argv_or_in_what_the_program_is_started_with(tmp_path: Path) -> None:
    (tmp_path / "webui_gateway_key").write_text(KEY)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nenv\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", START, "--host", "127.0.0.1", "--port", "8080"],
        env={"PATH": "/usr/bin:/bin", "SECRETS_DIRECTORY": str(tmp_path), "PYTHON": str(python)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    argv, *lines = done.stdout.splitlines()
    assert argv == f"{START.parent}/webui.py --host 127.0.0.1 --port 8080"
    told = dict(line.partition("=")[::2] for line in lines)
    assert KEY not in done.stdout
    assert (told["FROM_INIT_PY"], told["PYTHONPATH"]) == ("true", f"{START.parents[1]}/gateway")
