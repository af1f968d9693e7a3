"""The settings that vLLM has of its own, each with the flag that carries it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from stackwright.domain.host import Gpu
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines.protocol import EngineKeys
from stackwright.units import version_parts

NO_PARSER, ANY_HOST = "none", "any"
DTYPE, QUANTIZATION = "VLLM_DTYPE", "VLLM_QUANTIZATION"
CHAT_TEMPLATE, LORA_MODULES = "VLLM_CHAT_TEMPLATE", "VLLM_LORA_MODULES"
# What stands before the name of a flag that a person gives and no setting below carries.
ARGUMENT_PREFIX = "VLLM_ARG_"
# PyTorch's bfloat16 kernels begin with Ampere (vLLM refuses bfloat16 below 8.0).
BFLOAT16_CAPABILITY = "8.0"


EXPERT_PARALLEL, EXPERT_PARALLEL_FLAG = "VLLM_ENABLE_EXPERT_PARALLEL", "--enable-expert-parallel"
# What vLLM 0.33.0 has and this planner can count, whatever the release and the GPU take of it (catalog/attention.yaml;
# config/cache.py, CacheDType). Not TurboQuant, which keeps some layers plain, and no model's own layouts (`…_ds_mla`).
CACHE_FORMATS = (
    *("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_per_token_head", "int8_per_token_head"),
    *("int4_per_token_head", "nvfp4", "nvfp4_4over6"),
)
ENCODER_SPLIT, WHOLE_ENCODER = "VLLM_MM_ENCODER_TP_MODE", "data"


def _switch(key: str, meaning: str, flag: str) -> SettingSpec:
    return SettingSpec(key=key, section="Engine", kind=Kind.BOOLEAN, meaning=meaning, flag=flag)


_STATE_FORMATS = ("auto", "bfloat16", "float16", "float32")
OPTIONAL_SETTINGS: tuple[SettingSpec, ...] = (
    whole_number(
        "VLLM_DECODE_CONTEXT_PARALLEL_SIZE",
        "Engine",
        (1, 1024),
        "Decode context parallel size: ranks that share the KV cache of one layer",
        flag="--decode-context-parallel-size",
    ),
    _switch(EXPERT_PARALLEL, "Whole experts on each rank", EXPERT_PARALLEL_FLAG),
    whole_number(
        "VLLM_KV_CACHE_MEMORY_BYTES",
        "Engine",
        (1, 10**12 - 1),
        "KV cache of each rank in bytes, instead of what the memory share leaves",
        flag="--kv-cache-memory-bytes",
    ),
    SettingSpec(
        key=QUANTIZATION,
        section="Engine",
        kind=Kind.NAME,
        meaning="Quantization method; of unquantized weights made while they are loaded",
        flag="--quantization",
    ),
    whole_number("VLLM_BLOCK_SIZE", "Engine", (1, 4096), "Tokens of a block of the KV cache", flag="--block-size"),
    _switch(
        "VLLM_ENABLE_PREFIX_CACHING", "Keep the KV cache of beginnings that prompts share", "--enable-prefix-caching"
    ),
    SettingSpec(
        key="VLLM_MAMBA_CACHE_DTYPE",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of what recurrent layers keep",
        choices=_STATE_FORMATS,
        flag="--mamba-cache-dtype",
    ),
    SettingSpec(
        key="VLLM_MAMBA_SSM_CACHE_DTYPE",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of their recurrent state alone",
        choices=_STATE_FORMATS,
        flag="--mamba-ssm-cache-dtype",
    ),
    _switch("VLLM_ENFORCE_EAGER", "No CUDA graphs and no compilation", "--enforce-eager"),
    whole_number(
        "VLLM_MAX_CUDAGRAPH_CAPTURE_SIZE",
        "Engine",
        (1, 65536),
        "Largest batch that a CUDA graph is captured for",
        flag="--max-cudagraph-capture-size",
    ),
    SettingSpec(
        key="VLLM_SPECULATIVE_CONFIG",
        section="Engine",
        kind=Kind.JSON,
        meaning="Speculative decoding: method, draft model, tokens",
        flag="--speculative-config",
    ),
    _switch("VLLM_ENABLE_LORA", "Serve LoRA adapters", "--enable-lora"),
    whole_number("VLLM_MAX_LORAS", "Engine", (1, 1024), "LoRA adapters in one batch", flag="--max-loras"),
    SettingSpec(
        key="VLLM_MAX_LORA_RANK",
        section="Engine",
        kind=Kind.INTEGER,
        minimum=1,
        maximum=512,
        meaning="Largest rank of a LoRA adapter",
        choices=("1", "8", "16", "32", "64", "128", "256", "320", "512"),
        flag="--max-lora-rank",
    ),
    _switch("VLLM_LANGUAGE_MODEL_ONLY", "Load and serve the language model alone", "--language-model-only"),
    SettingSpec(
        key=ENCODER_SPLIT,
        section="Engine",
        kind=Kind.TEXT,
        meaning="What ranks share of an encoder: its weights, or its requests, of which each rank then keeps all of it",
        choices=("weights", WHOLE_ENCODER),
        flag="--mm-encoder-tp-mode",
    ),
    SettingSpec(
        key="VLLM_LIMIT_MM_PER_PROMPT",
        section="Engine",
        kind=Kind.JSON,
        meaning="Pictures, films and sounds of one request",
        flag="--limit-mm-per-prompt",
    ),
    whole_number(
        "VLLM_CPU_OFFLOAD_GB",
        "Engine",
        (0, 4096),
        "GiB of weights on each rank left in host memory",
        flag="--cpu-offload-gb",
    ),
)
"""Those that a plan leaves to the engine: emitted only where a person pins them. 0.33.0 engine/arg_utils.py and
config/lora.py, read 2026-11-29."""

ATTACHED_SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(
        key=LORA_MODULES,
        section="Engine",
        kind=Kind.WORDS,
        meaning="LoRA adapters, NAME=FOLDER or NAME=OWNER/NAME",
        flag="--lora-modules",
        pinnable=False,
    ),
    SettingSpec(
        key=CHAT_TEMPLATE,
        section="Engine",
        kind=Kind.PATH,
        meaning="Chat template: a Jinja file of this host, mounted read-only",
        flag="--chat-template",
    ),
)
"""Those that name what a person attaches to a model: emitted only where they do."""

STREAM_INTERVAL = whole_number(
    "VLLM_STREAM_INTERVAL",
    "Engine",
    (1, 1024),
    "Tokens of one event of a stream; with more than 1 some parsers lose tool calls or reasoning",
    flag="--stream-interval",
)

SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(key="VLLM_IMAGE", section="Images", kind=Kind.IMAGE, meaning="Engine image"),
    SettingSpec(
        key="VLLM_MODEL",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Model to load: a Hugging Face id or a folder",
        flag="--model",
        pinnable=False,
    ),
    SettingSpec(
        key="VLLM_SERVED_MODEL_NAME",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Model name that clients use",
        flag="--served-model-name",
        pinnable=False,
    ),
    whole_number(
        "VLLM_TENSOR_PARALLEL_SIZE",
        "Engine",
        (1, 1024),
        "Tensor parallel size: GPUs that share each layer",
        flag="--tensor-parallel-size",
    ),
    whole_number(
        "VLLM_PIPELINE_PARALLEL_SIZE",
        "Engine",
        (1, 1024),
        "Pipeline parallel size: stages that the layers are split into",
        flag="--pipeline-parallel-size",
    ),
    SettingSpec(
        key="VLLM_GPU_MEMORY_UTILIZATION",
        section="Engine",
        kind=Kind.FRACTION,
        minimum=0.05,
        maximum=0.99,
        meaning="Share of each GPU's memory for the engine",
        flag="--gpu-memory-utilization",
    ),
    SettingSpec(
        key="VLLM_MAX_MODEL_LEN",
        section="Engine",
        kind=Kind.CONTEXT,
        minimum=1,
        maximum=2**31 - 1,
        meaning="Context length in tokens; auto: the longest that fits",
        flag="--max-model-len",
    ),
    whole_number(
        "VLLM_MAX_NUM_SEQS", "Engine", (1, 65536), "Most concurrent requests of the engine", flag="--max-num-seqs"
    ),
    whole_number(
        "VLLM_MAX_NUM_BATCHED_TOKENS",
        "Engine",
        (1, 2**31 - 1),
        "Most tokens per engine step",
        flag="--max-num-batched-tokens",
    ),
    SettingSpec(
        key="VLLM_KV_CACHE_DTYPE",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of the KV cache",
        choices=CACHE_FORMATS,
        flag="--kv-cache-dtype",
    ),
    SettingSpec(
        key=DTYPE,
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of weights and activations",
        choices=("auto", "bfloat16", "float16", "float32"),
        flag="--dtype",
    ),
    *OPTIONAL_SETTINGS,
    *ATTACHED_SETTINGS,
    STREAM_INTERVAL,
    SettingSpec(
        key="VLLM_TOOL_CALL_PARSER",
        section="Engine",
        kind=Kind.NAME,
        meaning="Tool call parser; none: no tool calls",
        flag="--tool-call-parser",
        absent=NO_PARSER,
    ),
    SettingSpec(
        key="VLLM_REASONING_PARSER",
        section="Engine",
        kind=Kind.NAME,
        meaning="Reasoning parser; none: reasoning is not separated",
        flag="--reasoning-parser",
        absent=NO_PARSER,
    ),
    SettingSpec(
        key="VLLM_ALLOWED_MEDIA_DOMAINS",
        section="Engine",
        kind=Kind.HOST,
        meaning="Host that image URLs may be fetched from; any: every host",
        flag="--allowed-media-domains",
        absent=ANY_HOST,
    ),
    whole_number("VLLM_CPU_KVCACHE_SPACE", "Engine", (1, 4096), "KV cache in host memory, in GiB per rank"),
    SettingSpec(key="VLLM_SHM_SIZE", section="Engine", kind=Kind.SIZE, meaning="Shared memory of an engine container"),
    SettingSpec(
        key="VLLM_CACHE_ROOT",
        section="Caches",
        kind=Kind.PATH,
        meaning="Cache on the host for compiled kernels",
    ),
)
# A switch is a word of its own, which nothing can be bound to; several words are no single one.
_UNBOUND = (Kind.BOOLEAN, Kind.WORDS)
FLAGS = {spec.flag: spec.key for spec in SETTINGS if spec.flag is not None and spec.kind not in _UNBOUND}

CPU_RELEASE = "0.32.0"
"""The release whose packages are locked for processors: both runtimes serve the same code."""

KEYS = EngineKeys(
    model="VLLM_MODEL",
    served_name="VLLM_SERVED_MODEL_NAME",
    image="VLLM_IMAGE",
    tensor_parallel="VLLM_TENSOR_PARALLEL_SIZE",
    pipeline_parallel="VLLM_PIPELINE_PARALLEL_SIZE",
    context="VLLM_MAX_MODEL_LEN",
    shared_memory="VLLM_SHM_SIZE",
    cache_folder="VLLM_CACHE_ROOT",
    requests="VLLM_MAX_NUM_SEQS",
    step_tokens="VLLM_MAX_NUM_BATCHED_TOKENS",
    cache_format="VLLM_KV_CACHE_DTYPE",
    memory_share="VLLM_GPU_MEMORY_UTILIZATION",
    processor_cache="VLLM_CPU_KVCACHE_SPACE",
    media="VLLM_ALLOWED_MEDIA_DOMAINS",
    prefix_caching="VLLM_ENABLE_PREFIX_CACHING",
    expert_parallel=EXPERT_PARALLEL,
    chat_template=CHAT_TEMPLATE,
    argument_prefix=ARGUMENT_PREFIX,
)


def first_without_bfloat16(gpus: Iterable[Gpu]) -> Gpu | None:
    """Return the first GPU that is known to have no bfloat16; None where none is."""
    least = version_parts(BFLOAT16_CAPABILITY)
    return next((gpu for gpu in gpus if gpu.compute_capability and version_parts(gpu.compute_capability) < least), None)
