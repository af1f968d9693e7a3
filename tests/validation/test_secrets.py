"""Weak secrets are told from strong ones, and never quoted."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.validation.secrets import KNOWN, bits, weakness


@pytest.mark.parametrize(
    "secret",
    [
        f"sk-{secrets.token_hex(32)}",
        secrets.token_hex(16),
        secrets.token_urlsafe(32),
        "correct-horse-battery-staple-and-more-9Zq",
    ],
    ids=["made", "openssl", "urlsafe", "phrase"],
)
def test_strong_secrets_pass(secret: str) -> None:
    assert weakness(secret) is None


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("sk-1234", "is a well-known default"),
        ("SK-1234", "is a well-known default"),
        ("sk-changeme", "is a well-known default"),
        ("<your-master-key>", "is a placeholder"),
        ("sk-" + "x" * 40, "is a placeholder"),
        ("sk-abcdefgh", "has 11 characters; 32 are needed"),
        ("a" * 40, "repeats itself: about 0 bits; 90 are needed"),
        ("12" * 32, "repeats itself: about 64 bits; 90 are needed"),
    ],
)
def test_weak_secrets_are_told_by_their_fault(secret: str, words: str) -> None:
    assert weakness(secret) == words


@pytest.mark.parametrize("secret", sorted(KNOWN))
def test_every_known_default_is_weak(secret: str) -> None:
    assert weakness(secret)


@given(text=st.text(max_size=80))
def test_whatever_a_secret_is_the_words_do_not_hold_it(text: str) -> None:
    words = weakness(text)
    assert words is None or len(text.strip()) < 12 or text.strip() not in words
    assert bits(text) >= 0
