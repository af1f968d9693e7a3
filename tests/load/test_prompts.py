"""Prompts: as long as wanted, new in each round, within the context."""

from __future__ import annotations

import pytest
from stackwright.load.prompts import (
    PRESETS,
    PromptShape,
    Scale,
    make_prompts,
    sample_text,
    scale_from,
    shape_for,
    usual_requests,
)

SCALE = Scale(tokens_per_word=2.0, overhead=4.0)


def test_two_counts_give_the_scale() -> None:
    assert scale_from((8, 20), (72, 148)) == SCALE
    assert scale_from((8, 1), (72, 1)).words_for(512) == 512
    assert SCALE.words_for(104) == 50
    assert SCALE.words_for(1) == 1


def test_prompts_are_as_long_as_wanted_and_share_what_they_should() -> None:
    shape = PromptShape(input_tokens=204, output_tokens=8, shared_tokens=104, groups=2)
    prompts = make_prompts(shape, SCALE, 4, "seed")
    assert {len(prompt.split()) for prompt in prompts} == {100}
    beginnings = [" ".join(prompt.split()[:50]) for prompt in prompts]
    assert beginnings[0] == beginnings[2] != beginnings[1] == beginnings[3]
    assert len(set(prompts)) == 4


@pytest.mark.parametrize("preset", PRESETS)
def test_another_round_shares_no_beginning(preset: str) -> None:
    first, second = (
        {prompt[:100] for prompt in make_prompts(PRESETS[preset], SCALE, 8, seed)} for seed in ("round 1", "round 2")
    )
    assert not first & second
    assert make_prompts(PRESETS[preset], SCALE, 2, "x") == make_prompts(PRESETS[preset], SCALE, 2, "x")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("context", [256, 1000, 4096, 32768])
def test_a_shape_fits_its_context(preset: str, context: int) -> None:
    wanted = PRESETS[preset]
    shape = shape_for(wanted, context)
    assert shape.input_tokens + shape.output_tokens <= context
    assert shape.shared_tokens <= shape.input_tokens
    assert (shape == wanted) is (wanted.input_tokens + wanted.output_tokens <= context)


def test_an_unknown_context_shortens_nothing() -> None:
    assert shape_for(PRESETS["long"], None) == PRESETS["long"]


def test_the_same_seed_gives_the_same_words_everywhere() -> None:
    assert sample_text(3, "scale") == sample_text(9, "scale").rsplit(" ", 6)[0]


def test_a_round_has_enough_requests() -> None:
    assert [usual_requests(load) for load in ((1, None), (16, None), (None, 0.5), (None, 8.0))] == [10, 64, 10, 80]
