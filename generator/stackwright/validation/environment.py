"""The values in force: the generated file, a person's own over it, and the shell that Compose prefers to both."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping

from stackwright.domain.catalog import Catalog
from stackwright.domain.finding import Finding, error
from stackwright.domain.plan import Origin, Plan, Setting
from stackwright.domain.setting_spec import Kind, problem_with
from stackwright.engines import engine_named
from stackwright.errors import did_you_mean
from stackwright.rendering.numbered import flat_settings, is_declared, model_values, spec_of_written
from stackwright.settings import declared_settings, where_secrets_belong
from stackwright.validation.check import IN_CONTAINERS, Check, Observation

# What examples and templates write where a person is to write something: CHANGE_ME, <token>, xxxx, your-key-here, TODO.
PLACEHOLDER = re.compile(
    r"(change|replace|fill)[-_ ]?(me|this|in)|<[^<>]*>|x{3,}|\.{3}|…|todo|fixme|tbd|placeholder"
    r"|(my|your)[-_ ].*(key|token|password|secret|image|path|model|name|here)|(insert|enter)[-_ ].+",
    re.IGNORECASE,
)


def check_environment(
    plan: Plan, env: Mapping[str, str], catalog: Catalog, own: Container[str] | None = None
) -> tuple[Finding, ...]:
    """Check the environment in force: no key unread or missing, every value allowed, values that agree.

    What makes it unusable has a name that begins with `env-`. `own`: the keys of the person's local file, where they
    are at hand; every other key stands in the generated one.
    """
    name = plan.environment.value
    local = f"envs/.env.{name}.local"
    settings = flat_settings(plan)
    found = [
        _unread(key, local if own is None or key in own else f"envs/.env.{name}", name)
        for key in env
        if key not in settings
    ]
    parsers = _wrong_for_release(plan, env, catalog)
    for key in settings:
        if key not in env:
            fix = f"render the file again: `configure-gpu {name}`"
            found.append(error("env-missing-key", found=f"no {key}", expected=_meaning(key), fix=fix))
            continue
        value = env[key]
        spec = spec_of_written(key)
        problem = (problem_with(spec, value) or parsers.get(key)) if spec else None
        if PLACEHOLDER.fullmatch(value):
            fix = f"write the real value into {local}, or remove the line"
            found.append(error("env-placeholder", found=f"{key}={value[:80]}", expected=_meaning(key), fix=fix))
        elif problem:
            found.append(
                error("env-value", found=f"{key}={value[:80]}", expected=problem, fix=f"correct it in {local}")
            )
    found += _check_derived(settings, env, local)
    return (*found, *(_check_parallel_sizes(plan, env, local) if not found else ()))


def _unread(key: str, file: str, environment: str) -> Finding:
    """Return the finding of a misspelt key, or of one that this plan lacks: of another mode, or of a further model."""
    fix = f"remove it from {file}"
    if spec_of_written(key) is None:
        if secret := where_secrets_belong(key, environment):
            fix = f"{secret}: {fix}"
        elif hint := did_you_mean(key.upper(), declared_settings().by_key):
            fix = f"{hint} Correct it in {file}"
    return error("env-unknown-key", found=key[:80], expected="a known key of this plan", fix=fix)


def _wrong_for_release(plan: Plan, env: Mapping[str, str], catalog: Catalog) -> dict[str, str]:
    """Return, by written key, what is allowed where another value than the plan's stands that the release does not
    take.

    A flag that comes or goes is told by `env-derived`. Of an image that is not the plan's, nobody knows what it takes.
    """
    problems: dict[str, str] = {}
    for model, values in zip(plan.models, model_values(env, len(plan.models)), strict=True):
        engine = engine_named(model.engine.name)
        for key, spec in ((spec.key, spec) for spec in engine.settings if spec.key in model.settings):
            planned = model.settings[key].value
            now = values.get(key) or spec.absent or planned
            if now == planned or spec.absent in (now, planned) or values.get(engine.keys.image) != model.engine.image:
                continue
            problem = engine.problem_with_value(key, now, model.engine.version, catalog)
            problems |= {values.written[key]: problem} if problem else {}
    return problems


def _meaning(key: str) -> str:
    spec = spec_of_written(key)
    return spec.meaning.lower() if spec else "a value"


def _check_derived(settings: Mapping[str, Setting], env: Mapping[str, str], local: str) -> tuple[Finding, ...]:
    """Find values that follow from others, or that the override holds as well, and that no longer agree with them."""
    return tuple(
        error(
            "env-derived",
            found=f"{key}={env[key][:80]}",
            expected=f"{setting.value}, derived from the rest of the plan",
            fix=f"remove it from {local}; change the plan with `configure-gpu` and --model or --set",
        )
        for key, setting in settings.items()
        if (spec := spec_of_written(key)) is not None
        and (
            not spec.pinnable
            or key == "NVIDIA_VISIBLE_DEVICES"
            # Whether there is a flag at all stands in the override.
            or (spec.absent is not None and spec.absent in (setting.value, env.get(key)))
            or setting.origin is Origin.ENGINE
            or spec.kind is Kind.BOOLEAN
            or _is_literal(key, setting.value, env.get(key, ""))
        )
        and env.get(key, setting.value) != setting.value
    )


def _is_literal(key: str, *values: str) -> bool:
    """Return whether the override holds a flag's words themselves: of a switch, and of one with several words."""
    return not is_declared(key) and any(
        value in ("true", "false") or value.startswith("-") or len(value.split()) > 1 for value in values
    )


def _check_parallel_sizes(plan: Plan, env: Mapping[str, str], local: str) -> tuple[Finding, ...]:
    """Compare, for each model, the GPUs that the sizes in force need with those that the plan reserves."""
    found = []
    for model, values in zip(plan.models, model_values(env, len(plan.models)), strict=True):
        keys = engine_named(model.engine.name).keys
        replicas, key = model.replicas, values.written[keys.tensor_parallel]
        tensor, pipeline = int(env[key]), int(values[keys.pipeline_parallel])
        wanted, planned = tensor * pipeline * len(replicas), sum(len(replica.gpu_uuids) for replica in replicas)
        if planned and wanted != planned:
            sizes = (
                f"{len(replicas)} replica(s) × tensor parallel {tensor} × pipeline parallel {pipeline} = {wanted} GPUs"
            )
            found.append(
                error(
                    "parallel-sizes",
                    found=sizes,
                    expected=f"the {planned} GPUs that the plan reserves (GPU_COUNT)",
                    fix=f"remove the change from {local} and pin it: `configure-gpu --set {key}={tensor}`",
                )
            )
    return tuple(found)


def check_shell(env: Mapping[str, str], shell: Mapping[str, str], environment: str) -> tuple[Finding, ...]:
    """Find exported variables that override the files in Compose: the stack would run with other values than shown."""
    return tuple(
        error(
            "shell-overrides",
            found=f"{key} is exported in this shell with another value",
            expected="no exported value: Compose prefers the shell to its env files",
            fix=f"`unset {key}`, or set the value in envs/.env.{environment}.local",
        )
        for key, value in env.items()
        if key in shell and shell[key] != value
    )


# The exported variables.
SHELL_VARIABLES = Observation(take=lambda _: dict(os.environ))


VALUES = Check(
    name="environment",
    about="the values in force: all keys known and set, values allowed, no placeholders, consistent sizes",
    findings=tuple("env-unknown-key env-missing-key env-value env-placeholder env-derived parallel-sizes".split()),
    rule=lambda on: check_environment(on.plan, on.env, on.catalog),
)


SHELL = Check(
    name="shell",
    about="exported variables that override the files in Compose",
    findings=tuple("shell-overrides".split()),
    rule=lambda on, shell: check_shell(on.env, shell, on.environment),
    observations=(SHELL_VARIABLES,),
    when=IN_CONTAINERS,
)
