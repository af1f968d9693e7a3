"""A stack, and the only `docker` program that a test of the compose runtime will find."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.environment import Environment
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack

from tests.planning_requests import plan_for, recorded
from tests.runtime.docker import Docker


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack whose files do not matter: nobody but the stand-in is asked to read them."""
    plan = plan_for(recorded("cpu-small"), Environment.DEV)
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=tmp_path / "project", state=tmp_path / "state", plan=plan, env=env)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    """Give the only `docker` program that the test will find."""
    return Docker(tmp_path, monkeypatch)
