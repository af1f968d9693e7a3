"""The table of checks: every check of this folder, in the order in which findings are told.

docs/reference/checks.md is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding, not_checked
from stackwright.domain.host import Host
from stackwright.domain.machine import Unseen
from stackwright.project.folder import read_env_file
from stackwright.runtime import Runtime, Stack
from stackwright.runtime.compose import ComposeRuntime
from stackwright.validation import (
    attached,
    capacity,
    compose_config,
    containers,
    engine_answer,
    environment,
    files,
    gpu_memory,
    gpus,
    images,
    kernels,
    keys,
    model,
    outside,
    ports,
    publishing,
    retrieval,
    secrets,
    speech,
    surroundings,
)
from stackwright.validation.check import Check, Machine, Subject

CHECKS: tuple[Check, ...] = (
    environment.VALUES,
    files.FILES,
    surroundings.INPUTS,
    secrets.SECRETS_OF_STACK,
    keys.KEYS_OF_STACK,
    gpus.PRESENT,
    gpus.HEALTH,
    gpu_memory.GPU_MEMORY,
    containers.VERSIONS,
    containers.USER,
    containers.GPU_ACCESS,
    containers.GPUS_WITHOUT,
    kernels.COMPILER,
    environment.SHELL,
    compose_config.MERGED_FILES,
    compose_config.CONTAINER_LIMITS,
    ports.PORT,
    publishing.PUBLISHING,
    model.FILES,
    model.LENGTH,
    attached.ATTACHED,
    attached.JOINED,
    speech.SPEECH_MODEL,
    speech.SPEECH_IMAGE,
    retrieval.MODELS,
    outside.HUB,
    outside.NETWORK,
    outside.AUTHORITIES_FILE,
    outside.INSIDE,
    outside.CACHES,
    capacity.DISKS,
    capacity.MEMORY,
    capacity.SHARED_MEMORY_SIZE,
    capacity.LIMITS,
    images.RELEASES,
    images.LOCAL_IMAGES,
    images.TRACES,
    engine_answer.SETTINGS,
    surroundings.CLOCK,
    surroundings.WINDOWS,
    surroundings.DATABASE,
)
# Begun before the runtime is asked for the first time: its client's package imports itself in circles, and must be
# loaded in one thread before a second uses it.
_WITHOUT_RUNTIME = frozenset({gpus.STATES, model.MODELS})


def find_broken(stack: Stack) -> tuple[Finding, ...]:
    """Find what is wrong with the values in force, with the files beside them; nothing where they can be read on."""
    local = stack.local or stack.paths.local
    own = read_env_file(local) if local.exists() else {}
    found = environment.check_environment(stack.plan, stack.env, load_catalog(), own)
    if not any(finding.check.startswith("env-") for finding in found):
        return ()
    beside = (*files.check_files(stack, files.inspect_files(stack)),)
    return (*found, *beside, *secrets.check_secrets(stack, secrets.inspect_secrets(stack)))


def find_all(
    stack: Stack,
    runtime: Runtime,
    host: Host,
    say: Callable[[str], None] | None = None,
    leaving: tuple[Environment, ...] = (),
) -> tuple[Finding, ...]:
    """Run every check that applies to this runtime on the host as it is now. To be asked where nothing is broken.

    `say` tells what takes long, which is left out without it. `leaving`: environments that the start is to replace.

    Raises:
        RuntimeRefusedError: the runtime cannot say what runs.
    """
    machine = _machine(stack, runtime, host, say)
    waiting = {observation: None for check in CHECKS for observation in check.observations if observation.waits}
    machine.begin(observation for observation in waiting if observation in _WITHOUT_RUNTIME)
    subject = replace(_subject(machine), leaving=leaving)
    machine.begin(waiting)
    return tuple(find_in(subject, machine))


def find_later(stack: Stack, runtime: Runtime, host: Host, say: Callable[[str], None]) -> tuple[Finding, ...]:
    """Run the checks that had to wait for what a start fetches. Raises as `find_all`."""
    machine = _machine(stack, runtime, host, say)
    return tuple(find_in(_subject(machine), machine, (engine_answer.SETTINGS,)))


def _machine(stack: Stack, runtime: Runtime, host: Host, say: Callable[[str], None] | None) -> Machine:
    return Machine(stack, host, runtime, compose=isinstance(runtime, ComposeRuntime), say=say)


def _subject(machine: Machine) -> Subject:
    return Subject(
        stack=machine.stack, host=machine.host, catalog=load_catalog(), compose=machine.compose, runs=machine.runs
    )


def find_in(subject: Subject, machine: Machine, checks: Iterable[Check] = CHECKS) -> Iterator[Finding]:
    """Yield the findings of the checks that apply. A check that fails itself, on a machine unlike any, says so."""
    for check in checks:
        try:
            found = _run(check, subject, machine) if check.when.holds(subject) else ()
        except Exception as failure:  # noqa: BLE001 whatever it is, the other checks still have something to tell
            why = f"{type(failure).__name__}: {str(failure)[:160]}"
            found = (not_checked(check.name, why, subject.environment),)
        yield from found


def _run(check: Check, subject: Subject, machine: Machine) -> tuple[Finding, ...]:
    seen = [(observation, machine.see(observation)) for observation in check.observations]
    for observation, answer in seen:
        if isinstance(answer, Unseen) and not observation.may_fail:
            return (not_checked(check.name, answer.why, subject.environment),)
    return tuple(check.rule(subject, *(answer for _, answer in seen)))
