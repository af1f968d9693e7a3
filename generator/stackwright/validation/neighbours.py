"""The other environments that run on this machine, and what they hold of it: GPUs, ports, memory.

They are our own, so nobody is told to kill them: a start with `--replace` takes their place. Touches what each runtime
noted of its stacks, and the rendered files of those; read-only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.machine import GpuState, Unseen
from stackwright.errors import StackError
from stackwright.project import folder as project
from stackwright.project.generations import Generations
from stackwright.project.lock import read_work
from stackwright.runtime.activity import resident_bytes
from stackwright.runtime.running import RunningStack, control_group_of, find_running
from stackwright.services import access_to, base_services
from stackwright.validation.check import Machine, Observation
from stackwright.validation.gpus import STATES, used_gpus

OF = " of "
_CONTAINER = re.compile(r"[0-9a-f]{64}")
"""A container's whole id, as a container engine names its control group."""
GUIDE = "docs/how-to/switch-environments.md"


class Neighbour(Struct, frozen=True, kw_only=True):
    """Another stack that runs. `here`: it is of the same project folder, so that a start can replace it.

    `gpus` are the UUIDs in its plan, `port` its gateway's. `memory_bytes` of the processor's memory are its processes';
    None where they cannot be seen.
    """

    stack: RunningStack
    here: bool
    gpus: frozenset[str] = frozenset()
    port: int | None = None
    memory_bytes: int | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.stack.environment.value if self.here else f"{self.stack.environment}{OF}{self.stack.root}"


def find_neighbours(machine: Machine) -> tuple[Neighbour, ...]:
    """Return every stack that runs beside the one that is looked at.

    The container engine is asked only where something says that there may be one: it takes its time.
    """
    own = machine.stack.paths
    containers = machine.host.containers.engine is not None and (_noted(own) or _holds_gpus(machine))
    running = find_running(own.state, containers=containers)
    return tuple(_inspect(stack, own) for stack in running if not stack.is_of(own))


def _noted(own: EnvironmentPaths) -> bool:
    """Return whether another environment of this folder has been left running, or is being started."""
    others = (replace(own, environment=other) for other in Environment if other is not own.environment)
    return any(
        Generations(paths).running() is not None or read_work(paths.generated)[0] is not None for paths in others
    )


def _holds_gpus(machine: Machine) -> bool:
    """Return whether a process in a container holds memory of a GPU."""
    states = machine.see(STATES)
    pids = () if isinstance(states, Unseen) else (process.pid for state in states for process in state.processes or ())
    return any(_CONTAINER.search(control_group_of(pid)) for pid in pids)


def _inspect(stack: RunningStack, own: EnvironmentPaths) -> Neighbour:
    paths = replace(own, root=stack.root, environment=stack.environment)
    gpus: frozenset[str] = frozenset()
    port = None
    with suppress(StackError, KeyError, ValueError, OSError):
        env = project.read_environment(paths)
        port = int(env[access_to(base_services()).address[1].key])
        plan = project.load_plan(paths)
        gpus = frozenset(used_gpus(plan)) if plan is not None else gpus
    return Neighbour(
        stack=stack,
        here=stack.root.resolve() == own.root.resolve(),
        gpus=gpus,
        port=port,
        memory_bytes=resident_bytes(stack.pids) if stack.pids else None,
    )


def stop_words(names: Iterable[str], environment: str) -> str:
    """Return what to do about other stacks that are in the way of an environment, by the names that a person has."""
    here = [name for name in names if name in tuple(Environment)]
    words = []
    if here:
        flags = " ".join(f"--replace {name}" for name in here)
        words.append(
            f"start {environment} in the place of {' and '.join(here)}: `start-environment {environment} {flags}`"
        )
    for name in names:
        other, _, root = name.partition(OF)
        if root:
            words.append(f"stop {other} there: `stop-environment {other} --out {shlex.quote(root)}`")
    return f"{', and '.join(words)} (to run both: {GUIDE})"


class Holders(Struct, frozen=True, kw_only=True):
    """Whose the memory of the GPUs is: stacks as a person calls them, by process id.

    `suspects`: the environments that run on a GPU by their plans, by its UUID. Where NVML does not list a GPU's
    processes, as under WSL, that is all that is known.
    """

    by_pid: Mapping[int, str] = field(default_factory=dict)
    suspects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def named(self, state: GpuState) -> GpuState:
        """Return the state of a GPU with these names in it."""
        if not state.processes:
            return replace(state, suspects=self.suspects.get(state.uuid or "", ()))
        named = (replace(process, holder=self.by_pid.get(process.pid)) for process in state.processes)
        return replace(state, processes=tuple(named))


def find_holders(machine: Machine) -> Holders:
    """Look whose each process is that holds memory of a GPU."""
    states, neighbours = machine.see(STATES), machine.see(NEIGHBOURS)
    if isinstance(neighbours, Unseen):
        return Holders()
    pids = () if isinstance(states, Unseen) else {process.pid for state in states for process in state.processes or ()}
    owners = ((pid, one.name) for pid in pids for one in neighbours if one.stack.owns(pid))
    uuids = {uuid for one in neighbours for uuid in one.gpus}
    suspects = {uuid: tuple(one.name for one in neighbours if one.here and uuid in one.gpus) for uuid in uuids}
    return Holders(by_pid=dict(owners), suspects=suspects)


NEIGHBOURS: Observation[tuple[Neighbour, ...]] = Observation(take=find_neighbours, may_fail=True)
"""The other stacks that run."""
HOLDERS = Observation(take=find_holders)
"""Which of them hold the GPUs."""
