"""Flags that a person gives: read from words and mappings, checked against the release, carried to the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.domain.arguments import bound_flags, read_flags, words_of
from stackwright.engines.vllm.engine import VLLM
from stackwright.engines.vllm.extra_arguments import problem_with_argument, route_arguments
from stackwright.engines.vllm.settings import ARGUMENT_PREFIX
from stackwright.errors import UsageError


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (["--a-b=1"], {"--a-b": "1"}),
        (["--a_b", "1"], {"--a-b": "1"}),
        (["--a-b 1"], {"--a-b": "1"}),
        (["a-b=1"], {"--a-b": "1"}),
        (["--a"], {"--a": "true"}),
        (["--no-a"], {"--a": "false"}),
        (["--a", "--b", "2"], {"--a": "true", "--b": "2"}),
        (["--a", "-1"], {"--a": "-1"}),
        (["--sizes", 1, 2, 4], {"--sizes": "1 2 4"}),
        (["--sizes 1 2 4"], {"--sizes": "1 2 4"}),
        (["--a", '{"n": 4}'], {"--a": '{"n": 4}'}),
        (["--a='{\"n\": 4}'"], {"--a": '{"n": 4}'}),
        (["--a.b.c=1", "--a.d", "x"], {"--a": '{"b": {"c": 1}, "d": "x"}'}),
        (["-tp", "2"], {"-tp": "2"}),
        ({"a-b": {"n": 4}, "c": True, "d": False, "e": 1.5}, None),
        ({"sizes": [1, 2, 4]}, {"--sizes": "1 2 4"}),
        ({"--no-a": True}, {"--a": "false"}),
        ({"a.b": 1}, {"--a": '{"b": 1}'}),
    ],
)
def test_flags_are_read_in_every_spelling(
    given: list[object] | Mapping[str, object], flags: dict[str, str] | None
) -> None:
    expected = {"--a-b": '{"n": 4}', "--c": "true", "--d": "false", "--e": "1.5"} if flags is None else flags
    assert read_flags(given, "here") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{x}"], "here: found `{x}`, allowed: an engine flag with its value"),
        (["--a=1", "--a=2"], "here: --a stands twice"),
        (["--a=1", "--a.b=2"], "here: --a stands twice"),
        (["--a.b=1", "--a.b.c=2"], "here: --a.b.c: another word gives --a.b a value"),
    ],
)
def test_what_is_no_flag_is_refused(given: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        read_flags(given, "here")


@pytest.mark.parametrize(
    ("word", "settings"),
    [
        ("--block-size=32", {"VLLM_BLOCK_SIZE": "32"}),
        ("--no-enable-prefix-caching", {"VLLM_ENABLE_PREFIX_CACHING": "false"}),
        ("-q fp8", {"VLLM_QUANTIZATION": "fp8"}),
        ('--speculative-config={"method": "ngram"}', {"VLLM_SPECULATIVE_CONFIG": '{"method": "ngram"}'}),
        ("--cudagraph-capture-sizes 1 2", {"VLLM_ARG_CUDAGRAPH_CAPTURE_SIZES": "1 2"}),
        ("--seed=7", {"VLLM_ARG_SEED": "7"}),
    ],
)
def test_a_flag_goes_to_the_setting_that_carries_it(word: str, settings: dict[str, str]) -> None:
    assert route_arguments([word], "--arg") == settings


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("--max-model-len=8192", "the setting VLLM_MAX_MODEL_LEN decides", "`--set VLLM_MAX_MODEL_LEN=8192`"),
        ("-tp 2", "the setting VLLM_TENSOR_PARALLEL_SIZE decides", "`--set VLLM_TENSOR_PARALLEL_SIZE=2`"),
        ("--served-model-name=x", "the setting VLLM_SERVED_MODEL_NAME decides", "models[].served_name"),
        ("--model=x", "the setting VLLM_MODEL decides", "`--model`"),
        ("--host=0.0.0.0", "the engine listens inside the stack alone", "gateway.bind"),
        ("--port=1", "the engine listens inside the stack alone", "gateway.port"),
        ("--api-key=x", "can be read by every user", "stackwright keys add"),
        ("--data-parallel-size=2", "the plan makes one replica", "fit --data-parallel-size"),
        ("--lora-modules a=b", "a place of their own", "models[].lora"),
        ("--block-size=x", "--block-size: found `x`, allowed: a whole number", ""),
        ("--a='", "allowed: one line without quotes", ""),
        ("-z 1", "found `-z`", "the whole name"),
    ],
)
def test_a_flag_that_the_stack_decides_is_refused_with_what_does(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as failure:
        route_arguments([word], "--arg")
    assert failure.value.message.startswith("--arg: ")
    assert message in failure.value.message
    assert hint in (failure.value.hint or "")


@pytest.mark.parametrize(
    ("flag", "text", "problem"),
    [
        ("--chat-template-content-format", "openai", None),
        ("--chat-template-content-format", "openia", "one of auto, openai, string"),
        ("--seed", "x", "a whole number"),
        ("--seed", "true", "a value: a whole number"),
        ("--enable-log-requests", "true", None),
        ("--enable-log-requests", "yes", "a switch: no value"),
        ("--cudagraph-capture-sizes", "1 2 x", "a whole number"),
        ("--structured-outputs-config", "{", 'JSON, such as {"key": 1}'),
        ("--unheard-of", "x", None),
    ],
)
def test_a_value_is_checked_as_the_release_reads_it(flag: str, text: str, problem: str | None) -> None:
    table = load_catalog().arguments()
    assert problem_with_argument(table, flag, text, table.sampled[-1]) == problem
    assert problem_with_argument(table, flag, text, "0.1.0") is None


def test_every_flag_whose_kind_is_known_is_one_of_its_releases() -> None:
    catalog = load_catalog()
    releases = catalog.arguments().sampled
    has = catalog.flags().has
    unknown = [flag for flag in catalog.arguments().kinds if all(has(flag, release) is False for release in releases)]
    assert unknown == []


@pytest.mark.parametrize(
    ("text", "listed", "words"),
    [
        ("true", False, ("--a",)),
        ("false", False, ("--no-a",)),
        ("x y", False, ("--a", "x y")),
        ("x y", True, ("--a", "x", "y")),
        ("-1", False, ("--a=-1",)),
    ],
)
def test_a_text_becomes_the_words_of_its_flag(text: str, listed: bool, words: tuple[str, ...]) -> None:
    assert words_of("--a", text, listed=listed) == words


def test_what_is_one_whole_word_is_bound_to_its_key() -> None:
    values = {f"{ARGUMENT_PREFIX}A_B": "1", f"{ARGUMENT_PREFIX}C": "true", f"{ARGUMENT_PREFIX}D": "1 2"}
    words = ("--a-b", "1", "--c", "--d", "1", "2")
    assert bound_flags(words, values, ARGUMENT_PREFIX) == {"--a-b": f"{ARGUMENT_PREFIX}A_B"}


def test_flags_that_run_code_are_taken_with_a_warning() -> None:
    pins = {f"{ARGUMENT_PREFIX}TRUST_REMOTE_CODE": "true", f"{ARGUMENT_PREFIX}SEED": "1"}
    (warning,) = VLLM.argument_warnings(pins)
    assert warning.startswith("--trust-remote-code runs Python code")
    assert VLLM.argument_warnings({f"{ARGUMENT_PREFIX}TRUST_REMOTE_CODE": "false"}) == ()
