"""What vLLM's log says of one start: its release, model and flags, and what memory it took. Pure.

The lines of releases 0.7 to 0.33 (v1/worker/gpu_worker.py, gpu_model_runner.py, cpu_worker.py; v1/core/
kv_cache_utils.py; worker/worker.py and executor/executor_base.py of the first engine; entrypoints, `non-default args`),
read 2026-11-29 in 0.7.3, 0.8.5, 0.9.2, 0.11.0, 0.17.0, 0.20.0, 0.29.0 and 0.33.0.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from stackwright.domain.forecast import CAME_UP, EngineSettings, Measured, ObservedStart
from stackwright.engines.protocol import fields_of
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.units import GIB

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# More characters than any start writes; what follows are requests.
_LONGEST_START = 4 * 2**20
# Where a start begins in a log that holds several; releases without a banner begin with their arguments.
_BEGINNINGS = (
    re.compile(r"█  version [0-9]"),
    re.compile(r"vLLM API server version [0-9]"),
    re.compile(r"non-default args: \{|[ \]]args: Namespace\("),
    re.compile(r"Initializing an? (?:V[01] )?LLM engine \(v"),
)
_RELEASE = re.compile(r"(?:█  version |API server version |LLM engine \(v)(\d+\.\d+(?:\.\d+)?(?:\.?[a-z]+\d+)*)")
_ARGUMENTS = re.compile(r"non-default args: \{(.*)\}|[ \]]args: Namespace\((.*)\)")
_CONFIG = re.compile(r"LLM engine \(v[^)]*\) with config: (.*)")
_LITERAL = r"('[^']*'|\"[^\"]*\"|True|False|None|-?[\d.]+(?:e[+-]?\d+)?|\[[^\]]*\]|\{[^{}]*\})"
# `'name': value` of a dictionary, `name=value` of a Namespace and of the engine's configuration.
_ASSIGNED = re.compile(rf"(?<![\w'])'?(\w+)'?(?:: |=){_LITERAL}(?=[,)}} ]|$)")
_BARE = re.compile(r"(?:^|, )(\w+)=([\w.]+)(?=,|$)")

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_GIB = rf"{_NUMBER} ?Gi?B"
_WEIGHTS = re.compile(rf"[Mm]odel (?:loading|weights) took {_GIB}|model weights take {_GIB}")
_POOL = re.compile(
    rf"Available KV cache memory: {_GIB}|the rest of the memory reserved for KV Cache is {_GIB}"
    rf"|reserved {_GIB} memory for KV Cache|Explicitly set \({_NUMBER}/[\d.]+\) GiB for KV cache"
)
_TOKENS = re.compile(r"KV cache size: ([\d,]+) tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for ([\d,]+) tokens per request: {_NUMBER}x")
_BLOCKS = re.compile(r"(?<!, )# \w+ blocks: (\d+)")
_GRAPHS = re.compile(rf"Graph capturing finished in .*? took {_GIB}")
_ESTIMATE = re.compile(rf"Estimated CUDA graph memory: {_GIB} total")
# The same as shares of the GPU, with four decimals, where a runner does not print it.
_ESTIMATED_SHARE = re.compile(rf"gpu-memory-utilization={_NUMBER} is equivalent to --gpu-memory-utilization={_NUMBER}")
_ACTIVATION = re.compile(rf"{_GIB} for peak activation|activation peak memory takes {_GIB}")
_OUTSIDE = re.compile(rf"{_GIB} for non-torch memory|non_torch_memory takes {_GIB}")
_CONSUMED = re.compile(rf"Actual usage is {_GIB} for consumed memory")
_BUDGET = re.compile(
    rf"[Dd]esired GPU memory utilization (?:is )?\([\d.]+, {_GIB}\)|gpu_memory_utilization \([\d.]+\) = {_GIB}"
)
_FREE = re.compile(rf"Free memory on device[^(\n]*\({_NUMBER}/{_NUMBER} GiB\) on startup")
_TOTAL = re.compile(rf"total_gpu_memory \({_GIB}\)")
_LENGTH = re.compile(r"Using max model len (\d+)|max_seq_len=(\d+)")
_STEP = re.compile(r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)")
# `Compiling a graph` and what is saved of it are lines of a first start; the other kind loads what one had saved.
_COLD = re.compile(r"Compiling a graph for|Cache the graph|saved AOT compiled function")
_WARM = re.compile(r"Directly load the compiled graph|Directly load AOT compilation")
_PROCESSOR = re.compile(r"device_config=cpu|\[cpu_worker\.py:|CPU KV cache size")
# Why a start ended, in the words of benchmarks/cases/.
_OUTCOMES = (
    ("startup-free-memory-check", re.compile(r"on startup is less than")),
    ("no-kv-memory", re.compile(r"No available memory for the cache blocks")),
    ("kv-too-small", re.compile(r"larger than the available KV cache memory|larger than the maximum number of tokens")),
    ("mamba-blocks-lt-max-num-seqs", re.compile(r"exceeds (?:the )?available Mamba cache blocks")),
    ("oom", re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory")),
)
_CAME_UP = re.compile(r"Application startup complete|init engine \(profile, create kv cache, warmup model\) took")
_SHOWN = frozenset(setting.name for setting in MEMORY_SETTINGS)


def read_start(log: str) -> ObservedStart | None:
    """Return what the last start in a log shows; None where the log has no start of vLLM."""
    start = _last_start(_ESCAPES.sub("", log))
    release, config = _RELEASE.search(start), _CONFIG.search(start)
    if not start:
        return None
    given = _arguments(start)
    words = {**_values(config[1] if config else ""), **given}
    model = words.get("model_tag") or words.get("model")
    on_processor = _PROCESSOR.search(start) is not None
    measured = _measured(start)
    return ObservedStart(
        engine="vllm",
        model=str(model) if isinstance(model, str) else None,
        settings=_settings(words, start, release[1] if release else None, measured, on_processor=on_processor),
        measured=measured,
        outcome=_outcome(start),
        on_processor=on_processor,
        cold=True if _COLD.search(start) else False if _WARM.search(start) else None,
        # Old releases print every argument, with what nobody gave as None or False.
        flags=tuple(
            (name, _text(value)) for name, value in given.items() if name in _SHOWN and value not in (None, False)
        ),
    )


def _last_start(log: str) -> str:
    for beginning in _BEGINNINGS:
        marks = [found.start() for found in beginning.finditer(log)]
        if marks:
            begins = log.rfind("\n", 0, marks[-1]) + 1
            return log[begins : begins + _LONGEST_START]
    return ""


def _arguments(start: str) -> dict[str, object]:
    """Return the arguments that the server was given, or of old releases all that it has."""
    found = _ARGUMENTS.search(start)
    return _values(found[1] or found[2] or "") if found else {}


def _values(text: str) -> dict[str, object]:
    """Read the plain values of a written dictionary or record; what is none, such as an object, is left out."""
    values: dict[str, object] = dict(_BARE.findall(text))
    for name, literal in _ASSIGNED.findall(text):
        try:
            values[name] = ast.literal_eval(literal)
        except (ValueError, SyntaxError):
            continue
    return values


def _settings(
    words: Mapping[str, object], start: str, release: str | None, measured: Measured, *, on_processor: bool
) -> EngineSettings:
    named = {name: _text(value) for name, value in words.items() if value not in (None, {}, [], ())}
    lengths = [int(_first(found)) for found in _LENGTH.finditer(start)]
    concurrency, step = _CONCURRENCY.search(start), _STEP.search(start)
    if step:
        named.setdefault("max_num_batched_tokens", step[1])
    if on_processor and measured.kv_cache_bytes is not None:
        # VLLM_CPU_KVCACHE_SPACE is a variable, so the log shows it as what was set aside alone.
        named.setdefault("kv_cache_memory_bytes", str(measured.kv_cache_bytes))
    length = int(concurrency[1].replace(",", "")) if concurrency else lengths[-1] if lengths else None
    settings = EngineSettings(**fields_of(MEMORY_SETTINGS, named))
    return replace(settings, version=release, max_model_len=length, legacy_engine="a V0 LLM engine" in start)


def _text(value: object) -> str:
    """Write a value as a command line has it."""
    if isinstance(value, dict):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value).removeprefix("torch.")


def _measured(start: str) -> Measured:
    weights, consumed = _most(_WEIGHTS, start), _most(_CONSUMED, start)
    outside, activation = _most(_OUTSIDE, start), _most(_ACTIVATION, start)
    free, concurrency = _FREE.search(start), _CONCURRENCY.search(start)
    total = round(float(free[2]) * GIB) if free else _most(_TOTAL, start)
    estimate, share = _most(_ESTIMATE, start), _ESTIMATED_SHARE.search(start)
    if estimate is None and share and total is not None:
        estimate = max(0, round((float(share[1]) - float(share[2])) * total))
    if consumed is not None:
        if weights is not None:
            outside = max(0, consumed - weights)
        if activation is not None and estimate is not None:
            # From the release that prints both, the peak holds the estimate (0.29.0 v1/worker/gpu_worker.py).
            activation = max(0, activation - estimate)
    pools = list(_sizes(_POOL, start))
    return Measured(
        weights_bytes=weights,
        activation_bytes=activation,
        overhead_bytes=outside,
        cuda_graph_bytes=_most(_GRAPHS, start),
        graph_estimate_bytes=estimate,
        kv_cache_bytes=min(pools, default=None),
        kv_cache_tokens=_count(_TOKENS, start),
        blocks=_count(_BLOCKS, start),
        max_concurrency=float(concurrency[2]) if concurrency else None,
        budget_bytes=_most(_BUDGET, start),
        total_bytes=total,
        free_bytes=round(float(free[1]) * GIB) if free else None,
    )


def _outcome(start: str) -> str:
    if _CAME_UP.search(start):
        return CAME_UP
    return next((name for name, shape in _OUTCOMES if shape.search(start)), "unknown")


def _sizes(shape: re.Pattern[str], text: str) -> Iterable[int]:
    """Yield what every rank prints of one thing."""
    return (round(float(_first(found)) * GIB) for found in shape.finditer(text))


def _most(shape: re.Pattern[str], text: str) -> int | None:
    return max(_sizes(shape, text), default=None)


def _count(shape: re.Pattern[str], text: str) -> int | None:
    return min((int(_first(found).replace(",", "")) for found in shape.finditer(text)), default=None)


def _first(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)
