"""An engine that hangs is ended, with its stacks in the log, so that what already restarts it does.

A stand-in of two processes, then real vLLM on the processor. Nothing here waits for a time: an engine is stopped, and
the test waits for the end of the program that watches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.integration.project import free_port

HEARTBEAT = Path(__file__).parents[3] / "compose" / "engine" / "heartbeat" / "heartbeat.py"
ENGINE = Path(__file__).with_name("stand_in_engine.py")
KEY = "key-of-the-engine"
LONGEST_S = 120
HUNG, KILLED = 70, 137


class Watched(Struct, frozen=True, kw_only=True):
    """An engine that runs below the program that watches it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    notes: Path

    def said(self, pattern: str) -> re.Match[str] | None:
        """Search the log."""
        return re.search(pattern, self.log.read_text(errors="replace"))

    def await_words(self, pattern: str) -> re.Match[str]:
        """Return once the log has a text; fail if the program ends before."""
        deadline = time.monotonic() + LONGEST_S
        while (found := self.said(pattern)) is None:
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.05)
        return found

    def ask(self, path: str, **fields: object) -> int:
        """Ask the engine; return the status of its answer, 0 where it ended before."""
        body = json.dumps(fields).encode() if fields else None
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=LONGEST_S) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code
        except OSError:
            return 0

    def ends(self) -> int:
        """Return the exit status once it has ended; nobody of it is left then."""
        status = self.process.wait(timeout=LONGEST_S)
        assert members(self.process.pid) == [], self.log.read_text(errors="replace")
        return status

    def hangs(self) -> list[dict[str, Any]]:
        """Return what is noted."""
        told: list[dict[str, Any]] = json.loads(self.notes.read_text())["hung"]
        return told


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, _, of_group = entry.read_text(errors="replace").rpartition(")")[2].split()[:3]
            found += [int(entry.parent.name)] if int(of_group) == group and state != "Z" else []
    return found


@contextlib.contextmanager
def watched(folder: Path, command: list[str], grace_s: str, port: int, *words: str) -> Iterator[Watched]:
    """Run an engine below the program; what is left of it is gone after the block."""
    log, notes = folder / "engine.log", folder / "notes.json"
    variables = {"ENGINE_HEARTBEAT": grace_s, "ENGINE_HEARTBEAT_FILE": str(notes), "VLLM_API_KEY": KEY}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [command[0], "-B", str(HEARTBEAT), *words, *command],
            stdout=output,
            stderr=output,
            env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        yield Watched(process=process, port=port, log=log, notes=notes)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(errors="replace")[-20000:])


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Give a maker of watched stand-ins."""
    with contextlib.ExitStack() as ended:

        def make(*words: str, grace_s: str = "1", options: tuple[str, ...] = ()) -> Watched:
            port = free_port()
            command = [sys.executable, str(ENGINE), f"--port={port}", *words]
            return ended.enter_context(watched(tmp_path, command, grace_s, port, *options))

        yield make


def pids(engine: Watched) -> tuple[int, int]:
    """Return the server and the core of a stand-in."""
    found = engine.await_words(r"stand-in: server (\d+), core (\d+)")
    return int(found[1]), int(found[2])


def test_a_core_that_stops_while_idle_is_found_by_a_token(stand_in: Callable[..., Watched]) -> None:
    engine = stand_in()
    _, core = pids(engine)
    engine.await_words("stand-in: asked for a token")
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG
    (hang,) = engine.hangs()
    assert re.search(rf"1 request open, no token for \d+ s.*; .* {core} stopped by a signal", hang["why"])
    assert engine.said(r"heartbeat: hung: 1 request open")
    assert engine.said(r"Fatal Python error: Aborted[\s\S]*in make_tokens"), "no stack of the core"
    assert engine.said("heartbeat: ended; hang 1 within an hour, 3 are followed by a restart")


def test_a_server_that_stops_is_found(stand_in: Callable[..., Watched]) -> None:
    engine = stand_in()
    server, _ = pids(engine)
    engine.await_words("stand-in: asked for a token")
    os.kill(server, signal.SIGSTOP)
    assert engine.ends() == HUNG
    assert re.search(rf"its server has not answered for \d+ s; .* {server} stopped", engine.hangs()[0]["why"])


def test_nothing_is_asked_where_that_could_load_a_model(stand_in: Callable[..., Watched], tmp_path: Path) -> None:
    engine = stand_in(options=("--ask-nothing",))
    _, core = pids(engine)
    asked = in_background(engine, until=str(tmp_path / "never"))
    engine.await_words("stand-in: asked for a token")
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG
    asked.join()
    assert len(re.findall("asked for a token", engine.log.read_text())) == 1


def test_a_long_prompt_in_steps_is_no_hang(stand_in: Callable[..., Watched], tmp_path: Path) -> None:
    engine = stand_in()
    pids(engine)
    asked = in_background(engine, until=str(tmp_path / "enough"))
    engine.await_words("stand-in: asked for a token")
    for _ in range(2):  # the watch looks on while graces pass, which only the answers of another engine measure
        other = stand_in_of_one_grace()
        assert other == HUNG
    assert engine.process.poll() is None
    (tmp_path / "enough").touch()
    asked.join()
    assert not engine.notes.exists()


def stand_in_of_one_grace() -> int:
    """Let another engine hang, with a core that stops at once: its end comes a grace later."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [sys.executable, str(ENGINE), f"--port={port}"]
        with watched(Path(folder), command, "1", port) as engine:
            _, core = pids(engine)
            engine.await_words("stand-in: asked for a token")
            os.kill(core, signal.SIGSTOP)
            return engine.ends()


def test_a_start_is_not_judged(stand_in: Callable[..., Watched], tmp_path: Path) -> None:
    engine = stand_in(f"--starts-at={tmp_path / 'loaded'}")
    pids(engine)
    assert stand_in_of_one_grace() == HUNG
    assert engine.process.poll() is None
    (tmp_path / "loaded").touch()
    engine.await_words("stand-in: asked for a token")


def test_this_program_stopped_for_a_while_is_no_hang(stand_in: Callable[..., Watched]) -> None:
    engine = stand_in()
    _, core = pids(engine)
    engine.await_words("stand-in: asked for a token")
    os.killpg(engine.process.pid, signal.SIGSTOP)
    assert stand_in_of_one_grace() == HUNG
    os.killpg(engine.process.pid, signal.SIGCONT)
    assert engine.ask("/v1/completions", prompt="x") == 200
    assert not engine.notes.exists()
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG


def test_the_fourth_hang_within_an_hour_stays_down(stand_in: Callable[..., Watched], tmp_path: Path) -> None:
    now = time.time()
    past = [{"at": now - ago, "silent_s": 1, "why": "before"} for ago in (4000, 3000, 2000, 1000)]
    (tmp_path / "notes.json").write_text(json.dumps({"schema": 1, "hung": past}))
    engine = stand_in()
    os.kill(pids(engine)[1], signal.SIGSTOP)
    assert engine.ends() == 0
    assert engine.said("heartbeat: stays down: 4 hangs within an hour; `stackwright doctor` names them")
    assert [hang["why"] == "before" for hang in engine.hangs()] == [True, True, True, False]


def test_an_engine_that_ends_by_itself_has_failed(stand_in: Callable[..., Watched]) -> None:
    engine = stand_in()
    server, _ = pids(engine)
    engine.await_words("stand-in: asked for a token")
    assert engine.ask("/v1/die", now=True) == 0
    assert engine.ends() == 1
    other = stand_in()
    deadline = time.monotonic() + LONGEST_S
    while len(re.findall("stand-in: server", other.log.read_text())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(other.process.pid, 0)
    os.kill(int(re.findall(r"stand-in: server (\d+)", other.log.read_text())[-1]), signal.SIGKILL)
    assert other.ends() == KILLED
    assert server


def test_an_engine_that_is_stopped_has_not_failed(stand_in: Callable[..., Watched]) -> None:
    engine = stand_in()
    pids(engine)
    engine.await_words("stand-in: asked for a token")
    engine.process.send_signal(signal.SIGTERM)
    assert engine.ends() == 128 + signal.SIGTERM


def in_background(engine: Watched, **fields: object) -> threading.Thread:
    """Ask for a token beside the test."""
    asked = threading.Thread(target=lambda: ask_patiently(engine, fields), daemon=True)
    asked.start()
    return asked


def ask_patiently(engine: Watched, fields: dict[str, object]) -> None:
    """Ask once the server listens."""
    deadline = time.monotonic() + LONGEST_S
    while engine.ask("/health") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    engine.ask("/v1/completions", **fields)
