"""A stack that runs, and the generation before: starts that are killed, changes that fail, and ways back.

Under Docker Compose, with a quick engine in vLLM's place. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import INTERRUPTED, MakeFault
from tests.integration.faults.left import find_left
from tests.integration.faults.moments import reach, signal_at
from tests.integration.faults.traffic import clients
from tests.integration.images import Images
from tests.integration.project import Project

START = ("start-environment", "dev", "--runtime=compose")
STATUS = ("status", "dev", "--runtime=compose", "--json")
LOCAL = "envs/.env.dev.local"
ENDED = "before it answered"
RUNS = "runs: generation {}, every service healthy"


@pytest.fixture(scope="module")
def project(make_project: MakeProject, quick_pins: list[str]) -> Iterator[Project]:
    """Give a project configured for the CPU; nothing is left of it after the module."""
    project = make_project()
    project.configure("cpu", *quick_pins)
    yield project
    assert run(project, "stop-environment", "dev", "--runtime=compose").code == 0
    assert str(find_left(project)) == "nothing"


def running(project: Project) -> int | None:
    """Return the generation that runs, and answers; None where nothing does."""
    told = json.loads(run(project, *STATUS).printed)
    healthy = {service["phase"] for service in told["services"]} == {"healthy"}
    assert healthy or told["generation"] is None, told
    number: int | None = told["generation"]
    assert number is None or project.complete()
    return number


def engine_of(project: Project) -> str:
    """Name the engine's container and when it began."""
    found = project.inspect("engine")
    return f"{found['Id']} {found['State']['StartedAt']}"


@pytest.fixture
def broken(project: Project, images: Images) -> Iterator[Path]:
    """Give the person's own file with an image that is no engine: its container ends at once."""
    local = project.folder / LOCAL
    local.touch(mode=0o600)
    local.write_text(f"VLLM_IMAGE={images.redis}\n")
    yield local
    local.unlink(missing_ok=True)


def test_interrupted_in_the_smoke_test(project: Project, fault: MakeFault) -> None:
    """Everything is healthy by then, and all of it goes again."""
    case = fault("SIGTERM in the smoke test", project)
    ended = signal_at(project, "gateway: asked with a wrong key", signal.SIGTERM, *START)
    case.ends(ended, code=INTERRUPTED, says=("everything it started is stopped", "interrupted"))


def test_start_after_a_killed_one_finishes_it(project: Project, fault: MakeFault) -> None:
    case = fault("kill -9 in loading, then start-environment", project)
    with project.held():
        ended = signal_at(project, "redis: healthy", signal.SIGKILL, *START)
    assert ended.code == -signal.SIGKILL
    engine = engine_of(project)
    again = run(project, *START)
    case.ends(again, code=0, says=("dev is ready at",), left=RUNS.format(1))
    assert engine_of(project) == engine  # what was loading went on
    assert running(project) == 1


def test_killed_while_nothing_had_to_be_done(project: Project, fault: MakeFault) -> None:
    """A start of what runs already is killed: what runs goes on."""
    case = fault("kill -9 in the smoke test of what runs already, then start-environment", project)
    engine = engine_of(project)
    signal_at(project, "no service restarts", signal.SIGKILL, *START)
    again = run(project, *START)
    case.ends(again, code=0, says=("dev is ready at",), left=RUNS.format(1))
    assert (engine_of(project), running(project)) == (engine, 1)


def test_rollback_while_clients_ask(project: Project, quick_pins: list[str], fault: MakeFault) -> None:
    changed = run(project, *START, *project.pins, *quick_pins, "--set=GATEWAY_COOLDOWN_S=7")
    assert (changed.code, running(project)) == (0, 2)
    project.configure("cpu", "--reset", *quick_pins)  # so that the files are those that the rollback brings back
    case = fault("rollback while clients ask (one gateway, which restarts)", project)
    engine = engine_of(project)
    with clients(project) as traffic:
        traffic.wait_for(more=2)
        ended = run(project, "rollback", "dev", "--to=1", "--runtime=compose")
        traffic.wait_for(more=2)
    # 503: it is being stopped, and says when to ask again.
    assert {status for _, status in traffic.answers} <= {0, 200, 503}
    case.ends(ended, code=0, says=("generation 1 runs again",), left=f"runs: {traffic.words()}")
    assert (engine_of(project), running(project)) == (engine, 1)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL])
def test_ended_while_a_change_loads(number: signal.Signals, project: Project, broken: Path, fault: MakeFault) -> None:
    """A change that loads is given up: the generation before comes back, at once or with the next command."""
    broken.write_text("VLLM_MAX_MODEL_LEN=1024\n")
    case = fault(f"{number.name} while a change loads" + (", then start-environment" if number == 9 else ""), project)
    with project.held():
        ended = signal_at(project, "engine: starting", number, *START)
    if number is signal.SIGINT:
        says = ("generation 1, which ran before, runs again", "interrupted")
        case.ends(ended, code=INTERRUPTED, says=says, left=RUNS.format(1))
        assert running(project) == 1
        return
    assert "begun while generation 1 ran" in run(project, "status", "dev", "--runtime=compose").said
    broken.unlink()
    again = run(project, *START)
    case.ends(again, code=0, says=("dev is ready at",), changed=(LOCAL,), left=RUNS.format(1))
    assert running(project) == 1


def test_failed_change_with_no_rollback(project: Project, broken: Path, fault: MakeFault) -> None:
    case = fault("a change whose engine ends at once, with --no-rollback", project)
    ended = run(project, *START, "--no-rollback")
    left = str(find_left(project))
    assert "containers: " in left
    case.ends(ended, code=7, says=(ENDED, "stays as it is"), left="at work: the wreck, for a look")
    doctor = run(project, "doctor", "dev", "--runtime=compose")
    assert doctor.code == 7
    assert "engine" in doctor.printed
    broken.unlink()
    assert run(project, *START).code == 0
    assert running(project) == 1


@pytest.mark.long
def test_failed_change_interrupted_while_it_is_taken_back(project: Project, broken: Path, fault: MakeFault) -> None:
    """The first Ctrl-C does not hurry the way back; after kill -9 the next command knows what ran."""
    case = fault("SIGINT while a failed change is taken back", project)
    with Command(project, *START) as start:
        reach(start, "restoring generation 1")
        start.mark()
        start.process.send_signal(signal.SIGINT)
        ended = start.end()
    says = (ENDED, "generation 1, which ran before, runs again")
    case.ends(ended, code=7, says=says, left=RUNS.format(1))
    assert "still cleaning up" in ended.said
    assert running(project) == 1
    case = fault("kill -9 while a failed change is taken back, then start-environment", project)
    ended = signal_at(project, "restoring generation 1", signal.SIGKILL, *START)
    assert ended.code == -signal.SIGKILL
    broken.unlink()
    again = run(project, *START)
    case.ends(again, code=0, says=("dev is ready at",), changed=(LOCAL,), left=RUNS.format(1))
    assert running(project) == 1


def test_secrets_removed_while_it_runs(project: Project, fault: MakeFault) -> None:
    """`status` and `stop` need none; what runs goes on with those that it has read."""
    secrets = project.folder / "envs" / ".secrets"
    moved = secrets.with_name(".secrets-moved")
    shutil.move(secrets, moved)
    case = fault("the secrets are removed while it runs: validate-environment", project)
    ended = run(project, "validate-environment", "dev", "--runtime=compose")
    case.ends(ended, code=5, says=("secret-missing",), left=RUNS.format(1))
    shutil.move(moved, secrets)
    assert running(project) == 1


def test_project_folder_deleted_while_it_starts(
    make_project: MakeProject, quick_pins: list[str], fault: MakeFault
) -> None:
    """Nobody but Docker knows of the stack then: it is taken down by its labels."""
    project = make_project()
    project.configure("cpu", *quick_pins)
    with project.held(), Command(project, *START) as start:
        reach(start, "engine: starting")
        shutil.rmtree(project.folder, ignore_errors=True)
        case = fault("the project folder is deleted during a start", project)
        start.mark()
        time.sleep(1)
        start.process.send_signal(signal.SIGINT)
        ended = start.end()
    case.ends(ended, code=INTERRUPTED, says=("everything it started is stopped",))
