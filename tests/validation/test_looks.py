"""Everything is looked at, and what goes wrong on the way is a reason, never an end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stackwright.domain.environment import Environment
from stackwright.domain.machine import Disk, HubAnswer, MemoryState, Unseen
from stackwright.domain.plan import Mode, Plan
from stackwright.errors import UsageError
from stackwright.models.smoke_model import write_smoke_model
from stackwright.project.credentials import ensure_secrets
from stackwright.project.folder import read_wishes
from stackwright.project.inputs import changed_inputs, record_inputs
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.validation.capacity import FREE_MEMORY, ROOM, Room
from stackwright.validation.check import Later, Machine, safely
from stackwright.validation.checks import find_all
from stackwright.validation.compose_config import MERGED
from stackwright.validation.containers import CONTAINER_ENGINE
from stackwright.validation.gpus import STATES
from stackwright.validation.model import MODELS, InspectedModel

from tests.integration.fake_hub import serve_hub
from tests.models.checkpoints import write_model
from tests.models.test_folder import CONFIG, SHARDS
from tests.planning_requests import paths_of, plan_for, recorded

NAME = "someone/Tiny-Model"


@pytest.fixture(autouse=True)
def _own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this machine's hub, token and caches out."""
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def stack_of(root: Path, plan: Plan, **changes: str) -> Stack:
    """Return a stack whose folders lie below `root`."""
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    folders = {"HF_HOME": str(root / "hf"), "VLLM_CACHE_ROOT": str(root / "vllm")}
    made = Stack(root=root, state=root / "state", plan=plan, env={**env, **folders, **changes})
    ensure_secrets(made.secrets, {}, root / "hf")
    return made


def machine_of(stack: Stack) -> Machine:
    """Return the machine of a stack that needs no daemon."""
    return Machine(stack, stack.plan.host, ProcessesRuntime(stack), compose=False)


def model_of(stack: Stack) -> InspectedModel:
    """Return what is seen of a stack's only model."""
    models = machine_of(stack).see(MODELS)
    assert not isinstance(models, Unseen)
    (model,) = models
    return model


def found(stack: Stack) -> dict[str, str]:
    """Return the names of what is found, each with what it says."""
    return {finding.check: finding.found for finding in find_all(stack, ProcessesRuntime(stack), stack.plan.host)}


CPU_PLAN = plan_for(recorded("cpu-small"))
GPU_PLAN = plan_for(recorded("2x-rtx3090-nvlink"))


def test_a_look_that_fails_is_a_reason() -> None:
    def refuse() -> int:
        raise UsageError("no such thing", hint="look elsewhere")

    assert safely(lambda: 1) == 1
    assert safely(refuse) == Unseen(why="no such thing")
    assert Later(lambda: 1 // 0).result() == Unseen(why="ZeroDivisionError: integer division or modulo by zero")
    assert Later(lambda: 2).result() == 2


def test_a_small_machine_is_seen_whole(tmp_path: Path) -> None:
    model = tmp_path / "smoke"
    write_smoke_model(model)
    stack = stack_of(tmp_path, CPU_PLAN, VLLM_MODEL=str(model))
    machine = machine_of(stack)
    assert (machine.runs, machine.see(MERGED), machine.see(CONTAINER_ENGINE)) == (False, None, None)
    memory = machine.see(FREE_MEMORY)
    assert isinstance(memory, MemoryState)
    room, seen = machine.see(ROOM), model_of(stack)
    assert isinstance(room, Room)
    assert isinstance(room.disks["models"], Disk)
    assert room.wanted["packages"] > 2**30
    assert seen.hub is None
    assert not isinstance(seen.files, Unseen)
    assert seen.files.complete
    names = set(found(stack))
    assert "inputs-unknown" in names
    assert not names & {"not-checked", "model-missing", "model-incomplete", "model-unreadable", "memory"}


def test_the_longest_context_is_read_from_the_model(tmp_path: Path) -> None:
    model = tmp_path / "smoke"
    write_smoke_model(model)
    longest = json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    stack = stack_of(tmp_path, CPU_PLAN, VLLM_MODEL=str(model), VLLM_MAX_MODEL_LEN=str(longest + 1))
    assert model_of(stack).longest_tokens == longest
    assert "model-length" in found(stack)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", CONFIG, SHARDS)
    next(folder.glob("*.safetensors")).write_bytes(b"junk")
    stack = stack_of(tmp_path, CPU_PLAN, VLLM_MODEL=str(folder))
    assert "model-incomplete" in found(stack)


@pytest.mark.parametrize(
    ("token", "own", "finding"),
    [(None, None, None), ("hf-right", None, "model-gated"), ("hf-right", "hf-right", None)],
    ids=["open", "gated", "allowed"],
)
def test_a_model_that_is_to_be_downloaded_is_asked_for(
    token: str | None, own: str | None, finding: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME, token=token) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        stack = stack_of(tmp_path, CPU_PLAN, VLLM_MODEL=NAME)
        if own is not None:
            monkeypatch.setenv("HF_TOKEN", own)
        names = set(found(stack))
        assert hub.requests == [f"HEAD /{NAME}/resolve/main/config.json"]
        assert isinstance(model_of(stack).hub, HubAnswer)
    assert names & {"model-gated", "model-unknown", "model-unreachable"} == ({finding} if finding else set())


def test_a_hub_that_must_not_be_asked_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub(write_model(tmp_path / "m", CONFIG, SHARDS), NAME) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        stack = stack_of(tmp_path, CPU_PLAN, VLLM_MODEL=NAME)
        assert "model-missing" in found(stack)
        assert hub.requests == []


def test_gpus_that_are_not_here_are_unseen(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    stack = stack_of(tmp_path, GPU_PLAN, VLLM_MODEL=str(tmp_path))
    assert GPU_PLAN.mode is not Mode.CPU
    states = machine_of(stack).see(STATES)
    assert isinstance(states, Unseen)
    findings = find_all(stack, ProcessesRuntime(stack), GPU_PLAN.host)
    assert "the GPUs' health: not checked" in " ".join(finding.found for finding in findings)


def test_inputs_are_compared_by_what_they_say(tmp_path: Path) -> None:
    paths = paths_of(tmp_path, Environment.PROD)
    record = record_inputs(paths, read_wishes(paths))
    target = tmp_path / record.path
    assert changed_inputs(paths) is None
    target.parent.mkdir(parents=True)
    target.write_text(record.text, encoding="utf-8")
    assert changed_inputs(paths) == ()
    (tmp_path / "envs").mkdir()
    wishes = tmp_path / "envs/prod.yaml"
    shutil.copy(Path(__file__).parents[2] / "envs/prod.yaml", wishes)
    assert changed_inputs(paths) == ()
    wishes.write_text(wishes.read_text(encoding="utf-8").replace("0.90", "0.80"), encoding="utf-8")
    assert changed_inputs(paths) == ("envs/prod.yaml",)
    target.write_text(record.text.replace('"stackwright": "', '"stackwright": "older-'), encoding="utf-8")
    (first, *_) = changed_inputs(paths) or ("",)
    assert first.startswith("Stackwright (older-")


@pytest.mark.parametrize("junk", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"stackwright": 7}', b'{"catalog": {}}'])
def test_any_record_is_read(junk: bytes, tmp_path: Path) -> None:
    paths = paths_of(tmp_path)
    target = tmp_path / record_inputs(paths, read_wishes(paths)).path
    target.parent.mkdir(parents=True)
    target.write_bytes(junk)
    changed = changed_inputs(paths)
    assert changed is None or all(name.isprintable() for name in changed)
