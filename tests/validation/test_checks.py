"""The table of checks: a whole stack has no finding, a check that fails itself says so, and no finding is
undeclared.
"""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.finding import Finding
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
    Seen,
    Unseen,
)
from stackwright.domain.plan import Plan
from stackwright.project.credentials import ensure_secrets
from stackwright.project.write import compare_files, write_files
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.validation import checks
from stackwright.validation.capacity import FREE_MEMORY, PROCESS_LIMITS, ROOM, SHARED, Room
from stackwright.validation.check import Machine, Observation, Subject
from stackwright.validation.checks import CHECKS, find_in
from stackwright.validation.compose_config import INFINIBAND, MERGED
from stackwright.validation.containers import CONTAINER_ENGINE, ContainerEngine
from stackwright.validation.engine_answer import ENGINES
from stackwright.validation.environment import SHELL_VARIABLES
from stackwright.validation.gpu_memory import OWN
from stackwright.validation.gpus import STATES, used_gpus
from stackwright.validation.images import DIGESTS, LEFT_FILES
from stackwright.validation.model import MODELS, OFFLINE, InspectedModel
from stackwright.validation.outside import AUTHORITIES, FAR_FOLDERS, OUTLOOK
from stackwright.validation.ports import PORTS
from stackwright.validation.surroundings import CHANGED_INPUTS, TIMES

from tests.planning_requests import plan_for, recorded
from tests.strategies import hosts
from tests.validation.test_compose_config import merged

GIB = 2**30
ROOMY = Disk(path="/", free_bytes=4096 * GIB, free_files=None, device=1)
TO_BE_DOWNLOADED = InspectedModel(
    location="someone/model",
    files=ModelFiles(folder=None, complete=False, missing_bytes=GIB),
    hub=HubAnswer(hub="https://hub", status=200, gated=False, ahead_s=0.0),
    gated=False,
)
GPU_HOST = recorded("2x-rtx3090-nvlink")


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Scene(Struct, frozen=True, kw_only=True):
    """A stack, and what is seen of its machine; files, secrets and the port are looked at for real."""

    subject: Subject
    seen: Mapping[Observation[Any], object]

    def but(self, seen: Mapping[Observation[Any], object] | None = None, **subject: Any) -> Scene:
        """Return it with something else seen, or about another subject."""
        return Scene(subject=replace(self.subject, **subject), seen={**self.seen, **(seen or {})})

    def find(self) -> list[Finding]:
        """Run every check."""
        stack, host = self.subject.stack, self.subject.host
        machine = Machine(stack, host, ProcessesRuntime(stack), compose=self.subject.compose, seen=self.seen)
        return list(find_in(self.subject, machine))

    @property
    def states(self) -> tuple[GpuState, ...]:
        """What the GPUs answer."""
        states = self.seen[STATES]
        assert isinstance(states, tuple)
        return states

    @property
    def names(self) -> list[str]:
        """The names of what is found."""
        return [finding.check for finding in self.find()]


def scene(root: Path, plan: Plan, *, compose: bool = True) -> Scene:
    """Return what is seen where nothing is wrong: real files and secrets, a free port, a machine that is as planned."""
    env = {key: setting.value for key, setting in flat_settings(plan).items()} | {"GATEWAY_PORT": str(free_port())}
    stack = Stack(root=root, state=root / "state", plan=plan, env=env)
    write_files({stack.generated: compare_files(root, stack.generated, render_plan(plan))})
    ensure_secrets(stack.secrets, {}, root / "hf")
    boards = [gpu.uuid for gpu in plan.host.gpus if gpu.mig_slice is None]
    containers = Containers(engine="docker", version="28.2.2", compose="2.39.1", gpu_access=GpuAccess.CDI)
    host = replace(plan.host, containers=containers)
    return Scene(
        subject=Subject(stack=stack, host=host, catalog=load_catalog(), compose=compose, runs=False),
        seen={
            SHELL_VARIABLES: {},
            MERGED: merged(stack) if compose else None,
            STATES: tuple(
                GpuState(index=index, uuid=uuid, lanes=4, lanes_up=4, processes=()) for index, uuid in enumerate(boards)
            ),
            OWN: frozenset(),
            PORTS: (),
            CONTAINER_ENGINE: inside(sees(used_gpus(plan))) if compose else None,
            ROOM: Room(disks={"models": ROOMY, "files": ROOMY}, wanted={}),
            SHARED: ROOMY,
            FREE_MEMORY: MemoryState(available_bytes=512 * GIB, swap_bytes=0, swap_free_bytes=0),
            PROCESS_LIMITS: ProcessLimits(open_files=None, locked_bytes=None),
            INFINIBAND: False,
            MODELS: (TO_BE_DOWNLOADED,),
            OFFLINE: False,
            CHANGED_INPUTS: (),
            TIMES: (2000.0, 1000.0),
            ENGINES: (),
            AUTHORITIES: None,
            OUTLOOK: None,
            DIGESTS: {},
            LEFT_FILES: (),
            FAR_FOLDERS: {},
        },
    )


def sees(uuids: tuple[str, ...]) -> ContainerAnswer:
    """Return what a container says that sees these GPUs."""
    return ContainerAnswer(refusal=None, uuids=uuids, has_devices=True, named=bool(uuids))


def inside(container: Seen[ContainerAnswer] | None) -> ContainerEngine:
    """Return a container engine that has every image, with what a container saw."""
    return ContainerEngine(images=None, needs_cuda_image=False, has_engine_image=True, container=container)


@pytest.fixture
def whole(tmp_path: Path) -> Scene:
    """Give a stack on two GPUs under Compose, with nothing wrong."""
    return scene(tmp_path, plan_for(GPU_HOST))


@pytest.mark.parametrize("compose", [True, False], ids=["compose", "processes"])
@pytest.mark.parametrize("name", ["2x-rtx3090-nvlink", "2x-rtx3090-pcie", "cpu-large", "8x-b200-nvswitch", "l40s-busy"])
def test_a_whole_stack_has_no_finding(name: str, compose: bool, tmp_path: Path) -> None:
    assert scene(tmp_path, plan_for(recorded(name)), compose=compose).find() == []


def test_every_finding_comes_at_once(whole: Scene) -> None:
    first, *_ = whole.states
    seen: Mapping[Observation[Any], object] = {
        STATES: (replace(first, failure="GPU is lost", code=15),),
        MERGED: Unseen(why="Docker refused: no"),
        CHANGED_INPUTS: None,
        MODELS: (replace(TO_BE_DOWNLOADED, hub=Unseen(why="gone")),),
        ROOM: Room(disks={"files": replace(ROOMY, free_bytes=0)}, wanted={}),
        TIMES: (2000.0, 9000.0),
        CONTAINER_ENGINE: inside(ContainerAnswer(refusal="no", uuids=(), has_devices=False, named=False)),
    }
    assert whole.but(seen, host=replace(whole.subject.host, links=())).names == [
        "inputs-unknown",
        "links-changed",
        "gpu-lost",
        "gpu-container",
        "compose-refused",
        "model-unreachable",
        "disk-full",
        "clock",
    ]


def test_what_cannot_be_looked_at_is_told_and_never_passes(whole: Scene) -> None:
    why = Unseen(why="odd machine")
    seen: Mapping[Observation[Any], object] = {
        STATES: why,
        CONTAINER_ENGINE: inside(why),
        ROOM: Room(disks={"files": why}, wanted={}),
        FREE_MEMORY: why,
        MODELS: (replace(TO_BE_DOWNLOADED, files=why),),
        CHANGED_INPUTS: why,
    }
    findings = whole.but(seen).find()
    assert {finding.check for finding in findings} == {"not-checked"}
    assert len(findings) == 6
    assert all("odd machine" in finding.found for finding in findings)


@pytest.mark.parametrize("compose", [True, False], ids=["compose", "processes"])
def test_every_look_that_fails_is_told_by_each_check_that_needs_it(compose: bool, tmp_path: Path) -> None:
    stack = scene(tmp_path, plan_for(GPU_HOST), compose=compose)
    applying = (check for check in CHECKS if check.when.holds(stack.subject))
    for observation in {observation: None for check in applying for observation in check.observations}:
        if observation not in (OWN, STATES, MERGED):
            assert "odd machine" in " ".join(
                finding.found for finding in stack.but({observation: Unseen(why="odd machine")}).find()
            )


def test_a_check_that_fails_itself_does_not_take_the_others_with_it(whole: Scene) -> None:
    seen: Mapping[Observation[Any], object] = {MERGED: {"services": ["not", "a", "mapping"]}, TIMES: (2000.0, 9000.0)}
    told = {finding.check: finding.found for finding in whole.but(seen).find()}
    assert set(told) == {"not-checked", "clock"}
    assert told["not-checked"].startswith("database: not checked: AttributeError") or "merged" in told["not-checked"]


def test_a_stack_that_runs_is_not_asked_for_its_own_port_and_memory(whole: Scene) -> None:
    held = replace(whole.subject.host.gpus[0], memory_used_bytes=23 * GIB)
    host = replace(whole.subject.host, gpus=(held, whole.subject.host.gpus[1]))
    assert whole.but(host=host).names == ["gpu-memory"]
    assert whole.but(host=host, runs=True).names == []
    first, second = whole.states
    other = GpuProcess(pid=9, name="other", memory_bytes=5 * GIB)
    crowded = (replace(first, processes=(other,)), second)
    assert whole.but({STATES: crowded}, host=host, runs=True).names == ["gpu-memory"]
    assert whole.but({OWN: Unseen(why="no daemon")}, host=host, runs=True).names == ["not-checked"]


def test_a_model_that_is_whole_here_needs_no_hub(whole: Scene) -> None:
    away = whole.but({MODELS: (replace(TO_BE_DOWNLOADED, hub=None),), OFFLINE: True})
    assert away.names == ["model-missing"]
    here = replace(TO_BE_DOWNLOADED, hub=None, files=ModelFiles(folder="/c", complete=True))
    assert away.but({MODELS: (here,)}).names == []


def test_a_database_is_read_from_what_compose_reads(whole: Scene) -> None:
    stack = whole.subject.stack
    file = merged(stack)
    file["services"]["gateway"]["environment"] = {"DATABASE_URL": "postgresql://db/x"}
    crowded = whole.but(stack=replace(stack, env={**stack.env, "LITELLM_NUM_WORKERS": "10"}))
    assert "database-connections" not in crowded.names
    assert "database-connections" in crowded.but({MERGED: file}).names


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Give a whole stack for many examples."""
    return scene(tmp_path_factory.mktemp("whole"), plan_for(GPU_HOST))


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
    kept: Scene,
) -> None:
    file = merged(kept.subject.stack)
    file["services"]["gateway"] = merged_gateway or {}
    seen: Mapping[Observation[Any], object] = {MERGED: file, CHANGED_INPUTS: changed}
    for finding in kept.but(seen, host=host, compose=compose, runs=runs).find():
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
