"""Bringing a stack up: what is taken down again, what is kept, and which runtime is taken."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from generator.arguments import Arguments
from generator.commands.stack import choose_runtime
from generator.commands.start import bring_up
from generator.credentials import ensure_secrets
from generator.domain.environment import Environment
from generator.domain.host import Containers, GpuAccess, Host
from generator.domain.service import ServicePhase, ServiceState
from generator.errors import NotHealthyError, RuntimeRefusedError
from generator.runtime import Say, Stack
from tests.planning_requests import plan_for, recorded

ARGUMENTS = Arguments(command="start-environment", environment=Environment.PROD, timeout_s=1)
ABSENT = (ServiceState(name="engine", phase=ServicePhase.ABSENT),)
HEALTHY = (ServiceState(name="engine", phase=ServicePhase.HEALTHY),)
ENDED = (ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=1),)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack with its secrets."""
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in plan.settings.items()}
    made = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
    ensure_secrets(made.secrets, {}, tmp_path / "hf")
    return made


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give SIGTERM back: a start takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@dataclass
class Scripted:
    """A runtime that reports one look after another, the last again and again, and fails where it is told to."""

    looks: list[tuple[ServiceState, ...]]
    failures: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    name: str = "scripted"
    notes: tuple[str, ...] = ()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def prepare(self, say: Say) -> None:  # noqa: ARG002  # the Protocol's signature
        """Be called."""
        self._call("prepare")

    def up(self) -> None:
        """Be called."""
        self._call("up")

    def services(self) -> tuple[ServiceState, ...]:
        """Report the next look."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def logs(self, service: str, lines: int) -> str:
        """Return a log that tells what was asked for."""
        self._call("logs")
        return f"ValueError: {service}, {lines} lines\n"

    def events(self) -> str:
        """Have noted nothing."""
        return ""

    def inspect(self) -> str:
        """Know nothing."""
        return ""

    def down(self) -> None:
        """Be called."""
        self._call("down")


def test_a_start_that_fails_is_taken_down_and_its_logs_are_kept(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Scripted(looks=[ABSENT, ENDED])
    with pytest.raises(NotHealthyError) as failure:
        bring_up(ARGUMENTS, stack, runtime)
    kept = stack.state / "failures" / "stackwright-prod"
    assert failure.value.message == "engine ended with exit code 1 before it answered: ValueError: engine, 2000 lines"
    assert failure.value.hint == f"logs: {kept}"
    assert runtime.calls == ["prepare", "up", "logs", "logs", "down"]
    assert (kept / "engine.log").read_text(encoding="utf-8") == "ValueError: engine, 5000 lines\n"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr() == ("", "taking down what was started\n")


def test_what_ran_before_is_left_running(stack: Stack) -> None:
    """A second start that fails does not take the first one's stack away."""
    runtime = Scripted(looks=[HEALTHY, ENDED])
    with pytest.raises(NotHealthyError):
        bring_up(ARGUMENTS, stack, runtime)
    assert "down" not in runtime.calls


@pytest.mark.parametrize("where", ["prepare", "up"])
@pytest.mark.parametrize("failure", [RuntimeRefusedError("no"), KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_whatever_ends_a_start_it_is_taken_down(where: str, failure: BaseException, stack: Stack) -> None:
    """A refusal, Ctrl-C, and a fault of ours."""
    runtime = Scripted(looks=[ABSENT], failures={where: failure})
    with pytest.raises(type(failure)):
        bring_up(ARGUMENTS, stack, runtime)
    assert runtime.calls[-2:] == [where, "down"]


def test_logs_that_cannot_be_kept_hold_nothing_up(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.state.write_text("mine", encoding="utf-8")
    runtime = Scripted(looks=[ABSENT, ENDED])
    with pytest.raises(NotHealthyError) as failure:
        bring_up(ARGUMENTS, stack, runtime)
    assert not failure.value.hint
    assert runtime.calls[-1] == "down"
    assert "warning: the logs cannot be kept: " in capsys.readouterr().err


def test_a_taking_down_that_fails_does_not_hide_why(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine's end is what the person needs; that the daemon went too is said beside it."""
    runtime = Scripted(looks=[ABSENT, ENDED], failures={"down": RuntimeRefusedError("Docker refused: gone")})
    with pytest.raises(NotHealthyError, match="engine ended with exit code 1"):
        bring_up(ARGUMENTS, stack, runtime)
    assert "warning: it cannot be taken down: Docker refused: gone\n" in capsys.readouterr().err


def host_with(engine: str | None, compose: str | None) -> Host:
    """Return a host with a container engine."""
    containers = Containers(
        engine=engine,
        version="28.2" if engine else None,
        compose=compose,
        gpu_access=GpuAccess.NONE if engine else None,
    )
    return replace(recorded("cpu-small"), containers=containers)


@pytest.mark.parametrize(
    ("engine", "compose", "asked", "runtime", "said"),
    [
        ("docker", "2.39.1", "auto", "compose", "runtime: compose (docker 28.2 answers)\n"),
        ("docker", "2.39.1", "compose", "compose", ""),
        ("docker", "2.39.1", "processes", "processes", ""),
        (None, None, "auto", "processes", "runtime: processes (no container engine answers)\n"),
        ("podman", None, "auto", "processes", "runtime: processes (podman has no Compose plugin)\n"),
    ],
)
def test_the_runtime_is_the_one_asked_for_else_what_the_host_has(
    engine: str | None,
    compose: str | None,
    asked: str,
    runtime: str,
    said: str,
    stack: Stack,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert choose_runtime(asked, stack, host_with(engine, compose)).name == runtime
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("engine", "why"), [(None, "no container engine answers"), ("podman", "podman has no Compose plugin")]
)
def test_compose_that_is_not_there_is_refused(engine: str | None, why: str, stack: Stack) -> None:
    with pytest.raises(RuntimeRefusedError) as failure:
        choose_runtime("compose", stack, host_with(engine, None))
    assert failure.value.message == why
    assert failure.value.hint == "start Docker, or use `--runtime processes`, which needs none"


@pytest.mark.subprocess
def test_a_stack_that_runs_is_found_by_the_runtime_that_runs_it(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started by processes, and Docker answers too: `stop-environment` must not look past it."""
    with subprocess.Popen(["sleep", "60"], process_group=0) as service:
        try:
            run = stack.state / "run" / stack.name
            run.mkdir(parents=True)
            # proc(5): the 22nd field tells when the process began, the third is the first behind its name.
            fields = Path(f"/proc/{service.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            (run / "engine.groups").write_text(f"{service.pid} {fields[19]}\n", encoding="utf-8")
            chosen = choose_runtime("auto", stack, host_with("docker", "2.39.1"))
        finally:
            service.kill()
    assert chosen.name == "processes"
    assert capsys.readouterr() == ("", "runtime: processes (this stack runs by them)\n")
