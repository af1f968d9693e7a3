"""The generator: `vllm bench serve`, in the place of the engine (docs/decisions/0072-load-generator.md).

vLLM 0.32.0, vllm/benchmarks/serve.py. Touches nothing: the runtime runs the program that stands here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from msgspec import Struct

from stackwright.domain.load import Round, percentiles_of
from stackwright.errors import NotHealthyError
from stackwright.runtime import ClientAnswer

NAME = "vllm bench serve"
# A start of the generator, which imports all of vLLM; 13 s on two busy cores (2026-11-29).
STARTS_WITHIN_S = 300
_KINDS_OF_ERRORS = 3

# What runs there. The key comes on stdin, so that no list of processes, container or log shows it; what vLLM prints
# goes to stderr, and the answers of the model are left where they are. Not by the command `vllm`, which looks for a
# package of that name, while the processor's wheel has another (entrypoints/cli/main.py:99). The prompts are laid into
# the place of the data set: reading one takes pandas or a tokenizer, which not every image has (datasets.py:2454).
PROGRAM = """
import argparse, json, os, sys, tempfile
given = json.load(sys.stdin)
said = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ["OPENAI_API_KEY"] = given["key"]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
long = given["output_tokens"]
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
kept = ("duration", "input_lens", "output_lens", "ttfts", "itls", "latencies", "errors")
measured = []
for prompts in given["rounds"]:
    requests = [
        SampleRequest(prompt=one, prompt_len=1, expected_output_len=long, request_id=f"{given['name']}-{number}")
        for number, one in enumerate(prompts)
    ]
    serve.get_samples = lambda args, tokenizer: requests
    with tempfile.TemporaryDirectory() as folder:
        words = [*given["words"], "--num-prompts", str(len(prompts))]
        serve.main(parser.parse_args([*words, "--result-dir", folder, "--result-filename", "result.json"]))
        with open(os.path.join(folder, "result.json")) as file:
            found = json.load(file)
    measured.append({name: found[name] for name in kept})
json.dump(measured, said)
said.close()
"""


class Asked(Struct, frozen=True, kw_only=True):
    """Rounds to send, each its prompts: to which model at which address, with which key, and under which load."""

    url: str
    key: str
    model: str
    rounds: Sequence[Sequence[str]]
    output_tokens: int
    concurrency: int | None
    rate: float | None


def given_of(asked: Asked) -> str:
    """Return what the program reads."""
    words = [
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", asked.url),
        *("--model", asked.model, "--skip-tokenizer-init", "--dataset-name", "custom"),
        *("--ignore-eos", "--temperature", "0"),
        *("--percentile-metrics", "e2el", "--save-result", "--save-detailed", "--disable-tqdm"),
        *(("--max-concurrency", str(asked.concurrency)) if asked.concurrency is not None else ()),
        *(("--request-rate", str(asked.rate)) if asked.rate is not None else ()),
        # The gateway's own certificate; the first question to it has been asked with that one alone.
        *(("--insecure",) if asked.url.startswith("https://") else ()),
    ]
    return json.dumps(
        {
            "key": asked.key,
            "words": words,
            "rounds": [list(prompts) for prompts in asked.rounds],
            "output_tokens": asked.output_tokens,
            "name": f"bench-{uuid4().hex[:8]}",
        }
    )


def read_rounds(answer: ClientAnswer, key: str) -> tuple[Round, ...]:
    """Return what each round measured. Raises NotHealthyError where the generator did not come to its end."""
    if answer.code is None:
        raise NotHealthyError(f"a round did not end: {answer.err}", hint="send fewer: `--requests 10`")
    try:
        found = json.loads(answer.out.strip().splitlines()[-1] if answer.code == 0 else "null")
        return tuple(map(_round_of, found))
    except (ValueError, LookupError, TypeError):
        lines = [line.strip() for line in answer.err.replace(key, "…").splitlines() if line.strip()]
        said = lines[-1][:300] if lines else f"it ended with {answer.code} and no word"
        raise NotHealthyError(f"{NAME} failed: {said}", hint=None) from None


def _round_of(found: Any) -> Round:
    answered = [number for number, length in enumerate(found["output_lens"]) if length > 0]
    failed = [number for number, length in enumerate(found["output_lens"]) if length <= 0]
    kinds = dict.fromkeys(_last_line(found["errors"][number]) for number in failed)
    return Round(
        requests=len(answered) + len(failed),
        failed=len(failed),
        duration_s=float(found["duration"]),
        input_tokens=sum(found["input_lens"][number] for number in answered),
        output_tokens=sum(found["output_lens"][number] for number in answered),
        first_token=percentiles_of([found["ttfts"][number] for number in answered]),
        between_tokens=percentiles_of([gap for number in answered for gap in found["itls"][number]]),
        whole_answer=percentiles_of([found["latencies"][number] for number in answered]),
        errors=tuple(kinds)[:_KINDS_OF_ERRORS],
    )


def _last_line(text: str | None) -> str:
    """Return the line of a traceback that says what happened."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
