"""What flags make of a model before its memory is counted: number formats, encoders, drafters, adapters. Pure.

vLLM 0.33.0 config/model.py, config/quantization.py, config/speculative.py, config/lora.py, lora/layers/ and
model_executor/models/interfaces.py, read 2026-11-29.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, Term
from stackwright.domain.shape import Quantization, Shape, WeightKind
from stackwright.domain.tensors import WeightFacts
from stackwright.engines.memory.parts import Matrix, layer_matrices
from stackwright.engines.vllm.memory.releases import rules_of

_FORMAT_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
# What unquantized weights become while they are loaded: linear layers and experts, but not the vocabulary's matrices
# (config/quantization.py, _ONLINE_SHORTHANDS; layers/quantization/fp8.py and experts_int8.py).
_MADE = {
    "fp8": Quantization(kind=WeightKind.FP8, bits=8, skipped=("lm_head",)),
    "fp8_per_tensor": Quantization(kind=WeightKind.FP8, bits=8, skipped=("lm_head",)),
    "fp8_per_channel": Quantization(kind=WeightKind.FP8, bits=8, skipped=("lm_head",)),
    "fp8_per_block": Quantization(kind=WeightKind.FP8, bits=8, group=128, skipped=("lm_head",)),
    "int8_per_channel_weight_only": Quantization(kind=WeightKind.INT8, bits=8, skipped=("lm_head",)),
    "experts_int8": Quantization(kind=WeightKind.INT8, bits=8, experts_only=True),
    "mxfp8": Quantization(kind=WeightKind.MXFP8, bits=8, group=32, skipped=("lm_head",)),
}
# Drafters without weights: they look tokens up (config/speculative.py).
_LOOKED_UP = frozenset(("ngram", "[ngram]", "ngram_gpu", "suffix"))
# The kinds of media that encoders of the catalog serve; an encoder that serves none is not loaded.
_SEEN_MEDIA = frozenset(("image", "video"))
# Which linear layers a release wraps is told by its classes, which the shape does not name.
_LORA_ERROR = 0.1


def as_asked(shape: Shape, settings: EngineSettings, weights: WeightFacts) -> tuple[Shape, EngineSettings, WeightFacts]:
    """Return the model as the engine makes it of the settings, with the facts of its weights that still hold."""
    shape, settings = _with_drafter(*_without_encoder(_with_states(shape, settings), settings))
    if settings.whole_encoder and shape.vision is not None:
        shape = replace(shape, vision=replace(shape.vision, whole=True))
    if settings.data_parallel > 1 and shape.experts is not None:
        shape = _doubted(shape, "what experts over several copies take for what they send each other")
    wanted = _FORMAT_BYTES.get(settings.dtype, shape.element_bytes)
    if wanted != shape.element_bytes:
        # A checkpoint's sizes are those of its own format.
        shape, weights = replace(shape, element_bytes=wanted), WeightFacts()
    if settings.quantization and shape.quantization.kind is WeightKind.NONE:
        made = _MADE.get(settings.quantization)
        weights = WeightFacts() if made else weights
        doubt = f"what `--quantization {settings.quantization}` makes of its weights"
        shape = replace(shape, quantization=made) if made else _doubted(shape, doubt)
    return shape, settings, weights


def _with_states(shape: Shape, settings: EngineSettings) -> Shape:
    """Lay the formats of recurrent layers over those of the configuration (layers/mamba/mamba_utils.py)."""
    state = shape.state
    both, own = _FORMAT_BYTES.get(settings.state_dtype), _FORMAT_BYTES.get(settings.recurrent_dtype)
    if state is None or not (both or own):
        return shape
    recurrent = own or state.state_bytes or both
    return replace(shape, state=replace(state, state_bytes=recurrent, window_bytes=both or state.window_bytes))


def _without_encoder(shape: Shape, settings: EngineSettings) -> tuple[Shape, EngineSettings]:
    """Take a limit of 0 for all that an encoder sees as `--language-model-only`, where the release does."""
    limits = dict(settings.media_limits)
    unseen = all(limits.get(kind) == 0 for kind in _SEEN_MEDIA)
    if shape.vision is None or not unseen or not rules_of(settings.version).drops_idle_encoders:
        return shape, settings
    return shape, replace(settings, language_only=True)


def _with_drafter(shape: Shape, settings: EngineSettings) -> tuple[Shape, EngineSettings]:
    """Leave a model's own drafting layers out where another drafts; say where nobody knows what that one takes."""
    method = settings.speculative_method
    if not settings.speculative_tokens or not (method or settings.draft_model):
        return shape, settings
    if method is not None and (method == "mtp" or method.endswith("_mtp")):
        return shape, settings
    shape = replace(shape, draft_layers=0)
    if method in _LOOKED_UP or settings.draft_model in _LOOKED_UP or settings.draft is not None:
        return shape, settings
    return _doubted(shape, "what its drafter takes, whose configuration has not been read"), settings


def _doubted(shape: Shape, what: str) -> Shape:
    return replace(shape, unknown=(*shape.unknown, what))


def adapter_slots(shape: Shape, settings: EngineSettings, layers: range) -> Term:
    """Return what the slots of LoRA adapters take on a stage: they are allocated with the weights, filled or not."""
    if not settings.lora:
        return Term(bytes=0)
    matrices = (matrix for index in layers for matrix in _adapted(shape, index, settings))
    elements = sum(_adapter_elements(shape, matrix) for matrix in matrices)
    size = elements * settings.lora_slots * settings.lora_rank * shape.element_bytes
    return Term(bytes=size, error=int(size * _LORA_ERROR))


def _adapted(shape: Shape, index: int, settings: EngineSettings) -> Iterator[Matrix]:
    """Yield the matrices of a layer that adapters may change: every linear layer, and the experts from 0.11.1 on."""
    experts = rules_of(settings.version).adapts_experts
    for matrix in layer_matrices(shape, index, settings.tp):
        if matrix.rows > 1 and not matrix.derived and (experts or not matrix.expert):
            yield matrix


def _adapter_elements(shape: Shape, matrix: Matrix) -> int:
    """Return an adapter's numbers for one rank of it: one input side for each matrix that is fused, one output side.

    lora/layers/column_parallel_linear.py, create_lora_weights; fused_moe.py.
    """
    name = matrix.names[0].rpartition(".")[2]
    fused = {"qkv_proj": 3, "gate_up_proj": 2 if shape.gated_mlp else 1, "fused_qkv_a_proj": 2, "in_proj_qkvz": 2}
    gated = matrix.expert and name == "gate_proj" and shape.experts is not None and shape.experts.gated
    slices = 2 if gated else fused.get(name, 1)
    return matrix.copies * (slices * matrix.columns + matrix.rows)
