"""What the tests of the front end share: a state folder with its environment beside a quick engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.runtime.provision import ensure_all
from stackwright.services import gateway, webui

from tests.integration.quick_engine.layout import make_state


@pytest.fixture(scope="module")
def webui_state(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a state folder of its own with real LiteLLM, real Open WebUI and a quick engine."""
    state = tmp_path_factory.mktemp("webui-state")
    recipes = {"gateway": gateway.RECIPE, "webui": webui.RECIPE}
    made = ensure_all(state_folder, recipes, lambda *_: None)
    make_state(state, made["gateway"])
    (state / "venvs" / made["webui"].name).symlink_to(made["webui"])
    return state
