"""What clients of the gateway see while one of two engines hangs: real vLLM, our gateway, a load that goes on.

    python -m benchmarks.gateway_hang --engine VENV --ours VENV [--grace 30] [--after 20]

VENV: the CPU engine's virtual environment, and the gateway's. Two engines with the smoke model, each below the program
that watches it with a grace of so many seconds (a plan has 120 at least); before them one gateway with one worker. RATE
requests a second come, every second one a stream. One engine's core is stopped (SIGSTOP); nobody starts it again. Told
are the seconds to the verdict and until the gateway's `/metrics` says what it saw; how many requests were open at the
engine then, and what became of all: answered, ended with an error event, failed; and how long those waited that had
been sent to it.

Writes benchmarks/results/gateway_hang.json; ends with 1 where a request without a byte was lost. Touches loopback, a
temporary folder and that file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import Struct
from stackwright.models.smoke_model import write_smoke_model
from stackwright.runtime.programs import Provisions, stack_programs

from benchmarks.gateway import Setting, await_ready, our_setting, start_redis
from benchmarks.gateway_load import free_port, running
from benchmarks.heartbeat import say
from benchmarks.replica_choice import make_stack
from benchmarks.switching import describe
from tests.integration.gateway.exchange import Ask, exchange
from tests.integration.gateway.front import MODEL
from tests.integration.heartbeat.watched import Watched, vllm

RESULTS = Path(__file__).resolve().parent / "results" / "gateway_hang.json"
RATE = 4
SLOW_S = 5.0
HUNG = re.compile(r"^stackwright_replica_hangs\{.*\} ([1-9]\S*)$", re.MULTILINE)


class One(Struct, frozen=True, kw_only=True):
    """What became of one request."""

    kind: str
    outcome: str
    took_s: float


def start_engines(python: Path, folder: Path, grace_s: str, ended: contextlib.ExitStack) -> list[Watched]:
    """Start two engines, each on its share of the cores."""
    write_smoke_model(folder / "model")
    engines = []
    for number in (1, 2):
        os.environ["ENGINE_PLACES"] = f"{number}-{number}/2"
        place = folder / f"engine-{number}"
        place.mkdir()
        words = ("--served-model-name", MODEL, "smoke", "--max-model-len", "8192")
        engines.append(ended.enter_context(vllm(place, python, folder / "model", free_port(), *words, grace_s=grace_s)))
    for engine in engines:
        engine.await_answer()
    return engines


async def ask(setting: Setting, number: int, found: list[One]) -> None:
    """Ask once and note what came."""
    is_stream = number % 2 == 0
    message = {"role": "user", "content": f"{number}: say hello"}
    body = {"model": setting.model, "messages": [message], "max_tokens": 400, "ignore_eos": True, "stream": is_stream}
    began = time.monotonic()
    path, content = "/v1/chat/completions", json.dumps(body).encode()
    answer = await exchange(setting.port, Ask(path=path, content=content, key=setting.key))
    if answer.status != 200:
        outcome = f"status {answer.status}"
    elif is_stream and not answer.body.endswith("data: [DONE]\n\n"):
        outcome = "error event after its first byte" if '"error"' in answer.body else "cut"
    else:
        outcome = "answered"
    kind = "stream" if is_stream else "whole"
    found.append(One(kind=kind, outcome=outcome, took_s=time.monotonic() - began))


async def page(setting: Setting) -> str:
    """Return the gateway's metrics."""
    return (await exchange(setting.port, Ask(path="/metrics/", method="GET", key=setting.key))).body


async def run_load(setting: Setting, hung: Watched, before_s: float, after_s: float) -> dict[str, Any]:
    """Ask at the rate; stop a core in the middle, and go on until its end and some more."""
    found: list[One] = []
    stopped_s = verdict_s = shown_s = ended_s = 0.0
    open_then = 0
    core, began, number = hung.named("VLLM::EngineCore")[0], time.monotonic(), 0
    async with asyncio.TaskGroup() as asked:
        while not ended_s or time.monotonic() - ended_s < after_s:
            asked.create_task(ask(setting, number, found))
            number += 1
            await asyncio.sleep(max(began + number / RATE - time.monotonic(), 0))
            now = time.monotonic()
            if not stopped_s and now - began > before_s:
                os.kill(core, signal.SIGSTOP)
                stopped_s = now
            elif stopped_s and not verdict_s and hung.said("heartbeat: hung: "):
                verdict_s, open_then = now, number - len(found)
            elif verdict_s and not ended_s and hung.process.poll() is not None:
                ended_s = now
            if verdict_s and not shown_s and number % RATE == 0 and HUNG.search(await page(setting)):
                shown_s = time.monotonic()
    text = await page(setting)
    late = sorted(one.took_s for one in found if one.took_s > SLOW_S and one.outcome == "answered")
    return {
        "requests": len(found),
        "verdict_after_s": round(verdict_s - stopped_s, 1),
        "ended_after_s": round(ended_s - stopped_s, 1),
        "shown_in_metrics_after_s": round(shown_s - stopped_s, 1) if shown_s else None,
        "open_at_the_verdict": open_then,
        "outcomes": {
            kind: dict(Counter(one.outcome for one in found if one.kind == kind)) for kind in ("whole", "stream")
        },
        "answered_late": len(late),
        "latest_s": round(late[-1], 1) if late else None,
        "metrics": sorted(line for line in text.splitlines() if line.startswith("stackwright_replica_")),
    }


def main() -> int:
    """Measure and write the results; return 1 where a request without a byte was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", type=Path, required=True, help="virtual environment of the CPU engine")
    parser.add_argument("--ours", type=Path, required=True, help="virtual environment of the gateway")
    parser.add_argument("--grace", default="30", help="ENGINE_HEARTBEAT")
    parser.add_argument("--after", type=float, default=20, help="seconds of load after the engine's end")
    given = parser.parse_args()
    python, venv = given.engine / "bin" / "python", given.ours.absolute()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ended:
        folder = Path(name)
        engines = start_engines(python, folder, given.grace, ended)
        stack, ports = make_stack(folder / "project", engines)
        machine = Provisions(
            virtual_environments={"engine": venv, "gateway": venv}, ports=ports, shared_memory_bytes=2**34
        )
        programs = {program.name: program for program in stack_programs(stack, machine, os.environ)}
        start_redis(programs["redis"], stack.root, ended)
        setting = our_setting(programs["gateway"], stack, stack.root, 1)
        log = stack.root / "gateway.log"
        await_ready(setting, ended.enter_context(running(setting.command, setting.environment, log)), log)
        say("all answer")
        results = {"measured_on": describe(python), "grace_s": int(given.grace), "requests_per_s": RATE}
        results |= asyncio.run(run_load(setting, engines[1], 10, given.after))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    kinds = results["outcomes"]
    assert isinstance(kinds, dict)
    lost = [kind for kind in kinds.values() if set(kind) - {"answered", "error event after its first byte"}]
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
