"""What is remembered of good starts, and that no file in its place can do harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.service import Step
from stackwright.watching.history import LONGEST_S, MOST_STARTS, keep_start, past_steps

from tests.planning_requests import plan_for, recorded, with_engine

PLAN = plan_for(recorded("cpu-small"))
(REPLICA,) = PLAN.replicas


def test_the_longest_of_earlier_starts_is_remembered(tmp_path: Path) -> None:
    """A download, and waiting for others, say nothing of the next start."""
    keep_start(tmp_path, PLAN, REPLICA, {Step.STARTING: 20.04, Step.LOADING: 9, Step.DOWNLOADING: 700, Step.WAITING: 3})
    keep_start(tmp_path, PLAN, REPLICA, {Step.STARTING: 10, Step.LOADING: 12, Step.READY: 99})
    assert past_steps(tmp_path, PLAN, REPLICA) == {Step.STARTING: 20.0, Step.LOADING: 12}


def test_another_model_release_or_layout_has_its_own_past(tmp_path: Path) -> None:
    keep_start(tmp_path, PLAN, REPLICA, {Step.LOADING: 9})
    newer = with_engine(PLAN, version="9.9.9")
    others = [
        (PLAN, replace(REPLICA, model="acme/other")),
        (PLAN, replace(REPLICA, tensor_parallel=2)),
        (PLAN, replace(REPLICA, args=())),
        (newer, REPLICA),
    ]
    assert [past_steps(tmp_path, plan, replica) for plan, replica in others] == [{}] * len(others)
    assert past_steps(tmp_path, PLAN, replace(REPLICA, name="engine-2")) == {Step.LOADING: 9}


def test_a_stack_that_ran_already_adds_nothing(tmp_path: Path) -> None:
    keep_start(tmp_path, PLAN, REPLICA, {Step.READY: 3})
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(MOST_STARTS + 5):
        keep_start(tmp_path, PLAN, REPLICA, {Step.LOADING: 1000 - number})
    assert past_steps(tmp_path, PLAN, REPLICA) == {Step.LOADING: 995}
    (file,) = tmp_path.iterdir()
    assert len(json.loads(file.read_text())["starts"]) == MOST_STARTS
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 2, "starts": []}',
        '{"schema": 1}',
        '{"schema": 1, "starts": {"a": 1}}',
        "[" * 9999,
    ],
)
def test_a_damaged_file_is_no_past_and_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "starts.json").write_text(text)
    assert past_steps(tmp_path, PLAN, REPLICA) == {}
    keep_start(tmp_path, PLAN, REPLICA, {Step.LOADING: 9})
    assert past_steps(tmp_path, PLAN, REPLICA) == {Step.LOADING: 9}


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine")
    keep_start(tmp_path / "state", PLAN, REPLICA, {Step.LOADING: 9})
    assert past_steps(tmp_path / "state", PLAN, REPLICA) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(list(Step)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(list(Step)), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(JSON)
def test_no_entry_can_do_harm(tmp_path: Path, entry: object) -> None:
    ours = [REPLICA.model, PLAN.engine.version, PLAN.mode.value, "1x1", *REPLICA.args]
    starts = [entry, {"replica": entry, "steps": entry}, {"replica": ours, "steps": entry}]
    (tmp_path / "starts.json").write_text(json.dumps({"schema": 1, "starts": starts}))
    past = past_steps(tmp_path, PLAN, REPLICA)
    assert past.keys() <= set(Step)
    assert all(0 < seconds < LONGEST_S for seconds in past.values())
