"""The memory that is free on each GPU against the share that the engine takes, and who holds the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stackwright.domain.finding import Finding, error, not_checked
from stackwright.domain.host import Gpu, Host
from stackwright.domain.machine import GpuProcess, GpuState, MemoryState, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.engines import engine_named
from stackwright.rendering.numbered import model_values
from stackwright.runtime.process_groups import members, read_groups
from stackwright.runtime.running import control_group_of
from stackwright.units import format_bytes
from stackwright.validation.capacity import FREE_MEMORY
from stackwright.validation.check import WITH_GPUS, Check, Machine, Observation, Subject
from stackwright.validation.containers import list_containers
from stackwright.validation.gpus import STATES, used_gpus
from stackwright.validation.neighbours import HOLDERS, Holders, stop_words


def check_gpu_memory(
    plan: Plan,
    env: Mapping[str, str],
    host: Host,
    states: Seen[tuple[GpuState, ...]],
    memory: Seen[MemoryState],
    own: frozenset[int] | None,
) -> Iterator[Finding]:
    """Compare what is free on each GPU with what the engine will take, and name who holds it.

    The engine refuses to start with less than its share of the total free (0.32.0 v1/worker/utils.py,
    request_memory).

    Args:
        host: as it is now.
        own: the processes of this stack where it runs; None where it does not.
    """
    holders = {} if isinstance(states, Unseen) else {state.uuid: state.processes for state in states}
    suspects = {} if isinstance(states, Unseen) else {state.uuid: state.suspects for state in states}
    for gpu in host.gpus:
        if gpu.uuid not in used_gpus(plan):
            continue
        share, said = _promised(plan, env, gpu.uuid)
        total, used = _total_and_used(gpu, host, memory)
        processes = holders.get(gpu.uuid)
        if own is not None:  # what this stack holds will serve this stack
            processes = tuple(process for process in processes or () if process.pid not in own)
            used = sum(process.memory_bytes or 0 for process in processes)
        if total is None or used is None:
            yield not_checked(
                f"free memory of GPU {gpu.index}", "the driver does not report it", plan.environment.value
            )
        elif share * total > total - used:
            yield error(
                "gpu-memory",
                found=(
                    f"GPU {gpu.index}: {format_bytes(total - used)} of {format_bytes(total)} free; "
                    f"{_holders(processes, suspects.get(gpu.uuid, ()))}"
                ),
                expected=f"{format_bytes(int(share * total))} free ({said})",
                fix=_free_it(plan, processes or (), suspects.get(gpu.uuid, ())),
            )


def _promised(plan: Plan, env: Mapping[str, str], uuid: str) -> tuple[float, str]:
    """Return the share of a GPU that all engines on it take together, and the settings that say so.

    Of models that take turns it is the largest that one of them takes.
    """
    shares: dict[str, float] = {}
    key = engine_named(plan.engine.name).keys.memory_share
    if key is None:
        return 0.0, ""
    models = model_values(env, len(plan.models))
    for engine in plan.engines:
        values = [models[plan.number_of(turn)] for turn in plan.turns(engine) if uuid in turn.gpu_uuids]
        asked = {value.written[key]: float(value[key]) for value in values}
        shares |= dict([max(asked.items(), key=lambda item: item[1])] if asked else [])
    return sum(shares.values()), " + ".join(f"{name}={share:g}" for name, share in shares.items())


def _total_and_used(gpu: Gpu, host: Host, memory: Seen[MemoryState]) -> tuple[int | None, int | None]:
    """Return the bytes that count: with unified memory, of which NVML tells nothing, the processor's."""
    if gpu.memory_bytes is not None:
        return gpu.memory_bytes, gpu.memory_used_bytes
    if isinstance(memory, Unseen) or host.memory_bytes is None:
        return host.memory_bytes, None
    return host.memory_bytes, max(0, host.memory_bytes - memory.available_bytes)


def _holders(processes: tuple[GpuProcess, ...] | None, suspects: tuple[str, ...]) -> str:
    if suspects:
        return f"{' and '.join(suspects)} {'run' if len(suspects) > 1 else 'runs'} there"
    if processes is None:
        return "the programs that use the rest are unknown"
    named = [_name(process) for process in sorted(processes, key=lambda process: -(process.memory_bytes or 0))[:5]]
    return f"used by {', '.join(named)}" if named else "used by no process that NVML lists"


def _name(process: GpuProcess) -> str:
    size = f", {format_bytes(process.memory_bytes)}" if process.memory_bytes is not None else ""
    whose = f"{process.holder}: " if process.holder else ""
    return f"{whose}{process.name or 'a process'} (pid {process.pid}{size})"


def _free_it(plan: Plan, processes: tuple[GpuProcess, ...], suspects: tuple[str, ...]) -> str:
    """Return what frees the memory: another environment is stopped as one, no process of it is killed."""
    again = f"plan for the free memory: `configure-gpu {plan.environment.value}`"
    ours = tuple(dict.fromkeys((*suspects, *(process.holder for process in processes if process.holder))))
    strangers = [process for process in processes if process.holder is None]
    words = [stop_words(ours, plan.environment.value)] if ours else []
    if strangers:
        words.append(f"stop it (`kill {' '.join(str(process.pid) for process in strangers[:5])}`)")
    elif not ours:
        words.append("stop what uses it (`nvidia-smi` lists it)")
    return ", and ".join(words) if ours else f"{words[0]}, or {again}"


def find_own_processes(machine: Machine) -> Seen[frozenset[int]]:
    """Return which of the processes that NVML names are this stack's."""
    states = machine.see(STATES)
    if isinstance(states, Unseen) or not machine.runs:
        return frozenset()
    stack = machine.stack
    named = {process.pid for state in states for process in state.processes or ()}
    if not machine.compose:
        records = (stack.state / "run" / stack.name).glob("*.groups")
        return frozenset(named & {pid for path in records for group in read_groups(path) for pid in members(group)})
    containers = list_containers(stack) if named else ()
    if isinstance(containers, Unseen):
        return containers
    return frozenset(pid for pid in named if any(container in control_group_of(pid) for container in containers))


def check_free(
    on: Subject,
    states: Seen[tuple[GpuState, ...]],
    memory: Seen[MemoryState],
    own: Seen[frozenset[int]],
    holders: Holders,
) -> Iterator[Finding]:
    """Check the memory of the GPUs, with what the stack itself holds, and what it is to replace, left out."""
    if isinstance(own, Unseen):
        yield not_checked("free GPU memory", own.why, on.environment)
        return
    leaving = {environment.value for environment in on.leaving}
    states = states if isinstance(states, Unseen) else tuple(map(holders.named, states))
    seen = () if isinstance(states, Unseen) else states
    left = {process.pid for state in seen for process in state.processes or () if process.holder in leaving}
    if on.runs or left or any(leaving & set(state.suspects) for state in seen):
        yield from check_gpu_memory(on.plan, on.env, on.host, states, memory, own | left)
    else:
        yield from check_gpu_memory(on.plan, on.env, on.host, states, memory, None)


# The stack's processes that NVML names, where it is up.
OWN: Observation[frozenset[int]] = Observation(take=find_own_processes, may_fail=True)


GPU_MEMORY = Check(
    name="GPU memory",
    about="free memory of each GPU against the engine's share, and which programs use the rest",
    findings=tuple("gpu-memory".split()),
    rule=check_free,
    observations=(STATES, FREE_MEMORY, OWN, HOLDERS),
    when=WITH_GPUS,
)
