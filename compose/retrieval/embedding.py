"""Vectors of texts by the stack's embedding models, and what is kept of each model: its dimension and its measure."""

from __future__ import annotations

from collections.abc import Sequence

from retrieval import store
from retrieval.failures import DocumentError, GatewayError, RefusedError
from retrieval.gateway import Gateway
from retrieval.options import Options, ServedModel
from retrieval.ranking import unrelated_similarity

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


class Embedding:
    """Asks the gateway for vectors, and holds them against what is stored of their model."""

    def __init__(self, options: Options, gateway: Gateway) -> None:
        self._options, self._gateway = options, gateway
        self._known: dict[tuple[str, str], store.EmbeddingModel] = {}

    def served(self, collection: store.Collection) -> ServedModel:
        """Return the served model whose vectors a collection has.

        Raises:
            RefusedError: 409 where the stack does not serve it, or not this revision.
        """
        for model in self._options.models_for("embedding"):
            if (model.source, model.revision) == (collection.model_source, collection.model_revision):
                return model
        wanted = collection.model_source + (f" at {collection.model_revision}" if collection.model_revision else "")
        raise RefusedError(
            409, f"collection `{collection.name}` has vectors of {wanted}, which this stack does not serve"
        )

    async def known(self, connection: store.Connection, served: ServedModel, key: str) -> store.EmbeddingModel:
        """Return what is kept of a model; one that was never used is measured now. Raises GatewayError."""
        identity = (served.source, served.revision)
        if identity not in self._known:
            model = await store.find_model(connection, *identity)
            if model is None:
                vectors = await self._gateway.embed(served.name, UNRELATED, key)
                measure = unrelated_similarity(vectors)
                model = await store.add_model(connection, *identity, len(vectors[0]), measure)
            self._known[identity] = model
        return self._known[identity]

    async def embed(
        self, served: ServedModel, model: store.EmbeddingModel, texts: Sequence[str], key: str
    ) -> list[list[float]]:
        """Return the vectors of texts, in one request unless one of them is too long for the model.

        Raises:
            DocumentError: their dimension is not the model's.
            GatewayError: there is no answer.
        """
        try:
            vectors = await self._gateway.embed(served.name, texts, key)
        except GatewayError as failure:
            if failure.status not in (400, 413):
                raise
            vectors = [await self._embed_shortened(served, text, key) for text in texts]
        if len(vectors[0]) != model.dimension:
            raise DocumentError(
                f"`{served.name}` gives vectors of {len(vectors[0])} numbers; those of {model.source} have"
                f" {model.dimension}"
            )
        return vectors

    async def _embed_shortened(self, served: ServedModel, text: str, key: str) -> list[float]:
        while True:
            try:
                return (await self._gateway.embed(served.name, [text], key))[0]
            except GatewayError as failure:
                if failure.status not in (400, 413) or len(text) <= LEAST_CHARACTERS:
                    raise
            text = text[: len(text) // 2]
