"""How far a log says that a start has come, and what in it is new (logs/README.md)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stackwright.domain.service import Step
from stackwright.engines import default_engine
from stackwright.watching.steps import distinct_lines, engine_step, last_starts, loaded_model, start_line

START_LOG = default_engine().start_log

LOGS = Path(__file__).parent / "logs"


def log(name: str) -> str:
    """Return one recorded log."""
    return (LOGS / f"{name}.log").read_text(encoding="utf-8")


def steps(text: str) -> list[str | None]:
    """Return the steps that a watcher sees while `text` is written line by line, each once."""
    lines = text.splitlines()
    seen = [engine_step("\n".join(lines[:end]), START_LOG) for end in range(len(lines) + 1)]
    return [seen[0], *(after for before, after in pairwise(seen) if after != before)]


def test_an_eager_start_is_never_said_to_compile() -> None:
    """Though its log names torch.compile three times before the weights are loaded."""
    assert "torch.compile" in log("eager")
    assert steps(log("eager")) == [None, "loading weights", "profiling memory", "opening its port"]


def test_a_compiled_start_is_told_step_by_step() -> None:
    told_steps = [None, "loading weights", "profiling memory", "compiling", "profiling memory", "opening its port"]
    assert steps(log("compiled")) == told_steps


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("Loading pt checkpoint shards:   0% Completed | 0/4", Step.LOADING),
        ("INFO [gpu_model_runner.py:5150] Model loading took 14.99 GiB memory and 6.5 seconds", Step.PROFILING),
        ("INFO [backends.py:1167] Dynamo bytecode transform time: 4.12 s", Step.COMPILING),
        ("INFO [gpu_worker.py:760] Available KV cache memory: 17.05 GiB", Step.PROFILING),
        ("INFO [kv_cache_utils.py:2327] GPU KV cache size: 159,632 tokens", Step.PROFILING),
        ("Capturing CUDA graphs (decode, FULL):  57%|#####   | 20/35", Step.CAPTURING),
        ("Capturing prefill CUDA graphs:  57%|#####   | 20/35", Step.CAPTURING),
    ],
)
def test_steps_on_a_gpu(line: str, step: Step) -> None:
    """Lines as vLLM 0.32.0's source writes them; no GPU was at hand to record one."""
    assert engine_step(line, START_LOG) is step


# The order of a start on one GPU, as a public report shows it (vllm#20264, 2025-06-30), with 0.32.0's first line.
ON_A_GPU = """\
INFO 06-19 23:05:00 [gpu_model_runner.py:5040] Starting to load model meta-llama/Llama-3.2-3B...
INFO 06-19 23:05:01 [loader.py:447] Loading weights took 0.69 seconds
INFO 06-19 23:05:01 [gpu_model_runner.py:1273] Model loading took 3.4213 GiB and 0.902026 seconds
INFO 06-19 23:05:09 [backends.py:426] Dynamo bytecode transform time: 7.51 s
INFO 06-19 23:05:18 [monitor.py:33] torch.compile takes 7.51 s in total
INFO 06-19 23:05:18 [kv_cache_utils.py:578] GPU KV cache size: 613,024 tokens
INFO 06-19 23:05:35 [gpu_model_runner.py:1608] Graph capturing finished in 17 secs, took 0.48 GiB
INFO 06-19 23:05:35 [core.py:162] init engine (profile, create kv cache, warmup model) took 34.11 seconds
"""


def test_a_start_on_a_gpu_is_told_step_by_step() -> None:
    assert steps(ON_A_GPU) == [
        None,
        "loading weights",
        "profiling memory",
        "compiling",
        "profiling memory",
        "capturing graphs",
    ]


def test_a_second_start_begins_anew() -> None:
    """Both runtimes append to one log when they start a service again."""
    first, second = log("no-shared-memory"), log("eager")
    assert engine_step(second + first, START_LOG) is None
    assert engine_step(first + second, START_LOG) is Step.OPENING


def test_starts_of_one_log_are_told_apart() -> None:
    first, second, third = log("eager"), log("no-shared-memory"), log("compiled")
    both = first + second + third
    assert start_line(first) != start_line(third) == start_line(both)
    assert last_starts(both, 1).splitlines()[1:] == last_starts(third, 1).splitlines()[1:]
    assert "Insufficient space" in last_starts(both, 2)
    assert "Insufficient space" not in last_starts(both, 1)
    assert last_starts(both, 3) != last_starts(both, 4) == both
    assert start_line("no banner\n") is None


HANG = "No available shared memory broadcast block found in 60 seconds. This typically happens when"


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        # What vLLM 0.32.0 says once a minute, of a hang as of a long compilation.
        (
            f"INFO 11-21 03:45:14 [shm_broadcast.py:681] {HANG}",
            f"INFO 11-21 03:46:14 [shm_broadcast.py:681] {HANG}",
            False,
        ),
        ("waited 60 s, try 1", "waited 120 s, try 2", False),
        ("(Worker pid=9) INFO 11-21 03:45:14 [a.py:1] x", "(Worker pid=12) INFO 11-21 03:45:15 [a.py:1] x", False),
        (
            "Loading safetensors checkpoint shards:  12% Completed | 3/24",
            "Loading safetensors checkpoint shards:  17% Completed | 4/24",
            True,
        ),
        ("a", "a\nb", True),
        ("a\nb", "b\n\n \n", False),
    ],
)
def test_only_what_is_new_moves(before: str, after: str, new: bool) -> None:
    assert (not distinct_lines(after) <= distinct_lines(before)) is new


@settings(deadline=None)
@given(st.text(), st.integers(1, 4))
def test_any_text_is_a_log(text: str, count: int) -> None:
    assert text.endswith(last_starts(text, count))
    assert engine_step(text, START_LOG) in {None, *Step}
    assert distinct_lines(text) == distinct_lines(text + "\n" + text)


@pytest.mark.parametrize(
    ("lines", "model"),
    [
        ((), None),
        (("switch: loading a",), None),
        (("switch: loading a", "switch: a is loaded after 35.2 s", "INFO: something else"), "a"),
        (("switch: a is loaded after 35.2 s", "switch: a is unloaded after 1.0 s", "switch: loading b c"), None),
        (("switch: a is unloaded after 1.0 s", "switch: b c is loaded after 35.2 s"), "b c"),
        (("the words `switch: a is loaded after 1 s` in a prompt",), None),
    ],
)
def test_the_log_tells_which_model_is_loaded(lines: tuple[str, ...], model: str | None) -> None:
    assert loaded_model("\n".join(lines)) == model
