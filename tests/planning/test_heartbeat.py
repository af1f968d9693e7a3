"""How long an engine may be silent: the grace follows from the longest step that a plan can have."""

from __future__ import annotations

import re

import pytest
from stackwright.domain.plan import Setting
from stackwright.domain.setting_spec import problem_with
from stackwright.services.engine import HEARTBEAT
from stackwright.settings import declared_settings

from tests.planning.several import Asked, plan_of
from tests.planning_requests import recorded


def grace_of(host: str, model: str, **pins: str) -> Setting:
    """Return the planned grace of one model."""
    return plan_of(recorded(host), Asked(name=model), pins=pins).models[0].settings[HEARTBEAT]


def test_a_quick_step_leaves_the_least_grace() -> None:
    assert grace_of("1x-rtx3090", "Qwen/Qwen3-0.6B") == Setting(
        value="120",
        reason="room to compile a kernel; the longest step takes 40 s or less",
        source="docs/decisions/0052-heartbeat.md",
    )


def test_a_slow_processor_gets_more_and_a_longer_context_more_again() -> None:
    found = [grace_of("cpu-small", "Qwen/Qwen3-4B", VLLM_MAX_MODEL_LEN=length) for length in ("2048", "16384")]
    graces = [int(setting.value) for setting in found]
    assert 120 < graces[0] < graces[1] < 86400
    assert all(grace % 10 == 0 for grace in graces)
    assert re.fullmatch(r"3 times the longest step: \d+ s or less for 2,048 tokens on \d+ cores", found[1].reason)


def test_quantized_weights_make_no_step_quicker() -> None:
    plain, quantized = (
        grace_of("gb10", name, VLLM_MAX_MODEL_LEN="8192", VLLM_MAX_NUM_BATCHED_TOKENS="65536")
        for name in ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-AWQ")
    )
    assert int(plain.value) > 120
    assert plain.value == quantized.value


@pytest.mark.parametrize("value", ["off", "30"])
def test_a_person_may_choose(value: str) -> None:
    assert grace_of("1x-rtx3090", "Qwen/Qwen3-0.6B", ENGINE_HEARTBEAT=value).value == value


@pytest.mark.parametrize("value", ["0", "on", "90000", "1.5"])
def test_what_is_neither_off_nor_seconds_is_refused(value: str) -> None:
    assert problem_with(declared_settings().by_key[HEARTBEAT], value) == "off, or seconds from 1 to 86400"


def test_models_in_turns_have_the_longest_grace_of_them() -> None:
    names = ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B")
    alone = [int(grace_of("cpu-large", name).value) for name in names]
    first, second = plan_of(recorded("cpu-large"), *(Asked(name=name, exclusive="turns") for name in names)).models
    assert HEARTBEAT not in second.settings
    assert int(first.settings[HEARTBEAT].value) == max(alone)
