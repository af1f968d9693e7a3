"""What the tests of the front end share: a browser, and a state folder with its environment beside a quick engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from stackwright.runtime.provision import ensure_all
from stackwright.services import gateway, webui

from tests.integration.quick_engine.layout import make_state
from tests.integration.test_report_page import FLAGS


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Give Debian's browser."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here; the testbed installs it for root on Debian")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def webui_state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state folder of its own with real LiteLLM, real Open WebUI and a quick engine."""
    state = tmp_path_factory.mktemp("webui-state")
    recipes = {"gateway": gateway.RECIPE, "webui": webui.RECIPE}
    made = ensure_all(state_folder, recipes, lambda *_: None)
    make_state(state, made["gateway"])
    (state / "venvs" / made["webui"].name).symlink_to(made["webui"])
    return state
