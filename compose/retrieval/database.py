"""The way to PostgreSQL: waiting for it, the migrations, and the connections of one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from retrieval.options import Options

MIGRATION_LOCK = 0x5354_4143_4B
"""An advisory lock of this database: one process migrates, others wait for it."""

RESTORING, BEFORE = "retrieval_restoring", "retrieval_before"
"""Databases that are there during a restore (saving.py): what comes in, and what it has replaced."""

CONNECTIONS = 8
"""Connections of one worker process at most: searches and requests wait for one, ingest lanes hold one each."""

_SESSION = {
    # A search that takes longer is given up; building an index has a connection of its own.
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    # Recall@10 with m 16 and ef_construction 64, pgvector's own: 0.966 of a million vectors, where 100 reaches 0.920
    # and 40, which is pgvector's own, 0.788 (benchmarks/results/retrieval.json, 2026-11-30).
    "hnsw.ef_search": "200",
    # Goes on where rows of unfinished documents were left out, so that enough remain (pgvector 0.8, README).
    "hnsw.iterative_scan": "relaxed_order",
}


def conninfo(options: Options, database: str = "", **settings: str) -> str:
    """Return the connection string, of the proxy's own database or of another one, with settings of the session."""
    words = " ".join(f"-c {key}={value}" for key, value in settings.items())
    text: str = psycopg.conninfo.make_conninfo(
        options.database_server,
        dbname=database or options.database_name,
        password=options.password,
        options=words,
        connect_timeout=5,
        application_name="retrieval",
    )
    return text


def make_pool(options: Options, forget: Callable[[], None]) -> AsyncConnectionPool[Any]:
    """Return the connections of this process, not opened yet. One that PostgreSQL's end broke is never handed out.

    Args:
        forget: called where a connection leads to another database than those before, which a restore has put there.
    """
    seen: set[int] = set()

    async def note(connection: AsyncConnection[Any]) -> None:
        cursor = await connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
        row = await cursor.fetchone()
        if row is not None and row["oid"] not in seen:
            seen.add(row["oid"])
            forget()

    return AsyncConnectionPool(
        conninfo(options, **_SESSION),
        kwargs={"row_factory": dict_row, "autocommit": True},
        min_size=1,
        max_size=CONNECTIONS,
        timeout=10,
        max_waiting=256,
        check=AsyncConnectionPool.check_connection,
        configure=note,
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
            _end_restore(options)
            migrate(options)
            return
        except psycopg.OperationalError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.2)


def _end_restore(options: Options) -> None:
    """Clear up behind a restore that was cut off: until its last step, the database is the one from before."""
    with psycopg.connect(conninfo(options, "postgres"), autocommit=True) as connection:
        for name in (RESTORING, BEFORE):
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        own = sql.Identifier(options.database_name)
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(own))


def migrate(options: Options, database: str = "") -> None:
    """Bring a database to this version; others wait. Raises psycopg.OperationalError where it does not answer."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with psycopg.connect(conninfo(options, database)) as held:
        held.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo(options, database)), poolclass=NullPool
        )
        with engine.begin() as connection:
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
