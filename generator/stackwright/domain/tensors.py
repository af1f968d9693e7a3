"""One tensor as a safetensors header tells it: name, number format and shape, without its data. Pure.

Number formats are safetensors' own words (`F32`, `BF16`, `F8_E4M3`, `I32`, `U8`, …). Their sizes:
huggingface/safetensors 0.8.0, safetensors/src/tensor.rs, Dtype::bitsize, read 2026-11-21.
"""

from __future__ import annotations

from math import prod

from msgspec import Struct

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


class TensorHeader(Struct, frozen=True, kw_only=True):
    """One tensor of a checkpoint. `dtype` is a key of `DTYPE_BITS`; `shape` is outermost first, empty for a scalar."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Count the stored elements; packed 4-bit weights count as the wider integers that hold them."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Return the size of the tensor's data in bytes."""
        return (self.elements * DTYPE_BITS[self.dtype] + 7) // 8


class WeightFacts(Struct, frozen=True, kw_only=True):
    """What is known of a checkpoint's weights: its safetensors headers, and its published size for want of them."""

    tensors: tuple[TensorHeader, ...] | None = None
    weight_bytes: int | None = None
