"""How the settings of several models stand in one environment file: the second model's keys end in `_2`. Pure.

Written here while rendering, and read again where the environment in force is parsed (`model_values`) and where pins
are (project/pins.py); nothing else knows of the ending.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.plan import Plan, ServedModel, Setting
from stackwright.domain.service import SettingRef
from stackwright.domain.setting_spec import SettingSpec
from stackwright.engines import engine_named
from stackwright.settings import all_settings, declared_settings, find_spec, is_per_model, order_of

MOST_MODELS = 99
_NUMBERED = re.compile(r"(.+)_([2-9]|[1-9][0-9])")


def written_key(key: str, number: int) -> str:
    """Return a model's key as it is written.

    The second's ends in `_2`; the first's, and one that all share, is plain.
    """
    return f"{key}_{number}" if number > 1 and is_per_model(key) else key


def split_key(written: str) -> tuple[str, int]:
    """Return a plain key and the model's number: (`CUDA_VISIBLE_DEVICES`, 2) for `CUDA_VISIBLE_DEVICES_2`."""
    match = _NUMBERED.fullmatch(written)
    return (match[1], int(match[2])) if match and is_per_model(match[1]) else (written, 1)


def spec_of_written(written: str) -> SettingSpec | None:
    """Return the declaration of a written key, under its own name where a number ends it; None of an unknown one."""
    plain, number = split_key(written)
    spec = find_spec(plain)
    if spec is None or number == 1:
        return spec
    return replace(spec, key=written, section=f"Model {number}", meaning=f"{spec.meaning}, for model {number}")


def models_of_written(plan: Plan, written: str) -> tuple[ServedModel, ...]:
    """Return the models that a written key is about: one, or all where a plan has the setting once."""
    plain, number = split_key(written)
    return plan.models[number - 1 : number] if is_per_model(plain) else plan.models


def is_declared(written: str) -> bool:
    """Return whether a written key is of a declared setting: a person's own flags are not."""
    return split_key(written)[0] in declared_settings().by_key


def number_of(plan: Plan, model: ServedModel) -> int:
    """Return the number of a model, from 1."""
    return plan.models.index(model) + 1


def flat_settings(plan: Plan) -> dict[str, Setting]:
    """Return all settings of a plan as they are written: further models' behind the engine's.

    One image for all engines stays one setting.
    """
    flat = {**plan.settings, **plan.models[0].settings}
    for number, model in enumerate(plan.models[1:], start=2):
        for key, setting in model.settings.items():
            if _has_own(plan, model, key):
                flat[written_key(key, number)] = setting
    last_of_engine = max(order_of(spec.key) for spec in all_settings() if spec.section == "Engine")[0]

    def position(written: str) -> tuple[int, int, tuple[int, str]]:
        plain, number = split_key(written)
        own = order_of(plain)
        return (own[0], 1, own) if number == 1 else (last_of_engine, number, own)

    return dict(sorted(flat.items(), key=lambda item: position(item[0])))


def _has_own(plan: Plan, model: ServedModel, key: str) -> bool:
    """Return whether a further model's value is written beside the first's."""
    first, own = plan.models[0].settings.get(key), model.settings.get(key)
    is_image = key == engine_named(plan.models[0].engine.name).keys.image
    return own is not None and (not is_image or first is None or own.value != first.value)


def key_of(plan: Plan | None, setting: SettingRef) -> str:
    """Return the key under which the file has what a service refers to: the model's own, else the shared one."""
    if plan is None or setting.model is None:
        return setting.key
    model = plan.model(setting.model)
    return written_key(setting.key, number_of(plan, model)) if _has_own(plan, model, setting.key) else setting.key


class ModelValues(Struct, frozen=True, kw_only=True):
    """The values in force for one model by their plain keys, and under which key each of them is written."""

    values: Mapping[str, str]
    written: Mapping[str, str]

    def __getitem__(self, key: str) -> str:
        """Return a value in force. Raises KeyError where there is none."""
        return self.values[key]

    def get(self, key: str, otherwise: str | None = None) -> str | None:
        """Return a value in force, or `otherwise`."""
        return self.values.get(key, otherwise)


def model_values(env: Mapping[str, str], models: int) -> tuple[ModelValues, ...]:
    """Return what is in force for each of so many models; what one has none of its own for is the first model's."""
    return tuple(_values_of(env, number) for number in range(1, models + 1))


def _values_of(env: Mapping[str, str], number: int) -> ModelValues:
    plain = [key for key in env if split_key(key)[1] == 1]
    own = {split_key(key)[0]: key for key, value in env.items() if value and split_key(key)[1] == number}
    written = {**{key: key for key in plain}, **own}
    return ModelValues(values={key: env[name] for key, name in written.items()}, written=written)


def changed_keys(before: Mapping[str, str], after: Mapping[str, str], model: str) -> tuple[str, ...]:
    """Return the written keys whose values differ.

    Of a further model that comes or goes as a whole that is the key of its name alone, `model`'s.
    """
    numbers = [{split_key(key)[1] for key in keys_of(env, model)} for env in (before, after)]
    whole = (numbers[0] ^ numbers[1]) - {1}
    changed = [key for key in dict.fromkeys((*before, *after)) if before.get(key) != after.get(key)]
    return tuple(key for key in changed if split_key(key)[1] not in whole or split_key(key)[0] == model)


def keys_of(env: Mapping[str, str], key: str) -> tuple[str, ...]:
    """Return every key of an environment that is some model's `key`."""
    return tuple(written for written in env if split_key(written)[0] == key)
