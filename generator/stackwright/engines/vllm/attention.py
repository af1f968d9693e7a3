"""Whether a release has a kernel for a model's attention on a GPU, for a number format of the KV cache. Pure.

catalog/attention.yaml has what the engine's own selector tries; it starts with none of them as `No valid attention
backend found` (vLLM 0.33.0 platforms/cuda.py, get_attn_backend_cls). Some architectures choose among kernels of their
own beside it (0.33.0 models/deepseek_v4/nvidia/model.py, _select_dsv4_attn_cls).
"""

from __future__ import annotations

from functools import lru_cache

from stackwright.domain.catalog import Catalog
from stackwright.domain.host import Gpu
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.shape import Mixer, Shape
from stackwright.engines.vllm.settings import KEYS
from stackwright.errors import NoPlanError
from stackwright.units import version_parts

AUTO = "auto"
# For sparse attention the engine reads `fp8` as DeepSeek's own layout (0.13.0 models/config.py).
_SPARSE_FP8 = "fp8_ds_mla"


@lru_cache(maxsize=4096)
def has_kernel(
    shape: Shape, version: str, capability: str | None, catalog: Catalog, cache_format: str = AUTO
) -> bool | None:
    """Return whether a release has a kernel; None where nobody read that release, or not for such a GPU."""
    if capability is None:
        return None
    sparse = _is_sparse(shape)
    rows = catalog.attention().on(version, capability, mla=shape.latent is not None, sparse=sparse)
    if rows is None:
        return None
    own = catalog.attention().of(version, shape.architecture)
    # What such an architecture makes of `auto` its own code decides.
    if own and not any(capability in row.capabilities and cache_format in (AUTO, *row.cache_formats) for row in own):
        return False
    also = _SPARSE_FP8 if sparse and cache_format.startswith("fp8") else cache_format
    sizes = [set(row.head_sizes) for row in rows if {cache_format, also} & set(row.cache_formats)]
    # Each layer looks for a kernel of its own size; an empty list takes any.
    return bool(sizes) and all(any(not taken or size in taken for taken in sizes) for size in _head_sizes(shape))


def _head_sizes(shape: Shape) -> frozenset[int]:
    """Return the sizes of a head that the model's layers ask kernels for: latent attention's is its cache's vector.

    vLLM 0.33.0 model_executor/layers/attention/mla_attention.py, MLAAttention: kv_lora_rank + qk_rope_head_dim.
    """
    if shape.latent is not None:
        return frozenset({shape.latent.kv_rank + shape.latent.rope_dim})
    keep = (Mixer.FULL, Mixer.SLIDING, Mixer.CHUNKED)
    return frozenset(layer.head_dim for layer in shape.kinds if layer.mixer in keep)


def check_attention(
    facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, cache_format: str = AUTO
) -> None:
    """Refuse a model for whose attention a release has no kernel on one of these GPUs.

    Raises:
        NoPlanError: the message names the GPU, and the compute capabilities that have one.
    """
    shape = facts.config.shape
    without = (
        gpu for gpu in gpus if has_kernel(shape, version, gpu.compute_capability, catalog, cache_format) is False
    )
    gpu = next(without, None)
    if gpu is None:
        return
    plain = cache_format != AUTO and has_kernel(shape, version, gpu.compute_capability, catalog)
    own = catalog.attention().of(version, shape.architecture)
    latent = shape.latent is not None or any(row.mla for row in own)
    sparse = _is_sparse(shape) or any(row.sparse for row in own)
    kind = " ".join(word for word, said in (("sparse", sparse), ("latent", latent)) if said) or "full"
    able = sorted(
        {
            capability
            for row in catalog.attention().backends
            for capability in row.capabilities
            if has_kernel(shape, version, capability, catalog, cache_format)
        },
        key=version_parts,
    )
    cache = f" with a KV cache in {cache_format}" if cache_format != AUTO else ""
    sizes = " and ".join(str(size) for size in sorted(_head_sizes(shape)))
    raise NoPlanError(
        f"{catalog.attention().engine} {version} has no kernel for the {kind} attention of {facts.name}{cache} on GPU "
        f"{gpu.index} ({gpu.name}, compute capability {gpu.compute_capability}); "
        + (f"compute capability {', '.join(able)} has one" if able else f"no GPU has one for heads of {sizes}"),
        hint=f"leave {KEYS.cache_format} out, for the model's own format"
        if plain
        else "use another model, or GPUs of such a compute capability",
    )


def _is_sparse(shape: Shape) -> bool:
    return shape.latent is not None and shape.latent.indexer_heads > 0
