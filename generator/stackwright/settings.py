"""Every setting that is emitted, declared once: its key, meaning, allowed values and engine flag.

Those of the whole stack stand here, those of a service in its row (services/NAME.py), those of an engine beside it
(engines/NAME/settings.py). The environment files, `--set`,
the override's command line, validation and docs/reference/settings.md all derive from `all_settings()`. Touches
nothing: mappings and text are passed in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from msgspec import Struct

from stackwright.domain.arguments import flag_of_key
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines import ENGINES
from stackwright.engines.protocol import Engine
from stackwright.services import SERVICES, ServiceRow, outside
from stackwright.services.additions import SECTION as ADDITIONS
from stackwright.services.additions import SETTINGS as ADDITION_SETTINGS

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
    *outside.SETTINGS,
    *ADDITION_SETTINGS,
)

SECTIONS = ("Stack", "Images", "Gateway", "Limits", "Switching", "GPUs", "Engine", ADDITIONS, "Caches", "Network")


class DeclaredSettings(Struct, frozen=True, kw_only=True):
    """Every setting of the stack, its services and the registered engines, in the order in which they are emitted.

    `per_model`: what each of several models has of its own; everything else they share.
    """

    specs: tuple[SettingSpec, ...]
    by_key: Mapping[str, SettingSpec]
    positions: Mapping[str, int]
    images: tuple[str, ...]
    per_model: frozenset[str]


def declared_settings() -> DeclaredSettings:
    """Return the declarations of the stack, and of every service and engine that is registered now."""
    return _declared(tuple(ENGINES.values()), tuple(SERVICES))


@functools.cache
def _declared(engines: tuple[Engine, ...], services: tuple[ServiceRow, ...]) -> DeclaredSettings:
    owned = [spec for engine in engines for spec in engine.settings]
    # The engine's image is the first of the images; its own folder follows the one that all share.
    rows = [spec for spec in owned if spec.section == "Images"]
    # What clients ask comes first, as people read it.
    rows += [*OWN_SETTINGS, *(spec for row in reversed(services) for spec in row.settings)]
    rows += [spec for spec in owned if spec.section != "Images"]
    specs = tuple(sorted(rows, key=lambda spec: _section_number(spec.section)))
    return DeclaredSettings(
        specs=specs,
        by_key={spec.key: spec for spec in specs},
        positions={spec.key: position for position, spec in enumerate(specs)},
        images=tuple(spec.key for spec in specs if spec.section == "Images"),
        per_model=frozenset(spec.key for spec in specs if spec.section == "Engine" or spec.per_model)
        | {engine.keys.image for engine in engines},
    )


def _section_number(section: str) -> int:
    """Return where a section comes; one that a further service brings, before the caches."""
    return SECTIONS.index(section) if section in SECTIONS else SECTIONS.index("Caches") - 1


def all_settings() -> tuple[SettingSpec, ...]:
    """Return every declared setting, in the order in which they are emitted."""
    return declared_settings().specs


def find_spec(key: str) -> SettingSpec | None:
    """Return the declaration of a plain key; one of an engine's flag that no setting declares is made from its name."""
    known = declared_settings().by_key.get(key)
    for engine in ENGINES.values() if known is None else ():
        prefix = engine.keys.argument_prefix
        if prefix and re.fullmatch(re.escape(prefix) + "[A-Z0-9_]*[A-Z0-9]", key):
            flag = flag_of_key(key, prefix)
            return SettingSpec(key=key, section="Engine", kind=Kind.TEXT, meaning=f"{engine.title}'s {flag}", flag=flag)
    return known


def is_per_model(key: str) -> bool:
    """Return whether each of several models has its own value of a plain key."""
    return key in declared_settings().per_model or (
        key not in declared_settings().by_key and find_spec(key) is not None
    )


def order_of(key: str) -> tuple[int, str]:
    """Return where a plain key stands among all that are emitted: a flag's own behind the engine's. Raises KeyError."""
    positions = declared_settings().positions
    if key in positions or find_spec(key) is None:
        return positions[key], ""
    return max(positions[spec.key] for spec in all_settings() if spec.section == "Engine"), key


_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS?)$", re.IGNORECASE)


def where_secrets_belong(key: str, environment: str) -> str | None:
    """Return where to put what an unknown key that is named like a secret holds; None for any other key."""
    if not _SECRET.search(key):
        return None
    return f"secrets belong in envs/.secrets/{environment}/, a hub token in the exported HF_TOKEN"
