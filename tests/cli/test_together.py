"""`configure-gpu` and what comes between: another one, or Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.cli.commands import Run
from tests.planning_requests import HOSTS

PROD = ("configure-gpu", "--env=prod")


@contextmanager
def as_begins(name: str, happens: Callable[[], object]) -> Iterator[None]:
    """Have something happen once, as a function of this name begins."""
    due = True

    def heed(frame: FrameType, event: str, argument: Any) -> None:  # noqa: ARG001  # what Python calls it with
        nonlocal due
        if due and event == "call" and frame.f_code.co_name == name:
            due = False
            happens()

    sys.setprofile(heed)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not due, f"{name} has not begun"


@pytest.mark.subprocess
def test_none_of_two_at_once_loses_what_the_other_chose(run: Run, project: Path) -> None:
    """The second comes when the first has read what was chosen before."""
    host, codes = f"--host={HOSTS / 'cpu-small' / 'host.yaml'}", []
    second = [sys.executable, "-m", "stackwright", *PROD, "--set=GATEWAY_PORT=4333", host, f"--out={project}"]
    with as_begins("render_plan", lambda: codes.append(subprocess.run(second, check=False).returncode)):
        assert run(*PROD, "--set=VLLM_MAX_MODEL_LEN=1024", host="cpu-small").code == 0
    port = dotenv_values(project / "envs/.env.prod")["GATEWAY_PORT"]
    assert (codes, port) in (([0], "4333"), ([6], "4002"))


@pytest.mark.parametrize(
    ("moment", "written"), [("render_plan", False), ("switch", False), ("prepare_stack", True), ("show_changes", True)]
)
def test_an_interruption_that_comes_too_late_is_said_to(moment: str, written: bool, run: Run, project: Path) -> None:
    assert run(*PROD, host="cpu-small").code == 0
    with as_begins(moment, lambda: signal.raise_signal(signal.SIGINT)):
        ran = run(*PROD, "--set=GATEWAY_PORT=4333", host="cpu-small")
    assert (ran.code, ran.err.splitlines()[-1]) == (130, "interrupted")
    assert dotenv_values(project / "envs/.env.prod")["GATEWAY_PORT"] == ("4333" if written else "4002")
    assert ("already written: envs/.env.prod, " in ran.err) is written
