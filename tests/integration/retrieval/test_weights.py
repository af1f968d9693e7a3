"""A model whose weights are others than those behind stored vectors is told, whatever it is called."""

from __future__ import annotations

from pathlib import Path

from tests.integration.retrieval.parts import start_retrieval

REFUSAL = "collection `house` has vectors of other weights than stand/in has now"


def test_other_weights_under_the_same_name_are_refused(state_folder: Path, tmp_path: Path) -> None:
    with start_retrieval(state_folder, tmp_path) as retrieval:
        retrieval.send("house", {"a.txt": b"The cat sleeps."})
        retrieval.settle("house")
        retrieval.proxy.end()
        retrieval.models.seed = b"other"
        retrieval.proxy.start()
        retrieval.proxy.wait()

        asked = retrieval.ask("POST", "/v1/search", {"query": "cat", "collections": ["house"]})
        retrieval.send("house", {"b.txt": b"The dog wakes."})
        retrieval.send("fresh", {"b.txt": b"The dog wakes."})
        refused = {each["name"]: each for each in retrieval.settle("house")}["b.txt"]
        retrieval.settle("fresh")

        assert asked.status == 409
        assert asked.body["error"]["message"].startswith(REFUSAL)
        assert (refused["state"], refused["detail"].startswith(REFUSAL)) == ("failed", True)
        assert [each["document"]["name"] for each in retrieval.search("dog wakes", "fresh")] == ["b.txt"]
        models = {each["name"]: each["model"] for each in retrieval.ask("GET", "/v1/collections").body["data"]}
        assert models["fresh"] == {"source": "stand/in", "revision": 2, "dimension": 64}
