"""`plan` and `configure-gpu`: from the host to rendered files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from stackwright import report
from stackwright.catalog.load import load_catalog
from stackwright.commands.arguments import Arguments
from stackwright.commands.generation import hold_environments, keep_generation
from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding, Severity
from stackwright.domain.host import Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.wishes import ModelWish, Wishes
from stackwright.engines.vllm.arguments import role_of
from stackwright.engines.vllm.image import EngineNeeds
from stackwright.errors import UsageError, ValidationError
from stackwright.models.read import SMOKE, HubAccess, locate_model, name_llm, read_model
from stackwright.planning.request import Folders, Request
from stackwright.planning.several import make_plan_of_all
from stackwright.project import folder as project
from stackwright.project import write
from stackwright.project.credentials import GATEWAY_KEY, ensure_secrets, find_hub_token
from stackwright.project.digests import read_image_pins
from stackwright.project.inputs import record_inputs
from stackwright.rendering import render_plan
from stackwright.settings import problem_with, spec_of, split_slot
from stackwright.validation.publishing import check_publishing
from stackwright.validation.rules.environment import check_environment, check_shell


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this run reads and writes: the project folder, the state folder and the caches."""

    root: Path
    state: Path
    folders: Folders

    @property
    def smoke(self) -> Path:
        """The folder of the model that is made on the spot."""
        return self.state / "models" / SMOKE


def find_place(arguments: Arguments) -> Place:
    """Find the folders from the command line and the environment."""
    try:
        state, folders = project.choose_folders(os.environ, Path.home())
        root = project.find_root(arguments.out, Path.cwd())
    except (RuntimeError, OSError) as failure:  # no home folder; the working folder is gone
        reason = (failure.strerror if isinstance(failure, OSError) else None) or str(failure).rstrip(".")
        raise UsageError(f"no folder to work in: {reason}", hint="set HOME, or name a folder with --out DIR") from None
    return Place(root=root, state=state, folders=folders)


def show_plan(arguments: Arguments, host: Host) -> None:
    """`stackwright plan`: print one plan."""
    place = find_place(arguments)
    plan = plan_environment(arguments, place, host, arguments.environment or Environment.DEV)
    report.warn_all(plan.warnings)
    if arguments.json:
        report.print_json(plan)
    else:
        report.print_plan(plan, explain=arguments.explain)


def configure(arguments: Arguments, host: Host) -> None:
    """`configure-gpu`: plan, render, check and write, for one environment or all three."""
    place = find_place(arguments)
    environments = (arguments.environment,) if arguments.environment else tuple(Environment)
    # Every plan is made before the first file is written, so that a refusal changes nothing.
    plans = {each: plan_environment(arguments, place, host, each) for each in environments}
    report.warn_all(dict.fromkeys(warning for plan in plans.values() for warning in plan.warnings))
    with nullcontext() if arguments.dry_run else hold_environments(place.root, environments, arguments.command):
        changes = {each: compare(place, plan) for each, plan in plans.items()}
        findings = [finding for plan in plans.values() for finding in check_rendered(place, plan)]
        if not arguments.dry_run:
            write_environments(place, plans, changes)
    everything = tuple(change for group in changes.values() for change in group)
    if arguments.json:
        report.print_configured(plans, everything, findings)
    else:
        report.show_changes(everything, dry_run=arguments.dry_run, diff=arguments.diff or arguments.dry_run)
        report.show_findings(findings)
        for plan in plans.values():
            if arguments.explain:
                report.print_plan(plan, explain=True)
    errors = report.count_errors(findings)
    if errors:
        raise ValidationError(f"{errors} error{'s' if errors > 1 else ''} found, see above")
    if not (arguments.dry_run or arguments.json):
        _tell_next(place, environments[0])


def _tell_next(place: Place, environment: Environment) -> None:
    from stackwright.runtime.compose import command_by_hand

    stack = project.load_stack(place.root, place.state, environment)
    command = project.name_command("start-environment", environment.value, root=place.root, working=Path.cwd())
    report.tell(f"next: {command}")
    if stack is not None:
        report.tell(f"or, without Stackwright: (cd {shlex.quote(str(place.root))} && {command_by_hand(stack)})")


def plan_environment(arguments: Arguments, place: Place, host: Host, environment: Environment) -> Plan:
    """Make the plan of one environment from its wishes, the command line and the host."""
    wishes = project.read_wishes(place.root, environment)
    catalog = load_catalog()
    models = wished_models(arguments, wishes, str(place.root / "envs" / f"{environment.value}.yaml"))
    requests = tuple(_request(arguments, place, host, environment, wishes, model, origin) for model, origin in models)
    if not (arguments.models or wishes.models or wishes.model) and arguments.mode is not Mode.CPU and host.gpus:
        from stackwright.planning.default_llm import with_default_llm

        has_token = find_hub_token(os.environ, Path(place.folders.hf_home)) is not None
        requests = (with_default_llm(requests[0], catalog, has_token=has_token),)
    plan = make_plan_of_all(requests, catalog)
    _check_values(plan)
    return plan


def _request(
    arguments: Arguments,
    place: Place,
    host: Host,
    environment: Environment,
    wishes: Wishes,
    model: ModelWish,
    origin: str,
) -> Request:
    facts = _read_model(model.name, load_catalog(), place, origin)
    return Request(
        host=host,
        environment=environment,
        mode=arguments.mode,
        wishes=wishes,
        llm=name_llm(facts),
        origin=origin,
        facts=facts,
        pins={**wishes.pins, **dict(arguments.pins)},
        folders=place.folders,
        uid=os.getuid(),
        gid=os.getgid(),
        objective=arguments.objective,
        image_pins=read_image_pins(place.root),
        needs=EngineNeeds(exact=arguments.engine, allow_vulnerable=arguments.allow_vulnerable),
        named=bool(arguments.models),
        role=model.role or facts.role or role_of(facts.config),
        aliases=model.aliases,
        gpu_share=model.gpu_share,
        exclusive=model.exclusive,
        pinned=model.pinned,
    )


def wished_models(arguments: Arguments, wishes: Wishes, file: str) -> tuple[tuple[ModelWish, str], ...]:
    """Return the models to serve: those of the command line, else of the environment, else the one made on the spot.

    With each comes where it was asked for. A model that the command line names and the environment, read from `file`,
    lists keeps what is said of it there, by whichever of its names each calls it.
    """
    listed = tuple(
        (model, f"{file}: models[{position}].name: {model.name[:120]}") for position, model in enumerate(wishes.models)
    )
    if arguments.models:
        llms = load_catalog().llms if listed else ()
        known = {locate_model(model.name, llms): (model, origin) for model, origin in listed}
        return tuple(
            known.get(locate_model(name, llms), (ModelWish(name=name), f"--model {name[:120]}"))
            for name in arguments.models
        )
    name = wishes.model or SMOKE
    return listed or ((ModelWish(name=name), f"{file}: model: {name[:120]}"),)


def _read_model(name: str, catalog: Catalog, place: Place, origin: str) -> ModelFacts:
    try:
        # The smoke model is in no catalog, and reading the long one takes as long as all else together.
        llms = () if name == SMOKE else catalog.llms
        return read_model(name, llms, place.smoke, HubAccess(home=Path(place.folders.hf_home)), origin)
    except (OSError, RuntimeError):  # a name longer than a path may be; a home folder of nobody
        raise UsageError(f"{origin}: no such folder", hint="`stackwright plan --help`") from None


def _check_values(plan: Plan) -> None:
    """Refuse what no environment file can hold: folders come from variables, which hold anything."""
    for key, setting in plan.settings.items():
        spec = spec_of(key)
        problem = spec and problem_with(spec, setting.value)
        if problem:
            raise UsageError(
                f"{key}: found `{setting.value[:80]}`, allowed: {problem}",
                hint="STACKWRIGHT_STATE, HF_HOME and VLLM_CACHE_ROOT name other folders",
            )


def compare(place: Place, plan: Plan) -> tuple[write.FileChange, ...]:
    """Render a plan and compare it with what stands in the project folder."""
    files = (*render_plan(plan), record_inputs(place.root, plan.environment))
    return write.compare_files(place.root, _generated(place, plan), files)


def write_environments(
    place: Place, plans: Mapping[Environment, Plan], changes: Mapping[Environment, tuple[write.FileChange, ...]]
) -> None:
    """Write the rendered files of some environments, their secrets, and the folders and model that they name.

    To be called while they are held. The files become a generation of each.

    Raises:
        UsageError: something cannot be written, which is found out before anything is.
    """
    groups = {_generated(place, plan): changes[each] for each, plan in plans.items()}
    caches = (Path(place.folders.hf_home), Path(place.folders.vllm_cache))
    secrets = {each: place.root / "envs" / ".secrets" / each.value for each in plans}
    write.check_writable(
        (
            *(place.root / name for name in project.missing_base_files(place.root)),
            *(change.target for group in changes.values() for change in group),
            *(folder / write.MANIFEST for folder in groups),
            *(folder / GATEWAY_KEY for folder in secrets.values()),
        ),
        folders=caches,
    )
    project.lay_out(place.root)
    for sentence in write.write_files(groups):
        report.warn(sentence)
    for each, plan in plans.items():
        ensure_secrets(secrets[each], os.environ, Path(place.folders.hf_home))
        make_folders({key: setting.value for key, setting in plan.settings.items()}, place)
        keep_generation(place.root, each)


def make_folders(env: Mapping[str, str], place: Place) -> None:
    """Make the cache folders, which Compose mounts, and the smoke model where `env`, the values in force, names it."""
    try:
        for key in ("HF_HOME", "VLLM_CACHE_ROOT"):
            Path(env[key]).mkdir(parents=True, exist_ok=True)
        if str(place.smoke) in (value for key, value in env.items() if split_slot(key)[0] == "VLLM_MODEL"):
            from stackwright.models.smoke_model import write_smoke_model

            write_smoke_model(place.smoke)
    except OSError as failure:
        raise UsageError(
            f"{failure.filename or place.smoke}: cannot be written: {failure.strerror}",
            hint="STACKWRIGHT_STATE, HF_HOME and VLLM_CACHE_ROOT name other folders",
        ) from None


def check_rendered(place: Place, plan: Plan) -> tuple[Finding, ...]:
    """Check what was rendered, with the person's local file over it, by the rules that need no running engine.

    What can be mended until the start only warns: a variable of the shell, which only Compose reads; a certificate.
    """
    env = {key: setting.value for key, setting in plan.settings.items()}
    local = place.root / "envs" / f".env.{plan.environment.value}.local"
    if local.exists():
        env |= project.read_env_file(local)
    broken, name = check_environment(plan, env, load_catalog()), plan.environment.value
    if broken:
        return broken
    later = [*check_shell(env, os.environ, name), *check_publishing(env, place.root / "envs" / ".secrets" / name, name)]
    return tuple(replace(finding, severity=Severity.WARNING) for finding in later)


def _generated(place: Place, plan: Plan) -> Path:
    return place.root / "compose" / "generated" / plan.environment.value
