"""The GPUs that the plan was made for: present and well, and joined as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stackwright.detect.gpu_state import read_gpu_states
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import Driver, Gpu, Host, LinkKind, newer_driver
from stackwright.domain.machine import GpuState, Seen, Unseen
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.topology import NVLINK_KINDS
from stackwright.planning.placement import describe_gpus
from stackwright.project.pasting import PRESENT_HARDWARE
from stackwright.units import format_bytes, version_parts
from stackwright.validation.check import WITH_GPUS, Check, Observation

# nvml.h, NVML_ERROR_GPU_IS_LOST: fallen off the bus, or otherwise out of reach.
GPU_IS_LOST = 15
# nvml.h, NVML_ERROR_LIB_RM_VERSION_MISMATCH, in pynvml's words: a driver was updated and its old module is still
# loaded.
MISMATCH = "mismatch"


def check_host(plan: Plan, host: Host) -> tuple[Finding, ...]:
    """Compare the host as it is with the one that the plan was made for."""
    again = _again(plan)
    if host.driver is not None and host.driver.error is not None and used_gpus(plan):
        return (_driver_fault(host.driver),)
    present = {gpu.uuid: gpu for gpu in host.gpus}
    missing = {uuid: engine.name for engine in plan.engines for uuid in plan.gpus_of(engine) if uuid not in present}
    found = [_missing(plan, host, missing)] if missing else []
    needed = plan.engine.cuda
    runs = host.driver.cuda if host.driver else None
    # The planner may have chosen an image that lifts an older driver (forward or minor-version compatibility).
    planned = plan.host.driver.cuda if plan.host.driver else None
    if needed and runs and version_parts(runs) < min(version_parts(needed), version_parts(planned or needed)):
        expected = f"CUDA {needed}, which {plan.engine.image} needs"
        ubuntu = "" if host.os.container or host.os.wsl else " (`sudo ubuntu-drivers install` on Ubuntu)"
        fix = f"{newer_driver(host.os, needed)}{ubuntu}, or {again}"
        found.append(error("driver-too-old", found=f"driver runs CUDA {runs}", expected=expected, fix=fix))
    return (*found, *_find_drift(plan, host), *_find_changed_links(plan, host))


def _missing(plan: Plan, host: Host, missing: Mapping[str, str]) -> Finding:
    """Name all devices of the plan that are not here, each with its engine: they have one cause."""
    sliced = any(gpu.uuid in missing and gpu.mig_slice is not None for gpu in plan.host.gpus)
    kind = "MIG slice" if sliced else "GPU"
    who = ", ".join(f"{uuid} (for {engine})" for uuid, engine in missing.items())
    count = f"{len(missing)} of the plan's {len(used_gpus(plan))} {kind}{'s' if len(used_gpus(plan)) > 1 else ''}"
    return error(
        "gpu-missing",
        found=f"{count} {'is' if len(missing) == 1 else 'are'} missing: {who}; this machine has {describe_gpus(host)}",
        expected="the plan's GPUs" + ("; a recreated slice has a new UUID" if sliced else ""),
        fix=_again(plan),
    )


def used_gpus(plan: Plan) -> tuple[str, ...]:
    """Return the UUIDs of the plan's GPUs."""
    return tuple(uuid for engine in plan.engines for uuid in plan.gpus_of(engine))


def _again(plan: Plan) -> str:
    return f"{PRESENT_HARDWARE}`configure-gpu {plan.environment.value}`"


def _driver_fault(driver: Driver) -> Finding:
    loaded = f" (the loaded kernel module is {driver.version})" if driver.version else ""
    fix = "reboot, or reinstall the driver; `sudo dmesg | grep -i nvrm` shows its messages"
    if MISMATCH in (driver.error or "").lower():
        fix = "load the installed driver with `sudo reboot`"
    return error("driver-fault", found=f"NVML: {driver.error}{loaded}", expected="a driver that answers", fix=fix)


def _find_drift(plan: Plan, host: Host) -> Iterator[Finding]:
    """Return what changed of GPUs that are there: their order, what they are, and new ones."""
    if not used_gpus(plan):
        return
    planned = {gpu.uuid: gpu for gpu in plan.host.gpus if gpu.uuid is not None}
    present = {gpu.uuid: gpu for gpu in host.gpus if gpu.uuid is not None}
    both = [(planned[uuid], gpu) for uuid, gpu in present.items() if uuid in planned]
    moved = [
        f"{now.uuid} was GPU {before.index} and is GPU {now.index}" for before, now in both if before.index != now.index
    ]
    if moved:
        expected = "the plan's order (the right GPUs are still used, by UUID)"
        yield warning("gpu-order", found="; ".join(moved), expected=expected, fix=_again(plan))
    for before, now in both:
        changes = [words for words in _changes(before, now) if now.uuid in used_gpus(plan)]
        if changes:
            found = f"GPU {now.index}: {'; '.join(changes)}"
            yield error("gpu-changed", found=found, expected="the plan's GPU", fix=_again(plan))
    new = [f"GPU {gpu.index} ({gpu.name or uuid})" for uuid, gpu in present.items() if uuid not in planned]
    if new:
        yield warning("gpu-added", found=f"{', '.join(new)}: not in the plan", expected="GPUs in use", fix=_again(plan))


def _changes(before: Gpu, now: Gpu) -> Iterator[str]:
    if before.memory_bytes and now.memory_bytes and before.memory_bytes != now.memory_bytes:
        yield f"{format_bytes(before.memory_bytes)} of memory before, {format_bytes(now.memory_bytes)} now"
    if before.mig is not None and now.mig is not None and before.mig != now.mig:
        yield f"MIG mode is {'on' if now.mig else 'off'}, and was {'on' if before.mig else 'off'}"


def _find_changed_links(plan: Plan, host: Host) -> Iterator[Finding]:
    """Compare the links among the plan's GPUs by UUID, since indices move."""
    used = set(used_gpus(plan))
    present = {gpu.uuid for gpu in host.gpus}
    before, now = _links_by_uuid(plan.host), _links_by_uuid(host)
    for pair in sorted(before, key=sorted):
        if pair <= used & present and before[pair] != now.get(pair):
            names = " and ".join(sorted(pair))
            found = f"{names}: {_describe(now.get(pair))}"
            yield warning("links-changed", found=found, expected=_describe(before[pair]), fix=_again(plan))


def _links_by_uuid(host: Host) -> dict[frozenset[str], tuple[LinkKind, int | None]]:
    uuids = {gpu.index: gpu.uuid for gpu in host.gpus if gpu.uuid is not None}
    pairs = {(link.a, link.b): link for link in host.links if link.a in uuids and link.b in uuids}
    return {frozenset((uuids[a], uuids[b])): (link.kind, link.lanes) for (a, b), link in pairs.items()}


def _describe(link: tuple[LinkKind, int | None] | None) -> str:
    if link is None:
        return "a link that cannot be read"
    kind, lanes = link
    return f"{kind}, {lanes} lanes" if lanes else str(kind)


def check_health(plan: Plan, states: Seen[tuple[GpuState, ...]]) -> Iterator[Finding]:
    """Find GPUs that do not answer, NVLink lanes that are down, and memory that fails."""
    if isinstance(states, Unseen):
        yield not_checked("the GPUs' health", states.why, plan.environment.value)
        return
    answering = {state.uuid for state in states if state.failure is None}
    devices = _devices(plan)
    lacking = any(uuid not in answering for uuid in devices)
    for state in states:
        if state.failure is not None:
            yield _lost(plan, state, needed=lacking)
    linked = _linked(plan)
    for state in states:
        if state.uuid not in devices:
            continue
        if state.uuid in linked and state.lanes_up < state.lanes:
            found = f"GPU {state.index}: {state.lanes_up} of {state.lanes} NVLink lanes are up"
            fix = (
                f"reseat the NVLink bridge (`nvidia-smi nvlink --status -i {state.index}` shows the lanes), then "
                f"{_again(plan)}"
            )
            yield warning("nvlink-lanes", found=found, expected="every lane up", fix=fix)
        yield from _memory_errors(state)


def _devices(plan: Plan) -> set[str | None]:
    """Return the UUIDs of the boards that the plan uses: its GPUs, and those that its MIG slices are cut from."""
    boards = {gpu.index: gpu.uuid for gpu in plan.host.gpus if gpu.mig_slice is None}
    used = [gpu for gpu in plan.host.gpus if gpu.uuid in used_gpus(plan)]
    return {gpu.uuid if gpu.mig_slice is None else boards.get(gpu.mig_slice.gpu) for gpu in used}


def _lost(plan: Plan, state: GpuState, *, needed: bool) -> Finding:
    number = f" (NVML error {state.code})" if state.code is not None else ""
    reset = "reboot" if state.code == GPU_IS_LOST else f"`sudo nvidia-smi --gpu-reset -i {state.index}`, or reboot"
    make = error if needed else warning
    return make(
        "gpu-lost",
        found=f"GPU {state.index}: {state.failure}{number}",
        expected="a GPU that answers",
        fix=f"{reset}; to run without it, {_again(plan)}",
    )


def _linked(plan: Plan) -> set[str]:
    """Return the GPUs of the plan that were joined to another of them by NVLink."""
    used = set(used_gpus(plan))
    return {
        uuid
        for pair, (kind, _) in _links_by_uuid(plan.host).items()
        if kind in NVLINK_KINDS and pair <= used
        for uuid in pair
    }


def _memory_errors(state: GpuState) -> Iterator[Finding]:
    fix = f"reset the GPU, and replace it if they recur; details: `nvidia-smi -q -d ECC,ROW_REMAPPER -i {state.index}`"
    if state.ecc_errors:
        found = f"GPU {state.index}: {state.ecc_errors} uncorrected memory errors since the driver was loaded"
        yield warning("gpu-memory-errors", found=found, expected="none", fix=fix)
    if state.rows_broken:
        found = f"GPU {state.index}: broken memory rows could not be remapped"
        yield warning("gpu-memory-errors", found=found, expected="memory without broken rows", fix=fix)


# What each device answers; nothing is asked for a plan without GPUs.
STATES: Observation[tuple[GpuState, ...]] = Observation(
    take=lambda machine: () if machine.stack.plan.mode is Mode.CPU else read_gpu_states(), waits=True, may_fail=True
)


PRESENT = Check(
    name="GPUs",
    about="the plan's GPUs by UUID: present, same order, size and links; the driver",
    findings=tuple("driver-fault gpu-missing gpu-changed gpu-order gpu-added links-changed driver-too-old".split()),
    rule=lambda on: check_host(on.plan, on.host),
    when=WITH_GPUS,
)


HEALTH = Check(
    name="GPU health",
    about="each GPU answers (NVML); NVLink lanes, uncorrected memory errors and broken rows",
    findings=tuple("gpu-lost nvlink-lanes gpu-memory-errors".split()),
    rule=lambda on, states: check_health(on.plan, states),
    observations=(STATES,),
    when=WITH_GPUS,
)
