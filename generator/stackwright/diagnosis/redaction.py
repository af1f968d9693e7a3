"""Take secrets, and whose machine it is, out of a text before it leaves that machine. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from msgspec import Struct

REDACTED = "[redacted]"
# A shorter value stands in many words by chance, and taking it out would say more than leaving it.
SHORTEST = 6

# What a name must end with for its value to be a secret: HF_TOKEN is one, max_num_batched_tokens is not.
_SECRET_NAME = re.compile(
    r"(?:^|[_.-]|(?-i:(?<=[a-z])(?=[A-Z])))"
    r"(?:api[_-]?key|key|token|secret|password|passwd|pwd|passphrase|credentials?|auth|authorization|cookie|dsn)$",
    re.IGNORECASE,
)
# What the keys of hubs, clouds and gateways look like by themselves.
_KEYS = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}"),
    re.compile(r"\bsk-[\w-]{8,}"),
    re.compile(r"\b(?:gh[pousr]|github_pat|glpat|nvapi|xox[abprs])[_-][\w-]{10,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{4,}"),
)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@\"'<>]{1,512}@", re.IGNORECASE)
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # The body ends at the next five dashes, or where the log does.
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----)[\s\S]){0,20000}(?:-----END [A-Z ]{0,40}-----)?"
        ),
        REDACTED,
    ),
    (_IN_URL, rf"\1{REDACTED}@"),
    (re.compile(r"\b(bearer|basic)(\s{1,4}|%20)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1\2{REDACTED}"),
    *((shape, REDACTED) for shape in _KEYS),
    (
        re.compile(r"(--[\w-]{0,40}(?:key|token|secret|password)|\brequirepass)\s{1,4}[^\s-]\S{0,4096}"),
        rf"\1 {REDACTED}",
    ),
)
# `user:password@registry`, but no tag before a digest.
_BEFORE_HOST = re.compile(r"[^\s/:@`'\"]{1,512}:[^\s/@`'\"]{1,512}@(?!sha\d{3}:)")
# NAME=value, NAME: value, "name": "value", name='value'; the value up to where its quotes end.
_ASSIGNED = re.compile(
    r"(?<![\w.])(?P<name>[A-Za-z][\w.-]{0,80})(?P<quote>[\"']?)(?P<mark>\s{0,4}[=:]\s{0,4})(?!//)"
    r"(?P<value>\"(?:[^\"\\\n]|\\.){0,4096}\"|'[^'\n]{0,4096}'|[^\s\"',;&}\])]{1,4096})"
)
# Values that are none: what a name is bound to, not what it holds; the begin of a list holds nothing yet.
_PLAIN = re.compile(
    r"^[\"']?(?:none|null|true|false|os\.environ/\w+|\$\{?\w.*|/[\w./-]*|\[redacted\]|\*+|[\[{]|)[\"']?$", re.IGNORECASE
)


# Names that tell of nobody: they are words of every log.
_COMMON = frozenset(("root", "user", "ubuntu", "admin", "localhost"))


class Redaction(Struct, frozen=True, kw_only=True):
    """What to take out: `values` that are secret, and `names` by what stands in for each (a home folder, a user)."""

    values: tuple[str, ...]
    names: tuple[tuple[str, str], ...]

    def apply(self, text: str) -> str:
        """Return the text without them, and without whatever looks like a secret. Twice is as once."""
        for value in self.values:
            text = text.replace(value, REDACTED)
        for shape, stand_in in _SHAPES:
            text = shape.sub(stand_in, text)
        text = _ASSIGNED.sub(_assignment, text)
        for name, stand_in in self.names:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", stand_in.replace("\\", r"\\"), text)
        return text


def mask(text: str) -> str:
    """Return a message without the keys and passwords in it that somebody typed where none belong.

    What has neither digits nor capitals stays: hf_transfer is the name of a package.
    """
    for shape in _KEYS:
        text = shape.sub(lambda found: found[0] if re.fullmatch("[a-z_-]+", found[0]) else REDACTED, text)
    return _BEFORE_HOST.sub(f"{REDACTED}@", _IN_URL.sub(rf"\1{REDACTED}@", text))


def make_redaction(
    values: Iterable[str], *, home: str, user: str, machine: str, services: Iterable[str] = ()
) -> Redaction:
    """Prepare what to look for: each value as it is and as a URL, JSON or base64 writes it, the longest first."""
    words = _COMMON | frozenset(services)
    written = {form for value in values if len(value.strip()) >= SHORTEST for form in _forms(value.strip())}
    people = ((home.rstrip("/"), "~"), (user, "[user]"), (machine, "[machine]"))
    return Redaction(
        values=tuple(sorted(written, key=lambda value: (-len(value), value))),
        names=tuple((name, stand_in) for name, stand_in in people if len(name) >= 3 and name not in words),
    )


def secret_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the variables whose names say that they hold a secret."""
    return tuple(value for name, value in environment.items() if is_secret_name(name) and not _PLAIN.match(value))


def assigned_secrets(text: str) -> tuple[str, ...]:
    """Return the values that a text binds to names of secrets, comments included: they may stand bare elsewhere."""
    bound = (found for found in _ASSIGNED.finditer(text) if is_secret_name(found["name"]))
    return tuple(found["value"].strip("\"'") for found in bound if not _PLAIN.match(found["value"]))


def is_secret_name(name: str) -> bool:
    """Return whether a variable or a key of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def _forms(value: str) -> tuple[str, ...]:
    encoded = base64.b64encode(value.encode(errors="replace")).decode("ascii").rstrip("=")
    return value, quote(value, safe=""), json.dumps(value)[1:-1], encoded


def _assignment(found: re.Match[str]) -> str:
    if not is_secret_name(found["name"]) or _PLAIN.match(found["value"]):
        return found[0]
    mark = found["value"][0] if found["value"][0] in "\"'" else ""
    return f"{found['name']}{found['quote']}{found['mark']}{mark}{REDACTED}{mark}"
