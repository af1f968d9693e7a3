"""The tensors that one rank holds, part by part: matrices as the engine fuses and shards them. Pure.

As in the engine's 0.32.0 model_executor/layers/linear.py (QKVParallelLinear, MergedColumnParallelLinear,
RowParallelLinear), vocab_parallel_embedding.py, fused_moe/layer.py and models/: what is split among tensor-parallel
ranks, what each keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from stackwright.domain.shape import (
    Experts,
    Latent,
    Layer,
    Mixer,
    Quantization,
    Shape,
    State,
    StateKind,
    Vision,
    WeightKind,
)
from stackwright.models.quantization import is_skipped, own_format

# Vocabulary rows are padded to a multiple of 64 (vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE).
VOCABULARY_PADDING = 64


class Matrix(Struct, frozen=True, kw_only=True):
    """`copies` equal matrices of `rows` outputs × `columns` inputs on one rank, kept in one tensor.

    `names` are the module's names, by which a quantization may leave it out; `linear`: it can be quantized at all.
    `element_bytes`: the size of a number where it is not the model's own. `derived`: the engine makes it from others,
    so no checkpoint holds it.
    """

    names: tuple[str, ...]
    rows: int
    columns: int
    copies: int = 1
    linear: bool = True
    expert: bool = False
    element_bytes: int | None = None
    derived: bool = False

    @property
    def elements(self) -> int:
        """Count the numbers."""
        return self.rows * self.columns * self.copies


def format_of(quantization: Quantization, matrix: Matrix) -> Quantization:
    """Return the format of a matrix: the experts may have one of their own, or each module."""
    if quantization.mixed:
        return own_format(quantization, matrix.names) or quantization
    return quantization.experts if matrix.expert and quantization.experts is not None else quantization


def is_quantized(quantization: Quantization, matrix: Matrix) -> bool:
    """Return whether a checkpoint has a matrix in its quantized form."""
    if quantization.kind in (WeightKind.NONE, WeightKind.UNKNOWN):
        return False
    if quantization.mixed:
        own = own_format(quantization, matrix.names)
        named = own is not None and (matrix.linear or matrix.expert or matrix.names[0] in own.modules)
        return named and not is_skipped(quantization, matrix.names)
    wanted = matrix.expert if quantization.experts_only else matrix.linear
    if quantization.kind is WeightKind.GGUF:
        # The engine keeps a GGUF file's embedding and output matrix as they are in the file.
        wanted = matrix.rows > 1 and matrix.columns > 1
    return wanted and not is_skipped(quantization, matrix.names)


def padded_vocabulary(vocab: int) -> int:
    """Return the vocabulary as the engine pads it."""
    return -(-vocab // VOCABULARY_PADDING) * VOCABULARY_PADDING


def layer_matrices(shape: Shape, index: int, tp: int) -> Iterator[Matrix]:
    """Yield what one rank holds of the layer `index` with `tp` ranks; only the names differ among layers of a kind."""
    layer, base = shape.layers[index], f"model.layers.{index}"
    if layer.keeps_state and shape.state is not None:
        yield from _state_matrices(shape, shape.state, base, tp)
    if layer.mixer is Mixer.LATENT and shape.latent is not None:
        yield from _latent_matrices(shape, shape.latent, layer, base, tp)
    elif layer.mixer not in (Mixer.NONE, Mixer.STATE):
        yield from _attention_matrices(shape, layer, base, tp)
    if layer.experts and shape.experts is not None:
        yield from _expert_matrices(shape, shape.experts, base, tp)
    if layer.inner:
        yield from _mlp_matrices(shape.hidden, layer.inner, (f"{base}.mlp",), tp, gated=shape.gated_mlp)
    yield _small(f"{base}.norms", 2 * shape.hidden)


def _attention_matrices(shape: Shape, layer: Layer, base: str, tp: int) -> Iterator[Matrix]:
    """Queries, keys and values in one matrix; key and value heads are copied where there are fewer than ranks."""
    kv_heads, heads = max(1, layer.kv_heads // tp), layer.heads // tp
    query = heads * layer.head_dim * (2 if shape.output_gate else 1)
    shared = layer.mixer is Mixer.SHARED
    kv = 0 if shared else kv_heads * (layer.head_dim if layer.key_is_value else layer.head_dim + layer.value_dim)
    names = tuple(f"{base}.self_attn.{part}" for part in ("qkv_proj", "q_proj", "k_proj", "v_proj"))
    yield Matrix(names=names, rows=query + kv, columns=shape.hidden)
    if layer.key_is_value and not shared:
        # The checkpoint has them once, the engine loads them into both places (models/gemma4.py, Gemma4Attention).
        yield Matrix(names=names, rows=kv_heads * layer.value_dim, columns=shape.hidden, derived=True)
    yield Matrix(names=(f"{base}.self_attn.o_proj",), rows=shape.hidden, columns=heads * layer.value_dim)
    if shape.attention_bias:
        yield _small(f"{base}.self_attn.bias", query + kv)
    if shape.head_norms:
        yield _small(f"{base}.self_attn.norms", 2 * layer.head_dim)


def _latent_matrices(shape: Shape, latent: Latent, layer: Layer, base: str, tp: int) -> Iterator[Matrix]:
    """Down-projections are whole on every rank; up-projections are split by head (models/deepseek_v2.py).

    The engine keeps the up-projection of keys and values twice more, unpacked, to absorb it into queries and outputs
    (layers/attention/mla_attention.py, process_weights_after_loading: W_UK_T and W_UV).
    """
    heads, head = layer.heads // tp, latent.nope_dim + latent.rope_dim
    attention = f"{base}.self_attn"
    down = latent.kv_rank + latent.rope_dim
    if latent.query_rank:
        names = (f"{attention}.fused_qkv_a_proj", f"{attention}.q_a_proj", f"{attention}.kv_a_proj_with_mqa")
        yield Matrix(names=names, rows=latent.query_rank + down, columns=shape.hidden)
        yield Matrix(names=(f"{attention}.q_b_proj",), rows=heads * head, columns=latent.query_rank)
    else:
        yield Matrix(names=(f"{attention}.kv_a_proj_with_mqa",), rows=down, columns=shape.hidden)
        yield Matrix(names=(f"{attention}.q_proj",), rows=heads * head, columns=shape.hidden)
    up = heads * (latent.nope_dim + latent.value_dim)
    yield Matrix(names=(f"{attention}.kv_b_proj",), rows=up, columns=latent.kv_rank)
    yield Matrix(names=(f"{attention}.absorbed",), rows=up, columns=latent.kv_rank, linear=False, derived=True)
    yield Matrix(names=(f"{attention}.o_proj",), rows=shape.hidden, columns=heads * latent.value_dim)
    if latent.indexer_dim and layer.indexed:
        width = latent.indexer_heads * latent.indexer_dim
        yield Matrix(names=(f"{attention}.indexer.wq_b",), rows=width, columns=latent.query_rank)
        wide = latent.indexer_dim + latent.indexer_heads
        yield Matrix(names=(f"{attention}.indexer.wk",), rows=wide, columns=shape.hidden, linear=False)


def _state_matrices(shape: Shape, state: State, base: str, tp: int) -> Iterator[Matrix]:
    """Recurrent mixers: projections and convolution (layers/mamba/, models/qwen3_next.py, kimi_linear.py)."""
    key, value = state.key_heads * state.key_dim, state.value_heads * state.value_dim
    hidden, name = shape.hidden, f"{base}.linear_attn"
    match state.kind:
        case StateKind.GATED_DELTA:
            names = (f"{name}.in_proj_qkvz", f"{name}.in_proj_qkv", f"{name}.in_proj_z")
            yield Matrix(names=names, rows=2 * (key + value) // tp, columns=hidden)
            names = (f"{name}.in_proj_ba", f"{name}.in_proj_b", f"{name}.in_proj_a")
            yield Matrix(names=names, rows=2 * state.value_heads // tp, columns=hidden, linear=False)
            convolved = 2 * key + value
        case StateKind.KIMI_DELTA:
            yield Matrix(names=(f"{name}.qkv",), rows=(2 * key + value) // tp, columns=hidden)
            low = state.value_dim
            yield Matrix(names=(f"{name}.gates_a",), rows=2 * low + state.value_heads // tp, columns=hidden)
            yield Matrix(names=(f"{name}.gates_b",), rows=2 * value // tp, columns=low)
            convolved = 2 * key + value
        case StateKind.SHORT_CONV:
            yield Matrix(names=(f"{base}.conv.in_proj",), rows=3 * hidden // tp, columns=hidden)
            convolved, value = hidden, hidden
        case StateKind.LIGHTNING:
            yield Matrix(names=(f"{base}.self_attn.qkv_proj",), rows=4 * value // tp, columns=hidden)
            convolved = 0
        case StateKind.MAMBA2:
            rows = 2 * value + 2 * key + state.value_heads
            yield Matrix(names=(f"{base}.mixer.in_proj", f"{base}.mamba.in_proj"), rows=rows // tp, columns=hidden)
            convolved = value + 2 * key
        case StateKind.MAMBA1:
            yield Matrix(names=(f"{base}.mixer.in_proj", f"{base}.mamba.in_proj"), rows=2 * value // tp, columns=hidden)
            rank = -(-hidden // 16)
            yield Matrix(names=(f"{base}.mixer.x_proj",), rows=rank + 2 * state.key_dim, columns=value // tp)
            yield Matrix(names=(f"{base}.mixer.dt_proj",), rows=value // tp, columns=rank)
            yield Matrix(
                names=(f"{base}.mixer.A",), rows=value // tp, columns=state.key_dim, linear=False, element_bytes=4
            )
            convolved = value
    outs = (f"{name}.out_proj", f"{base}.mixer.out_proj", f"{base}.mamba.out_proj", f"{base}.conv.out_proj")
    yield Matrix(names=outs, rows=hidden, columns=value // tp)
    if convolved:
        yield _small(f"{name}.conv1d", convolved // tp * state.kernel)


def _mlp_matrices(hidden: int, inner: int, bases: tuple[str, ...], tp: int, *, gated: bool) -> Iterator[Matrix]:
    """`bases`: the names that models give the module."""
    names = tuple(f"{base}.{part}" for base in bases for part in ("gate_up_proj", "gate_proj", "up_proj", "fc1"))
    yield Matrix(names=names, rows=(2 if gated else 1) * inner // tp, columns=hidden)
    names = tuple(f"{base}.{part}" for base in bases for part in ("down_proj", "fc2"))
    yield Matrix(names=names, rows=hidden, columns=inner // tp)


def _expert_matrices(shape: Shape, experts: Experts, base: str, tp: int) -> Iterator[Matrix]:
    """The experts of one layer in two tensors; the router is whole on every rank."""
    hidden, name = experts.latent or shape.hidden, f"{base}.mlp.experts"
    up, down = (f"{name}.0.gate_proj", f"{name}.gate_up_proj", name), (f"{name}.0.down_proj", f"{name}.down_proj", name)
    rows = (2 if experts.gated else 1) * experts.width // tp
    yield Matrix(names=up, rows=rows, columns=hidden, copies=experts.count, expert=True)
    yield Matrix(names=down, rows=hidden, columns=experts.width // tp, copies=experts.count, expert=True)
    if experts.biased:
        # Marlin and Triton keep expert biases in single precision (fused_moe/oracle/mxfp4.py).
        yield _small(f"{name}.bias", experts.count * (rows + hidden), element_bytes=4)
    yield Matrix(names=(f"{base}.mlp.gate",), rows=experts.count, columns=shape.hidden, linear=False)
    if experts.latent:
        yield Matrix(names=(f"{base}.mlp.fc1_latent_proj",), rows=experts.latent, columns=shape.hidden)
        yield Matrix(names=(f"{base}.mlp.fc2_latent_proj",), rows=shape.hidden, columns=experts.latent)
    if experts.shared_width:
        # 0.32.0 models/deepseek_v2.py, and models/qwen3_next.py, Qwen3NextSparseMoeBlock (read 2026-11-30).
        shared = (f"{base}.mlp.shared_experts", f"{base}.mlp.shared_expert")
        yield from _mlp_matrices(shape.hidden, experts.shared_width, shared, tp, gated=experts.gated)


def embedding_matrix(shape: Shape, tp: int) -> Matrix:
    """Return one rank's share of the embedding; the output matrix has the same size."""
    return Matrix(
        names=("model.embed_tokens",), rows=padded_vocabulary(shape.vocab) // tp, columns=shape.hidden, linear=False
    )


def vision_block_matrices(vision: Vision, index: int, tp: int) -> Iterator[Matrix]:
    """Yield one block of the encoder: attention with four matrices, an MLP with two or three.

    Towers split by head and by inner width like the language model (models/siglip.py, qwen2_5_vl.py), but for those
    that the engine takes from transformers as they are.
    """
    tp = 1 if vision.whole else tp
    hidden, base = vision.hidden, f"visual.blocks.{index}"
    yield Matrix(names=(f"{base}.attn.qkv",), rows=3 * hidden // tp, columns=hidden, linear=False)
    yield Matrix(names=(f"{base}.attn.proj",), rows=hidden, columns=hidden // tp, linear=False)
    rows = (2 if vision.gated else 1) * vision.inner // tp
    yield Matrix(names=(f"{base}.mlp.fc1",), rows=rows, columns=hidden, linear=False)
    yield Matrix(names=(f"{base}.mlp.fc2",), rows=hidden, columns=vision.inner // tp, linear=False)


def vision_matrices(vision: Vision, tp: int) -> Iterator[Matrix]:
    """Yield what the encoder has around its blocks: patches in, a projector out."""
    tp = 1 if vision.whole else tp
    hidden = vision.hidden
    merged = hidden * vision.merge**2
    yield Matrix(names=("visual.patch_embed",), rows=hidden, columns=vision.patch_elements, linear=False)
    yield Matrix(names=("visual.positions",), rows=vision.positions, columns=hidden, linear=False)
    for _ in range(vision.mergers):
        if vision.merge > 1:
            yield Matrix(names=("visual.merger.fc1",), rows=merged // tp, columns=merged, linear=False)
        yield Matrix(names=("visual.merger.fc2",), rows=vision.out_hidden, columns=merged // tp, linear=False)


def _small(name: str, elements: int, element_bytes: int | None = None) -> Matrix:
    return Matrix(names=(name,), rows=1, columns=elements, linear=False, element_bytes=element_bytes)
