"""Finding passages: by vectors and by words in each collection, both lists fused, reranked where a model can."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from retrieval import store
from retrieval.embedding import Embedding
from retrieval.failures import DocumentError, GatewayError, RefusedError, bad_request
from retrieval.gateway import Gateway
from retrieval.options import Options
from retrieval.pieces import Found
from retrieval.ranking import Candidate, as_tsquery, expected_terms, fuse, is_found, looked_for

CANDIDATES = 50
"""Passages that each of both searches brings, and that are reranked."""

MOST_MATCHES = 4000
"""Passages with words of the question that are weighed against each other; each is read for it."""

MOST_COLLECTIONS, LONGEST_QUERY = 16, 8000

BOTH, BY_VECTOR, BY_WORDS = "both", "vector", "words"
WAYS = (BOTH, BY_VECTOR, BY_WORDS)
"""What a search goes by. By words alone it asks no model."""

STATISTICS_S = 60.0
"""How long the words' frequencies of a collection stay as they were read."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Passages, best first, and whether a model has ranked them."""

    passages: tuple[Found, ...]
    reranked: bool


class Search:
    """Searches of one process."""

    def __init__(
        self, options: Options, pool: AsyncConnectionPool[Any], gateway: Gateway, embedding: Embedding
    ) -> None:
        self._options, self._pool, self._gateway, self._embedding = options, pool, gateway, embedding
        self._statistics: dict[int, tuple[float, float, dict[str, float]]] = {}

    def forget(self) -> None:
        """Drop what is known of the collections: the database is another one."""
        self._statistics.clear()

    async def find(
        self, caller: tuple[str, str], names: Sequence[str], query: str, most: int, by: str = BOTH
    ) -> Answer:
        """Return at most `most` passages of the caller's collections that have to do with the query.

        Args:
            caller: the name of whose they are, and the key.
            by: one of WAYS.

        Raises:
            RefusedError: a collection is not the owner's (404), or its model is not served (409).
            GatewayError: the query got no vector.
        """
        owner, key = caller
        query = query.replace("\0", " ").encode("utf-8", "replace").decode()[:LONGEST_QUERY]
        async with self._pool.connection() as connection:
            collections = await store.find_collections(connection, owner, names)
        if len({collection.model_source for collection in collections}) > 1:
            raise bad_request("these collections have vectors of different models; search them one by one")
        # No connection is held while the engine works.
        vector, floor = ("", 1.0) if by == BY_WORDS else await self._vector(collections, query, key)
        async with self._pool.connection() as connection:
            # Again, on the connection that is searched: a restore between may have given numbers to other collections.
            collections = await store.find_collections(connection, owner, names)
            by_vector: list[Candidate] = []
            by_words: list[Candidate] = []
            by_picture: list[Candidate] = []
            for collection in collections:
                by_vector += await self._by_vector(connection, collection, vector) if vector else []
                by_picture += await self._by_picture(connection, collection, vector) if vector else []
                by_words += await self._by_words(connection, collection, query) if by != BY_VECTOR else []
            for ranked in (by_vector, by_picture):
                ranked.sort(key=lambda candidate: -(candidate.similarity or 0.0))
            by_words.sort(key=lambda candidate: -candidate.score)
            fused = [one for one in fuse(by_vector, by_words, by_picture) if is_found(one, floor)]
            found = await self._load(connection, collections, fused[: max(CANDIDATES, most)])
        return await self._rank(query, found, key, most)

    async def _vector(self, collections: Sequence[store.Collection], query: str, key: str) -> tuple[str, float]:
        """Return the query's vector as PostgreSQL reads it, and the similarity of what is unrelated.

        Raises:
            RefusedError: 409 where a collection has vectors of other weights.
        """
        served = self._embedding.served(collections[0])
        model = await self._embedding.measured(served, key)
        for collection in collections:
            if collection.model_id not in (None, model.id):
                raise RefusedError(409, store.mismatch(collection, model))
        try:
            vectors = await self._embedding.embed(served, model, [query], key)
        except DocumentError as failure:
            raise RefusedError(409, str(failure)) from failure
        return orjson.dumps(vectors[0]).decode(), model.unrelated_similarity

    async def _by_vector(
        self, connection: store.Connection, collection: store.Collection, vector: str
    ) -> list[Candidate]:
        if collection.model_id is None:
            return []
        # What is not whole yet is left out; a few documents at a time, so the list is short.
        query = sql.SQL(
            "SELECT chunk_id, 1 - (embedding <=> %s::halfvec) AS similarity FROM {} WHERE document_id NOT IN"
            " (SELECT id FROM documents WHERE collection_id = %s AND state <> 'done' AND stored > 0)"
            " ORDER BY embedding <=> %s::halfvec LIMIT %s"
        ).format(collection.vectors(collection.model_id))
        cursor = await connection.execute(query, [vector, collection.id, vector, CANDIDATES])
        return [_near(collection, row) for row in await cursor.fetchall()]

    async def _by_picture(
        self, connection: store.Connection, collection: store.Collection, vector: str
    ) -> list[Candidate]:
        """Return the passages whose pictures are nearer to the question than to unrelated sentences."""
        if collection.model_id is None or not collection.has_pictures:
            return []
        query = sql.SQL(
            "SELECT chunk_id, similarity FROM (SELECT chunk_id, floor, 1 - (embedding <=> %s::halfvec) AS similarity"
            " FROM {} WHERE document_id NOT IN (SELECT id FROM documents WHERE collection_id = %s AND state <> 'done'"
            " AND stored > 0)) AS compared WHERE similarity > floor ORDER BY similarity DESC, chunk_id LIMIT %s"
        ).format(collection.pictures(collection.model_id))
        cursor = await connection.execute(query, [vector, collection.id, CANDIDATES])
        return [_near(collection, row, is_seen=True) for row in await cursor.fetchall()]

    async def _by_words(
        self, connection: store.Connection, collection: store.Collection, query: str
    ) -> list[Candidate]:
        """Return the passages that hold most of the question's words, weighed by how rare these are."""
        cursor = await connection.execute(
            "SELECT lexeme FROM unnest(to_tsvector(%s::regconfig, %s)) ORDER BY positions[1]",
            [collection.language, query],
        )
        lexemes = [row["lexeme"] for row in await cursor.fetchall()]
        if not lexemes:
            return []
        chunks, shares = await self._frequencies(connection, collection)
        terms = expected_terms(lexemes, shares, chunks)
        values = [
            *(value for term in terms for value in (chunks, term.matches)),
            as_tsquery([term.lexeme for term in terms]),
            *(as_tsquery([term.lexeme]) for term in terms),
            as_tsquery([term.lexeme for term in looked_for(terms, MOST_MATCHES)]),
            *(collection.id, MOST_MATCHES, CANDIDATES),
        ]
        cursor = await connection.execute(_words_query(collection, len(terms)), values)
        return [
            Candidate(
                collection=collection.id,
                chunk=row["id"],
                coverage=float(row["covered"]),
                score=float(row["covered"]) + float(row["density"]),
            )
            for row in await cursor.fetchall()
        ]

    async def _frequencies(
        self, connection: store.Connection, collection: store.Collection
    ) -> tuple[float, dict[str, float]]:
        """Return how many passages a collection has, and the shares of its frequent words, as ANALYZE has seen them."""
        read_s, chunks, shares = self._statistics.get(collection.id, (-STATISTICS_S, 0.0, {}))
        if time.monotonic() - read_s > STATISTICS_S:
            cursor = await connection.execute(
                "SELECT (SELECT coalesce(sum(stored), 0) FROM documents WHERE collection_id = %s) AS chunks,"
                " most_common_elems::text::text[] AS words, most_common_elem_freqs AS shares FROM (SELECT) AS one"
                " LEFT JOIN pg_stats ON tablename = %s AND attname = 'words'",
                [collection.id, f"chunks_{collection.id}"],
            )
            row = await cursor.fetchone()
            assert row is not None
            chunks = float(row["chunks"])
            shares = dict(zip(row["words"], row["shares"], strict=False)) if row["words"] else {}
            self._statistics[collection.id] = (time.monotonic(), chunks, shares)
        return chunks, shares

    async def _load(
        self, connection: store.Connection, collections: Sequence[store.Collection], fused: Sequence[Candidate]
    ) -> list[Found]:
        """Return the texts of candidates in their order. One that was deleted a moment ago is not there."""
        loaded: dict[tuple[int, int], dict[str, Any]] = {}
        for collection in collections:
            query = sql.SQL(
                "SELECT t.id, t.ordinal, t.text, t.page, t.start_s, t.end_s, d.id AS document, d.name, d.media_type"
                " FROM {} t JOIN documents d ON d.id = t.document_id AND d.state = 'done' WHERE t.id = ANY(%s)"
            ).format(collection.chunks)
            chunks = [candidate.chunk for candidate in fused if candidate.collection == collection.id]
            cursor = await connection.execute(query, [chunks])
            for row in await cursor.fetchall():
                chunk = row.pop("id")
                loaded[collection.id, chunk] = {**row, "collection": collection.name}
        return [
            Found(similarity=one.similarity, score=one.score, **loaded[one.collection, one.chunk])
            for one in fused
            if (one.collection, one.chunk) in loaded
        ]

    async def _rank(self, query: str, found: list[Found], key: str, most: int) -> Answer:
        models = self._options.models_for("rerank")
        candidates = [one for one in found[:CANDIDATES] if one.text]
        if not models or len(candidates) < 2:
            return Answer(passages=tuple(found[:most]), reranked=False)
        try:
            scores = await self._gateway.rerank(models[0].name, query, [one.text for one in candidates], key)
        except GatewayError:  # a rank that is missing is no reason to say nothing; the answer tells that it is
            return Answer(passages=tuple(found[:most]), reranked=False)
        pairs = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])
        ranked = (replace(one, score=score) for score, one in pairs)
        # A picture without a text has no rank, and keeps its place.
        passages = [next(ranked) if one.text else one for one in found[:CANDIDATES]]
        return Answer(passages=tuple(passages[:most]), reranked=True)


def _near(collection: store.Collection, row: Mapping[str, Any], *, is_seen: bool = False) -> Candidate:
    return Candidate(collection=collection.id, chunk=row["chunk_id"], similarity=row["similarity"], is_seen=is_seen)


def _words_query(collection: store.Collection, count: int) -> sql.Composed:
    """Return the search by `count` words: which share of their weight a passage holds, and how densely.

    How rare a word is, is counted among the passages that were looked up. A frequent one is perhaps not looked for, and
    then counts as ANALYZE has seen it. The weight is BM25's (Robertson, Zaragoza 2009), which is never negative.
    """
    held = [sql.Identifier(f"h{number}") for number in range(count)]
    weights = [sql.Identifier(f"w{number}") for number in range(count)]
    holds = [sql.SQL("(words @@ %s::tsquery)::int AS {}").format(name) for name in held]
    weighs = [
        sql.SQL("ln(1 + (%s + 0.5) / (greatest(%s, sum({}) OVER ()) + 0.5)) AS {}").format(name, weight)
        for name, weight in zip(held, weights, strict=True)
    ]
    products = [sql.SQL("{} * {}").format(*pair) for pair in zip(held, weights, strict=True)]
    covered = sql.SQL("({}) / ({})").format(sql.SQL(" + ").join(products), sql.SQL(" + ").join(weights))
    return sql.SQL(
        "SELECT id, {covered} AS covered, density FROM (SELECT id, density, {held}, {weighs} FROM"
        " (SELECT id, ts_rank(words, %s::tsquery, 1) AS density, {holds} FROM (SELECT id, words FROM {chunks}"
        " WHERE words @@ %s::tsquery AND document_id NOT IN (SELECT id FROM documents WHERE collection_id = %s"
        " AND state <> 'done' AND stored > 0) LIMIT %s) AS matching) AS holding) AS weighed"
        " ORDER BY {covered} + density DESC, id LIMIT %s"
    ).format(
        covered=covered,
        held=sql.SQL(", ").join(held),
        weighs=sql.SQL(", ").join(weighs),
        holds=sql.SQL(", ").join(holds),
        chunks=collection.chunks,
    )
