"""Refuse weights that a processor's kernels do not compute with. Pure.

On x86_64 a release brings one library of kernels for AVX2 and others for AVX-512. What the first one lacks is missed
only when a layer first computes (vllm-project/vllm#55613; its mend, #55824, was open on 2026-11-30).
"""

from __future__ import annotations

from typing import NamedTuple

from stackwright.domain.catalog import Catalog, order_release
from stackwright.domain.host import Cpu
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.shape import Quantization, WeightKind
from stackwright.engines.vllm.image_candidates import X86_64, processor_of
from stackwright.errors import NoPlanError
from stackwright.models.format import PLAIN

# `cpu_gemm_wna16` is registered in _C_AVX512.abi3.so, not in _C_AVX2.abi3.so (0.32.0; csrc/cpu/torch_bindings.cpp asks
# for __AVX512F__), and on x86_64 no other kernel takes 4-bit integers (model_executor/kernels/linear/__init__.py:543).
# The release is the first with the method `cpu_awq` (catalog/formats.yaml). Read 2026-11-30.
_INTEGER_KINDS = frozenset({WeightKind.AWQ, WeightKind.GPTQ, WeightKind.INT4})
_INTEGER_BITS = 4
_INTEGER_RELEASE = "0.12.0"
# Both kernels for blocks ask for AMX (0.32.0 model_executor/kernels/linear/__init__.py:495, scaled_mm/cpu.py:241 and
# 453), and no processor but those of x86_64 has it. Read 2026-11-30.
_BLOCK_RELEASE = "0.32.0"
_PLAIN = frozenset(PLAIN.values())


def check_processor(facts: ModelFacts, version: str, cpu: Cpu, catalog: Catalog) -> None:
    """Refuse weights whose only kernels in a release need instructions that the processor does not have.

    Raises:
        NoPlanError: the hint names the unquantized copy of the model, where the catalog has one.
    """
    need = _need_of(facts.config.shape.quantization, version)
    if need is None or not cpu.flags or need.flag in cpu.flags:
        return
    if need.x86_64_alone and processor_of(cpu, ()) != X86_64:
        return
    copy = _plain_copy(facts, catalog)
    raise NoPlanError(
        f"{catalog.formats().engine} {version} computes with {need.weights} such as those of {facts.name} by "
        f"{need.instructions} alone, which the processor ({cpu.model or 'of unknown model'}) does not have",
        hint=f"use the unquantized copy: `--model {copy}`" if copy else "name the unquantized copy of the model",
    )


class _Need(NamedTuple):
    """What weights need of a processor: the instructions and their flag. `x86_64_alone`: others have other kernels."""

    weights: str
    instructions: str
    flag: str
    x86_64_alone: bool


_INTEGERS = _Need("4-bit integer weights", "AVX-512", "avx512f", True)
_BLOCKS = _Need("FP8 weights in blocks", "AMX", "amx_tile", False)


def _need_of(quantization: Quantization, version: str) -> _Need | None:
    """Return what weights need; None where they need nothing, or nobody knows."""
    release = order_release(version)
    if quantization.kind in _INTEGER_KINDS and quantization.bits == _INTEGER_BITS:
        return _INTEGERS if release >= order_release(_INTEGER_RELEASE) else None
    if quantization.kind is WeightKind.FP8 and quantization.group:
        return _BLOCKS if release >= order_release(_BLOCK_RELEASE) else None
    return None


def _plain_copy(facts: ModelFacts, catalog: Catalog) -> str | None:
    """Return the hub id of the catalog's unquantized copy of a model; None where it has none."""
    for row in catalog.llms():
        if any(checkpoint.hub_id == facts.location for checkpoint in row.checkpoints):
            return next((checkpoint.hub_id for checkpoint in row.checkpoints if checkpoint.format in _PLAIN), None)
    return None
