"""Rules over what was rendered: the plan, the environment in force, the host. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from generator.domain.finding import Finding, error, warning
from generator.domain.host import Host
from generator.domain.plan import Mode, Plan
from generator.domain.topology import sole_slice
from generator.errors import did_you_mean
from generator.planning.image import version
from generator.planning.placement import describe_gpus
from generator.settings import BY_KEY, problem_with


def check_environment(plan: Plan, env: Mapping[str, str]) -> tuple[Finding, ...]:
    """Check the environment in force: no key unknown or missing, every value allowed, values that agree.

    What makes it unusable has a name that begins with `env-`.
    """
    name = plan.environment.value
    local = f"envs/.env.{name}.local"
    found = []
    for key in env:
        if key not in BY_KEY:
            hint = did_you_mean(key.upper(), BY_KEY)
            fix = f"{hint} Correct it in {local}" if hint else f"remove it from {local}"
            found.append(error("env-unknown-key", found=key[:80], expected="a key that something reads", fix=fix))
    for key in plan.settings:
        if key not in env:
            fix = f"`configure-gpu --env {name}` writes the file anew"
            found.append(error("env-missing-key", found=f"no {key}", expected=BY_KEY[key].meaning.lower(), fix=fix))
    for key, value in env.items():
        problem = problem_with(BY_KEY[key], value) if key in BY_KEY else None
        if problem:
            found.append(
                error("env-value", found=f"{key}={value[:80]}", expected=problem, fix=f"correct it in {local}")
            )
    found += _check_derived(plan, env, local)
    return (*found, *(_check_parallel_sizes(plan, env, local) if not found else ()))


def _check_derived(plan: Plan, env: Mapping[str, str], local: str) -> tuple[Finding, ...]:
    """Find values that follow from others, or that the override holds as well, and that no longer agree with them."""
    return tuple(
        error(
            "env-derived",
            found=f"{key}={env[key][:80]}",
            expected=f"{setting.value}, which follows from the rest of the plan",
            fix=f"remove it from {local}; `configure-gpu` plans anew with --model or --set",
        )
        for key, setting in plan.settings.items()
        if (not BY_KEY[key].pinnable or key == "NVIDIA_VISIBLE_DEVICES")
        and env.get(key, setting.value) != setting.value
    )


def _check_parallel_sizes(plan: Plan, env: Mapping[str, str], local: str) -> tuple[Finding, ...]:
    if plan.mode is Mode.CPU:
        return ()
    tensor, pipeline = int(env["VLLM_TENSOR_PARALLEL_SIZE"]), int(env["VLLM_PIPELINE_PARALLEL_SIZE"])
    wanted, planned = tensor * pipeline * len(plan.replicas), sum(len(each.gpu_uuids) for each in plan.replicas)
    if wanted == planned:
        return ()
    return (
        error(
            "parallel-sizes",
            found=f"{len(plan.replicas)} replica(s) × tensor parallel {tensor} × pipeline parallel {pipeline} = {wanted} GPUs",
            expected=f"the {planned} GPUs that the plan reserves (GPU_COUNT)",
            fix=f"drop the change from {local} and pin it: `configure-gpu --set VLLM_TENSOR_PARALLEL_SIZE={tensor}`",
        ),
    )


def check_host(plan: Plan, host: Host) -> tuple[Finding, ...]:
    """Compare the host as it is with the one that the plan was made for."""
    present = {gpu.uuid for gpu in host.gpus}
    again = f"`configure-gpu --env {plan.environment.value}` plans for what is there"
    found = [
        error(
            "gpu-missing",
            found=describe_gpus(host),
            expected=_name(plan, uuid, replica.name),
            fix=again,
        )
        for replica in plan.replicas
        for uuid in replica.gpu_uuids
        if uuid not in present
    ]
    found += _check_partitioned(plan, host, again)
    needed = plan.engine.cuda
    runs = host.driver.cuda if host.driver else None
    # The planner may have chosen an image that lifts an older driver (forward or minor-version compatibility).
    planned = plan.host.driver.cuda if plan.host.driver else None
    if needed and runs and version(runs) < min(version(needed), version(planned or needed)):
        expected = f"CUDA {needed}, which {plan.engine.image} needs"
        found.append(
            error("driver-too-old", found=f"driver runs CUDA {runs}", expected=expected, fix="update the NVIDIA driver")
        )
    if plan.host.links != host.links and not found and plan.replicas[0].gpu_uuids:
        found.append(
            warning("links-changed", found="links between GPUs differ", expected="those of the plan", fix=again)
        )
    return tuple(found)


def _name(plan: Plan, uuid: str, replica: str) -> str:
    """Name a device of the plan for a person who looks for it in vain."""
    if any(gpu.uuid == uuid and gpu.mig_slice is not None for gpu in plan.host.gpus):
        return f"MIG slice {uuid} of the plan for {replica}; one that is made again has another UUID"
    return f"GPU {uuid} of the plan for {replica}"


def _check_partitioned(plan: Plan, host: Host, again: str) -> tuple[Finding, ...]:
    """Find GPUs of the plan that have been partitioned since: they answer, but CUDA runs on their slices alone."""
    used = {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
    return tuple(
        error("gpu-partitioned", found=f"GPU {gpu.index} ({gpu.uuid}) has MIG on", expected="a whole GPU", fix=again)
        for gpu in host.gpus
        if gpu.mig and gpu.uuid in used
    )


def check_processes(plan: Plan) -> tuple[Finding, ...]:
    """Find what the plan needs of containers, where the engine is to run without them.

    The image brings CUDA's compatibility libraries, which let an older driver run a newer major release of CUDA; the
    packages that are installed in its place have none (docs/decisions/0010-image-planner.md). And a container shows an
    engine its MIG slice as the only GPU; among others vLLM cannot name one (0.32.0 platforms/cuda.py).
    """
    found = []
    driver = plan.host.driver
    needed, runs = plan.engine.cuda, driver.cuda if driver else None
    if needed and runs and version(needed)[0] > version(runs)[0]:
        name = (driver.version if driver else None) or "of unknown version"
        expected = f"CUDA {needed}: only {plan.engine.image} has the compatibility libraries that bridge this"
        fix = "update the NVIDIA driver, or use `--runtime compose`"
        found.append(error("image-only", found=f"driver {name} runs CUDA {runs}", expected=expected, fix=fix))
    used = {uuid for replica in plan.replicas for uuid in replica.gpu_uuids}
    slices = [gpu for gpu in plan.host.gpus if gpu.mig_slice is not None and gpu.uuid in used]
    if slices and sole_slice(plan.host) is None:
        found.append(
            error(
                "slice-among-others",
                found=f"MIG slice {slices[0].uuid} on a machine with other GPUs or slices",
                expected="one GPU with one slice: vLLM takes a slice's number for a GPU's",
                fix="use `--runtime compose`, which shows each engine its slice alone",
            )
        )
    return tuple(found)


def check_shell(env: Mapping[str, str], shell: Mapping[str, str], environment: str) -> tuple[Finding, ...]:
    """Find exported variables that Compose would prefer to the files: the stack would run with other values than shown."""
    return tuple(
        error(
            "shell-overrides",
            found=f"{key} is exported in this shell with another value",
            expected="one source for each value: Compose prefers the shell to its env files",
            fix=f"`unset {key}`, or write the value into envs/.env.{environment}.local",
        )
        for key, value in env.items()
        if key in shell and shell[key] != value
    )
