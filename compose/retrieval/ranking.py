"""Which passages come first: words by how rare they are, lists into one, and what counts as found. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

FUSION = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke, Buettcher, SIGIR 2009): 1 / (60 + rank)."""

LEAST_COVERAGE = 0.5
"""Share of the question's weight in words that a passage must have where its vector alone does not speak for it."""

MOST_TERMS = 32
"""Words of a question that are looked for, the rarest first."""


SPREADS, QUARTILES_APART = 3.0, 1.349
"""How many standard deviations above the middle is no chance any more (judgement: one picture in 700 that has nothing
to do with a question counts as found), and how many lie between the quartiles of a normal distribution.
"""


@dataclass(frozen=True, kw_only=True)
class Term:
    """A word of a question, as the text search has it, and in how many passages it stands, as far as that is known."""

    lexeme: str
    matches: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A passage that one of the searches brought. `similarity`: cosine; None where it was not compared.

    `is_seen`: its picture is nearer to the question than to sentences that have nothing to do with it.
    """

    collection: int
    chunk: int
    similarity: float | None = None
    coverage: float = 0.0
    score: float = 0.0
    is_seen: bool = False


def expected_terms(lexemes: Sequence[str], shares: Mapping[str, float], chunks: float) -> list[Term]:
    """Return a question's words, the rarest first.

    Args:
        shares: of the frequent words, in how much of all passages each stands; others are rarer than all of these.
        chunks: how many passages there are.
    """
    rarest = min(shares.values(), default=2 / max(chunks, 1.0)) / 2
    terms = [Term(lexeme=lexeme, matches=shares.get(lexeme, rarest) * chunks) for lexeme in dict.fromkeys(lexemes)]
    return sorted(terms, key=lambda term: term.matches)[:MOST_TERMS]


def looked_for(terms: Sequence[Term], most_matches: float) -> list[Term]:
    """Return the rarest terms, so many that together they match no more than `most_matches` passages; one at least."""
    kept: list[Term] = []
    matches = 0.0
    for term in terms:
        matches += term.matches
        if kept and matches > most_matches:
            break
        kept.append(term)
    return kept


def as_tsquery(lexemes: Sequence[str]) -> str:
    """Return a PostgreSQL tsquery that any of the words satisfies."""
    return " | ".join("'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'" for lexeme in lexemes)


def fuse(*lists: Sequence[Candidate]) -> list[Candidate]:
    """Return the passages of all lists, each once, best first; each list is given best first."""
    merged: dict[tuple[int, int], Candidate] = {}
    scores: dict[tuple[int, int], float] = {}
    for ranked in lists:
        for rank, candidate in enumerate(ranked, start=1):
            key = (candidate.collection, candidate.chunk)
            scores[key] = scores.get(key, 0.0) + 1 / (FUSION + rank)
            other = merged.get(key, candidate)
            merged[key] = Candidate(
                collection=candidate.collection,
                chunk=candidate.chunk,
                similarity=candidate.similarity if other.similarity is None else other.similarity,
                coverage=max(candidate.coverage, other.coverage),
                is_seen=candidate.is_seen or other.is_seen,
                score=scores[key],
            )
    return sorted(merged.values(), key=lambda candidate: (-candidate.score, candidate.collection, candidate.chunk))


def is_found(candidate: Candidate, unrelated_similarity: float) -> bool:
    """Return whether a passage has to do with the question: vectors always have a nearest one, also without any.

    Args:
        unrelated_similarity: the cosine that the model gives to texts which have nothing to do with each other.
    """
    is_near = candidate.similarity is not None and candidate.similarity > unrelated_similarity
    return is_near or candidate.is_seen or candidate.coverage >= LEAST_COVERAGE


def unrelated_similarity(vectors: Sequence[Sequence[float]]) -> float:
    """Return the cosine that few pairs of unrelated texts exceed: the twentieth part of the given ones, at most."""
    cosines = sorted(cosine(vectors[i], vectors[j]) for i in range(len(vectors)) for j in range(i))
    return cosines[math.ceil(0.95 * len(cosines)) - 1]


def unrelated_to_picture(picture: Sequence[float], sentences: Sequence[Sequence[float]]) -> float:
    """Return the cosine that few sentences which have nothing to do with a picture exceed.

    Of pictures each has its own: a model like CLIP puts them far from all texts, and some farther than others (Liang et
    al. 2022, "Mind the Gap"). By quartiles, since one of the sentences may be about the picture.
    """
    cosines = [cosine(picture, sentence) for sentence in sentences]
    first, middle, third = quantiles(cosines, n=4)
    return middle + SPREADS * (third - first) / QUARTILES_APART


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors of the same dimension, neither of them zero."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))
