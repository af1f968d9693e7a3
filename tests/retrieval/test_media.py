"""Passages of what the multimodal worker has found."""

from __future__ import annotations

from retrieval.media import media_pieces
from retrieval.pieces import Piece


def speech(text: str, start_s: float, end_s: float) -> dict[str, object]:
    """Return a segment as the worker gives it."""
    return {"kind": "speech", "text": text, "start_s": start_s, "end_s": end_s}


def frame(text: str, start_s: float, end_s: float) -> dict[str, object]:
    """Return what a moment of a video shows."""
    return {**speech(text, start_s, end_s), "kind": "frame", "file": "frame-0.jpg"}


def test_speech_and_frames_are_each_a_passage_of_their_own_time() -> None:
    frames = [frame("A dog.", 0.0, 40.0), frame("A cat.", 40.0, 90.0)]
    said = [speech("One.", 0.0, 30.0), speech("Two.", 30.0, 59.0), speech("Three.", 59.0, 90.0)]
    result = {"text": "One.\nTwo.\nThree.\nA dog.\nA cat.", "captions": frames, "segments": [*said, *frames]}

    assert media_pieces(result, 500) == [
        Piece(text="A dog.", start_s=0.0, end_s=40.0),
        Piece(text="A cat.", start_s=40.0, end_s=90.0),
        Piece(text="One. Two.", start_s=0.0, end_s=59.0),
        Piece(text="Three.", start_s=59.0, end_s=90.0),
    ]


def test_a_scanned_page_keeps_its_number_and_stands_once() -> None:
    scanned = {"kind": "page", "text": "A stamp.", "file": "page-1.jpg", "page": 1}
    written = {"kind": "page", "text": "A letter.", "page": 2}

    pieces = media_pieces({"captions": [scanned], "pages": [scanned, written], "segments": []}, 500)

    assert pieces == [Piece(text="A stamp.", page=1), Piece(text="A letter.", page=2)]


def test_nothing_found_is_no_passage() -> None:
    assert media_pieces({"text": "", "captions": [{"kind": "picture", "text": "  ", "file": "a.jpg"}]}, 500) == []


def test_a_pictures_vector_goes_with_what_is_said_of_it_and_alone_without() -> None:
    told = {"kind": "picture", "text": "A dog.", "file": "one.jpg"}
    vectors = [
        {"file": "one.jpg", "model": "embed", "vector": [1, 0]},
        {"file": "two.jpg", "model": "embed", "vector": [0, 1], "time_s": 3.0},
        {"file": "three.jpg", "model": "another", "vector": [0, 1]},
        {**told, "model": "embed", "vector": [1, 1]},
    ]

    assert media_pieces({"captions": [told], "embeddings": vectors}, 500, "embed") == [
        Piece(text="A dog.", picture=(1.0, 0.0)),
        Piece(text="", start_s=3.0, end_s=3.0, picture=(0.0, 1.0)),
    ]
