"""Vectors of texts by the stack's embedding models, and what is kept of each model: its dimension and its measure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from psycopg_pool import AsyncConnectionPool

from retrieval import store
from retrieval.failures import DocumentError, GatewayError, RefusedError
from retrieval.gateway import Gateway, Key
from retrieval.options import Options, ServedModel
from retrieval.pieces import Embedded, Piece
from retrieval.ranking import cosine, unrelated_similarity, unrelated_to_picture

BATCH = 32
"""Texts of one request: engines batch across requests too, so more of them gain nothing and cost memory."""

LEAST_CHARACTERS = 64
"""A text that a model refuses as too long is halved until it is this short."""

# Sentences that have nothing to do with each other. The cosine of their vectors is what this model calls unrelated:
# 0.1 with one, 0.8 with another, so no fixed number can stand for it.
UNRELATED = (
    "The train to the coast leaves from platform four at half past six.",
    "Yeast needs warmth and sugar to make the dough rise.",
    "A court may set aside a contract that was signed under duress.",
    "The telescope measured the brightness of a distant star.",
    "Replace the filter of the pump after two hundred hours of use.",
    "He scored twice in the second half and was named player of the match.",
    "The invoice is payable within thirty days of its date.",
    "Penguins share the work of keeping the egg warm.",
    "Call the function again after the lock has been released.",
    "The committee elected a new chair by secret ballot.",
    "Apply the ointment to the skin twice a day.",
    "Her second novel is set in a fishing village during the war.",
    "Concrete reaches most of its strength after four weeks.",
    "The orchestra tuned to the oboe before the concert began.",
    "Soil that is too acid can be treated with lime.",
    "How do I reset my password?",
)


SAME = 0.98
"""Cosine of one sentence's vectors by the same weights, at the least: quantization and other hardware move it less."""

MEASURED_S = 600.0
"""How long a model counts as the one that it was: an engine can be started anew with other weights."""


class Embedding:
    """Asks the gateway for vectors, and holds them against what is stored of their model."""

    def __init__(self, options: Options, pool: AsyncConnectionPool[Any], gateway: Gateway) -> None:
        self._options, self._pool, self._gateway = options, pool, gateway
        self._measured: dict[str, tuple[float, store.EmbeddingModel]] = {}
        self._unrelated: dict[int, list[list[float]]] = {}

    def forget(self) -> None:
        """Drop what is known of the models: the database is another one."""
        self._measured.clear()
        self._unrelated.clear()

    def served(self, collection: store.Collection) -> ServedModel:
        """Return the served model whose vectors a collection has. Raises RefusedError 409 where there is none."""
        for model in self._options.models_for("embedding"):
            if model.source == collection.model_source:
                return model
        source = collection.model_source
        raise RefusedError(
            409, f"collection `{collection.name}` has vectors of {source}, which this stack does not serve"
        )

    async def measured(self, served: ServedModel, key: Key) -> store.EmbeddingModel:
        """Return which of the models that are kept is served now; one that is new is measured and kept.

        Raises:
            GatewayError: there is no answer.
        """
        at_s, model = self._measured.get(served.source, (-MEASURED_S, None))
        if model is None or time.monotonic() - at_s > MEASURED_S:
            model = await self._measure(served, key)
            self._measured[served.source] = (time.monotonic(), model)
        return model

    async def _measure(self, served: ServedModel, key: Key) -> store.EmbeddingModel:
        (probe,) = await self._gateway.embed(served, UNRELATED[:1], key)
        while True:
            async with self._pool.connection() as connection:
                kept = await store.find_models(connection, served.source)
            for model in kept:
                if model.dimension == len(probe) and cosine(model.probe, probe) >= SAME:
                    return model
            measure = unrelated_similarity(await self._gateway.embed(served, UNRELATED, key))
            async with self._pool.connection() as connection:
                # The next number: where another process takes it meanwhile, that one is compared first.
                revision = kept[0].revision + 1 if kept else 1
                added = await store.add_model(connection, served.source, revision, probe, measure)
            if added is not None:
                return added

    async def embed(
        self, served: ServedModel, model: store.EmbeddingModel, texts: Sequence[str], key: Key
    ) -> list[list[float]]:
        """Return the vectors of texts, in one request unless one of them is too long for the model.

        Raises:
            DocumentError: their dimension is not the model's.
            GatewayError: there is no answer.
        """
        try:
            vectors = await self._gateway.embed(served, texts, key)
        except GatewayError as failure:
            if failure.status not in (400, 413):
                raise
            vectors = [await self._embed_shortened(served, text, key) for text in texts]
        _check_dimension(served, model, vectors[0])
        return vectors

    async def embed_pieces(
        self, served: ServedModel, model: store.EmbeddingModel, pieces: Sequence[Piece], key: Key
    ) -> list[Embedded]:
        """Return passages with the vectors of their texts; their pictures have theirs. Raises as `embed` does."""
        texts = [piece.text for piece in pieces if piece.text]
        vectors = iter(await self.embed(served, model, texts, key) if texts else ())
        return [
            Embedded(
                piece=piece,
                vector=next(vectors) if piece.text else None,
                floor=1.0 if piece.picture is None else await self._floor(served, model, piece.picture),
            )
            for piece in pieces
        ]

    async def _floor(self, served: ServedModel, model: store.EmbeddingModel, picture: Sequence[float]) -> float:
        _check_dimension(served, model, picture)
        if model.id not in self._unrelated:
            self._unrelated[model.id] = await self._gateway.embed(served, UNRELATED, self._options.own_key)
        return unrelated_to_picture(picture, self._unrelated[model.id])

    async def _embed_shortened(self, served: ServedModel, text: str, key: Key) -> list[float]:
        while True:
            try:
                return (await self._gateway.embed(served, [text], key))[0]
            except GatewayError as failure:
                if failure.status not in (400, 413) or len(text) <= LEAST_CHARACTERS:
                    raise
            text = text[: len(text) // 2]


def _check_dimension(served: ServedModel, model: store.EmbeddingModel, vector: Sequence[float]) -> None:
    if len(vector) != model.dimension:
        raise DocumentError(
            f"`{served.name}` gives vectors of {len(vector)} numbers; those of {model.source} have {model.dimension}"
        )
