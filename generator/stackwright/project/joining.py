"""The wishes of one environment laid over those that all share. Pure: takes what the two files say.

Mappings are joined key by key, everything else is replaced, lists too. What is null, or missing, in the environment's
own file is left to the shared one. Of `model` and `models`, which exclude each other, the own file's word decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_EITHER = ("model", "models")


def join_wishes(common: object, own: object) -> object:
    """Return what both say; what is no mapping, and so refused later, is returned as it is."""
    if not isinstance(common, Mapping) or not isinstance(own, Mapping):
        return own
    joined = {**_without_other_word(common, own)}
    for key, value in own.items():
        if value is None and key in joined:
            continue
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = join_wishes(joined[key], value) if both else value
    return joined


def shared_keys(common: Mapping[str, object], own: object) -> frozenset[str]:
    """Return the keys, such as `gateway.port`, whose values are the shared file's."""
    if not isinstance(own, Mapping):
        return frozenset()
    return frozenset(_shared(_without_other_word(common, own), own, ""))


def _without_other_word(common: Mapping[str, object], own: Mapping[str, object]) -> Mapping[str, object]:
    """Leave out the shared models where the environment names its own."""
    named = any(own.get(key) for key in _EITHER)
    return {key: value for key, value in common.items() if not (named and key in _EITHER)}


def _shared(common: Mapping[str, object], own: Mapping[str, object], before: str) -> Iterator[str]:
    for key, value in common.items():
        mine = own.get(key)
        if isinstance(value, Mapping) and isinstance(mine, Mapping):
            yield from _shared(value, mine, f"{before}{key}.")
        elif mine is None and value is not None:
            yield from _leaves(value, f"{before}{key}")


def _leaves(value: object, key: str) -> Iterator[str]:
    yield key
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
