"""Asking the client, and what is made of Docker's own notes, against a stand-in for `docker` with recorded replies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from stackwright.runtime import ClientAnswer
from stackwright.runtime.docker import ask, read_events, read_inspect
from stackwright.runtime.process_groups import programs_with

pytestmark = pytest.mark.subprocess

# As Docker 20.10.24 prints them for a container that `docker kill` ended; attributes that an event lacks stay blank.
EVENTS = """1795265707 create engine exitCode= signal=
1795265708 start engine exitCode= signal=
1795265708 kill engine exitCode= signal=9
1795265708 die engine exitCode=137 signal=
"""


def stand_in(folder: Path, reply: str, code: int = 0) -> list[str]:
    """Make a program that writes down how it was called and prints a reply."""
    program = folder / "docker"
    (folder / "reply").write_text(reply, encoding="utf-8")
    program.write_text(f'#!/bin/sh\necho "$*" >{folder}/call\ncat {folder}/reply\nexit {code}\n', encoding="utf-8")
    program.chmod(0o755)
    return [str(program)]


def test_both_outputs_are_told_apart_or_in_order() -> None:
    command = ["sh", "-c", "echo one; echo two >&2; pwd; exit 3"]
    assert ask(command, folder="/") == ClientAnswer(3, "one\n/\n", "two\n")
    assert ask(command, folder="/", one_stream=True) == ClientAnswer(3, "one\ntwo\n/\n", "")


def test_a_client_that_does_not_answer_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """The plugin that it calls, for example; what it has said by then may be half of an answer."""
    word = str(tmp_path)
    command = ["sh", "-c", """echo half; sh -c 'sleep 600; true' "$0" & wait""", word]
    assert ask(command, 0.5) == ClientAnswer(None, "", "no answer in 0.5 seconds")
    assert programs_with(word) == []


def test_a_client_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    assert ask([str(tmp_path / "none")]) == ClientAnswer(
        127, "", f"cannot run {tmp_path}/none: No such file or directory"
    )


def test_events_are_a_line_each(tmp_path: Path) -> None:
    said = read_events(stand_in(tmp_path, EVENTS), "stackwright-dev")
    assert said.splitlines() == [
        "1795265707 create engine",
        "1795265708 start engine",
        "1795265708 kill engine signal=9",
        "1795265708 die engine exitCode=137",
    ]
    call = (tmp_path / "call").read_text(encoding="utf-8")
    assert "label=com.docker.compose.project=stackwright-dev" in call
    assert re.search(r"--until [0-9]{10}\.[0-9]{9} ", call), "up to this moment, and not waiting for what is to come"


def test_what_was_inspected_is_text(tmp_path: Path) -> None:
    said = read_inspect(stand_in(tmp_path, '[{"Id":"0123"}]'), ["0123"])
    assert json.loads(said) == [{"Id": "0123"}]
    assert (tmp_path / "call").read_text(encoding="utf-8") == "inspect 0123\n"


def test_a_container_that_is_gone_leaves_what_is_known_of_the_others(tmp_path: Path) -> None:
    assert read_inspect(stand_in(tmp_path, "[] Error", code=1), ["0123"]) == "[] Error"


def test_nothing_is_asked_for_nothing(tmp_path: Path) -> None:
    assert read_inspect([str(tmp_path / "none")], []) == ""


def test_a_client_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert read_events([str(tmp_path / "none")], "stackwright-dev") == ""
