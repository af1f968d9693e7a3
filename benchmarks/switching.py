"""How long a switch from one model to another takes on the CPU engine: our program, llama-swap, and a plain cold start.

    python -m benchmarks.switching --engine VENV [--llama-swap PROGRAM] [--switches 2] [--requests 12] [--only PART …]

VENV is the virtual environment of the CPU engine; llama-swap is measured where its program is given. The models are two
copies of the smoke model, so nothing but the engine's own start is measured: large weights come on top of it, for each
alike.

Plain: from the start of vLLM's server to its first answer. A switch: from a lone request for the model that is not
loaded to its answer, with nothing in flight, so no drain is in it. Then, with our program alone, mixed requests at
once: a request for the other model first, then both in turns. All have to be answered, the other model's before the
loaded one's.

Writes benchmarks/results/switching.json, part by part; `--only` measures some parts anew and leaves the others. Touches
loopback, a temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stackwright.models.smoke_model import write_smoke_model

from benchmarks.gateway_load import free_port
from tests.integration.gateway.exchange import Answer, chat, exchange

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks" / "results"
SWITCH = CHECKOUT / "compose" / "engine" / "switching" / "switch.py"
SERVER = ("-m", "vllm.entrypoints.openai.api_server")
MODELS = ("alpha", "beta")
PARTS = ("plain", "ours", "llama-swap")
RESIDENCE_S = 1
LOAD_LIMIT_S = 400
STOP_S = 30


def say(text: str) -> None:
    """Tell the person one line."""
    print(text, file=sys.stderr, flush=True)


def engine_arguments(folder: Path, model: str) -> list[str]:
    """Return what the engine of one model is started with."""
    return [
        *("--model", str(folder / model), "--served-model-name", model),
        *("--max-model-len", "2048", "--dtype", "bfloat16", "--enforce-eager"),
    ]


@contextmanager
def running(command: Sequence[str], folder: Path, log: Path) -> Iterator[None]:
    """Run a program beside a block, with what its engines need in the environment."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    engine = {"VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    variables = {**kept, **engine, "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=STOP_S)


def ask(port: int, model: str) -> Answer:
    """Ask for one completion."""
    return asyncio.run(exchange(port, chat(None, model=model)))


def first_answer_s(port: int, model: str, since_s: float) -> float:
    """Return the seconds from a moment until a program answers that has just been started."""
    while time.monotonic() < since_s + LOAD_LIMIT_S:
        try:
            if ask(port, model).status == 200:
                return time.monotonic() - since_s
        except ConnectionError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"`{model}` did not answer within {LOAD_LIMIT_S} s")


def measure_plain(python: Path, folder: Path) -> float:
    """Return the seconds of a cold start, until the first answer."""
    port, since_s = free_port(), time.monotonic()
    command = [str(python), *SERVER, *engine_arguments(folder, "alpha"), "--host", "127.0.0.1", "--port", str(port)]
    with running(command, folder, folder / "plain.log"):
        return first_answer_s(port, "alpha", since_s)


def measure_switches(port: int, count: int) -> list[float]:
    """Return the seconds of lone switches, from the request to the answer; the first model is loaded before."""
    took = []
    for number in range(count):
        time.sleep(2 * RESIDENCE_S)
        begun = time.monotonic()
        answer = ask(port, MODELS[(number + 1) % 2])
        took.append(time.monotonic() - begun)
        if answer.status != 200:
            raise SystemExit(f"a switch ended with {answer.status}: {answer.body}")
        say(f"  switched in {took[-1]:.1f} s")
    return took


async def measure_mixed(port: int, loaded: str, count: int) -> dict[str, int]:
    """Ask both models in turns, the one that is not loaded first; return how many failed or came out of their turn."""
    other = MODELS[1 - MODELS.index(loaded)]
    names = [(other, loaded)[number % 2] for number in range(count)]
    order: list[str] = []

    async def one(number: int, name: str) -> int:
        await asyncio.sleep(number * 0.05)
        answer = await exchange(port, chat(None, model=name))
        order.append(name)
        return answer.status

    statuses = await asyncio.gather(*(one(number, name) for number, name in enumerate(names)))
    right = sorted(names, key=lambda name: name == loaded)
    return {
        "requests": count,
        "failed": sum(status != 200 for status in statuses),
        "out_of_turn": sum(answered != due for answered, due in zip(order, right, strict=True)),
    }


def summary(took: Sequence[float]) -> dict[str, object]:
    """Return the median, the longest, and all."""
    whole = [round(each, 1) for each in took]
    return {"p50_s": round(statistics.median(whole), 1), "max_s": max(whole), "all_s": whole}


def measure_ours(python: Path, folder: Path, switches: int, requests: int) -> tuple[dict[str, int], dict[str, object]]:
    """Measure our program: mixed requests; its start and lone switches."""
    models = [
        {"name": name, "arguments": engine_arguments(folder, name), "start_limit_s": LOAD_LIMIT_S} for name in MODELS
    ]
    rules = {"schema": 1, "minimum_residence_s": RESIDENCE_S, "drain_s": 60, "preload": MODELS[0], "pinned": []}
    port, since_s, log = free_port(), time.monotonic(), folder / "ours.log"
    spec = json.dumps({**rules, "models": models})
    with running([str(python), "-B", str(SWITCH), spec, "--host=127.0.0.1", f"--port={port}"], folder, log):
        first_s = first_answer_s(port, MODELS[0], since_s)
        say(f"  first answer after {first_s:.1f} s")
        took = measure_switches(port, switches)
        time.sleep(2 * RESIDENCE_S)
        mixed = asyncio.run(measure_mixed(port, MODELS[switches % 2], requests))
        told = log.read_text(errors="replace")
    parts = {
        part: summary(
            [float(each) for each in re.findall(rf"^switch: \w+ is {part} after ([\d.]+) s$", told, re.MULTILINE)]
        )
        for part in ("unloaded", "loaded")
    }
    return mixed, {"first_answer_s": round(first_s, 1), "switch": summary(took), **parts}


def measure_llama_swap(program: Path, python: Path, folder: Path, switches: int) -> dict[str, object]:
    """Measure llama-swap with the same engines and the same lone switches."""
    models = {
        name: {
            "cmd": " ".join([str(python), *SERVER, *engine_arguments(folder, name), "--host 127.0.0.1 --port ${PORT}"])
        }
        for name in MODELS
    }
    config = folder / "llama-swap.yaml"
    config.write_text(json.dumps({"healthCheckTimeout": LOAD_LIMIT_S, "startPort": free_port(), "models": models}))
    port, since_s = free_port(), time.monotonic()
    command = [str(program), "-config", str(config), "-listen", f"127.0.0.1:{port}"]
    with running(command, folder, folder / "llama-swap.log"):
        first_s = first_answer_s(port, MODELS[0], since_s)
        say(f"  first answer after {first_s:.1f} s")
        return {"first_answer_s": round(first_s, 1), "switch": summary(measure_switches(port, switches))}


def describe(python: Path) -> Mapping[str, object]:
    """Return what was measured on."""
    asked = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
    told = subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True)
    load = [round(each, 1) for each in os.getloadavg()]
    return {"vllm": told.stdout.strip(), "cores": os.cpu_count(), "python": platform.python_version(), "load": load}


def save(part: str, measured: Mapping[str, object]) -> None:
    """Put one part into the results; others stay as they are."""
    file = RESULTS / "switching.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**results, part: measured}, indent=2) + "\n", encoding="utf-8")
    say(json.dumps(measured))


def main() -> int:
    """Measure and write the results; return 1 where a request failed or came out of its turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", type=Path, required=True, help="virtual environment of the CPU engine")
    parser.add_argument("--llama-swap", type=Path, help="llama-swap's program")
    parser.add_argument("--switches", type=int, default=2, help="lone switches of each program")
    parser.add_argument("--requests", type=int, default=12, help="mixed requests at once")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these parts alone")
    words = parser.parse_args()
    python = words.engine / "bin" / "python"
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in MODELS:
            write_smoke_model(folder / model)
        for part in words.only:
            say(part)
            measured: dict[str, object] = {"measured_on": describe(python)}
            if part == "ours":
                mixed, figures = measure_ours(python, folder, words.switches, words.requests)
                measured |= {**figures, "mixed": mixed}
                wrong = mixed["failed"] + mixed["out_of_turn"]
            elif part == "plain":
                measured["first_answer_s"] = round(measure_plain(python, folder), 1)
            elif words.llama_swap:
                measured |= measure_llama_swap(words.llama_swap, python, folder, words.switches)
            else:
                continue
            save(part, measured)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
