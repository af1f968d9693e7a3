"""Checks that look at the machine: rendered files and secrets with their modes and owners, and the port. Changes nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from stackwright.domain.finding import Finding, Severity, error, warning
from stackwright.project.credentials import SECRETS
from stackwright.project.write import MANIFEST, is_edited, read_manifest
from stackwright.runtime import Stack
from stackwright.runtime.ports import why_taken
from stackwright.validation.secrets import weakness


def check_files(stack: Stack) -> tuple[Finding, ...]:
    """Check the rendered files and a person's own: all there, private, unedited since rendering."""
    name = stack.plan.environment.value
    again = f"`configure-gpu --env {name}` writes it anew"
    found: list[Finding] = []
    manifest = read_manifest(stack.generated)
    if not manifest:
        missing = f"no readable {MANIFEST} in {stack.generated}"
        found.append(error("file-missing", found=missing, expected="a list of what was rendered", fix=again))
    for path in sorted(manifest):
        target = stack.root / path
        text = _read(target)
        if text is None:
            found.append(error("file-missing", found=f"no readable {path}", expected="every rendered file", fix=again))
            continue
        found += _check_privacy(target, path, stack, "file")
        if is_edited(path, text, manifest):
            fix = f"move your change to envs/.env.{name}.local or a pin (--set), then `configure-gpu --env {name}`"
            found.append(
                warning("file-edited", found=f"{path} was edited after rendering", expected="as rendered", fix=fix)
            )
    local = stack.root / "envs" / f".env.{name}.local"
    if local.exists():
        # It holds settings, no secrets, and an editor makes it as the umask says: told, and no reason to stop.
        own = _check_privacy(local, f"envs/{local.name}", stack, "file")
        found += [replace(finding, severity=Severity.WARNING) for finding in own]
    return tuple(found)


def check_secrets(stack: Stack) -> tuple[Finding, ...]:
    """Check that every secret is there, private and strong. No word of one is told."""
    again = f"`configure-gpu --env {stack.plan.environment.value}` makes one"
    found: list[Finding] = []
    if stack.secrets.is_dir() and stack.secrets.stat().st_mode & 0o077:
        fix = f"`chmod 700 {stack.secrets}`"
        found.append(error("secret-mode", found=f"{stack.secrets} is open to others", expected="mode 0700", fix=fix))
    for name in SECRETS:
        path = stack.secrets / name
        text = _read(path)
        if text is None:
            found.append(error("secret-missing", found=f"no readable {path}", expected="a secret", fix=again))
            continue
        found += _check_privacy(path, str(path), stack, "secret")
        weak = weakness(text)
        if weak is not None:
            fix = f"`rm {path}`, then {again}"
            found.append(error("secret-weak", found=f"{name} {weak}", expected="256 random bits", fix=fix))
    token = stack.secrets / "hf_token"
    if token.exists():
        found += _check_privacy(token, str(token), stack, "secret")
    for name in stack.plan.gateway.cloud_secrets:
        found += _check_cloud_key(stack, name)
    return tuple(found)


def _check_cloud_key(stack: Stack, name: str) -> Iterator[Finding]:
    """Check a key that a person brought: there, private, one line. How strong it is, is its provider's affair."""
    path = stack.secrets / name
    text = (_read(path) or "").strip()
    if not text:
        fix = f"`install -m 600 /dev/stdin {path}`, paste the key, then Enter and Ctrl-D"
        yield error("secret-missing", found=f"no key in {path}", expected="the key of gateway.cloud", fix=fix)
        return
    yield from _check_privacy(path, str(path), stack, "secret")
    if not text.isascii() or not text.isprintable() or " " in text:
        yield error(
            "secret-unusable",
            found=f"{name} is more than a key",
            expected="letters, digits and signs on one line",
            fix=f"correct {path}",
        )


def _check_privacy(path: Path, name: str, stack: Stack, kind: str) -> Iterator[Finding]:
    """Find a file that others may open, or that another user owns, who could change what runs."""
    found = path.stat()
    if found.st_mode & 0o077:
        fix = f"`chmod 600 {path}`"
        yield error(f"{kind}-mode", found=f"{name} is readable by others", expected="mode 0600", fix=fix)
    own = {os.getuid(), *(int(uid) for uid in [stack.env.get("STACKWRIGHT_UID", "")] if uid.isdecimal())}
    if found.st_uid not in own:
        fix = f"`sudo chown {os.getuid()} {path}`"
        yield error(f"{kind}-owner", found=f"{name} is owned by user {found.st_uid}", expected="your own file", fix=fix)


def _read(path: Path) -> str | None:
    """Return a file's text; None where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError:
        return None


def newest_file_s(stack: Stack) -> float | None:
    """Return when the newest rendered file was written, in seconds since 1970; None where there is none."""
    times = []
    for path in read_manifest(stack.generated):
        try:
            times.append((stack.root / path).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def check_port(env: Mapping[str, str], environment: str, listener: str | None) -> tuple[Finding, ...]:
    """Check that the gateway's port is free. To be asked only while the stack itself is down.

    `listener` names who listens there, None where nobody is seen.
    """
    address, port = env["GATEWAY_BIND"], int(env["GATEWAY_PORT"])
    failure = why_taken(address, port)
    return () if failure is None else (_why_not_free(failure, f"{address}:{port}", environment, listener),)


def _why_not_free(failure: OSError, place: str, environment: str, listener: str | None) -> Finding:
    if failure.errno == errno.EADDRNOTAVAIL:
        found = f"{place.partition(':')[0]} is no address of this machine"
        fix = f"correct gateway.bind in envs/{environment}.yaml, then `configure-gpu --env {environment}`"
        return error("address-unknown", found=found, expected="127.0.0.1, or an address of this machine", fix=fix)
    another = f"`configure-gpu --env {environment} --set GATEWAY_PORT=…`"
    if failure.errno == errno.EACCES:  # ports below 1024; a daemon that runs as root may still publish them
        found = f"{place}: not for this user"
        return warning("port-privileged", found=found, expected="a port from 1024 on", fix=f"choose one with {another}")
    fix = f"stop what listens there, or {another}"
    holder = f", by {listener}" if listener else ""
    return error("port-taken", found=f"{place}: {failure.strerror}{holder}", expected="a free port", fix=fix)
