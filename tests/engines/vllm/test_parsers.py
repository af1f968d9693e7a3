"""The engine's parsers of tool calls and thoughts: right for the model, known to the release, else none."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_catalog, load_flags, load_llms, load_parsers
from stackwright.domain.catalog import order_release
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.role import Role
from stackwright.errors import NoPlanError
from stackwright.rendering.numbered import flat_settings

from tests.planning.several import Asked, plan_of
from tests.planning_requests import plan_for, recorded

TOOLS, THOUGHTS = "VLLM_TOOL_CALL_PARSER", "VLLM_REASONING_PARSER"
NAMES = {"tool_call_parser": "tool_call", "reasoning_parser": "reasoning"}
GPU = "1x-rtx5090"


def flags_of(plan: Plan) -> dict[str, str]:
    """Return the parser flags of a plan's first replica."""
    arguments = plan.replicas[0].args
    wanted = ("--tool-call-parser", "--reasoning-parser")
    return {flag: arguments[arguments.index(flag) + 1] for flag in wanted if flag in arguments}


def test_a_known_model_gets_its_parsers() -> None:
    plan = plan_for(recorded(GPU), model="Qwen/Qwen3-8B-AWQ")
    assert flags_of(plan) == {"--tool-call-parser": "hermes", "--reasoning-parser": "qwen3"}
    assert "--enable-auto-tool-choice" in plan.replicas[0].args


def test_one_that_only_answers_gets_no_parser_of_thoughts() -> None:
    """It would take the whole answer for a thought that has not ended."""
    plan = plan_for(recorded(GPU), model="Qwen/Qwen3-4B-Instruct-2507")
    assert flags_of(plan) == {"--tool-call-parser": "hermes"}


def test_of_an_unknown_model_nothing_is_emitted_and_said_so() -> None:
    plan = plan_for(recorded(GPU), model="mistralai/Mistral-7B-Instruct-v0.3")
    assert flags_of(plan) == {}
    assert "--enable-auto-tool-choice" not in plan.replicas[0].args
    assert flat_settings(plan)[TOOLS].value == "none"
    assert flat_settings(plan)[TOOLS].reason == (
        "no tool call parser is known for this model; set one with `--set VLLM_TOOL_CALL_PARSER=…`"
    )


def test_a_pin_beats_both() -> None:
    known = plan_for(recorded(GPU), model="Qwen/Qwen3-8B-AWQ", pins={TOOLS: "none", THOUGHTS: "none"})
    assert flags_of(known) == {}
    unknown = plan_for(recorded(GPU), model="mistralai/Mistral-7B-Instruct-v0.3", pins={TOOLS: "mistral"})
    assert flags_of(unknown) == {"--tool-call-parser": "mistral"}


def test_a_pin_that_the_release_has_not_is_refused() -> None:
    with pytest.raises(
        NoPlanError, match=r"^VLLM_TOOL_CALL_PARSER: found `qwen4`, allowed with vLLM 0\.\d+\.\d+: none, "
    ):
        plan_for(recorded(GPU), model="Qwen/Qwen3-8B-AWQ", pins={TOOLS: "qwen4"})


def test_a_model_that_makes_vectors_has_none() -> None:
    plan = plan_of(recorded("cpu-small"), Asked(name="Qwen/Qwen3-Embedding-0.6B", role=Role.EMBEDDING), mode=Mode.CPU)
    assert not {TOOLS, THOUGHTS} & flat_settings(plan).keys()


def test_a_release_has_a_parser_from_its_first_sample_to_its_last() -> None:
    table = load_parsers()
    assert [table.has("tool_call", "minimax", version) for version in ("0.9.2", "0.23.0")] == [True, True]
    assert [table.has("tool_call", "minimax", version) for version in ("0.9.1", "0.24.0")] == [False, False]
    assert not table.has("tool_call", "hermes", "99.0")


@pytest.mark.parametrize("row", load_llms(), ids=lambda row: row.name)
def test_every_parser_of_the_catalog_exists_in_the_newest_sampled_release(row: object) -> None:
    table = load_parsers()
    for field, key in NAMES.items():
        name = getattr(row, field)
        assert name is None or table.has(key, name, table.sampled[-1])


def test_releases_with_parsers_have_the_flags() -> None:
    """No plan hands a parser to a release that does not know the flag."""
    oldest = min((each for each in load_parsers().sampled), key=order_release)
    known = [
        release.version for release in load_catalog().engines if order_release(release.version) >= order_release(oldest)
    ]
    flags = ("--tool-call-parser", "--enable-auto-tool-choice", "--reasoning-parser")
    assert [(version, flag) for version in known for flag in flags if load_flags().has(flag, version) is False] == []
