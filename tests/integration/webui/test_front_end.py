"""The front end with a real browser: one sign-up, a chat that streams to its end and outlives a restart; in processes.

Real Open WebUI and real LiteLLM; the engine answers at once. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.integration.project import Project, free_port, make_variables
from tests.integration.webui.journey import QUESTION, Visit, ask, choose_model, knock, sign_up
from tests.toy_engine.server import WORDS

pytestmark = pytest.mark.integration
NO_DOCKER = "unix:///nonexistent/docker.sock"
ANSWER = "".join(WORDS).strip()
# Where a person who looks at what the tests saw wants the pictures.
PICTURES = os.environ.get("STACKWRIGHT_PICTURES")


@pytest.fixture(scope="module")
def port() -> int:
    """Give the port of the front end."""
    return free_port()


@pytest.fixture(scope="module")
def project(webui_state: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a project whose stack has the front end, and stop it in the end."""
    folder = tmp_path_factory.mktemp("project")
    variables = make_variables(NO_DOCKER, webui_state, folder / "caches")
    made = Project(folder=folder, variables=variables, port=free_port())
    pins = [*made.pins, f"--set=WEBUI_PORT={port}"]
    done = made.command("start-environment", "dev", "--runtime=processes", "--with", "webui", *pins)
    assert done.returncode == 0, done.stderr
    assert f"http://127.0.0.1:{port}" in done.stderr + done.stdout
    yield made
    made.command("stop-environment", "dev", "--runtime=processes")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of what the browser saw."""
    folder = Path(PICTURES) if PICTURES else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def visit(browser: Browser, project: Project, port: int) -> Visit:  # noqa: ARG001  # the stack has to run
    """Give the first person's browser."""
    return Visit(browser, f"http://127.0.0.1:{port}")


def test_a_person_signs_up_chooses_the_model_and_reads_its_answer(visit: Visit, pictures: Path) -> None:
    sign_up(visit)
    assert choose_model(visit, "smoke") == ["smoke"]
    ask(visit, QUESTION, ANSWER)
    visit.page.screenshot(path=pictures / "answer.png")
    assert visit.strange() == []
    assert visit.faults == []


def test_nobody_else_signs_up(browser: Browser, visit: Visit, pictures: Path) -> None:
    words, status = knock(browser, visit.url, pictures / "stranger.png")
    assert "Sign in to Open WebUI" in words
    assert "Sign up" not in words
    assert status == 403


def test_its_keys_are_seen_nowhere(project: Project, webui_state: Path) -> None:
    run = webui_state / "run" / project.name
    shown = [file.read_text(errors="replace") for file in run.rglob("*") if file.is_file()]
    shown += [file.read_bytes().decode(errors="replace") for file in Path("/proc").glob("[0-9]*/cmdline")]
    assert any("webui.py" in text for text in shown)
    for name in ("webui_gateway_key", "webui_secret_key"):
        assert not [text[:200] for text in shown if project.secrets[name] in text], name


def test_the_chat_outlives_a_restart_and_a_new_key(
    browser: Browser, project: Project, visit: Visit, pictures: Path
) -> None:
    rotated = project.command("keys", "rotate", "dev", "webui")
    assert rotated.returncode == 0, rotated.stderr
    done = project.command("restart", "dev", "webui")
    assert done.returncode == 0, done.stderr
    visit.page.reload()
    expect(visit.page.get_by_text(ANSWER).first).to_be_visible(timeout=60_000)
    visit.page.screenshot(path=pictures / "after.png")
    ask(visit, "And again?", ANSWER)
    assert knock(browser, visit.url)[1] == 403
