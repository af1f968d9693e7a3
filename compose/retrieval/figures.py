"""The proxy's own figures for /metrics, added up over its worker processes by prometheus_client."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

from retrieval import store

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Figures:
    """Counters of this process. Labels name no key and no collection: they are read without a key."""

    def __init__(self) -> None:
        self._documents = Counter("retrieval_documents_total", "Documents whose ingest has ended", ["result"])
        for result in ("done", "failed"):  # from the start, so that the first one is an increase
            self._documents.labels(result)
        self._passages = Counter("retrieval_passages_total", "Passages stored")
        self._requests = Counter("retrieval_requests_total", "Requests answered", ["endpoint", "status"])
        self._seconds = Histogram("retrieval_request_seconds", "Seconds to an answer", ["endpoint"], buckets=BOUNDS_S)

    def count_document(self, result: str, passages: int) -> None:
        """Count a document that is done or failed."""
        self._documents.labels(result).inc()
        self._passages.inc(passages)

    def count_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answer; `endpoint` is the route's name."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)


async def exposition(connection: store.Connection) -> bytes:
    """Return the figures of all worker processes, and what PostgreSQL knows now, in Prometheus' text format."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    cursor = await connection.execute(
        "SELECT state, count(*) AS n FROM documents WHERE state IN ('queued', 'running') GROUP BY state"
    )
    waiting: dict[str, Any] = {row["state"]: row["n"] for row in await cursor.fetchall()}
    cursor = await connection.execute("SELECT pg_database_size(current_database()) AS bytes")
    size = await cursor.fetchone()
    lines = [
        "# HELP retrieval_waiting_documents Documents that are not ingested yet",
        "# TYPE retrieval_waiting_documents gauge",
        *(f'retrieval_waiting_documents{{state="{state}"}} {waiting.get(state, 0)}' for state in ("queued", "running")),
        "# HELP retrieval_database_bytes Size of the database",
        "# TYPE retrieval_database_bytes gauge",
        f"retrieval_database_bytes {size['bytes'] if size else 0}",
    ]
    return bytes(generate_latest(registry)) + "\n".join(lines).encode() + b"\n"
