"""The way to PostgreSQL: waiting for it, the migrations, and the connections of one process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from retrieval.options import Options

MIGRATION_LOCK = 0x5354_4143_4B
"""An advisory lock of this database: one process migrates, others wait for it."""

CONNECTIONS = 8
"""Connections of one worker process at most: searches and requests wait for one, ingest lanes hold one each."""

_SESSION = {
    # A search that takes longer is given up; building an index has a connection of its own.
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    # recall@10 of 0.95 and more at a million chunks (benchmarks/results/retrieval.json).
    "hnsw.ef_search": "100",
    # Goes on where rows of unfinished documents were left out, so that enough remain (pgvector 0.8, README).
    "hnsw.iterative_scan": "relaxed_order",
}


def conninfo(options: Options, **settings: str) -> str:
    """Return the connection string, with settings of the session."""
    words = " ".join(f"-c {key}={value}" for key, value in settings.items())
    text: str = psycopg.conninfo.make_conninfo(
        options.database, password=options.password, options=words, connect_timeout=5, application_name="retrieval"
    )
    return text


def make_pool(options: Options) -> AsyncConnectionPool[Any]:
    """Return the connections of this process, not opened yet. One that PostgreSQL's end broke is never handed out."""
    return AsyncConnectionPool(
        conninfo(options, **_SESSION),
        kwargs={"row_factory": dict_row, "autocommit": True},
        min_size=1,
        max_size=CONNECTIONS,
        timeout=10,
        max_waiting=256,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


def wait_and_migrate(options: Options, limit_s: float) -> None:
    """Wait until PostgreSQL answers, then bring its tables to this version. Safe in several processes at once.

    Raises:
        psycopg.OperationalError: it does not answer within `limit_s`.
    """
    until = time.monotonic() + limit_s
    while True:
        try:
            with psycopg.connect(conninfo(options)) as connection:
                connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
                _migrate(options)
                return
        except psycopg.OperationalError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)


def _migrate(options: Options) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo(options)), poolclass=NullPool
    )
    with engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "head")
