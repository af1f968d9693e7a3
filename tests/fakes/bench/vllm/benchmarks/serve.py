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

from vllm.benchmarks.datasets import SampleRequest

FLAGS = ("base-url", "endpoint", "model", "result-dir", "result-filename", "dataset-name")
FURTHER = ("temperature", "backend", "num-prompts", "percentile-metrics", "max-concurrency", "request-rate")
SWITCHES = ("skip-tokenizer-init", "ignore-eos", "save-result", "save-detailed", "disable-tqdm")


def add_cli_args(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that are used here."""
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", required=True)
    for flag in FURTHER:
        parser.add_argument(f"--{flag}")
    for flag in SWITCHES:
        parser.add_argument(f"--{flag}", action="store_true")


def get_samples(args: argparse.Namespace, tokenizer: None) -> list[SampleRequest]:
    """Stand where the generator puts its own requests."""
    raise NotImplementedError


def main(given: argparse.Namespace) -> None:
    """Send each prompt, one after the other, and write the result."""
    print("Namespace(what the real one prints)")
    requests = get_samples(given, None)
    refusals = [_ask(given, one) for one in requests]
    count = range(1, len(requests) + 1)
    result = {
        "duration": 0.5 * len(requests),
        "input_lens": [len(one.prompt.split()) for one in requests],
        "output_lens": [
            0 if refusal else one.expected_output_len for one, refusal in zip(requests, refusals, strict=True)
        ],
        "ttfts": [0.0 if refusal else 0.1 * number for number, refusal in zip(count, refusals, strict=True)],
        "itls": [[] if refusal else [0.02, 0.04] for refusal in refusals],
        "latencies": [1.0] * len(requests),
        "errors": refusals,
        "generated_texts": ["what a model said"] * len(requests),
    }
    (Path(given.result_dir) / given.result_filename).write_text(json.dumps(result), encoding="utf-8")


def _ask(given: argparse.Namespace, one: SampleRequest) -> str:
    body = {
        "model": given.model,
        "stream": True,
        "max_completion_tokens": one.expected_output_len,
        "messages": [{"role": "user", "content": one.prompt}],
    }
    request = urllib.request.Request(
        given.base_url + given.endpoint,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            response.read()
    except urllib.error.HTTPError as refusal:
        return str(refusal.reason)
    return ""
