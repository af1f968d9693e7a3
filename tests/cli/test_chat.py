"""`stackwright chat` on a real terminal and through a pipe, against a gateway on loopback."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import CPU, Run
from tests.watching.gateway import KEY, Gateway, events

pytestmark = pytest.mark.subprocess
PACKAGES = Path(__file__).parents[2] / "generator"
WAIT_S = 60.0


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, project: Path, *words: str) -> None:
        self._end, other = pty.openpty()
        command = [sys.executable, "-m", "stackwright", "chat", "dev", f"--out={project}", *words]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
        )
        os.close(other)
        self.shown = ""

    def type(self, text: str) -> None:
        """Type, or paste, a text."""
        os.write(self._end, text.encode())

    def await_text(self, text: str) -> None:
        """Wait until a text has been shown since the last one that was waited for."""
        while text not in self.shown:
            ready, _, _ = select.select([self._end], [], [], WAIT_S)
            assert ready, f"no {text!r} in {self.shown!r}"
            self.shown += os.read(self._end, 4096).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until it shows: one that comes before readline waits is kept until the next key (CPython)."""
        while text not in self.shown:
            os.kill(self.process.pid, signal.SIGINT)
            if select.select([self._end], [], [], 5)[0]:
                self.await_text(text)
                return

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Give a gateway that answers all that a client would ask."""
    with Gateway().serving() as server:
        yield server


@pytest.fixture
def configured(run: Run, project: Path, gateway: Gateway) -> Path:
    """Give a project whose gateway is the stand-in."""
    assert run(*CPU, f"--set=GATEWAY_PORT={gateway.server_address[1]}", host="cpu-small").code == 0
    (project / "envs/.secrets/dev/litellm_master_key").write_text(KEY, encoding="ascii")
    return project


@pytest.fixture
def terminal(configured: Path) -> Iterator[Terminal]:
    """Give a chat on a terminal."""
    chat = Terminal(configured)
    yield chat
    chat.close()


def test_a_conversation_goes_on_until_it_is_ended(terminal: Terminal, gateway: Gateway) -> None:
    terminal.await_text("Ctrl-D ends")
    terminal.await_text("> ")
    terminal.type("Hello\n")
    terminal.await_text("Hello.")
    terminal.await_text("> ")
    gateway.replies["stream"] = [(200, events({"choices": [{"delta": {"content": "again\x1b[2J"}}]}))]
    terminal.type("one\ntwo\n")
    terminal.await_text("again\\x1b[2J")
    terminal.await_text("> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=WAIT_S) == 0
    # What is pasted at once is one question.
    assert gateway.kinds == ["stream", "stream"]


def test_a_failure_is_told_and_the_chat_goes_on(terminal: Terminal, gateway: Gateway) -> None:
    error = {"error": {"message": "no replica of `smoke` answers"}}
    gateway.replies["stream"].insert(0, (503, json.dumps(error)))
    terminal.await_text("> ")
    terminal.type("Hello\n")
    terminal.await_text("error: the gateway answered 503: no replica of `smoke` answers")
    terminal.await_text("> ")
    terminal.type("Hello\n")
    terminal.await_text("Hello.")


def test_ctrl_c_at_the_prompt_drops_a_line(terminal: Terminal) -> None:
    terminal.await_text("> ")
    terminal.interrupt("(Ctrl-D ends)")
    terminal.await_text("> ")
    terminal.type("Hello\n")
    terminal.await_text("Hello.")


def test_a_pipe_is_one_question(configured: Path, gateway: Gateway) -> None:
    command = [sys.executable, "-m", "stackwright", "chat", "dev", f"--out={configured}", "--system=Be short."]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(command, env=environment, input="hi\nthere\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello.\n", "")
    assert gateway.kinds == ["stream"]


def test_a_refusal_through_a_pipe_has_an_exit_code(configured: Path, gateway: Gateway) -> None:
    gateway.replies["stream"] = [(400, '{"error": {"message": "too long"}}')]
    command = [sys.executable, "-m", "stackwright", "chat", "dev", f"--out={configured}"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(command, env=environment, input="hi", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: the gateway refuses (400): too long"
