"""A picture that no model describes is found by its own vector, and given back; it stays so through a restart.

The embedding model that sees is a stand-in: it puts a picture of a colour far from every text, and nearest to the texts
that name its colour. A vision model there is none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.retrieval.both import holds_through_a_restart, start_both
from tests.integration.retrieval.models import DIMENSION, picture_vector, texts_of
from tests.integration.retrieval.parts import SERVED, Retrieval
from tests.multimodal.files import write_picture, write_video
from tests.multimodal.running import Gateway, Service, colour_of

SEEING = ({**SERVED[0], "sees": "yes"}, *SERVED[1:])
ALONE = {"VISION_MODEL": "", "SPEECH_MODEL": "", "EMBEDDING_MODEL": "embed", "EMBEDDING_SEES": "yes"}


class SeeingEmbedding(Gateway):
    """An embedding model that takes pictures, one conversation a request, and lets nothing else be asked."""

    def answer(self, path: str, kind: str, body: bytes) -> dict[str, Any]:  # noqa: ARG002  # the stand-in's signature
        """Return the vector of the colour that a picture has."""
        assert path == "/v1/embeddings"
        (message,) = json.loads(body)["messages"]
        (part,) = message["content"]
        picture = base64.b64decode(part["image_url"]["url"].partition(",")[2])
        vector = picture_vector(colour_of(picture), DIMENSION)
        return {"data": [{"index": 0, "embedding": vector}]}


@pytest.fixture(scope="module")
def both(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Retrieval, Service]]:
    """Start retrieval and the worker with a model that embeds pictures, and none that describes them."""
    with start_both(state_folder, tmp_path_factory.mktemp("pictures"), SeeingEmbedding(), ALONE, SEEING) as started:
        yield started


def names(retrieval: Retrieval, sentence: str, collection: str = "album") -> list[str]:
    """Return the names of what a sentence finds."""
    return [each["document"]["name"] for each in retrieval.search(sentence, collection)]


def test_a_picture_without_a_caption_is_found_by_a_sentence_also_after_a_restart(
    both: tuple[Retrieval, Service], tmp_path: Path
) -> None:
    retrieval, worker = both
    files = {f"{at}.png": write_picture(tmp_path / f"{at}.png", at).read_bytes() for at in ("yellow", "blue", "red")}
    files["note.txt"] = b"The blue whale is the largest animal."
    retrieval.send("album", files)
    assert {each["name"]: each["state"] for each in retrieval.settle("album")} == dict.fromkeys(files, "done")

    def check() -> None:
        (picture,) = retrieval.search("something yellow", "album")
        assert (picture["document"]["name"], picture["text"]) == ("yellow.png", "")
        # A picture is as good as a text, however far apart the model puts both.
        assert sorted(names(retrieval, "blue")) == ["blue.png", "note.txt"]
        assert names(retrieval, "submarine xylophone") == []
        assert retrieval.search("yellow", "album", by="words") == []
        given = retrieval.ask("GET", picture["content_url"])
        assert (given.status, given.body) == (200, files["yellow.png"])

    holds_through_a_restart(retrieval, worker, check)


def test_a_moment_of_a_video_is_found_by_its_picture(both: tuple[Retrieval, Service], tmp_path: Path) -> None:
    retrieval, _ = both
    retrieval.send("films", {"film.mp4": write_video(tmp_path / "film.mp4", with_sound=False).read_bytes()})
    (film,) = retrieval.settle("films", limit_s=120)
    assert film["state"] == "done", film

    first, *_ = retrieval.search("blue", "films")

    assert first["start_s"] == first["end_s"] == pytest.approx(2, abs=0.2)


def test_texts_are_asked_for_in_the_frame_of_the_pictures(both: tuple[Retrieval, Service]) -> None:
    retrieval, _ = both
    retrieval.search("green", "album")
    asked = [body for _, body in retrieval.models.asked_for("/v1/embeddings")]

    assert asked
    assert all("messages" in body for body in asked)
    assert texts_of(asked[-1]) == ["green"]


def test_pictures_go_with_their_document_and_their_collection(both: tuple[Retrieval, Service], tmp_path: Path) -> None:
    retrieval, _ = both
    files = {f"{at}.png": write_picture(tmp_path / f"{at}.png", at).read_bytes() for at in ("green", "white")}
    retrieval.send("short", files)
    retrieval.settle("short")
    (green,) = [each for each in retrieval.documents("short") if each["name"] == "green.png"]
    assert names(retrieval, "green", "short") == ["green.png"]
    kept = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'pictures_%'"
    before = set(retrieval.query(kept))

    assert retrieval.ask("DELETE", f"/v1/collections/short/documents/{green['id']}").status == 200
    assert names(retrieval, "green", "short") == []
    assert retrieval.ask("DELETE", "/v1/collections/short").status == 200
    assert len(before - set(retrieval.query(kept))) == 1
