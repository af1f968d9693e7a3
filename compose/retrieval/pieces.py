"""A passage of a document, the fingerprint of all of one, and a passage as it is found. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from uuid import UUID


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A passage, and where it stands: its page, counted from 1, or its seconds of sound or video.

    `picture`: the vector of the picture that the text is about; the text is empty where no model describes pictures.
    """

    text: str
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    picture: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A passage with the vector of its text; None of an empty one.

    `floor`: the cosine that sentences which have nothing to do with its picture reach.
    """

    piece: Piece
    vector: Sequence[float] | None
    floor: float = 1.0


def fingerprint(pieces: Sequence[Piece]) -> bytes:
    """Return what tells one cut of a document from another: who resumes must have the same pieces as who began."""
    return sha256(json.dumps([astuple(piece) for piece in pieces], ensure_ascii=True).encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Found:
    """A passage as a search gives it back. `similarity`: cosine; None where its vector was not compared."""

    collection: str
    document: UUID
    name: str
    media_type: str
    ordinal: int
    text: str
    page: int | None
    start_s: float | None
    end_s: float | None
    similarity: float | None
    score: float
