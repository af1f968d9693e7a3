"""Every declared setting: its bounds, what may be pinned, and that an accepted value is read back as it was given."""

from __future__ import annotations

import io

import pytest
import yaml
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st
from stackwright.domain.setting_spec import MAX_VALUE_LENGTH, Kind, SettingSpec, problem_with
from stackwright.engines import ENGINES
from stackwright.engines.vllm.engine import VLLM
from stackwright.errors import UsageError
from stackwright.project.pins import check_pins, parse_pin
from stackwright.rendering.quoting import quote_env, quote_yaml
from stackwright.services.engine import bind_arguments
from stackwright.settings import all_settings, declared_settings

BOUNDED = [spec for spec in all_settings() if spec.kind in (Kind.INTEGER, Kind.CONTEXT)]
HOSTILE = [
    "a\nVLLM_IMAGE=evil",
    "a\r\nb",
    "it's",
    "a\\",
    "a\\nb",
    "a\x00b",
    "a\x1bb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\udcffb",
    "x" * 5000,
]


def key_of(spec: SettingSpec) -> str:
    """Name a setting in the list of tests."""
    return spec.key


def test_keys_and_flags_are_declared_once() -> None:
    assert len(declared_settings().by_key) == len(all_settings())
    assert [len(engine.flags) for engine in ENGINES.values()] == [
        len([spec for spec in engine.settings if spec.flag and spec.kind not in (Kind.BOOLEAN, Kind.WORDS)])
        for engine in ENGINES.values()
    ]


@pytest.mark.parametrize("spec", BOUNDED, ids=key_of)
def test_both_ends_of_a_range_are_inside_and_their_neighbours_are_not(spec: SettingSpec) -> None:
    assert spec.minimum is not None
    assert spec.maximum is not None
    low, high = int(spec.minimum), int(spec.maximum)
    assert [problem_with(spec, str(value)) for value in (low, high)] == [None, None]
    assert problem_with(spec, str(high + 1)) is not None
    assert problem_with(spec, str(low - 1)) is not None


@pytest.mark.parametrize("spec", BOUNDED, ids=key_of)
@pytest.mark.parametrize("value", ["", " 1", "1 ", "1.0", "+1", "-1", "1e1", "0x1", "1_0", "one", "\u0661", "9" * 400])
def test_a_number_is_written_in_digits(spec: SettingSpec, value: str) -> None:
    assert problem_with(spec, value) is not None


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("0.05", True),
        ("0.9", True),
        (".5", True),
        ("0.99", True),
        ("0.04", False),
        ("1", False),
        ("0.991", False),
        ("5.5", False),
        ("nan", False),
        ("inf", False),
        ("9e-1", False),
        ("", False),
    ],
)
def test_a_share_of_memory_is_a_decimal_fraction(value: str, allowed: bool) -> None:
    assert (problem_with(declared_settings().by_key["VLLM_GPU_MEMORY_UTILIZATION"], value) is None) is allowed


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("GATEWAY_BIND", "127.0.0.1", True),
        ("GATEWAY_BIND", "0.0.0.0", True),
        ("GATEWAY_BIND", "localhost", False),
        ("GATEWAY_BIND", "127.0.0.256", False),
        ("GATEWAY_BIND", "127.0.0.1:80", False),
        ("VLLM_MAX_MODEL_LEN", "auto", True),
        ("VLLM_MAX_MODEL_LEN", "Auto", False),
        ("VLLM_SHM_SIZE", "16gb", True),
        ("VLLM_SHM_SIZE", "0gb", False),
        ("VLLM_SHM_SIZE", "16", False),
        ("VLLM_SHM_SIZE", "16 gb", False),
        ("COMPOSE_PROJECT_NAME", "mine-2_a", True),
        ("COMPOSE_PROJECT_NAME", "Mine", False),
        ("COMPOSE_PROJECT_NAME", "..", False),
        ("COMPOSE_PROJECT_NAME", "a/b", False),
        ("HF_HOME", "/data/models of $me # 2", True),
        ("HF_HOME", "models", False),
        ("HF_HOME", "/a:/b", False),
        ("VLLM_IMAGE", " ", False),
        ("VLLM_IMAGE", "", False),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID", True),
        ("CUDA_DEVICE_ORDER", "pci_bus_id", False),
    ],
)
def test_a_value_has_the_form_of_its_kind(key: str, value: str, allowed: bool) -> None:
    assert (problem_with(declared_settings().by_key[key], value) is None) is allowed


@pytest.mark.parametrize("spec", all_settings(), ids=key_of)
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_setting_takes_a_value_that_leaves_its_line_or_its_quotes(spec: SettingSpec, value: str) -> None:
    assert problem_with(spec, value) is not None


@settings(deadline=None)
@given(st.sampled_from(all_settings()), st.text())
def test_any_accepted_value_is_read_back_as_it_was_given(spec: SettingSpec, value: str) -> None:
    """By dotenv from the environment file, by YAML from the override; nothing else appears beside it."""
    if problem_with(spec, value) is not None:
        return
    text = f"BEFORE=1\n{spec.key}={quote_env(value)}\nAFTER=2\n"
    text.encode()
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    assert read == {"BEFORE": "1", spec.key: value, "AFTER": "2"}
    assert yaml.safe_load(f"- {quote_yaml(value)}") == [value]


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="'\\", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=50))
def test_printable_text_is_accepted_and_read_back(value: str) -> None:
    """The property above would hold as well if nothing were accepted."""
    text = f"x{value}x"
    assert problem_with(declared_settings().by_key["RETRIEVAL_S3_REGION"], text) is None
    assert dotenv_values(stream=io.StringIO(f"A={quote_env(text)}"), interpolate=False) == {"A": text}


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_pin_is_taken_whole_or_refused_in_one_sentence(text: str) -> None:
    try:
        key, value = parse_pin(text)
    except UsageError as failure:
        assert failure.message.startswith("--set")
        assert not failure.message.endswith(".")
    else:
        assert f"{key}={value}" == text
        assert key in declared_settings().by_key


def test_a_pin_keeps_everything_behind_the_first_equals_sign() -> None:
    assert parse_pin("RETRIEVAL_S3_REGION=a=b=") == ("RETRIEVAL_S3_REGION", "a=b=")


@pytest.mark.parametrize(
    ("pins", "message", "hint"),
    [
        (
            {"GATEWAY_PROT": "1"},
            "--set: GATEWAY_PROT: unknown setting",
            "did you mean `GATEWAY_PORT`?",
        ),
        ({"gateway_port": "1"}, "--set: gateway_port: unknown setting", "did you mean `GATEWAY_PORT`?"),
        ({"X": "1"}, "--set: X: unknown setting", "docs/reference/settings.md lists every key"),
        (
            {"GPU_COUNT": "2"},
            "--set: GPU_COUNT is derived from other settings and cannot be pinned",
            "it is: number of gpus in use, all replicas together",
        ),
        (
            {"VLLM_MODEL_2": "Qwen/Qwen3-8B"},
            "--set: VLLM_MODEL_2 is derived from other settings and cannot be pinned",
            "name the model with `--model`",
        ),
        (
            {"GATEWAY_PORT": "0"},
            "--set: GATEWAY_PORT: found `0`, allowed: a whole number from 1 to 65535",
            None,
        ),
        (
            {"VLLM_DTYPE": "fp16"},
            "--set: VLLM_DTYPE: found `fp16`, allowed: one of auto, bfloat16, float16, float32",
            None,
        ),
    ],
)
def test_a_wrong_pin_is_named(pins: dict[str, str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as failure:
        check_pins(pins, where="--set")
    assert failure.value.message == message
    if hint is not None:
        assert failure.value.hint == hint


def test_a_long_mistake_is_told_short() -> None:
    for text in ("x" * MAX_VALUE_LENGTH, "VLLM_IMAGE=" + "x" * 5000, "x" * 5000 + "=1"):
        with pytest.raises(UsageError) as failure:
            parse_pin(text)
        assert len(failure.value.message) < 250


def test_arguments_are_bound_where_a_setting_carries_them() -> None:
    """The word behind a flag of a setting is its value; every other word is literal, also one that looks like a key."""
    arguments = ("--model", "VLLM_MODEL", "--enforce-eager", "--port", "8000", "--dtype", "auto")
    bound = bind_arguments(arguments, VLLM.flags, lambda key: f"<{key}>")
    assert bound == (
        "--model",
        "<VLLM_MODEL>",
        "--enforce-eager",
        "--port",
        "8000",
        "--dtype",
        "<VLLM_DTYPE>",
    )
