"""One container as `docker inspect` tells it, as far as a running stack is looked at. Asks the kernel for addresses."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct


class ContainerHealth(Struct, frozen=True, kw_only=True):
    """What the health check says: starting, healthy, unhealthy."""

    status: str


class Inspected(Struct, frozen=True, kw_only=True):
    """A container of a stack. The fields of its state are named as python-on-whales names them.

    `networks`: pairs of the container's address and the address that its network's bridge has.
    """

    id: str
    status: str
    health: ContainerHealth | None
    exit_code: int
    oom_killed: bool
    error: str
    started_at: datetime | None
    pid: int
    restarts: int
    image: str
    networks: tuple[tuple[str, str], ...] = ()
    labels: Mapping[str, str] = {}

    @property
    def service(self) -> str:
        """The service that it is a container of."""
        return self.labels.get("com.docker.compose.service", "")

    @property
    def folder(self) -> str | None:
        """The folder of the Compose file that it was made from."""
        return self.labels.get("com.docker.compose.project.working_dir")

    def reachable_address(self) -> str | None:
        """Return an address at which programs of this machine reach the container; None where there is none.

        The bridge has to be this machine's own: an engine in a virtual machine, on another machine or without root has
        it elsewhere, where the same address may be somebody else's.
        """
        return next((address for address, bridge in self.networks if _is_ours(bridge)), None)


def read_inspected(row: Mapping[str, Any]) -> Inspected:
    """Read one row of `docker inspect`."""
    state, labels = row["State"], row["Config"].get("Labels") or {}
    health = state.get("Health")
    networks = ((row.get("NetworkSettings") or {}).get("Networks") or {}).values()
    return Inspected(
        id=row["Id"],
        status=state["Status"],
        health=None if health is None else ContainerHealth(status=health["Status"]),
        exit_code=state.get("ExitCode") or 0,
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error") or "",
        started_at=_moment(state.get("StartedAt") or ""),
        pid=state.get("Pid") or 0,
        restarts=row.get("RestartCount") or 0,
        image=row["Config"]["Image"],
        networks=tuple(
            (network["IPAddress"], network["Gateway"])
            for network in networks
            if network.get("IPAddress") and network.get("Gateway")
        ),
        labels=labels,
    )


def _moment(text: str) -> datetime | None:
    """Read Docker's time; Python of 3.11 takes no more than six digits of a second."""
    whole, _, rest = text.partition(".")
    with suppress(ValueError):
        return datetime.fromisoformat(f"{whole.removesuffix('Z')}.{rest.removesuffix('Z')[:6] or '0'}+00:00")
    return None


def _is_ours(address: str) -> bool:
    """Return whether an address belongs to this machine: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.bind((address, 0))
        return True
    return False
