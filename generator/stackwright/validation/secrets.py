"""The secrets: there, private, none that an attacker tries first, none that can be guessed. None is ever quoted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import log2
from pathlib import Path

from msgspec import Struct

from stackwright.domain.finding import Finding, error
from stackwright.project.credentials import HUB_TOKEN
from stackwright.runtime import Stack
from stackwright.services import brought_secrets, derived_secrets, made_secrets
from stackwright.services.outside import LOGIN
from stackwright.validation.check import Check, Observation
from stackwright.validation.environment import PLACEHOLDER
from stackwright.validation.files import SeenFile, check_privacy, inspect_file, text_of

# 32 random hexadecimal digits are 128 bits, beyond the 112 of NIST SP 800-57 part 1 revision 5, table 4.
SHORTEST = 32
# Of 200,000 such texts the estimate below gave none fewer than 90 bits: what has fewer repeats itself.
LEAST_BITS = 90
# From the examples of LiteLLM (docs, quick start), engines, Redis and PostgreSQL, and the lists of common passwords.
KNOWN = frozenset(
    "sk-1234 sk-12345 sk-123456 sk-12345678 sk-1234567890 sk-litellm sk-master sk-test sk-change-me token-abc123 "
    "changeme password password123 passw0rd secret admin root redis postgres foobared litellm dbpassword9090 "
    "anything-like-sk-1234 12345678 qwertyuiop letmein none null true".split()
)


def weakness(secret: str) -> str | None:
    """Return what is weak about a secret, without a word of it; None where nothing is."""
    text = secret.strip()
    if not text:
        return "is empty"
    if text.lower() in KNOWN or text.lower().removeprefix("sk-") in KNOWN:
        return "is a well-known default"
    if PLACEHOLDER.fullmatch(text) or PLACEHOLDER.fullmatch(text.removeprefix("sk-")):
        return "is a placeholder"
    if len(text) < SHORTEST:
        return f"has {len(text)} characters; {SHORTEST} are needed"
    if bits(text) < LEAST_BITS:
        return f"repeats itself: about {bits(text):.0f} bits; {LEAST_BITS} are needed"
    return None


def bits(text: str) -> float:
    """Estimate how many bits a text could hold by how often each of its characters comes (Shannon's entropy)."""
    return sum(count * log2(len(text) / count) for count in Counter(text).values())


class SeenSecret(Struct, frozen=True, kw_only=True):
    """One secret's file, and what is to be said of its text: `weak`, or `empty`, or `unusable` as one line."""

    name: str
    file: SeenFile
    weak: str | None = None
    empty: bool = False
    unusable: bool = False


class SeenSecrets(Struct, frozen=True, kw_only=True):
    """The folder of an environment's secrets.

    Those that we made; the hub's token and a proxy's login, as far as they are there; the keys that a person brought.
    """

    folder: Path
    is_open: bool
    made: tuple[SeenSecret, ...]
    optional: tuple[SeenFile, ...]
    brought: tuple[SeenSecret, ...]


def inspect_secrets(stack: Stack) -> SeenSecrets:
    """Look at every secret; of its text only what is wrong with it goes further."""
    folder, wished = stack.secrets, stack.plan.additions
    made = (*made_secrets(wished), *(secret.name for secret in derived_secrets(wished)))
    optional = (folder / name for name in (HUB_TOKEN, LOGIN))
    return SeenSecrets(
        folder=folder,
        is_open=folder.is_dir() and folder.stat().st_mode & 0o077 != 0,
        made=tuple(_inspect_secret(folder, name) for name in made),
        optional=tuple(inspect_file(file, readable=True) for file in optional if file.exists()),
        brought=tuple(_inspect_secret(folder, name) for name in brought_secrets(stack.plan)),
    )


def _inspect_secret(folder: Path, name: str) -> SeenSecret:
    text = text_of(folder / name)
    line = (text or "").strip()
    return SeenSecret(
        name=name,
        file=inspect_file(folder / name, readable=text is not None),
        weak=None if text is None else weakness(text),
        empty=not line,
        unusable=not line.isascii() or not line.isprintable() or " " in line,
    )


def check_secrets(stack: Stack, secrets: SeenSecrets) -> Iterator[Finding]:
    """Check that every secret is there, private and strong. No word of one is told."""
    again = f"create it: `configure-gpu {stack.plan.environment.value}`"
    if secrets.is_open:
        fix = f"`chmod 700 {secrets.folder}`"
        yield error("secret-mode", found=f"{secrets.folder} is accessible to others", expected="mode 0700", fix=fix)
    for secret in secrets.made:
        path = secret.file.path
        if not secret.file.readable:
            yield error("secret-missing", found=f"no readable {path}", expected="a secret", fix=again)
            continue
        yield from check_privacy(secret.file, str(path), stack, "secret")
        if secret.weak is not None:
            fix = f"`rm {path}`, then {again}"
            yield error("secret-weak", found=f"{secret.name} {secret.weak}", expected="256 random bits", fix=fix)
    for file in secrets.optional:
        yield from check_privacy(file, str(file.path), stack, "secret")
    for secret in secrets.brought:
        yield from _check_brought(stack, secret)


def _check_brought(stack: Stack, secret: SeenSecret) -> Iterator[Finding]:
    """Check a key that a person brought: there, private, one line. How strong it is, is its provider's affair."""
    path = secret.file.path
    if secret.empty:
        fix = f"`install -m 600 /dev/stdin {path}`, paste the key, then Enter and Ctrl-D"
        yield error("secret-missing", found=f"no key in {path}", expected="the key that you were given for it", fix=fix)
        return
    yield from check_privacy(secret.file, str(path), stack, "secret")
    if secret.unusable:
        yield error(
            "secret-unusable",
            found=f"{secret.name} is more than a key",
            expected="letters, digits and signs on one line",
            fix=f"correct {path}",
        )


SECRET_FILES = Observation(take=lambda machine: inspect_secrets(machine.stack))


SECRETS_OF_STACK = Check(
    name="secrets",
    about=(
        "the secret files: present, mode 0600, owned by you, no default or placeholder, 32 non-repeating characters; "
        "the keys of `gateway.cloud` and of a bucket: present, mode 0600, one line"
    ),
    findings=tuple("secret-missing secret-mode secret-owner secret-weak secret-unusable".split()),
    rule=lambda on, secrets: check_secrets(on.stack, secrets),
    observations=(SECRET_FILES,),
)
