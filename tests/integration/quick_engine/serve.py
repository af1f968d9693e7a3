"""Stands in for `vllm bench serve` where a test is about what measures, and not about vLLM's generator.

Laid out as the module that the load's program imports (`layout.py`): takes vLLM 0.32's flags, really sends every
request, so many at once, and writes the times that it measured. Standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from vllm.benchmarks.datasets import SampleRequest

SWITCHES = ("skip-tokenizer-init", "ignore-eos", "save-result", "save-detailed", "disable-tqdm", "insecure")


def add_cli_args(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that are used here, and those that change nothing."""
    for flag in ("base-url", "endpoint", "model", "result-dir", "result-filename"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--max-concurrency", type=int, default=1)
    for flag in ("temperature", "backend", "num-prompts", "percentile-metrics", "request-rate", "dataset-name"):
        parser.add_argument(f"--{flag}")
    for flag in SWITCHES:
        parser.add_argument(f"--{flag}", action="store_true")


def get_samples(args: argparse.Namespace, tokenizer: None) -> list[SampleRequest]:
    """Stand where the caller puts its own requests."""
    raise NotImplementedError


def main(given: argparse.Namespace) -> None:
    """Send each prompt, so many at once, and write what was measured."""
    requests = get_samples(given, None)
    begun = time.perf_counter()
    with ThreadPoolExecutor(given.max_concurrency) as clients:
        answers = list(clients.map(lambda one: ask(given, one), requests))
    result = {
        "duration": time.perf_counter() - begun,
        "input_lens": [len(one.prompt.split()) for one in requests],
        "output_lens": [one.expected_output_len for one in requests],
        "errors": [""] * len(requests),
        **{name: [answer[name] for answer in answers] for name in ("ttfts", "itls", "latencies")},
    }
    (Path(given.result_dir) / given.result_filename).write_text(json.dumps(result), encoding="utf-8")


def ask(given: argparse.Namespace, one: SampleRequest) -> dict[str, Any]:
    """Ask for one streamed answer; return when its pieces came."""
    body = {"model": given.model, "stream": True, "messages": [{"role": "user", "content": one.prompt}]}
    request = urllib.request.Request(
        given.base_url + given.endpoint,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    begun = time.perf_counter()
    with urllib.request.urlopen(request) as response:
        times = [time.perf_counter() for line in response if line.startswith(b"data: {")]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return {"ttfts": times[0] - begun, "itls": gaps, "latencies": times[-1] - begun}
