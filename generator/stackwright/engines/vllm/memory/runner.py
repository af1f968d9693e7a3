"""Which of the engine's two model runners a model is given. Pure."""

from __future__ import annotations

from functools import lru_cache

from stackwright.domain.shape import Shape, WeightKind
from stackwright.engines.vllm.memory.releases import Release


@lru_cache(maxsize=4096)
def second_runner(shape: Shape, release: Release) -> bool:
    """Return whether Model Runner V2 runs the model."""
    return release.second_runner(
        shape.architecture,
        experts=shape.experts is not None,
        states=shape.has_state,
        quantized=shape.quantization.kind is not WeightKind.NONE,
    )
