"""How the engine lays out keys, values and states, and how many tokens a pool holds. Pure.

Follows vLLM 0.32.0 v1/kv_cache_interface.py (page sizes, blocks of a request), v1/core/kv_cache_utils.py (groups, pool,
capacity) and platforms/interface.py (_align_hybrid_block_size).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import chain, repeat
from math import lcm

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import Layer, Mixer, Shape, State, StateKind
from stackwright.engines.memory.stages import stage_layers
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.runner import second_runner

BLOCK_TOKENS = 16
# NVFP4 packs two numbers in a byte and has one scale byte for 16 of them; per-token-head formats add one
# single-precision scale for each head's keys and one for its values (vLLM 0.32.0 v1/kv_cache_interface.py,
# KVQuantMode).
_NVFP4_BYTES = Fraction(9, 16)
_HEAD_SCALE_BYTES = 4
# The sparse indexer's cache: 128 numbers in FP8 and one single-precision scale (v1/attention/backends/mla/indexer.py).
_INDEXER_SCALE_BYTES = 4
# DeepSeek's own FP8 layout of a latent vector: 512 + 4 scales × 4 + 64 × 2 (kv_cache_interface.py, fp8_ds_mla). Sparse
# attention on Hopper has no other in FP8, that on data-centre Blackwell keeps a byte for each number from 0.18 on, and
# that on other Blackwell has no other at all (platforms/cuda.py, _get_backend_priorities;
# layers/attention/mla_attention.py, _canonicalize_sparse_mla_kv_cache_dtype).
_DS_LATENT, _DS_LATENT_BYTES = "fp8_ds_mla", 656
_PLAIN_FP8_MAJOR, _PACKED_MAJOR = 10, 12
# A latent model's manager block is a multiple of 128 where states share the pool; sparse attention works on 64.
_LATENT_HYBRID_BLOCK, _SPARSE_BLOCK = 128, 64
# Groups of unequal length are filled up to the longest where it is less than this many times the shortest.
_PADDING_LIMIT = 1.5


class Spec(Struct, frozen=True, kw_only=True):
    """What one layer keeps: `page_bytes` per block of `block_tokens`. `window` in tokens for windows and chunks."""

    mixer: Mixer
    page_bytes: int
    block_tokens: int
    window: int = 0


class KvCacheGroup(Struct, frozen=True, kw_only=True):
    """Layers that share one table of blocks; `stage_layers[i]` of them are on stage i."""

    spec: Spec
    stage_layers: tuple[int, ...]
    page_bytes: tuple[int, ...]


class KvCacheLayout(Struct, frozen=True, kw_only=True):
    """All groups of a model under given settings. `block_bytes[i]`: one block of the pool on stage i.

    `specs`: what the groups keep, each with the number of its equals.
    """

    groups: tuple[KvCacheGroup, ...]
    specs: tuple[tuple[Spec, int], ...]
    block_bytes: tuple[int, ...]
    in_flight_tokens: int
    states_per_request: int
    reserved_blocks: int

    def blocks_for(self, tokens: int) -> int:
        """Return the blocks that one request of `tokens` holds at most."""
        return sum([times * self._blocks(spec, tokens) for spec, times in self.specs])

    def _blocks(self, spec: Spec, tokens: int) -> int:
        if spec.mixer is Mixer.STATE:
            return self.states_per_request
        if spec.mixer is Mixer.SLIDING:
            return -(-min(spec.window - 1 + self.in_flight_tokens, tokens) // spec.block_tokens) + 1
        if spec.mixer is Mixer.CHUNKED:
            return -(-min(spec.window + self.in_flight_tokens, tokens) // spec.block_tokens)
        return -(-tokens // spec.block_tokens)

    def pool_blocks(self, kv_bytes: tuple[int, ...]) -> int:
        """Return the blocks of the smallest stage's pool. `kv_bytes`: what each stage has left for it."""
        counts = [max(room, 0) // size for room, size in zip(kv_bytes, self.block_bytes, strict=True) if size]
        return min(counts, default=0)

    def needed_bytes(self, tokens: int) -> tuple[int, ...]:
        """Return what one request of `tokens` needs on each stage."""
        blocks = self.blocks_for(tokens) + self.reserved_blocks
        return tuple(blocks * size for size in self.block_bytes)

    def running(self, blocks: int) -> int:
        """Return how many requests `blocks` let run at once at the most: each holds one block of every group."""
        return (blocks - self.reserved_blocks) // max(len(self.groups), 1)

    def longest(self, blocks: int, limit: int) -> int:
        """Return the greatest length up to `limit` that `blocks` can serve; 0 where not even one token."""
        room = blocks - self.reserved_blocks
        if limit < 1 or self.blocks_for(1) > room:
            return 0
        if self.blocks_for(limit) <= room:
            return limit
        low, high = 1, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.blocks_for(middle) <= room else (low, middle - 1)
        return low

    def logged_tokens(self, blocks: int, max_model_len: int, release: Release) -> int:
        """Return the figure that the engine prints as its cache size."""
        if not self.groups:
            return 0
        if release.tokens_by_concurrency:
            return int(blocks / self.blocks_for(max_model_len) * max_model_len)
        return blocks // len(self.groups) * min(group.spec.block_tokens for group in self.groups)

    @property
    def keeps_states(self) -> bool:
        """Return whether every running request needs a state block of its own."""
        return any(spec.mixer is Mixer.STATE for spec, _ in self.specs)


def cache_format_of(shape: Shape, asked: str, release: Release) -> str:
    """Return the format that the engine makes of what is asked for: of `auto` the checkpoint's own, if it has one."""
    return (release.reads_cache_format and shape.cache_format) or asked if asked == "auto" else asked


def format_of(shape: Shape, settings: EngineSettings, gpu: GpuMemory, release: Release) -> EngineSettings:
    """Return settings whose cache has the format that the attention backend of the GPU makes of theirs."""
    settings = replace(settings, kv_cache_dtype=cache_format_of(shape, settings.kv_cache_dtype, release))
    if shape.latent is None or not shape.latent.indexer_dim:
        return settings
    major = gpu.compute_capability[0] if gpu.compute_capability else 0
    packed = settings.kv_cache_dtype.startswith("fp8")
    if release.formats_by_backend:
        packed = major == _PACKED_MAJOR or (packed and major != _PLAIN_FP8_MAJOR)
    return replace(settings, kv_cache_dtype=_DS_LATENT) if packed else settings


def lay_out(
    shape: Shape, settings: EngineSettings, release: Release, max_num_batched_tokens: int, batches: int | None = None
) -> KvCacheLayout:
    """Return the groups of blocks of a model.

    Args:
        shape: the model.
        settings: parallel sizes, number format of the KV cache, block size, drafting, prefix caching.
        release: the engine's rules.
        max_num_batched_tokens: what one step takes; windows keep that much more.
        batches: steps that are under way at once, None: as many as the release overlaps.
    """
    apart = replace(
        settings, gpu_memory_utilization=None, max_model_len=None, max_num_seqs=None, max_num_batched_tokens=None
    )
    groups, specs, sizes = _lay_out_blocks(shape, apart, release)
    caching = release.hybrid_prefix_caching if settings.prefix_caching is None else settings.prefix_caching
    return KvCacheLayout(
        groups=groups,
        specs=specs,
        block_bytes=sizes,
        in_flight_tokens=max_num_batched_tokens * (batches or _overlapping_steps(shape, settings, release)),
        states_per_request=(2 if caching else 1) + settings.speculative_tokens,
        reserved_blocks=1 if release.reserves_null_block else 0,
    )


@lru_cache(maxsize=4096)
def _lay_out_blocks(
    shape: Shape, settings: EngineSettings, release: Release
) -> tuple[tuple[KvCacheGroup, ...], tuple[tuple[Spec, int], ...], tuple[int, ...]]:
    """Return the groups, what they keep, and the size of a block of the pool on each stage.

    Neither lengths nor batches change them.
    """
    stages = stage_layers(len(shape.layers), settings.pp)
    attending = [_spec(shape, layer, settings, release) for layer in shape.kinds]
    states = [_state_spec(shape, layer, settings) for layer in shape.kinds]
    aligned = _aligned(shape, [*attending, *states])
    specs = list(zip(aligned[: len(attending)], aligned[len(attending) :], strict=True))
    # Drafting layers are behind the model's own.
    stage_of = chain((stage for stage, layers in enumerate(stages) for _ in layers), repeat(len(stages) - 1))
    placed = [
        (spec, stage)
        for kind, stage in zip(_with_draft(shape, settings), stage_of, strict=False)
        for spec in specs[kind]
        if spec is not None and (spec.page_bytes or spec.mixer is Mixer.STATE)
    ]
    if settings.draft is not None:
        drafted = (_spec(settings.draft, layer, settings, release) for layer in settings.draft.layers)
        placed += [(spec, settings.pp - 1) for spec in drafted if spec is not None and spec.page_bytes]
    groups = _groups(placed, settings.pp, release)
    sizes = tuple(max((group.page_bytes[stage] for group in groups), default=0) for stage in range(settings.pp))
    return groups, tuple(Counter(group.spec for group in groups).items()), sizes


def _overlapping_steps(shape: Shape, settings: EngineSettings, release: Release) -> int:
    """Return how many steps' tokens a window keeps: config/vllm.py, max_concurrent_batches, asynchronous scheduling."""
    stages = settings.pp
    if not release.overlaps_steps:
        return 1
    return stages + 1 if stages == 1 or second_runner(shape, release) else stages


def _with_draft(shape: Shape, settings: EngineSettings) -> tuple[int, ...]:
    """Return each layer's kind, with the drafting layers: each attends to everything, as the last such layer does."""
    attending = [kind for kind in shape.kind_numbers if shape.kinds[kind].mixer in (Mixer.FULL, Mixer.LATENT)]
    if not settings.speculative_tokens or not shape.draft_layers or not attending:
        return shape.kind_numbers
    return (*shape.kind_numbers, *(attending[-1],) * shape.draft_layers)


def number_bytes(kv_cache_dtype: str, element_bytes: int) -> Fraction:
    """Return the bytes of one number of the cache: `auto` is the model's own format."""
    name = kv_cache_dtype.lower()
    if name.startswith("nvfp4"):
        return _NVFP4_BYTES
    if name.startswith("int4"):
        return Fraction(1, 2)
    if name.startswith(("fp8", "int8")):
        return Fraction(1)
    return Fraction(4) if name == "float32" else Fraction(element_bytes if name == "auto" else 2)


def _spec(shape: Shape, layer: Layer, settings: EngineSettings, release: Release) -> Spec | None:
    """Return what one layer keeps on one rank before pages are aligned."""
    block = settings.block_tokens or BLOCK_TOKENS
    if layer.mixer in (Mixer.NONE, Mixer.SHARED, Mixer.ENCODER, Mixer.STATE):
        return None
    size = number_bytes(settings.kv_cache_dtype, shape.element_bytes)
    if layer.mixer is Mixer.LATENT and shape.latent is not None and release.latent_cache:
        block = max(block, _SPARSE_BLOCK) if shape.latent.indexer_dim else block
        token = _latent_token_bytes(shape, layer, settings, size)
        return Spec(mixer=Mixer.LATENT, page_bytes=int(token * block), block_tokens=block)
    token = token_bytes(shape, layer, settings)
    # The first engine kept every token of a window unless all layers had the same one.
    mixer = Mixer.FULL if release.first_engine or layer.mixer is Mixer.LATENT else layer.mixer
    return Spec(mixer=mixer, page_bytes=int(token * block), block_tokens=block, window=layer.window)


def _state_spec(shape: Shape, layer: Layer, settings: EngineSettings) -> Spec | None:
    """Return what a layer's recurrent mixer keeps on one rank, whether it is the only one or beside attention."""
    if not layer.keeps_state:
        return None
    page = state_bytes(shape, shape.state, settings) if shape.state else 0
    return Spec(mixer=Mixer.STATE, page_bytes=page, block_tokens=settings.block_tokens or BLOCK_TOKENS)


def token_bytes(shape: Shape, layer: Layer, settings: EngineSettings) -> Fraction:
    """Return the bytes of one token's keys and values in one layer on one rank."""
    heads, width = max(1, layer.kv_heads // settings.tp), layer.head_dim + layer.value_dim
    if layer.mixer is Mixer.LATENT and shape.latent is not None:
        heads, width = (
            max(1, layer.heads // settings.tp),
            2 * (shape.latent.nope_dim + shape.latent.rope_dim),
        )
    scales = 2 * _HEAD_SCALE_BYTES if "per_token_head" in settings.kv_cache_dtype else 0
    shards = max(1, settings.decode_context_parallel)
    return heads * (width * number_bytes(settings.kv_cache_dtype, shape.element_bytes) + scales) / shards


def _latent_token_bytes(shape: Shape, layer: Layer, settings: EngineSettings, size: Fraction) -> Fraction:
    latent = shape.latent
    assert latent is not None
    token = (latent.kv_rank + latent.rope_dim) * size
    if settings.kv_cache_dtype == _DS_LATENT:
        token = Fraction(_DS_LATENT_BYTES)
    if latent.indexer_dim and layer.indexed:
        token += latent.indexer_dim + _INDEXER_SCALE_BYTES
    return token / max(1, settings.decode_context_parallel)


def state_bytes(shape: Shape, state: State, settings: EngineSettings) -> int:
    """Return the size of one request's state in one layer on one rank.

    vLLM 0.32.0 layers/mamba/mamba_utils.py, MambaStateShapeCalculator: a window of the convolution's inputs, longer by
    the drafted tokens, and the recurrent state.
    """
    tp, own = settings.tp, state.window_bytes or shape.element_bytes
    key, value = state.key_heads * state.key_dim, state.value_heads * state.value_dim
    rows = state.kernel - 1 + settings.speculative_tokens
    single = state.state_bytes or shape.element_bytes
    match state.kind:
        case StateKind.GATED_DELTA | StateKind.KIMI_DELTA:
            recurrent = state.value_heads // tp * state.value_dim * state.key_dim * single
            return (2 * key + value) // tp * rows * own + recurrent
        case StateKind.MAMBA2:
            groups = state.key_heads + (0 if state.key_heads % tp == 0 else tp - state.key_heads)
            wide = (value + 2 * groups * state.key_dim) // tp
            return wide * rows * own + state.value_heads // tp * state.value_dim * state.key_dim * single
        case StateKind.MAMBA1:
            return value // tp * (state.kernel - 1) * own + value // tp * state.key_dim * single
        case StateKind.SHORT_CONV:
            return shape.hidden // tp * rows * own
        case StateKind.LIGHTNING:
            return state.value_heads // tp * state.value_dim * state.value_dim * single


def _aligned(shape: Shape, specs: list[Spec | None]) -> list[Spec | None]:
    """Enlarge attention blocks until a page holds a state, and fill state pages up to it."""
    states = [spec.page_bytes for spec in specs if spec is not None and spec.mixer is Mixer.STATE]
    attending = [spec for spec in specs if spec is not None and spec.mixer is not Mixer.STATE]
    if not states or not attending or not max(states) or not attending[0].page_bytes:
        return specs
    block = attending[0].block_tokens
    token = Fraction(attending[0].page_bytes, block)
    step = max(block, _LATENT_HYBRID_BLOCK) if shape.latent else max(block, BLOCK_TOKENS)
    wanted = max(block, step * -(-max(states) // int(step * token)))
    wanted = -(-wanted // lcm(step, block)) * lcm(step, block)
    page = int(token * wanted)
    return [
        spec
        if spec is None
        else replace(spec, page_bytes=page, block_tokens=wanted)
        if spec.mixer is Mixer.STATE
        else replace(spec, page_bytes=int(Fraction(spec.page_bytes, spec.block_tokens) * wanted), block_tokens=wanted)
        for spec in specs
    ]


def _groups(placed: list[tuple[Spec, int]], stages: int, release: Release) -> tuple[KvCacheGroup, ...]:
    """Split the layers into groups of one kind each, as `get_kv_cache_groups` does."""
    kinds = {(spec.mixer, spec.window if spec.mixer is not Mixer.FULL else 0) for spec, _ in placed}
    if len(kinds) <= 1 or release.first_engine:
        return tuple(_one_group(placed, stages)) if placed else ()
    buckets: dict[Spec, list[int]] = {}
    for spec, stage in _unified(placed):
        buckets.setdefault(spec, []).append(stage)
    shortest, greatest = min(map(len, buckets.values())), max(map(len, buckets.values()))
    size = greatest if greatest < shortest * _PADDING_LIMIT else shortest
    return tuple(
        _group(spec, members[start :: -(-len(members) // size)], stages)
        for spec, members in buckets.items()
        for start in range(-(-len(members) // size))
    )


def _one_group(placed: list[tuple[Spec, int]], stages: int) -> Iterator[KvCacheGroup]:
    """One table of blocks for all layers; their pages may differ in size."""
    counts = tuple(sum(1 for _, at in placed if at == stage) for stage in range(stages))
    pages = tuple(sum(spec.page_bytes for spec, at in placed if at == stage) for stage in range(stages))
    yield KvCacheGroup(spec=placed[0][0], stage_layers=counts, page_bytes=pages)


def _group(spec: Spec, members: list[int], stages: int) -> KvCacheGroup:
    counts = tuple(members.count(stage) for stage in range(stages))
    return KvCacheGroup(spec=spec, stage_layers=counts, page_bytes=tuple(count * spec.page_bytes for count in counts))


def _unified(placed: list[tuple[Spec, int]]) -> Iterator[tuple[Spec, int]]:
    """Give all layers pages of one size: longer blocks where that divides, filling where it does not."""
    greatest = max(spec.page_bytes for spec, _ in placed)
    filled: dict[Spec, Spec] = {}
    for spec, stage in placed:
        if spec not in filled:
            divides = spec.mixer is not Mixer.STATE and greatest % spec.page_bytes == 0
            longer = greatest // spec.page_bytes if divides else 1
            filled[spec] = replace(spec, page_bytes=greatest, block_tokens=spec.block_tokens * longer)
        yield filled[spec], stage
