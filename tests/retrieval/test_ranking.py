"""Which passages come first, and which count as found."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval.ranking import (
    Candidate,
    Term,
    as_tsquery,
    expected_terms,
    fuse,
    is_found,
    looked_for,
    unrelated_similarity,
    unrelated_to_picture,
)

CHUNKS = st.lists(st.integers(0, 20), unique=True, max_size=15)


def by_vector(*chunks: int) -> list[Candidate]:
    return [Candidate(collection=1, chunk=chunk, similarity=0.9) for chunk in chunks]


def by_words(*chunks: int) -> list[Candidate]:
    return [Candidate(collection=1, chunk=chunk, coverage=0.7) for chunk in chunks]


def test_what_both_searches_bring_comes_first_and_keeps_what_each_knows() -> None:
    fused = fuse(by_vector(1, 2, 3), by_words(4, 3))

    assert [candidate.chunk for candidate in fused] == [3, 1, 4, 2]
    assert (fused[0].similarity, fused[0].coverage) == (0.9, 0.7)
    assert fused[0].score == pytest.approx(1 / 63 + 1 / 62)


@given(CHUNKS, CHUNKS)
def test_each_passage_is_there_once_and_the_best_first(vectors: list[int], words: list[int]) -> None:
    fused = fuse(by_vector(*vectors), by_words(*words))

    assert sorted(candidate.chunk for candidate in fused) == sorted({*vectors, *words})
    assert [candidate.score for candidate in fused] == sorted((one.score for one in fused), reverse=True)


@pytest.mark.parametrize(
    ("similarity", "coverage", "found"),
    [(0.5, 0.0, True), (0.3, 0.0, False), (0.2, 0.5, True), (None, 0.6, True), (None, 0.4, False), (0.3, 0.49, False)],
)
def test_nearer_than_the_unrelated_or_with_half_of_the_words_is_found(
    similarity: float | None, coverage: float, found: bool
) -> None:
    assert is_found(Candidate(collection=1, chunk=1, similarity=similarity, coverage=coverage), 0.3) is found


def test_words_that_are_nowhere_frequent_are_rarer_than_those_that_are() -> None:
    terms = expected_terms(["pump", "e17", "pump", "valve"], {"pump": 0.4, "valve": 0.02}, 1000)

    assert terms == [
        Term(lexeme="e17", matches=10),
        Term(lexeme="valve", matches=20),
        Term(lexeme="pump", matches=400),
    ]
    assert expected_terms(["pump"], {}, 1000) == [Term(lexeme="pump", matches=1)]


@pytest.mark.parametrize(("most", "kept"), [(5, ["a"]), (30, ["a", "b"]), (29, ["a"]), (430, ["a", "b", "c"])])
def test_the_rarest_are_looked_for_and_one_at_least(most: int, kept: list[str]) -> None:
    terms = [Term(lexeme=name, matches=matches) for name, matches in (("a", 10), ("b", 20), ("c", 400))]

    assert [term.lexeme for term in looked_for(terms, most)] == kept


def test_signs_of_a_query_stay_text() -> None:
    assert as_tsquery(["o'clock", "back\\slash", "a & b"]) == r"'o''clock' | 'back\\slash' | 'a & b'"


def test_what_is_unrelated_is_measured_by_pairs() -> None:
    angles = [0.0, 1.0, 2.0, 3.0]
    vectors = [[2 * math.cos(angle), 2 * math.sin(angle)] for angle in angles]

    # Six pairs: three are one apart, two are two, one is three. The twentieth part of six is none.
    assert unrelated_similarity(vectors) == pytest.approx(math.cos(1.0))


def test_a_picture_is_held_against_sentences_of_which_one_may_be_about_it() -> None:
    unrelated = [(math.cos(angle), math.sin(angle)) for angle in (1.3, 1.32, 1.34, 1.36, 1.38, 1.4, 1.42, 1.44)]
    floor = unrelated_to_picture((1.0, 0.0), unrelated)
    with_its_own = unrelated_to_picture((1.0, 0.0), [*unrelated[:-1], (1.0, 0.0)])

    assert max(math.cos(angle) for angle in (1.3, 1.32)) < floor < 0.5
    assert with_its_own < 0.5


def test_a_passage_whose_picture_is_near_is_found_whatever_its_text() -> None:
    seen = Candidate(collection=1, chunk=3, similarity=0.1, is_seen=True)
    (first, *_) = fuse(by_vector(3, 2), by_words(), [seen])

    assert (first.chunk, first.similarity, first.is_seen) == (3, 0.9, True)
    assert is_found(seen, 0.3)
