"""The bytes of a model's weights on each rank, as the engine's allocator will count them. Pure.

With safetensors headers their sum is taken, split as the engine splits; without, the tensors follow from the
configuration.
To both come what no checkpoint holds: tables of rotations, padding of expert weights, and the allocator's rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, GpuMemory, Term
from stackwright.domain.shape import Quantization, Shape, WeightKind
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.memory.parts import (
    Matrix,
    embedding_matrix,
    format_of,
    is_quantized,
    layer_matrices,
    vision_block_matrices,
    vision_matrices,
)
from stackwright.engines.memory.stages import stage_layers
from stackwright.engines.vllm.memory.asked import adapter_slots
from stackwright.engines.vllm.memory.releases import Release
from stackwright.models.quantization import matrix_bytes, names_layers
from stackwright.units import MIB

# PyTorch 2.9 c10/cuda/CUDACachingAllocator.cpp: blocks are multiples of 512 B; from 10 MiB on a segment of its own is
# taken in steps of 2 MiB, and what remains of it is split off only where it is more than 1 MiB.
_BLOCK, _SEGMENT, _SEGMENT_STEP, _SPLIT_ABOVE = 512, 10 * MIB, 2 * MIB, MIB
# Names of tensors that every rank keeps whole, and of those that a server does not load at all.
# Compiled where a checkpoint's headers are read; a plan by the published size never asks.
_WHOLE = (
    r"(norm|layernorm|ln_\w+|mlp\.gate\.|router|e_score_correction|q_a_proj|kv_a_proj|indexer|patch_embed|pos_embed"
    r"|position|\.sinks$|A_log|dt_bias|class_embedding)"
)
_DRAFT = r"(^|\.)(mtp|eh_proj|enorm|hnorm|shared_head|nextn)\."
_VISION = r"(^|\.)(visual|vision_tower|vision_model|vision_encoder|multi_modal_projector|mm_projector|audio)"
# Tables that stay in the processor's memory (0.32.0 config/model.py:372, models/qwen4_exp/nvidia/ngram_embedding.py).
_HOST_TABLE = r"\.(ngram_embedding|engram\.embed_tokens)\."
_LAYER = r"\.(?:layers|h|blocks)\.(\d+)\."
# A drafter may share the model's vocabulary matrices, which its file holds or leaves out.
_DRAFT_ERROR = 0.5
# Relative errors. Formula: layer norms, biases and projectors that differ from the family's usual; measured on the
# cases.
_HEADER_ERROR, _FORMULA_ERROR = 0.004, 0.012
# Without headers and without a published size: what a checkpoint left in its own format is told by its headers alone.
# NVFP4 and bitsandbytes checkpoints differ most (the cases: 12.0 GiB where all linear layers in NVFP4 would be 9.4).
_FORMAT_ERRORS = {
    WeightKind.FP8: 0.03,
    WeightKind.INT8: 0.03,
    WeightKind.AWQ: 0.03,
    WeightKind.GPTQ: 0.06,
    WeightKind.INT4: 0.06,
    WeightKind.BITSANDBYTES4: 0.08,
    WeightKind.NVFP4: 0.3,
    WeightKind.MIXED: 0.06,
    WeightKind.UNKNOWN: 0.3,
}


class _Rank(Struct, frozen=True, kw_only=True):
    """One pipeline stage of a tensor-parallel group."""

    layers: range
    first: bool
    last: bool


class _ExpertSteps(Struct, frozen=True, kw_only=True):
    """The multiples that a kernel rounds experts' inner and hidden widths to; `keeps_scales`: it has them twice."""

    inner: int
    hidden: int
    keeps_scales: bool = False


def stage_weights(
    shape: Shape,
    settings: EngineSettings,
    gpu: GpuMemory,
    release: Release,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
) -> tuple[Term, ...]:
    """Return the weights of one rank of each pipeline stage.

    Args:
        shape: the model.
        settings: parallel sizes, drafting and whether the encoder is loaded.
        gpu: chooses the kernel, and with it the padding of expert weights.
        release: how it keeps scales.
        tensors: the checkpoint's headers, where they were read.
        weight_bytes: the checkpoint's size as published, used where there are no headers.
    """
    steps, unpacks = _expert_steps(gpu, release), release.unpacks_scales
    # Neither lengths nor batches change the weights; headers are many, and no key.
    apart = replace(
        settings, gpu_memory_utilization=None, max_model_len=None, max_num_seqs=None, max_num_batched_tokens=None
    )
    count = _counted if tensors else _known
    return count(shape, apart, steps, tensors or None, weight_bytes, unpacks)


def _counted(
    shape: Shape,
    settings: EngineSettings,
    expert_steps: _ExpertSteps,
    tensors: tuple[TensorHeader, ...] | None,
    weight_bytes: int | None,
    unpacks_scales: bool,
) -> tuple[Term, ...]:
    tp, stages = settings.tp, settings.pp
    ranks = [
        _Rank(layers=layers, first=position == 0, last=position == stages - 1)
        for position, layers in enumerate(stage_layers(len(shape.layers), stages))
    ]
    stored = replace(shape.quantization, nested=not unpacks_scales)
    scale, unexplained = (1.0, 0.0) if tensors else _published_scale(shape, stored, weight_bytes, settings)
    terms = []
    for rank in ranks:
        plain, held = _loaded_and_held(shape, rank, stored, expert_steps, settings)
        held += sum(allocated(rows * width * shape.element_bytes) for rows, width in shape.rope_rows)
        if tensors:
            exact = sum(_header_bytes(header, shape, rank, tp, settings) for header in tensors)
            terms.append(Term(bytes=exact + held - plain, error=int(exact * _HEADER_ERROR)))
        else:
            error = _FORMULA_ERROR if weight_bytes is not None else _FORMAT_ERRORS.get(stored.kind, _FORMULA_ERROR)
            error = max(error, unexplained)
            terms.append(Term(bytes=int(plain * scale) + held - plain, error=int(held * error)))
    return tuple(_with_beside(term, shape, settings, rank) for term, rank in zip(terms, ranks, strict=True))


# A model is weighed on many GPUs, and searched for its best settings on each.
_known = lru_cache(maxsize=4096)(_counted)


def _with_beside(own: Term, shape: Shape, settings: EngineSettings, rank: _Rank) -> Term:
    """Add what is loaded with a stage's weights, the drafter on the last one, and take away what stays outside."""
    slots = adapter_slots(shape, settings, rank.layers)
    draft = parameter_bytes(settings.draft) // settings.tp if rank.last and settings.draft is not None else 0
    size = max(0, own.bytes + slots.bytes + draft - settings.offload_bytes)
    return Term(bytes=size, error=own.error + slots.error + int(draft * _DRAFT_ERROR))


def allocated(size: int) -> int:
    """Return what PyTorch's caching allocator counts for a tensor of `size` bytes."""
    rounded = -(-size // _BLOCK) * _BLOCK
    if rounded < _SEGMENT:
        return rounded
    segment = -(-rounded // _SEGMENT_STEP) * _SEGMENT_STEP
    return rounded if segment - rounded > _SPLIT_ABOVE else segment


@lru_cache(maxsize=1024)
def parameter_bytes(shape: Shape, quantization: Quantization | None = None) -> int:
    """Return the size of the whole checkpoint as the configuration implies it: one rank, nothing padded.

    `quantization` None is the shape's own.
    """
    quantization = quantization or shape.quantization
    rank = _Rank(layers=range(len(shape.layers)), first=True, last=True)
    matrices = _rank_matrices(shape, rank, quantization, EngineSettings())
    return sum(times * sum(_sizes(shape, quantization, matrix)) for matrix, times in matrices if not matrix.derived)


def _loaded_and_held(
    shape: Shape, rank: _Rank, stored: Quantization, expert_steps: _ExpertSteps, settings: EngineSettings
) -> tuple[int, int]:
    """Return the bytes of a rank's tensors as a checkpoint has them, and as the engine allocates them."""
    plain = held = 0
    for matrix, times in _rank_matrices(shape, rank, stored, settings):
        sizes = _sizes(shape, stored, matrix)
        plain += 0 if matrix.derived else times * sum(sizes)
        kept = _held(matrix, sizes, stored, shape, settings.tp, expert_steps)
        held += times * sum(allocated(size) for size in kept)
    return plain, held


def _rank_matrices(
    shape: Shape, rank: _Rank, quantization: Quantization, settings: EngineSettings
) -> Iterator[tuple[Matrix, int]]:
    """Yield each matrix of a rank with the number of its equals: layers of one kind differ in their names alone."""
    tp, apart = settings.tp, names_layers(quantization)
    for index, times in _alike(shape, rank.layers, apart=apart):
        for matrix in layer_matrices(shape, index, tp):
            # Experts are split over all copies, whole or not (fused_moe/config.py, flatten_tp_across_dp_and_pcp).
            copies = -(-matrix.copies // settings.data_parallel) if matrix.expert else matrix.copies
            yield replace(matrix, copies=copies), times
    for matrix in _outer_matrices(shape, rank, settings):
        yield matrix, 1
    if rank.first and shape.vision is not None and not settings.language_only:
        blocks = range(shape.vision.depth)
        for index, times in ((index, 1) for index in blocks) if apart else ((0, len(blocks)),):
            yield from ((matrix, times) for matrix in vision_block_matrices(shape.vision, index, tp))


def _alike(shape: Shape, layers: range, *, apart: bool) -> Iterator[tuple[int, int]]:
    """Yield (index, count) of each kind among some layers; each alone where a quantization tells layers `apart`."""
    if apart:
        yield from ((index, 1) for index in layers)
        return
    numbers = shape.kind_numbers[layers.start : layers.stop]
    for number in dict.fromkeys(numbers):
        yield layers.start + numbers.index(number), numbers.count(number)


def _outer_matrices(shape: Shape, rank: _Rank, settings: EngineSettings) -> Iterator[Matrix]:
    """Yield what a rank holds beside the model's layers and the encoder's blocks."""
    tp = settings.tp
    embedding = embedding_matrix(shape, tp)
    if rank.first or (rank.last and shape.tied):
        yield embedding
    if rank.last and not shape.tied:
        yield replace(embedding, names=("lm_head",))
    if rank.first and shape.extra_embeddings:
        yield Matrix(names=("embed_tokens_per_layer",), rows=1, columns=shape.extra_embeddings // tp, linear=False)
    if rank.first and shape.learned_positions:
        yield Matrix(names=("wpe",), rows=shape.learned_positions, columns=shape.hidden, linear=False)
    if rank.first and shape.vision is not None and not settings.language_only:
        yield from vision_matrices(shape.vision, tp)
    if rank.last and settings.speculative_tokens and shape.draft_layers and shape.layers:
        # A drafting layer is a layer of the model's last kind, and a matrix that joins two hidden states.
        yield from layer_matrices(shape, len(shape.layers) - 1, tp)
        yield Matrix(names=("mtp.fc",), rows=shape.hidden, columns=2 * shape.hidden, linear=False)


def _sizes(shape: Shape, quantization: Quantization, matrix: Matrix) -> tuple[int, ...]:
    """Return the sizes of the tensors of one matrix, scales and zero points among them."""
    plain = matrix.elements * (matrix.element_bytes or shape.element_bytes)
    if not is_quantized(quantization, matrix):
        return (plain,)
    own = format_of(quantization, matrix)
    return tuple(size * matrix.copies for size in matrix_bytes(own, matrix.rows, matrix.columns))


def _expert_steps(gpu: GpuMemory, release: Release) -> _ExpertSteps:
    """Return what MXFP4 experts are rounded to.

    vLLM 0.32.0 fused_moe/oracle/mxfp4.py, mxfp4_round_up_hidden_size_and_intermediate_size; 0.11.0 and 0.16.0
    quantization/mxfp4.py, create_weights. Triton on Hopper keeps the scales as they were loaded beside its own, whose
    rows it rounds to 256 (process_weights_after_loading; triton_kernels, HopperMXScaleLayout).
    """
    major = gpu.compute_capability[0] if gpu.compute_capability else 0
    if major == 9 and release.triton_on_hopper:
        return _ExpertSteps(inner=64, hidden=1, keeps_scales=True)
    wide = major == 10 and not release.narrow_blackwell_experts
    return _ExpertSteps(inner=256 if wide else 128, hidden=256)


def _held(
    matrix: Matrix, sizes: tuple[int, ...], quantization: Quantization, shape: Shape, tp: int, steps: _ExpertSteps
) -> tuple[int, ...]:
    """Return the sizes of the tensors of one matrix as the engine holds them, loaded in `sizes`.

    Only MXFP4 experts differ.
    """
    if not matrix.expert or format_of(quantization, matrix).kind is not WeightKind.MXFP4 or shape.experts is None:
        return sizes
    width = _round_up(shape.experts.width // tp, steps.inner)
    if matrix.names[0].endswith("down_proj"):
        padded = replace(matrix, rows=_round_up(matrix.rows, steps.hidden), columns=width)
    else:
        rows = width * (2 if shape.experts.gated else 1)
        padded = replace(matrix, rows=rows, columns=_round_up(matrix.columns, steps.hidden))
    sizes, own = _sizes(shape, quantization, padded), format_of(quantization, padded)
    scales = _round_up(padded.rows, 256) * _round_up(-(-padded.columns // own.group), 2) * padded.copies
    return (*sizes, scales) if steps.keeps_scales else sizes


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _header_bytes(header: TensorHeader, shape: Shape, rank: _Rank, tp: int, settings: EngineSettings) -> int:
    """Return one rank's share of a stored tensor; 0 for what this stage, or this start, does not load.

    Weights stored in single precision are run in half (config/model.py, `auto`); scales stay as they are.
    """
    if not _is_loaded(header.name, shape, rank, settings):
        return 0
    single = header.dtype == "F32" and header.name.endswith((".weight", ".bias"))
    size = header.elements * shape.element_bytes if single else header.bytes
    size //= settings.data_parallel if ".experts." in header.name else 1
    whole = tp == 1 or len(header.shape) < 1 or re.search(_WHOLE, header.name) is not None
    if shape.vision is not None and shape.vision.whole:
        whole = whole or re.search(_VISION, header.name) is not None
    return size if whole else size // _shares(header, shape, tp)


def _is_loaded(name: str, shape: Shape, rank: _Rank, settings: EngineSettings) -> bool:
    """Return whether a stored tensor is on this stage.

    The encoder on the first, drafting layers on the last if asked for.
    """
    if re.search(_HOST_TABLE, name):
        return False
    if re.search(_VISION, name):
        return rank.first and not settings.language_only
    found = re.search(_LAYER, name)
    if re.search(_DRAFT, name) or (found and int(found[1]) >= len(shape.layers)):
        return rank.last and settings.speculative_tokens > 0
    return int(found[1]) in rank.layers if found else _outside_layers(name, shape, rank)


def _outside_layers(name: str, shape: Shape, rank: _Rank) -> bool:
    """Return whether a tensor outside the layers is on this stage: embeddings first, output and last norm last."""
    if "lm_head" in name or name.endswith("output.weight"):
        return rank.last and not shape.tied
    if "embed" in name or "wte" in name:
        return rank.first or (rank.last and shape.tied)
    return rank.last


def _shares(header: TensorHeader, shape: Shape, tp: int) -> int:
    """Return among how many ranks a tensor is split.

    Key and value heads are copied where there are fewer than ranks.
    """
    if not re.search(r"\.(k|v)_proj\.", header.name):
        return tp
    kv_heads = max((layer.kv_heads for layer in shape.layers), default=1)
    return min(tp, max(kv_heads, 1))


def _published_scale(
    shape: Shape, quantization: Quantization, weight_bytes: int | None, settings: EngineSettings
) -> tuple[float, float]:
    """Return by how much a published size differs from the configuration's own, and which share of that is in doubt.

    Drafting layers and tables of the processor, which are not loaded, may be in the published size or not: of what it
    leaves open, what is nearest to the configuration is taken, and what may come to that is doubt. So is the whole
    difference where the two lie far apart, or where the encoder stays out, which may be what differs.
    """
    expected = parameter_bytes(shape, quantization)
    if weight_bytes is None or not expected:
        return 1.0, 0.0
    least = 0 if shape.host_tables else weight_bytes - _draft_bytes(shape)
    loaded = min(max(expected, least), weight_bytes)
    scale, doubt = loaded / expected, (weight_bytes - loaded) / expected
    if settings.language_only:
        return 1.0, doubt + abs(scale - 1)
    return scale, doubt if 0.5 < scale < 2.0 else max(doubt, abs(scale - 1))


def _draft_bytes(shape: Shape) -> int:
    """Return the size of the drafting layers in the model's own format, which quantizers leave them in."""
    if not shape.draft_layers or not shape.layers:
        return 0
    layer = sum(matrix.elements for matrix in layer_matrices(shape, len(shape.layers) - 1, 1))
    return shape.draft_layers * (layer + 2 * shape.hidden * shape.hidden) * shape.element_bytes
