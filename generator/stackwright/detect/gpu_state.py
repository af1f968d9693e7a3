"""Asks NVML how each GPU is doing now: whether it answers, who holds its memory, how hard it works, what ails it.

Touches libnvidia-ml.so.1 through `pynvml`, and /proc/<pid>/comm; read-only. What is asked of a device, and what it
means, stands in `gpu_reading`; here it becomes the words of the package, with the processes that hold memory.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stackwright.detect.fact import Fact, Unread, known, plain_text, read_file
from stackwright.detect.gpu_reading import GpuFigures, NoAnswer, Readings
from stackwright.detect.nvml import ask, find_library
from stackwright.domain.machine import GpuProcess, GpuReading, GpuState, Seen, SliceState, Unseen

# An instance that NVML does not name: a process on a whole GPU (nvml.h, nvmlProcessInfo_t: 0xFFFFFFFF).
NO_INSTANCE = 0xFFFFFFFF


def read_gpu_states() -> Seen[tuple[GpuState, ...]]:
    """Ask every device once; Unseen where NVML itself does not answer."""
    with GpuWatch(events=False) as watch:
        return watch.read()


class GpuWatch:
    """Asks every device as often as `read` is called; between two calls NVML collects the faults that come (XIDs).

    Beginning with NVML may take a second where no other program holds the driver: a watch begins once.
    """

    def __init__(self, *, events: bool = True) -> None:
        """`events`: collect faults too."""
        self._wants_events = events
        self._pynvml: Fact[Any] = Unread(words="not begun")
        self._readings: Readings | None = None

    def __enter__(self) -> Self:
        self._pynvml = ask(_begin)
        if not isinstance(self._pynvml, Unread):
            self._readings = Readings(self._pynvml, events=self._wants_events)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._readings is not None and not isinstance(self._pynvml, Unread):
            self._readings.close()
            ask(self._pynvml.nvmlShutdown)

    def read(self) -> Seen[tuple[GpuState, ...]]:
        """Ask every device; Unseen where NVML itself does not answer."""
        if isinstance(self._pynvml, Unread):
            return Unseen(why=self._pynvml.words)
        found = None if self._readings is None else self._readings.read()
        if found is None or isinstance(found, NoAnswer):
            return Unseen(why="not begun" if found is None else found.words)
        return tuple(_state_of(self._pynvml, figures) for figures in found)


def _begin() -> Any:
    present = find_library()
    if present is None:
        raise OSError("no NVIDIA driver on this machine")
    import pynvml

    pynvml.nvmlInit()
    return pynvml


def _state_of(pynvml: Any, figures: GpuFigures) -> GpuState:
    device = figures.device
    return GpuState(
        index=figures.index,
        uuid=figures.uuid,
        failure=figures.failure,
        code=figures.code,
        processes=None if figures.uuid is None else _list_processes(pynvml, figures.handle),
        lanes=figures.links.lanes,
        lanes_up=figures.links.lanes_up,
        ecc_errors=figures.ecc_errors,
        rows_broken=figures.rows_broken,
        # The same fields under the same names; what NVML calls a thing may hold signs that no terminal is given.
        reading=GpuReading(**device._replace(name=_plain(device.name))._asdict(), xids=figures.xids),
        slices=tuple(SliceState(**each._replace(name=_plain(each.name))._asdict()) for each in figures.slices),
    )


def _plain(text: str | None) -> str | None:
    return None if text is None else known(plain_text(text))


def _list_processes(pynvml: Any, handle: object) -> tuple[GpuProcess, ...] | None:
    """List who computes or draws on the device; None where NVML does not say (WSL, a container)."""
    lists = [
        known(ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
        known(ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle)),
    ]
    if all(rows is None for rows in lists):
        return None
    # One that computes and draws is in both lists, with the same bytes.
    found = {(int(row.pid), int(row.gpuInstanceId)): row.usedGpuMemory for rows in lists for row in rows or ()}
    return tuple(
        GpuProcess(
            pid=pid,
            name=known(plain_text(read_file(Path("/"), f"/proc/{pid}/comm"))),
            memory_bytes=None if used is None else int(used),
            gpu_instance=None if instance == NO_INSTANCE else instance,
        )
        for (pid, instance), used in sorted(found.items())
    )
