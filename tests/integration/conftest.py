"""What the integration tests share: an engine, images, a state folder, and project folders that clean up.

Several processes may run them at once, each a file at a time (`pytest --numprocesses 2 --dist loadfile`): a project has
names, ports and folders of its own, and so has each session its state. Only the container engine has to be there
before, as `./scripts/test` sees to: of several sessions, none can tell whether another still needs the one it started.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE as GATEWAY_RECIPE

from tests.integration.images import Images, build_images
from tests.integration.project import Project
from tests.integration.quick_engine.layout import make_state
from tests.integration.testbed import TestbedUnavailableError, answers, engine, state_folder

MakeProject = Callable[..., Project]
HERE = Path(__file__).parent
# As root, without a screen, and without the browser's own errands.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
# The files that take longest begin first, so that neither process is left with one while the other has nothing to do;
# those with real vLLM, which needs the processor, beside those that mostly wait for health checks and cooldowns.
LONGEST = (
    "gateway/test_outside.py",
    "faults/test_generations.py",
    "test_compose.py",
    "faults/test_running_stack.py",
    "test_processes.py",
    "test_one_stack.py",
    "webui/test_front_end.py",
    "heartbeat/test_heartbeat.py",
    "test_change.py",
    "gateway/test_switching.py",
    "faults/test_interrupts.py",
    "test_gpu_compose.py",
    "gateway/test_replicas.py",
    "faults/test_failed_starts.py",
    "gateway/test_limits.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; the tests of a file keep their order, and unit tests come before them."""
    rank = {HERE / name: number for number, name in enumerate(LONGEST, start=-len(LONGEST))}
    items.sort(key=lambda item: (item.path.is_relative_to(HERE), rank.get(item.path, 0)))


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Give the address of a container engine with Compose v2, started for this session where there was none."""
    with contextlib.ExitStack() as ended_with_session:
        try:
            host = ended_with_session.enter_context(engine())
        except TestbedUnavailableError as reason:
            pytest.skip(str(reason))
        yield host


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Give Debian's browser. For a module alone: while Playwright is open, `asyncio.run` of another would fail."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here; the testbed installs it for root on Debian")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def images(docker_host: str) -> Images:
    """Give the names of images that are there, built from this checkout."""
    return build_images(docker_host)


@pytest.fixture(scope="session")
def gpu_requests(docker_host: str, images: Images) -> None:
    """Require an engine that takes GPU reservations; one that was started by the testbed does."""
    command = ["docker", "run", "--rm", "--gpus=all", "--entrypoint=/bin/true", images.redis]
    if not answers(command, DOCKER_HOST=docker_host):
        pytest.skip("needs an engine with the `nvidia` device driver")


@pytest.fixture(scope="session", name="state_folder")
def give_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a state folder of this session, which shares only the virtual environments: making them takes minutes."""
    shared, state = state_folder() / "venvs", tmp_path_factory.mktemp("state")
    shared.mkdir(parents=True, exist_ok=True)
    (state / "venvs").symlink_to(shared)
    yield state
    (state / "venvs").unlink()


@pytest.fixture(scope="session")
def quick_state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state folder in which the processes runtime finds a quick engine in vLLM's place."""
    state = tmp_path_factory.mktemp("quick-state")
    make_state(state, ensure(state_folder, GATEWAY_RECIPE, lambda *_: None))
    return state


@pytest.fixture(scope="session")
def quick_pins(images: Images) -> list[str]:
    """Give the settings that put a quick engine in vLLM's place, and the built images in that of the others."""
    return images.pins(images.quick_engine)


@pytest.fixture(scope="module")
def make_project(
    request: pytest.FixtureRequest, docker_host: str, state_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeProject]:
    """Give a maker of empty project folders. What they started is gone after the module; failures print logs."""
    made: list[Project] = []
    failures = request.session.testsfailed

    def make(**variables: str) -> Project:
        made.append(Project.new(tmp_path_factory.mktemp("project"), state_folder, docker_host, **variables))
        return made[-1]

    yield make
    for project in made:
        if request.session.testsfailed > failures:
            print(project.logs())
        project.remove()
