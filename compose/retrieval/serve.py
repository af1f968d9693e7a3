"""Bring the tables to this version, then serve with as many worker processes as were asked for."""

from __future__ import annotations

import sys

import psycopg
import uvicorn

from retrieval.database import wait_and_migrate
from retrieval.options import read_options

DATABASE_LIMIT_S = 60.0
"""How long PostgreSQL may take to answer; the runtime starts this service again behind it."""


def main() -> int:
    """Serve until the process is ended; return 1 where PostgreSQL does not answer."""
    host, port = sys.argv[1], int(sys.argv[2])
    options = read_options()
    for folder in (options.originals, options.incoming):
        folder.mkdir(parents=True, exist_ok=True)
    for left in options.incoming.iterdir():  # of requests that this start has cut off
        left.unlink()
    try:
        wait_and_migrate(options, DATABASE_LIMIT_S)
    except psycopg.OperationalError as failure:
        print(f"retrieval: PostgreSQL does not answer: {str(failure).splitlines()[0]}", file=sys.stderr)
        return 1
    uvicorn.run(
        "retrieval.app:make_application",
        factory=True,
        host=host,
        port=port,
        workers=options.workers,
        log_level="warning",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        # A worker on busy cores does not answer its parent within the usual five seconds while it imports.
        timeout_worker_healthcheck=60,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
