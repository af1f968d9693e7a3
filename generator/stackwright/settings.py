"""Every setting that is emitted, declared once: its key, meaning, allowed values and engine flag.

The environment files, `--set`, the override's command line, validation and docs/reference/settings.md all derive
from `SETTINGS`. Touches nothing: mappings and text are passed in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_VALUE_LENGTH = 4096
NO_PARSER, ANY_HOST = "none", "any"


class Kind(StrEnum):
    """How a value is written."""

    TEXT = "text"
    INTEGER = "integer"
    FRACTION = "fraction"
    ADDRESS = "address"
    SIZE = "size"
    CONTEXT = "context"
    PATH = "path"
    NAME = "name"
    HOST = "host"


@dataclass(frozen=True, kw_only=True)
class SettingSpec:
    """One emitted key.

    `flag` is the engine flag that carries it, left out where the value is `absent`. A setting with `pinnable` False follows from others.
    `minimum` and `maximum` bound the number kinds, both inclusive.
    """

    key: str
    section: str
    kind: Kind
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flag: str | None = None
    pinnable: bool = True
    absent: str | None = None


def _whole(
    key: str, section: str, bounds: tuple[int, int], meaning: str, *, flag: str | None = None, pinnable: bool = True
) -> SettingSpec:
    """Declare a whole number."""
    return SettingSpec(
        key=key,
        section=section,
        kind=Kind.INTEGER,
        meaning=meaning,
        minimum=bounds[0],
        maximum=bounds[1],
        flag=flag,
        pinnable=pinnable,
    )


SETTINGS: tuple[SettingSpec, ...] = (
    SettingSpec(
        key="COMPOSE_PROJECT_NAME",
        section="Stack",
        kind=Kind.NAME,
        meaning="Name of the Compose project and its containers",
    ),
    SettingSpec(
        key="STACKWRIGHT_ENVIRONMENT",
        section="Stack",
        kind=Kind.TEXT,
        meaning="Which folder of compose/generated/ and envs/.secrets/ is mounted",
        choices=("dev", "staging", "prod"),
        pinnable=False,
    ),
    _whole("STACKWRIGHT_UID", "Stack", (0, 2**31 - 1), "User id inside the containers"),
    _whole("STACKWRIGHT_GID", "Stack", (0, 2**31 - 1), "Group id inside the containers"),
    SettingSpec(key="VLLM_IMAGE", section="Images", kind=Kind.TEXT, meaning="Engine image"),
    SettingSpec(key="LITELLM_IMAGE", section="Images", kind=Kind.TEXT, meaning="Gateway image"),
    SettingSpec(key="REDIS_IMAGE", section="Images", kind=Kind.TEXT, meaning="Redis image"),
    SettingSpec(
        key="GATEWAY_BIND", section="Gateway", kind=Kind.ADDRESS, meaning="Address that the gateway is published on"
    ),
    _whole("GATEWAY_PORT", "Gateway", (1, 65535), "Port that the gateway is published on"),
    SettingSpec(
        key="GATEWAY_PLAIN_HTTP",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="Whether the gateway may be published beyond this machine without TLS",
        choices=("refused", "allowed"),
    ),
    _whole("LITELLM_NUM_WORKERS", "Gateway", (1, 256), "Worker processes of the gateway"),
    SettingSpec(
        key="GATEWAY_ROUTING_STRATEGY",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="How a request's replica is chosen",
        choices=("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2"),
    ),
    _whole("GATEWAY_REQUEST_TIMEOUT_S", "Gateway", (1, 86400), "Seconds a request may wait for its turn, then take"),
    _whole("GATEWAY_COOLDOWN_S", "Gateway", (1, 3600), "Seconds that a failing replica gets no requests"),
    _whole("GATEWAY_MAX_CONCURRENT_REQUESTS", "Limits", (0, 65536), "Requests of a model at work at once; 0: no limit"),
    _whole(
        "GATEWAY_MAX_QUEUED_REQUESTS",
        "Limits",
        (0, 65536),
        "Requests that wait for their turn; the next is answered 429",
    ),
    _whole("GATEWAY_MAX_INPUT_TOKENS", "Limits", (0, 2**31 - 1), "Longest input in tokens; longer is 400; 0: no check"),
    _whole("GATEWAY_MAX_BODY_BYTES", "Limits", (0, 2**31 - 1), "Longest request in bytes; longer is 413; 0: no limit"),
    _whole("GATEWAY_KEY_REQUESTS_PER_MINUTE", "Limits", (0, 10**9), "Requests per minute of one key; 0: no limit"),
    _whole("GATEWAY_KEY_TOKENS_PER_MINUTE", "Limits", (0, 10**9), "Tokens per minute of one key; 0: no limit"),
    _whole("SWITCH_MIN_RESIDENCE_S", "Switching", (0, 86400), "Seconds that a model stays before another's turn"),
    _whole("SWITCH_DRAIN_S", "Switching", (0, 86400), "Seconds that requests at work may take to end before a switch"),
    _whole("SWITCH_LOAD_LIMIT_S", "Switching", (1, 86400), "Seconds that loading a model may take"),
    SettingSpec(
        key="CUDA_DEVICE_ORDER",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="Order in which CUDA numbers the GPUs",
        choices=("PCI_BUS_ID", "FASTEST_FIRST"),
    ),
    SettingSpec(
        key="NVIDIA_VISIBLE_DEVICES",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="UUIDs of the GPUs that the plan uses; a pin chooses among the host's GPUs",
    ),
    SettingSpec(
        key="CUDA_VISIBLE_DEVICES",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="GPUs as one replica's container numbers them, from 0",
        pinnable=False,
    ),
    _whole("GPU_COUNT", "GPUs", (1, 1024), "GPUs that the plan uses in all replicas together", pinnable=False),
    SettingSpec(
        key="VLLM_MODEL",
        section="Engine",
        kind=Kind.TEXT,
        meaning="What the engine loads: a Hugging Face id or a folder",
        flag="--model",
        pinnable=False,
    ),
    SettingSpec(
        key="VLLM_SERVED_MODEL_NAME",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Name that clients ask for",
        flag="--served-model-name",
        pinnable=False,
    ),
    _whole(
        "VLLM_TENSOR_PARALLEL_SIZE", "Engine", (1, 1024), "GPUs that share each layer", flag="--tensor-parallel-size"
    ),
    _whole(
        "VLLM_PIPELINE_PARALLEL_SIZE",
        "Engine",
        (1, 1024),
        "Stages that the layers are split into",
        flag="--pipeline-parallel-size",
    ),
    SettingSpec(
        key="VLLM_GPU_MEMORY_UTILIZATION",
        section="Engine",
        kind=Kind.FRACTION,
        minimum=0.05,
        maximum=0.99,
        meaning="Share of each GPU's memory that the engine takes",
        flag="--gpu-memory-utilization",
    ),
    SettingSpec(
        key="VLLM_MAX_MODEL_LEN",
        section="Engine",
        kind=Kind.CONTEXT,
        minimum=1,
        maximum=2**31 - 1,
        meaning="Longest context in tokens; auto: the longest that fits",
        flag="--max-model-len",
    ),
    _whole(
        "VLLM_MAX_NUM_SEQS", "Engine", (1, 65536), "Requests that the engine works on at once", flag="--max-num-seqs"
    ),
    _whole(
        "VLLM_MAX_NUM_BATCHED_TOKENS",
        "Engine",
        (1, 2**31 - 1),
        "Tokens that the engine works on in one step",
        flag="--max-num-batched-tokens",
    ),
    SettingSpec(
        key="VLLM_KV_CACHE_DTYPE",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of the KV cache",
        choices=("auto", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"),
        flag="--kv-cache-dtype",
    ),
    SettingSpec(
        key="VLLM_DTYPE",
        section="Engine",
        kind=Kind.TEXT,
        meaning="Number format of weights and activations",
        choices=("auto", "bfloat16", "float16", "float32"),
        flag="--dtype",
    ),
    SettingSpec(
        key="VLLM_TOOL_CALL_PARSER",
        section="Engine",
        kind=Kind.NAME,
        meaning="The engine's parser of the model's tool calls; none: the model calls no tools",
        flag="--tool-call-parser",
        absent=NO_PARSER,
    ),
    SettingSpec(
        key="VLLM_REASONING_PARSER",
        section="Engine",
        kind=Kind.NAME,
        meaning="The engine's parser that tells thoughts from the answer; none: both are one text",
        flag="--reasoning-parser",
        absent=NO_PARSER,
    ),
    SettingSpec(
        key="VLLM_ALLOWED_MEDIA_DOMAINS",
        section="Engine",
        kind=Kind.HOST,
        meaning="Host that the engine may fetch a request's pictures from; any: every one that it reaches",
        flag="--allowed-media-domains",
        absent=ANY_HOST,
    ),
    _whole("VLLM_CPU_KVCACHE_SPACE", "Engine", (1, 4096), "KV cache on the CPU, in GiB per rank"),
    SettingSpec(key="VLLM_SHM_SIZE", section="Engine", kind=Kind.SIZE, meaning="Shared memory of an engine container"),
    SettingSpec(
        key="HF_HOME",
        section="Caches",
        kind=Kind.PATH,
        meaning="Folder on the host for downloaded models, shared by all environments",
    ),
    SettingSpec(
        key="VLLM_CACHE_ROOT",
        section="Caches",
        kind=Kind.PATH,
        meaning="Folder on the host for what the engine compiles",
    ),
)

BY_KEY: Mapping[str, SettingSpec] = {spec.key: spec for spec in SETTINGS}
IMAGE_KEYS = tuple(spec.key for spec in SETTINGS if spec.section == "Images")
BY_FLAG: Mapping[str, SettingSpec] = {spec.flag: spec for spec in SETTINGS if spec.flag is not None}

# What bounds a switch of models, as `turns.format_turns` takes it.
SWITCHING = {"residence_s": "SWITCH_MIN_RESIDENCE_S", "drain_s": "SWITCH_DRAIN_S", "load_s": "SWITCH_LOAD_LIMIT_S"}
# What each of several models has of its own; everything else they share.
PER_MODEL = frozenset(spec.key for spec in SETTINGS if spec.section == "Engine") | {
    *("VLLM_IMAGE", "CUDA_VISIBLE_DEVICES"),
    *("GATEWAY_MAX_CONCURRENT_REQUESTS", "GATEWAY_MAX_QUEUED_REQUESTS", "GATEWAY_MAX_INPUT_TOKENS"),
}
_NUMBER = re.compile(r"[0-9]{1,12}")
_FRACTION = re.compile(r"[0-9]?\.[0-9]{1,6}|[01]")
_SIZE = re.compile(r"[1-9][0-9]{0,5}(kb|mb|gb|k|m|g)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# An env file is read by Compose and by python-dotenv, which disagree on these inside quotes; the surrogates are what
# Python makes of an argument or a path that is not UTF-8, and no file in UTF-8 can hold them.
_UNWRITABLE = re.compile(r"['\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def problem_with(spec: SettingSpec, value: str) -> str | None:
    """Say what is allowed for `spec` if `value` is not; None if it is."""
    if _UNWRITABLE.search(value) or len(value) > MAX_VALUE_LENGTH:
        return "text of one line without quotes, backslashes or control characters"
    if spec.choices and value not in spec.choices:
        return f"one of {', '.join(spec.choices)}"
    return _CHECKS[spec.kind](spec, value)


def _check_integer(spec: SettingSpec, value: str) -> str | None:
    inside = _NUMBER.fullmatch(value) and _within(spec, float(value))
    return None if inside else f"a whole number from {spec.minimum:.0f} to {spec.maximum:.0f}"


def _check_fraction(spec: SettingSpec, value: str) -> str | None:
    inside = _FRACTION.fullmatch(value) and _within(spec, float(value))
    return None if inside else f"a number from {spec.minimum} to {spec.maximum}"


def _check_context(spec: SettingSpec, value: str) -> str | None:
    return None if value == "auto" or _check_integer(spec, value) is None else "auto, or a number of tokens"


def _check_address(_: SettingSpec, value: str) -> str | None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return "an IPv4 address of this host, such as 127.0.0.1"
    return None


def _matcher(pattern: re.Pattern[str], allowed: str) -> Callable[[SettingSpec, str], str | None]:
    return lambda _, value: None if pattern.fullmatch(value) else allowed


_CHECKS: Mapping[Kind, Callable[[SettingSpec, str], str | None]] = {
    Kind.TEXT: _matcher(re.compile(r"\S(.*\S)?"), "text that is not empty"),
    Kind.INTEGER: _check_integer,
    Kind.FRACTION: _check_fraction,
    Kind.CONTEXT: _check_context,
    Kind.ADDRESS: _check_address,
    Kind.SIZE: _matcher(_SIZE, "a size such as 2gb or 512mb"),
    Kind.PATH: _matcher(re.compile(r"/[^:]*"), "an absolute path without a colon"),
    Kind.HOST: _matcher(re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"), "any, or a host such as images.example.org"),
    Kind.NAME: _matcher(_NAME, "lower-case letters, digits, - and _, beginning with a letter or digit"),
}


def _within(spec: SettingSpec, number: float) -> bool:
    return (spec.minimum is None or number >= spec.minimum) and (spec.maximum is None or number <= spec.maximum)


def bind_arguments(
    arguments: Iterable[str], value_of: Callable[[str], str], literal: Callable[[str], str]
) -> tuple[str, ...]:
    """Replace each value that a setting carries by `value_of(key)` and every other word by `literal(word)`.

    The override binds to `${KEY}` and the process runtime to the values in force, so that a person's local
    environment file reaches the engine the same way in both.
    """
    bound: list[str] = []
    waiting: SettingSpec | None = None
    for word in arguments:
        bound.append(value_of(waiting.key) if waiting else literal(word))
        waiting = None if waiting else BY_FLAG.get(word)
    return tuple(bound)
