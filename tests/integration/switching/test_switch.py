"""The switching program as it runs in the engine's place, with a stand-in engine that loads in no time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE as GATEWAY_RECIPE

from tests.integration.gateway.exchange import Answer, Ask, chat, connection, exchange, read_until
from tests.integration.project import free_port

SWITCH = Path(__file__).parents[3] / "compose" / "engine" / "switching" / "switch.py"
ENGINE = Path(__file__).with_name("stand_in_engine.py")
KEY = "key-of-the-engines"
LONGEST_S = 180


class Switch(Struct, frozen=True, kw_only=True):
    """A program that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, *asked: Ask) -> list[Answer]:
        """Ask all at once, in this order."""

        async def together() -> list[Answer]:
            return await asyncio.gather(*(exchange(self.port, ask) for ask in asked))

        return asyncio.run(together())

    def get(self, path: str, key: str | None = None) -> Answer:
        """Ask for a page."""
        return self.ask(Ask(path=path, method="GET", key=key))[0]

    def loaded(self) -> str | None:
        """Return the loaded model."""
        name: str | None = json.loads(self.get("/loaded").body)["loaded"]
        return name

    def said(self, words: str) -> bool:
        """Say whether the log has these words."""
        return words in self.log.read_text()


def wait_until(true: object, what: str) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + LONGEST_S
    assert callable(true)
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def python(state_folder: Path) -> Path:
    """Give a Python that has aiohttp: the gateway's, as the engine's takes longer to make."""
    return ensure(state_folder, GATEWAY_RECIPE, lambda *_: None) / "bin" / "python"


def spec(python: Path, models: Sequence[Sequence[str]], **changed: object) -> str:
    """Write the specification of models that are given as the stand-in's arguments."""
    listed = [
        {"name": words[0], "arguments": words, "environment": {"STAND_IN": f"seat {number}"}, "start_limit_s": "30"}
        for number, words in enumerate(models)
    ]
    whole = {
        "schema": 1,
        "minimum_residence_s": "0.2",
        "drain_s": "20",
        "preload": models[0][0],
        "pinned": [],
        "models": listed,
        "command": [str(python), str(ENGINE)],
    }
    return json.dumps({**whole, **changed})


@contextlib.contextmanager
def running(python: Path, folder: Path, text: str) -> Iterator[Switch]:
    """Run the program beside a block; its log goes to a file."""
    port, log = free_port(), folder / "switch.log"
    command = [str(python), "-B", str(SWITCH), text, "--host=127.0.0.1", f"--port={port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "VLLM_API_KEY": KEY, "PYTHONUNBUFFERED": "1"}
        )
    try:
        yield Switch(process=process, port=port, log=log)
    finally:
        process.terminate()
        process.wait(timeout=LONGEST_S)
        print(log.read_text())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file that keeps the model `broken` from loading."""
    file = tmp_path_factory.mktemp("broken") / "yes"
    file.touch()
    return file


@pytest.fixture(scope="module")
def switch(python: Path, broken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """Give a program with three models, one of which does not load."""
    models = [["alpha"], ["beta"], ["broken", "--fails-while", str(broken)]]
    with running(python, tmp_path_factory.mktemp("switch"), spec(python, models)) as switch:
        wait_until(lambda: switch.said("switch: alpha is loaded"), "not loaded")
        assert switch.get("/health").status == 200
        yield switch


def test_mixed_requests_are_all_answered_by_their_models(switch: Switch) -> None:
    names = [("alpha", "beta")[number % 2] for number in range(20)]
    answers = switch.ask(*(chat(KEY, model=name) for name in names))
    assert [answer.status for answer in answers] == [200] * len(names)
    assert [json.loads(answer.body)["model"] for answer in answers] == names
    assert switch.said("stand-in: beta answers, seat 1")


def test_what_is_refused_switches_nothing(switch: Switch) -> None:
    switch.ask(chat(KEY, model="alpha"))
    loads = switch.log.read_text().count("switch: loading")
    no_key, wrong, unknown, none, broken_json = switch.ask(
        chat(None, model="beta"),
        chat("sk-wrong", model="beta"),
        chat(KEY, model="gamma"),
        Ask(path="/v1/completions", content=b"{}", key=KEY),
        Ask(path="/v1/completions", content=b'{"model": "beta"', key=KEY),
    )
    assert [each.status for each in (no_key, wrong, unknown, none, broken_json)] == [401, 401, 404, 400, 400]
    assert unknown.message == "The model `gamma` does not exist."
    assert none.message == "the request names no `model`"
    assert switch.loaded() == "alpha"
    assert switch.log.read_text().count("switch: loading") == loads


def test_all_models_are_listed_for_who_has_the_key(switch: Switch) -> None:
    listed = json.loads(switch.get("/v1/models", KEY).body)["data"]
    assert [each["id"] for each in listed] == ["alpha", "beta", "broken"]
    assert switch.get("/v1/models").status == 401


def test_only_a_load_that_somebody_waits_for_is_given_up(python: Path, tmp_path: Path) -> None:
    """The first one may be a download of hours."""
    models = [["slow", "--load-s=2"], ["late", "--load-s=2"]]
    text = json.loads(spec(python, models))
    for model in text["models"]:
        model["start_limit_s"] = "0.5"
    with running(python, tmp_path, json.dumps(text)) as switch:
        wait_until(lambda: switch.said("switch: slow is loaded"), "not loaded")
        (answer,) = switch.ask(chat(KEY, model="late"))
        assert (answer.status, switch.said("late failed: its engine was not ready after 0.5 s")) == (503, True)


def test_forms_name_their_model_too(switch: Switch) -> None:
    multipart = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nbeta\r\n--x\r\nContent-Disposition: form-data; '
    )
    multipart += b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n\x00\xff\r\n--x--\r\n'
    for kind, content in (
        ("multipart/form-data; boundary=x", multipart),
        ("application/x-www-form-urlencoded", b"model=beta"),
    ):
        ask = Typed(path="/v1/audio/transcriptions", content=content, key=KEY, kind=kind)
        [answer] = switch.ask(ask)
        assert json.loads(answer.body) == {"model": "beta"}
        assert answer.headers["x-path"] == "/v1/audio/transcriptions"


class Typed(Ask, frozen=True, kw_only=True):
    """A request whose body is no JSON."""

    kind: str

    def head(self) -> bytes:
        """Return the request line and the headers."""
        return super().head().replace(b"application/json", self.kind.encode())


def test_a_stream_comes_in_pieces_and_ends_with_its_client(switch: Switch) -> None:
    async def leave() -> None:
        ask = chat(KEY, model="alpha", stream=1200)
        async with connection(switch.port) as (reader, writer):
            writer.write(ask.head() + ask.content)
            await read_until(reader, b"data: alpha 2\n\n")

    asyncio.run(leave())
    wait_until(lambda: switch.said("stand-in: a client has left"), "the engine does not know that its client is gone")


def test_who_leaves_while_waiting_leaves_the_queue(switch: Switch, tmp_path: Path) -> None:
    async def leave() -> Answer:
        slow = asyncio.create_task(exchange(switch.port, chat(KEY, model="alpha", until=str(tmp_path / "go"))))
        while not switch.said("stand-in: waits for a file"):
            await asyncio.sleep(0.05)
        ask = chat(KEY, model="beta")
        async with connection(switch.port) as (_, writer):
            writer.write(ask.head() + ask.content)
            while not await waiting():
                await asyncio.sleep(0.05)
        while await waiting():
            await asyncio.sleep(0.05)
        (tmp_path / "go").touch()
        return await slow

    async def waiting() -> int:
        answer = await exchange(switch.port, Ask(path="/loaded", method="GET"))
        return int(json.loads(answer.body)["waiting"])

    switch.ask(chat(KEY, model="alpha"))
    assert asyncio.run(leave()).status == 200
    assert switch.loaded() == "alpha"


def test_a_model_that_does_not_load_is_told_and_the_others_go_on(switch: Switch) -> None:
    first, second = (switch.ask(chat(KEY, model="broken"))[0] for _ in range(2))
    assert (first.status, second.status) == (503, 503)
    assert first.message == "`broken` could not be loaded: its engine ended with status 7 while it started"
    assert int(first.headers["retry-after"]) == 1
    refused, served = switch.ask(chat(KEY, model="broken"), chat(KEY, model="beta"))
    assert (refused.status, served.status) == (503, 200)
    assert 200 < int(refused.headers["retry-after"]) <= 300
    assert switch.get("/health").status == 200


def test_an_engine_that_is_killed_cuts_what_it_had_begun_and_is_loaded_again(switch: Switch) -> None:
    async def kill() -> tuple[Answer, bytes]:
        ask = chat(KEY, model="alpha", stream=1200)
        async with connection(switch.port) as (reader, writer):
            writer.write(ask.head() + ask.content)
            await read_until(reader, b"data: alpha 2\n\n")
            answer = await exchange(switch.port, replace(chat(KEY, model="alpha"), path="/v1/crash"))
            with contextlib.suppress(ConnectionError):
                return answer, await reader.read()
            return answer, b""

    answer, rest = asyncio.run(kill())
    assert answer.status == 503
    assert answer.message == "the engine ended before it answered"
    assert not rest.endswith(b"0\r\n\r\n")
    assert switch.ask(chat(KEY, model="alpha"))[0].status == 200


def test_requests_that_the_loaded_engine_works_on_are_counted(switch: Switch, tmp_path: Path) -> None:
    """The heartbeat judges by them: those that wait for another model are not hung."""
    enough = tmp_path / "enough"
    switch.ask(chat(KEY, model="alpha"))

    async def look() -> tuple[int, int]:
        asked = [chat(KEY, model="alpha", until=str(enough)), chat(KEY, model="beta")]
        running = [asyncio.create_task(exchange(switch.port, ask)) for ask in asked]
        while json.loads((await exchange(switch.port, Ask(path="/loaded", method="GET"))).body)["waiting"] == 0:
            await asyncio.sleep(0.05)
        during = json.loads((await exchange(switch.port, Ask(path="/load", method="GET"))).body)["server_load"]
        enough.touch()
        await asyncio.gather(*running)
        return during, json.loads((await exchange(switch.port, Ask(path="/load", method="GET"))).body)["server_load"]

    assert asyncio.run(look()) == (1, 0)


def test_figures_are_the_engines_and_its_own(switch: Switch) -> None:
    switch.ask(chat(KEY, model="beta"))
    lines = switch.get("/metrics").body.splitlines()
    assert "vllm:stand_in 1" in lines
    assert 'stackwright_model_loaded{model="beta"} 1' in lines
    assert 'stackwright_model_loaded{model="alpha"} 0' in lines


def test_a_stop_ends_an_engine_that_does_not_want_to_and_what_it_started(python: Path, tmp_path: Path) -> None:
    with running(python, tmp_path, spec(python, [["alpha", "--stubborn"]])) as switch:
        wait_until(lambda: switch.said("stand-in: alpha answers"), "not loaded")
        child = int(switch.log.read_text().partition("stand-in: child ")[2].split()[0])
        switch.process.terminate()
        assert switch.process.wait(timeout=LONGEST_S) == 0
    assert not Path(f"/proc/{child}").exists()


def test_a_first_model_that_does_not_load_ends_the_program(python: Path, tmp_path: Path, broken: Path) -> None:
    with running(python, tmp_path, spec(python, [["alpha", "--fails-while", str(broken)]])) as switch:
        assert switch.process.wait(timeout=LONGEST_S) == 7
        assert switch.said("switch: alpha failed: its engine ended with status 7 while it started")


def test_a_stop_while_a_model_loads_leaves_nothing(python: Path, tmp_path: Path) -> None:
    with running(python, tmp_path, spec(python, [["alpha", "--load-s=60"]])) as switch:
        wait_until(lambda: switch.said("stand-in: loading, pid "), "not begun")
        engine = int(switch.log.read_text().partition("stand-in: loading, pid ")[2].split()[0])
        switch.process.terminate()
        assert switch.process.wait(timeout=LONGEST_S) == 0
    assert not Path(f"/proc/{engine}").exists()


def test_a_taken_port_is_told_in_one_line(python: Path, switch: Switch) -> None:
    command = [str(python), "-B", str(SWITCH), spec(python, [["alpha"]]), "--host=127.0.0.1", f"--port={switch.port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"switch: cannot listen on 127.0.0.1:{switch.port}: ")
    assert done.stderr == ""


def test_a_body_may_be_large(switch: Switch) -> None:
    [answer] = switch.ask(chat(KEY, model="alpha", content="x" * 5_000_000))
    assert answer.status == 200


@pytest.mark.parametrize("text", ['{"schema": 2}', "/nowhere.json"])
def test_a_wrong_specification_is_told_in_one_line(python: Path, tmp_path: Path, text: str) -> None:
    with running(python, tmp_path, text) as switch:
        assert switch.process.wait(timeout=LONGEST_S) == 2
        [line] = switch.log.read_text().splitlines()
        assert line.startswith("switch: the specification cannot be used: ")
