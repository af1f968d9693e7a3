"""Checks that look at the machine: files and their modes, the port, memory for containers. Changes nothing."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from pathlib import Path

from generator.credentials import GATEWAY_KEY
from generator.domain.finding import Finding, error, warning
from generator.runtime import Stack
from generator.write import MANIFEST, is_edited, read_manifest

_SHORTEST_KEY = 32


def check_files(stack: Stack) -> tuple[Finding, ...]:
    """Check the rendered files: all there, private, unedited since rendering; and the secrets."""
    name = stack.plan.environment.value
    again = f"`configure-gpu --env {name}` writes it anew"
    found = []
    manifest = read_manifest(stack.generated)
    if not manifest:
        missing = f"no readable {MANIFEST} in {stack.generated}"
        found.append(error("file-missing", found=missing, expected="a list of what was rendered", fix=again))
    for path in sorted(manifest):
        target = stack.root / path
        if not target.is_file():
            found.append(error("file-missing", found=f"no {path}", expected="every rendered file", fix=again))
            continue
        if target.stat().st_mode & 0o077:
            found.append(
                error(
                    "file-mode",
                    found=f"{path} is readable by others",
                    expected="mode 0600",
                    fix=f"`chmod 600 {target}`",
                )
            )
        if is_edited(path, target.read_text(encoding="utf-8", errors="replace"), manifest):
            fix = f"move your change to envs/.env.{name}.local or a pin (--set), then `configure-gpu --env {name}`"
            found.append(
                warning("file-edited", found=f"{path} was edited after rendering", expected="as rendered", fix=fix)
            )
    return (*found, *_check_secrets(stack, again), *_check_model(stack))


def _check_secrets(stack: Stack, again: str) -> tuple[Finding, ...]:
    key = stack.secrets / GATEWAY_KEY
    if not key.is_file():
        return (error("secret-missing", found=f"no {key}", expected="a master key", fix=again),)
    if key.stat().st_mode & 0o077:
        return (
            error("secret-mode", found=f"{key} is readable by others", expected="mode 0600", fix=f"`chmod 600 {key}`"),
        )
    if len(key.read_text(encoding="utf-8", errors="replace").strip()) < _SHORTEST_KEY:
        return (
            error(
                "secret-weak",
                found="a short master key",
                expected=f"{_SHORTEST_KEY} characters or more",
                fix=f"`rm {key}`, then {again}",
            ),
        )
    return ()


def _check_model(stack: Stack) -> tuple[Finding, ...]:
    location = stack.env.get("VLLM_MODEL", "")
    if location.startswith("/") and not (Path(location) / "config.json").is_file():
        fix = f"`configure-gpu --env {stack.plan.environment.value} --model …` names another"
        return (error("model-missing", found=f"no config.json in {location}", expected="a model folder", fix=fix),)
    return ()


def check_port(env: Mapping[str, str], environment: str) -> tuple[Finding, ...]:
    """Check that the gateway's port is free. To be asked only while the stack itself is down."""
    address, port = env["GATEWAY_BIND"], int(env["GATEWAY_PORT"])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as failure:
            return (_why_not_free(failure, f"{address}:{port}", environment),)
    return ()


def _why_not_free(failure: OSError, place: str, environment: str) -> Finding:
    if failure.errno == errno.EADDRNOTAVAIL:
        found = f"{place.partition(':')[0]} is no address of this machine"
        fix = f"correct gateway.bind in envs/{environment}.yaml, then `configure-gpu --env {environment}`"
        return error("address-unknown", found=found, expected="127.0.0.1, or an address of this machine", fix=fix)
    another = f"`configure-gpu --env {environment} --set GATEWAY_PORT=…`"
    if failure.errno == errno.EACCES:  # ports below 1024; a daemon that runs as root may still publish them
        found = f"{place}: not for this user"
        return warning("port-privileged", found=found, expected="a port from 1024 on", fix=f"choose one with {another}")
    fix = f"stop what listens there, or {another}"
    return error("port-taken", found=f"{place}: {failure.strerror}", expected="a free port", fix=fix)
