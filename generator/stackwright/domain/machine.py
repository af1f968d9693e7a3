"""What a machine is like at this moment: what passes by the minute, and so stands in no snapshot.

Sizes are in bytes. What could not be looked at is `Unseen` with the reason, never a guess.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Unseen(Struct, frozen=True, kw_only=True):
    """Something that could not be looked at; `why` is its source's own words."""

    why: str


Seen: TypeAlias = T | Unseen


class GpuProcess(Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU. `name` and `memory_bytes` are None where nobody tells them."""

    pid: int
    name: str | None
    memory_bytes: int | None


class GpuState(Struct, frozen=True, kw_only=True):
    """One device now. `failure` is NVML's words where the device does not answer, `code` their number.

    `processes` is None where NVML does not list them. `lanes_up` of `lanes` NVLinks are active. `ecc_errors` counts
    uncorrected ones since the driver was loaded. `rows_broken`: memory rows that could not be replaced. How much memory
    there is and is used stands in the host, which is looked at anew before each start.
    """

    index: int
    uuid: str | None
    failure: str | None = None
    code: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    lanes: int = 0
    lanes_up: int = 0
    ecc_errors: int | None = None
    rows_broken: bool | None = None


class Disk(Struct, frozen=True, kw_only=True):
    """Room on the file system of a folder, for this user. `device` tells two folders on one file system."""

    path: str
    free_bytes: int
    free_files: int | None
    device: int


class MemoryState(Struct, frozen=True, kw_only=True):
    """The kernel's own estimate of what a new program can have (MemAvailable), and swap."""

    available_bytes: int
    swap_bytes: int
    swap_free_bytes: int


class ProcessLimits(Struct, frozen=True, kw_only=True):
    """What this user's processes may have at most; None is no limit."""

    open_files: int | None
    locked_bytes: int | None


class ModelFiles(Struct, frozen=True, kw_only=True):
    """What is on this host of the model to be served.

    `problem`: what is wrong with it, None where nothing is. `complete`: everything is here. `unreadable`: a file that
    the stack's user may not read. `weight_bytes` is the size of all weights, `missing_bytes` what is yet to be
    downloaded, None where nobody knows.
    """

    folder: str | None
    complete: bool
    problem: str | None = None
    unreadable: str | None = None
    weight_bytes: int | None = None
    missing_bytes: int | None = None


class HubAnswer(Struct, frozen=True, kw_only=True):
    """What a hub answered to the question for one model.

    `status` is HTTP's; `ahead_s` how far its clock is before ours.
    """

    hub: str
    status: int
    gated: bool
    ahead_s: float | None


class ContainerAnswer(Struct, frozen=True, kw_only=True):
    """What a container with the plan's GPUs saw. `refusal` is the engine's, where it did not start."""

    refusal: str | None
    uuids: tuple[str, ...]
    has_devices: bool
    named: bool
