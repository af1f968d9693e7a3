"""The settings that decide on vLLM's memory: each with its declaration and the fields of EngineSettings that it fills.

`fit` takes each as a flag, a plan as a pin, and a log's arguments are read by the same rows. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from stackwright.domain.arguments import key_of_flag
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines.protocol import MemorySetting
from stackwright.engines.vllm.settings import ARGUMENT_PREFIX, ENCODER_SPLIT, EXPERT_PARALLEL, SETTINGS, WHOLE_ENCODER
from stackwright.units import GIB

_SPECS = {spec.key: spec for spec in SETTINGS}
# Of one server with several copies the plan makes replicas: `fit` takes them, no plan does.
_DATA_PARALLEL = whole_number(
    "", "Engine", (1, 1024), "Data parallel size: copies of all but the experts", flag="--data-parallel-size"
)
_CAPTURE_SIZES = SettingSpec(
    key=key_of_flag("--cudagraph-capture-sizes", ARGUMENT_PREFIX),
    section="Engine",
    kind=Kind.TEXT,
    meaning="Batch sizes that CUDA graphs are captured for, such as 1,2,4,8",
    flag="--cudagraph-capture-sizes",
)


def _whole(field: str) -> Callable[[str], Mapping[str, Any]]:
    return lambda text: {field: int(text)} if text != "auto" else {}


def _word(field: str) -> Callable[[str], Mapping[str, Any]]:
    return lambda text: {field: text}


def _switch(field: str) -> Callable[[str], Mapping[str, Any]]:
    return lambda text: {field: text == "true"}


def _sizes(text: str) -> Mapping[str, Any]:
    words = text.strip("[]").replace(",", " ").split()
    return {"capture_sizes": tuple(sorted(int(word) for word in words))} if all(map(str.isdecimal, words)) else {}


def _speculative(text: str) -> Mapping[str, Any]:
    told = json.loads(text)
    tokens, method, model = (told.get(name) for name in ("num_speculative_tokens", "method", "model"))
    return {
        # One token is the least that a drafter makes where nobody says how many (config/speculative.py).
        "speculative_tokens": tokens if isinstance(tokens, int) and tokens > 0 else 1,
        "speculative_method": method if isinstance(method, str) else None,
        "draft_model": model if isinstance(model, str) else None,
    }


def _media(text: str) -> Mapping[str, Any]:
    limits = {
        kind: limit.get("count", 1) if isinstance(limit, dict) else limit for kind, limit in json.loads(text).items()
    }
    return {"media_limits": tuple(sorted((kind, limit) for kind, limit in limits.items() if isinstance(limit, int)))}


def _row(
    key: str, read: Callable[[str], Mapping[str, Any]], option: str | None = None, spec: SettingSpec | None = None
) -> MemorySetting:
    return MemorySetting(spec=spec or _SPECS[key], read=read, option=option)


MEMORY_SETTINGS: tuple[MemorySetting, ...] = (
    _row("VLLM_TENSOR_PARALLEL_SIZE", _whole("tensor_parallel"), "--tensor-parallel"),
    _row("VLLM_PIPELINE_PARALLEL_SIZE", _whole("pipeline_parallel"), "--pipeline-parallel"),
    _row("", _whole("data_parallel"), spec=_DATA_PARALLEL),
    _row("VLLM_DECODE_CONTEXT_PARALLEL_SIZE", _whole("decode_context_parallel")),
    _row(EXPERT_PARALLEL, _switch("expert_parallel")),
    _row("VLLM_GPU_MEMORY_UTILIZATION", lambda text: {"gpu_memory_utilization": float(text)}),
    _row("VLLM_KV_CACHE_MEMORY_BYTES", _whole("kv_cache_bytes")),
    _row("VLLM_MAX_MODEL_LEN", _whole("max_model_len")),
    _row("VLLM_MAX_NUM_SEQS", _whole("max_num_seqs")),
    _row("VLLM_MAX_NUM_BATCHED_TOKENS", _whole("max_num_batched_tokens")),
    _row("VLLM_DTYPE", _word("dtype")),
    _row("VLLM_QUANTIZATION", _word("quantization")),
    _row("VLLM_KV_CACHE_DTYPE", _word("kv_cache_dtype")),
    _row("VLLM_BLOCK_SIZE", _whole("block_tokens")),
    _row("VLLM_ENABLE_PREFIX_CACHING", _switch("prefix_caching")),
    _row("VLLM_MAMBA_CACHE_DTYPE", _word("state_dtype")),
    _row("VLLM_MAMBA_SSM_CACHE_DTYPE", _word("recurrent_dtype")),
    _row("VLLM_ENFORCE_EAGER", _switch("enforce_eager")),
    _row("", _sizes, spec=_CAPTURE_SIZES),
    _row("VLLM_MAX_CUDAGRAPH_CAPTURE_SIZE", _whole("max_capture_size")),
    _row("VLLM_SPECULATIVE_CONFIG", _speculative),
    _row("VLLM_ENABLE_LORA", _switch("lora")),
    _row("VLLM_MAX_LORAS", _whole("lora_slots")),
    _row("VLLM_MAX_LORA_RANK", _whole("lora_rank")),
    _row("VLLM_LANGUAGE_MODEL_ONLY", _switch("language_only")),
    _row(ENCODER_SPLIT, lambda text: {"whole_encoder": text == WHOLE_ENCODER}),
    _row("VLLM_LIMIT_MM_PER_PROMPT", _media),
    _row("VLLM_CPU_OFFLOAD_GB", lambda text: {"offload_bytes": int(float(text) * GIB)}),
)
