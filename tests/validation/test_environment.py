"""Rules over the values in force: each mistake is one finding that names it, and a stack as rendered has none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.catalog.load import load_catalog
from stackwright.domain.finding import Finding, Severity
from stackwright.domain.plan import Mode, Plan
from stackwright.errors import NoPlanError
from stackwright.rendering.numbered import flat_settings
from stackwright.validation.environment import PLACEHOLDER, check_environment, check_shell
from stackwright.validation.gpus import check_host

from tests.planning.several import AWQ_8B, PAIR, QWEN_4B, plan_of
from tests.planning_requests import HOST_NAMES, plan_for, recorded


def values(plan: Plan, **changes: str) -> dict[str, str]:
    """Return the values in force: as rendered, with a person's changes over them."""
    return {key: setting.value for key, setting in flat_settings(plan).items()} | changes


def told(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Return what was found and how bad it is."""
    return [(finding.check, finding.severity.value, finding.found) for finding in findings]


@pytest.mark.parametrize("name", HOST_NAMES)
def test_a_plan_as_rendered_has_no_finding_on_its_own_host(name: str) -> None:
    host = recorded(name)
    try:
        plan = plan_for(host)
    except NoPlanError:
        plan = plan_for(host, mode=Mode.CPU)
    assert check_environment(plan, values(plan), load_catalog()) == ()
    assert check_host(plan, host) == ()
    assert check_shell(values(plan), {}, "prod") == ()


PLAN = plan_for(recorded("2x-rtx3090-nvlink"))
SLICED = plan_for(recorded("a100-seven-slices"))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"GATEWAY_PROT": "1"}, [("env-unknown-key", "error", "GATEWAY_PROT")]),
        ({"GATEWAY_PORT": "http"}, [("env-value", "error", "GATEWAY_PORT=http")]),
        ({"GATEWAY_PORT": ""}, [("env-value", "error", "GATEWAY_PORT=")]),
        ({"VLLM_IMAGE": "y" * 5000}, [("env-value", "error", "VLLM_IMAGE=" + "y" * 80)]),
        ({"GPU_COUNT": "4"}, [("env-derived", "error", "GPU_COUNT=4")]),
        (
            {"GPU_COUNT": "4", "VLLM_TENSOR_PARALLEL_SIZE": "4"},
            [("env-derived", "error", "GPU_COUNT=4")],
        ),
        ({"STACKWRIGHT_ENVIRONMENT": "dev"}, [("env-derived", "error", "STACKWRIGHT_ENVIRONMENT=dev")]),
        ({"NVIDIA_VISIBLE_DEVICES": "0,1"}, [("env-derived", "error", "NVIDIA_VISIBLE_DEVICES=0,1")]),
        ({"VLLM_TOOL_CALL_PARSER": "none"}, [("env-derived", "error", "VLLM_TOOL_CALL_PARSER=none")]),
        # The engine takes its own, and no flag is there to carry another one.
        ({"VLLM_MAX_NUM_SEQS": "8"}, [("env-derived", "error", "VLLM_MAX_NUM_SEQS=8")]),
        ({"VLLM_TOOL_CALL_PARSER": "qwen3_coder"}, []),
        ({"VLLM_TOOL_CALL_PARSER": "xyz"}, [("env-value", "error", "VLLM_TOOL_CALL_PARSER=xyz")]),
        ({"VLLM_REASONING_PARSER": "xyz"}, [("env-value", "error", "VLLM_REASONING_PARSER=xyz")]),
        # Of another image nobody knows which parsers it has.
        ({"VLLM_TOOL_CALL_PARSER": "xyz", "VLLM_IMAGE": "registry.example.com/own:1"}, []),
        ({"SWITCH_DRAIN_S": "10"}, [("env-unknown-key", "error", "SWITCH_DRAIN_S")]),
        ({"VLLM_CPU_KVCACHE_SPACE": "4"}, [("env-unknown-key", "error", "VLLM_CPU_KVCACHE_SPACE")]),
        (
            {"GATEWAY_MAX_CONCURRENT_REQUESTS_7": "4"},
            [("env-unknown-key", "error", "GATEWAY_MAX_CONCURRENT_REQUESTS_7")],
        ),
        (
            {"VLLM_TENSOR_PARALLEL_SIZE": "1"},
            [("parallel-sizes", "error", "1 replica(s) × tensor parallel 1 × pipeline parallel 1 = 1 GPUs")],
        ),
        (
            {"VLLM_TENSOR_PARALLEL_SIZE": "1", "VLLM_PIPELINE_PARALLEL_SIZE": "2"},
            [("env-derived", "error", "VLLM_PIPELINE_PARALLEL_SIZE=2")],
        ),
        ({"GATEWAY_PORT": "5000", "VLLM_GPU_MEMORY_UTILIZATION": "0.5"}, []),
        ({"VLLM_IMAGE": "CHANGE_ME"}, [("env-placeholder", "error", "VLLM_IMAGE=CHANGE_ME")]),
        ({"LITELLM_IMAGE": "<image>"}, [("env-placeholder", "error", "LITELLM_IMAGE=<image>")]),
        ({"LITELLM_IMAGE": "me:pw@reg/x"}, [("env-value", "error", "LITELLM_IMAGE=me:pw@reg/x")]),
        ({"REDIS_IMAGE": "xxxx"}, [("env-placeholder", "error", "REDIS_IMAGE=xxxx")]),
        (
            {"A": "1", "GATEWAY_PORT": "0"},
            [("env-unknown-key", "error", "A"), ("env-value", "error", "GATEWAY_PORT=0")],
        ),
    ],
)
def test_a_change_in_the_local_file_is_judged(changes: dict[str, str], found: list[tuple[str, str, str]]) -> None:
    findings = check_environment(PLAN, values(PLAN, **changes), load_catalog())
    assert told(findings) == found
    assert all(finding.fix and finding.expected for finding in findings)


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    (finding,) = check_environment(PLAN, values(PLAN, gateway_prot="1"), load_catalog())
    assert finding.fix == "did you mean `GATEWAY_PORT`? Correct it in envs/.env.prod.local"


@pytest.mark.parametrize("key", ["HF_TOKEN", "LITELLM_MASTER_KEY", "OPENAI_API_KEY", "REDIS_PASSWORD"])
def test_a_secret_is_answered_with_where_it_belongs(key: str) -> None:
    """A setting of nearly the same name would put it into a file that anyone may copy."""
    (finding,) = check_environment(PLAN, values(PLAN, **{key: "x"}), load_catalog())
    assert finding.fix == (
        "secrets belong in envs/.secrets/prod/, a hub token in the exported HF_TOKEN: "
        "remove it from envs/.env.prod.local"
    )


def test_a_key_is_corrected_in_the_file_that_it_is_in() -> None:
    for own, file in (({"MY"}, "envs/.env.prod.local"), (set[str](), "envs/.env.prod")):
        (finding,) = check_environment(PLAN, values(PLAN, MY="1"), load_catalog(), own)
        assert finding.fix == f"remove it from {file}"


def test_a_parser_that_the_release_has_not_is_answered_with_those_that_it_has() -> None:
    (finding,) = check_environment(PLAN, values(PLAN, VLLM_TOOL_CALL_PARSER="xyz"), load_catalog())
    assert finding.expected.startswith(f"with vLLM {PLAN.engine.version}: none, ")
    assert "hermes" in finding.expected


def test_the_parser_of_a_second_model_is_judged_too() -> None:
    plan = plan_of(PAIR, AWQ_8B, QWEN_4B)
    findings = check_environment(plan, values(plan, VLLM_REASONING_PARSER_2="xyz"), load_catalog())
    assert told(findings) == [("env-value", "error", "VLLM_REASONING_PARSER_2=xyz")]


@pytest.mark.parametrize("key", flat_settings(PLAN))
def test_a_key_that_is_missing_is_named(key: str) -> None:
    env = values(PLAN)
    del env[key]
    assert told(check_environment(PLAN, env, load_catalog())) == [("env-missing-key", "error", f"no {key}")]


def test_an_empty_environment_is_told_key_by_key() -> None:
    assert len(check_environment(PLAN, {}, load_catalog())) == len(flat_settings(PLAN))


def test_the_shell_is_compared_by_value() -> None:
    """Compose prefers what is exported; the same value does no harm."""
    env = values(PLAN)
    shell = {"GATEWAY_PORT": "1", "VLLM_DTYPE": env["VLLM_DTYPE"], "PATH": "/bin"}
    (finding,) = check_shell(env, shell, "prod")
    assert (finding.check, finding.severity) == ("shell-overrides", Severity.ERROR)
    assert finding.found == "GATEWAY_PORT is exported in this shell with another value"
    assert "`unset GATEWAY_PORT`" in finding.fix
    assert "1" not in finding.found.split()


@pytest.mark.parametrize(
    "text",
    [
        "CHANGE_ME",
        "changeme",
        "change-this",
        "<token>",
        "xxx",
        "XXXXXX",
        "...",
        "…",
        "TODO",
        "your-api-key-here",
        "my_password",
    ],
)
def test_what_a_template_leaves_is_a_placeholder(text: str) -> None:
    assert PLACEHOLDER.fullmatch(text)


@pytest.mark.parametrize("name", HOST_NAMES)
def test_no_value_that_is_rendered_is_a_placeholder(name: str) -> None:
    host = recorded(name)
    try:
        plan = plan_for(host)
    except NoPlanError:
        plan = plan_for(host, mode=Mode.CPU)
    assert [value for value in values(plan).values() if PLACEHOLDER.fullmatch(value)] == []


@given(
    env=st.dictionaries(st.sampled_from([*flat_settings(PLAN), "ODD"]) | st.text(max_size=20), st.text(max_size=200))
)
def test_whatever_a_person_writes_is_judged_and_quoted_briefly(env: dict[str, str]) -> None:
    for finding in check_environment(PLAN, values(PLAN, **env), load_catalog()):
        assert finding.severity is Severity.ERROR
        assert len(finding.found) < 200
        assert finding.fix
