"""The file of an environment's keys: read, and changed by one command at a time. Touches its folder.

The gateway looks at it once a second. It is written whole and renamed into place, so that its folder is what a
container is given.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from stackwright.atomic import ENDING, new_token, replace_file, stale_files
from stackwright.domain.access_key import (
    KEYS_SCHEMA,
    AccessKey,
    AccessKeys,
    Rights,
    check_name,
    hash_key,
    text_of_key,
)
from stackwright.domain.environment import KEYS_FOLDER, USAGE_FOLDER, EnvironmentPaths
from stackwright.errors import UsageError, did_you_mean, unwritable
from stackwright.project.credentials import gateway_key, new_secret
from stackwright.reading import convert, read_text, to_plain

T = TypeVar("T")

FILE = "keys.json"


class ShownKey(Struct, frozen=True, kw_only=True):
    """A key whose text is known: only to whoever has just made it."""

    stored: AccessKey
    text: str


def ensure_key_folders(paths: EnvironmentPaths) -> None:
    """Make the folders that the gateway is given, the master key in one of them. Raises UsageError where they cannot
    be.
    """
    for source in (KEYS_FOLDER, USAGE_FOLDER):
        folder = paths.folder(source)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as failure:
            raise unwritable(folder, failure) from None
    try:
        _share_master_key(gateway_key(paths.secrets), master_key_file(paths))
    except OSError as failure:
        raise unwritable(master_key_file(paths), failure) from None


def master_key_file(paths: EnvironmentPaths) -> Path:
    """Return where the master key itself is: beside the other keys, with a link to it beside the other secrets."""
    return paths.folder(KEYS_FOLDER) / gateway_key(paths.secrets).name


def _share_master_key(link: Path, file: Path) -> None:
    """Move the master key to where a container sees it change; in no moment is it missing in its old place."""
    if link.is_symlink() or not link.is_file():
        return
    staged = [path.with_name(f".{path.name}.{new_token()}{ENDING}") for path in (file, link)]
    try:
        staged[0].hardlink_to(link)
        staged[0].replace(file)
        staged[1].symlink_to(os.path.relpath(file, link.parent))
        staged[1].replace(link)
    finally:
        for path in staged:
            path.unlink(missing_ok=True)


def renew_master_key(paths: EnvironmentPaths) -> str:
    """Give the administrator another master key, and return it. Raises UsageError where it cannot be written."""
    ensure_key_folders(paths)
    file = master_key_file(paths)
    text = new_secret(file.name)
    try:
        replace_file(file, text)
        if not gateway_key(paths.secrets).exists():
            gateway_key(paths.secrets).symlink_to(os.path.relpath(file, paths.secrets))
    except OSError as failure:
        raise unwritable(file, failure) from None
    return text


def keys_file(paths: EnvironmentPaths) -> Path:
    """Return the file of an environment's keys."""
    return paths.folder(KEYS_FOLDER) / FILE


def read_keys(paths: EnvironmentPaths) -> AccessKeys:
    """Return an environment's keys; none where there is no file.

    Raises:
        UsageError: the file cannot be read, is damaged, or was written by a newer release.
    """
    file = keys_file(paths)
    hint = f"put a sound one back, or remove it and make the keys anew: `rm {file}`"
    try:
        data = json.loads(read_text(file))
    except FileNotFoundError:
        return AccessKeys()
    except OSError as failure:
        raise UsageError(f"{file}: cannot be read: {failure.strerror}", hint="make it readable for you") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{file}: damaged: not JSON", hint=hint) from None
    if isinstance(data, dict) and data.get("schema") != KEYS_SCHEMA:
        raise UsageError(f"{file}: schema is not {KEYS_SCHEMA}", hint="update Stackwright, or put a sound file back")
    try:
        return convert(data, AccessKeys, where=str(file), error=UsageError)
    except UsageError as failure:
        raise UsageError(f"{failure.message}: the file is damaged", hint=hint) from None


def add_key(paths: EnvironmentPaths, name: str, rights: Rights) -> ShownKey:
    """Make a key. Raises UsageError where its name is wrong or taken, or the file cannot be changed."""
    check_name(name)

    def add(keys: AccessKeys) -> tuple[AccessKeys, ShownKey]:
        if keys.named(name) is not None:
            environment = paths.environment.value
            raise UsageError(
                f"{environment} has a key `{name}` already",
                hint=f"a new text for it: `stackwright keys rotate {name} {environment}`",
            )
        stored = AccessKey(name=name, created=int(time.time()), id="", salt="", hash="", rights=rights)
        made = _renew(stored, keys)
        return replace(keys, keys=(*keys.keys, made.stored)), made

    return _change(paths, add)


def check_own_key(paths: EnvironmentPaths, name: str, secret: Path) -> None:
    """Raise UsageError where `ensure_own_key` would refuse: somebody else has a key by this name, or keys are damaged.

    Nothing is written.
    """
    _check_holder(paths, read_keys(paths).named(name), _text_in(secret))


def _text_in(secret: Path) -> str:
    """Return the text of a service's own key; none where there is none to read."""
    try:
        return read_text(secret, encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _check_holder(paths: EnvironmentPaths, stored: AccessKey | None, text: str) -> None:
    """Raise UsageError where a key is somebody's: the service by its name has never had one."""
    if stored is not None and not text:
        name, environment = stored.name, paths.environment.value
        raise UsageError(
            f"{environment} has a key `{name}` that is not the one of `{name}` beside the models",
            hint="give its holder a key by another name, then take this one away: "
            f"`stackwright keys revoke {name} {environment}`",
        )


def ensure_own_key(paths: EnvironmentPaths, name: str, secret: Path, rights: Rights) -> None:
    """See to it that a service of the stack has a key by its name, whose text is in its secret file.

    `rights`: of one that is made now; a person may have changed those of one that is there, but for whether it acts for
    other keys.

    Raises UsageError where somebody else has a key by its name, or the file of keys is damaged or cannot be changed.
    """

    def ensure(keys: AccessKeys) -> tuple[AccessKeys, str]:
        stored = keys.named(name)
        if stored is not None:
            stored = replace(stored, rights=replace(stored.rights, acts_for=rights.acts_for))
        text = _text_in(secret)
        if stored is not None and text and hash_key(text, bytes.fromhex(stored.salt)).hex() == stored.hash:
            same = tuple(stored if key.name == name else key for key in keys.keys)
            return replace(keys, keys=same), text
        _check_holder(paths, stored, text)
        fresh = stored or AccessKey(name=name, created=int(time.time()), id="", salt="", hash="", rights=rights)
        made = _renew(fresh, keys)
        others = tuple(key for key in keys.keys if key.name != name)
        replace_file(secret, made.text)
        return replace(keys, keys=(*others, made.stored)), made.text

    _change(paths, ensure)


def rotate_key(paths: EnvironmentPaths, name: str, secret: Path | None = None) -> ShownKey:
    """Give a key another text; its rights stay. Raises UsageError where there is none of this name.

    Args:
        secret: the file that a service of the stack takes it from.
    """

    def rotate(keys: AccessKeys) -> tuple[AccessKeys, ShownKey]:
        made = _renew(find_key(paths, keys, name), keys)
        if secret is not None:
            replace_file(secret, made.text)
        return replace(keys, keys=tuple(made.stored if key.name == name else key for key in keys.keys)), made

    return _change(paths, rotate)


def revoke_key(paths: EnvironmentPaths, name: str) -> AccessKey:
    """Take a key away and return it. Raises UsageError where there is none of this name."""

    def revoke(keys: AccessKeys) -> tuple[AccessKeys, AccessKey]:
        gone = find_key(paths, keys, name)
        return replace(keys, keys=tuple(key for key in keys.keys if key.name != name)), gone

    return _change(paths, revoke)


def find_key(paths: EnvironmentPaths, keys: AccessKeys, name: str) -> AccessKey:
    """Return a key by its name. Raises UsageError where there is none, with the closest."""
    found = keys.named(name)
    if found is None:
        environment = paths.environment.value
        hint = did_you_mean(name, [key.name for key in keys.keys])
        raise UsageError(
            f"{environment} has no key `{name[:80]}`",
            hint=hint or f"`stackwright keys list {environment}` shows them",
        )
    return found


def _renew(stored: AccessKey, keys: AccessKeys) -> ShownKey:
    taken = {key.id for key in keys.keys}
    id_ = next(made for made in iter(lambda: token_hex(4), "") if made not in taken)
    text, salt = text_of_key(id_, token_hex(32)), token_bytes(16)
    renewed = replace(stored, id=id_, salt=salt.hex(), hash=hash_key(text, salt).hex())
    return ShownKey(stored=renewed, text=text)


def _change(paths: EnvironmentPaths, change: Callable[[AccessKeys], tuple[AccessKeys, T]]) -> T:
    """Read the file, change it and write it, while no other command does."""
    ensure_key_folders(paths)
    file = keys_file(paths)
    try:
        with _held(file.parent):
            keys, answer = change(read_keys(paths))
            for stale in stale_files(file):
                stale.unlink(missing_ok=True)
            replace_file(file, json.dumps(to_plain(keys), indent=1) + "\n")
    except OSError as failure:
        raise unwritable(file, failure) from None
    return answer


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
