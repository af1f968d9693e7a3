"""How soon a hung engine is found, and that a prompt of five minutes is not taken for one: real vLLM on the processor.

    python -m benchmarks.heartbeat --engine VENV [--grace 120] [--reader-grace 740] [--prefill 300]

VENV is the virtual environment of the CPU engine. Three engines with the smoke model hang, with the grace that a plan
has: the core while it writes, the core while idle, the server while idle. Told are the seconds from the SIGSTOP to the
verdict, and to the end of the last process. Beside them a slower model, of random weights, reads a prompt whose length
was chosen by a short one to last as long as asked; told are its time, its steps as the figures show them, the longest
silence between two of them, and false alarms. Its grace is what a plan gives such a model on two cores: three times
2 × 600 million parameters × 2048 tokens at 5 GFLOP/s a core (planning/heartbeat.py). Before that all of them rest, and
what a watched engine uses of a core while it is idle is counted.

Writes benchmarks/results/heartbeat.json. Touches loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from stackwright.models.smoke_model import write_smoke_model

from benchmarks.gateway_load import free_port
from benchmarks.switching import describe
from tests.integration.heartbeat.watched import HUNG, Watched, vllm

RESULTS = Path(__file__).resolve().parent / "results" / "heartbeat.json"
REST_S = 20
SLOW = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 10, "num_attention_heads": 16}
SLOW |= {"num_key_value_heads": 4, "head_dim": 128}
NAMES = ("core_while_writing", "core_while_idle", "server_while_idle")
TRIAL_TOKENS, MOST_TOKENS = 1024, 32000


def say(text: str) -> None:
    """Tell the person one line."""
    print(text, file=sys.stderr, flush=True)


def write_slow_model(small: Path, folder: Path) -> None:
    """Write the configuration of a slower model beside the tokenizer of the smoke model; its weights are made up."""
    folder.mkdir()
    for file in small.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((small / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **SLOW}), encoding="utf-8")


def hang(engine: Watched, pid: int) -> dict[str, float]:
    """Stop a process; return the seconds to the verdict and to the end of all."""
    begun = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    engine.await_words("heartbeat: hung: ")
    verdict_s = time.monotonic() - begun
    status = engine.ends()
    return {
        "verdict_s": round(verdict_s, 1),
        "ended_s": round(time.monotonic() - begun, 1),
        "restarted": status == HUNG,
    }


def used_s(engine: Watched) -> tuple[float, float]:
    """Return the processor time of the program that watches, and of the engine's own processes."""
    own = psutil.Process(engine.process.pid)
    below = [process.cpu_times() for process in own.children(recursive=True)]
    times = own.cpu_times()
    return times.user + times.system, sum(each.user + each.system for each in below)


def rest(engine: Watched) -> dict[str, float]:
    """Return which part of a core an idle engine uses, and the program that watches it."""
    before, begun = used_s(engine), time.monotonic()
    time.sleep(REST_S)
    after, took_s = used_s(engine), time.monotonic() - begun
    watch, own = ((late - early) / took_s for early, late in zip(before, after, strict=True))
    return {"watch_share_of_core": round(watch, 4), "engine_share_of_core": round(own, 4)}


def marks(engine: Watched) -> tuple[str, ...]:
    """Return the figures that move with each step, as the page has them."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{engine.port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    names = ("vllm:kv_cache_usage_perc", "vllm:generation_tokens_total", "vllm:prompt_tokens_total")
    return tuple(line for line in lines if line.startswith(names))


def prefill(engine: Watched, wished_s: float) -> dict[str, Any]:
    """Let an engine read one long prompt; return how that went."""
    engine.complete(prompt=[7] * TRIAL_TOKENS, max_tokens=1)  # the first one is slower
    begun = time.monotonic()
    engine.complete(prompt=[8] * TRIAL_TOKENS, max_tokens=1)
    trial_s = time.monotonic() - begun
    tokens = min(int(TRIAL_TOKENS * wished_s / trial_s), MOST_TOKENS)
    say(f"{TRIAL_TOKENS} tokens took {trial_s:.1f} s: a prompt of {tokens}")
    found: list[int] = []
    begun = moved = time.monotonic()
    asked = threading.Thread(target=lambda: found.append(engine.complete(prompt=[9] * tokens, max_tokens=1)))
    asked.start()
    steps, longest_s, before = 0, 0.0, marks(engine)
    while asked.is_alive():
        time.sleep(0.5)
        now = marks(engine)
        if now != before:
            steps, longest_s, before = steps + 1, max(longest_s, time.monotonic() - moved), now
            moved = time.monotonic()
    return {
        "prompt_tokens": tokens,
        "prefill_s": round(time.monotonic() - begun, 1),
        "steps_seen": steps,
        "longest_silence_s": round(longest_s, 1),
        "answered": found == [200],
        "false_alarms": len(engine.hangs()) if engine.notes.exists() else 0,
    }


def measure(python: Path, folder: Path, graces: tuple[str, str], prefill_s: float) -> dict[str, Any]:
    """Run all engines side by side."""
    small, slow = folder / "small", folder / "slow"
    write_smoke_model(small)
    write_slow_model(small, slow)
    with contextlib.ExitStack() as ended:

        def start(name: str, model: Path, grace_s: str, *words: str) -> Watched:
            place = folder / name
            place.mkdir()
            return ended.enter_context(vllm(place, python, model, free_port(), *words, grace_s=grace_s))

        engines = {name: start(name, small, graces[0], "--max-model-len", "32768") for name in NAMES}
        reader = start("reader", slow, graces[1], "--load-format", "dummy", "--max-model-len", str(MOST_TOKENS + 64))
        for engine in (*engines.values(), reader):
            engine.await_answer()
        say("all answer")
        results: dict[str, Any] = {"idle": rest(engines["core_while_idle"])}
        stopped = {name: engine.named("VLLM::EngineCore")[0] for name, engine in engines.items()}
        stopped["server_while_idle"] = engines["server_while_idle"].named("openai.api_server")[-1]

        def let_hang(name: str) -> None:
            with engines[name].writing() if name == "core_while_writing" else contextlib.nullcontext():
                results[name] = hang(engines[name], stopped[name])

        threads = [threading.Thread(target=let_hang, args=(name,)) for name in NAMES]
        threads.append(threading.Thread(target=lambda: results.update({"long_prompt": prefill(reader, prefill_s)})))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def main() -> int:
    """Measure and write the results; return 1 where a hang was not found, or a long prompt was taken for one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", type=Path, required=True, help="virtual environment of the CPU engine")
    parser.add_argument("--grace", default="120", help="ENGINE_HEARTBEAT")
    parser.add_argument("--reader-grace", default="740", help="the same, of the model that reads a long prompt")
    parser.add_argument("--prefill", type=float, default=300, help="seconds that the long prompt should take")
    words = parser.parse_args()
    python = words.engine / "bin" / "python"
    with tempfile.TemporaryDirectory() as name:
        results: dict[str, Any] = {"measured_on": describe(python), "grace_s": int(words.grace)}
        results["reader_grace_s"] = int(words.reader_grace)
        results |= measure(python, Path(name), (words.grace, words.reader_grace), words.prefill)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(results))
    read = results["long_prompt"]
    good = read["answered"] and not read["false_alarms"] and all(results[name]["restarted"] for name in NAMES)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
