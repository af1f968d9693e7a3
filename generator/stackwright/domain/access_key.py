"""Keys for people and programs: what is stored of one, and how its text becomes that. Pure.

compose/gateway/keys.py reads the stored form, and has the same hash; the gateway has nothing of this package.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from msgspec import Struct

from stackwright.errors import UsageError

KEYS_SCHEMA = 1

MASTER = "master"
"""The administrator's name in the gateway's counts."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
NAME_WORDS = "1 to 63 letters, digits, `.`, `_`, `@` or `-`, the first a letter or digit"


class Rights(Struct, frozen=True, kw_only=True):
    """What a key may do. No models mean all; a limit of None is the environment's setting, and 0 is none.

    `expires` is in Unix time, None for never. `metrics_only`: it may read the gateway's figures, and ask no model.
    `acts_for`: it may ask models in the name of another key, whose rights and limits then hold.
    """

    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    expires: int | None = None
    metrics_only: bool = False
    acts_for: bool = False


class AccessKey(Struct, frozen=True, kw_only=True):
    """What is stored of a key; of its text only a salted hash. `id` stands in the text, after `sk-`.

    `created` is in Unix time; a rotated key keeps its own.
    """

    name: str
    id: str
    salt: str
    hash: str
    created: int
    rights: Rights


class AccessKeys(Struct, frozen=True, kw_only=True):
    """The file of an environment's keys."""

    schema: int = KEYS_SCHEMA
    keys: tuple[AccessKey, ...] = ()

    def named(self, name: str) -> AccessKey | None:
        """Return a key by its name."""
        return next((key for key in self.keys if key.name == name), None)


def check_name(name: str) -> None:
    """Raise UsageError where a key cannot have this name."""
    if not NAME.fullmatch(name):
        raise UsageError(f"key name: found `{name[:80]}`, allowed: {NAME_WORDS}", hint="for example `anna` or `ci-bot`")
    if name == MASTER:
        raise UsageError(f"`{MASTER}` is the administrator's key", hint="choose another name")


def text_of_key(id_: str, secret: str) -> str:
    """Return a key's text: `sk-`, 8 hexadecimal digits that name it, and 64 that nobody knows."""
    return f"sk-{id_}{secret}"


def hash_key(text: str, salt: bytes) -> bytes:
    """Return what is stored of a key's text. A quick hash: nobody guesses 256 random bits, and each request pays."""
    return blake2b(text.encode(), digest_size=32, salt=salt, person=b"stackwright key").digest()
