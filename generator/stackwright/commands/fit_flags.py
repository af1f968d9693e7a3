"""The flags of `stackwright fit`, which have vLLM's own names where vLLM has them. Touches nothing but argv."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from stackwright.errors import UsageError

ENGINES = ("vllm",)
_CACHE_FORMATS = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4", "int8_per_token_head")


@dataclass(frozen=True, kw_only=True)
class FitArguments:
    """What `fit` is asked. None: the engine's own default, or as many GPUs as the host has need of."""

    model: str
    host: Path | None = None
    engine: str | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str = "auto"
    enforce_eager: bool = False
    json: bool = False


def add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `fit`. They have vLLM's own names where vLLM has them."""
    parser.add_argument("--model", metavar="NAME", required=True, help="Hugging Face id, folder, or catalog name")
    parser.add_argument("--host", metavar="FILE", type=Path, help="forecast for this snapshot instead of this machine")
    parser.add_argument("--engine", metavar="NAME[==VERSION]", help="for example vllm==0.32.0 (default: the newest)")
    _add_count(parser, "--tensor-parallel", "GPUs that share each layer (default: 1)")
    _add_count(parser, "--pipeline-parallel", "groups of GPUs that share the layers (default: 1)")
    parser.add_argument(
        "--gpu-memory-utilization", metavar="SHARE", type=_share, help="of each GPU (default: the engine's)"
    )
    _add_count(parser, "--max-model-len", "tokens of one request (default: the model's)")
    _add_count(parser, "--max-num-seqs", "requests at once (default: the engine's)")
    _add_count(parser, "--max-num-batched-tokens", "tokens of one step (default: the engine's)")
    parser.add_argument("--kv-cache-dtype", choices=_CACHE_FORMATS, default="auto", help="number format of the cache")
    parser.add_argument("--enforce-eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _add_count(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    parser.add_argument(flag, type=_positive, metavar="N", help=text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**9:
        raise UsageError(f"found `{text[:40]}`, allowed: a whole number from 1 on")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--gpu-memory-utilization: found `{text[:40]}`, allowed: more than 0, at most 1")
    return share
