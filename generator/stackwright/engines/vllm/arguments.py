"""vLLM's argument list and environment. Pure.

Flags and variables as in vLLM 0.32.0 (vllm/engine/arg_utils.py, vllm/envs.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.domain.arguments import flag_of_key, words_of
from stackwright.domain.catalog import Catalog
from stackwright.domain.model_facts import ModelConfig, ModelFacts
from stackwright.domain.plan import Mode
from stackwright.domain.role import Role
from stackwright.domain.setting_spec import Kind
from stackwright.engines.vllm.overrides import ranking_overrides
from stackwright.engines.vllm.settings import ANY_HOST, ARGUMENT_PREFIX, SETTINGS
from stackwright.errors import NoPlanError

# vLLM 0.32.0 config/model.py, _SUFFIX_TO_DEFAULTS, in its order: the first ending that matches tells.
_ROLES = (
    *((ending, Role.CHAT) for ending in ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")),
    *((ending, Role.EMBEDDING) for ending in ("ForTextEncoding", "EmbeddingModel")),
    ("ForSequenceClassification", Role.RERANK),
    ("Model", Role.EMBEDDING),
)
_SERVED = {
    Role.CHAT: "chat models",
    Role.VISION: "models with a vision_config",
    Role.EMBEDDING: "models without a scoring layer",
    Role.RERANK: "cross-encoders, …ForSequenceClassification with one score",
    Role.TRANSCRIPTION: "models for speech, such as Whisper",
}
# What the engine serves and a gateway's users cannot be given yet, by the role in catalog/architectures.yaml.
_UNSERVED = {
    "classification": "a classifier",
    "draft": "a draft model, which writes ahead for another one",
}
_EXAMPLES = {
    Role.CHAT: "Qwen/Qwen3-8B",
    Role.VISION: "Qwen/Qwen3-VL-8B-Instruct",
    Role.EMBEDDING: "BAAI/bge-m3",
    Role.RERANK: "BAAI/bge-reranker-v2-m3",
    Role.TRANSCRIPTION: "openai/whisper-large-v3",
}
# The first release with `--runner` (catalog/flags.yaml).
POOLING_RELEASE = "0.10.1.1"
# The first that serves models for speech alone (catalog/architectures.yaml).
SPEECH_RELEASE = "0.10.0"
# Tokens of a Whisper model for English alone (openai/whisper 20250625, tokenizer.py: one less than the first ones for
# many languages). vLLM begins each answer with a language and a task (0.32.0 and 0.33.0 models/whisper.py,
# get_generation_prompt), which such a model was never shown: tiny.en then ends at once, and without them writes what
# was said (tried, 2026-11-30).
ENGLISH_WHISPER = 51864
# The first with `--uds` (catalog/flags.yaml), where an engine listens that takes turns with others.
SOCKET_RELEASE = "0.19.1"
_CARRIED = {spec.flag: spec for spec in SETTINGS if spec.flag is not None}
_GPU_VARIABLES = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")


def engine_arguments(
    mode: Mode, values: Mapping[str, str], role: Role = Role.CHAT, catalog: Catalog | None = None
) -> tuple[str, ...]:
    """Return the argument list for the settings in `values`.

    A flag without a setting, or with none to carry, is left out.
    """
    carried = {
        flag: values[spec.key] for flag, spec in _CARRIED.items() if values.get(spec.key, spec.absent) != spec.absent
    }
    words = [word for flag, value in carried.items() for word in _words(flag, value)]
    if "--tool-call-parser" in carried:
        # The parser alone does nothing, and without the flag a request with tools is refused (0.32.0
        # parser/parser_manager.py).
        words += ["--enable-auto-tool-choice"]
    if role.pools:
        # From there the engine derives vectors or scores by the architecture (0.32.0 config/model.py,
        # _SUFFIX_TO_DEFAULTS).
        words += ["--runner", "pooling"]
    words += _given(values, catalog)
    # Compiling on a CPU needs a C++ compiler at the first request, which slim images and bare hosts lack.
    eager = mode is Mode.CPU and "--enforce-eager" not in words
    return (*words, "--enforce-eager") if eager else tuple(words)


def _given(values: Mapping[str, str], catalog: Catalog | None) -> list[str]:
    """Return the words of the flags that a person gives and no setting declares."""
    words: list[str] = []
    for key in (key for key in values if key.startswith(ARGUMENT_PREFIX)):
        flag = flag_of_key(key, ARGUMENT_PREFIX)
        kind = catalog.arguments().kinds.get(flag) if catalog else None
        words += words_of(flag, values[key], listed=kind is not None and kind.listed)
    return words


def _words(flag: str, value: str) -> tuple[str, ...]:
    """Return a flag with its value; a switch is turned off by another flag (argparse's BooleanOptionalAction)."""
    if _CARRIED[flag].kind is Kind.WORDS:
        return flag, *value.split()
    if _CARRIED[flag].kind is not Kind.BOOLEAN:
        return flag, value
    return (flag if value == "true" else flag.replace("--", "--no-", 1),)


def engine_environment(mode: Mode, values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the engine's own variables as (name, value) pairs."""
    # An allowed host could send the engine on to any other, with vLLM's default (0.32.0 envs.py).
    bound = values.get("VLLM_ALLOWED_MEDIA_DOMAINS", ANY_HOST) != ANY_HOST
    fetching = (("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0"),) if bound else ()
    if mode is not Mode.CPU:
        return (*((name, values[name]) for name in _GPU_VARIABLES), *fetching)
    return (
        ("VLLM_CPU_KVCACHE_SPACE", values["VLLM_CPU_KVCACHE_SPACE"]),
        # --enforce-eager alone still lets torch compile single functions (vLLM 0.32 dies at the first completion
        # without g++: InvalidCxxCompiler).
        ("TORCHDYNAMO_DISABLE", "1"),
        *fetching,
    )


def process_environment(*, cramped: bool) -> dict[str, str]:
    """Return the variables of a process on the host; `cramped`: /dev/shm holds no queue of its workers."""
    # vLLM opens sockets between its own processes on the host's outer address otherwise.
    variables = {"VLLM_HOST_IP": "127.0.0.1"}
    if cramped:
        # A single CPU worker then runs inside the engine's own process (vLLM 0.32.0, platforms/cpu.py); a single GPU's
        # always does.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return variables


def check_role(facts: ModelFacts, role: Role, catalog: Catalog) -> None:
    """Refuse what the engine would not start with, or would answer with numbers that mean nothing.

    Raises:
        NoPlanError: the model cannot do what it is asked for.
    """
    registered = catalog.architectures().role(facts.config.architecture)
    if facts.config.encodes_first and registered != Role.TRANSCRIPTION:
        # The engine serves some of them, for transcription alone (0.33.0 config/model.py, runner and supported tasks).
        raise NoPlanError(
            f"{facts.name} is an encoder-decoder model ({facts.config.architecture or 'of unknown architecture'}), for "
            "speech or translation: such models are not served",
            hint=f"name another model, such as {_EXAMPLES[Role.CHAT]}",
        )
    if registered in _UNSERVED:
        raise NoPlanError(
            f"{facts.name} ({facts.config.architecture}) is {_UNSERVED[registered]}: such models are not served",
            hint=f"name another model, such as {_EXAMPLES[Role.CHAT]}",
        )
    by_architecture = role_of(facts.config, catalog)
    made_for = facts.role or by_architecture
    # A model that writes makes vectors as well, and one that sees reads plain text; nothing else changes hands.
    able = {
        Role.CHAT: made_for.generates,
        Role.VISION: made_for is Role.VISION,
        Role.EMBEDDING: by_architecture not in (Role.RERANK, Role.TRANSCRIPTION),
        # The engine ranks by one score (0.32.0 entrypoints/pooling/utils.py). Without a layer for scores the engine
        # compares vectors (0.32.0 config/model.py, _get_default_convert_type), which a model made for ranking was never
        # taught; those that rank by a word are told by overrides (overrides.py), and need a template of their own.
        Role.RERANK: by_architecture is Role.RERANK and facts.config.scores == 1,
        Role.TRANSCRIPTION: by_architecture is Role.TRANSCRIPTION,
    }
    if not able[role]:
        architecture = facts.config.architecture or "unknown"
        given = ranking_overrides(architecture) if role is Role.RERANK else None
        overrides = f"if it is a reranker, it ranks with `--arg='--hf-overrides={given}'`; or " if given else ""
        other = by_architecture.generates and not made_for.generates and made_for is not role
        why = f"it is made for {made_for}" if other else f"its architecture is {architecture}"
        raise NoPlanError(
            f"{facts.name} cannot be served for {role}: {why}; vLLM needs {_SERVED[role]}",
            hint=f"{overrides}name another model, such as {_EXAMPLES[role]}, or another role in envs/<env>.yaml",
        )


def model_warnings(config: ModelConfig) -> tuple[str, ...]:
    """Return what a person should know of how vLLM serves a model."""
    if config.architecture == "WhisperForConditionalGeneration" and config.shape.vocab == ENGLISH_WHISPER:
        other = _EXAMPLES[Role.TRANSCRIPTION]
        return (f"a Whisper model for English alone gives empty text in vLLM; one for many languages: {other}",)
    return ()


def role_of(config: ModelConfig, catalog: Catalog) -> Role:
    """Return what a model is made for, by the engine's registry, else by the end of its architecture's name.

    One that embeds may have the architecture of one that writes: its environment says so.
    """
    registered = catalog.architectures().role(config.architecture)
    if registered in (Role.EMBEDDING, Role.RERANK, Role.TRANSCRIPTION):
        return Role(registered)
    if config.sees or (registered == Role.VISION and config.takes_media):
        return Role.VISION
    return next((role for ending, role in _ROLES if config.architecture.endswith(ending)), Role.CHAT)
