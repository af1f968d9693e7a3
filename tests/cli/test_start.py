"""Bringing a stack up: what is taken down again, what is kept, and which runtime is taken."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.commands.bring_up import Attempt, bring_up
from stackwright.commands.generation import generations_of
from stackwright.commands.options import StartOptions
from stackwright.commands.stack import choose_runtime
from stackwright.domain.host import Containers, GpuAccess, Host
from stackwright.domain.service import Service, ServicePhase, ServiceState, Word
from stackwright.errors import NotHealthyError, RuntimeRefusedError, ValidationError
from stackwright.project.credentials import ensure_secrets
from stackwright.project.generations import GenerationState, Running
from stackwright.project.lock import hold, read_work
from stackwright.project.write import compare_files, write_files
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Say, ServiceChange, Stack

from tests.interrupting import interrupted_at
from tests.planning_requests import plan_for, recorded, with_replicas

ABSENT = (ServiceState(name="engine", phase=ServicePhase.ABSENT),)
HEALTHY = (ServiceState(name="engine", phase=ServicePhase.HEALTHY),)
ENDED = (ServiceState(name="engine", phase=ServicePhase.EXITED, exit_code=1),)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack with its secrets."""
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    made = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
    ensure_secrets(made.secrets, {}, tmp_path / "hf")
    return made


@dataclass
class Scripted:
    """A runtime that reports one look after another, the last again and again, and fails where it is told to."""

    looks: list[tuple[ServiceState, ...]]
    failures: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    changed: tuple[ServiceChange, ...] = ()
    read: dict[str, str] = field(default_factory=dict)
    name: str = "scripted"
    notes: tuple[str, ...] = ()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]

    def prepare(self, say: Say) -> None:  # noqa: ARG002  # the Protocol's signature
        """Be called."""
        self._call("prepare")

    def trial(self, service: Service, words: Iterable[Word]) -> None:
        """Have no place for a program."""

    def owner(self) -> Path | None:
        """Belong to nobody."""
        return None

    def changes(self) -> tuple[ServiceChange, ...]:
        """Tell the changes that it was given."""
        return self.changed

    def reads(self) -> dict[str, str]:
        """Tell the hashes that it was given."""
        return self.read

    def up(self, services: tuple[str, ...] = (), *, anew: bool = False) -> None:  # noqa: ARG002  # the signature
        """Be called."""
        self._call(" ".join(("up", *services)))

    def prove(self) -> None:
        """Be called."""
        self._call("prove")

    def halt(self) -> None:
        """Be called."""
        self._call("halt")

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

    def end(self, service: str, *, kill: bool = False) -> None:
        """Not be called."""
        raise NotImplementedError

    def down(self) -> None:
        """Be called."""
        self._call("down")


@contextmanager
def attempted(
    stack: Stack, runtime: Scripted, *, again: Scripted | None = None, no_rollback: bool = False
) -> Iterator[Attempt]:
    """Give one start under its lock; `again` is the runtime of the generation before."""
    with hold((stack.generated,), "start-environment prod") as (lock,):
        yield Attempt(
            options=StartOptions(timeout_s=1, no_rollback=no_rollback),
            stack=stack,
            number=generations_of(stack).record().number,
            runtime=runtime,
            lock=lock,
            runtime_of=lambda _: again or runtime,
        )


def test_what_was_fetched_is_checked_before_anything_is_touched(stack: Stack) -> None:
    runtime = Scripted(looks=[ABSENT])

    def refuse() -> None:
        raise ValidationError(f"refused after {runtime.calls}")

    with attempted(stack, runtime) as attempt, pytest.raises(ValidationError) as failure:
        bring_up(replace(attempt, check_fetched=refuse))
    assert failure.value.message == "refused after ['prepare']; everything it started is stopped"
    assert runtime.calls == ["prepare", "down"]


def write_rendered(stack: Stack, **pins: str) -> Stack:
    """Write a plan's files as a command does, and return their stack."""
    plan = plan_for(recorded("cpu-small"), pins=pins)
    write_files({stack.generated: compare_files(stack.root, stack.generated, render_plan(plan))})
    return replace(stack, plan=plan, env={key: setting.value for key, setting in flat_settings(plan).items()})


def test_a_start_that_fails_is_taken_down_and_its_logs_are_kept(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Scripted(looks=[ABSENT, ENDED])
    with attempted(stack, runtime) as attempt, pytest.raises(NotHealthyError) as failure:
        bring_up(attempt)
    kept = stack.state / "failures" / "stackwright-prod"
    assert failure.value.message.startswith("engine ended with exit code 1 before it answered")
    assert failure.value.message.endswith("; everything it started is stopped")
    assert (failure.value.hint or "").endswith(f"logs: {kept}")
    assert runtime.calls[:2] == ["prepare", "up"]
    assert runtime.calls[-1] == "down"
    assert (kept / "engine.log").read_text(encoding="utf-8") == "ValueError: engine, 5000 lines\n"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr() == ("", "taking down what was started\n")
    assert read_work(stack.generated) == (None, False)
    assert [each.state for each in generations_of(stack).all()] == [GenerationState.FAILED]


def test_what_ran_before_is_left_running(stack: Stack) -> None:
    """A second start that fails does not take the first one's stack away."""
    runtime = Scripted(looks=[HEALTHY, ENDED])
    with attempted(stack, runtime) as attempt, pytest.raises(NotHealthyError, match="what ran before stays as it is"):
        bring_up(attempt)
    assert "down" not in runtime.calls


@pytest.mark.parametrize("where", ["prepare", "up"])
@pytest.mark.parametrize("failure", [RuntimeRefusedError("no"), KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_whatever_ends_a_start_it_is_taken_down(where: str, failure: BaseException, stack: Stack) -> None:
    """A refusal, Ctrl-C, and a fault of ours."""
    runtime = Scripted(looks=[ABSENT], failures={where: failure})
    with attempted(stack, runtime) as attempt, pytest.raises(type(failure)):
        bring_up(attempt)
    assert runtime.calls[-2:] == [where, "down"]
    assert read_work(stack.generated) == (None, False)


def test_the_wreck_is_left_for_a_look_where_that_is_asked_for(stack: Stack) -> None:
    runtime = Scripted(looks=[ABSENT, ENDED])
    with attempted(stack, runtime, no_rollback=True) as attempt, pytest.raises(NotHealthyError, match="stays as it is"):
        bring_up(attempt)
    assert "down" not in runtime.calls
    # The next start takes what is there for the wreck that it is.
    assert read_work(stack.generated)[0] is not None
    again = Scripted(looks=[HEALTHY, ENDED])
    with attempted(stack, again) as attempt, pytest.raises(NotHealthyError):
        bring_up(attempt)
    assert again.calls[-1] == "down"


def test_the_generation_that_ran_is_brought_back(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_rendered(stack, LITELLM_NUM_WORKERS="1")
    text = (stack.root / "envs/.env.prod").read_text()
    number = generations_of(stack).record().number
    generations_of(stack).set_running(Running(number=number, stack=before.name, runtime="scripted"))
    after = write_rendered(stack, LITELLM_NUM_WORKERS="2")
    change = ServiceChange(name="engine", reason="its settings have changed")
    runtime = Scripted(looks=[HEALTHY, HEALTHY, ENDED], changed=(change,))
    again = Scripted(looks=[HEALTHY, ENDED])
    with attempted(after, runtime, again=again) as attempt, pytest.raises(NotHealthyError) as failure:
        bring_up(attempt)
    # The stand-in's engine ends again, and the person is told both.
    assert "; cannot restore generation 1, which ran before: engine ended" in failure.value.message
    assert again.calls[:2] == ["prepare", "up"]
    assert "down" not in (*runtime.calls, *again.calls)
    assert "halt" in runtime.calls
    assert (stack.root / "envs/.env.prod").read_text() == text
    told = capsys.readouterr().err
    assert "engine restarts: its settings have changed\n" in told
    assert "  changed since generation 1: LITELLM_NUM_WORKERS=1 → 2\n" in told
    assert "restoring generation 1\n" in told


def test_services_restart_one_at_a_time_the_gateway_last(stack: Stack) -> None:
    (engine,) = stack.plan.replicas
    stack = replace(stack, plan=with_replicas(stack.plan, engine, replace(engine, name="engine-2")))
    names = ("engine", "engine-2", "redis", "gateway")
    healthy = tuple(ServiceState(name=name, phase=ServicePhase.HEALTHY) for name in names)
    changed = tuple(ServiceChange(name=name, reason="it has changed") for name in ("gateway", "engine", "engine-2"))
    runtime = Scripted(looks=[healthy], changed=changed, failures={"up gateway": RuntimeRefusedError("enough")})
    with attempted(stack, runtime) as attempt, pytest.raises(RuntimeRefusedError):
        bring_up(attempt)
    assert [call for call in runtime.calls if call.startswith("up")] == [
        "up engine",
        "up engine-2",
        "up gateway",
    ]


def test_a_service_whose_key_has_changed_restarts(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    generations = generations_of(stack)
    reads = {"engine": "as-it-was", "gateway": "as-it-was"}
    write_rendered(stack)
    running = Running(number=generations.record().number, stack=stack.name, runtime="scripted", reads=reads)
    generations.set_running(running)
    healthy = tuple(ServiceState(name=name, phase=ServicePhase.HEALTHY) for name in reads)
    runtime = Scripted(looks=[healthy], read=reads | {"gateway": "now"}, failures={"up": RuntimeRefusedError("enough")})
    with attempted(stack, runtime) as attempt, pytest.raises(RuntimeRefusedError):
        bring_up(attempt)
    assert [call for call in runtime.calls if call.startswith("up")] == ["up gateway", "up"]
    assert capsys.readouterr().err.startswith("gateway restarts: a file that it uses has changed\n")


def test_nothing_changed_is_said(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = Scripted(looks=[HEALTHY], failures={"up": RuntimeRefusedError("enough")})
    with attempted(stack, runtime) as attempt, pytest.raises(RuntimeRefusedError):
        bring_up(attempt)
    assert capsys.readouterr().err == "nothing to change: no service restarts\n"


def test_logs_that_cannot_be_kept_hold_nothing_up(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.state.write_text("mine", encoding="utf-8")
    runtime = Scripted(looks=[ABSENT, ENDED])
    with attempted(stack, runtime) as attempt, pytest.raises(NotHealthyError) as failure:
        bring_up(attempt)
    assert "logs: " not in (failure.value.hint or "")
    assert runtime.calls[-1] == "down"
    assert "warning: cannot keep the logs: " in capsys.readouterr().err


def test_a_taking_down_that_fails_does_not_hide_why(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine's end is what the person needs; that the daemon went too is said beside it."""
    runtime = Scripted(looks=[ABSENT, ENDED], failures={"down": RuntimeRefusedError("Docker refused: gone")})
    with attempted(stack, runtime) as attempt, pytest.raises(NotHealthyError, match="engine ended with exit code 1"):
        bring_up(attempt)
    assert "warning: cannot take it down: Docker refused: gone\n" in capsys.readouterr().err
    work, held = read_work(stack.generated)
    assert work is not None
    assert (work.starting, work.ran, held) == (True, False, False)


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
    assert failure.value.hint == "start Docker, or use `--runtime processes`"


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
    assert capsys.readouterr() == ("", "runtime: processes (this stack runs with it)\n")


def test_a_start_that_is_interrupted_at_any_moment_leaves_no_lock(stack: Stack) -> None:
    """Before it has written down what runs, just after that, and until it has answered: none of it is left half
    done.
    """
    write_rendered(stack)

    def start_that_ends() -> None:
        with attempted(stack, Scripted(looks=[ABSENT, ENDED])) as attempt, suppress(NotHealthyError):
            bring_up(attempt)

    moment = 1
    while interrupted_at(moment, signal.SIGTERM, start_that_ends, ("bring_up.py", "generation.py", "lock.py")):
        assert read_work(stack.generated) == (None, False), f"moment {moment}"
        moment += 1
    assert moment > 50
