"""The wishes that all environments share, and what of them an environment's own file overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.environment import Environment
from stackwright.domain.wishes import Wishes
from stackwright.errors import UsageError
from stackwright.project.folder import read_wishes
from stackwright.project.inputs import changed_inputs, record_inputs
from stackwright.project.joining import join_wishes, shared_keys

from tests.cli.commands import Run
from tests.planning_requests import paths_of

OWN = "schema: 1\nmodel: null\ngpu_memory_utilization: 0.8\nmax_model_len: null\ngateway: {bind: 127.0.0.1, port: 1}\n"
MANY = "models: [{name: smoke}, {name: Qwen/Qwen3-0.6B}]\n"


def read(folder: Path, common: str, own: str = OWN) -> Wishes:
    """Read the wishes of two files."""
    (folder / "envs").mkdir(exist_ok=True)
    (folder / "envs/common.yaml").write_text(common, encoding="utf-8")
    (folder / "envs/dev.yaml").write_text(own, encoding="utf-8")
    return read_wishes(paths_of(folder))


def test_mappings_are_joined_and_lists_replaced() -> None:
    common = {"a": {"b": 1, "c": [1, 2], "d": {"e": 1}}, "f": 1, "g": 2}
    own = {"a": {"b": 3, "c": [4], "d": None}, "f": None}
    assert join_wishes(common, own) == {"a": {"b": 3, "c": [4], "d": {"e": 1}}, "f": 1, "g": 2}
    assert shared_keys(common, own) == {"a.d", "a.d.e", "f", "g"}


def test_what_all_share_is_overridden_key_by_key(tmp_path: Path) -> None:
    common = "schema: 1\nmax_model_len: 4096\nsettings: {GATEWAY_PORT: 9, LITELLM_NUM_WORKERS: 2}\n"
    wishes = read(tmp_path, common, OWN + "settings: {GATEWAY_PORT: 10}\n")
    assert (wishes.max_model_len, wishes.pins) == (4096, {"GATEWAY_PORT": "10", "LITELLM_NUM_WORKERS": "2"})
    assert [wishes.is_shared(f"settings.{key}") for key in wishes.pins] == [False, True]


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        ("model: Qwen/Qwen3-0.6B\n", "", ("Qwen/Qwen3-0.6B", 0)),
        ("model: Qwen/Qwen3-0.6B\n", "model: smoke\n", ("smoke", 0)),
        ("model: Qwen/Qwen3-0.6B\n", MANY, (None, 2)),
        (MANY, "model: smoke\n", ("smoke", 0)),
        (MANY, "", (None, 2)),
        (MANY, "models: [{name: smoke}]\n", (None, 1)),
    ],
)
def test_one_model_and_several_take_each_others_place(
    common: str, own: str, expected: tuple[str | None, int], tmp_path: Path
) -> None:
    wishes = read(tmp_path, "schema: 1\n" + common, OWN.replace("model: null\n", "") + own)
    assert (wishes.model, len(wishes.models)) == expected


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ("schema: 1\nmodle: x\n", "modle: unknown key"),
        ("schema: 2\n", "schema 2 is newer than this release reads (1)"),
        ("model: x\n", "`schema` is missing"),
        ("schema: 1\nmax_model_len: 0\n", "max_model_len: found `0`, allowed: "),
        ("schema: 1\nsettings: {GATEWAY_PROT: 1}\n", "settings: GATEWAY_PROT: unknown setting"),
        ("schema: 1\ngateway: {prot: 1}\n", "gateway.prot: unknown key"),
        ("schema: 1\nshared: [model]\n", "shared: unknown key"),
        ("# nothing yet\n", "empty"),
        ("- 1\n", "expected a mapping, got a list"),
    ],
)
def test_what_is_wrong_there_is_named_with_its_place(common: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as failure:
        read(tmp_path, common)
    assert failure.value.message.startswith(f"{tmp_path}/envs/common.yaml: {message}")


def test_a_folder_without_it_is_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/dev.yaml").write_text(OWN, encoding="utf-8")
    assert read_wishes(paths_of(tmp_path)).gateway.port == 1


def test_a_change_of_it_is_named(tmp_path: Path) -> None:
    wishes, paths = read(tmp_path, "schema: 1\n"), paths_of(tmp_path)
    record = record_inputs(paths, wishes)
    (tmp_path / record.path).parent.mkdir(parents=True)
    (tmp_path / record.path).write_text(record.text, encoding="utf-8")
    read(tmp_path, "schema: 1\n# only a comment\n")
    assert changed_inputs(paths) == ()
    read(tmp_path, "schema: 1\nmax_model_len: 512\n")
    assert changed_inputs(paths) == ("envs/common.yaml",)


def test_all_environments_serve_it_and_its_place_is_named(run: Run, project: Path) -> None:
    assert run("configure-gpu", host="cpu-small").code == 0
    common = project / "envs/common.yaml"
    text = common.read_text(encoding="utf-8").replace("model: null", "model: Qwen/Qwen3-0.6B")
    common.write_text(text.replace("settings: {}", "settings: {LITELLM_NUM_WORKERS: 3}"), encoding="utf-8")
    ran = run("configure-gpu", host="cpu-small")
    assert "dev, staging, prod: LITELLM_NUM_WORKERS: 1 → 3\n" in ran.err
    for environment in Environment:
        settings = run("plan", f"--env={environment}", "--json", host="cpu-small").json["settings"]
        assert settings["LITELLM_NUM_WORKERS"]["source"] == "envs/common.yaml: settings.LITELLM_NUM_WORKERS"
        assert (settings["VLLM_MODEL"]["value"], settings["VLLM_MODEL"]["source"]) == (
            "Qwen/Qwen3-0.6B",
            "envs/common.yaml",
        )
        assert settings["VLLM_MODEL"]["origin"] == "wished"
