"""What is gathered about a stack: states, logs and notes of its runtime, kept logs, the kernel's words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.diagnosis.evidence import (
    Evidence,
    failures_of,
    forget_failure,
    gather,
    keep_failure,
    name_failures,
    read_kept,
    values_of,
)
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import EvidenceKind
from stackwright.domain.service import Service, ServicePhase, ServiceState, Traces, Word
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Say, ServiceChange, Stack

from tests.planning_requests import plan_for, recorded
from tests.runtime.test_programs import stack_of
from tests.services.test_additions import plan_with

MALFORMED = (Path(__file__).parent / "logs" / "requests" / "gateway-malformed.txt").read_text(encoding="utf-8")
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 50.00 MiB."

KERNEL = (
    "[   51.500000] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=0a1b,mems_allowed=0,"
    "oom_memcg=/docker/0a1b,task_memcg=/docker/0a1b,task=python3,pid=5305,uid=0\n"
    "[   51.600000] Memory cgroup out of memory: Killed process 5305 (python3) total-vm:1427548kB, anon-rss:394456kB"
)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack whose plan stands on the disk."""
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)


@dataclass
class Told:
    """A runtime that tells what it is told to tell."""

    states: tuple[ServiceState, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    noted: str = ""
    refusal: RuntimeRefusedError | None = None
    name: str = "told"
    notes: tuple[str, ...] = ()

    def prepare(self, say: Say) -> None:
        """Be there."""

    def trial(self, service: Service, words: Iterable[Word]) -> None:
        """Have no place for a program."""

    def owner(self) -> Path | None:
        """Belong to nobody."""

    def changes(self) -> tuple[ServiceChange, ...]:
        """Change nothing."""
        return ()

    def reads(self) -> dict[str, str]:
        """Read nothing."""
        return {}

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:
        """Be there."""

    def prove(self) -> None:
        """Nothing limits these restarts."""

    def halt(self) -> None:
        """Be there."""

    def services(self) -> tuple[ServiceState, ...]:
        """Report, or refuse to."""
        if self.refusal is not None:
            raise self.refusal
        return self.states

    def logs(self, service: str, lines: int) -> str:  # noqa: ARG002  # the Protocol's signature
        """Return a log; refuse where there is none."""
        if service not in self.texts:
            raise RuntimeRefusedError("the container is gone")
        return self.texts[service]

    def events(self) -> str:
        """Return what was noted."""
        return self.noted

    def inspect(self) -> str:
        """Return nothing."""
        return ""

    def end(self, service: str, *, kill: bool = False) -> None:
        """Not be called."""
        raise NotImplementedError

    def down(self) -> None:
        """Be there."""


def state(name: str, phase: ServicePhase, code: int | None = None, restarts: int = 0) -> ServiceState:
    """Return a service's state."""
    return ServiceState(name=name, phase=phase, exit_code=code, restarts=restarts)


def named(evidence: tuple[Evidence, ...]) -> list[tuple[str, str]]:
    """Name the failures by service and rule."""
    return [(each.service, each.diagnosis.rule) for each in name_failures(evidence, load_rules(), {})]


def test_only_what_is_ill_is_asked_why(stack: Stack) -> None:
    """The gateway's log holds errors of the time before Redis was up; it is healthy, so they say nothing."""
    runtime = Told(
        states=(
            state("engine", ServicePhase.EXITED, 1),
            state("redis", ServicePhase.HEALTHY),
            state("gateway", ServicePhase.HEALTHY),
        ),
        texts={"engine": OOM, "redis": "", "gateway": "LiteLLM: NOAUTH Authentication required"},
    )
    gathered = gather(runtime, stack, kernel="")
    assert named(gathered.evidence) == [("engine", "oom-serving")]
    assert [each.name for each in gathered.fallen] == ["engine"]
    assert dict(gathered.logs)["gateway"].startswith("LiteLLM")


def test_one_that_fell_and_recovered_is_asked_too(stack: Stack) -> None:
    runtime = Told(states=(state("engine", ServicePhase.HEALTHY, restarts=1),), texts={"engine": OOM})
    assert named(gather(runtime, stack, kernel="").evidence) == [("engine", "oom-serving")]


def test_one_that_recovered_explains_nothing_that_is_ill_now(stack: Stack) -> None:
    """Redis was gone for a while, long ago; now the engine does not answer."""
    runtime = Told(
        states=(
            state("engine", ServicePhase.UNHEALTHY),
            state("gateway", ServicePhase.HEALTHY, restarts=1),
        ),
        texts={"engine": "", "gateway": "redis.exceptions.ConnectionError: Error 111 connecting to redis:6379"},
    )
    assert named(gather(runtime, stack, kernel="").evidence) == [("engine", "silent")]


def test_a_request_explains_no_fall(stack: Stack) -> None:
    """A client has sent `"messages": "hi"`, and was answered."""
    fallen = state("gateway", ServicePhase.UNHEALTHY)
    runtime = Told(states=(fallen,), texts={"gateway": MALFORMED})
    assert named(gather(runtime, stack, kernel="").evidence) == [("gateway", "silent")]


def test_an_earlier_run_explains_no_fall_of_this_one(stack: Stack) -> None:
    """Redis refused the password of the run before, which somebody has mended and ended."""
    begin = "1:C 29 Nov 2026 12:00:00.000 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo\n"
    text = f"{begin}MISCONF Redis is configured to save RDB snapshots\n{begin}ready\n"
    before = Told(states=(state("redis", ServicePhase.STARTING, restarts=1),), texts={"redis": text})
    now = Told(states=(state("redis", ServicePhase.UNHEALTHY),), texts={"redis": text})
    assert ("redis", "silent") in named(gather(now, stack, kernel="").evidence)
    assert "MISCONF" in "".join(each.text for each in gather(before, stack, kernel="").evidence)
    assert "MISCONF" not in "".join(each.text for each in gather(now, stack, kernel="").evidence)


def test_a_kill_is_told_from_one_by_hand(stack: Stack) -> None:
    ended = ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=137, traces=Traces(container="0a1b"))
    by_hand = Told(states=(ended,), texts={"engine": ""}, noted="17 kill engine signal=9\n17 die engine exitCode=137")
    of_another = Told(states=(ended,), texts={"engine": ""}, noted="17 kill gateway signal=9")
    assert named(gather(by_hand, stack, kernel="").evidence) == [("engine", "killed-by-hand"), ("engine", "killed")]
    assert named(gather(of_another, stack, kernel="").evidence) == [("engine", "killed")]
    assert named(gather(of_another, stack, kernel=KERNEL).evidence)[0] == ("engine", "oom-killed")
    assert named(gather(by_hand, stack, kernel=KERNEL).evidence)[0] == ("engine", "killed-by-hand")


def test_what_was_noted_of_an_earlier_run_is_not_asked(stack: Stack) -> None:
    """Killed by hand, started again, and then killed by the kernel."""
    noted = (
        "16 kill engine signal=9\n16 die engine exitCode=137\n17 start engine\n18 oom engine\n18 die engine "
        "exitCode=137"
    )
    ended = ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=137, detail="out of memory")
    runtime = Told(states=(ended,), texts={"engine": ""}, noted=noted)
    assert named(gather(runtime, stack, kernel="").evidence) == [("engine", "oom-killed"), ("engine", "killed")]


def test_the_kernel_explains_the_fall_of_one_service_alone(stack: Stack) -> None:
    """Both were killed; memory ran out in the control group of one of them."""
    states = tuple(
        ServiceState(name=name, phase=ServicePhase.EXITED, exit_code=137, traces=Traces(container=identity))
        for name, identity in (("engine", "0a1b"), ("redis", "2c3d"))
    )
    runtime = Told(states=states, texts={"engine": "", "redis": ""})
    found = [(each.service, "Killed process" in each.text) for each in gather(runtime, stack, kernel=KERNEL).evidence]
    assert sorted(found) == [("engine", False), ("engine", True), ("redis", False), ("redis", False)]


def test_a_log_that_cannot_be_read_is_said(stack: Stack) -> None:
    gathered = gather(Told(states=(state("engine", ServicePhase.EXITED, 1),)), stack, kernel="")
    assert gathered.logs == (("engine", "the log cannot be read: the container is gone"),)


def test_a_refusal_is_evidence(stack: Stack) -> None:
    refusal = RuntimeRefusedError('Docker refused: could not select device driver "nvidia" with capabilities: [[gpu]]')
    gathered = gather(Told(states=(), refusal=refusal), stack, kernel="")
    assert named(gathered.evidence) == [("runtime", "gpu-runtime-missing")]


def test_what_died_and_starts_again_has_fallen(stack: Stack) -> None:
    """One that starts for the first time has not, nor one that has answered since."""
    runtime = Told(
        states=(
            state("engine", ServicePhase.STARTING, restarts=1),
            state("redis", ServicePhase.HEALTHY, restarts=1),
            state("gateway", ServicePhase.STARTING),
        ),
        texts={"engine": "", "redis": "", "gateway": ""},
    )
    assert [each.name for each in gather(runtime, stack, kernel="").fallen] == ["engine"]


def test_where_nothing_runs_the_last_failed_start_tells(stack: Stack) -> None:
    folder = failures_of(stack)
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text(OOM, encoding="utf-8")
    (folder / "redis.log").write_bytes(b"\xff\xfe not UTF-8")
    gathered = gather(Told(states=(state("engine", ServicePhase.ABSENT),)), stack, kernel="")
    assert named(gathered.evidence) == [("engine", "oom-serving")]
    assert gathered.failed_s_ago is not None
    assert gathered.fallen == ()


def test_what_is_kept_of_a_failed_start_names_the_same(stack: Stack) -> None:
    """Taking it down removes the containers with their logs, exit codes and marks of the kernel."""
    states = (
        ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=137, detail="out of memory"),
        state("redis", ServicePhase.HEALTHY),
    )
    runtime = Told(states=states, texts={"engine": "loading\n", "redis": "ready\n"})
    folder = keep_failure(runtime, stack)
    assert folder == failures_of(stack)
    assert sorted(path.name for path in folder.iterdir()) == ["engine.log", "engine.state", "redis.log"]
    gone = Told(states=(state("engine", ServicePhase.ABSENT),))
    assert named(gather(gone, stack, kernel="").evidence) == [("engine", "oom-killed"), ("engine", "killed")]
    keep_failure(Told(states=(state("engine", ServicePhase.EXITED, 1),), texts={"engine": OOM}), stack)
    assert sorted(path.name for path in folder.iterdir()) == ["engine.log", "engine.state"]
    forget_failure(stack)
    assert list(folder.iterdir()) == []


def test_an_earlier_failure_is_kept_where_the_runtime_does_not_tell(stack: Stack) -> None:
    folder = keep_failure(Told(states=(state("engine", ServicePhase.EXITED, 1),), texts={"engine": OOM}), stack)
    with pytest.raises(RuntimeRefusedError):
        keep_failure(Told(states=(), refusal=RuntimeRefusedError("gone")), stack)
    assert (folder / "engine.log").read_text(encoding="utf-8") == OOM


def test_a_failure_before_the_last_configuration_is_no_longer_told(stack: Stack) -> None:
    folder = failures_of(stack)
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text(OOM, encoding="utf-8")
    assert read_kept(stack, configured=time.time() + 60).evidence == ()
    assert read_kept(stack, configured=0.0).evidence != ()
    assert read_kept(replace(stack, state=folder), configured=0.0).logs == ()


def test_a_service_is_of_its_kind_whatever_its_number(stack: Stack) -> None:
    """One that the plan has lost, too."""
    kinds = [stack.kind_of(name) for name in ("engine", "engine-2", "gateway", "redis", "lost-3")]
    assert kinds == ["engine", "engine", "gateway", "redis", "lost"]


def test_what_two_engines_share_is_told_once() -> None:
    both = tuple(Evidence(service=name, kind="engine", text=OOM) for name in ("engine", "engine-2"))
    assert named(both) == [("engine", "oom-serving")]


def test_causes_stand_before_what_follows_from_them() -> None:
    evidence = (
        Evidence(service="engine", kind=EvidenceKind.STATE, text="engine ended with exit code 137"),
        Evidence(service="engine", kind="engine", text=OOM),
    )
    assert [rule for _, rule in named(evidence)] == ["oom-serving", "killed"]


@pytest.mark.parametrize(
    ("addition", "whose", "key", "line"),
    [
        ("monitoring", "prometheus", "PROMETHEUS_PORT", "Bind for 127.0.0.1:{} failed: port is already allocated"),
        ("retrieval", "retrieval", "RETRIEVAL_PORT", "listen tcp4 127.0.0.1:{}: bind: address already in use"),
        ("webui", "webui", "WEBUI_PORT", "attempting to bind on address ('127.0.0.1', {}): address already in use"),
        ("webui", "gateway", "GATEWAY_PORT", "GATEWAY_PORT: 127.0.0.1:{} is in use by another program"),
    ],
)
def test_a_taken_port_is_told_with_its_service_and_its_setting(addition: str, whose: str, key: str, line: str) -> None:
    values = values_of(stack_of(plan_with("2x-rtx3090-nvlink", addition)))
    text = f"error while {line.format(values[key])}"
    (named,) = name_failures([Evidence(service="", kind=EvidenceKind.RUNTIME, text=text)], load_rules(), values)
    assert named.diagnosis.cause == f"another program already uses port {values[key]} of {whose}"
    assert f"--set {key}=…" in named.diagnosis.fix


def test_a_taken_port_of_nobody_known_blames_nobody() -> None:
    text = "Bind for 0.0.0.0:9432 failed: port is already allocated"
    (named,) = name_failures([Evidence(service="", kind=EvidenceKind.RUNTIME, text=text)], load_rules(), {})
    assert named.diagnosis.cause == "another program already uses port 9432"
