"""Collections, their documents, the embedding models, and originals that are to be removed."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE embedding_models (
    id serial PRIMARY KEY,
    source text NOT NULL,
    revision integer NOT NULL,
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    probe real[] NOT NULL,
    unrelated_similarity real NOT NULL,
    UNIQUE (source, revision)
);
COMMENT ON COLUMN embedding_models.probe IS 'vector of a fixed sentence: other weights have another';

CREATE TABLE collections (
    id bigserial PRIMARY KEY,
    owner text NOT NULL,
    name text NOT NULL,
    language text NOT NULL,
    model_source text NOT NULL,
    model_id integer REFERENCES embedding_models,
    counted_to bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner, name)
);

CREATE TABLE documents (
    id uuid PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES collections,
    content_hash bytea NOT NULL CHECK (length(content_hash) = 32),
    name text NOT NULL,
    media_type text NOT NULL,
    size_bytes bigint NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    detail text NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    lease uuid,
    due_at timestamptz NOT NULL DEFAULT now(),
    pieces_hash bytea,
    pieces integer NOT NULL DEFAULT 0,
    stored integer NOT NULL DEFAULT 0,
    remote_job text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (collection_id, content_hash)
);
COMMENT ON COLUMN documents.due_at IS 'when a queued document may be taken, and when the lease of a running one ends';
CREATE INDEX documents_due ON documents (due_at) WHERE state IN ('queued', 'running');
CREATE INDEX documents_partial ON documents (collection_id) WHERE state <> 'done' AND stored > 0;
CREATE INDEX documents_listed ON documents (collection_id, created_at, id);

CREATE TABLE removals (
    key text PRIMARY KEY,
    due_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN collections.counted_to IS 'number of the last passage whose words ANALYZE has counted';
COMMENT ON TABLE removals IS 'originals that no document has, or that none may have got yet';
"""


def upgrade() -> None:
    """Make the tables that all collections share; each collection adds two of its own (store.py)."""
    op.execute(TABLES)
