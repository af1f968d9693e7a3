"""What the program beside an engine has noted, as `status` and `doctor` tell it."""

from __future__ import annotations

import re
from pathlib import Path

from stackwright.diagnosis.evidence import lost_gpus, name_failures
from stackwright.diagnosis.heartbeat import Hang, Heartbeat, read_heartbeat
from stackwright.diagnosis.load import load_rules
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack

from tests.planning_requests import plan_for, recorded

NOW_S = 1_800_000_000.0


def test_nothing_is_said_of_an_engine_that_never_hung() -> None:
    assert Heartbeat().tell(NOW_S) is None


def test_the_last_hang_of_the_day_is_told_with_the_number_of_them() -> None:
    old, first, last = (Hang(at=NOW_S - ago, why=f"{ago} s ago") for ago in (90_000, 600, 60))
    assert re.fullmatch(r"hung at \d\d:\d\d: 60 s ago", Heartbeat(hung=(old, last)).tell(NOW_S) or "")
    assert re.fullmatch(r"hung 2 times, last at \d\d:\d\d: 60 s ago", Heartbeat(hung=(first, last)).tell(NOW_S) or "")
    assert Heartbeat(hung=(old,)).tell(NOW_S) is None


def test_gpus_that_went_come_first() -> None:
    told = Heartbeat(hung=(Hang(at=NOW_S, why="x"),), gpus=("GPU-1 is gone", "GPU-2 has 2 of 4 NVLinks")).tell(NOW_S)
    assert told is not None
    assert told.startswith("GPU fault: GPU-1 is gone; GPU-2 has 2 of 4 NVLinks; hung at ")


def stack_in(folder: Path) -> Stack:
    """Return a stack whose engines keep their notes in a folder."""
    plan = plan_for(recorded("cpu-small"))
    values = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=folder, state=folder, plan=plan, env={**values, "VLLM_CACHE_ROOT": str(folder)})


def test_the_file_is_found_and_read_as_it_is_written(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    engine = next(service for service in stack.services if service.name == "engine")
    gateway = next(service for service in stack.services if service.name == "gateway")
    assert read_heartbeat(stack, engine) == read_heartbeat(stack, gateway) == Heartbeat()
    file = tmp_path / "heartbeat" / f"{stack.name}-engine.json"
    file.parent.mkdir()
    file.write_text('{"schema": 1, "hung": [{"at": 1.5, "silent_s": 2, "why": "w"}], "gpus": ["g"]}')
    assert read_heartbeat(stack, engine) == Heartbeat(hung=(Hang(at=1.5, silent_s=2.0, why="w"),), gpus=("g",))
    file.write_text("half a fi")
    assert read_heartbeat(stack, engine) == Heartbeat()


def test_gpus_that_went_are_evidence_though_the_engine_is_healthy(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    file = tmp_path / "heartbeat" / f"{stack.name}-engine.json"
    file.parent.mkdir()
    file.write_text('{"schema": 1, "hung": [], "gpus": ["GPU-1 is gone"]}')
    (found,) = lost_gpus(stack, {"engine", "gateway"})
    named = name_failures([found], load_rules(), {})
    assert [(each.service, each.diagnosis.rule) for each in named] == [("engine", "gpu-left")]
    assert "GPU-1 is gone" in named[0].diagnosis.cause
    assert list(lost_gpus(stack, set())) == []
