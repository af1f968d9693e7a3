"""Pictures, sound and video go through the real multimodal worker: each is found by what it shows or says.

The worker asks a stand-in for a vision model, which names the colour of what it is shown; speech is heard by a real
model on the processor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.multimodal.speech import say, speech_model
from tests.integration.retrieval.both import holds_through_a_restart, start_both
from tests.integration.retrieval.files import pdf
from tests.integration.retrieval.parts import Retrieval
from tests.multimodal.client import Client
from tests.multimodal.files import write_picture, write_video
from tests.multimodal.running import Gateway, Service, until

SPOKEN = "The meeting is about the elephant. The answer is forty two."


class Eyes(Gateway):
    """A vision model that says which colour a bicycle has."""

    def answer(self, path: str, kind: str, body: bytes) -> dict[str, Any]:
        """Return a caption."""
        answer = super().answer(path, kind, body)
        message = answer["choices"][0]["message"]
        message["content"] = f"A {message['content']} bicycle leans against a wall."
        return answer


@pytest.fixture(scope="module")
def both(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Retrieval, Service]]:
    """Start retrieval and the worker, which know the same keys."""
    own = {"SPEECH_MODEL": "", "MULTIMODAL_SPEECH_MODEL": str(speech_model()), "HF_HUB_OFFLINE": "1"}
    with start_both(state_folder, tmp_path_factory.mktemp("media"), Eyes(), own) as both:
        yield both


def found(retrieval: Retrieval, sentence: str) -> list[tuple[str, str]]:
    """Return the names and the texts of what a sentence finds."""
    return [(each["document"]["name"], each["text"]) for each in retrieval.search(sentence, "media")]


def test_each_is_found_by_what_it_shows_or_says(both: tuple[Retrieval, Service], tmp_path: Path) -> None:
    retrieval, worker = both
    files = {
        "one.png": write_picture(tmp_path / "one.png", "yellow").read_bytes(),
        "two.png": write_picture(tmp_path / "two.png", "blue").read_bytes(),
        "talk.wav": say(SPOKEN, tmp_path / "talk.wav").read_bytes(),
    }
    retrieval.send("media", files)
    assert {each["name"]: each["state"] for each in retrieval.settle("media")} == dict.fromkeys(files, "done")

    def check() -> None:
        assert found(retrieval, "a yellow bicycle by the wall")[0] == (
            "one.png",
            "A yellow bicycle leans against a wall.",
        )
        (spoken,) = retrieval.search("elephant", "media")
        assert spoken["document"]["name"] == "talk.wav"
        assert "elephant" in spoken["text"].lower()
        assert 0 <= spoken["start_s"] < spoken["end_s"] < 10
        assert found(retrieval, "submarine xylophone") == []
        for each in retrieval.documents("media"):
            given = retrieval.ask("GET", f"/v1/collections/media/documents/{each['id']}/content")
            assert given.body == files[each["name"]]

    holds_through_a_restart(retrieval, worker, check)


def test_a_moment_of_a_video_is_found_with_its_time(both: tuple[Retrieval, Service], tmp_path: Path) -> None:
    retrieval, _ = both
    retrieval.send("films", {"film.mp4": write_video(tmp_path / "film.mp4", with_sound=False).read_bytes()})
    (film,) = retrieval.settle("films", limit_s=120)
    assert film["state"] == "done", film

    passages = retrieval.search("bicycle", "films", limit=100)

    assert film["passages"] == len(passages)
    times = {(each["text"], each["start_s"]) for each in passages}
    assert len(times) == len(passages)
    starts = [each["start_s"] for each in passages if "blue" in each["text"]]
    assert starts, passages
    assert min(starts) > 0
    assert all(re.fullmatch(r"A \w+ bicycle leans against a wall\.", each["text"]) for each in passages)


def test_a_scanned_page_is_found_by_what_a_model_reads_there(both: tuple[Retrieval, Service]) -> None:
    retrieval, worker = both
    asked = len(worker.gateway.bodies)
    retrieval.send("scans", {"scan.pdf": pdf([(1, 1, 0), "A lighthouse on the coast.", (0, 0, 1)])})
    (document,) = retrieval.settle("scans")

    assert (document["state"], document["detail"], document["passages"]) == ("done", "", 3)
    for sentence, page in (("a yellow bicycle", 1), ("lighthouse", 2), ("blue bicycle", 3)):
        assert retrieval.search(sentence, "scans")[0]["page"] == page
    assert worker.gateway.owners == {"anna"}
    # Pages with a text are not asked for.
    questions = [body["messages"][0]["content"][1]["text"] for body in worker.gateway.bodies[asked:]]
    assert len(questions) == 2
    assert all("text of this scanned page" in question for question in questions)


def test_a_job_that_the_worker_has_forgotten_is_sent_again(both: tuple[Retrieval, Service]) -> None:
    retrieval, worker = both
    worker.gateway.held.clear()
    retrieval.send("forgotten", {"scan.pdf": pdf([(1, 0, 0)])})
    # The job is hers whose document it is.
    asking = Client(port=worker.port, keys=retrieval.keys, name="anna")
    (job,) = until(lambda: asking.ask("GET", "/v1/jobs?state=running").document["jobs"])
    assert asking.ask("DELETE", f"/v1/jobs/{job['id']}").status == 204
    worker.gateway.held.set()

    (document,) = retrieval.settle("forgotten")
    assert (document["state"], document["passages"]) == ("done", 1)
