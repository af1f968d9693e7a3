"""The peak of what the engine's profile run allocates for a moment. Pure.

`profile_run` (vLLM 0.32.0 v1/worker/gpu_model_runner.py, v1/worker/gpu/model_runner.py) runs the encoder on its largest
items, then the model on `max_num_batched_tokens` dummy tokens, then the sampler on as many rows as requests fit a step.
The peak is the largest of the three, with the tensors that live across them.
"""

from __future__ import annotations

from stackwright.domain.forecast import Term
from stackwright.domain.shape import Layer, Mixer, Shape
from stackwright.engines.memory.parts import padded_vocabulary
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
# Runner V2: logits 2, and a copy in single precision where a processor wants one; nothing else in the profile run.
_PLAIN, _PLAIN_ERROR = 4.0, 4.0
# The triton sampler's own buffer (vLLM PR #33538).
_MASKING_BUFFER = 80 * MIB
# Residual, normalized input, output and embeddings of a token, beside what the widest part of a layer holds.
_HIDDEN_COPIES = 3
# Dense models: five logs are within 5 %. Experts' and recurrent kernels have workspaces of their own.
_FORWARD_ERROR, _SPECIAL_FORWARD_ERROR = 0.15, 0.35
_ENCODER_ERROR = 0.6
# An encoder whose configuration names no size of image: Qwen-VL's largest, 16,384 tokens
# (image_processing_qwen2_vl.py).
_LARGEST_ITEM = 16384
# Half of the model's linear states live twice, in single precision, in the chunked kernels (fla ops, chunk.py).
_STATE_COPIES = 4


def activation(shape: Shape, settings: CompleteSettings, release: Release) -> Term:
    """Return the peak of the profile run on a rank that runs the sampler."""
    # The hidden states of the whole step live on while the sampler runs.
    kept = settings.max_num_batched_tokens * shape.hidden * shape.element_bytes
    sampler = _sampler(shape, settings, release) if settings.samples else Term(bytes=0)
    parts = (
        _forward(shape, settings),
        Term(bytes=sampler.bytes + kept, error=sampler.error),
        _encoder(shape, settings),
    )
    # The peak is the largest part; the margin reaches as far as any part may.
    peak = max(part.bytes for part in parts)
    above = max(part.bytes + part.error for part in parts) - peak
    below = peak - max(part.bytes - part.error for part in parts)
    return Term(bytes=peak, error=max(above, below))


def _sampler(shape: Shape, settings: CompleteSettings, release: Release) -> Term:
    """Rows × vocabulary: every rank gathers the whole vocabulary, so tensor parallelism does not help."""
    rows = min(settings.max_num_seqs, settings.max_num_batched_tokens)
    cells = rows * padded_vocabulary(shape.vocab)
    if second_runner(shape, release):
        return Term(bytes=int(cells * _PLAIN), error=int(cells * _PLAIN_ERROR))
    if release.samples_unsorted:
        return Term(bytes=int(cells * _MASKING) + _MASKING_BUFFER, error=int(cells * _MASKING_ERROR))
    return Term(bytes=int(cells * _SORTING), error=int(cells * _SORTING_ERROR))


def _forward(shape: Shape, settings: CompleteSettings) -> Term:
    """Tokens × the widest layer. A gated MLP holds gate, up and their product at once (layers/activation.py)."""
    widest = max((_layer_width(shape, layer, settings.tp) for layer in shape.kinds), default=0)
    elements = settings.max_num_batched_tokens * (widest + _HIDDEN_COPIES * shape.hidden)
    size = elements * shape.element_bytes
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
    if layer.mixer is Mixer.STATE and shape.state is not None:
        state = shape.state
        width = 2 * state.key_heads * state.key_dim + 2 * state.value_heads * state.value_dim
        parts.append(_STATE_COPIES * width // tp)
    return max(parts)


def _encoder(shape: Shape, settings: CompleteSettings) -> Term:
    """The encoder's budget in tokens, each of them several patches, through its widest layer; 0 without one."""
    vision = shape.vision
    if vision is None or settings.language_only:
        return Term(bytes=0)
    item = vision.max_item_tokens or (_LARGEST_ITEM if vision.merge > 1 else 0)
    tokens = max(settings.max_num_batched_tokens, item)
    patches = tokens * vision.merge**2
    if vision.max_item_tokens and vision.positions:
        patches = tokens // vision.max_item_tokens * vision.positions
    width = (3 if vision.gated else 2) * vision.inner + 4 * vision.hidden
    size = (patches * width + tokens * vision.out_hidden) * shape.element_bytes
    return Term(bytes=size, error=int(size * _ENCODER_ERROR))
