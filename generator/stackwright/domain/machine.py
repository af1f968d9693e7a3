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
    """A process that holds memory of a GPU. `name` and `memory_bytes` are None where nobody tells them.

    `gpu_instance`: that of the MIG slice which it works on; None on a whole GPU.
    `holder`: the stack of another environment that it belongs to, as a person calls it; None of any other program.
    """

    pid: int
    name: str | None
    memory_bytes: int | None
    gpu_instance: int | None = None
    holder: str | None = None


class GpuReading(Struct, frozen=True, kw_only=True):
    """What a device tells of itself now; each value is None where NVML does not tell it.

    `busy_percent`: of the last sample period, in which a kernel ran. `power_limit_w` is the one that is enforced.
    `slowed`: why its clocks are lower than they could be, in words; idleness and a wished clock are no reasons. `xids`:
    NVIDIA's numbers of the faults that came while NVML was being watched; it keeps none from before.
    """

    name: str | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    busy_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    slowed: tuple[str, ...] | None = None
    xids: tuple[int, ...] = ()


class SliceState(Struct, frozen=True, kw_only=True):
    """One MIG slice now; NVML tells its memory alone, not how busy it is."""

    uuid: str | None
    name: str | None
    gpu_instance: int | None
    memory_bytes: int | None
    memory_used_bytes: int | None


class GpuState(Struct, frozen=True, kw_only=True):
    """One device now. `failure` is NVML's words where the device does not answer, `code` their number.

    `processes` is None where NVML does not list them. `lanes_up` of `lanes` NVLinks are active. `ecc_errors` counts
    uncorrected ones since the driver was loaded. `rows_broken`: memory rows that could not be replaced. `slices` are
    asked for where MIG is on. `suspects`: the environments that run on it by their plans, where nobody lists its
    processes.
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
    reading: GpuReading = GpuReading()
    slices: tuple[SliceState, ...] = ()
    suspects: tuple[str, ...] = ()


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
