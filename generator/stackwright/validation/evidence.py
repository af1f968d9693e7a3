"""All that was seen before a start, as one value for the table of checks. Touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stackwright.domain.catalog import Catalog
from stackwright.domain.host import Host
from stackwright.domain.machine import (
    ContainerAnswer,
    Disk,
    GpuState,
    HubAnswer,
    MemoryState,
    ModelFiles,
    ProcessLimits,
    Seen,
)
from stackwright.runtime import Stack


@dataclass(frozen=True, kw_only=True)
class ModelSeen:
    """One model of a plan, here and on its hub; `location` is what the engine loads."""

    location: str
    files: Seen[ModelFiles]
    hub: Seen[HubAnswer] | None
    gated: bool | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen; `Unseen` where it could not be, None where nobody looked as nothing hangs on it.

    Args:
        compose: whether Compose runs the stack; else it runs as processes of this user.
        runs: whether the stack is up now.
        shell: the exported variables.
        merged: the files as Compose reads them.
        own: the stack's processes that NVML names, where it is up.
        listener: who listens on the gateway's port.
        disks: by what is to be written there: `models`, `images`, `packages`, `files`.
        wanted: bytes to be written beside the model, by the same names.
        model, hub, gated: the first model's files, its hub's answer, and whether that asks for a token.
        longest_tokens: the longest request that its config.json allows; None where it is not here or says nothing.
        further: the other models.
        offline: HF_HUB_OFFLINE forbids to ask the hub.
        changed: what the files were rendered from and has changed since; None without a record.
        newest_file_s, now_s: seconds since 1970.
    """

    stack: Stack
    host: Host
    compose: bool
    runs: bool
    shell: Mapping[str, str]
    merged: Seen[dict[str, Any]] | None
    gpus: Seen[tuple[GpuState, ...]]
    own: Seen[frozenset[int]]
    listener: str | None
    container: Seen[ContainerAnswer] | None
    disks: Mapping[str, Seen[Disk]]
    wanted: Mapping[str, int]
    shared_memory: Seen[Disk]
    memory: Seen[MemoryState]
    limits: ProcessLimits
    infiniband: bool
    model: Seen[ModelFiles]
    longest_tokens: int | None
    hub: Seen[HubAnswer] | None
    gated: bool | None
    has_token: bool
    offline: bool
    changed: Seen[tuple[str, ...] | None]
    newest_file_s: float | None
    now_s: float
    catalog: Catalog
    further: tuple[ModelSeen, ...] = ()

    @property
    def env(self) -> Mapping[str, str]:
        """The values in force."""
        return self.stack.env

    @property
    def models(self) -> tuple[ModelSeen, ...]:
        """Every model of the plan, in the order of their slots."""
        first = ModelSeen(
            location=self.env[self.stack.engine.keys.model], files=self.model, hub=self.hub, gated=self.gated
        )
        return (first, *self.further)
