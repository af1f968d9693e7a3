"""How a setting is declared: its key, meaning, bounds and engine flag, and the check of a value against that. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum

from msgspec import Struct

MAX_VALUE_LENGTH = 4096


class Kind(StrEnum):
    """How a value is written."""

    TEXT = "text"
    INTEGER = "integer"
    FRACTION = "fraction"
    ADDRESS = "address"
    SIZE = "size"
    CONTEXT = "context"
    SECONDS_OR_OFF = "seconds-or-off"
    PATH = "path"
    NAME = "name"
    HOST = "host"
    BOOLEAN = "boolean"
    JSON = "json"
    WORDS = "words"
    URL = "url"
    BUCKET = "bucket"
    IMAGE = "image"


class SettingSpec(Struct, frozen=True, kw_only=True):
    """One emitted key.

    `flag` is the engine flag that carries it, left out where the value is `absent`. A setting with `pinnable` False
    follows from others; one that is `per_model` has a value for each model. `minimum` and `maximum` bound the number
    kinds, both inclusive.
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
    per_model: bool = False


def whole_number(
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


_NUMBER = re.compile(r"[0-9]{1,12}")
_FRACTION = re.compile(r"[0-9]?\.[0-9]{1,6}|[01]")
_SIZE = re.compile(r"[1-9][0-9]{0,5}(kb|mb|gb|k|m|g)")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# An env file is read by Compose and by python-dotenv, which disagree on these inside quotes; the surrogates are what
# Python makes of an argument or a path that is not UTF-8, and no file in UTF-8 can hold them.
_UNWRITABLE = re.compile(r"['\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def problem_with(spec: SettingSpec, value: str) -> str | None:
    """Return what is allowed for `spec` if `value` is not; None if it is."""
    if _UNWRITABLE.search(value) or len(value) > MAX_VALUE_LENGTH:
        return "one line without quotes, backslashes or control characters"
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
    inside = value == "auto" or _check_integer(spec, value) is None
    return None if inside else f"auto, or a number of tokens from {spec.minimum:.0f} to {spec.maximum:.0f}"


def _check_seconds_or_off(spec: SettingSpec, value: str) -> str | None:
    inside = value == "off" or _check_integer(spec, value) is None
    return None if inside else f"off, or seconds from {spec.minimum:.0f} to {spec.maximum:.0f}"


def _check_address(_: SettingSpec, value: str) -> str | None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return "an IPv4 address of this host, such as 127.0.0.1"
    return None


def _check_json(_: SettingSpec, value: str) -> str | None:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    return None if isinstance(found, dict) else 'a JSON object: {"NAME": VALUE}'


def _matcher(pattern: re.Pattern[str], allowed: str) -> Callable[[SettingSpec, str], str | None]:
    return lambda _, value: None if pattern.fullmatch(value) else allowed


_CHECKS: Mapping[Kind, Callable[[SettingSpec, str], str | None]] = {
    Kind.TEXT: _matcher(re.compile(r"\S(.*\S)?"), "a non-empty text"),
    Kind.INTEGER: _check_integer,
    Kind.FRACTION: _check_fraction,
    Kind.CONTEXT: _check_context,
    Kind.SECONDS_OR_OFF: _check_seconds_or_off,
    Kind.ADDRESS: _check_address,
    Kind.SIZE: _matcher(_SIZE, "a size such as 2gb or 512mb"),
    Kind.PATH: _matcher(re.compile(r"/[^:]*"), "an absolute path without a colon"),
    Kind.HOST: _matcher(re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"), "any, or a host such as images.example.org"),
    # What stands before an `@` would be a password, which no environment file may hold.
    Kind.URL: _matcher(
        re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[^\s@]*)?"), "an http or https URL without user and password"
    ),
    # Names of buckets as Amazon allows them (S3 user guide, bucket naming rules, 2026-11).
    Kind.BUCKET: _matcher(
        re.compile(r"folder|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s\\?#]*)?"), "folder, or s3://BUCKET/PREFIX"
    ),
    # What registry, path, tag and digest are made of (distribution, reference/regexp.go, read on 30 November 2026).
    Kind.IMAGE: _matcher(
        re.compile(r"(?!.*//)[\w.:/\[\]-]+(@[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,})?", re.ASCII),
        "an image's name, such as registry.example.org/engine:v1, without a scheme, user or password",
    ),
    Kind.BOOLEAN: _matcher(re.compile(r"true|false"), "true or false"),
    Kind.JSON: _check_json,
    Kind.WORDS: _matcher(re.compile(r"\S(.*\S)?"), "words"),
    Kind.NAME: _matcher(_NAME, "lower-case letters, digits, - and _, beginning with a letter or digit"),
}


def _within(spec: SettingSpec, number: float) -> bool:
    return (spec.minimum is None or number >= spec.minimum) and (spec.maximum is None or number <= spec.maximum)
