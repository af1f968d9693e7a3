"""What the retrieval proxy does in a second, how well its index finds, and what memory all of it takes.

    python -P -m benchmarks.retrieval [--only ingest|10000|100000|1000000]

The real proxy and the real PostgreSQL, before a stand-in for the gateway that gives vectors at once. `ingest` sends
documents and samples the memory. The others write clustered vectors (retrieval_vectors.py) and texts of 40 words
straight into the tables, then search without an index, build it, and search again. Each writes its part of
benchmarks/results/retrieval.json. Touches a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from stackwright.runtime.provision import ensure
from stackwright.services import multimodal

from benchmarks.retrieval_vectors import A_DOCUMENT, DIMENSION, FIRST
from tests.integration.retrieval import models
from tests.integration.retrieval.files import docx, pdf
from tests.integration.retrieval.parts import Retrieval, start_retrieval
from tests.integration.testbed import state_folder

RESULT = Path(__file__).parent / "results" / "retrieval.json"
VECTORS = Path(__file__).with_name("retrieval_vectors.py")

DATABASE_MIB = {10_000: 512, 100_000: 1024, 1_000_000: 6144}
"""RETRIEVAL_DATABASE_MIB: a quarter of it is for building the index, which fits into that in each case."""

INDEXES = {10_000: ((16, 64),), 100_000: ((8, 64), (16, 64)), 1_000_000: ((16, 64),)}
"""m and ef_construction; pgvector's own are the last of each, with which the searches are measured."""

EF_SEARCH = (40, 100, 200)
QUESTIONS, CLIENTS, WITHOUT_INDEX = 200, 4, 20
DOCUMENTS, WORDS, SENDERS, WORKERS = 300, 1000, 4, 2
VOCABULARY = 50_000
SESSION = ("SET hnsw.iterative_scan = relaxed_order", "SET max_parallel_workers_per_gather = 0")


class Standing:
    """Vectors that are there already: those of questions by their number of signs, others by chance."""

    def __init__(self) -> None:
        chance = random.Random(1)
        self._others = [[chance.gauss(0, 0.05) for _ in range(DIMENSION)] for _ in range(256)]
        self.questions: Sequence[list[float]] = ()

    def __call__(self, text: str, *_: object) -> list[float]:
        """Return the vector of a text."""
        number = text.count("\t") - 1
        return self.questions[number] if number >= 0 else self._others[hash(text) % len(self._others)]


class Sampler(threading.Thread):
    """The most memory that trees of processes had, as the share of each page that is theirs (PSS)."""

    def __init__(self, retrieval: Retrieval) -> None:
        super().__init__(daemon=True)
        self._roots = {"proxy": retrieval.proxy, "database": retrieval.database}
        self.ended = threading.Event()
        self.most = dict.fromkeys(self._roots, 0)

    def run(self) -> None:
        """Sample until told to end."""
        while not self.ended.wait(0.5):
            for name, part in self._roots.items():
                if part.process is not None:
                    self.most[name] = max(self.most[name], _memory_of(part.process.pid))


def _memory_of(pid: int) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
    return total


@contextmanager
def started(vectors: Standing, database_mib: int) -> Iterator[tuple[Retrieval, Sampler]]:
    """Give a proxy of WORKERS processes that builds no index by itself, and what samples its memory."""
    models.vector_of = vectors  # type: ignore[assignment]  # in the place of the tests' own, which count words
    with tempfile.TemporaryDirectory() as folder:
        wide = {"workers": WORKERS, "database_mib": database_mib, "RETRIEVAL_INDEX_FROM": "1000000000"}
        with start_retrieval(state_folder(), Path(folder), **wide) as retrieval:  # type: ignore[arg-type]
            retrieval.models.dimension = DIMENSION
            sampler = Sampler(retrieval)
            sampler.start()
            yield retrieval, sampler
            sampler.ended.set()
            sampler.join()


def measure_ingest() -> dict[str, Any]:
    """Send documents of six kilobytes from some senders, then long ones of each kind; return pace and memory."""
    chance, vectors = random.Random(1), Standing()
    with started(vectors, 512) as (retrieval, sampler):
        texts = [" ".join(f"word{chance.randrange(VOCABULARY)}" for _ in range(WORDS)) for _ in range(DOCUMENTS)]
        retrieval.send("warm", {"a.md": b"The first one."})
        retrieval.settle("warm")
        retrieval.models.asked.clear()
        retrieval.models.busy_s = 0.0
        begin_s = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            sent = [senders.submit(retrieval.send, "pace", {f"{n}.md": t.encode()}) for n, t in enumerate(texts)]
            assert all(one.result().status == 202 for one in sent)
        accepted_s = time.monotonic() - begin_s
        passages = sum(document["passages"] for document in retrieval.settle("pace", limit_s=600))
        seconds = time.monotonic() - begin_s
        stand_in_s = retrieval.models.busy_s
        requests = len(retrieval.models.asked_for("/v1/embeddings"))
        paced = dict(sampler.most)
        retrieval.send("long", _long_files())
        states = {document["name"]: document["state"] for document in retrieval.settle("long", limit_s=300)}
        assert set(states.values()) == {"done"}, states
        most = dict(sampler.most)
    return {
        "documents": DOCUMENTS,
        "document_bytes": round(statistics.mean(map(len, texts))),
        "passages": passages,
        "seconds": round(seconds, 1),
        "accepted_s": round(accepted_s, 1),
        "documents_per_s": round(DOCUMENTS / seconds, 1),
        "passages_per_s": round(passages / seconds, 1),
        "embedding_requests": requests,
        "stand_in_s": round(stand_in_s, 1),
        "memory_bytes": {"workers": WORKERS, "short_documents": paced, "with_long_documents": most},
    }


def _long_files() -> dict[str, bytes]:
    chance = random.Random(2)

    def words(count: int) -> str:
        return " ".join(f"word{chance.randrange(VOCABULARY)}" for _ in range(count))

    return {
        "long.pdf": pdf([words(12) for _ in range(500)]),
        "long.docx": docx([words(100) for _ in range(1000)]),
        "long.html": f"<html><body>{''.join(f'<p>{words(100)}</p>' for _ in range(2000))}</body></html>".encode(),
        "long.md": "\n\n".join(words(100) for _ in range(9000)).encode(),
    }


def measure_search(count: int) -> dict[str, Any]:
    """Fill a collection, search it without and with an index, and compare what is found with what is there."""
    vectors = Standing()
    with tempfile.TemporaryDirectory() as made, started(vectors, DATABASE_MIB[count]) as (retrieval, sampler):
        folder = Path(made)
        python = ensure(state_folder(), multimodal.RECIPE, lambda *_: None) / "bin" / "python"
        subprocess.run([python, VECTORS, str(count), str(QUESTIONS), folder], check=True)
        vectors.questions = json.loads((folder / "questions.json").read_text())
        true = json.loads((folder / "true.json").read_text())
        told: dict[str, Any] = {"passages": count, "database_mib": DATABASE_MIB[count]}
        told["load_s"] = _timed(lambda: _load(retrieval, folder, count))
        told["without_index"] = _times(retrieval, WITHOUT_INDEX, 1)
        _note_questions(retrieval, folder, vectors.questions)
        told["indexes"] = [_index(retrieval, true, *sizes) for sizes in INDEXES[count]]
        _times(retrieval, QUESTIONS, 1)
        told["one_client"] = _times(retrieval, QUESTIONS, 1)
        told[f"{CLIENTS}_clients"] = _times(retrieval, QUESTIONS, CLIENTS)
        told["recall_at_10"] = _recall_of_proxy(retrieval, true)
        told["memory_bytes"] = dict(sampler.most)
        told["tables_bytes"] = int(retrieval.query("SELECT pg_database_size(current_database())")[0])
    return told


def _load(retrieval: Retrieval, folder: Path, count: int) -> None:
    """Write documents, passages and vectors as an ingest would leave them."""
    retrieval.ask("POST", "/v1/collections/bench/documents", {"texts": ["The first one."]})
    retrieval.settle("bench")
    chance = random.Random(3)
    documents = -(-count // A_DOCUMENT)
    retrieval.query(
        "INSERT INTO documents (id, collection_id, content_hash, name, media_type, size_bytes, state, pieces, stored)"
        " SELECT lpad(to_hex(n), 32, '0')::uuid, 1, sha256(n::text::bytea), 'document ' || n, 'text/plain', 1, 'done',"
        f" {A_DOCUMENT}, {A_DOCUMENT} FROM generate_series(1, {documents}) AS n"
    )
    # Rare words and frequent ones, as in a language (Zipf): number n stands about once in n passages.
    vocabulary = [f"word{number}" for number in range(1, VOCABULARY)]
    weights = [1 / number for number in range(1, VOCABULARY)]
    drawn = chance.choices(vocabulary, weights, k=400_000)
    with (folder / "texts.copy").open("w") as file:
        for number in range(count):
            first = chance.randrange(len(drawn) - 40)
            words = drawn[first : first + 40]
            counted = " ".join(f"{word}:{place}" for place, word in enumerate(words, start=1))
            document = f"{number // A_DOCUMENT + 1:032x}"
            file.write(f"{number + FIRST}\t{document}\t{number % A_DOCUMENT}\t{' '.join(words)}\t{counted}\n")
    retrieval.query(
        "SET session_replication_role = replica",
        "COPY chunks_1 (id, document_id, ordinal, text, words) FROM STDIN",
        given=folder / "texts.copy",
    )
    retrieval.query(
        "SET session_replication_role = replica",
        "COPY vectors_1_1 (chunk_id, document_id, embedding) FROM STDIN (FORMAT binary)",
        given=folder / "vectors.copy",
    )
    retrieval.query(
        "VACUUM ANALYZE chunks_1", "VACUUM ANALYZE vectors_1_1", "UPDATE collections SET counted_to = 1 << 30"
    )


def _note_questions(retrieval: Retrieval, folder: Path, questions: Sequence[Sequence[float]]) -> None:
    (folder / "questions.copy").write_text("".join(f"{n}\t{json.dumps(v)}\n" for n, v in enumerate(questions)))
    retrieval.query(f"CREATE TABLE questions (n integer, v halfvec({DIMENSION}))")
    retrieval.query("COPY questions FROM STDIN", given=folder / "questions.copy")


def _index(retrieval: Retrieval, true: Sequence[Sequence[int]], m: int, ef_construction: int) -> dict[str, Any]:
    """Build the index as upkeep.py does; return its time, its size, and what each hnsw.ef_search finds."""
    retrieval.query("DROP INDEX IF EXISTS vectors_1_1_near")
    make = (
        "CREATE INDEX CONCURRENTLY vectors_1_1_near ON vectors_1_1 USING hnsw (embedding halfvec_cosine_ops)"
        f" WITH (m = {m}, ef_construction = {ef_construction})"
    )
    told: dict[str, Any] = {
        "m": m,
        "ef_construction": ef_construction,
        "build_s": _timed(lambda: retrieval.query(make)),
    }
    told["bytes"] = int(retrieval.query("SELECT pg_relation_size('vectors_1_1_near')")[0])
    told["recall_at_10"] = {}
    for ef_search in EF_SEARCH:
        found = retrieval.query(
            *SESSION,
            f"SET hnsw.ef_search = {ef_search}",
            "SELECT string_agg(chunk_id::text, ' ' ORDER BY place) FROM questions q, LATERAL (SELECT chunk_id,"
            " row_number() OVER () AS place FROM (SELECT chunk_id FROM vectors_1_1 ORDER BY embedding <=> q.v LIMIT 50)"
            " AS near) AS ranked GROUP BY n ORDER BY n",
        )
        told["recall_at_10"][str(ef_search)] = _recall([list(map(int, line.split()))[:10] for line in found], true)
    return told


def _recall_of_proxy(retrieval: Retrieval, true: Sequence[Sequence[int]]) -> float:
    """Ask with words that no text has, so that vectors alone decide."""
    found = []
    for number in range(QUESTIONS):
        rows = retrieval.search("the" + "\t" * (number + 1), "bench", by="vector")
        found.append([(int(row["document"]["id"][-12:], 16) - 1) * A_DOCUMENT + row["passage"] + FIRST for row in rows])
    return _recall(found, true)


def _recall(found: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> float:
    hits = sum(len(set(one) & set(other)) for one, other in zip(found, true, strict=True))
    return round(hits / sum(map(len, true)), 4)


def _times(retrieval: Retrieval, count: int, clients: int) -> Mapping[str, float]:
    """Search by vectors and by three words, one of them frequent; return the times to the answer."""

    def ask(number: int) -> float:
        words = f"word{number % 7 + 1} word{100 + number} word{3000 + 11 * number}"
        begin_s = time.monotonic()
        assert retrieval.search(words + "\t" * (number + 1), "bench"), words
        return time.monotonic() - begin_s

    begin_s = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        times = sorted(pool.map(ask, range(count)))
    seconds = time.monotonic() - begin_s
    cuts = statistics.quantiles(times, n=100)
    return {"p50_ms": _ms(cuts[49]), "p99_ms": _ms(cuts[98]), "per_s": round(count / seconds, 1)}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _timed(do: Callable[[], object]) -> float:
    begin_s = time.monotonic()
    do()
    return round(time.monotonic() - begin_s, 1)


def main() -> None:
    """Measure what was asked for, and write it beside what is there."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {"ingest": measure_ingest}
    parts |= {str(count): lambda count=count: measure_search(count) for count in DATABASE_MIB}  # type: ignore[misc]
    parser = argparse.ArgumentParser(description="what the retrieval proxy does in a second, finds and takes")
    parser.add_argument("--only", choices=parts)
    asked = parser.parse_args()
    told = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in [asked.only] if asked.only else parts:
        begin_s = time.monotonic()
        told[name] = {**parts[name](), "took_s": round(time.monotonic() - begin_s)}
        told |= {"machine": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
        RESULT.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(told[name]), flush=True)


if __name__ == "__main__":
    main()
