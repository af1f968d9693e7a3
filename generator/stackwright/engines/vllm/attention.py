"""Whether a release has a kernel for a model's attention on a GPU, for a number format of the KV cache. Pure.

catalog/attention.yaml has what the engine's own selector tries; it starts with none of them as `No valid attention
backend found` (vLLM 0.33.0 platforms/cuda.py, get_attn_backend_cls). Some architectures choose among kernels of their
own beside it (0.33.0 models/deepseek_v4/nvidia/model.py, _select_dsv4_attn_cls). What a kernel's own code refuses after
it was chosen stands there as `limits`.
"""

from __future__ import annotations

from functools import lru_cache

from stackwright.domain.catalog import AttentionCall, Catalog
from stackwright.domain.host import Gpu
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.shape import Mixer, Shape
from stackwright.engines.vllm.memory.kv_cache import cache_format_of
from stackwright.engines.vllm.memory.releases import rules_of
from stackwright.engines.vllm.settings import KEYS
from stackwright.errors import NoPlanError
from stackwright.units import version_parts

AUTO = "auto"
SMALLER_CACHE = "fp8"
# What the engine takes in place of a checkpoint's own format (vLLM 0.32.0 v1/attention/backends/triton_attn.py,
# TritonAttentionImpl: its refusal names them).
_PLAIN_FORMATS = ("bfloat16", "float16")
# For sparse attention the engine reads `fp8` as DeepSeek's own layout (0.13.0 models/config.py).
_SPARSE_FP8 = "fp8_ds_mla"


@lru_cache(maxsize=4096)
def has_kernel(
    shape: Shape,
    version: str,
    capability: str | None,
    catalog: Catalog,
    cache_format: str = AUTO,
    of: str | None = None,
) -> bool | None:
    """Return whether a release has a kernel, `of` this backend where one is named.

    None where nobody read that release, or not for such a GPU.
    """
    if capability is None:
        return None
    table, sparse = catalog.attention(), _is_sparse(shape)
    rows = table.on(version, capability, mla=shape.latent is not None, sparse=sparse)
    if rows is None:
        return None
    cache_format = cache_format_of(shape, cache_format, rules_of(version))
    own = table.of(version, shape.architecture)
    packed = (sparse or any(row.sparse for row in own)) and cache_format.startswith("fp8")
    taken = {cache_format, _SPARSE_FP8 if packed else cache_format}
    # What such an architecture makes of `auto` its own code decides.
    if own and not any(capability in row.capabilities and taken & {AUTO, *row.cache_formats} for row in own):
        return False
    able = [row for row in rows if taken & set(row.cache_formats) and of in (None, row.name)]
    # Each layer looks for a kernel of its own size; an empty list takes any.
    calls = [
        AttentionCall(
            version=version,
            capability=capability,
            cache_format=cache_format,
            head=size,
            architecture=shape.architecture,
            traits=_traits(shape),
        )
        for size in _head_sizes(shape)
    ]
    return bool(able) and all(
        any((not row.head_sizes or call.head in row.head_sizes) and not table.stops(row.name, call) for row in able)
        for call in calls
    )


def cache_formats(shape: Shape, version: str, gpus: tuple[Gpu, ...], catalog: Catalog) -> tuple[str, ...]:
    """Return the formats of the cache that may be chosen: `auto`, and `fp8` where it surely has a kernel.

    Where a checkpoint's own format has no kernel, a plain one that has stands in for `auto`.
    """
    capabilities = dict.fromkeys(gpu.compute_capability for gpu in gpus)

    def answers(cache_format: str) -> list[bool | None]:
        return [has_kernel(shape, version, one, catalog, cache_format) for one in capabilities]

    def has(cache_format: str) -> bool:
        return bool(gpus) and all(answers(cache_format))

    if cache_format_of(shape, AUTO, rules_of(version)) == AUTO:
        return (AUTO, SMALLER_CACHE) if has(SMALLER_CACHE) else (AUTO,)
    plain = next(filter(has, _PLAIN_FORMATS), None)
    return (plain,) if plain is not None and False in answers(AUTO) else (AUTO,)


def compiles_attention(shape: Shape, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, cache_format: str) -> bool:
    """Return whether FlashInfer's kernels are the first for a model on one of these GPUs.

    Its wheel compiles them when they are first used, which the images have done before (0.33.0 utils/flashinfer.py,
    has_flashinfer). They are first on compute capability 10, and elsewhere next to FlashAttention (0.33.0
    platforms/cuda.py, _get_backend_priorities).
    """

    def comes_first(capability: str | None) -> bool:
        def takes(name: str) -> bool:
            return has_kernel(shape, version, capability, catalog, cache_format, of=name) is True

        if shape.latent is not None:
            return takes("FLASHINFER_MLA")
        if shape.is_encoder or not _head_sizes(shape):
            return False
        return takes("FLASHINFER") and ((capability or "").startswith("10.") or not takes("FLASH_ATTN"))

    return any(comes_first(gpu.compute_capability) for gpu in gpus)


def _traits(shape: Shape) -> frozenset[str]:
    """Return the words of the table's limits for what a model is."""
    mixed = len(_head_sizes(shape)) > 1
    # What takes a whole picture in one step looks both ways in it.
    whole = shape.vision is not None and shape.least_step_tokens > 0
    return frozenset(word for word, said in (("mixed-heads", mixed), ("whole-pictures", whole)) if said)


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
    own = catalog.attention().of(version, shape.architecture)
    latent = shape.latent is not None or any(row.mla for row in own)
    sparse = _is_sparse(shape) or any(row.sparse for row in own)
    kind = " ".join(word for word, said in (("sparse", sparse), ("latent", latent)) if said) or "full"
    named = {capability for row in catalog.attention().backends for capability in row.capabilities}
    able = [one for one in named if has_kernel(shape, version, one, catalog, cache_format)]
    kept = cache_format_of(shape, cache_format, rules_of(version))
    cache = f" with a KV cache in {kept}" if kept != AUTO else ""
    sizes = " and ".join(str(size) for size in sorted(_head_sizes(shape)))
    raise NoPlanError(
        f"{catalog.attention().engine} {version} has no kernel for the {kind} attention of {facts.name}{cache} on GPU "
        f"{gpu.index} ({gpu.name}, compute capability {gpu.compute_capability}); "
        + (
            f"compute capability {', '.join(sorted(able, key=version_parts))} has one"
            if able
            else f"no GPU has one for heads of {sizes}"
        ),
        hint=_way_out(facts.config.shape, version, gpu, catalog),
    )


def _way_out(shape: Shape, version: str, gpu: Gpu, catalog: Catalog) -> str:
    """Return the hint to a format of the cache that has a kernel, or to what else may be changed where none has."""
    formats = (AUTO, *_PLAIN_FORMATS)
    able = next((one for one in formats if has_kernel(shape, version, gpu.compute_capability, catalog, one)), None)
    if able is None:
        return "use another model, or GPUs of such a compute capability"
    if able == AUTO:
        return f"leave {KEYS.cache_format} out, for the model's own format"
    return f"set {KEYS.cache_format} to {able}"


def _is_sparse(shape: Shape) -> bool:
    return shape.latent is not None and shape.latent.indexer_heads > 0
