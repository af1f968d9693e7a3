"""What is taken out of a text, and what stays."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.diagnosis.redaction import (
    REDACTED,
    assigned_secrets,
    is_secret_name,
    make_redaction,
    mask,
    secret_variables,
)

PLANTED = "pa55/w+rd&'x"
REDACTION = make_redaction([PLANTED, "short", ""], home="/home/you", user="wilhelmina", machine="node-seven")


@pytest.mark.parametrize(
    "text",
    [
        PLANTED,
        f"redis://:{PLANTED}@redis:6379/0",
        f'{{"a": "{PLANTED}"}}',
        f"url?x={quote(PLANTED, safe='')}&y=1",
        f"Basic {base64.b64encode(PLANTED.encode()).decode()}",
        "curl -H 'Authorization: Bearer Zm9vYmFyYmF6'",
        "Authorization: Basic Zm9vYmFyYmF6",
        "token hf_abcdefghijklmnop is used",
        f"key=sk-{'ab12' * 16}",
        "ghp_16CharactersAndMore1234",
        "github_pat_11ABCDEFG0_abcdef",
        "glpat-abcdefghij1234567890",
        "nvapi-abcdefghij1234567890",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "https://someone:geheim@registry.example/v2/",
        "postgresql://litellm:geheim@db/litellm",
        "HF_TOKEN=geheim",
        "export HF_TOKEN='geheim geheim'",
        'LITELLM_MASTER_KEY: "geheim"',
        '"Env": ["REDIS_PASSWORD=geheim"]',
        '{"api_key": "geheim", "model": "x"}',
        "api-key: geheim",
        "AWS_SECRET_ACCESS_KEY=geheim",
        "client_secret = geheim",
        "https://hub/x?token=geheim&y=1",
        "-----BEGIN RSA PRIVATE KEY-----\ngeheim\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\ngeheim, and the log ends here",
        "requirepass geheim",
        "--api-key geheim",
        "--hf-token=geheim",
    ],
)
def test_a_secret_is_taken_out(text: str) -> None:
    clean = REDACTION.apply(text)
    assert REDACTED in clean
    for secret in (
        PLANTED,
        "geheim",
        "Zm9v",
        "abcdefghij",
        "ab12ab12",
        "CharactersAndMore",
        "ABCDEFGHIJKLMNOP",
        "eyJzdWI",
    ):
        assert secret not in clean


@pytest.mark.parametrize(
    "text",
    [
        "max_num_batched_tokens=8192, bos_token_id=1, tokenizer='org/model'",
        "GPU KV cache size: 159,632 tokens",
        "KeyError: 'getpwuid(): uid not found'",
        "Maximum concurrency for 2,048 tokens per request: 1024.00x",
        "api_key: os.environ/ENGINE_KEY",
        "master_key: None",
        "HF_TOKEN_PATH=/run/secrets/hf_token",
        "secrets: [engine_key, hf_token]",
        '{"classifier_from_token": ["no", "yes"]}',
        "GPU-2f1c7c3a-8f0e-4f27-9e0b-0a1b2c3d4e5f",
        "see https://docs.vllm.ai/en/latest/configuration/conserving_memory/",
        "vllm/vllm-openai:v0.32.0@sha256:0123456789abcdef",
        "the master key is a publicly known default.",
    ],
)
def test_what_a_report_needs_stays(text: str) -> None:
    assert REDACTION.apply(text) == text


def test_home_user_and_machine_are_taken_out() -> None:
    text = "/home/you/models by wilhelmina@node-seven: /home/you-two wilhelminas node-seventeen"
    assert REDACTION.apply(text) == "~/models by [user]@[machine]: /home/you-two wilhelminas node-seventeen"


def test_names_that_stand_in_every_log_stay() -> None:
    redaction = make_redaction([], home="/root", user="root", machine="localhost")
    assert redaction.apply("/root/x: See root cause above at localhost") == "~/x: See root cause above at localhost"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("hfToken", True),
        ("x-api-key", True),
        ("DB_PASSWORD", True),
        ("max_num_batched_tokens", False),
        ("tokenizer", False),
        ("monkey", False),
        ("KEYBOARD", False),
        ("author", False),
    ],
)
def test_a_secret_is_known_by_its_name(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_what_a_text_binds_to_the_name_of_a_secret_is_collected() -> None:
    text = "# HF_TOKEN=abc\nname: x\napi_key: 'd e f'\nmaster_key: os.environ/KEY\n"
    assert assigned_secrets(text) == ("abc", "d e f")


def test_variables_named_as_secrets_are_collected() -> None:
    found = secret_variables({"HF_TOKEN": "abc", "HF_TOKEN_PATH": "/x", "API_KEY": "none", "HOME": "/home/you"})
    assert found == ("abc",)


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=200), st.text(min_size=6, max_size=20), st.text(max_size=40)
)
def test_no_planted_value_survives(before: str, value: str, after: str) -> None:
    """In any text; and what has been taken out once stays as it is."""
    redaction = make_redaction([value], home="/home/you", user="wilhelmina", machine="node-seven")
    clean = redaction.apply(before + value + after)
    planted = value.strip()
    assert len(planted) < 6 or planted in REDACTED or planted not in clean
    assert redaction.apply(clean) == clean


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("gateway.bind: found `sk-a1b2c3d4e5f6`, allowed", f"gateway.bind: found `{REDACTED}`, allowed"),
        ("model: hf_AbCdEfGhIjKlMnOp: no such", f"model: {REDACTED}: no such"),
        ("image: found `http://user:geheim@reg/x`", f"image: found `http://{REDACTED}@reg/x`"),
        ("image: found `user:geheim@reg/x`", f"image: found `{REDACTED}@reg/x`"),
        *((text, text) for text in ("hf_transfer is missing", "key: found `x`", "reg:5000/a:v1@sha256:ab", "a@b.org")),
    ],
)
def test_a_message_quotes_no_key_that_was_typed_in_a_wrong_place(text: str, masked: str) -> None:
    assert mask(text) == masked
