"""Which mixer each layer of a model has, read from the many ways that configurations say it. Pure.

Sources: transformers 5 configuration_*.py of the families, and the engine's model_executor/models/ (0.32.0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stackwright.domain.shape import Experts, Layer, Mixer
from stackwright.models.keys import count, flag, items, mapping, text, whole_numbers, words

_WORDS = {
    "full_attention": Mixer.FULL,
    "attention": Mixer.FULL,
    "global": Mixer.FULL,
    "sliding_attention": Mixer.SLIDING,
    "local_attention": Mixer.SLIDING,
    "chunked_attention": Mixer.CHUNKED,
    "linear_attention": Mixer.STATE,
    "mamba": Mixer.STATE,
    "mamba2": Mixer.STATE,
    "recurrent": Mixer.STATE,
    "conv": Mixer.STATE,
    "hybrid": Mixer.FULL,
    "moe": Mixer.NONE,
    "mlp": Mixer.NONE,
}
# Encoders: a whole text at once, no cache (0.32.0 models/bert.py, roberta.py, modernbert.py).
ENCODER_FAMILIES = frozenset(("bert", "roberta", "xlm-roberta", "modernbert", "new", "nomic_bert"))
# Far above any model; a configuration that says more is damaged.
_MOST_LAYERS = 2000
_NEMOTRON = {"M": Mixer.STATE, "*": Mixer.FULL, "-": Mixer.NONE, "E": Mixer.NONE}


def layer_count(config: Mapping[str, object]) -> int:
    """Return the number of decoder layers; 0 where it is missing or not one."""
    # An encoder before it may have another number, which is then the general one (transformers, WhisperConfig).
    first = ("decoder_layers",) if flag(config, "is_encoder_decoder") else ()
    layers = count(config, *first, "num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
    return layers if 0 < layers <= _MOST_LAYERS else 0


def mixers(config: Mapping[str, object]) -> tuple[Mixer, ...]:
    """Return each layer's mixer, in order. Latent attention counts as `full` here; the caller turns it."""
    total = layer_count(config)
    for rule in (_by_words, _by_pattern, _by_linear_config, _by_interval, _by_period, _by_indices, _by_numbers):
        mixed = rule(config, total)
        if mixed:
            return _with_shared(config, mixed)
    return _with_shared(config, _by_window(config, total))


def states_beside(config: Mapping[str, object]) -> Callable[[int], bool]:
    """Return the rule that tells whether a layer has a recurrent mixer beside its attention.

    Falcon-H1 has in all of them, and lists none (0.33.0 models/falcon_h1.py, FalconH1ParallelHybrid); Zamba 2 has in
    those that it calls hybrid (models/zamba2.py, Zamba2HybridLayer).
    """
    names = words(config, "layer_types", "layers_block_type", "block_types")
    everywhere = not names and count(config, "mamba_d_ssm") > 0
    return lambda index: everywhere or (index < len(names) and names[index] == "hybrid")


def indexer_layers(config: Mapping[str, object]) -> Callable[[int], bool]:
    """Return the rule that tells whether a layer has a sparse indexer of its own, or takes another's choice.

    0.33.0 models/deepseek_v2.py, DeepseekV2MLAAttention: `index_topk_pattern` has an S for each layer that shares,
    `index_topk_freq` says which one of several has one; transformers_utils/configs/hy_v4.py: `indexer_types`.
    """
    letters, kinds = text(config, "index_topk_pattern"), words(config, "indexer_types")
    every, offset = count(config, "index_topk_freq", default=1), count(config, "index_skip_topk_offset", default=2)
    if kinds:
        return lambda index: index >= len(kinds) or kinds[index] != "shared"
    if letters:
        return lambda index: index >= len(letters) or letters[index] != "S"
    return lambda index: max(index - offset + 1, 0) % max(every, 1) == 0


def _by_words(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    names = words(config, "layer_types", "layers_block_type", "block_types")
    if not names or len(names) < total:
        return ()
    window = window_tokens(config)
    named = tuple(_WORDS.get(name, Mixer.FULL) for name in names[:total])
    return tuple(Mixer.FULL if mixer is Mixer.SLIDING and not window else mixer for mixer in named)


def _by_pattern(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Nemotron-H: one letter a layer. MiMo-V2: one number a layer, 1 for a window."""
    letters = text(config, "hybrid_override_pattern")
    if letters:
        return tuple(_NEMOTRON.get(letter, Mixer.NONE) for letter in letters if letter != "|")
    windows = whole_numbers(config, "hybrid_layer_pattern")
    return tuple(Mixer.SLIDING if one else Mixer.FULL for one in windows) if len(windows) == total else ()


def _by_linear_config(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Kimi Linear: `linear_attn_config` numbers the layers from 1."""
    full = whole_numbers(mapping(config, "linear_attn_config"), "full_attn_layers")
    return tuple(Mixer.FULL if index + 1 in full else Mixer.STATE for index in range(total)) if full else ()


def _by_interval(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Qwen3-Next and Qwen3.5: every n-th layer attends to everything, the others are linear."""
    every = count(config, "full_attention_interval")
    return _every(every, total, Mixer.STATE) if every else ()


def _by_period(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Jamba: attention at a fixed place in every period of layers, Mamba elsewhere."""
    period = count(config, "attn_layer_period")
    offset = count(config, "attn_layer_offset")
    if period <= 1:
        return ()
    return tuple(Mixer.FULL if index % period == offset else Mixer.STATE for index in range(total))


def _by_indices(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Bamba and LFM2 name the attention layers; the others keep a state."""
    full = whole_numbers(config, "attn_layer_indices", "full_attn_idxs")
    return tuple(Mixer.FULL if index in full else Mixer.STATE for index in range(total)) if full else ()


def _by_numbers(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """MiniMax-Text: 1 for attention, 0 for lightning attention."""
    kinds = whole_numbers(config, "attn_type_list")
    return tuple(Mixer.FULL if one else Mixer.STATE for one in kinds) if len(kinds) == total else ()


def _by_window(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Families without a list of layers: a window everywhere, in a pattern, or not at all; or no attention."""
    family = text(config, "model_type")
    if family in ("mamba", "mamba2", "falcon_mamba"):
        return (Mixer.STATE,) * total
    # A decoder's architecture whose attention goes both ways is an encoder to the engine (0.32.0 config/model.py,
    # attn_type).
    if family in ENCODER_FAMILIES or not flag(config, "is_causal", default=True):
        return (Mixer.ENCODER,) * total
    if count(config, "attention_chunk_size"):
        return _without_positions(config, total)
    window = window_tokens(config)
    if not window:
        return (Mixer.FULL,) * total
    every = count(config, "sliding_window_pattern", "_sliding_window_pattern")
    if family.startswith("gemma2"):
        every = 2
    if family.startswith("gemma3") and not every:
        every = 6
    if family.startswith("gpt_oss"):
        every = 2
    return _every(every, total, Mixer.SLIDING) if every > 1 else (Mixer.SLIDING,) * total


def _without_positions(config: Mapping[str, object], total: int) -> tuple[Mixer, ...]:
    """Llama 4: layers without rotary positions see everything, the others chunks (`no_rope_layers`, 0 is without)."""
    marks = whole_numbers(config, "no_rope_layers")
    if len(marks) == total:
        return tuple(Mixer.CHUNKED if mark else Mixer.FULL for mark in marks)
    return _every(count(config, "no_rope_layer_interval", default=4), total, Mixer.CHUNKED)


def _every(every: int, total: int, otherwise: Mixer) -> tuple[Mixer, ...]:
    return tuple(Mixer.FULL if (index + 1) % every == 0 else otherwise for index in range(total))


def _with_shared(config: Mapping[str, object], own: tuple[Mixer, ...]) -> tuple[Mixer, ...]:
    """Gemma 3n and 4: the last layers read the keys and values of earlier ones (`num_kv_shared_layers`)."""
    shared = count(config, "num_kv_shared_layers")
    return (*own[: len(own) - shared], *(Mixer.SHARED,) * shared) if shared else own


def window_tokens(config: Mapping[str, object]) -> int:
    """Return the sliding window in tokens; 0 where it is off, absent or no shorter than the model's length."""
    if not flag(config, "use_sliding_window", default=True):
        return 0
    window = count(config, "sliding_window", "sliding_window_size", "window_size")
    longest = count(config, "max_position_embeddings")
    return 0 if window <= 0 or (longest and window >= longest) else window


def attention(config: Mapping[str, object], mixer: Mixer) -> Layer:
    """Return the heads of one layer. Gemma 4, MiMo-V2 and their kin give windowed and full layers different ones."""
    hidden = count(config, "hidden_size", "n_embd", "d_model")
    heads = count(config, "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", default=1)
    kv_heads = count(config, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    kv_heads = kv_heads or (1 if flag(config, "multi_query") else heads)
    head_dim = count(config, "head_dim", "attention_head_dim", "kv_channels") or hidden // max(heads, 1)
    value_dim, same = count(config, "v_head_dim", default=head_dim), False
    if mixer is Mixer.FULL and count(config, "global_head_dim"):
        head_dim = value_dim = count(config, "global_head_dim")
        kv_heads = count(config, "num_global_key_value_heads", default=kv_heads)
        same = flag(config, "attention_k_eq_v")
    if mixer is Mixer.SLIDING and count(config, "swa_num_key_value_heads"):
        heads = count(config, "swa_num_attention_heads", default=heads)
        kv_heads = count(config, "swa_num_key_value_heads")
        head_dim = count(config, "swa_head_dim", default=head_dim)
        value_dim = count(config, "swa_v_head_dim", default=value_dim)
    windows = {Mixer.SLIDING: window_tokens(config), Mixer.CHUNKED: count(config, "attention_chunk_size")}
    return Layer(
        mixer=mixer,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        window=windows.get(mixer, 0),
        key_is_value=same,
    )


def expert_layers(config: Mapping[str, object], experts: Experts | None) -> Callable[[int], bool]:
    """Return the rule that tells whether the layer of an index has experts."""
    if experts is None:
        return lambda _: False
    letters = text(config, "hybrid_override_pattern").replace("|", "")
    if letters:
        return lambda index: letters[index] == "E"
    kinds = words(config, "mlp_layer_types")
    if kinds:
        return lambda index: index >= len(kinds) or kinds[index] == "sparse"
    dense = whole_numbers(config, "mlp_only_layers")
    marks = items(config, "moe_layer_freq")
    if marks:
        return lambda index: index >= len(marks) or bool(marks[index])
    listed = whole_numbers(config, "moe_layers")
    if listed:
        return lambda index: index in listed
    step = count(
        config, "decoder_sparse_step", "interleave_moe_layer_step", "expert_layer_period", "moe_layer_freq", default=1
    )
    offset = count(config, "expert_layer_offset", default=step - 1)
    first = count(config, "first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")
    return lambda index: index >= first and index not in dense and (index - offset) % max(step, 1) == 0
