"""The front end with a real browser: one sign-up, a chat that streams to its end and outlives a restart; both runtimes.

Real Open WebUI and real LiteLLM; the engine answers at once. The tests of a runtime share one stack and run in the
order written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct
from playwright.sync_api import Browser, expect
from stackwright.services.webui import SECRET_KEY

from tests.integration.images import Images
from tests.integration.project import NO_ENGINE, Project, free_port
from tests.integration.webui.journey import PATIENCE_MS, QUESTION, Visit, ask, choose_model, knock, sign_up
from tests.toy_engine.server import WORDS

pytestmark = pytest.mark.integration
ANSWER = "".join(WORDS).strip()
# Where a person who looks at what the tests saw wants the pictures.
PICTURES = os.environ.get("STACKWRIGHT_PICTURES")


class Place(Struct, frozen=True, kw_only=True):
    """A stack with a front end: the runtime, the project, and where a browser finds it."""

    runtime: str
    project: Project
    url: str

    def command(self, *words: str) -> str:
        """Run a command of this runtime that has to succeed; return what it tells."""
        done = self.project.command(*words, f"--runtime={self.runtime}")
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


def start(runtime: str, state: Path, folder: Path, host: str, pins: list[str]) -> Place:
    """Start a stack with the front end."""
    port = free_port()
    project = Project.new(folder, state, host)
    place = Place(runtime=runtime, project=project, url=f"http://127.0.0.1:{port}")
    # The runtimes share their data, so each of these stacks has a folder of its own.
    own = [f"--set=WEBUI_PORT={port}", f"--set=DATA_HOME={folder / 'data'}"]
    told = place.command("start-environment", "dev", "--with=webui", *project.pins, *own, *pins)
    assert place.url in told
    return place


@pytest.fixture(scope="module", params=["processes", "compose"])
def place(
    request: pytest.FixtureRequest, webui_state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Give a stack with the front end in each runtime, and remove it in the end."""
    folder, host, pins = tmp_path_factory.mktemp("project"), NO_ENGINE, []
    if request.param == "compose":
        images: Images = request.getfixturevalue("images")
        host = request.getfixturevalue("docker_host")
        pins = [*images.pins(images.quick_engine), f"--set=WEBUI_IMAGE={images.webui}"]
    failures = request.session.testsfailed
    made = start(request.param, webui_state, folder, host, pins)
    yield made
    if request.session.testsfailed > failures:
        print(made.project.command("logs", "dev", "webui", f"--runtime={made.runtime}").stdout[-5000:])
    made.command("stop-environment", "dev")
    if request.param == "compose":
        made.project.remove()


@pytest.fixture(scope="module")
def pictures(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of what the browser saw."""
    folder = Path(PICTURES or tmp_path_factory.mktemp("pictures"), place.runtime)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def visit(browser: Browser, place: Place) -> Visit:
    """Give the first person's browser."""
    return Visit(browser, place.url)


def test_a_person_signs_up_chooses_the_model_and_reads_its_answer(visit: Visit, pictures: Path) -> None:
    sign_up(visit)
    assert choose_model(visit, "smoke") == ["smoke"]
    ask(visit, QUESTION, ANSWER)
    visit.page.screenshot(path=pictures / "answer.png")
    assert visit.strange() == []
    # Open WebUI 0.12.4 makes its queue of sounds of an element that a slow page does not have yet (AudioQueue).
    assert [fault for fault in visit.faults if "(reading 'play')" not in fault] == []


def test_nobody_else_signs_up(browser: Browser, place: Place, pictures: Path) -> None:
    words, status = knock(browser, place.url, pictures / "stranger.png")
    assert "Sign in to Open WebUI" in words
    assert "Sign up" not in words
    assert status == 403


def test_its_keys_are_seen_nowhere(place: Place) -> None:
    project = place.project
    shown = [file.read_bytes().decode(errors="replace") for file in Path("/proc").glob("[0-9]*/cmdline")]
    shown += [place.project.command("logs", "dev", f"--runtime={place.runtime}").stdout]
    if place.runtime == "compose":
        shown += [project.docker("container", "inspect", *project.remains("container"))]
    else:
        run = Path(project.variables["STACKWRIGHT_STATE"], "run", project.name)
        shown += [file.read_text(errors="replace") for file in run.rglob("*") if file.is_file()]
    assert any("webui.py" in text for text in shown)
    for name in ("webui_gateway_key", SECRET_KEY):
        assert not [text[:200] for text in shown if project.secrets[name] in text], name


def test_the_chat_outlives_a_restart_and_a_new_key(
    request: pytest.FixtureRequest, browser: Browser, place: Place, visit: Visit, pictures: Path
) -> None:
    if place.runtime == "compose" and not request.config.getoption("--long"):
        pytest.skip("half a minute more: with --long")
    rotated = place.project.command("keys", "rotate", "webui", "dev")
    assert rotated.returncode == 0, rotated.stderr
    place.command("start-environment", "dev")
    visit.page.reload()
    expect(visit.page.get_by_text(ANSWER).first).to_be_visible(timeout=PATIENCE_MS)
    visit.page.screenshot(path=pictures / "after.png")
    ask(visit, "And again?", ANSWER)
    assert knock(browser, place.url)[1] == 403


def test_a_container_has_no_rights_and_one_port(place: Place) -> None:
    if place.runtime != "compose":
        pytest.skip("containers alone")
    container = place.project.inspect("webui")
    host = container["HostConfig"]
    assert (host["CapDrop"], host["ReadonlyRootfs"]) == (["ALL"], True)
    port = place.url.rpartition(":")[2]
    assert host["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
    assert {name.rpartition("_")[2] for name in container["NetworkSettings"]["Networks"]} == {"inside", "door"}
