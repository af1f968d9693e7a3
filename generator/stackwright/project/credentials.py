"""Secrets: one file each, mode 0600, in a folder of mode 0700 per environment. Made once, never printed unasked.

One file per secret, because Compose mounts each as /run/secrets/<name>. Letters, digits and `-` only: no reader of
env files, YAML or shell can misread them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from stackwright.atomic import replace_file, stale_files
from stackwright.domain.environment import EnvironmentPaths
from stackwright.errors import UsageError
from stackwright.reading import read_text
from stackwright.services import (
    DerivedSecret,
    access_to,
    additions,
    base_services,
    derived_secrets,
    made_secrets,
)
from stackwright.services.outside import LOGIN

HUB_TOKEN = "hf_token"


def ensure_secrets(
    folder: Path,
    environment: Mapping[str, str],
    hf_home: Path,
    proxy_login: str | None = None,
    wished: Collection[str] = (),
) -> None:
    """Make the secrets that are missing, and refresh the hub token and the proxy's login where the person has one.

    Without a token an empty file stands in: huggingface_hub takes it for none. `hf_home` is where
    `hf auth login` leaves its token. `proxy_login` is `user:password`, None where the stack has no proxy. `wished` are
    the additions that run beside what every stack has.

    Raises:
        UsageError: the folder or a file cannot be written, or the hub token cannot be read or is not one.
    """
    token = find_hub_token(environment, hf_home)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in made_secrets(wished):
            if not _holds_something(folder / name):
                _write(folder / name, new_secret(name))
        for derived in derived_secrets(wished):
            _derive(folder, derived)
        brought = {HUB_TOKEN: token or "", **({} if proxy_login is None else {LOGIN: proxy_login})}
        for name, text in brought.items():
            if text or not (folder / name).exists():
                _write(folder / name, text)
        # Put there by a person; empty files say that clients are answered without TLS.
        for name in access_to(base_services()).tls:
            if not (folder / name).exists():
                _write(folder / name, "")
    except OSError as failure:
        raise UsageError(
            f"{failure.filename or folder}: {failure.strerror}", hint="secrets need a writable envs/ folder"
        ) from None


def _derive(folder: Path, derived: DerivedSecret) -> None:
    """Make a secret of another's text, unless it says that it was made of just that text."""
    from hashlib import blake2b

    text, file = read_text(folder / derived.of).strip(), folder / derived.name
    mark = f"# of {blake2b(text.encode(), digest_size=16, person=b'stackwright').hexdigest()}\n"
    if not file.is_file() or not read_text(file, errors="replace").startswith(mark):
        _write(file, mark + derived.make(text))


def new_secret(name: str) -> str:
    """Return a text for one of the secrets that are made."""
    from secrets import token_hex

    return made_secrets(additions())[name] + token_hex(32)


def gateway_key(folder: Path) -> Path:
    """Return the file of the key that clients show."""
    return folder / access_to(base_services()).key


def read_gateway_key(folder: Path) -> str:
    """Return the gateway's master key. Raises UsageError where there is none yet."""
    file = gateway_key(folder)
    try:
        key = read_text(file, encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        key = ""
    if not key:
        raise UsageError(f"{file}: no key yet", hint="`configure-gpu` creates one")
    return key


def has_lost_key(paths: EnvironmentPaths) -> bool:
    """Return whether an environment was configured and its master key is gone: the next one is another."""
    return paths.rendered.exists() and not _holds_something(gateway_key(paths.secrets))


def _holds_something(path: Path) -> bool:
    """Return whether a secret has been made: an empty file, such as an editor leaves, is none."""
    return path.exists() and path.stat().st_size > 0


def find_hub_token(environment: Mapping[str, str], hf_home: Path) -> str | None:
    """Read the token where huggingface_hub would: HF_TOKEN, the file that HF_TOKEN_PATH names, then the login's file.

    Raises:
        UsageError: a named file cannot be read, or holds no token.
    """
    if environment.get("HF_TOKEN"):
        return _check_token(environment["HF_TOKEN"], "HF_TOKEN")
    named = environment.get("HF_TOKEN_PATH")
    path = Path(named) if named else hf_home / "token"
    try:
        return _check_token(read_text(path), str(path)) if named or path.is_file() else None
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "not UTF-8 text"
        raise UsageError(
            f"{path}: the hub token cannot be read: {reason}", hint="HF_TOKEN_PATH names the file, HF_TOKEN the token"
        ) from None


def _check_token(text: str, where: str) -> str:
    """Return the token without the blanks around it; it is never shown, also where it is wrong."""
    token = text.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(f"{where}: not a hub token; a token is one line of letters, digits and signs")
    return token


def _write(path: Path, text: str) -> None:
    """Write a secret whole or not at all; nobody else may open it, not even for a moment.

    One that stands there already is left alone: containers hold its very file.
    """
    if path.is_file() and read_text(path, errors="replace") == text:
        return
    for stale in stale_files(path):
        stale.unlink(missing_ok=True)
    replace_file(path, text)
