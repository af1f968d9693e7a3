"""kill -9 of the retrieval proxy and of PostgreSQL during an ingest: is a document lost, doubled or torn?

    python -m benchmarks.retrieval_kills [--kills 200] [--seed 1]

Two clients send documents of several batches each, and repeat what got no answer. In turns the whole proxy, the whole
of PostgreSQL, one process of the proxy and one of PostgreSQL are killed, at a random moment. Then every document that
was accepted must be there once, with its bytes, all of its passages and their vectors, and be found. Writes
benchmarks/results/retrieval_kills.json and ends with 1 where one is not. Touches a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from msgspec import to_builtins

from tests.integration.retrieval.kills import run_kills
from tests.integration.testbed import state_folder

RESULT = Path(__file__).parent / "results" / "retrieval_kills.json"


def main() -> int:
    """Kill, look, write the result and return the exit code."""
    parser = argparse.ArgumentParser(description="kill the retrieval proxy and PostgreSQL during an ingest")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run_kills(state_folder(), Path(folder), kills=asked.kills, seed=asked.seed)
    machine = {"machine": platform.platform(), "cores": os.cpu_count()}
    text = json.dumps({**machine, **to_builtins(told)}, indent=2)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if told.faults else 0


if __name__ == "__main__":
    sys.exit(main())
