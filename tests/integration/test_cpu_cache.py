"""The KV cache of vLLM's CPU engine on two ranks: what the real engine prints, beside the forecast.

The engine is the one that the processes runtime installs; it loads the smoke model, says its cache's size and ends.
What one rank prints is read in test_processes.py, where one serves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from stackwright.domain.forecast import EngineSettings
from stackwright.engines.vllm.engine import VLLM
from stackwright.engines.vllm.memory.cpu import CpuMemory, forecast_on_cpu
from stackwright.models.shape import parse_shape
from stackwright.models.smoke_model import write_smoke_model
from stackwright.runtime.provision import ensure
from stackwright.units import GIB

from tests.integration.quick_engine.layout import planned_engine

LENGTH = 2048
# The engine is there in half a minute; a machine that builds beside it takes longer.
START_S = 600
START = """
import json, sys
from vllm import LLM
LLM(**json.load(sys.stdin))
"""


def test_two_ranks_print_the_forecast_cache(state_folder: Path, tmp_path: Path) -> None:
    """Tokens and requests at once, of 1 GiB per rank: equal, not near."""
    model = tmp_path / "smoke"
    write_smoke_model(model)
    recipe = VLLM.recipe(planned_engine(), on_gpus=False)
    python = ensure(state_folder, recipe, lambda *_: None) / "bin" / "python"
    said = start_engine(python, model, tmp_path / "cache")
    assert read_cache(said) == forecast_cache(model, tensor_parallel=2, cache_bytes=GIB, length=LENGTH)


def forecast_cache(model: Path, *, tensor_parallel: int, cache_bytes: int, length: int) -> tuple[int, int, str]:
    """Return what an engine is forecast to print: tokens, the length of a request, and requests at once."""
    shape = parse_shape(json.loads((model / "config.json").read_text(encoding="utf-8")))
    settings = EngineSettings(version=planned_engine().version, tensor_parallel=tensor_parallel, max_model_len=length)
    memory = forecast_on_cpu(shape, settings, cache_bytes, CpuMemory(total_bytes=64 * GIB)).memory
    # The engine writes the requests at once with two decimals.
    return memory.kv_cache_tokens, length, f"{memory.max_concurrency:.2f}"


def start_engine(python: Path, model: Path, cache: Path) -> str:
    """Start the engine on two ranks with 1 GiB of cache and one core each; return what it printed until it ended."""
    arguments = {
        "model": str(model),
        "tensor_parallel_size": 2,
        "max_model_len": LENGTH,
        "enforce_eager": True,
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "0|1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # A session of its own: a start that hangs leaves no worker behind.
    with subprocess.Popen(
        [python, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(json.dumps(arguments), timeout=START_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, said[-4000:]
    return said


def read_cache(said: str) -> tuple[int | None, int | None, str]:
    """Return the tokens, the length of a request and the requests at once that the engine printed."""
    start = VLLM.read_start(said)
    assert start, said[-4000:]
    measured = start.measured
    return measured.kv_cache_tokens, start.settings.max_model_len, f"{measured.max_concurrency:.2f}"
