"""Where a project, its state and the caches stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.project.location import choose_folders, find_root, name_command

CHECKOUT = Path(__file__).parents[2]


def test_the_root_is_what_was_asked_for_else_the_checkout(tmp_path: Path) -> None:
    assert find_root(tmp_path / "x", tmp_path) == tmp_path / "x"
    assert find_root(Path("~/x"), tmp_path) == Path.home() / "x"
    assert find_root(None, tmp_path) == CHECKOUT


@pytest.mark.parametrize("out", [Path("~nobody-of-that-name/x"), Path("x" * 300)])
def test_a_root_that_cannot_be_is_refused_at_once(out: Path, tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, OSError)):
        find_root(out, tmp_path)


def test_a_command_is_written_as_it_can_be_pasted(tmp_path: Path) -> None:
    script = CHECKOUT / "scripts" / "start-environment"
    assert name_command("start-environment", "dev", root=CHECKOUT, working=tmp_path) == f"{script} dev"
    assert name_command("start-environment", "dev", root=tmp_path / "my $x", working=tmp_path) == (
        f"{script} dev --out '{tmp_path}/my $x'"
    )
    assert name_command("no-script", root=CHECKOUT, working=tmp_path) == "no-script"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("/me/.local/share/stackwright", "/me/.cache/huggingface", "/me/.cache/vllm")),
        ({"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}, ("/d/stackwright", "/c/huggingface", "/c/vllm")),
        (
            {"STACKWRIGHT_STATE": "/s", "HF_HOME": "/h", "VLLM_CACHE_ROOT": "/v", "XDG_CACHE_HOME": "/c"},
            ("/s", "/h", "/v"),
        ),
        ({"HF_HOME": ""}, ("/me/.local/share/stackwright", "/me/.cache/huggingface", "/me/.cache/vllm")),
        (
            {"HF_HOME": "~/models"},
            ("/me/.local/share/stackwright", f"{Path.home()}/models", "/me/.cache/vllm"),
        ),
        ({"HF_HOME": "models"}, ("/me/.local/share/stackwright", f"{Path.cwd()}/models", "/me/.cache/vllm")),
    ],
)
def test_state_and_caches_lie_where_each_tool_looks(variables: dict[str, str], expected: tuple[str, str, str]) -> None:
    state, folders = choose_folders(variables, Path("/me"))
    assert (str(state), folders.hf_home, folders.engine_caches["vllm"]) == expected
