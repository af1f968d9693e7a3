"""Which widths tensor parallelism may cut how thin: a quantized matrix is split between its scales alone. Pure.

A row-parallel matrix is cut along its inputs, and each rank has to keep whole blocks or groups of those that share a
scale; a matrix with square blocks also along its outputs (0.33.0 layers/quantization/utils/fp8_utils.py,
validate_fp8_block_shape and validate_fp8_block_shape_moe; auto_awq.py, AWQLinearMethod.create_weights;
compressed_tensors_moe_wna16.py; read 2026-11-28).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from stackwright.domain.shape import Quantization, Shape, WeightKind
from stackwright.engines.memory.parts import Matrix, format_of, is_quantized, layer_matrices

# Experts of AWQ and GPTQ whose width is no multiple of a group fall back to kernels that halve it, down to this (0.33.0
# layers/quantization/moe_wna16.py, create_weights).
LEAST_EXPERT_GROUP = 32
_HALVED = frozenset({WeightKind.AWQ, WeightKind.GPTQ})
# From 0.29.0 on experts of the engine's own FP8 method take finer blocks, down to this (0.33.0
# layers/fused_moe/oracle/fp8.py, refine_fp8_moe_block_shape; other methods do not: compressed_tensors_moe_w8a8_fp8.py).
# Both numbers are held against catalog/formats.yaml by tests/engines/test_splits.py.
RECUT_METHOD, LEAST_RECUT_BLOCK = "fp8", 32
# MXFP4's experts are padded as each kernel needs it (fused_moe/oracle/mxfp4.py); the others are cut as they are.
_CUT_AS_THEY_ARE = frozenset(
    {WeightKind.AWQ, WeightKind.GPTQ, WeightKind.INT4, WeightKind.INT8, WeightKind.FP8, WeightKind.NVFP4}
)


class Width(Struct, frozen=True, kw_only=True):
    """One width that is split: `size` numbers, of which `block` share a scale; no rank has fewer than `least`.

    `expert`: of an expert, which expert parallelism leaves whole.
    """

    matrix: str
    size: int
    block: int
    least: int = 1
    expert: bool = False

    def share(self, ranks: int) -> int | None:
        """Return each rank's part; None where it is no whole number."""
        if self.size // ranks < self.least:
            return self.least
        return None if self.size % ranks else self.size // ranks

    def splits(self, ranks: int) -> bool:
        """Return whether each rank keeps whole blocks; a single one keeps everything."""
        share = self.share(ranks)
        return ranks == 1 or (share is not None and share % self.block == 0)

    def problem(self, ranks: int) -> str:
        """Return the arithmetic of a split that fails, in words."""
        share = self.share(ranks)
        part = f"{share} each" if share is not None else "no whole number each"
        return (
            f"{self.size} numbers of {self.matrix} over {ranks} ranks are {part}, not whole blocks of the {self.block} "
            "that share a scale"
        )


@lru_cache(maxsize=16)  # asked again for every forecast of a plan
def split_widths(shape: Shape, *, recut: bool = False) -> tuple[Width, ...]:
    """Return the widths of a model that tensor parallelism splits between scales; none where nothing shares one.

    `recut`: the engine cuts blocks of FP8 experts finer where a split needs it.
    """
    quantization = shape.quantization
    is_mixed = quantization.kind is WeightKind.MIXED
    if not is_mixed and (quantization.group <= 1 or quantization.kind not in _CUT_AS_THEY_ARE):
        return ()
    widths = (width for kind in shape.kinds for width in _of_layer(shape, shape.layers.index(kind), recut=recut))
    return tuple(dict.fromkeys(widths))


def _of_layer(shape: Shape, index: int, *, recut: bool) -> Iterator[Width]:
    quantization, layer = shape.quantization, shape.layers[index]
    for whole, part in zip(layer_matrices(shape, index, 1), layer_matrices(shape, index, 2), strict=True):
        own = format_of(quantization, whole)
        if not is_quantized(quantization, whole) or own.group <= 1 or own.kind not in _CUT_AS_THEY_ARE:
            continue
        if whole.columns != part.columns:
            block = _expert_block(shape, own, recut=recut) if whole.expert else own.group
            yield Width(matrix=_short(whole, index), size=whole.columns, block=block, expert=whole.expert)
        if own.kind is WeightKind.FP8 and "self_attn.qkv_proj" in _short(whole, index):
            size = layer.kv_heads * layer.head_dim
            yield Width(matrix="self_attn.k_proj", size=size, block=own.group, least=layer.head_dim)


def _expert_block(shape: Shape, quantization: Quantization, *, recut: bool) -> int:
    """Return what a split of experts has to keep whole: less than shares a scale where a kernel cuts that finer."""
    least = LEAST_EXPERT_GROUP if quantization.kind in _HALVED else quantization.group
    if recut and quantization.method == RECUT_METHOD and shape.hidden % LEAST_RECUT_BLOCK == 0:
        least = LEAST_RECUT_BLOCK
    return least if quantization.group % least == 0 else quantization.group


def _short(matrix: Matrix, index: int) -> str:
    return matrix.names[0].removeprefix(f"model.layers.{index}.")
