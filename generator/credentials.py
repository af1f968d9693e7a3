"""Secrets: one file each, mode 0600, in a folder of mode 0700 per environment. Made once, never printed unasked.

One file per secret, because Compose mounts each as /run/secrets/<name>. Letters, digits and `-` only: no reader of
env files, YAML or shell can misread them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from generator.errors import UsageError

# LiteLLM refuses to boot with a weak master key; `sk-` and 256 random bits is what its documentation advises.
_MADE: Mapping[str, Callable[[], str]] = {
    "litellm_master_key": lambda: f"sk-{secrets.token_hex(32)}",
    "litellm_salt_key": lambda: f"sk-{secrets.token_hex(32)}",
    "engine_key": lambda: secrets.token_hex(32),
    "redis_password": lambda: secrets.token_hex(32),
}
GATEWAY_KEY = "litellm_master_key"
HUB_TOKEN = "hf_token"


def ensure_secrets(folder: Path, environment: Mapping[str, str], hf_home: Path) -> None:
    """Make the secrets that are missing, and refresh the hub token where the person has one.

    Without a token an empty file stands in: huggingface_hub takes it for none. `hf_home` is where
    `hf auth login` leaves its token.

    Raises:
        UsageError: the folder or a file cannot be written or read.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name, make in _MADE.items():
            if not (folder / name).exists():
                _write(folder / name, make())
        token = find_hub_token(environment, hf_home)
        if token is not None or not (folder / HUB_TOKEN).exists():
            _write(folder / HUB_TOKEN, token or "")
    except OSError as failure:
        raise UsageError(
            f"{failure.filename or folder}: {failure.strerror}", hint="secrets need a writable envs/ folder"
        ) from None


def read_gateway_key(folder: Path) -> str:
    """Return the gateway's master key. Raises UsageError where there is none yet."""
    try:
        return (folder / GATEWAY_KEY).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"{folder / GATEWAY_KEY}: there is no key yet", hint="`configure-gpu` makes one for each environment"
        ) from None


def find_hub_token(environment: Mapping[str, str], hf_home: Path) -> str | None:
    """Read the token where huggingface_hub would: HF_TOKEN, the file that HF_TOKEN_PATH names, then the login's file.

    Raises:
        OSError: a named file cannot be read.
    """
    if environment.get("HF_TOKEN"):
        return environment["HF_TOKEN"].strip()
    if environment.get("HF_TOKEN_PATH"):
        return Path(environment["HF_TOKEN_PATH"]).read_text(encoding="utf-8").strip()
    login = hf_home / "token"
    return login.read_text(encoding="utf-8").strip() if login.is_file() else None


def _write(path: Path, text: str) -> None:
    """Write a secret whole or not at all; nobody else may open it, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
