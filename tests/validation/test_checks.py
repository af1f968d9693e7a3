"""The table of checks: a whole stack has no finding, a check that fails itself says so, and no finding is undeclared."""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.catalog.load import load_catalog
from stackwright.domain.host import Containers, GpuAccess, Host
from stackwright.domain.machine import (
    ContainerAnswer,
    Disk,
    GpuProcess,
    GpuState,
    HubAnswer,
    MemoryState,
    ModelFiles,
    ProcessLimits,
    Unseen,
)
from stackwright.domain.plan import Plan
from stackwright.project.credentials import ensure_secrets
from stackwright.project.write import compare_files, write_files
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.validation import checks
from stackwright.validation.checks import CHECKS, find_in
from stackwright.validation.evidence import Evidence
from stackwright.validation.gpus import used_gpus

from tests.planning_requests import plan_for, recorded
from tests.strategies import hosts
from tests.validation.test_compose_config import merged

GIB = 2**30
ROOMY = Disk(path="/", free_bytes=4096 * GIB, free_files=None, device=1)
GPU_HOST = recorded("2x-rtx3090-nvlink")


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def evidence(root: Path, plan: Plan, *, compose: bool = True) -> Evidence:
    """Return what is seen where nothing is wrong: real files and secrets, a free port, a machine that is as planned."""
    env = {key: setting.value for key, setting in flat_settings(plan).items()} | {"GATEWAY_PORT": str(free_port())}
    stack = Stack(root=root, state=root / "state", plan=plan, env=env)
    write_files({stack.generated: compare_files(root, stack.generated, render_plan(plan))})
    ensure_secrets(stack.secrets, {}, root / "hf")
    uuids = used_gpus(plan)
    boards = [gpu.uuid for gpu in plan.host.gpus if gpu.mig_slice is None]
    containers = Containers(engine="docker", version="28.2.2", compose="2.39.1", gpu_access=GpuAccess.CDI)
    return Evidence(
        stack=stack,
        host=replace(plan.host, containers=containers),
        compose=compose,
        runs=False,
        shell={},
        merged=merged(stack) if compose else None,
        gpus=tuple(
            GpuState(index=index, uuid=uuid, lanes=4, lanes_up=4, processes=()) for index, uuid in enumerate(boards)
        ),
        own=frozenset(),
        listener=None,
        container=ContainerAnswer(refusal=None, uuids=uuids, has_devices=True, named=bool(uuids)),
        disks={"models": ROOMY, "files": ROOMY},
        wanted={},
        shared_memory=ROOMY,
        memory=MemoryState(available_bytes=512 * GIB, swap_bytes=0, swap_free_bytes=0),
        limits=ProcessLimits(open_files=None, locked_bytes=None),
        infiniband=False,
        model=ModelFiles(folder=None, complete=False, missing_bytes=GIB),
        longest_tokens=None,
        hub=HubAnswer(hub="https://hub", status=200, gated=False, ahead_s=0.0),
        gated=False,
        has_token=False,
        offline=False,
        changed=(),
        newest_file_s=1000.0,
        now_s=2000.0,
        catalog=load_catalog(),
    )


@pytest.fixture
def whole(tmp_path: Path) -> Evidence:
    """Give the evidence of a stack on two GPUs under Compose."""
    return evidence(tmp_path, plan_for(GPU_HOST))


def found(seen: Evidence) -> list[str]:
    """Return the names of what is found."""
    return [finding.check for finding in find_in(seen)]


@pytest.mark.parametrize("compose", [True, False], ids=["compose", "processes"])
@pytest.mark.parametrize("name", ["2x-rtx3090-nvlink", "2x-rtx3090-pcie", "cpu-large", "8x-b200-nvswitch", "l40s-busy"])
def test_a_whole_stack_has_no_finding(name: str, compose: bool, tmp_path: Path) -> None:
    assert list(find_in(evidence(tmp_path, plan_for(recorded(name)), compose=compose))) == []


def test_every_finding_comes_at_once(whole: Evidence) -> None:
    seen = replace(
        whole,
        host=replace(whole.host, links=()),
        gpus=(replace(whole.gpus[0], failure="GPU is lost", code=15),),  # type: ignore[index]
        merged=Unseen(why="Docker refused: no"),
        changed=None,
        hub=Unseen(why="gone"),
        disks={"files": replace(ROOMY, free_bytes=0)},
        newest_file_s=9000.0,
        container=ContainerAnswer(refusal="no", uuids=(), has_devices=False, named=False),
    )
    assert found(seen) == [
        "inputs-unknown",
        "links-changed",
        "gpu-lost",
        "gpu-container",
        "compose-refused",
        "model-unreachable",
        "disk-full",
        "clock",
    ]


def test_what_cannot_be_looked_at_is_told_and_never_passes(whole: Evidence) -> None:
    why = Unseen(why="odd machine")
    seen = replace(
        whole,
        gpus=why,
        container=why,
        disks={"files": why},
        memory=why,
        model=why,
        changed=why,
    )
    findings = list(find_in(seen))
    assert {finding.check for finding in findings} == {"not-checked"}
    assert len(findings) == 6
    assert all("odd machine" in finding.found for finding in findings)


def test_a_check_that_fails_itself_does_not_take_the_others_with_it(whole: Evidence) -> None:
    seen = replace(whole, merged={"services": ["not", "a", "mapping"]}, newest_file_s=9000.0)
    told = {finding.check: finding.found for finding in find_in(seen)}
    assert set(told) == {"not-checked", "clock"}
    assert told["not-checked"].startswith("database: not checked: AttributeError") or "merged" in told["not-checked"]


def test_a_stack_that_runs_is_not_asked_for_its_own_port_and_memory(whole: Evidence) -> None:
    held = replace(whole.host.gpus[0], memory_used_bytes=23 * GIB)
    host = replace(whole.host, gpus=(held, whole.host.gpus[1]))
    assert found(replace(whole, host=host)) == ["gpu-memory"]
    assert found(replace(whole, host=host, runs=True)) == []
    other = GpuProcess(pid=9, name="other", memory_bytes=5 * GIB)
    crowded = (replace(whole.gpus[0], processes=(other,)), whole.gpus[1])  # type: ignore[index]
    assert found(replace(whole, host=host, gpus=crowded, runs=True)) == ["gpu-memory"]
    assert found(replace(whole, host=host, runs=True, own=Unseen(why="no daemon"))) == ["not-checked"]


def test_a_model_that_is_whole_here_needs_no_hub(whole: Evidence) -> None:
    seen = replace(whole, hub=None, offline=True)
    assert found(seen) == ["model-missing"]
    assert found(replace(seen, model=ModelFiles(folder="/c", complete=True))) == []


def test_a_database_is_read_from_what_compose_reads(whole: Evidence) -> None:
    file = merged(whole.stack)
    file["services"]["gateway"]["environment"] = {"DATABASE_URL": "postgresql://db/x"}
    crowded = replace(whole, stack=replace(whole.stack, env={**whole.env, "LITELLM_NUM_WORKERS": "10"}))
    assert "database-connections" not in found(crowded)
    assert "database-connections" in found(replace(crowded, merged=file))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Give the evidence of a whole stack for many examples."""
    return evidence(tmp_path_factory.mktemp("whole"), plan_for(GPU_HOST))


@given(
    host=hosts(),
    compose=st.booleans(),
    runs=st.booleans(),
    merged_gateway=st.none()
    | st.dictionaries(st.sampled_from(["ports", "environment", "ulimits", "command"]), st.none()),
    changed=st.none() | st.lists(st.text(max_size=9)).map(tuple),
)
def test_no_check_fails_on_any_machine(
    host: Host,
    compose: bool,
    runs: bool,
    merged_gateway: dict[str, None] | None,
    changed: tuple[str, ...] | None,
    kept: Evidence,
) -> None:
    file = merged(kept.stack)
    file["services"]["gateway"] = merged_gateway or {}
    seen = replace(kept, host=host, compose=compose, runs=runs, merged=file, changed=changed)
    for finding in find_in(seen):
        assert re.search(r"not checked: \w+Error:", finding.found) is None
        assert finding.fix


def test_every_finding_is_declared() -> None:
    declared = {name for check in CHECKS for name in check.findings} | {"not-checked"}
    assert {name for path in sources() for name in made_in(path)} <= declared
    text = "".join(path.read_text(encoding="utf-8") for path in sources())
    made_up = {name for name in declared if f'"{name}"' not in text} - {"not-checked"}
    # Files and secrets share what is said of modes and owners.
    assert {name.partition("-")[2] for name in made_up} <= {"mode", "owner"}


def test_names_of_checks_are_single() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def sources() -> list[Path]:
    """List the modules that make findings."""
    return [path for path in Path(checks.__file__).parent.rglob("*.py") if path.name != "checks.py"]


def made_in(path: Path) -> Iterator[str]:
    """Yield the names of findings that a module makes by literal."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in ("error", "warning", "make") and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)
