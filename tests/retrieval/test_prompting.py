"""What a model is given to read, and what its answer cites."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval.pieces import Found
from retrieval.prompting import (
    RULES,
    choose_sources,
    cited,
    estimate_tokens,
    question_of,
    source_room,
    with_sources,
)

USER = {"role": "user", "content": "Which valve?"}


def passage(text: str, **further: Any) -> Found:
    fields: dict[str, Any] = {
        "collection": "house",
        "document": UUID(int=1),
        "name": "boiler.md",
        "media_type": "text/markdown",
        "ordinal": 0,
        "text": text,
        "page": None,
        "start_s": None,
        "end_s": None,
        "similarity": 0.5,
        "score": 1.0,
    }
    return Found(**{**fields, **further})


def test_sources_are_numbered_and_say_where_they_stand() -> None:
    sources = [passage("one", page=3), passage("two", start_s=61.5), passage("three")]

    (system, user) = with_sources([USER], sources)

    assert user == USER
    assert system["role"] == "system"
    assert system["content"] == (
        f"{RULES}\n\n[1] boiler.md, page 3\none\n\n[2] boiler.md, at 62 s\ntwo\n\n[3] boiler.md\nthree\n"
    )


def test_a_system_message_stays_the_first() -> None:
    messages = [{"role": "system", "content": "Be short."}, USER]

    made = with_sources(messages, [passage("one")])

    assert [message["role"] for message in made] == ["system", "user"]
    assert str(made[0]["content"]).startswith(f"Be short.\n\n{RULES}")
    assert messages[0] == {"role": "system", "content": "Be short."}


@given(st.lists(st.text(max_size=200), max_size=20), st.integers(64, 4000), st.none() | st.integers(1, 2000))
def test_what_is_sent_keeps_within_the_context(texts: list[str], context: int, answer: int | None) -> None:
    messages = [USER, {"role": "assistant", "content": "Which?"}, USER]
    sources = choose_sources([passage(text) for text in texts], source_room(messages, context, answer))

    if sources:
        sent = with_sources(messages, sources)
        tokens = sum(estimate_tokens(message["content"]) for message in sent)
        assert tokens + (answer or min(1024, context // 4)) <= context


def test_a_long_source_makes_room_for_the_next() -> None:
    sources = choose_sources([passage("a" * 60), passage("b" * 900), passage("c" * 60)], 80)

    assert [source.text[0] for source in sources] == ["a", "c"]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("It is so [1].", [1]),
        ("See [2], [1] and [2].", [1, 2]),
        ("Both [1, 3].", [1, 3]),
        ("None [4] [0] [12345] [x] (1) 2", []),
        ("", []),
    ],
)
def test_citations_are_numbers_of_sources_in_brackets(answer: str, numbers: list[int]) -> None:
    assert cited(answer, 3) == numbers


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        (
            [USER, {"role": "assistant", "content": "Which?"}, {"role": "user", "content": "The red one."}],
            "The red one.",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "Seen?"}, {"type": "image_url"}, 5]}], "Seen?"),
        ([{"role": "system", "content": "Be short."}], ""),
        ([{"role": "user", "content": None}], ""),
    ],
)
def test_the_last_words_of_the_user_are_the_question(messages: list[dict[str, Any]], question: str) -> None:
    assert question_of(messages) == question
