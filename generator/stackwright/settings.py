"""Every setting that is emitted, declared once: its key, meaning, allowed values and engine flag.

Stackwright's own stand here, those of an engine beside it (engines/NAME/settings.py). The environment files, `--set`,
the override's command line, validation and docs/reference/settings.md all derive from `all_settings()`. Touches
nothing: mappings and text are passed in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines import ENGINES
from stackwright.engines.protocol import Engine

T = TypeVar("T")

OWN_SETTINGS: tuple[SettingSpec, ...] = (
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
        meaning="Environment whose generated files and secrets are mounted",
        choices=("dev", "staging", "prod"),
        pinnable=False,
    ),
    whole_number("STACKWRIGHT_UID", "Stack", (0, 2**31 - 1), "User id inside the containers"),
    whole_number("STACKWRIGHT_GID", "Stack", (0, 2**31 - 1), "Group id inside the containers"),
    SettingSpec(key="LITELLM_IMAGE", section="Images", kind=Kind.TEXT, meaning="Gateway image"),
    SettingSpec(key="REDIS_IMAGE", section="Images", kind=Kind.TEXT, meaning="Redis image"),
    SettingSpec(
        key="GATEWAY_BIND", section="Gateway", kind=Kind.ADDRESS, meaning="Address that the gateway is published on"
    ),
    whole_number("GATEWAY_PORT", "Gateway", (1, 65535), "Port that the gateway is published on"),
    SettingSpec(
        key="GATEWAY_PLAIN_HTTP",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="Plain HTTP beyond this machine: refused or allowed",
        choices=("refused", "allowed"),
    ),
    whole_number("LITELLM_NUM_WORKERS", "Gateway", (1, 256), "Worker processes of the gateway"),
    SettingSpec(
        key="GATEWAY_ROUTING_STRATEGY",
        section="Gateway",
        kind=Kind.TEXT,
        meaning="How the gateway chooses a replica",
        choices=("simple-shuffle", "least-busy", "latency-based-routing", "usage-based-routing-v2"),
    ),
    whole_number(
        "GATEWAY_REQUEST_TIMEOUT_S", "Gateway", (1, 86400), "Seconds that a request may wait in the queue, and then run"
    ),
    whole_number("GATEWAY_COOLDOWN_S", "Gateway", (1, 3600), "Seconds that a failing replica is skipped"),
    whole_number("GATEWAY_MAX_CONCURRENT_REQUESTS", "Limits", (0, 65536), "Concurrent requests per model; 0: no limit"),
    whole_number(
        "GATEWAY_MAX_QUEUED_REQUESTS",
        "Limits",
        (0, 65536),
        "Queued requests per model; further ones are answered 429",
    ),
    whole_number(
        "GATEWAY_MAX_INPUT_TOKENS",
        "Limits",
        (0, 2**31 - 1),
        "Longest input in tokens; longer is answered 400; 0: no limit",
    ),
    whole_number(
        "GATEWAY_MAX_BODY_BYTES",
        "Limits",
        (0, 2**31 - 1),
        "Longest request in bytes; longer is answered 413; 0: no limit",
    ),
    whole_number("GATEWAY_KEY_REQUESTS_PER_MINUTE", "Limits", (0, 10**9), "Requests per minute and key; 0: no limit"),
    whole_number("GATEWAY_KEY_TOKENS_PER_MINUTE", "Limits", (0, 10**9), "Tokens per minute and key; 0: no limit"),
    whole_number("SWITCH_MIN_RESIDENCE_S", "Switching", (0, 86400), "Least seconds that a model stays loaded"),
    whole_number(
        "SWITCH_DRAIN_S", "Switching", (0, 86400), "Seconds that running requests may take to finish before a switch"
    ),
    whole_number("SWITCH_LOAD_LIMIT_S", "Switching", (1, 86400), "Most seconds for loading a model"),
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
        meaning="GPUs that the plan uses, by UUID",
    ),
    SettingSpec(
        key="CUDA_VISIBLE_DEVICES",
        section="GPUs",
        kind=Kind.TEXT,
        meaning="GPUs of one replica, as its container numbers them",
        pinnable=False,
    ),
    whole_number("GPU_COUNT", "GPUs", (1, 1024), "Number of GPUs in use, all replicas together", pinnable=False),
    SettingSpec(
        key="HF_HOME",
        section="Caches",
        kind=Kind.PATH,
        meaning="Model cache on the host, shared by all environments",
    ),
)

SECTIONS = ("Stack", "Images", "Gateway", "Limits", "Switching", "GPUs", "Engine", "Caches")
# What bounds a switch of models.
SWITCHING = {"residence_s": "SWITCH_MIN_RESIDENCE_S", "drain_s": "SWITCH_DRAIN_S", "load_s": "SWITCH_LOAD_LIMIT_S"}
_OWN_PER_MODEL = (
    "CUDA_VISIBLE_DEVICES",
    *("GATEWAY_MAX_CONCURRENT_REQUESTS", "GATEWAY_MAX_QUEUED_REQUESTS", "GATEWAY_MAX_INPUT_TOKENS"),
)


@dataclass(frozen=True, kw_only=True)
class DeclaredSettings:
    """Every setting of Stackwright and of the registered engines, in the order in which they are emitted.

    `per_model`: what each of several models has of its own; everything else they share.
    """

    specs: tuple[SettingSpec, ...]
    by_key: Mapping[str, SettingSpec]
    images: tuple[str, ...]
    per_model: frozenset[str]


def declared_settings() -> DeclaredSettings:
    """Return the declarations of Stackwright and of every engine that is registered now."""
    return _declared(tuple(ENGINES.values()))


@functools.cache
def _declared(engines: tuple[Engine, ...]) -> DeclaredSettings:
    owned = [spec for engine in engines for spec in engine.settings]
    # The engine's image is the first of the images; its own folder follows the one that all share.
    rows = [spec for spec in owned if spec.section == "Images"]
    rows += [*OWN_SETTINGS, *(spec for spec in owned if spec.section != "Images")]
    specs = tuple(sorted(rows, key=lambda spec: SECTIONS.index(spec.section)))
    return DeclaredSettings(
        specs=specs,
        by_key={spec.key: spec for spec in specs},
        images=tuple(spec.key for spec in specs if spec.section == "Images"),
        per_model=frozenset(spec.key for spec in specs if spec.section == "Engine")
        | {engine.keys.image for engine in engines}
        | frozenset(_OWN_PER_MODEL),
    )


def all_settings() -> tuple[SettingSpec, ...]:
    """Return every declared setting, in the order in which they are emitted."""
    return declared_settings().specs


_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE)


def where_secrets_belong(key: str, environment: str) -> str | None:
    """Return where to put what an unknown key that is named like a secret holds; None for any other key."""
    if not _SECRET.search(key):
        return None
    return f"secrets belong in envs/.secrets/{environment}/, a hub token in the exported HF_TOKEN"


def bind_arguments(
    arguments: Iterable[str], flags: Mapping[str, str], reference: Callable[[str], T]
) -> tuple[T | str, ...]:
    """Replace each value that a setting carries by `reference(key)`: a person's local environment file beats it.

    `flags`: the engine's, each with the key that it carries.
    """
    bound: list[T | str] = []
    waiting: str | None = None
    for word in arguments:
        bound.append(reference(waiting) if waiting else word)
        waiting = None if waiting else flags.get(word)
    return tuple(bound)
