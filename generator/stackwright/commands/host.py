"""The host that a command is for: this machine, or a snapshot of one.

Light on purpose: `docker info` is asked before the planner is even imported, and makes up its answer meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from stackwright import report
from stackwright.detect import detect_host
from stackwright.domain.forecast import GpuMemory
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode
from stackwright.engines.protocol import Engine
from stackwright.errors import HostError, NoPlanError


def get_host(snapshot: Path | None) -> Host:
    """Return the host of a snapshot, else this machine, with what a plan lacks of it shown."""
    if snapshot is not None:
        from stackwright.detect.snapshot import read_snapshot

        return read_snapshot(snapshot)
    found = detect_host(meanwhile=_load_planner)
    report.warn_all(found.notable)
    return found.host


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
        raise HostError("no GPU whose memory is known", hint="use a snapshot of the machine: --host FILE")
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
    from stackwright.rendering import load_templates

    load_catalog()
    load_templates()
