"""Settings that a person fixed, on the command line or in an environment's file, read once. Touches nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.choices import TunedSetting
from stackwright.domain.environment import COMMON
from stackwright.domain.plan import Adapter, Origin
from stackwright.domain.setting_spec import SettingSpec, problem_with
from stackwright.domain.wishes import ModelWish, Pin
from stackwright.engines import ENGINES
from stackwright.engines.protocol import Engine
from stackwright.errors import UsageError, did_you_mean
from stackwright.rendering.numbered import spec_of_written, split_key
from stackwright.settings import declared_settings, is_per_model, where_secrets_belong


def parse_pin(text: str) -> tuple[str, str]:
    """Read one `--set KEY=VALUE`. Raises UsageError where key or value is not allowed."""
    key, equals, value = text.partition("=")
    if not equals:
        shown = text[:80] or repr(text)
        raise UsageError(f"--set {shown}: expected KEY=VALUE", hint="for example `--set LITELLM_NUM_WORKERS=2`")
    check_pins({key: value}, where="--set")
    return key, value


def check_pins(pins: Mapping[str, str], *, where: str) -> None:
    """Refuse pins of unknown or derived keys and values that are out of bounds. Raises UsageError."""
    for key, value in pins.items():
        spec = known_setting(key, where=where)
        if not spec.pinnable:
            raise UsageError(
                f"{where}: {key} is derived from other settings and cannot be pinned",
                hint=_instead_of_a_pin(split_key(key)[0]) or f"it is: {spec.meaning.lower()}",
            )
        if problem := problem_with(spec, value):
            raise UsageError(f"{where}: {key}: found `{value[:80]}`, allowed: {problem}")


def _instead_of_a_pin(key: str) -> str | None:
    if key in (engine.keys.model for engine in ENGINES.values()):
        return "name the model with `--model`"
    if key in (engine.keys.served_name for engine in ENGINES.values()):
        return "write models[].served_name in envs/<env>.yaml"
    return "name it with `--env`" if key == "STACKWRIGHT_ENVIRONMENT" else None


def known_setting(key: str, *, where: str) -> SettingSpec:
    """Return the declaration of `key`. Raises UsageError with the closest known key."""
    spec = spec_of_written(key)
    if spec is None:
        hint = (
            where_secrets_belong(key, "ENV")
            or _flags_belong(key)
            or did_you_mean(key.upper(), declared_settings().by_key)
        )
        hint = hint or "docs/reference/settings.md lists every key"
        raise UsageError(f"{where}: {key[:80]}: unknown setting", hint=hint)
    return spec


def _flags_belong(key: str) -> str | None:
    """Return where flags of an engine go, for a key that is named like all of them together."""
    engines = "|".join(name.upper() for name in ENGINES)
    if re.search(f"(EXTRA|ENGINE|{engines}|SERVER|SERVE|CLI)_?(ARG|FLAG|OPTION|PARAM)", key.upper()) is None:
        return None
    return "engine flags: `--arg=--FLAG=VALUE`, or models[].args in envs/<env>.yaml (docs/how-to/engine-arguments.md)"


def read_pins(
    wished: Mapping[str, str],
    command_line: Mapping[str, str],
    environment: str,
    remembered: Collection[str] = (),
    shared: Collection[str] = (),
    tuned: Mapping[str, TunedSetting] | None = None,
) -> tuple[Pin, ...]:
    """Return the pins in force: those of the command line beat those of `envs/<environment>.yaml`.

    `remembered`: keys of `command_line` that an earlier command pinned. `shared`: what stands in the file of all
    environments, such as `settings.GATEWAY_PORT`. `tuned`: what holds where a person pinned nothing.
    """
    pins = {}
    for written, found in (tuned or {}).items():
        pin = _pin(written, found.value, Origin.TUNED, f"`stackwright tune` on {found.measured}")
        pins[written] = replace(pin, reason=found.reason)
    for written, value in wished.items():
        spot = f"settings.{written}"
        file = COMMON if spot in shared else f"envs/{environment}.yaml"
        pins[written] = _pin(written, value, Origin.WISHED, f"{file}: {spot}")
    for written, value in command_line.items():
        earlier = f"--set of an earlier command; `--unset {written}` takes it back"
        origin, source = (Origin.REMEMBERED, earlier) if written in remembered else (Origin.PINNED, "--set")
        pins[written] = _pin(written, value, origin, source)
    return tuple(pins.values())


class GivenArguments(Struct, frozen=True, kw_only=True):
    """Flags of an engine from the command line; `remembered`: all of them are an earlier command's."""

    flags: tuple[str, ...] = ()
    remembered: bool = False


def pins_of_model(
    wish: ModelWish, given: GivenArguments, adapters: tuple[Adapter, ...], engine: Engine, spot: str
) -> tuple[Pin, ...]:
    """Return what is said of one model alone, as pins; its number is not known yet.

    Args:
        given: flags of the command line, which beat those of its file.
        adapters: the wished ones, read.
        spot: its entry in that file.

    Raises:
        UsageError: a flag cannot be given.
    """
    own = {engine.keys.image: ("image", wish.image), engine.keys.chat_template: ("chat_template", wish.chat_template)}
    values = {key: (field, text) for key, (field, text) in own.items() if key is not None and text is not None}
    values |= {key: ("lora", text) for key, text in engine.adapter_settings(adapters).items()}
    values |= {key: ("args", text) for key, text in engine.route_arguments(wish.args, f"{spot}.args").items()}
    pins = {key: _own(key, text, Origin.WISHED, f"{spot}.{field}") for key, (field, text) in values.items()}
    earlier = "--arg of an earlier command; `--unset arg` takes it back"
    origin, source = (Origin.REMEMBERED, earlier) if given.remembered else (Origin.PINNED, "--arg")
    for key, text in engine.route_arguments(given.flags, "--arg").items():
        pins[key] = _own(key, text, origin, source)
    return tuple(pins.values())


def _own(key: str, value: str, origin: Origin, source: str) -> Pin:
    return Pin(key=key, model=None, value=value, origin=origin, source=source, written=key)


def _pin(written: str, value: str, origin: Origin, source: str) -> Pin:
    key, number = split_key(written)
    model = number if is_per_model(key) else None
    return Pin(key=key, model=model, value=value, origin=origin, source=source, written=written)
