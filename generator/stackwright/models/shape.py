"""Parse a Hugging Face `config.json` into a `Shape`. Pure.

Every rule names the families that it is for; what the configuration leaves open is listed in `Shape.unknown`.
Sources: transformers 5 configuration_*.py, vLLM 0.32.0 model_executor/models/ and layers/rotary_embedding/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

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
from stackwright.models.cache_format import own_cache_format
from stackwright.models.keys import count, flag, items, mapping, number, text, text_part, words
from stackwright.models.layers import attention, expert_layers, indexer_layers, layer_count, mixers, states_beside
from stackwright.models.quantization import parse_quantization

# Bytes of one number by its name in `torch_dtype` or `dtype`.
_ELEMENT_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "half": 2}
# Families whose MLP has two matrices rather than three (transformers modeling_*.py), and activations that say so.
_UNGATED_FAMILIES = frozenset(
    "gpt2 opt falcon phi starcoder2 gpt_neox gptj gpt_bigcode mpt bloom whisper bert roberta xlm-roberta".split()
)
_UNGATED_ACTIVATIONS = frozenset(("relu2", "relu"))
_HEAD_NORM_FAMILIES = ("qwen3", "gemma3", "gemma4", "glm4_moe", "olmo2", "olmo3", "minimax_m2", "exaone4")
# Families with caches of their own, which this planner does not know (vLLM 0.32.0 models/: get_kv_cache_spec of each),
# and keys that tell such a cache.
_OWN_CACHES = (
    "deepseek_v4",
    "dots3_note",
    "glm5_next",
    "hy_v4",
    "inkling",
    "kimi_k3",
    "minimax_m3",
    "qwen4_exp",
)
_COMPRESSED = frozenset(("compress_ratio", "compress_ratios", "index_kpool"))
# Layers with tables of n-grams, which stay in the processor's memory by default (0.32.0 config/engram.py, line 13 and
# cpu_offload; read 2026-11-30).
_HOST_TABLES = ("ple_layer_ids", "engram_layer_ids")
# Families whose rotations are multimodal even where a configuration was cut short.
_MROPE_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# vLLM 0.32.0 models/qwen2.py: these have biases although their configuration does not say so.
_BIASED_FAMILIES = frozenset(
    ("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_vl_text", "qwen2_5_vl_text", "gpt2")
)
# Of several keys the smallest length counts (0.33.0 transformers_utils/model_arch_config_convertor.py,
# derive_max_model_len_and_key).
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions"),
    *("max_sequence_length", "max_seq_length", "seq_len"),
)
_SEEN_WHOLE = frozenset({"bagel", "gemma3", "molmo2", "moondream3", "paligemma"})


def parse_shape(config: Mapping[str, object]) -> Shape:
    """Return the shape that a `config.json` describes; facts that it leaves open are in `unknown`."""
    part = text_part(config)
    latent, state, experts = _latent(part), _state(part), _experts(part)
    layers = _layers(part, latent, experts)
    quantization = parse_quantization({**part, **config} if "quantization_config" in config else part)
    family = text(part, "model_type")
    names = words(config, "architectures") or words(part, "architectures")
    return Shape(
        architecture=names[0] if names else family,
        hidden=count(part, "hidden_size", "n_embd", "d_model"),
        vocab=count(part, "vocab_size", "padded_vocab_size") or count(config, "vocab_size"),
        tied=_tied(config, part),
        max_positions=_longest(part),
        default_length=_default_length(part),
        element_bytes=_element_bytes(config, part),
        layers=layers,
        latent=latent,
        state=state,
        experts=experts,
        vision=_vision(config),
        quantization=quantization,
        rope_rows=_rope_rows(part, latent, layers),
        gated_mlp=_gated(part),
        attention_bias=flag(part, "attention_bias", "qkv_bias", "bias") or family in _BIASED_FAMILIES,
        output_gate=flag(part, "attn_output_gate") or family == "qwen3_next",
        head_norms=family.startswith(_HEAD_NORM_FAMILIES),
        learned_positions=_learned_positions(part),
        extra_embeddings=_extra_embeddings(part),
        draft_layers=count(part, "num_nextn_predict_layers", "mtp_num_hidden_layers"),
        least_step_tokens=_least_step_tokens(config, part),
        host_tables=_has_host_tables(part),
        cache_format=own_cache_format(config, compressed=latent is not None),
        unknown=(
            *_unknown(part, layers, state, quantization),
            # Beside the decoder's own keys and values it keeps those of what the encoder has read, for each request.
            *(["the cache of what its encoder has read"] if flag(config, "is_encoder_decoder") else []),
        ),
    )


def _has_host_tables(part: Mapping[str, object]) -> bool:
    return any(part.get(key) for key in _HOST_TABLES)


def _unknown(
    part: Mapping[str, object], layers: tuple[Layer, ...], state: State | None, quantization: Quantization
) -> Iterator[str]:
    """Yield what the configuration leaves open, in short phrases."""
    if not layers:
        yield "the number of layers"
    if quantization.kind is WeightKind.UNKNOWN:
        yield "the quantization method"
    if _has_host_tables(part):
        yield "the size of the tables that the engine keeps in the processor's memory"
    if state is None and any(layer.keeps_state for layer in layers):
        yield "the size of the recurrent state"
    if text(part, "model_type").startswith(_OWN_CACHES) or _COMPRESSED & part.keys():
        yield "the layout of its own kind of cache"
    if count(part, "num_mem_blocks"):
        # Zamba 2 (0.33.0 models/zamba2.py): a few attention blocks serve many layers, each with its own adapter.
        yield "the weights of attention blocks that layers share"


def _layers(part: Mapping[str, object], latent: Latent | None, experts: Experts | None) -> tuple[Layer, ...]:
    inner = count(part, "intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "feed_forward_length")
    inner = count(part, "intermediate_size_mlp", default=inner) or 4 * count(part, "n_embd", "d_model")
    letters = text(part, "hybrid_override_pattern").replace("|", "")
    sparse = expert_layers(part, experts)
    plain = text(part, "model_type") not in ("mamba", "mamba2", "falcon_mamba")
    both, double = flag(part, "enable_moe_block"), flag(part, "use_double_wide_mlp")
    # A hundred layers are of a few kinds: each is made once.
    beside, indexed = states_beside(part), indexer_layers(part)
    known: dict[tuple[Mixer, bool, bool, bool, bool], Layer] = {}
    made = []
    for index, mixer in enumerate(mixers(part)):
        kind = (mixer, letters[index] == "-" if letters else plain, sparse(index), beside(index), indexed(index))
        if kind not in known:
            _, dense, has_experts, state, own = kind
            layer = attention(part, Mixer.LATENT if latent and mixer is Mixer.FULL else mixer)
            wide = 2 if mixer is Mixer.SHARED and double else 1
            width = wide * inner if dense and (both or not has_experts) else 0
            known[kind] = replace(layer, inner=width, experts=has_experts, state=state, indexed=own)
        made.append(known[kind])
    return tuple(made[: layer_count(part) or len(made)])


def _latent(part: Mapping[str, object]) -> Latent | None:
    """DeepSeek V2 and later, Kimi, GLM-4.7-Flash and GLM-5, Mistral Large 3; MiniCPM3 is run as plain attention."""
    rank = count(part, "kv_lora_rank")
    if not rank or text(part, "model_type") == "minicpm3":
        return None
    return Latent(
        query_rank=count(part, "q_lora_rank"),
        kv_rank=rank,
        nope_dim=count(part, "qk_nope_head_dim"),
        rope_dim=count(part, "qk_rope_head_dim"),
        value_dim=count(part, "v_head_dim"),
        indexer_heads=count(part, "index_n_heads"),
        indexer_dim=count(part, "index_head_dim"),
    )


def _state(part: Mapping[str, object]) -> State | None:
    """Return the recurrent mixer.

    Keys per family: Qwen3-Next/3.5, Kimi Linear, LFM2, Mamba and its hybrids, MiniMax.
    """
    delta = mapping(part, "linear_attn_config")
    named = _ELEMENT_BYTES.get(text(part, "mamba_ssm_dtype", "mamba_ssm_cache_dtype"))
    if count(part, "linear_num_value_heads"):
        kind, sizes = (
            StateKind.GATED_DELTA,
            (
                count(part, "linear_num_key_heads"),
                count(part, "linear_key_head_dim"),
                count(part, "linear_num_value_heads"),
                count(part, "linear_value_head_dim"),
                count(part, "linear_conv_kernel_dim", default=4),
            ),
        )
    elif delta:
        heads, width = count(delta, "num_heads"), count(delta, "head_dim")
        kind, named = StateKind.KIMI_DELTA, 4
        sizes = (heads, width, heads, width, count(delta, "short_conv_kernel_size", default=4))
    elif count(part, "conv_L_cache"):
        kind, sizes = StateKind.SHORT_CONV, (1, 0, 1, count(part, "hidden_size"), count(part, "conv_L_cache"))
    elif "attn_type_list" in part:
        head = attention(part, Mixer.FULL)
        kind, named, sizes = StateKind.LIGHTNING, 4, (head.heads, head.head_dim, head.heads, head.head_dim, 1)
    else:
        return _mamba(part, named)
    return State(
        kind=kind,
        key_heads=sizes[0],
        key_dim=sizes[1],
        value_heads=sizes[2],
        value_dim=sizes[3],
        kernel=sizes[4],
        state_bytes=named,
    )


def _mamba(part: Mapping[str, object], named: int | None) -> State | None:
    """Mamba 1 has no heads, Mamba 2 has. Nemotron-H keeps its state in single precision (vLLM models/config.py)."""
    state = count(part, "mamba_d_state", "ssm_state_size", "state_size")
    if not state:
        return None
    hidden = count(part, "hidden_size", "d_model")
    heads = count(part, "mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads")
    width = count(part, "mamba_d_ssm") or int(number(part, "mamba_expand", "expand", default=2.0) * hidden)
    head_dim = count(part, "mamba_head_dim", "mamba_d_head", "mamba_headdim", "head_dim")
    two = heads > 0 and "mamba_dt_rank" not in part
    if two and text(part, "mamba_d_head") != "auto" and head_dim:
        width = heads * head_dim
    single = text(part, "model_type").startswith("nemotron_h")
    return State(
        kind=StateKind.MAMBA2 if two else StateKind.MAMBA1,
        key_heads=count(part, "n_groups", "mamba_n_groups", "mamba_ngroups", default=1),
        key_dim=state,
        value_heads=heads if two else 1,
        value_dim=width // heads if two else width,
        kernel=count(part, "conv_kernel", "mamba_d_conv", default=4),
        state_bytes=named or (4 if single else None),
    )


def _experts(part: Mapping[str, object]) -> Experts | None:
    total = count(
        part, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "moe_num_routed_experts"
    )
    if total <= 1:
        return None
    width = count(part, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size")
    shared = count(
        part, "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size"
    )
    many = count(part, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if not shared and many:
        shared = many * width
    if text(part, "model_type").startswith("llama4"):
        shared = width
    return Experts(
        count=total,
        per_token=count(
            part, "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", default=1
        ),
        width=width,
        shared_width=shared,
        latent=count(part, "moe_latent_size"),
        gated=_gated(part),
        biased=text(part, "model_type").startswith("gpt_oss"),
    )


def _vision(config: Mapping[str, object]) -> Vision | None:
    part = mapping(config, "vision_config", "vision_encoder", "vit_config", "visual")
    part = part or mapping(mapping(config, "thinker_config"), "vision_config")
    depth = count(part, "depth", "num_hidden_layers", "layers")
    if not depth:
        return None
    hidden = count(part, "hidden_size", "embed_dim", "width")
    if text(config, "model_type").startswith("qwen2_vl"):
        hidden = count(part, "embed_dim", default=hidden)
    inner = count(part, "intermediate_size") or int(number(part, "mlp_ratio", default=4.0) * hidden)
    patch = count(part, "patch_size", default=14)
    side = count(part, "image_size")
    positions = count(part, "num_position_embeddings") or (side // patch) ** 2
    # Gemma 4 has one table for rows and one for columns, gated layers, and no ranks: the tower is transformers' own
    # (models/ gemma4_mm.py, AutoModel.from_config; transformers modeling_gemma4.py).
    tables = 2 * count(part, "position_embedding_size")
    merge = count(part, "spatial_merge_size", default=count(config, "spatial_merge_size", default=1))
    fixed = count(config, "mm_tokens_per_image")
    return Vision(
        depth=depth,
        hidden=hidden,
        inner=inner,
        out_hidden=count(part, "out_hidden_size", default=count(text_part(config), "hidden_size")),
        patch_elements=patch
        * patch
        * count(part, "in_channels", "num_channels", "in_chans", default=3)
        * count(part, "temporal_patch_size", default=1),
        positions=positions or tables,
        merge=max(merge, 1),
        mergers=1 + len(items(part, "deepstack_visual_indexes")),
        gated=text(config, "model_type").startswith(("qwen2_5", "pixtral", "mistral3", "gemma4")),
        max_item_tokens=fixed or None,
        whole=bool(tables),
        heads=count(part, "num_heads", "num_attention_heads", "vt_num_attention_heads"),
    )


def _least_step_tokens(config: Mapping[str, object], part: Mapping[str, object]) -> int:
    """Return the tokens of the longest item that a model sees in both directions, and so takes in one step; 0 for none.

    Gemma 4 takes a whole film: 32 frames of 70 + 8 tokens (vLLM 0.32.0 engine/arg_utils.py, _get_min_mm_batched_tokens;
    models/gemma4_mm.py, get_mm_max_tokens_per_item); of the others a picture counts (0.33.0
    transformers_utils/model_arch_config_convertor.py, MM_PREFIX_LM_MODELS).
    """
    if flag(config, "is_encoder_decoder"):
        # Half a minute of sound (0.32.0 models/whisper.py, get_mm_max_tokens_per_item).
        return count(config, "max_source_positions")
    if text(part, "use_bidirectional_attention") == "vision":
        return 32 * (70 + 8)
    vision = _vision(config) if text(config, "model_type") in _SEEN_WHOLE else None
    return (vision.max_item_tokens or 0) if vision else 0


def _rope_rows(
    part: Mapping[str, object], latent: Latent | None, layers: tuple[Layer, ...]
) -> tuple[tuple[int, int], ...]:
    """Return the tables of rotations: one for each different rotation, kept in the model's own format.

    Rows: `max_position_embeddings`, times the factor for linear and YaRN scaling (linear_scaling_rope.py,
    yarn_scaling_rope.py: original length × factor), four times for multimodal rotations without scaling (mrope.py).
    """
    scaling = mapping(part, "rope_scaling") or mapping(part, "rope_parameters")
    nested = mapping(scaling, "full_attention")
    scaling = nested or scaling
    rows = count(part, "max_position_embeddings")
    if (
        not rows
        or _learned_positions(part)
        or not any(layer.mixer in (Mixer.FULL, Mixer.LATENT, Mixer.SLIDING, Mixer.CHUNKED) for layer in layers)
    ):
        return ()
    kind = text(scaling, "rope_type", "type").replace("default", "")
    factor = number(scaling, "factor", default=1.0)
    four = text(part, "model_type").startswith("gemma4")
    # Gemma 4 rotates a share of a full layer's numbers, but its table is as wide as the head (gemma4_rope.py).
    share = number(
        part, "partial_rotary_factor", "rotary_pct", default=number(scaling, "partial_rotary_factor", default=1.0)
    )
    whole = next((layer.head_dim for layer in reversed(layers) if layer.mixer is Mixer.FULL), layers[-1].head_dim)
    width = latent.rope_dim if latent else int(whole * (1.0 if four else share))
    windowed = next((layer.head_dim for layer in layers if layer.mixer is Mixer.SLIDING), 0)
    local = four or "rope_local_base_freq" in part or "sliding_attention" in mapping(part, "rope_parameters")
    plain = rows
    if kind in ("linear", "dynamic"):
        rows = int(rows * factor)
    elif "yarn" in kind:
        rows = int(count(scaling, "original_max_position_embeddings", default=rows) * factor)
    elif "mrope" in kind or "mrope_section" in scaling or text(part, "model_type").startswith(_MROPE_FAMILIES):
        rows *= 4
    return ((rows, width), (plain, windowed)) if local and windowed else ((rows, width),)


def _longest(part: Mapping[str, object]) -> int:
    """Return the greatest length that the engine derives (vLLM 0.32.0 config/model.py, _get_and_verify_max_len).

    Linear and dynamic scaling multiply; the lengths of YaRN, Llama 3, LongRoPE and Gemma 3 are scaled already.
    """
    rows = min((length for key in _LENGTHS if (length := count(part, key))), default=0)
    scaling = mapping(part, "rope_scaling") or mapping(part, "rope_parameters")
    kind = text(scaling, "rope_type", "type")
    if text(part, "model_type").startswith("gemma3") or kind not in ("linear", "dynamic"):
        return rows
    return int(rows * number(scaling, "factor", default=1.0))


def _default_length(part: Mapping[str, object]) -> int:
    scaling = mapping(part, "rope_scaling") or mapping(part, "rope_parameters")
    if text(scaling, "rope_type", "type") == "longrope":
        own = count(part, "original_max_position_embeddings")
        return own or count(scaling, "original_max_position_embeddings", default=_longest(part))
    return _longest(part)


def _tied(config: Mapping[str, object], part: Mapping[str, object]) -> bool:
    """Return whether the output matrix is the embedding. Gemma and Cohere tie without saying so."""
    default = text(part, "model_type").startswith(
        ("gemma", "cohere", "command", "gpt2", "bert", "roberta", "xlm-roberta")
    )
    return flag(part, "tie_word_embeddings", default=flag(config, "tie_word_embeddings", default=default))


def _element_bytes(config: Mapping[str, object], part: Mapping[str, object]) -> int:
    """Return the size of a number as the engine runs it.

    Single precision is run in half (vLLM config/model.py, `auto`).
    """
    name = text(part, "torch_dtype", "dtype") or text(config, "torch_dtype", "dtype")
    return min(_ELEMENT_BYTES.get(name, 2), 2)


def _gated(part: Mapping[str, object]) -> bool:
    activation = text(part, "mlp_hidden_act", "hidden_act", "activation_function", "hidden_activation")
    family = text(part, "model_type")
    return (
        family not in _UNGATED_FAMILIES and not family.startswith("nemotron") and activation not in _UNGATED_ACTIVATIONS
    )


def _learned_positions(part: Mapping[str, object]) -> int:
    """GPT-2, OPT and BERT's kin learn their positions; they have no table of rotations."""
    learns = text(part, "model_type") in ("gpt2", "opt", "bert", "roberta", "xlm-roberta")
    return count(part, "n_positions", "max_position_embeddings") if learns else 0


def _extra_embeddings(part: Mapping[str, object]) -> int:
    """Gemma 3n and 4 (E models): one small embedding per layer and token (`hidden_size_per_layer_input`)."""
    width = count(part, "hidden_size_per_layer_input")
    return count(part, "vocab_size_per_layer_input") * width * layer_count(part) if width else 0
