"""The words of a forecast: why it will start or will not, and what to mind.

Pure; one sentence each, no final period.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stackwright.domain.forecast import EngineSettings, Verdict
from stackwright.domain.shape import Shape
from stackwright.engines.memory.splits import split_widths
from stackwright.engines.vllm.memory.releases import recuts_experts, rules_of
from stackwright.units import format_bytes

if TYPE_CHECKING:
    from stackwright.engines.vllm.memory.account import Account

# What all of 0.33.0's v1/attention/backends/*.py, get_supported_kernel_block_sizes, ask for at least; read 2026-12-01.
_BLOCKS_OF = 16


def refusals(
    shape: Shape, settings: EngineSettings, max_model_len: int, capability: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Return what makes the engine refuse the settings whatever the memory, on GPUs of this compute capability.

    vLLM 0.32.0 config/model.py, verify_with_parallel_config and _get_and_verify_max_len; config/scheduler.py,
    verify_max_model_len.
    """
    found = []
    tp, heads = settings.tp, {layer.heads for layer in shape.kinds if layer.heads}
    if any(count % tp for count in heads):
        found.append(f"{max(heads)} attention heads cannot be split over {tp} ranks")
    kv_heads = {layer.kv_heads for layer in shape.kinds if layer.kv_heads and shape.latent is None}
    if any(count % tp and tp % count for count in kv_heads):
        found.append(f"{max(kv_heads)} key-value heads cannot be split over or copied to {tp} ranks")
    if shape.vision is not None and not settings.language_only and not shape.vision.splits(tp):
        found.append(f"{shape.vision.heads} heads of the encoder cannot be split over {tp} ranks")
    if tp > 1:
        recut = recuts_experts(settings.version, capability)
        whole = settings.expert_parallel
        widths = (width for width in split_widths(shape, recut=recut) if not (width.expert and whole))
        found += [width.problem(tp) for width in widths if not width.splits(tp)][:1]
    if tp % max(settings.decode_context_parallel, 1):
        found.append(f"{tp} ranks cannot be split into groups of {settings.decode_context_parallel} that share a cache")
    if settings.pp > max(len(shape.layers), 1):
        found.append(f"{len(shape.layers)} layers are too few for {settings.pp} pipeline stages")
    longest = shape.max_positions
    if longest and max_model_len > longest:
        found.append(f"a context of {max_model_len:,} tokens exceeds the model's limit of {longest:,}")
    return (*found, *_refused_sizes(shape, settings, max_model_len))


def _refused_sizes(shape: Shape, settings: EngineSettings, max_model_len: int) -> Iterator[str]:
    """Yield what is wrong with the tokens of a block of the cache, and what those of a step are too few for."""
    step, block = settings.max_num_batched_tokens, settings.block_tokens
    if block and block % _BLOCKS_OF:
        yield f"no attention kernel has blocks of {block} tokens, but of {_BLOCKS_OF} or a multiple"
    if not step:
        return
    if step < shape.least_step_tokens and rules_of(settings.version).keeps_items_whole:
        yield f"a step of {step:,} tokens is shorter than one item of {shape.least_step_tokens:,} that it takes whole"
    if settings.max_num_seqs and step < settings.max_num_seqs:
        yield f"a step of {step:,} tokens is too short for {settings.max_num_seqs:,} requests at once"
    if shape.is_encoder and max_model_len > step:
        yield f"a text of {max_model_len:,} tokens cannot be split into steps of {step:,}"


def reasons(made: Account) -> tuple[str, ...]:
    """Return the account in words: the parts, what is left, and what is in the way."""
    stage, room = made.stages[made.fullest], made.rooms()[made.fullest]
    parts = [
        f"weights {format_bytes(stage.weights.bytes)}",
        f"activations {format_bytes(stage.first_activation.bytes)}",
        f"outside PyTorch {format_bytes(stage.overhead.bytes)}",
    ]
    if stage.counted and stage.graphs.bytes:
        parts.append(f"CUDA graphs {format_bytes(stage.graphs.bytes)}")
    utilization, total = made.settings.gpu_memory_utilization, format_bytes(made.gpu.total_bytes)
    needed, error = format_bytes(made.needed_bytes[made.fullest]), format_bytes(stage.error_bytes)
    # With several ranks the sizes are those of the fullest one.
    each = "per GPU " if made.settings.ranks > 1 else ""
    budget = f"of a budget of {format_bytes(made.budget_bytes)} ({utilization:g} of {total})"
    found = [f"{each}{', '.join(parts)}, {budget}"]
    if room <= 0:
        found.append(f"no memory left for the KV cache: {each}{format_bytes(-room)} too much, ± {error}")
    elif not made.layout.groups:
        found.append(f"{each}{format_bytes(room)} ± {error} left; the model has no KV cache")
    else:
        found.append(
            f"{each}{format_bytes(room)} ± {error} left for the KV cache; one request of "
            f"{made.settings.max_model_len:,} tokens needs {needed}"
        )
    later = made.rooms(later=True)[made.fullest]
    if later > max(room, 0) and made.layout.groups:
        more = f"{format_bytes(later - room)} more{each and ' per GPU'}"
        found.append(f"a first start compiles; later ones leave {more} for the KV cache")
    if made.seen is not None:
        found.append(made.seen.words)
    if not made.enough_is_free:
        free = format_bytes(max(made.free_bytes, 0))
        found.append(f"only {free} free now: the engine would not start")
    blocks = made.layout.pool_blocks(made.rooms())
    if room > 0 and made.layout.keeps_states and blocks < made.settings.max_num_seqs:
        found.append(
            f"the KV cache has {blocks:,} blocks for {made.settings.max_num_seqs} requests, which need one each for "
            "their state"
        )
    return tuple(found)


def warnings(made: Account, verdict: Verdict) -> tuple[str, ...]:
    """Return what a user should know beside the verdict."""
    found = [f"not known of this model: {what}" for what in made.shape.unknown]
    if made.gpu.unified:
        found.append(
            "memory is shared with the processor: a starting engine may take far more than its share, "
            "until the host stops answering (vllm#46307)"
        )
    if made.gpu.wsl:
        found.append("under WSL the driver may move GPU memory to the host, so the forecast is uncertain")
    outside = made.stages[made.fullest].outside
    if not made.outside_fits(1):
        beside = format_bytes(outside.bytes + outside.error)
        found.append(f"the engine may take {beside} beside its budget: lower the utilization, or use --enforce-eager")
    if not made.trial_fits(1):
        trial = format_bytes(made.stages[made.fullest].trial_bytes)
        found.append(f"capturing the first CUDA graphs needs {trial} for a trial cache: lower --max-num-seqs")
    if verdict is Verdict.UNCERTAIN and not found:
        found.append("may not fit: lower --max-model-len or --max-num-seqs, or use a smaller model")
    return tuple(found)
