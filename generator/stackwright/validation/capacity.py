"""What a stack needs of a machine beside GPUs: room on disks, memory, swap, shared memory, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright.detect.capacity import SHARED_MEMORY, read_disk, read_memory, read_process_limits
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import Host
from stackwright.domain.machine import Disk, MemoryState, ModelFiles, ProcessLimits, Seen, Unseen
from stackwright.domain.plan import Mode, Plan, Replica
from stackwright.engines import engine_named
from stackwright.rendering.numbered import model_values
from stackwright.runtime import Stack
from stackwright.runtime.provision import environment_folder, is_complete
from stackwright.services import additions, services_of
from stackwright.units import GIB, format_bytes
from stackwright.validation.check import DOWN, WITHOUT_CONTAINERS, Check, Machine, Observation, Subject
from stackwright.validation.compose_config import INFINIBAND, OPEN_FILES, size_bytes
from stackwright.validation.containers import CONTAINER_ENGINE, ContainerEngine
from stackwright.validation.model import MODELS, InspectedModel
from stackwright.validation.neighbours import NEIGHBOURS, Neighbour, stop_words

# The engine's image v0.22.1-cu129 is about 11 GB to download, as one user reported (collected 2026-11-21); unpacked it
# is more, so less than this is certainly too little. No source tells the sizes of the others.
CUDA_IMAGE_BYTES = 11 * 10**9


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
            yield not_checked(f"disk space for {purpose}", disk.why, plan.environment.value)
            continue
        bytes_wanted = wanted.get(purpose, 0)
        if purpose == "models":
            seen = [model for model in models if not isinstance(model, Unseen)]
            bytes_wanted += sum(model.missing_bytes or 0 for model in seen)
            if any(model.missing_bytes is None and not (model.complete or model.problem) for model in seen):
                yield not_checked("disk space for models", "the size of the weights is unknown", plan.environment.value)
        found[disk.device] = disk
        needs.setdefault(disk.device, []).append((purpose, bytes_wanted))
    for device, disk in found.items():
        yield from _check_disk(plan, disk, needs[device])


def _check_disk(plan: Plan, disk: Disk, needs: list[tuple[str, int]]) -> Iterator[Finding]:
    total = sum(count for _, count in needs)
    of_docker = "`docker system df` and " if any(purpose == "images" for purpose, _ in needs) else ""
    clean = f"check {of_docker}`du -xh --max-depth=2`"
    if disk.free_bytes == 0 or disk.free_files == 0:
        what = "no bytes" if disk.free_bytes == 0 else "no files"
        yield error("disk-full", found=f"{disk.path}: {what} free", expected="free space", fix=clean)
    elif disk.free_bytes < total:
        parts = " and ".join(f"{format_bytes(count)} for {purpose}" for purpose, count in needs if count)
        purposes = {purpose for purpose, count in needs if count}
        again = f"`configure-gpu {plan.environment.value}`"
        moves = ["move the cache: HF_HOME=… " + again] if "models" in purposes else []
        moves += ["move the packages: `export STACKWRIGHT_STATE=…`, then " + again] if "packages" in purposes else []
        fix = ", or ".join((f"free space ({clean})", *moves))
        short = format_bytes(total - disk.free_bytes)
        found_here = f"{disk.path}: {format_bytes(disk.free_bytes)} free, {short} too little"
        yield error("disk", found=found_here, expected=parts, fix=fix)


def check_memory(
    plan: Plan, env: Mapping[str, str], host: Host, memory: Seen[MemoryState], models: Sequence[Seen[ModelFiles]]
) -> Iterator[Finding]:
    """Compare the memory that the stack takes with what there is, and with what is free now."""
    wsl = " (WSL gets half of Windows' memory unless .wslconfig allows more)" if host.os.wsl else ""
    sizes = [None if isinstance(model, Unseen) else model.weight_bytes for model in models]
    needed, fix = needed_bytes(plan, env, sizes), _less_memory(plan)
    if host.memory_bytes is not None and needed > host.memory_bytes:
        found = f"{format_bytes(host.memory_bytes)} of memory{wsl}"
        key = _cache_key(plan)
        least = {**env, **{name: "1" for name in env if key and name.startswith(key)}}
        if needed_bytes(plan, least, sizes) > host.memory_bytes:
            fix = f"name a smaller model: `configure-gpu {plan.environment.value} --model …`, or use another machine"
        expected = f"at least {format_bytes(needed)}: {_parts(plan)}"
        yield error("memory", found=found, expected=expected, fix=fix)
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
        yield warning("swap", found=found, expected=f"{expected}, without swap", fix=f"stop other programs, or {fix}")
    else:
        yield warning("memory-free", found=found, expected=expected, fix=f"stop other programs, or {fix}")


def needed_bytes(plan: Plan, env: Mapping[str, str], model_bytes: Sequence[int | None]) -> int:
    """Return what the stack certainly takes: workers of the gateway, additions, on a processor weights and KV cache.

    `model_bytes` is the size of each model's weights in the order of their slots, None where it is unknown.
    """
    workers = (service.resources.workers for service in services_of(plan))
    needed = sum(worker.bytes_each * int(env[worker.count.key]) for worker in workers if worker is not None)
    needed += sum(addition.memory_bytes(env) for name, addition in additions().items() if name in plan.additions)
    for engine in plan.engines:
        if not engine.gpu_uuids:
            needed += max(_loaded_bytes(plan, env, model_bytes, replica) for replica in plan.turns(engine))
    return needed


def _loaded_bytes(plan: Plan, env: Mapping[str, str], model_bytes: Sequence[int | None], replica: Replica) -> int:
    """Return what a model takes of the processor's memory while it is loaded."""
    number, ranks = plan.number_of(replica), replica.ranks
    values = model_values(env, len(plan.models))[number]
    key = engine_named(plan.engine.name).keys.processor_cache
    return (int(values[key]) * GIB * ranks if key else 0) + (model_bytes[number] or 0)


def _on_processor(plan: Plan) -> bool:
    return any(not replica.gpu_uuids for replica in plan.replicas)


def _parts(plan: Plan) -> str:
    return "the gateway's workers, weights and KV cache" if _on_processor(plan) else "the gateway's workers"


def _cache_key(plan: Plan) -> str | None:
    """Return the setting of the cache on a processor; None on GPUs."""
    return engine_named(plan.engine.name).keys.processor_cache if plan.mode is Mode.CPU else None


def _less_memory(plan: Plan) -> str:
    cache = _cache_key(plan)
    counts = (
        service.resources.workers.count.key for service in services_of(plan) if service.resources.workers is not None
    )
    key = cache or next(counts)
    return f"use less: `configure-gpu {plan.environment.value} --set {key}=1`"


def check_swap(plan: Plan, memory: Seen[MemoryState]) -> Iterator[Finding]:
    """Find a machine that works from its swap already: more of it in use than memory is free."""
    if isinstance(memory, Unseen):
        return  # told by the check of memory
    used = memory.swap_bytes - memory.swap_free_bytes
    if used > memory.available_bytes:
        found = f"{format_bytes(used)} of swap in use, {format_bytes(memory.available_bytes)} of memory free"
        fix = f"`swapon --show`, `free -h`; stop other programs, then `start-environment {plan.environment.value}`"
        yield warning("swap", found=found, expected="no swap in use: it makes a server stall", fix=fix)


def check_shared_memory(plan: Plan, env: Mapping[str, str], shared: Seen[Disk]) -> Iterator[Finding]:
    """Compare /dev/shm with what worker processes pass to each other through it. For stacks without containers."""
    ranks = max(replica.ranks for replica in plan.replicas)
    if ranks == 1:
        return
    engine = engine_named(plan.engine.name)
    queue_bytes = engine.launch.queue_bytes
    if isinstance(shared, Unseen):
        yield not_checked("shared memory", f"/dev/shm: {shared.why}", plan.environment.value)
        return
    wanted = size_bytes(env.get(engine.keys.shared_memory, "")) or queue_bytes
    fix = f"`sudo mount -o remount,size={format_bytes(wanted).replace(' GiB', 'g').replace('.0', '')} /dev/shm`"
    found = f"/dev/shm: {format_bytes(shared.free_bytes)} free"
    if shared.free_bytes < queue_bytes:
        yield error("shared-memory", found=found, expected=f"{format_bytes(queue_bytes)} or more", fix=fix)
    elif shared.free_bytes < wanted:
        expected = f"{format_bytes(wanted)} for {ranks} worker processes"
        yield warning("shared-memory", found=found, expected=expected, fix=fix)


def check_limits(plan: Plan, limits: ProcessLimits, *, infiniband: bool) -> Iterator[Finding]:
    """Compare this user's limits with what the services need. For stacks without containers."""
    if limits.open_files is not None and limits.open_files < OPEN_FILES:
        yield warning(
            "open-files",
            found=f"open files limit {limits.open_files}",
            expected=f"{OPEN_FILES}: each gateway request needs some",
            fix=f"`ulimit -Hn {OPEN_FILES}` as root before the start, or a line `* hard nofile {OPEN_FILES}` in "
            "/etc/security/limits.conf",
        )
    ranks = max(replica.ranks for replica in plan.replicas)
    # NCCL registers memory with adapters that read it by themselves; without one, memlock is of no account to it.
    if infiniband and ranks > 1 and plan.mode is not Mode.CPU and limits.locked_bytes is not None:
        yield warning(
            "locked-memory",
            found=f"locked memory limit {format_bytes(limits.locked_bytes)}",
            expected="no limit: NCCL registers its buffers with InfiniBand adapters",
            fix=(
                "`ulimit -Hl unlimited` as root before the start, or `* hard memlock unlimited` in "
                "/etc/security/limits.conf"
            ),
        )


class Room(Struct, frozen=True, kw_only=True):
    """Where the stack writes, by what for: `models`, `images`, `packages`, `files`; and the bytes beside the models."""

    disks: Mapping[str, Seen[Disk]]
    wanted: Mapping[str, int]


def measure_space(machine: Machine) -> Room:
    """Look where the stack writes, and add up what beside the models."""
    stack, engine = machine.stack, machine.see(CONTAINER_ENGINE)
    disks = {"files": read_disk(stack.root), "models": read_disk(Path(stack.env["HF_HOME"]))}
    wanted = {}
    if engine is None:
        disks["packages"] = read_disk(stack.state)
        wanted["packages"] = sum(_packages_bytes(stack))
    elif isinstance(engine, ContainerEngine) and engine.images is not None:
        disks["images"] = engine.images
        wanted["images"] = CUDA_IMAGE_BYTES if engine.needs_cuda_image else 0
    return Room(disks=disks, wanted=wanted)


def _packages_bytes(stack: Stack) -> Iterator[int]:
    """Yield the size of each virtual environment that is still to be made, with what is downloaded for it meanwhile."""
    recipes = {recipe.name: recipe for service in stack.services if (recipe := service.as_process.recipe) is not None}
    for recipe in recipes.values():
        # Without packages for this engine, the start itself refuses.
        if recipe.refused is None and not is_complete(environment_folder(stack.state, recipe)):
            yield recipe.size_bytes * 3 // 2


def _check_memory(
    on: Subject,
    memory: Seen[MemoryState],
    models: tuple[InspectedModel, ...],
    neighbours: Seen[tuple[Neighbour, ...]],
) -> Iterator[Finding]:
    """Check the memory; what an environment holds that the start replaces is free by then."""
    beside = () if isinstance(neighbours, Unseen) else neighbours
    leaving = [one for one in beside if one.here and one.stack.environment in on.leaving]
    if not isinstance(memory, Unseen):
        freed = sum(one.memory_bytes or 0 for one in leaving)
        memory = replace(memory, available_bytes=memory.available_bytes + freed)
    staying = [one for one in beside if one not in leaving]
    for finding in check_memory(on.plan, on.env, on.host, memory, [model.files for model in models]):
        if finding.check in ("swap", "memory-free") and staying:
            held = ", ".join(_describe_neighbour(one) for one in staying)
            fix = f"{stop_words([one.name for one in staying], on.environment)}, or {_less_memory(on.plan)}"
            yield replace(finding, found=f"{finding.found}; {held}", fix=fix)
        else:
            yield finding
    yield from check_swap(on.plan, memory)


def _describe_neighbour(neighbour: Neighbour) -> str:
    held = f" and holds {format_bytes(neighbour.memory_bytes)}" if neighbour.memory_bytes is not None else ""
    return f"{neighbour.name} runs{held}"


ROOM = Observation(take=measure_space)
FREE_MEMORY: Observation[MemoryState] = Observation(take=lambda _: read_memory(), may_fail=True)
SHARED: Observation[Disk] = Observation(take=lambda _: read_disk(SHARED_MEMORY), may_fail=True)
PROCESS_LIMITS = Observation(take=lambda _: read_process_limits())


DISKS = Check(
    name="disks",
    about="space for weights (minus what is cached), images and packages; full file systems",
    findings=tuple("disk disk-full".split()),
    rule=lambda on, room, models: check_disks(on.plan, room.disks, [model.files for model in models], room.wanted),
    observations=(ROOM, MODELS),
)


MEMORY = Check(
    name="memory",
    about="memory for the gateway's workers and, on a processor, weights and KV cache; swap in use",
    findings=tuple("memory memory-free swap".split()),
    rule=_check_memory,
    observations=(FREE_MEMORY, MODELS, NEIGHBOURS),
    when=DOWN,
)


SHARED_MEMORY_SIZE = Check(
    name="shared memory",
    about="/dev/shm for an engine with several worker processes (Compose sets it for containers)",
    findings=tuple("shared-memory".split()),
    rule=lambda on, shared: check_shared_memory(on.plan, on.env, shared),
    observations=(SHARED,),
    when=WITHOUT_CONTAINERS,
)


LIMITS = Check(
    name="limits",
    about="this user's limits of open files, and of locked memory with InfiniBand",
    findings=tuple("open-files locked-memory".split()),
    rule=lambda on, limits, infiniband: check_limits(on.plan, limits, infiniband=infiniband),
    observations=(PROCESS_LIMITS, INFINIBAND),
    when=WITHOUT_CONTAINERS,
)
