"""What the rendered files say to those who read them: dotenv, YAML, Compose's interpolation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from msgspec.structs import replace
from stackwright.domain.plan import Plan, Setting
from stackwright.errors import NoPlanError
from stackwright.rendering import render_plan
from stackwright.rendering.compose import render_base
from stackwright.rendering.numbered import flat_settings
from stackwright.services import BASE, BESIDE_ENGINES

from tests.planning.several import CASES as SEVERAL
from tests.planning.several import Asked, plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded, with_setting
from tests.test_layers import PACKAGE


def files(plan: Plan) -> dict[str, str]:
    """Return the rendered texts by file name."""
    return {file.path.name: file.text for file in render_plan(plan)}


@pytest.mark.parametrize("name", HOST_NAMES)
def test_the_environment_file_says_exactly_the_settings(name: str) -> None:
    """Read back by the dotenv library, key by key, in order."""
    try:
        plan = plan_for(recorded(name))
    except NoPlanError:
        return
    read = dotenv_values(stream=io.StringIO(files(plan)[".env.prod"]), interpolate=False)
    assert list(read.items()) == [(key, setting.value) for key, setting in flat_settings(plan).items()]


def test_a_second_replica_extends_the_first_and_the_gateway_waits_for_it() -> None:
    """Two GPUs without NVLink: one replica each, behind one gateway."""
    rendered = files(plan_for(recorded("2x-rtx3090-pcie")))
    services = yaml.safe_load(rendered["override.yaml"])["services"]
    assert services["engine-2"]["extends"] == {"file": "compose.yaml", "service": "engine"}
    assert services["gateway"]["depends_on"] == {"engine-2": {"condition": "service_started"}}
    assert services["gateway"]["environment"] == {"ENGINE_2_URL": "http://engine-2:8000/v1"}
    entries = yaml.safe_load(rendered["gateway.yaml"])["model_list"]
    assert [entry["litellm_params"]["api_base"] for entry in entries] == [
        "os.environ/ENGINE_URL",
        "os.environ/ENGINE_2_URL",
    ]
    assert {entry["model_name"] for entry in entries} == {"Qwen/Qwen3-0.6B"}


def test_gpus_are_reserved_by_uuid_in_the_deploy_form() -> None:
    """`gpus: all` gives no GPU on Compose 2.26, silently; the reservation does."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    engine = yaml.safe_load(files(plan)["override.yaml"])["services"]["engine"]
    assert engine["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "capabilities": ["gpu"], "device_ids": list(plan.replicas[0].gpu_uuids)}
    ]


def test_values_reach_the_engine_through_the_environment_file() -> None:
    """So that a person's local file changes what runs."""
    engine = yaml.safe_load(files(plan_for(recorded("2x-rtx3090-nvlink")))["override.yaml"])["services"]["engine"]
    command = engine["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "${VLLM_TENSOR_PARALLEL_SIZE:?}"
    assert engine["environment"]["CUDA_VISIBLE_DEVICES"] == "${CUDA_VISIBLE_DEVICES:?}"


def test_a_cpu_override_asks_for_no_gpu() -> None:
    """A reservation is fatal on a machine without GPUs."""
    assert "deploy" not in files(plan_for(recorded("cpu-small")))["override.yaml"]


def test_a_hostile_reason_stays_inside_its_comment() -> None:
    """A GPU's name comes from outside."""
    plan = plan_for(recorded("cpu-small"))
    hostile = Setting(value="1", reason="x\nVLLM_IMAGE=evil\u2028VLLM_IMAGE=evil", source="test")
    text = files(replace(plan, settings={**flat_settings(plan), "LITELLM_NUM_WORKERS": hostile}))[".env.prod"]
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    assert read["VLLM_IMAGE"] == flat_settings(plan)["VLLM_IMAGE"].value


def test_a_model_folder_with_a_dollar_is_not_interpolated() -> None:
    """Compose would read `$x` as a variable; `$$` is its literal dollar."""
    plan = plan_for(recorded("cpu-small"))
    folder = Setting(value="/models/pa$word", reason="test", source="test")
    rendered = files(with_setting(plan, "VLLM_MODEL", folder))
    volume = yaml.safe_load(rendered["override.yaml"])["services"]["engine"]["volumes"][0]
    assert volume["source"] == volume["target"] == "/models/pa$$word"
    assert "VLLM_MODEL='/models/pa$word'" in rendered[".env.prod"]


def test_models_in_turns_are_one_service_that_both_names_lead_to() -> None:
    host, models = SEVERAL["1x5080-in-turns"]
    plan = plan_of(host, *models)
    rendered = files(plan)
    services = yaml.safe_load(rendered["override.yaml"])["services"]
    assert sorted(services) == ["engine", "gateway"]
    assert "depends_on" not in services["gateway"]
    own = {
        word
        for entry in yaml.safe_load(rendered["gateway.yaml"])["model_list"]
        for word in entry["model_info"]["limits"].values()
    }
    asked = {word.removeprefix("os.environ/") for word in own}
    base = yaml.safe_load((PACKAGE.parents[1] / "compose" / "compose.yaml").read_text(encoding="utf-8"))["services"][
        "gateway"
    ]
    assert asked <= base["environment"].keys() | services["gateway"]["environment"].keys()
    (told,) = services["engine"]["command"]
    spec = json.loads(told)
    assert (spec["preload"], spec["pinned"]) == ("Qwen/Qwen3-4B", ["Qwen/Qwen3-4B"])
    assert [model["arguments"][1] for model in spec["models"]] == ["${VLLM_MODEL:?}", "${VLLM_MODEL_2:?}"]
    entries = yaml.safe_load(rendered["gateway.yaml"])["model_list"]
    assert {entry["litellm_params"]["api_base"] for entry in entries} == {"os.environ/ENGINE_URL"}
    assert [entry["model_name"] for entry in entries] == ["Qwen/Qwen3-4B", "Qwen/Qwen3-8B-AWQ"]


def test_each_folder_of_models_in_turns_is_mounted_once() -> None:
    models = tuple(Asked(name=name, exclusive="turns") for name in ("smoke", "Qwen/Qwen3-0.6B"))
    services = yaml.safe_load(files(plan_of(recorded("cpu-large"), *models))["override.yaml"])["services"]
    assert [volume["target"] for volume in services["engine"]["volumes"]] == ["/state/models/smoke"]


def test_the_base_files_are_rendered_from_the_services(update_golden: bool) -> None:
    """They stay readable in the checkout, and say what the services say."""
    for name in (BASE, BESIDE_ENGINES):
        base = Path(__file__).parents[2] / "compose" / name
        if update_golden:
            base.write_text(render_base(name), encoding="utf-8")
        assert base.read_text(encoding="utf-8") == render_base(name)
