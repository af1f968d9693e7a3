"""The peak of what the engine's profile run allocates for a moment. Pure.

`profile_run` (vLLM 0.32.0 v1/worker/gpu_model_runner.py, v1/worker/gpu/model_runner.py) runs the encoder on its largest
items, then the model on `max_num_batched_tokens` dummy tokens, then the sampler on as many rows as requests fit a step.
The peak is the largest of the three, with the tensors that live across them.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec.structs import replace

from stackwright.domain.forecast import Term
from stackwright.domain.shape import Layer, Shape, StateKind
from stackwright.engines.memory.parts import embedding_matrix, padded_vocabulary
from stackwright.engines.vllm.memory.defaults import CompleteSettings
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.runner import second_runner
from stackwright.units import MIB

# Bytes per (row, vocabulary entry) in the sampler. With sorting: logits 2, single precision 4, sorted values 4 and
# indices 8, the radix sort's second buffers 12, its initial indices 8 (v1/sample/ops/topk_topp_sampler.py,
# apply_top_k_top_p_pytorch; torch.sort). The six cases where the peak is printed give 38.0 to 38.5.
_SORTING, _SORTING_ERROR = 38.25, 1.0
# Without: logits 2, single precision 4, probabilities 4, noise 4, and a masked copy before the noise in some paths.
_MASKING, _MASKING_ERROR = 16.0, 4.0
# Runner V2: logits 2, and up to 0.27 a copy in single precision; since 0.33 the copy again, a masked one and
# probabilities, each in single precision (v1/worker/gpu/sample/sampler.py; topk_topp_sampler.py, flashinfer_sample).
_COPIED, _PLAIN, _FULL, _SECOND_ERROR = 6.0, 2.0, 14.0, 2.0
# The Triton sampler's own buffer: a row of single precision for each multiprocessor, 132 on an H100
# (v1/sample/ops/topk_topp_triton.py, apply_top_k_top_p_triton; vLLM PR #33538).
_MASKING_ROWS = 132
# Residual, normalized input, output and embeddings of a token, beside what the widest part of a layer holds.
_HIDDEN_COPIES = 3
# Dense models: five logs are within 5 %. Experts' and recurrent kernels have workspaces of their own.
_FORWARD_ERROR, _SPECIAL_FORWARD_ERROR = 0.15, 0.35
_ENCODER_ERROR = 0.6
# An encoder whose configuration names no size of image: Qwen-VL's largest, 16,384 tokens
# (image_processing_qwen2_vl.py).
_LARGEST_ITEM = 16384
# What a kernel is timed with: a buffer as large as the GPU's second-level cache (PyTorch _inductor/runtime/
# benchmarking.py, InductorBenchmarker; 6 MiB on a 3090, 40 on an A100, 50 on an H100, 72 on a 4090, 128 on an RTX PRO
# 6000), and 256 MiB for kernels that Triton itself tunes, as delta nets have (triton/testing.py, do_bench).
_TIMING, _TRITON_TIMING = 64 * MIB, 256 * MIB
_TUNED_STATES = frozenset((StateKind.GATED_DELTA, StateKind.KIMI_DELTA))
# Half of the model's linear states live twice, in single precision, in the chunked kernels (fla ops, chunk.py).
_STATE_COPIES = 4


def activation(shape: Shape, settings: CompleteSettings, release: Release, compared: Term | None = None) -> Term:
    """Return the peak of the profile run on a rank that runs the sampler.

    `compared`: what comparing kernels takes on a start that has to compile; None where all is compiled.
    """
    # The hidden states of the whole step, and the pictures as the encoder left them, live on while the sampler runs.
    kept = settings.max_num_batched_tokens * shape.hidden * shape.element_bytes
    pictures = _encoder_output(shape, settings, release)
    sampler = _sampler(shape, settings, release) if settings.samples else Term(bytes=0)
    forward = _forward(shape, settings)
    parts = [
        Term(bytes=forward.bytes + pictures, error=forward.error),
        Term(bytes=sampler.bytes + kept + pictures, error=sampler.error),
        _encoder(shape, settings, release),
    ]
    if compared is not None:
        parts[0] = Term(bytes=parts[0].bytes + _TIMING, error=parts[0].error + _TIMING)
        parts.append(compared)
    # The peak is the largest part; the margin reaches as far as any part may.
    peak = max(part.bytes for part in parts)
    above = max(part.bytes + part.error for part in parts) - peak
    below = peak - max(part.bytes - part.error for part in parts)
    return Term(bytes=peak, error=max(above, below))


@lru_cache(maxsize=4096)
def stage_peaks(
    shape: Shape, settings: CompleteSettings, release: Release, *, first: bool, last: bool
) -> tuple[Term, Term]:
    """Return the peak on a pipeline stage: of a start that has to compile, and of later ones.

    Only the last stage runs the sampler, only the first the encoder.
    """
    here = shape if first else replace(shape, vision=None)
    here = here if last else replace(here, vocab=0)
    peak = activation(here, settings, release)
    if not compiles(settings, release):
        return peak, peak
    return activation(here, settings, release, comparing(shape if first else here, settings)), peak


def compiles(settings: CompleteSettings, release: Release) -> bool:
    """Return whether a first start, which has to compile, takes more than the later ones."""
    return release.compares_kernels and not settings.enforce_eager


def comparing(shape: Shape, settings: CompleteSettings) -> Term:
    """Return what comparing the kernels of the model's first piece takes: the embedding is one of their arguments.

    torch.compile's combined kernels are timed on random copies of whole arguments (PyTorch _inductor/codegen/
    triton_combo_kernel.py, get_args). The first piece looks tokens up, beside the rotations of their positions. A model
    that sees mixes pictures in before it, and has no embedding there.
    """
    if shape.vision is not None and not settings.language_only:
        return Term(bytes=0)
    table = embedding_matrix(shape, settings.tp).elements if shape.vocab else 0
    looked_up = settings.max_num_batched_tokens * shape.hidden
    return Term(bytes=(table + looked_up) * shape.element_bytes + _TIMING, error=2 * _TIMING)


def _sampler(shape: Shape, settings: CompleteSettings, release: Release) -> Term:
    """Rows × vocabulary: every rank gathers the whole vocabulary, so tensor parallelism does not help."""
    rows = min(settings.max_num_seqs, settings.max_num_batched_tokens)
    cells = rows * padded_vocabulary(shape.vocab)
    if second_runner(shape, release):
        each = _PLAIN if release.second_runner_copies_on_demand else _COPIED
        each = _FULL if release.second_runner_samples_fully and settings.on_gpu else each
        return Term(bytes=int(cells * each), error=int(cells * _SECOND_ERROR))
    if release.samples_unsorted:
        return Term(bytes=int(cells * _MASKING) + _MASKING_ROWS * shape.vocab * 4, error=int(cells * _MASKING_ERROR))
    return Term(bytes=int(cells * _SORTING), error=int(cells * _SORTING_ERROR))


def _forward(shape: Shape, settings: CompleteSettings) -> Term:
    """Tokens × the widest layer. A gated MLP holds gate, up and their product at once (layers/activation.py)."""
    widest = max((_layer_width(shape, layer, settings.tp) for layer in shape.kinds), default=0)
    elements = settings.max_num_batched_tokens * (widest + _HIDDEN_COPIES * shape.hidden)
    size = elements * shape.element_bytes
    tunes = settings.on_gpu and shape.state is not None and shape.state.kind in _TUNED_STATES
    size += _TRITON_TIMING if tunes else 0
    special = shape.has_state or shape.experts is not None
    return Term(bytes=size, error=int(size * (_SPECIAL_FORWARD_ERROR if special else _FORWARD_ERROR)))


def _layer_width(shape: Shape, layer: Layer, tp: int) -> int:
    """Return the numbers that a token takes in the widest part of a layer on one rank."""
    dense = (3 if shape.gated_mlp else 2) * layer.inner // tp
    attending = 2 * (layer.heads + layer.kv_heads) * layer.head_dim // tp
    parts = [dense, attending]
    if layer.experts and shape.experts is not None:
        experts = shape.experts
        # The kernel's two workspaces (layers/fused_moe/fused_moe.py): gate and up or the output, and their product.
        inner = experts.width // tp
        parts.append(experts.per_token * (max((2 if experts.gated else 1) * inner, shape.hidden) + inner))
        parts.append(3 * experts.shared_width // tp)
    if layer.keeps_state and shape.state is not None:
        state = shape.state
        width = 2 * state.key_heads * state.key_dim + 2 * state.value_heads * state.value_dim
        parts.append(_STATE_COPIES * width // tp)
    return max(parts)


def _encoder(shape: Shape, settings: CompleteSettings, release: Release) -> Term:
    """The encoder's budget in tokens, each of them several patches, through its widest layer; 0 without one."""
    vision = shape.vision
    tokens = _encoder_tokens(shape, settings, release)
    if vision is None or not tokens:
        return Term(bytes=0)
    patches = tokens * vision.merge**2
    if vision.max_item_tokens and vision.positions:
        patches = tokens // vision.max_item_tokens * vision.positions
    # The pictures themselves are there from the beginning to the end.
    width = (3 if vision.gated else 2) * vision.inner + 4 * vision.hidden + vision.patch_elements
    size = patches * width * shape.element_bytes + _encoder_output(shape, settings, release)
    return Term(bytes=size, error=int(size * _ENCODER_ERROR))


def _encoder_output(shape: Shape, settings: CompleteSettings, release: Release) -> int:
    """Return the bytes of what the encoder hands on: one vector for each token and projector."""
    vision = shape.vision
    tokens = _encoder_tokens(shape, settings, release)
    return tokens * vision.out_hidden * vision.mergers * shape.element_bytes if vision is not None else 0


def _encoder_tokens(shape: Shape, settings: CompleteSettings, release: Release) -> int:
    """Return the tokens of pictures that the profile run encodes."""
    vision = shape.vision
    if vision is None or settings.language_only:
        return 0
    if second_runner(shape, release) and not release.second_runner_profiles_encoder:
        return 0
    return max(settings.max_num_batched_tokens, vision.max_item_tokens or (_LARGEST_ITEM if vision.merge > 1 else 0))
