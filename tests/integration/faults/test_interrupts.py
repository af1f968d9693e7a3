"""Ctrl-C, SIGTERM and kill -9 in every phase of a start, under both runtimes; what the next command makes of it.

A quick engine has vLLM's place and never gets ready: what happens around one that answers is in test_generations.py.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.faults.command import Command, Ended, run
from tests.integration.faults.conftest import INTERRUPTED, Fault, MakeFault
from tests.integration.faults.left import files_of, find_left
from tests.integration.faults.moments import Moment, reach, signal_at
from tests.integration.project import Project

MakeQuickProject = Callable[..., Project]
CONFIGURE = ("configure-gpu", "cpu", "--env=dev")
LENGTHS = ("--set=VLLM_MAX_MODEL_LEN=1024", "--set=VLLM_MAX_MODEL_LEN=2048")
MOMENTS = 8


@pytest.fixture(scope="module")
def under_compose(make_project: MakeProject, quick_pins: list[str]) -> Iterator[Project]:
    """Give a project that is configured for Docker Compose."""
    project = make_project()
    project.configure("cpu", *quick_pins)
    with project.held():
        yield project


@pytest.fixture(scope="module")
def under_supervisor(make_quick_project: MakeQuickProject) -> Iterator[Project]:
    """Give a project that is configured where no container engine answers."""
    project = make_quick_project()
    project.configure("cpu")
    with project.held():
        yield project


@pytest.fixture
def project(request: pytest.FixtureRequest, runtime: str) -> Project:
    """Give the project of a runtime."""
    found: Project = request.getfixturevalue({"compose": "under_compose", "processes": "under_supervisor"}[runtime])
    return found


def start(runtime: str) -> tuple[str, ...]:
    """Return the words that start the environment."""
    return ("start-environment", "dev", f"--runtime={runtime}")


def moment_of(project: Project, words: str, runtime: str) -> Moment:
    """Return the moment of a phase: without containers nothing is said before the services are there."""
    if (words, runtime) == ("engine: waiting", "processes"):
        return Path(project.variables["STACKWRIGHT_STATE"]) / "run" / project.name
    return words


@contextmanager
def silent_registry() -> Iterator[str]:
    """Listen where an image registry might, and never answer; give the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        held: list[socket.socket] = []
        ended = threading.Event()

        def accept() -> None:
            listener.settimeout(0.1)
            while not ended.is_set():
                try:
                    held.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_it_configures(
    number: signal.Signals, make_quick_project: MakeQuickProject, fault: MakeFault
) -> None:
    """At several moments: as soon as the next command has looked, every file is as before, or every file is new."""
    project = make_quick_project()
    sets = []
    for length in LENGTHS:
        whole = run(project, *CONFIGURE, *project.pins, length)
        assert whole.code == 0, whole.said
        sets.append(files_of(project))
    assert sets[0] != sets[1]
    clean = -number if number is signal.SIGKILL else INTERRUPTED
    case = fault(f"{number.name} in configure-gpu, at {MOMENTS} moments", project, "any")
    caught: list[Ended] = []
    lasts = whole.seconds
    for moment in range(MOMENTS):
        words = (*CONFIGURE, *project.pins, LENGTHS[moment % 2])
        at = lasts * (moment + 1) / MOMENTS
        ended = signal_at(project, at, number, *words)
        # The machine may have been busier before: one that was over by then tells how long it lasts now.
        lasts = min(lasts, at) if ended.code == 0 and not caught else lasts
        # Before it has read its arguments, a signal ends it as it ends any program.
        assert ended.code in (0, clean, -number), ended.said
        assert "Traceback" not in ended.said
        caught += [ended] if ended.code == clean else []
        assert run(project, "status", "dev", "--runtime=processes").code == 0
        assert files_of(project) in sets
    project.configure("cpu", LENGTHS[1])
    case.ends(caught[-1], code=clean, engine=False)


@pytest.mark.parametrize(
    ("phase", "moment", "number"),
    [
        ("the checks", "warning: ", signal.SIGTERM),
        ("creating the services", "engine: waiting", signal.SIGINT),
        ("loading", "engine: starting", signal.SIGINT),
        pytest.param("loading", "engine: starting", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("runtime", ["compose", "processes"])
def test_interrupted(
    runtime: str, phase: str, moment: str, number: signal.Signals, project: Project, fault: MakeFault
) -> None:
    case = fault(f"{number.name} in {phase}", project, runtime)
    ended = signal_at(project, moment_of(project, moment, runtime), number, *start(runtime))
    case.ends(ended, code=INTERRUPTED, says=("interrupted",), engine=runtime == "compose")


@pytest.mark.parametrize("runtime", ["compose", "processes"])
def test_interrupted_while_it_takes_down(runtime: str, project: Project, fault: MakeFault) -> None:
    """A second Ctrl-C does not hurry it out of its cleaning up."""
    case = fault("SIGINT, and another while it takes down", project, runtime)
    with Command(project, *start(runtime)) as command:
        reach(command, "engine: starting")
        command.signal(signal.SIGINT)
        reach(command, "taking down what was started")
        command.process.send_signal(signal.SIGINT)
        ended = command.end()
    says = ("still cleaning up", "everything it started is stopped", "interrupted")
    case.ends(ended, code=INTERRUPTED, says=says, engine=runtime == "compose")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_while_it_pulls(
    number: signal.Signals, make_project: MakeProject, quick_pins: list[str], fault: MakeFault
) -> None:
    project = make_project()
    with silent_registry() as address:
        project.configure("cpu", *quick_pins, f"--set=VLLM_IMAGE={address}/engine:none")
        case = fault(f"{number.name} in pulling an image", project)
        ended = signal_at(project, "engine: pulling", number, *start("compose"))
        if number is signal.SIGINT:
            case.ends(ended, code=INTERRUPTED, says=("interrupted",))
        else:
            stop_after_a_kill(project, "compose", case, ended)


@pytest.mark.parametrize(
    ("phase", "moment"),
    [
        ("the checks", "warning: "),
        ("creating the services", "engine: waiting"),
        ("loading", "engine: starting"),
    ],
)
@pytest.mark.parametrize("runtime", ["compose", "processes"])
def test_killed(runtime: str, phase: str, moment: str, project: Project, fault: MakeFault) -> None:
    case = fault(f"kill -9 in {phase}, then stop-environment", project, runtime)
    ended = signal_at(project, moment_of(project, moment, runtime), signal.SIGKILL, *start(runtime))
    stop_after_a_kill(project, runtime, case, ended)


def stop_after_a_kill(project: Project, runtime: str, case: Fault, ended: Ended) -> None:
    """Check that the next `stop-environment` leaves nothing of a command that was killed."""
    assert ended.code == -signal.SIGKILL
    stopped = run(project, "stop-environment", "dev", f"--runtime={runtime}")
    case.ends(stopped, code=0, engine=runtime == "compose")


@pytest.mark.parametrize("runtime", ["compose", "processes"])
def test_second_command_during_a_start(runtime: str, project: Project, fault: MakeFault) -> None:
    """One wins; each of the others is told who is at work and since when, and changes nothing."""
    with Command(project, *start(runtime)) as first:
        reach(first, "engine: starting")
        for words in (
            start(runtime),
            (*CONFIGURE, *project.pins, LENGTHS[0]),
            ("stop-environment", "dev", f"--runtime={runtime}"),
        ):
            case = fault(f"{words[0]} during a start", project, runtime)
            ended = run(project, *words)
            pid = first.process.pid
            says = (f"`start-environment dev` is running, process {pid}, since ", f"or end it: kill {pid}")
            case.ends(ended, code=6, says=says, left="at work: the start that came first", engine=runtime == "compose")
        first.process.send_signal(signal.SIGTERM)
        assert first.end().code == INTERRUPTED
    assert str(find_left(project, engine=runtime == "compose")) == "nothing"
