"""The shape of a model, as the memory planner counts with it: one value per fact of `config.json`. Pure.

Sizes are numbers of elements unless a name says bytes. `stackwright.models.shape.parse_shape` fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property

from msgspec import Struct, field


class Mixer(StrEnum):
    """How one layer mixes tokens, and so what it keeps per request.

    `full`: keys and values of every token. `sliding` and `chunked`: of a window. `latent`: one compressed vector per
    token (MLA). `state`: a state of fixed size (Mamba, gated delta net, short convolution). `shared`: it reads another
    layer's keys and values. `encoder`: it sees a whole text at once and keeps nothing. `none`: no mixer at all.
    """

    FULL = "full"
    SLIDING = "sliding"
    CHUNKED = "chunked"
    LATENT = "latent"
    STATE = "state"
    SHARED = "shared"
    ENCODER = "encoder"
    NONE = "none"


class StateKind(StrEnum):
    """Recurrent mixers that differ in their state and their weights."""

    GATED_DELTA = "gated-delta"
    KIMI_DELTA = "kimi-delta"
    MAMBA1 = "mamba1"
    MAMBA2 = "mamba2"
    SHORT_CONV = "short-conv"
    LIGHTNING = "lightning"


class WeightKind(StrEnum):
    """How a quantized linear layer lies in memory; `none` is the model's own number format."""

    NONE = "none"
    AWQ = "awq"
    GPTQ = "gptq"
    INT4 = "int4"
    INT8 = "int8"
    FP8 = "fp8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    MXFP8 = "mxfp8"
    MIXED = "mixed"
    BITSANDBYTES4 = "bitsandbytes4"
    BITSANDBYTES8 = "bitsandbytes8"
    GGUF = "gguf"
    UNKNOWN = "unknown"


class Quantization(Struct, frozen=True, kw_only=True, dict=True, cache_hash=True):
    """What the checkpoint says of its number format.

    `group` is the number of inputs that share a scale (0: one scale per output row or per tensor). `skipped` are the
    names or patterns of modules left as they were; `experts_only`: nothing but the experts is quantized; `nested`: the
    scales are quantized too. `experts`: the experts' own format, where they have another. `method`: what config.json
    calls it; empty where the engine quantizes what it loads. `mixed`: the formats of single modules, each with their
    names in `modules`; all others are left as they are.
    """

    kind: WeightKind
    bits: int = 16
    group: int = 0
    zero_point: bool = False
    skipped: tuple[str, ...] = ()
    experts_only: bool = False
    nested: bool = False
    experts: Quantization | None = None
    method: str = ""
    mixed: tuple[Quantization, ...] = ()
    modules: frozenset[str] = frozenset()

    @cached_property
    def skipped_by_end(self) -> Mapping[str, tuple[str, ...]]:
        """The entries of `skipped`: plain names of several parts by their last part, all others under the empty one.

        Published checkpoints list hundreds of modules, of which a name is to be compared with its few namesakes alone.
        """
        by_end: dict[str, list[str]] = {}
        for entry in self.skipped:
            plain = "." in entry and not entry.startswith("re:") and not any(sign in entry for sign in "*?[")
            by_end.setdefault(entry.rpartition(".")[2] if plain else "", []).append(entry)
        return {end: tuple(entries) for end, entries in by_end.items()}


class Latent(Struct, frozen=True, kw_only=True):
    """Multi-head latent attention: ranks and head sizes.

    `indexer_heads` × `indexer_dim`: sparse attention's indexer, 0 without.
    """

    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    indexer_heads: int = 0
    indexer_dim: int = 0


class State(Struct, frozen=True, kw_only=True):
    """A recurrent mixer. `kernel` is the length of its convolution.

    Key and value heads for the delta rules; for Mamba the value heads are its heads, `key_heads` its groups and
    `key_dim` its state size. `state_bytes` is the size of one number of the recurrent state, `window_bytes` that of its
    convolution's inputs; None: as the model's own.
    """

    kind: StateKind
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    kernel: int
    state_bytes: int | None = None
    window_bytes: int | None = None


class Experts(Struct, frozen=True, kw_only=True):
    """A mixture of experts: `count` of them, `per_token` active, `width` inner size, `shared_width` of what always
    runs.

    `latent`: the experts work on so many numbers instead of the hidden ones, 0: on the hidden ones.
    """

    count: int
    per_token: int
    width: int
    shared_width: int = 0
    latent: int = 0
    gated: bool = True
    biased: bool = False


class Vision(Struct, frozen=True, kw_only=True):
    """An encoder beside the language model. `merge` is how many patches (side × side) become one token's side.

    `gated` inner layers have a third matrix; `mergers` are the projectors into the language model;
    `max_item_tokens` is the most tokens that one image can take, None unknown. `whole`: every rank keeps all of it.
    `heads` of its attention, which ranks share where none keeps all; 0 unknown.
    """

    depth: int
    hidden: int
    inner: int
    out_hidden: int
    patch_elements: int
    positions: int
    merge: int
    mergers: int
    gated: bool
    max_item_tokens: int | None
    whole: bool = False
    heads: int = 0

    def splits(self, ranks: int) -> bool:
        """Return whether ranks share its heads evenly, or each keeps all."""
        return self.whole or self.heads % ranks == 0


class Layer(Struct, frozen=True, kw_only=True):
    """One decoder layer. `window` in tokens, for `sliding` and `chunked` only; `inner` is the width of its dense MLP.

    `experts`: its MLP is a mixture of experts. `key_is_value`: keys and values come out of one matrix. `state`: a
    recurrent mixer works beside its attention. `indexed`: it has an indexer of its own, where the model has any.
    """

    mixer: Mixer
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int = 0
    inner: int = 0
    experts: bool = False
    key_is_value: bool = False
    state: bool = False
    indexed: bool = True

    @property
    def keeps_state(self) -> bool:
        """Return whether a mixer of it is recurrent."""
        return self.state or self.mixer is Mixer.STATE


class Shape(Struct, frozen=True, kw_only=True, dict=True, cache_hash=True):
    """A model's whole shape.

    `max_positions` is the longest request that the engine allows, `default_length` the one it takes where none is
    given. `element_bytes` is the size of one number of its own format. `rope_rows` are (rows, width) of each table of
    rotations that the engine keeps beside the weights. `draft_layers` are the multi-token-prediction layers in the
    checkpoint.
    `least_step_tokens`: a step takes at least so many tokens where nobody says how many. `cache_format`: in which the
    checkpoint wants its keys and values kept, None where it does not say.
    `host_tables`: the engine keeps tables of n-grams, which are in the checkpoint, in the processor's memory.
    `unknown` names what the configuration does not tell, one short phrase each.
    """

    architecture: str
    hidden: int
    vocab: int
    tied: bool
    max_positions: int
    default_length: int
    element_bytes: int
    layers: tuple[Layer, ...]
    latent: Latent | None
    state: State | None
    experts: Experts | None
    vision: Vision | None
    quantization: Quantization
    rope_rows: tuple[tuple[int, int], ...]
    gated_mlp: bool = True
    attention_bias: bool = False
    output_gate: bool = False
    head_norms: bool = False
    learned_positions: int = 0
    extra_embeddings: int = 0
    draft_layers: int = 0
    least_step_tokens: int = 0
    host_tables: bool = False
    cache_format: str | None = None
    unknown: tuple[str, ...] = field(default=())

    @cached_property
    def kinds(self) -> tuple[Layer, ...]:
        """The layers that differ, first ones first: a hundred layers are of a few kinds, and each is counted once."""
        return tuple(dict.fromkeys(self.layers))

    @cached_property
    def kind_numbers(self) -> tuple[int, ...]:
        """For each layer, its place among `kinds`."""
        numbers = {layer: number for number, layer in enumerate(self.kinds)}
        return tuple(numbers[layer] for layer in self.layers)

    @cached_property
    def is_encoder(self) -> bool:
        """Return whether it reads a whole text at once: no keys and values are kept, and no text is cut into steps."""
        return bool(self.layers) and all(layer.mixer is Mixer.ENCODER for layer in self.kinds)

    @cached_property
    def has_state(self) -> bool:
        """Return whether any layer is recurrent."""
        return any(layer.keeps_state for layer in self.kinds)
