"""vLLM's argument list and environment. Pure.

Flags and variables as in vLLM 0.32.0 (vllm/engine/arg_utils.py, vllm/envs.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from generator.domain.plan import Mode
from generator.domain.role import Role
from generator.settings import BY_FLAG

# In the order that they are read most easily in a process list.
_FLAGS = (
    "--model",
    "--served-model-name",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    "--gpu-memory-utilization",
    "--max-model-len",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--kv-cache-dtype",
    "--dtype",
)
# vLLM 0.32.0 config/model.py, _SUFFIX_TO_DEFAULTS, in its order: the first ending that matches tells.
_ROLES = (
    *((ending, Role.CHAT) for ending in ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")),
    *((ending, Role.EMBEDDING) for ending in ("ForTextEncoding", "EmbeddingModel")),
    ("ForSequenceClassification", Role.RERANK),
    ("Model", Role.EMBEDDING),
)
# The first release with `--runner` (catalog/flags.yaml).
POOLING_RELEASE = "0.10.1.1"
_GPU_VARIABLES = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")


def engine_arguments(mode: Mode, values: Mapping[str, str], role: Role = Role.CHAT) -> tuple[str, ...]:
    """Return the argument list for the settings in `values`; a flag without a setting is left out."""
    words = [word for flag in _FLAGS if (key := BY_FLAG[flag].key) in values for word in (flag, values[key])]
    if not role.generates:
        # From there the engine derives vectors or scores by the architecture (0.32.0 config/model.py, _SUFFIX_TO_DEFAULTS).
        words += ["--runner", "pooling"]
    # Compiling on a CPU needs a C++ compiler at the first request, which slim images and bare hosts lack.
    return (*words, "--enforce-eager") if mode is Mode.CPU else tuple(words)


def engine_environment(mode: Mode, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the engine's own variables as (name, value) pairs."""
    if mode is not Mode.CPU:
        return tuple((name, values[name]) for name in _GPU_VARIABLES)
    return (
        ("VLLM_CPU_KVCACHE_SPACE", values["VLLM_CPU_KVCACHE_SPACE"]),
        # --enforce-eager alone still lets torch compile single functions (vLLM 0.32 dies at the first completion
        # without g++: InvalidCxxCompiler).
        ("TORCHDYNAMO_DISABLE", "1"),
    )


def role_of(config: Mapping[str, object]) -> Role:
    """Return what a model is made for, by the end of its architecture's name, as the engine itself tells it.

    One that embeds may have the architecture of one that writes: its environment says so.
    """
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list | tuple) and names else ""
    if "vision_config" in config:
        return Role.VISION
    return next((role for ending, role in _ROLES if name.endswith(ending)), Role.CHAT)
