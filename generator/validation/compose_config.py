"""Ask Compose itself how it reads the rendered files, and compare that with the plan.

python-on-whales 0.81's typed ComposeConfig drops GPU reservations, so its JSON form is read.
"""

from __future__ import annotations

from typing import Any

from generator.domain.finding import Finding, error
from generator.runtime import Stack


def check_merged(stack: Stack, merged: dict[str, Any]) -> tuple[Finding, ...]:
    """Compare the merged file, as `docker compose config --format json` prints it, with the plan."""
    again = f"`configure-gpu --env {stack.plan.environment.value}` writes the override anew"
    services = merged.get("services", {})
    found = []
    for replica in stack.plan.replicas:
        service = services.get(replica.name)
        if service is None:
            found.append(
                error(
                    "compose-service",
                    found=f"no service {replica.name}",
                    expected="every replica of the plan",
                    fix=again,
                )
            )
            continue
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices") or []
        reserved = sorted(uuid for device in devices for uuid in device.get("device_ids", []))
        if reserved != sorted(replica.gpu_uuids):
            found.append(
                error(
                    "compose-gpus",
                    found=f"{replica.name} reserves {reserved or 'no GPU'}",
                    expected=str(list(replica.gpu_uuids)),
                    fix=again,
                )
            )
        if tuple(service.get("command") or ()) != stack.engine_arguments(replica):
            found.append(
                error(
                    "compose-command",
                    found=f"{replica.name} is started with other arguments",
                    expected="those of the plan",
                    fix=again,
                )
            )
    return (*found, *_check_published(services, again))


def _check_published(services: dict[str, Any], again: str) -> tuple[Finding, ...]:
    return tuple(
        error("compose-ports", found=f"{name} publishes a port", expected="only the gateway does", fix=again)
        for name, service in services.items()
        if service.get("ports") and name != "gateway"
    )
