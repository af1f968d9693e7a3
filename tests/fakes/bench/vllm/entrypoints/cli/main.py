"""A stand-in for `vllm bench serve`: it really asks what it is told to, and says fixed times.

It takes and writes what vLLM 0.32.0 does (vllm/benchmarks/serve.py, --save-detailed); of each answer it reads only
whether it came.
"""

from __future__ import annotations

import argparse
import json
import os
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    """Send each prompt of the file, one after the other, and write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs=2)
    for flag in ("base-url", "endpoint", "model", "dataset-path", "result-dir", "result-filename", "extra-body"):
        parser.add_argument(f"--{flag}", required=True)
    given, _ = parser.parse_known_args()
    assert given.words == ["bench", "serve"]
    print("Namespace(what the real one prints)")
    lines = Path(given.dataset_path).read_text(encoding="utf-8").splitlines()
    refusals = [_ask(given, json.loads(line)["prompt"]) for line in lines]
    length = json.loads(given.extra_body)["max_completion_tokens"]
    count = range(1, len(lines) + 1)
    result = {
        "duration": 0.5 * len(lines),
        "input_lens": [len(line.split()) for line in lines],
        "output_lens": [0 if refusal else length for refusal in refusals],
        "ttfts": [0.0 if refusal else 0.1 * number for number, refusal in zip(count, refusals, strict=True)],
        "itls": [[] if refusal else [0.02, 0.04] for refusal in refusals],
        "latencies": [1.0] * len(lines),
        "errors": refusals,
        "generated_texts": ["what a model said"] * len(lines),
    }
    (Path(given.result_dir) / given.result_filename).write_text(json.dumps(result), encoding="utf-8")


def _ask(given: argparse.Namespace, prompt: str) -> str:
    body = {"model": given.model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(
        given.base_url + given.endpoint,
        data=json.dumps({**body, **json.loads(given.extra_body)}).encode(),
        headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            response.read()
    except urllib.error.HTTPError as refusal:
        return str(refusal.reason)
    return ""
