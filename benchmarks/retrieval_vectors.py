"""Synthetic vectors for benchmarks/retrieval.py: clusters, questions from the same clusters, and the true neighbours.

    python benchmarks/retrieval_vectors.py COUNT QUESTIONS FOLDER

Runs in the multimodal worker's environment, which has numpy. A cluster has 100 vectors on average; they vary in 32
directions of 384 as widely as the clusters lie apart, so that the nearest are hard to find. Writes to FOLDER:
vectors.copy (PostgreSQL's binary COPY: number of the passage, of the document, half precision), questions.json, and
true.json: the ten nearest, by comparing all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DIMENSION, DIRECTIONS, CLUSTER = 384, 32, 100
WIDTH, NOISE = 1.0, 0.02
NEAREST, BLOCK = 10, 50_000
FIRST, A_DOCUMENT = 1000, 100
"""Number of the first passage, and passages of a document."""

HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def rows_of(numbers: np.ndarray, vectors: np.ndarray) -> bytes:
    """Return rows of chunk_id, document_id and embedding in PostgreSQL's binary COPY format."""
    import numpy as np

    row = np.dtype(
        [
            *(("fields", ">i2"), ("of_chunk", ">i4"), ("chunk", ">i8"), ("of_document", ">i4"), ("high", ">i8")),
            *(("document", ">i8"), ("of_vector", ">i4"), ("dimension", ">i2"), ("unused", ">i2")),
            ("vector", ">f2", (DIMENSION,)),
        ]
    )
    table = np.zeros(len(numbers), row)
    table["fields"], table["of_chunk"], table["of_document"], table["of_vector"] = 3, 8, 16, 4 + 2 * DIMENSION
    table["chunk"], table["document"] = numbers + FIRST, numbers // A_DOCUMENT + 1
    table["dimension"], table["vector"] = DIMENSION, vectors
    return bytes(table.tobytes())


def main() -> None:
    """Write the three files."""
    import numpy as np

    count, asked, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    chance = np.random.default_rng(1)
    spread = chance.standard_normal((DIRECTIONS, DIMENSION)).astype(np.float32)
    middles = chance.standard_normal((max(1, count // CLUSTER), DIRECTIONS)).astype(np.float32)

    def make(number: int) -> np.ndarray:
        chosen = middles[chance.integers(len(middles), size=number)]
        made = (chosen + WIDTH * chance.standard_normal(chosen.shape).astype(np.float32)) @ spread
        made += NOISE * DIRECTIONS**0.5 * chance.standard_normal(made.shape).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    questions = make(asked)
    best, which = np.full((asked, 0), 0.0, np.float32), np.full((asked, 0), 0)
    with (folder / "vectors.copy").open("wb") as file:
        file.write(HEAD)
        for first in range(0, count, BLOCK):
            numbers = np.arange(first, min(count, first + BLOCK))
            stored = make(len(numbers)).astype(np.float16)
            file.write(rows_of(numbers, stored))
            exact = stored.astype(np.float32)
            near = questions @ (exact / np.linalg.norm(exact, axis=1, keepdims=True)).T
            best, which = np.hstack([best, near]), np.hstack([which, np.broadcast_to(numbers, near.shape)])
            order = np.argsort(-best, axis=1)[:, :NEAREST]
            best, which = np.take_along_axis(best, order, 1), np.take_along_axis(which, order, 1)
        file.write(b"\xff\xff")
    (folder / "questions.json").write_text(json.dumps(np.round(questions.astype(float), 6).tolist()))
    (folder / "true.json").write_text(json.dumps((which + FIRST).tolist()))


if __name__ == "__main__":
    main()
