"""The real vLLM is asked whether it takes the settings, in its image and in its virtual environment, without weights.

Nothing here knows what it will say: a Gemma 2 is pinned to float16, which vLLM takes for this architecture alone not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.conftest import MakeProject
from tests.integration.fake_hub import serve_hub
from tests.integration.images import Images
from tests.integration.project import Project, write_local

ASKING = "engine: asking vLLM whether it takes these settings"
# A machine that does much else may take longer than a question may; what was imported once is imported faster.
ATTEMPTS = 5


def write_gemma(folder: Path) -> Path:
    """Write the smoke model as one of another architecture; return its folder. Its weights are never read."""
    write_smoke_model(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    other = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "query_pre_attn_scalar": 32}
    (folder / "config.json").write_text(json.dumps({**config, **other}), encoding="utf-8")
    return folder


def validate(project: Project, runtime: str) -> tuple[int, list[tuple[str, str]], bool]:
    """Validate until the engine has answered in time.

    Return the exit code, name and words of each finding, and whether the engine was asked at last.
    """
    for _ in range(ATTEMPTS):
        done = project.command("validate-environment", "dev", f"--runtime={runtime}", "--json")
        found = [(finding["check"], finding["found"]) for finding in json.loads(done.stdout)["findings"]]
        if not any("no answer in" in words for _, words in found):
            break
    named = [finding for finding in found if finding[0] != "container-root"]
    return done.returncode, named, ASKING in done.stderr.splitlines()


# Processes first: what vLLM finds out about an architecture, at the price of a second start, both find in its cache.
@pytest.mark.parametrize("runtime", ["processes", "compose"])
def test_what_the_engine_refuses_is_refused_before_weights_are_loaded(
    runtime: str, make_project: MakeProject, images: Images, tmp_path: Path
) -> None:
    project = make_project(STACKWRIGHT_STATE=str(share_environments(make_project(), tmp_path)))
    project.configure("cpu", f"--model={write_gemma(tmp_path / 'gemma')}", *images.pins())
    local = write_local(project, "VLLM_DTYPE=float16\n")
    refusal = "gemma: the installed vLLM refuses these settings: models of type gemma2 do not run in float16"
    assert validate(project, runtime) == (5, [("engine-refuses", refusal)], True)
    assert validate(project, runtime) == (5, [("engine-refuses", refusal)], False)
    done = project.command("start-environment", "dev", f"--runtime={runtime}")
    assert (done.returncode, refusal in done.stderr, ASKING in done.stderr) == (5, True, False)
    local.unlink()
    assert validate(project, runtime) == (0, [], True)
    assert validate(project, runtime) == (0, [], False)
    assert project.remains("container") == project.remains("network") == []


def test_a_start_asks_before_it_downloads_weights(make_project: MakeProject, images: Images, tmp_path: Path) -> None:
    """Of a model that is still on its hub the config is all that is fetched."""
    with serve_hub(write_gemma(tmp_path / "gemma"), "someone/gemma") as hub:
        project = make_project(HF_ENDPOINT=hub.url)
        project.configure("cpu", "--model=someone/gemma", *images.pins())
        shutil.rmtree(Path(project.variables["HF_HOME"]) / "hub")
        write_local(project, "VLLM_DTYPE=float16\n")
        hub.requests.clear()
        done = project.command("start-environment", "dev", "--runtime=processes")
        asked = list(hub.requests)
    assert "engine was not asked for its configuration: a model's config.json is not here yet" in done.stderr
    assert "models of type gemma2 do not run in float16" in done.stderr
    assert done.returncode == 5
    assert not [request for request in asked if "safetensors" in request]


def share_environments(project: Project, folder: Path) -> Path:
    """Give a state folder that remembers no answer and has the virtual environments of the session's."""
    state = folder / "state"
    state.mkdir()
    (state / "venvs").symlink_to(Path(project.variables["STACKWRIGHT_STATE"]) / "venvs")
    return state
