"""The settings that decide on memory, pinned: in the argument list, in the files, and in the plan's forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.plan import Plan
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.engines.vllm.settings import OPTIONAL_SETTINGS
from stackwright.errors import UsageError
from stackwright.project.folder import read_env_file
from stackwright.project.pins import parse_pin
from stackwright.rendering import render_plan

from tests.planning_requests import plan_for, recorded

DRAFTING = '{"method": "ngram", "num_speculative_tokens": 2}'


def planned(**pins: str) -> Plan:
    return plan_for(recorded("1x-rtx3090"), model="Qwen/Qwen3-8B", pins=pins)


def test_each_is_declared_once_and_read_by_one_row() -> None:
    flags = [setting.spec.flag for setting in MEMORY_SETTINGS]
    assert len(set(flags)) == len(flags)
    # What decides on no memory, and is as much a person's own.
    others = {"--lora-modules", "--chat-template"}
    assert {spec.flag for spec in OPTIONAL_SETTINGS} - others <= set(flags)


def test_a_plan_leaves_them_to_the_engine() -> None:
    model = planned().models[0]
    assert {spec.key for spec in OPTIONAL_SETTINGS} & set(model.settings) == set()


def test_pinned_ones_are_arguments_and_switches_stand_alone() -> None:
    plan = planned(
        VLLM_SPECULATIVE_CONFIG=DRAFTING,
        VLLM_ENABLE_PREFIX_CACHING="false",
        VLLM_ENABLE_LORA="true",
        VLLM_MAX_LORAS="4",
    )
    args = plan.replicas[0].args
    assert args[args.index("--speculative-config") + 1] == DRAFTING
    assert args[args.index("--max-loras") + 1] == "4"
    assert {"--no-enable-prefix-caching", "--enable-lora"} <= set(args)
    assert "--enable-prefix-caching" not in args


def test_they_change_the_forecast_of_the_plan() -> None:
    plain, adapted = planned(), planned(VLLM_ENABLE_LORA="true", VLLM_MAX_LORAS="4", VLLM_MAX_LORA_RANK="64")
    eager = planned(VLLM_ENFORCE_EAGER="true").models[0].forecast
    before, after = plain.models[0].forecast, adapted.models[0].forecast
    assert before is not None
    assert after is not None
    assert eager is not None
    assert after.weights_bytes > before.weights_bytes
    assert eager.cuda_graph_bytes == 0 < before.cuda_graph_bytes


def test_a_json_value_comes_back_out_of_the_environment_file(tmp_path: Path) -> None:
    files = {file.path.name: file.text for file in render_plan(planned(VLLM_SPECULATIVE_CONFIG=DRAFTING))}
    path = tmp_path / ".env.prod"
    path.write_text(files[".env.prod"], encoding="utf-8")
    assert read_env_file(path)["VLLM_SPECULATIVE_CONFIG"] == DRAFTING
    assert "${VLLM_SPECULATIVE_CONFIG:?}" in files["override.yaml"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("VLLM_SPECULATIVE_CONFIG", "ngram"),
        ("VLLM_SPECULATIVE_CONFIG", "[1]"),
        ("VLLM_ENABLE_LORA", "yes"),
        ("VLLM_MAX_LORA_RANK", "65"),
        ("VLLM_MAMBA_CACHE_DTYPE", "fp8"),
    ],
)
def test_a_wrong_value_is_refused_by_its_declaration(key: str, value: str) -> None:
    with pytest.raises(UsageError):
        parse_pin(f"{key}={value}")
