"""Kills the proxy and PostgreSQL while documents come in, and holds what is left against what was sent.

benchmarks/retrieval_kills.py runs 200 of them, test_kills.py some. Touches the given folder and loopback.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
from msgspec import Struct

from tests.integration.retrieval.parts import Part, Retrieval, start_retrieval, until

LEASE_S = 2.0
"""Short here, so that what a killed worker had goes on soon."""

INDEX_FROM = 100
"""Small here, so that the index is built, and stopped in the middle, too."""

TABLES = "SELECT id || ' ' || model_id FROM collections"
"""A kill may have rolled back what would have had the first number."""

INDEXED = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{vectors}_near')"
COUNTED = "SELECT 2 * counted_to > (SELECT max(id) - 200 FROM {chunks}) FROM collections"

BETWEEN_S = (0.05, 1.2)
"""Time between a part's readiness and its kill: an ingest of three batches takes about as long."""

KINDS = ("proxy", "database", "worker", "backend")
"""What is killed, in turns: a part with all its processes, or a single process of one."""

SENDERS, WORDS = 2, 1800
SETTLED_S = 180.0


class Told(Struct, frozen=True, kw_only=True):
    """What a run has shown. `documents`: those that the proxy had said it has; `faults`: each in one sentence."""

    kills: Mapping[str, int]
    documents: int
    passages: int
    seconds: float
    faults: tuple[str, ...]


def run_kills(state: Path, folder: Path, *, kills: int, seed: int) -> Told:
    """Kill each of both parts so often, in turns, while documents come in; return what was wrong behind that."""
    chance = random.Random(seed)
    began_s = time.monotonic()
    done: Counter[str] = Counter()
    with start_retrieval(
        state, folder, workers=2, RETRIEVAL_LEASE_S=str(LEASE_S), RETRIEVAL_INDEX_FROM=str(INDEX_FROM)
    ) as retrieval:
        senders = [Sender(retrieval, number) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        for number in range(kills):
            time.sleep(chance.uniform(*BETWEEN_S))
            _kill(retrieval, KINDS[number % len(KINDS)], chance)
            done[KINDS[number % len(KINDS)]] += 1
            retrieval.proxy.wait()
        for sender in senders:
            sender.ended.set()
        for sender in senders:
            sender.join()
        accepted = {text: name for sender in senders for text, name in sender.accepted.items()}
        retrieval.settle("kills", limit_s=SETTLED_S)
        if sum(document["passages"] for document in retrieval.documents("kills")) >= INDEX_FROM:
            tables = _tables(retrieval)
            until(lambda: retrieval.query(INDEXED.format(**tables)) == ["t"], SETTLED_S, lambda: "the index")
            until(lambda: retrieval.query(COUNTED.format(**tables)) == ["t"], SETTLED_S, lambda: "the statistics")
        faults, passages = _faults(retrieval, accepted)
    return Told(
        kills=dict(done),
        documents=len(accepted),
        passages=passages,
        seconds=round(time.monotonic() - began_s, 1),
        faults=tuple(faults),
    )


def _kill(retrieval: Retrieval, kind: str, chance: random.Random) -> None:
    """Kill a whole part and start it again, or one of its processes, which it makes good by itself."""
    part: Part = retrieval.database if kind in ("database", "backend") else retrieval.proxy
    if kind in ("database", "proxy"):
        part.end(signal.SIGKILL)
        part.start()
        return
    assert part.process is not None
    below = psutil.Process(part.process.pid).children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        chance.choice(below).kill()


class Sender(threading.Thread):
    """Sends documents of some batches each, again and again until the proxy says that it has one."""

    def __init__(self, retrieval: Retrieval, number: int) -> None:
        super().__init__(daemon=True)
        self._retrieval, self._number = retrieval, number
        self.ended = threading.Event()
        self.accepted: dict[str, str] = {}

    def run(self) -> None:
        """Send until told to end."""
        count = 0
        while not self.ended.is_set():
            name = f"sender{self._number}-document{count}"
            text = " ".join(f"{name}-word{word}" if word % 50 == 0 else f"word{word}" for word in range(WORDS))
            if self._send(text, name):
                self.accepted[text] = name
                count += 1

    def _send(self, text: str, name: str) -> bool:
        fields = {"texts": [{"name": name, "text": text}]}
        try:
            answer = self._retrieval.ask("POST", "/v1/collections/kills/documents", fields)
        except (OSError, urllib.error.URLError):
            answer = None  # killed meanwhile: whether it has it, nobody knows
        if answer is not None and answer.status in (200, 202):
            time.sleep(0.2)
            return True
        self.ended.wait(0.1)
        return False


def _faults(retrieval: Retrieval, accepted: Mapping[str, str]) -> tuple[list[str], int]:
    """Return what is wrong with the documents that were accepted, and how many passages there are."""
    documents = retrieval.documents("kills")
    names = Counter(document["name"] for document in documents)
    faults = [f"{name} is there {count} times" for name, count in names.items() if count > 1]
    faults += [f"{name} is lost" for name in accepted.values() if name not in names]
    faults += [f"{each['name']} {each['state']}: {each['detail']}" for each in documents if each["state"] != "done"]
    by_name = {document["name"]: document for document in documents}
    for text, name in accepted.items():
        if name in by_name:
            content = retrieval.ask("GET", f"/v1/collections/kills/documents/{by_name[name]['id']}/content").body
            faults += [] if content == text.encode() else [f"{name} has other bytes"]
            found = retrieval.search(f"{name}-word0 {name}-word{WORDS - 50}", "kills", limit=100)
            faults += [] if any(each["document"]["name"] == name for each in found) else [f"{name} is not found"]
    faults += _stored_faults(retrieval)
    return faults, sum(document["passages"] for document in documents)


def _tables(retrieval: Retrieval) -> dict[str, str]:
    """Return the names of the only collection's tables."""
    collection, model = retrieval.query(TABLES)[0].split()
    return {"chunks": f"chunks_{collection}", "vectors": f"vectors_{collection}_{model}"}


def _stored_faults(retrieval: Retrieval) -> list[str]:
    """Return what is wrong in the tables themselves: passages doubled, missing or without a vector."""
    statement = (
        "SELECT d.name || ' has ' || count(c.id) || ' passages and ' || count(v.chunk_id) || ' vectors of ' || d.pieces"
        " FROM documents d LEFT JOIN {chunks} c ON c.document_id = d.id LEFT JOIN {vectors} v ON v.chunk_id = c.id"
        " GROUP BY d.id HAVING count(DISTINCT c.ordinal) <> d.pieces OR count(c.id) <> d.pieces"
        " OR count(v.chunk_id) <> d.pieces OR max(c.ordinal) + 1 <> d.pieces"
    )
    return retrieval.query(statement.format(**_tables(retrieval)))
