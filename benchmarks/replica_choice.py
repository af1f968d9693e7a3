"""Which replica to ask: least busy, the better of two by chance, or the one that has the prompt's beginning cached.

    python -m benchmarks.replica_choice --engine VENV --ours VENV [--rounds 3] [--loads many one]

VENV: the CPU engine's virtual environment, and the gateway's. Two real vLLM, each on its share of the cores, serve a
small model of random weights. Before them stands one gateway of ours for each choice, with one worker, as the
`processes` runtime starts it; the choices that the lane has not are put in place of its own (measured_choice.py).

The load are conversations of several turns behind long system prompts, streamed, so many at once: `many` prompts that
one cache cannot hold together, and `one` prompt for all, which must not starve the other replica. Each round puts every
choice to work once, in an order of chance, each time with texts of its own, so that nobody finds another's cache.

Told are the share of prompt tokens that vLLM found in its prefix cache (vllm:prefix_cache_hits_total of
..._queries_total), requests a second, time to the first event, and the share of the replica that got most; beside them
the median of each round's ratios to least busy.

Writes benchmarks/results/replica_choice.json. Touches loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Struct
from stackwright.catalog.load import load_catalog
from stackwright.models.smoke_model import write_smoke_model
from stackwright.planning.planner import make_plan
from stackwright.runtime import Stack
from stackwright.runtime.programs import Provisions, stack_programs

from benchmarks.gateway import Setting, await_ready, our_setting, start_redis
from benchmarks.gateway_load import free_port, running
from benchmarks.heartbeat import say
from benchmarks.switching import describe
from tests.integration.gateway.front import MODEL, write_project
from tests.integration.heartbeat.watched import KEY, Watched, vllm
from tests.planning_requests import recorded, request

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks" / "results" / "replica_choice.json"
CHOICES = ("least busy", "power of two", "prefix", "conversation")
PLAIN = CHOICES[0]
SHAPE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8}
SHAPE |= {"num_key_value_heads": 2, "head_dim": 32}
LONGEST = 16384
CACHE_BLOCKS, BLOCK_TOKENS = 1250, 32
"""Of each replica: less than the load `many` has in all, more than half of it."""

ANSWER_TOKENS = 24
SYSTEM_CHARACTERS, WORDS_OF_A_TURN = 4500, 40
AT_ONCE = 8


class Load(Struct, frozen=True, kw_only=True):
    """How many system prompts there are, conversations behind each, and turns of each."""

    prompts: int
    conversations: int
    turns: int = 3


LOADS = {"many": Load(prompts=12, conversations=2), "one": Load(prompts=1, conversations=24)}


@dataclass(kw_only=True)
class Measured:
    """One choice under one load, once."""

    seconds: float = 0.0
    first_s: list[float] = field(default_factory=list)
    hits: float = 0.0
    queries: float = 0.0
    answered: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def figures(self) -> dict[str, float]:
        """What is told of it."""
        ordered = sorted(self.first_s)
        return {
            "hit_share": self.hits / max(self.queries, 1),
            "requests_per_s": len(ordered) / self.seconds,
            "first_event_p50_s": ordered[len(ordered) // 2],
            "first_event_p99_s": ordered[len(ordered) * 99 // 100],
            "busiest_share": max(self.answered) / max(sum(self.answered), 1),
        }


def write_model(folder: Path) -> Path:
    """Write a model whose prompts take real work, with the smoke model's tokenizer and made-up weights."""
    write_smoke_model(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **SHAPE}), encoding="utf-8")
    (folder / "model.safetensors").unlink()
    return folder


def start_engines(python: Path, folder: Path, ended: contextlib.ExitStack) -> list[Watched]:
    """Start two replicas, each on its own share of the cores, and return them once they answer."""
    model, engines = write_model(folder / "model"), []
    for number in (1, 2):
        os.environ["ENGINE_PLACES"] = f"{number}-{number}/2"  # compose/engine/cores.py
        place = folder / f"engine-{number}"
        place.mkdir()
        words: tuple[str, ...] = (
            "--served-model-name",
            MODEL,
            "smoke",
            "--load-format",
            "dummy",
            "--max-model-len",
            str(LONGEST),
        )
        words += ("--num-gpu-blocks-override", str(CACHE_BLOCKS), "--block-size", str(BLOCK_TOKENS))
        words += ("--enable-prefix-caching",)
        engines.append(ended.enter_context(vllm(place, python, model, free_port(), *words, grace_s="300")))
    for engine in engines:
        engine.await_answer()
    return engines


def make_stack(folder: Path, engines: list[Watched]) -> tuple[Stack, dict[str, int]]:
    """Render the files of a stack of two replicas, and say where each part listens."""
    pins = {"LITELLM_NUM_WORKERS": "1", "GATEWAY_MAX_CONCURRENT_REQUESTS": "256", "GATEWAY_MAX_INPUT_TOKENS": "0"}
    plan = make_plan(request(recorded("2x-rtx3090-pcie"), model=MODEL, pins=pins), load_catalog())
    stack = write_project(folder, folder / "state", plan)
    (stack.secrets / "engine_key").write_text(KEY)
    ports = {"engine": engines[0].port, "engine-2": engines[1].port, "redis": free_port()}
    return stack, ports


def start_gateways(stack: Stack, ports: dict[str, int], ours: Path, ended: contextlib.ExitStack) -> dict[str, Setting]:
    """Start one gateway for each choice."""
    venv = ours.absolute()
    machine = Provisions(virtual_environments={"engine": venv, "gateway": venv}, ports=ports, shared_memory_bytes=2**34)
    programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
    start_redis(programs["redis"], stack.root, ended)
    shutil.copy(Path(__file__).with_name("measured_choice.py"), stack.root / "compose" / "gateway")
    settings = {}
    for number, choice in enumerate(CHOICES):
        setting = our_setting(programs["gateway"], stack, stack.root, 1)
        hooks = setting.environment["LITELLM_WORKER_STARTUP_HOOKS"]
        environment = {
            **setting.environment,
            "MEASURED_CHOICE": choice,
            "GATEWAY_SLOTS": str(stack.root / f"slots.{number}"),
        }
        environment["LITELLM_WORKER_STARTUP_HOOKS"] = f"{hooks},measured_choice:install"
        log = stack.root / f"gateway-{number}.log"
        process = ended.enter_context(running(setting.command, environment, log))
        await_ready(setting, process, log)
        settings[choice] = setting
    return settings


def counts(engine: Watched) -> tuple[float, float, float]:
    """Return an engine's tokens found in its prefix cache, those looked for, and its answered requests."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{engine.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    def total(name: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))

    names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "vllm:request_success_total")
    hits, queries, answered = map(total, names)
    return hits, queries, answered


def words(source: random.Random, characters: int) -> str:
    """Return a text of letters and blanks of about this length."""
    return "".join(source.choice("abcdefghijklmnopqrstuvwxyz    ") for _ in range(characters))


async def talk(setting: Setting, system: str, source: random.Random, turns: int, measured: Measured) -> None:
    """Hold one conversation, turn after turn."""
    messages = [{"role": "system", "content": system}]
    for _ in range(turns):
        messages.append({"role": "user", "content": words(source, 6 * WORDS_OF_A_TURN)})
        began = time.monotonic()
        body = {"model": setting.model, "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": True}
        text = await stream(setting, {**body, "ignore_eos": True}, began, measured)
        messages.append({"role": "assistant", "content": text})


async def stream(setting: Setting, body: dict[str, Any], began: float, measured: Measured) -> str:
    """Ask once; return what was said, and note when its first event came."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {setting.key}\r\nConnection: close\r\n"
    )
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", setting.port, limit=2**20)
    writer.write(head.encode() + content)
    status = (await reader.readuntil(b"\r\n\r\n"))[9:12]
    said, first = [], True
    while line := await reader.readline():
        if line.startswith(b"data: {"):
            if first:
                measured.first_s.append(time.monotonic() - began)
                first = False
            choices = json.loads(line[6:]).get("choices") or [{}]
            said.append((choices[0].get("delta") or {}).get("content") or "")
    writer.close()
    measured.failed += status != b"200" or first
    return "".join(said)


async def put_to_work(setting: Setting, load: Load, seed: str) -> Measured:
    """Hold all conversations of a load, so many at once; those of all prompts come mixed."""
    measured, source = Measured(), random.Random(seed)
    systems = [words(source, SYSTEM_CHARACTERS) for _ in range(load.prompts)]
    waiting = [(system, random.Random(f"{seed}{number}")) for number in range(load.conversations) for system in systems]

    async def person() -> None:
        while waiting:
            system, texts = waiting.pop()
            await talk(setting, system, texts, load.turns, measured)

    began = time.monotonic()
    await asyncio.gather(*(person() for _ in range(AT_ONCE)))
    measured.seconds = time.monotonic() - began
    return measured


def measure(settings: Mapping[str, Setting], engines: list[Watched], load: Load, seed: str) -> dict[str, Measured]:
    """Put every choice to work once, in an order of chance."""
    order = random.Random(seed).sample(CHOICES, len(CHOICES))
    found = {}
    for choice in order:
        before = [counts(engine) for engine in engines]
        one = asyncio.run(put_to_work(settings[choice], load, f"{seed} {choice}"))
        after = [counts(engine) for engine in engines]
        gained = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]
        one.hits, one.queries = sum(each[0] for each in gained), sum(each[1] for each in gained)
        one.answered = [each[2] for each in gained]
        say(f"{seed} {choice}: {json.dumps({key: round(value, 3) for key, value in one.figures.items()})}")
        found[choice] = one
    return found


def summarize(rounds: list[dict[str, Measured]]) -> dict[str, dict[str, object]]:
    """Return, of each choice, the medians over the rounds, and of the rounds' ratios to least busy."""
    rows: dict[str, dict[str, object]] = {}
    for choice in CHOICES:
        figures = [of[choice].figures for of in rounds]
        plain = [of[PLAIN].figures for of in rounds]
        rows[choice] = {name: round(statistics.median(each[name] for each in figures), 4) for name in figures[0]}
        rows[choice]["failed"] = sum(of[choice].failed for of in rounds)
        for name in ("requests_per_s", "first_event_p50_s", "first_event_p99_s"):
            ratios = [mine[name] / theirs[name] for mine, theirs in zip(figures, plain, strict=True)]
            rows[choice][f"{name}_beside_least_busy"] = round(statistics.median(ratios), 3)
            rows[choice][f"{name}_beside_least_busy_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return rows


def main() -> int:
    """Measure and write the results; return 1 where a request failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", type=Path, required=True, help="virtual environment of the CPU engine")
    parser.add_argument("--ours", type=Path, required=True, help="virtual environment of the gateway")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=[*LOADS])
    given = parser.parse_args()
    python = given.engine / "bin" / "python"
    results: dict[str, Any] = {"measured_on": describe(python), "rounds": given.rounds, "at_once": AT_ONCE}
    results["cache_tokens_per_replica"] = CACHE_BLOCKS * BLOCK_TOKENS
    failed = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ended:
        folder = Path(name)
        engines = start_engines(python, folder, ended)
        stack, ports = make_stack(folder / "project", engines)
        settings = start_gateways(stack, ports, given.ours, ended)
        for load_name in given.loads:
            load = LOADS[load_name]
            asyncio.run(put_to_work(settings[PLAIN], Load(prompts=2, conversations=2, turns=2), "warm"))
            rounds = [measure(settings, engines, load, f"{load_name}-{number}") for number in range(given.rounds)]
            failed += sum(one.failed for of in rounds for one in of.values())
            shape = {"prompts": load.prompts, "conversations": load.conversations, "turns": load.turns}
            results[load_name] = {**shape, "choices": summarize(rounds)}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
