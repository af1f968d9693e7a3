"""vLLM's own load generator beside guidellm, on one target whose times are known: what each says, takes and costs.

    python -m benchmarks.load_generators --vllm PYTHON --guidellm PROGRAM --tokenizer FOLDER

PYTHON is that of an environment with vLLM, as a start makes it; PROGRAM guidellm's, from an environment of its own
(`pip install guidellm==0.8.1`, with a build of torch for the processor), FOLDER a model's, whose tokenizer guidellm
wants. The target is a server of the standard library that streams 128 tokens at times that it draws itself, and notes
when each really left. Both send the same prompts as chats, in turns. Processor time is that of the generator and its
children. Writes benchmarks/results/load_generators.json. Touches a temporary folder, loopback and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from stackwright.domain.load import LoadAsked, percentiles_of
from stackwright.engines.vllm.load_generator import GENERATOR
from stackwright.load.generator import read_rounds
from stackwright.load.prompts import sample_text
from stackwright.runtime import ClientAnswer

from tests.integration.project import CHECKOUT, free_port

RESULT = CHECKOUT / "benchmarks" / "results" / "load_generators.json"
TOKENS, WORDS, REPEATS = 128, 256, 3
# Requests at once, and of a round.
LOADS = ((1, 24), (8, 96), (32, 256))
KEY = "sk-nothing"
FIRST_S, STEP_S, GAP_S, LONG_GAP_S, LONG_EVERY = 0.05, 0.01, 0.005, 0.025, 16


class Target:
    """Streams answers at times that are fixed for each request's number, and notes when each piece left."""

    def __init__(self) -> None:
        self.firsts: list[float] = []
        self.gaps: list[float] = []
        self.wholes: list[float] = []
        self._number = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests, one after the other."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next((int(row[15:]) for row in head.split("\r\n") if row.startswith("content-length:")), 0)
                await reader.readexactly(length)
                arrived = time.perf_counter()
                if head.startswith("post"):
                    await self._stream(writer, arrived)
                else:
                    await _answer(writer, self._told(head.split(" ")[1]))
        writer.close()

    def _told(self, path: str) -> Any:
        if path != "/truth":
            return {"object": "list", "data": [{"id": "smoke", "object": "model", "created": 0}]}
        times = {"firsts": self.firsts, "gaps": self.gaps, "wholes": self.wholes}
        self.firsts, self.gaps, self.wholes = [], [], []
        return times

    async def _stream(self, writer: asyncio.StreamWriter, arrived: float) -> None:
        number, self._number = self._number, self._number + 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        due = arrived + FIRST_S + STEP_S * (number % 10)
        left = []
        for token in range(TOKENS):
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            _write(writer, {"content": "a "} if token else {"role": "assistant", "content": "a "})
            left.append(time.perf_counter())
            due += LONG_GAP_S if token % LONG_EVERY == LONG_EVERY - 1 else GAP_S
        _write(writer, {}, {"prompt_tokens": WORDS, "completion_tokens": TOKENS, "total_tokens": WORDS + TOKENS})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await writer.drain()
        self.firsts.append(left[0] - arrived)
        self.gaps += [later - earlier for earlier, later in pairwise(left)]
        self.wholes.append(left[-1] - arrived)


def _write(writer: asyncio.StreamWriter, delta: Mapping[str, str], usage: Mapping[str, int] | None = None) -> None:
    """Write one event; the last has how many tokens there were and no choice, as vLLM's server has it."""
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": None}]
    event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "smoke", "choices": choices}
    text = f"data: {json.dumps({**event, **({'usage': usage} if usage else {})})}\n\n".encode()
    writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")


async def _answer(writer: asyncio.StreamWriter, body: Any) -> None:
    text = json.dumps(body).encode()
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode())
    writer.write(text)
    await writer.drain()


def serve(port: int) -> None:
    """Serve until the process ends."""

    async def run() -> None:
        server = await asyncio.start_server(Target().serve, "127.0.0.1", port, backlog=256)
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def target() -> Iterator[str]:
    """Give the address of a target that answers, in a process of its own."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            with contextlib.suppress(OSError):
                truth(url)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join()


def truth(url: str) -> Mapping[str, Sequence[float]]:
    """Return when pieces left since the last call, in seconds."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/truth") as answer:
        times: Mapping[str, Sequence[float]] = json.load(answer)
        return times


def by_vllm(python: Path, url: str, at_once: int, prompts: Sequence[str]) -> dict[str, Any]:
    """Send by vLLM's generator, as `bench` does."""
    asked = LoadAsked(
        url=url, key=KEY, model="smoke", rounds=[prompts], output_tokens=TOKENS, concurrency=at_once, rate=None
    )
    done = subprocess.run(
        [str(python), "-c", GENERATOR.program],
        input=GENERATOR.given(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    [one] = read_rounds(GENERATOR.name, ClientAnswer(done.returncode, done.stdout, done.stderr), KEY)
    return {
        "requests": one.requests - one.failed,
        "tokens_per_s": one.output_tokens_per_s,
        "first": [one.first_token.p50, one.first_token.p99],
        "between": [one.between_tokens.p50, one.between_tokens.p99],
        "whole": [one.whole_answer.p50, one.whole_answer.p99],
    }


def by_guidellm(program: Path, tokenizer: Path, url: str, at_once: int, prompts: Sequence[str]) -> dict[str, Any]:
    """Send by guidellm."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "prompts.jsonl", Path(folder) / "out.json"
        rows = [{"prompt": prompt, "output_tokens_count": TOKENS} for prompt in prompts]
        data.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        words = [
            *("run", "--backend", f"kind=openai_http,target={url},model=smoke,api_key={KEY},http2=false"),
            *("--profile", f"kind=concurrent,streams={at_once}"),
            *("--constraint", f"kind=max_requests,count={len(prompts)}"),
            *("--data", f"kind=json_file,path={data}", "--tokenizer", f"kind=hf_auto,model={tokenizer}"),
            *("--output", f"kind=json,path={out}", "--disable-console"),
        ]
        done = subprocess.run(
            [str(program), *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        if done.returncode or not out.exists():
            raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
        [told] = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    return read_guidellm(told["metrics"])


def read_guidellm(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of what guidellm measured of the requests that were answered."""

    def of(name: str, scale: float = 1.0) -> list[float]:
        found = metrics[name]["successful"]["percentiles"]
        return [found["p50"] * scale, found["p99"] * scale]

    return {
        "requests": metrics["request_totals"]["successful"],
        "tokens_per_s": metrics["output_tokens_per_second"]["successful"]["mean"],
        "first": of("time_to_first_token_ms"),
        "between": of("inter_token_latency_ms"),
        "whole": of("request_latency", 1000),
    }


def measure(
    send: Callable[[str, int, Sequence[str]], dict[str, Any]], url: str, load: tuple[int, int], seed: str
) -> dict[str, Any]:
    """Send one round; return what the generator says, what was true, and what it cost."""
    at_once, count = load
    prompts = [sample_text(WORDS, f"{seed} {number}") for number in range(count)]
    truth(url)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = send(url, at_once, prompts)
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    times = truth(url)
    true = {name: [(found := percentiles_of(times[f"{name}s"])).p50, found.p99] for name in ("first", "gap", "whole")}
    return {
        "said": said,
        "true": {"requests": len(times["firsts"]), **true},
        "wall_s": round(took, 2),
        "processor_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
    }


def main() -> int:
    """Measure in turns, write the result, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--vllm", "--guidellm", "--tokenizer"):
        parser.add_argument(flag, type=Path, required=True)
    given = parser.parse_args()
    ways: Mapping[str, Callable[[str, int, Sequence[str]], dict[str, Any]]] = {
        "vllm": lambda *words: by_vllm(given.vllm, *words),
        "guidellm": lambda *words: by_guidellm(given.guidellm, given.tokenizer, *words),
    }
    rows: list[dict[str, Any]] = []
    with target() as url:
        for load in LOADS:
            for number in range(REPEATS):
                for name in sorted(ways, reverse=bool(number % 2)):
                    found = measure(ways[name], url, load, f"{load} {number}")
                    rows.append({"generator": name, "at_once": load[0], **found})
                    print(json.dumps(rows[-1]), flush=True)
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    RESULT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for name in ways:
        for at_once, _ in LOADS:
            own = [row for row in rows if (row["generator"], row["at_once"]) == (name, at_once)]
            print(name, at_once, {key: statistics.median(row[key] for row in own) for key in ("wall_s", "processor_s")})
    return 0


if __name__ == "__main__":
    sys.exit(main())
