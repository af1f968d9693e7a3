"""The gateway's port and address, and who listens there."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from stackwright.detect.listener import find_listener
from stackwright.domain.finding import Finding, error, warning
from stackwright.domain.machine import Unseen
from stackwright.runtime.ports import why_taken
from stackwright.validation.check import DOWN, Check, Observation, safely


def look_at_port(env: Mapping[str, str]) -> OSError | None:
    """Return the kernel's refusal to let the gateway listen on its port; None where it would."""
    return why_taken(env["GATEWAY_BIND"], int(env["GATEWAY_PORT"]))


def look_for_listener(env: Mapping[str, str]) -> str | None:
    """Return who listens on the gateway's port; None where nobody is seen."""
    found = safely(lambda: find_listener(int(env["GATEWAY_PORT"])))
    return None if isinstance(found, Unseen) else found


def check_port(
    env: Mapping[str, str], environment: str, refusal: OSError | None, listener: str | None
) -> tuple[Finding, ...]:
    """Check that the gateway's port is free. To be asked only while the stack itself is down.

    `refusal` is the kernel's, None where the port is free; `listener` names who listens there, None where nobody is
    seen.
    """
    address = f"{env['GATEWAY_BIND']}:{env['GATEWAY_PORT']}"
    return () if refusal is None else (_why_not_free(refusal, address, environment, listener),)


def _why_not_free(refusal: OSError, address: str, environment: str, listener: str | None) -> Finding:
    if refusal.errno == errno.EADDRNOTAVAIL:
        found = f"{address.partition(':')[0]} is not an address of this machine"
        fix = f"correct gateway.bind in envs/{environment}.yaml, then `configure-gpu --env {environment}`"
        return error("address-unknown", found=found, expected="127.0.0.1, or an address of this machine", fix=fix)
    another = f"`configure-gpu --env {environment} --set GATEWAY_PORT=…`"
    if refusal.errno == errno.EACCES:  # ports below 1024; a daemon that runs as root may still publish them
        found = f"{address}: not for this user"
        return warning("port-privileged", found=found, expected="a port from 1024 on", fix=f"choose one with {another}")
    fix = f"stop the program that listens there, or choose another port: {another}"
    holder = f", by {listener}" if listener else ""
    return error("port-taken", found=f"{address}: {refusal.strerror}{holder}", expected="a free port", fix=fix)


REFUSAL = Observation(take=lambda machine: look_at_port(machine.stack.env))
LISTENER = Observation(take=lambda machine: look_for_listener(machine.stack.env))


PORT = Check(
    name="port",
    about="the gateway's port and address, and the program that listens there",
    findings=tuple("port-taken port-privileged address-unknown".split()),
    rule=lambda on, refusal, listener: check_port(on.env, on.environment, refusal, listener),
    looks=(
        REFUSAL,
        LISTENER,
    ),
    when=DOWN,
)
