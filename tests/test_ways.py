"""The ways that benchmarks/ways.py records: few commands, all of which exist, and what shows something shows it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from stackwright.cli import main, parse

from benchmarks.ways import LOOK, MOST, REFUSED, RESULTS, WAYS, count, head_of
from tests.test_docs import ROOT

CASES = [(name, part, commands) for name, way in WAYS.items() for part, commands in way.parts.items()]


def words_of(command: str) -> list[str]:
    """Return a command of the clone as the arguments of `main`."""
    script, *words = shlex.split(command.removeprefix(LOOK))
    return words if Path(script).name == "stackwright" else [Path(script).name, *words]


def comparable(shown: str) -> str:
    """Return what a command shows without what depends on who asks, and where."""
    return re.sub(r"^  (HF_HOME|VLLM_CACHE_ROOT|STACKWRIGHT_[UG]ID)=.*\n", "", shown, flags=re.MULTILINE)


@pytest.mark.parametrize(("name", "part", "commands"), CASES)
def test_few_commands_lead_to_an_answer(name: str, part: str, commands: tuple[str, ...]) -> None:
    assert 1 <= count(commands) - REFUSED.get(name, 0) <= MOST[part]


@pytest.mark.parametrize("commands", [commands for _, _, commands in CASES])
def test_every_command_is_one(commands: tuple[str, ...]) -> None:
    for command in commands:
        if command.startswith(("./scripts/", LOOK)):
            parse(words_of(command))


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if LOOK in " ".join(sum(way.parts.values(), ()))])
def test_what_shows_something_shows_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the recording has it, where there is one."""
    monkeypatch.chdir(ROOT)
    for variable, value in {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1", "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    recording = RESULTS / f"{name}.txt"
    for command in (each for part in WAYS[name].parts.values() for each in part if each.startswith(LOOK)):
        assert main(words_of(command)) in (0, 4)
        printed = capsys.readouterr().out
        assert printed.strip()
        if recording.exists():
            block = recording.read_text("utf-8").partition(f"{LOOK}$ {command.removeprefix(LOOK)}\n")[2]
            assert comparable(printed).rstrip() in comparable(re.sub(r" --out \S+", "", block))


def test_a_recording_is_of_the_way_as_it_is_now() -> None:
    for recording in RESULTS.glob("*.txt"):
        assert recording.read_text("utf-8").startswith("\n".join(head_of(recording.stem)))
