"""Collections and documents in PostgreSQL: every statement names the owner or a lease, so that none reaches further.

A collection has tables of its own: `chunks_N` with the texts and their words, and for each embedding model
`vectors_N_M` with that model's dimension, and `pictures_N_M` where it has pictures. So its statistics and its index
tell nothing of another key's, and it goes in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection, sql

from retrieval.failures import DocumentError, RefusedError, bad_request, not_found
from retrieval.pieces import Embedded

Connection: TypeAlias = "AsyncConnection[Any]"

MOST_COLLECTIONS = 1000
"""Collections of one key: each is two tables and four indexes of PostgreSQL's."""

LONGEST_INDEXED = 4000
"""Numbers of a vector of half precision that pgvector can index (its README, 0.8); longer ones are compared in turn."""

LANGUAGES = frozenset(
    "arabic armenian basque catalan danish dutch english estonian finnish french german greek hindi hungarian "
    "indonesian irish italian lithuanian nepali norwegian portuguese romanian russian serbian simple spanish swedish "
    "tamil turkish yiddish".split()
)
"""Text search configurations of PostgreSQL 18 (\\dF); `simple` keeps words as they are."""

ORPHAN_AFTER = "1 hour"
"""An original whose document was not stored by then belongs to an upload that was cut off."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection of a key: its number, and whose vectors it has. `model_id`: None until its first vector.

    `has_pictures`: some of them are of pictures.
    """

    id: int
    owner: str
    name: str
    language: str
    model_source: str
    model_id: int | None
    has_pictures: bool

    @property
    def chunks(self) -> sql.Identifier:
        """Return the table of its texts."""
        return sql.Identifier(f"chunks_{self.id}")

    def vectors(self, model_id: int) -> sql.Identifier:
        """Return the table of its vectors by this model."""
        return sql.Identifier(f"vectors_{self.id}_{model_id}")

    def pictures(self, model_id: int) -> sql.Identifier:
        """Return the table of its pictures' vectors by this model.

        They lie apart: a model puts pictures far from all texts, so among texts none would be near a question. All are
        compared, which finds every one and takes 0.3 s for 100,000 (docs/decisions/0084-retrieval.md).
        """
        return sql.Identifier(f"pictures_{self.id}_{model_id}")

    def index(self, model_id: int) -> sql.Identifier:
        """Return the index of that table, where it has one."""
        return sql.Identifier(f"vectors_{self.id}_{model_id}_near")


@dataclass(frozen=True, kw_only=True)
class MeasuredCollection(Collection):
    """A collection with vectors of a dimension. `counted_to`: the last passage that its statistics know."""

    dimension: int
    counted_to: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingModel:
    """A model whose vectors are stored: whose weights they are, and the how manieth ones under that name.

    `probe` is its vector of a fixed sentence, `unrelated_similarity` the cosine that unrelated texts reach.
    """

    id: int
    source: str
    revision: int
    dimension: int
    probe: list[float]
    unrelated_similarity: float


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that has come in: where it lies, what it is, and its hash. The name is for people."""

    name: str
    media_type: str
    size_bytes: int
    content_hash: bytes


@dataclass(frozen=True, kw_only=True)
class Work:
    """A document that this worker has taken, and the lease that says so. `attempts`: since it last got on."""

    id: UUID
    lease: UUID
    collection: Collection
    name: str
    media_type: str
    content_hash: bytes
    attempts: int
    pieces_hash: bytes | None
    stored: int
    remote_job: str | None


_COLLECTION = (
    "c.id, c.owner, c.name, c.language, c.model_source, c.model_id,"
    " to_regclass('pictures_' || c.id || '_' || c.model_id) IS NOT NULL AS has_pictures"
)
_DOCUMENT = (
    "d.id, c.name AS collection, d.name, d.media_type, d.size_bytes, d.content_hash, d.state, d.detail, d.pieces,"
    " d.stored, d.created_at, d.finished_at"
)


def original_key(content_hash: bytes, document: UUID) -> str:
    """Return where a document's bytes lie. The document's number in it: two keys with the same file share nothing."""
    name = content_hash.hex()
    return f"{name[:2]}/{name}.{document}"


async def find_collections(connection: Connection, owner: str, names: Sequence[str]) -> list[Collection]:
    """Return the collections of these names. Raises RefusedError 404 where the owner lacks one."""
    query = f"SELECT {_COLLECTION} FROM collections c WHERE owner = %s AND name = ANY(%s)"
    found = {row["name"]: Collection(**row) for row in await _all(connection, query, [owner, list(names)])}
    if missing := next((name for name in names if name not in found), None):
        raise not_found(f"collection `{missing[:100]}`")
    return [found[name] for name in dict.fromkeys(names)]


async def make_collection(
    connection: Connection, owner: str, name: str, language: str, model_source: str
) -> Collection:
    """Return the owner's collection of this name, made now where there was none.

    Raises:
        RefusedError: 400 where the owner has as many as it may have.
    """
    async with connection.transaction():
        query = f"SELECT {_COLLECTION} FROM collections c WHERE owner = %s AND name = %s"
        if there := await _one(connection, query, [owner, name]):
            return Collection(**there)
        counted = await _one(connection, "SELECT count(*) AS n FROM collections WHERE owner = %s", [owner])
        if counted is not None and counted["n"] >= MOST_COLLECTIONS:
            raise bad_request(f"this key has {MOST_COLLECTIONS} collections, which is the most; delete one")
        insert = (
            "INSERT INTO collections AS c (owner, name, language, model_source)"
            f" VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING {_COLLECTION}"
        )
        row = await _one(connection, insert, [owner, name, language, model_source])
        if row is not None:
            collection = Collection(**row)
            await _make_chunks(connection, collection)
            return collection
    # Another request made it in the same moment.
    return (await find_collections(connection, owner, [name]))[0]


async def _make_chunks(connection: Connection, collection: Collection) -> None:
    table = sql.SQL(
        "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, document_id uuid NOT NULL,"
        " ordinal integer NOT NULL, text text NOT NULL, words tsvector NOT NULL, page integer, start_s real,"
        " end_s real, UNIQUE (document_id, ordinal))"
    )
    await connection.execute(table.format(collection.chunks))
    await connection.execute(sql.SQL("CREATE INDEX ON {} USING gin (words)").format(collection.chunks))


async def list_collections(connection: Connection, owner: str) -> list[dict[str, Any]]:
    """Return the owner's collections by name, each with its documents counted by state."""
    query = (
        "SELECT c.name, c.language, c.model_source, m.revision, c.created_at, m.dimension,"
        " count(d.id) AS documents, coalesce(sum(d.stored) FILTER (WHERE d.state = 'done'), 0) AS chunks,"
        " count(d.id) FILTER (WHERE d.state IN ('queued', 'running')) AS waiting,"
        " count(d.id) FILTER (WHERE d.state = 'failed') AS failed"
        " FROM collections c LEFT JOIN documents d ON d.collection_id = c.id"
        " LEFT JOIN embedding_models m ON m.id = c.model_id WHERE c.owner = %s GROUP BY c.id, m.id ORDER BY c.name"
    )
    return await _all(connection, query, [owner])


async def delete_collection(connection: Connection, owner: str, name: str) -> list[str]:
    """Remove a collection with all that it holds; return the keys of its originals, which are to be removed then.

    Raises:
        RefusedError: 404 where the owner has none of this name.
    """
    async with connection.transaction():
        # The row first: an upload into it waits, and then finds none.
        query = f"SELECT {_COLLECTION} FROM collections c WHERE owner = %s AND name = %s FOR UPDATE"
        row = await _one(connection, query, [owner, name])
        if row is None:
            raise not_found(f"collection `{name[:100]}`")
        collection = Collection(**row)
        gone = await _all(
            connection, "DELETE FROM documents WHERE collection_id = %s RETURNING id, content_hash", [collection.id]
        )
        keys = [original_key(row["content_hash"], row["id"]) for row in gone]
        await _note_removals(connection, keys)
        for table in await _tables(connection, collection):
            await connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table)))
        await connection.execute("DELETE FROM collections WHERE id = %s", [collection.id])
    return keys


async def _tables(connection: Connection, collection: Collection) -> list[str]:
    pattern = rf"^(chunks_{collection.id}|(vectors|pictures)_{collection.id}_\d+)$"
    rows = await _all(
        connection, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ %s ORDER BY relname", [pattern]
    )
    return [row["relname"] for row in rows]


async def expect_original(connection: Connection, key: str) -> None:
    """Say that an original is about to be written, so that it goes again where its document never comes."""
    await connection.execute(
        "INSERT INTO removals (key, due_at) VALUES (%s, now() + %s::interval)", [key, ORPHAN_AFTER]
    )


async def add_document(
    connection: Connection, collection: Collection, document: UUID, upload: Upload
) -> tuple[dict[str, Any], bool]:
    """Store a document to be ingested; return it, or the one that has the same content, and whether it is new.

    Its original must lie there already (`expect_original`). Raises RefusedError 404 where the collection is gone.
    """
    async with connection.transaction():
        # By its owner's name too: a restore between may have given the number to another one.
        query = "SELECT id FROM collections WHERE id = %s AND owner = %s AND name = %s FOR KEY SHARE"
        if await _one(connection, query, [collection.id, collection.owner, collection.name]) is None:
            raise not_found(f"collection `{collection.name}`")
        insert = (
            "INSERT INTO documents (id, collection_id, content_hash, name, media_type, size_bytes)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (collection_id, content_hash) DO NOTHING RETURNING id"
        )
        values = [document, collection.id, upload.content_hash, upload.name, upload.media_type, upload.size_bytes]
        is_new = await _one(connection, insert, values) is not None
        if is_new:
            key = original_key(upload.content_hash, document)
            await connection.execute("DELETE FROM removals WHERE key = %s", [key])
        query = (
            f"SELECT {_DOCUMENT} FROM documents d JOIN collections c ON c.id = d.collection_id"
            " WHERE d.collection_id = %s AND d.content_hash = %s"
        )
        row = await _one(connection, query, [collection.id, upload.content_hash])
    if row is None:  # deleted in the moment between; the sender may send it again
        raise RefusedError(409, f"`{upload.name}` is being deleted; send it again", retry_after_s=1)
    return row, is_new


async def find_document(connection: Connection, owner: str, collection: str, document: UUID) -> dict[str, Any]:
    """Return a document. Raises RefusedError 404 where the owner's collection has none of this number."""
    query = (
        f"SELECT {_DOCUMENT} FROM documents d JOIN collections c ON c.id = d.collection_id"
        " WHERE c.owner = %s AND c.name = %s AND d.id = %s"
    )
    row = await _one(connection, query, [owner, collection, document])
    if row is None:
        raise not_found("document")
    return row


async def list_documents(
    connection: Connection, collection: Collection, state: str | None, after: UUID | None, most: int
) -> list[dict[str, Any]]:
    """Return the collection's documents in the order in which they came, those behind `after`, at most `most`."""
    query = (
        f"SELECT {_DOCUMENT} FROM documents d JOIN collections c ON c.id = d.collection_id WHERE d.collection_id = %s"
        " AND (%s::text IS NULL OR d.state = %s) AND (%s::uuid IS NULL OR (d.created_at, d.id) >"
        " (SELECT created_at, id FROM documents WHERE collection_id = %s AND id = %s))"
        " ORDER BY d.created_at, d.id LIMIT %s"
    )
    return await _all(connection, query, [collection.id, state, state, after, collection.id, after, most])


async def delete_document(connection: Connection, owner: str, collection: str, document: UUID) -> str:
    """Remove a document and its passages; return the key of its original, which is to be removed then.

    Raises:
        RefusedError: 404 where the owner's collection has none of this number.
    """
    async with connection.transaction():
        query = (
            "DELETE FROM documents d USING collections c WHERE c.id = d.collection_id AND c.owner = %s AND c.name = %s"
            f" AND d.id = %s RETURNING d.content_hash, {_COLLECTION.replace('c.name,', 'c.name AS name,')}"
        )
        row = await _one(connection, query, [owner, collection, document])
        if row is None:
            raise not_found("document")
        content_hash = row.pop("content_hash")
        await _delete_chunks(connection, Collection(**row), document)
        key = original_key(content_hash, document)
        await _note_removals(connection, [key])
    return key


async def _delete_chunks(connection: Connection, collection: Collection, document: UUID) -> None:
    # Their vectors go with them, by the foreign key.
    await connection.execute(sql.SQL("DELETE FROM {} WHERE document_id = %s").format(collection.chunks), [document])


async def _note_removals(connection: Connection, keys: Sequence[str]) -> None:
    await connection.execute(
        "INSERT INTO removals (key) SELECT unnest(%s::text[]) ON CONFLICT (key) DO UPDATE SET due_at = now()",
        [list(keys)],
    )


async def take_removals(connection: Connection, most: int) -> list[str]:
    """Return keys of originals that no document has, and leave them alone for a while: the caller removes them now."""
    query = (
        "UPDATE removals SET due_at = now() + interval '1 minute' WHERE key IN (SELECT key FROM removals"
        " WHERE due_at <= now() ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT %s) RETURNING key"
    )
    return [row["key"] for row in await _all(connection, query, [most])]


async def forget_removals(connection: Connection, keys: Sequence[str]) -> None:
    """Note that these originals are gone."""
    await connection.execute("DELETE FROM removals WHERE key = ANY(%s)", [list(keys)])


async def take_work(connection: Connection, lease_s: float) -> Work | None:
    """Take the document that is due longest, for `lease_s` seconds; None where none is due."""
    query = (
        "UPDATE documents d SET state = 'running', lease = %s, due_at = now() + %s * interval '1 second',"
        " attempts = attempts + 1 FROM collections c WHERE c.id = d.collection_id AND d.id = (SELECT id FROM documents"
        " WHERE state IN ('queued', 'running') AND due_at <= now() ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT 1)"
        " RETURNING d.id AS document, d.lease, d.name AS title, d.media_type, d.content_hash, d.attempts,"
        f" d.pieces_hash, d.stored, d.remote_job, {_COLLECTION}"
    )
    row = await _one(connection, query, [uuid4(), lease_s])
    if row is None:
        return None
    of_document = "document lease title media_type content_hash attempts pieces_hash stored remote_job".split()
    document = {name: row.pop(name) for name in of_document}
    return Work(id=document.pop("document"), name=document.pop("title"), collection=Collection(**row), **document)


class LostLeaseError(Exception):
    """The document was deleted, or another worker has taken it since: this one stops without a word."""


async def renew(connection: Connection, work: Work, lease_s: float) -> None:
    """Keep a document for `lease_s` more seconds. Raises LostLeaseError."""
    query = "UPDATE documents SET due_at = now() + %s * interval '1 second' WHERE id = %s AND lease = %s RETURNING id"
    await _fenced(connection, query, [lease_s, work.id, work.lease])


async def begin_pieces(connection: Connection, work: Work, pieces_hash: bytes, count: int) -> int:
    """Note what a document was cut into; return how many of the pieces are stored already.

    Those of another cut, by an earlier version of this program, are removed. Raises LostLeaseError.
    """
    async with connection.transaction():
        query = "UPDATE documents SET pieces_hash = %s, pieces = %s WHERE id = %s AND lease = %s RETURNING stored"
        stored = int((await _fenced(connection, query, [pieces_hash, count, work.id, work.lease]))["stored"])
        if work.pieces_hash == pieces_hash:
            return stored
        await connection.execute("UPDATE documents SET stored = 0 WHERE id = %s", [work.id])
        await _delete_chunks(connection, work.collection, work.id)
    return 0


async def add_pieces(
    connection: Connection,
    work: Work,
    model: EmbeddingModel,
    first: int,
    pieces: Sequence[Embedded],
) -> None:
    """Store passages and their vectors, the first of them as number `first`. Raises LostLeaseError."""
    collection = work.collection
    seen = (
        ", seen AS (INSERT INTO {pictures} (chunk_id, document_id, embedding, floor)"
        " SELECT id, %(document)s, %(picture)s::halfvec, %(floor)s FROM added WHERE %(picture)s::text IS NOT NULL)"
    )
    has_pictures = any(each.piece.picture is not None for each in pieces)
    insert = sql.SQL(
        "WITH added AS (INSERT INTO {chunks} (document_id, ordinal, text, words, page, start_s, end_s)"
        " VALUES (%(document)s, %(ordinal)s, %(text)s, to_tsvector(%(language)s::regconfig, %(text)s), %(page)s,"
        f" %(start_s)s, %(end_s)s) RETURNING id){seen if has_pictures else ''}"
        " INSERT INTO {vectors} (chunk_id, document_id, embedding)"
        " SELECT id, %(document)s, %(vector)s::halfvec FROM added WHERE %(vector)s::text IS NOT NULL"
    ).format(chunks=collection.chunks, vectors=collection.vectors(model.id), pictures=collection.pictures(model.id))
    rows = [
        {
            "document": work.id,
            "ordinal": first + number,
            "language": collection.language,
            "text": each.piece.text,
            "page": each.piece.page,
            "start_s": each.piece.start_s,
            "end_s": each.piece.end_s,
            "vector": _as_text(each.vector),
            "picture": _as_text(each.piece.picture),
            "floor": each.floor,
        }
        for number, each in enumerate(pieces)
    ]
    async with connection.transaction():
        query = (
            "UPDATE documents SET stored = %s, attempts = 0, detail = '' WHERE id = %s AND lease = %s AND stored = %s"
            " RETURNING id"
        )
        await _fenced(connection, query, [first + len(rows), work.id, work.lease, first])
        async with connection.cursor() as cursor:
            await cursor.executemany(insert, rows)


async def finish(connection: Connection, work: Work, detail: str = "") -> None:
    """Make a document visible to searches. `detail`: what of it was not read. Raises LostLeaseError."""
    query = (
        "UPDATE documents SET state = 'done', detail = %s, lease = NULL, finished_at = now()"
        " WHERE id = %s AND lease = %s AND stored = pieces RETURNING id"
    )
    await _fenced(connection, query, [detail[:500], work.id, work.lease])


async def fail(connection: Connection, work: Work, detail: str) -> None:
    """Give a document up, and say why; what was stored of it goes. Raises LostLeaseError."""
    async with connection.transaction():
        query = (
            "UPDATE documents SET state = 'failed', detail = %s, lease = NULL, stored = 0, finished_at = now()"
            " WHERE id = %s AND lease = %s RETURNING id"
        )
        await _fenced(connection, query, [detail[:500], work.id, work.lease])
        await _delete_chunks(connection, work.collection, work.id)


async def put_off(connection: Connection, work: Work, detail: str, delay_s: float) -> None:
    """Let a document wait, and say for what. This was no attempt. Raises LostLeaseError."""
    query = (
        "UPDATE documents SET state = 'queued', detail = %s, lease = NULL, attempts = 0,"
        " due_at = now() + %s * interval '1 second' WHERE id = %s AND lease = %s RETURNING id"
    )
    await _fenced(connection, query, [detail[:500], delay_s, work.id, work.lease])


async def note_remote_job(connection: Connection, work: Work, job: str | None) -> None:
    """Note the job of the multimodal worker that has this document. Raises LostLeaseError."""
    query = "UPDATE documents SET remote_job = %s WHERE id = %s AND lease = %s RETURNING id"
    await _fenced(connection, query, [job, work.id, work.lease])


async def find_models(connection: Connection, source: str) -> list[EmbeddingModel]:
    """Return what is kept of the models of this name, the newest first."""
    query = "SELECT * FROM embedding_models WHERE source = %s ORDER BY revision DESC"
    return [EmbeddingModel(**row) for row in await _all(connection, query, [source])]


async def add_model(
    connection: Connection, source: str, revision: int, probe: Sequence[float], unrelated_similarity: float
) -> EmbeddingModel | None:
    """Store a model under its next number and return it; None where another process has just stored one under that."""
    query = (
        "INSERT INTO embedding_models (source, revision, dimension, probe, unrelated_similarity)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING *"
    )
    row = await _one(connection, query, [source, revision, len(probe), list(probe), unrelated_similarity])
    return EmbeddingModel(**row) if row else None


async def prepare_vectors(
    connection: Connection, collection: Collection, model: EmbeddingModel, *, with_pictures: bool = False
) -> None:
    """Make the collection's table for this model's vectors, and of pictures, where there is none yet.

    Raises:
        DocumentError: the collection has vectors of other weights.
    """
    if collection.model_id == model.id and (collection.has_pictures or not with_pictures):
        return
    # In the row itself as long as a page can hold it: comparing all of them then reads one table.
    storage = sql.SQL("STORAGE PLAIN" if model.dimension <= LONGEST_INDEXED else "")
    tables = [(collection.vectors(model.id), "")]
    if with_pictures:
        tables.append((collection.pictures(model.id), ", floor real NOT NULL"))
    async with connection.transaction():
        query = "SELECT model_id FROM collections WHERE id = %s FOR UPDATE"
        row = await _one(connection, query, [collection.id])
        if row is None:
            raise LostLeaseError
        if row["model_id"] not in (None, model.id):
            raise DocumentError(mismatch(collection, model))
        for table, more in tables:
            make = sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (chunk_id bigint PRIMARY KEY REFERENCES {} ON DELETE CASCADE,"
                " document_id uuid NOT NULL, embedding halfvec({}) {} NOT NULL{})"
            )
            dimension = sql.Literal(model.dimension)
            await connection.execute(make.format(table, collection.chunks, dimension, storage, sql.SQL(more)))
        await connection.execute("UPDATE collections SET model_id = %s WHERE id = %s", [model.id, collection.id])


async def measured_collections(connection: Connection) -> list[MeasuredCollection]:
    """Return all collections that have vectors, of all owners."""
    query = (
        f"SELECT {_COLLECTION}, c.counted_to, m.dimension FROM collections c"
        " JOIN embedding_models m ON m.id = c.model_id ORDER BY c.id"
    )
    return [MeasuredCollection(**row) for row in await _all(connection, query, [])]


async def last_chunk(connection: Connection, collection: Collection) -> int:
    """Return the number of the last passage, which stands for how many there are: an index tells it at once."""
    cursor = await connection.execute(sql.SQL("SELECT max(id) AS last FROM {}").format(collection.chunks))
    row = await cursor.fetchone()
    return int(row["last"] or 0) if row else 0


async def note_statistics(connection: Connection, collection: Collection, last: int) -> None:
    """Let PostgreSQL count the words of a collection, and note up to which passage it has. May take long."""
    await connection.execute(sql.SQL("ANALYZE {}").format(collection.chunks))
    await connection.execute("UPDATE collections SET counted_to = %s WHERE id = %s", [last, collection.id])


async def has_index(connection: Connection, collection: Collection) -> bool:
    """Return whether a collection has a whole index of its vectors."""
    name = f"vectors_{collection.id}_{collection.model_id}_near"
    query = "SELECT i.indisvalid AS whole FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = %s"
    row = await _one(connection, query, [name])
    return row is not None and bool(row["whole"])


def mismatch(collection: Collection, model: EmbeddingModel) -> str:
    """Say that a collection's vectors are of other weights than those which the stack serves now."""
    return (
        f"collection `{collection.name}` has vectors of other weights than {model.source} has now:"
        " make a new collection and send the documents again"
    )


def _as_text(vector: Sequence[float] | None) -> str | None:
    """Return a vector as pgvector reads it."""
    return None if vector is None else orjson.dumps(vector).decode()


async def _fenced(connection: Connection, query: str, values: Sequence[Any]) -> dict[str, Any]:
    row = await _one(connection, query, values)
    if row is None:
        raise LostLeaseError
    return row


async def _one(connection: Connection, query: str, values: Sequence[Any]) -> dict[str, Any] | None:
    cursor = await connection.execute(query, values)
    row: dict[str, Any] | None = await cursor.fetchone()
    return row


async def _all(connection: Connection, query: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    cursor = await connection.execute(query, values)
    rows: list[dict[str, Any]] = await cursor.fetchall()
    return rows
