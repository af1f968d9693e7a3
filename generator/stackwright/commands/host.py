"""The host that a command is for: this machine, or a snapshot of one.

Light on purpose: `docker info` is asked before the planner is even imported, and makes up its answer meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from stackwright import report
from stackwright.domain.forecast import GpuMemory
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode
from stackwright.engines.protocol import Engine
from stackwright.errors import HostError, NoPlanError

if TYPE_CHECKING:
    from stackwright.domain.machine import GpuState


def get_host(snapshot: Path | None) -> Host:
    """Return the host of a snapshot, else this machine, with what a plan lacks of it shown."""
    if snapshot is not None:
        from stackwright.detect.snapshot import read_snapshot

        return read_snapshot(snapshot)
    from stackwright.detect.host import detect_host

    found = detect_host(meanwhile=_load_planner)
    report.warn_all(found.notable)
    return _as_if_stopped(found.host)


def _as_if_stopped(host: Host) -> Host:
    """Count as free what our own stacks hold of the GPUs: a plan is not to change with what runs.

    One environment holds the GPUs at a time, and another takes its place (docs/how-to/switch-environments.md).
    """
    if not any(gpu.memory_used_bytes for gpu in host.gpus):
        return host
    from stackwright.commands.paths import find_paths
    from stackwright.detect.gpu_state import read_gpu_states
    from stackwright.domain.machine import Unseen
    from stackwright.runtime.running import find_running

    states = read_gpu_states()
    if isinstance(states, Unseen):
        return host
    stacks = find_running(find_paths(None).state, containers=host.containers.engine is not None)
    return without_held(host, states, lambda pid: any(stack.owns(pid) for stack in stacks))


def without_held(host: Host, states: Iterable[GpuState], is_own: Callable[[int], bool]) -> Host:
    """Return the host with the memory that our own processes hold counted as free; what nobody lists stays as it is."""
    held = {
        state.uuid: sum(process.memory_bytes or 0 for process in state.processes or () if is_own(process.pid))
        for state in states
    }
    gpus = tuple(
        replace(gpu, memory_used_bytes=max(0, gpu.memory_used_bytes - held.get(gpu.uuid, 0)))
        if gpu.memory_used_bytes is not None
        else gpu
        for gpu in host.gpus
    )
    return replace(host, gpus=gpus)


def choose_gpus(host: Host, ranks: int) -> GpuMemory:
    """Return the GPU that decides: of the `ranks` largest ones, the one with the least memory, and the least free.

    A GPU with MIG on serves by its slices, each alone: no model spans them.

    Raises:
        HostError: no GPU's memory is known.
        NoPlanError: there are fewer GPUs.
    """
    from stackwright.catalog.load import find_gpu
    from stackwright.engines.memory.gpu import memory_on

    gpus = [gpu for gpu in host.gpus if not gpu.mig]
    slices = [gpu for gpu in gpus if gpu.mig_slice is not None] if ranks > 1 else []
    whole = [gpu for gpu in gpus if gpu not in slices]
    known = [seen for gpu in whole if (seen := memory_on(host, gpu, find_gpu(gpu.name))) is not None]
    if not known and not slices:
        hint = "a snapshot of a machine whose driver tells it: --host FILE"
        raise HostError("no GPU whose memory is known", hint=hint)
    if len(known) < ranks:  # the host was read well: it is the plan that does not fit
        beside = f" beside {len(slices)} MIG slice(s), which a model cannot span" if slices else ""
        raise NoPlanError(
            f"{ranks} GPUs requested, {len(known)} present{beside}",
            hint="lower --tensor-parallel or --pipeline-parallel",
        )
    group = sorted(known, key=lambda memory: (memory.total_bytes, -memory.used_bytes), reverse=True)[:ranks]
    return min(group, key=lambda memory: memory.total_bytes - memory.used_bytes)


def gateway_bytes(engine: Engine, host: Host) -> int:
    """Return what the gateway of a plan for this processor takes of its memory."""
    from stackwright.planning.workers import WORKER_BYTES, count_gateway_workers

    workers, _ = count_gateway_workers(host, Mode.CPU, 0, engine.processor_requests)
    return workers * WORKER_BYTES


def _load_planner() -> None:
    """Load what every plan and its files take: nearly half of a short command's time."""
    from stackwright.catalog.load import load_catalog
    from stackwright.commands import configure  # noqa: F401  # imported for what it imports

    load_catalog()
