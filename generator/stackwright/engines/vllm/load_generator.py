"""vLLM's own load generator, `vllm bench serve`, in the place of the engine (docs/decisions/0072-load-generator.md).

vLLM 0.32.0, vllm/benchmarks/serve.py. Touches nothing: the runtime runs the program that stands here.
"""

from __future__ import annotations

import json

from stackwright.domain.load import LoadAsked
from stackwright.engines.protocol import LoadGenerator

# A start of the generator, which imports all of vLLM; 13 s on two busy cores (2026-11-29).
_STARTS_WITHIN_S = 300

# What runs there. The key comes on stdin, so that no list of processes, container or log shows it; what vLLM prints
# goes to stderr, and the answers of the model are left where they are. Not by the command `vllm`, which looks for a
# package of that name, while the processor's wheel has another (entrypoints/cli/main.py:99). The prompts are laid into
# the place of the data set: reading one takes pandas or a tokenizer, which not every image has (datasets.py:2454).
_PROGRAM = """
import argparse, json, os, sys, tempfile, uuid
given = json.load(sys.stdin)
said = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ["OPENAI_API_KEY"] = given["key"]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
from vllm.benchmarks import serve
from vllm.benchmarks.datasets import SampleRequest
long, test = given["output_tokens"], f"bench-{uuid.uuid4().hex[:8]}"
parser = argparse.ArgumentParser()
serve.add_cli_args(parser)
kept = ("duration", "input_lens", "output_lens", "ttfts", "itls", "latencies", "errors")
measured = []
for prompts in given["rounds"]:
    requests = [
        SampleRequest(prompt=one, prompt_len=1, expected_output_len=long, request_id=f"{test}-{number}")
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


def _given(asked: LoadAsked) -> str:
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
        }
    )


GENERATOR = LoadGenerator(name="vllm bench serve", program=_PROGRAM, starts_within_s=_STARTS_WITHIN_S, given=_given)
