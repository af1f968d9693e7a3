"""Rules over what a stack needs of a machine beside GPUs: room on disks, memory, swap, shared memory, limits. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import Host
from stackwright.domain.machine import Disk, MemoryState, ModelFiles, ProcessLimits, Seen, Unseen
from stackwright.domain.plan import Mode, Plan, Replica
from stackwright.engines import engine_named
from stackwright.rendering.numbered import model_values
from stackwright.units import GIB, MIB, format_bytes

# What one LiteLLM worker of 1.109 takes when it is ready, and two take 980 MB (measured on two cores, 2026-11-21).
WORKER_BYTES = 360 * 10**6
# vLLM's image v0.22.1-cu129 is about 11 GB to download, as one user reported (collected 2026-11-21); unpacked it is more,
# so less than this is certainly too little. No source tells the sizes of the others.
CUDA_IMAGE_BYTES = 11 * 10**9
# The open files that compose.yaml asks for: one for each connection of a busy gateway.
OPEN_FILES = 16384
# vLLM 0.32.0, shm_broadcast.py, MessageQueue: 10 × 24 MiB for a replica with several worker processes.
QUEUE_BYTES = 256 * MIB
_UNITS = {"k": 1024, "m": MIB, "g": GIB}


def check_disks(
    plan: Plan, disks: Mapping[str, Seen[Disk]], models: Sequence[Seen[ModelFiles]], wanted: Mapping[str, int]
) -> Iterator[Finding]:
    """Compare the room on each file system with all that is to be written there.

    Args:
        disks: by what for: `models`, `images`, `packages`, `files`.
        models: how much of each is still to be downloaded.
        wanted: bytes to be written beside the models, by the same names.
    """
    needs: dict[int, list[tuple[str, int]]] = {}
    found: dict[int, Disk] = {}
    for purpose, disk in disks.items():
        if isinstance(disk, Unseen):
            yield not_checked(f"room on the disk for {purpose}", disk.why, plan.environment.value)
            continue
        bytes_wanted = wanted.get(purpose, 0)
        if purpose == "models":
            bytes_wanted += sum(each.missing_bytes or 0 for each in models if not isinstance(each, Unseen))
        found[disk.device] = disk
        needs.setdefault(disk.device, []).append((purpose, bytes_wanted))
    for device, disk in found.items():
        yield from _check_disk(plan, disk, needs[device])


def _check_disk(plan: Plan, disk: Disk, needs: list[tuple[str, int]]) -> Iterator[Finding]:
    total = sum(count for _, count in needs)
    clean = "`docker system df` and `du -xh --max-depth=2` show what could go"
    if disk.free_bytes == 0 or disk.free_files == 0:
        what = "no bytes" if disk.free_bytes == 0 else "no files"
        yield error("disk-full", found=f"{disk.path}: {what} free", expected="room to write", fix=clean)
    elif disk.free_bytes < total:
        parts = " and ".join(f"{format_bytes(count)} for {purpose}" for purpose, count in needs if count)
        fix = f"make room ({clean}), or name another folder: HF_HOME=… `configure-gpu --env {plan.environment.value}`"
        yield error("disk", found=f"{disk.path}: {format_bytes(disk.free_bytes)} free", expected=parts, fix=fix)


def check_memory(
    plan: Plan, env: Mapping[str, str], host: Host, memory: Seen[MemoryState], models: Sequence[Seen[ModelFiles]]
) -> Iterator[Finding]:
    """Compare the memory that the stack takes with what there is, and with what is free now."""
    needed = needed_bytes(plan, env, [None if isinstance(each, Unseen) else each.weight_bytes for each in models])
    wsl = " (WSL gives half of Windows' memory unless .wslconfig says more)" if host.os.wsl else ""
    fix = _less_memory(plan)
    if host.memory_bytes is not None and needed > host.memory_bytes:
        found = f"{format_bytes(host.memory_bytes)} of memory{wsl}"
        yield error("memory", found=found, expected=f"{format_bytes(needed)}: {_parts(plan)}", fix=fix)
        return
    if isinstance(memory, Unseen):
        yield not_checked("free memory", memory.why, plan.environment.value)
        return
    if needed <= memory.available_bytes:
        return
    found = f"{format_bytes(memory.available_bytes)} of memory free{wsl}"
    expected = f"{format_bytes(needed)}: {_parts(plan)}"
    if needed <= memory.available_bytes + memory.swap_free_bytes:
        found += f", {format_bytes(memory.swap_free_bytes)} of swap"
        yield warning(
            "swap", found=found, expected=f"{expected}, none of it on a disk", fix=f"stop other programs, or {fix}"
        )
    else:
        yield warning("memory-free", found=found, expected=expected, fix=f"stop other programs, or {fix}")


def needed_bytes(plan: Plan, env: Mapping[str, str], model_bytes: Sequence[int | None]) -> int:
    """Return what the stack certainly takes: the gateway's workers, and on a processor weights and KV cache.

    `model_bytes` is the size of each model's weights in the order of their slots, None where it is unknown.
    """
    needed = WORKER_BYTES * int(env["LITELLM_NUM_WORKERS"])
    for engine in plan.engines:
        if not engine.gpu_uuids:
            needed += max(_loaded_bytes(plan, env, model_bytes, replica) for replica in plan.turns(engine))
    return needed


def _loaded_bytes(plan: Plan, env: Mapping[str, str], model_bytes: Sequence[int | None], replica: Replica) -> int:
    """Return what a model takes of the processor's memory while it is loaded."""
    number, ranks = plan.number_of(replica), replica.tensor_parallel * replica.pipeline_parallel
    values = model_values(env, len(plan.models))[number]
    key = engine_named(plan.engine.name).keys.processor_cache
    return (int(values[key]) * GIB * ranks if key else 0) + (model_bytes[number] or 0)


def _on_processor(plan: Plan) -> bool:
    return any(not replica.gpu_uuids for replica in plan.replicas)


def _parts(plan: Plan) -> str:
    return "the gateway's workers, weights and KV cache" if _on_processor(plan) else "the gateway's workers"


def _less_memory(plan: Plan) -> str:
    cache = engine_named(plan.engine.name).keys.processor_cache if plan.mode is Mode.CPU else None
    key = cache or "LITELLM_NUM_WORKERS"
    return f"take less: `configure-gpu --env {plan.environment.value} --set {key}=1`"


def check_swap(plan: Plan, memory: Seen[MemoryState]) -> Iterator[Finding]:
    """Find a machine that works from its swap already: more of it in use than memory is free."""
    if isinstance(memory, Unseen):
        return  # told by the check of memory
    used = memory.swap_bytes - memory.swap_free_bytes
    if used > memory.available_bytes:
        found = f"{format_bytes(used)} of swap in use, {format_bytes(memory.available_bytes)} of memory free"
        fix = f"`swapon --show`, `free -h`; stop other programs, then `start-environment {plan.environment.value}`"
        yield warning("swap", found=found, expected="programs in memory: a server in swap stalls", fix=fix)


def check_shared_memory(plan: Plan, env: Mapping[str, str], shared: Seen[Disk]) -> Iterator[Finding]:
    """Compare /dev/shm with what worker processes pass to each other through it. For stacks without containers."""
    ranks = max(replica.tensor_parallel * replica.pipeline_parallel for replica in plan.replicas)
    if ranks == 1:
        return
    if isinstance(shared, Unseen):
        yield not_checked("shared memory", f"/dev/shm: {shared.why}", plan.environment.value)
        return
    wanted = size_bytes(env.get(engine_named(plan.engine.name).keys.shared_memory, "")) or QUEUE_BYTES
    fix = f"`sudo mount -o remount,size={format_bytes(wanted).replace(' GiB', 'g').replace('.0', '')} /dev/shm`"
    found = f"/dev/shm: {format_bytes(shared.free_bytes)} free"
    if shared.free_bytes < QUEUE_BYTES:
        yield error("shared-memory", found=found, expected=f"{format_bytes(QUEUE_BYTES)} or more", fix=fix)
    elif shared.free_bytes < wanted:
        expected = f"{format_bytes(wanted)} for {ranks} worker processes"
        yield warning("shared-memory", found=found, expected=expected, fix=fix)


def size_bytes(text: str) -> int | None:
    """Read a size as Compose writes it: `16gb`, `512m`, or a bare number of bytes; None for anything else."""
    read = re.fullmatch(r"([0-9]{1,15})(?:([kmg])b?)?", text.strip().lower())
    return int(read[1]) * _UNITS.get(read[2] or "", 1) if read else None


def check_limits(plan: Plan, limits: ProcessLimits, *, infiniband: bool) -> Iterator[Finding]:
    """Compare this user's limits with what the services need. For stacks without containers."""
    if limits.open_files is not None and limits.open_files < OPEN_FILES:
        yield warning(
            "open-files",
            found=f"at most {limits.open_files} open files for a process",
            expected=f"{OPEN_FILES}: each request of the gateway holds some",
            fix=f"`ulimit -Hn {OPEN_FILES}` as root before the start, or a line `* hard nofile {OPEN_FILES}` in "
            "/etc/security/limits.conf",
        )
    ranks = max(replica.tensor_parallel * replica.pipeline_parallel for replica in plan.replicas)
    # NCCL registers memory with adapters that read it by themselves; without one, memlock is of no account to it.
    if infiniband and ranks > 1 and plan.mode is not Mode.CPU and limits.locked_bytes is not None:
        yield warning(
            "locked-memory",
            found=f"at most {format_bytes(limits.locked_bytes)} of locked memory",
            expected="no limit: NCCL registers its buffers with InfiniBand adapters",
            fix="`ulimit -Hl unlimited` as root before the start, or `* hard memlock unlimited` in /etc/security/limits.conf",
        )
