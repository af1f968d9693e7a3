"""`detect`, `plan` and `configure-gpu`: from the host to rendered files."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from generator import project, report, write
from generator.arguments import Arguments
from generator.catalog.load import load_catalog
from generator.credentials import ensure_secrets, find_hub_token
from generator.detect import detect_host
from generator.domain.environment import Environment
from generator.domain.finding import Finding
from generator.domain.host import Host
from generator.domain.plan import Plan
from generator.errors import UsageError
from generator.llms.read import SMOKE, name_llm, read_model
from generator.planning.default_llm import with_default_llm
from generator.planning.image import EngineNeeds
from generator.planning.planner import make_plan
from generator.planning.request import Folders, Request
from generator.rendering import render_plan
from generator.validation.rules import check_environment, check_shell


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
        raise UsageError(f"no folder to work in: {failure}", hint="set HOME, or name a folder with --out DIR") from None
    return Place(root=root, state=state, folders=folders)


def detect(arguments: Arguments) -> None:
    """`stackwright detect`: print the host, or write a snapshot of it."""
    from generator.detect.snapshot import format_snapshot, write_snapshot

    found = detect_host()
    report.warn_all(found.warnings)
    if arguments.output is not None:
        write_snapshot(found.host, arguments.output)
        report.tell(f"wrote {arguments.output}")
    if arguments.json:
        report.print_json(found.host)
    elif arguments.output is None:
        report.print_text(format_snapshot(found.host))


def show_plan(arguments: Arguments) -> None:
    """`stackwright plan`: print one plan."""
    place = find_place(arguments)
    host = get_host(arguments)
    plan = plan_environment(arguments, place, host, arguments.environment or Environment.DEV)
    report.warn_all(plan.warnings)
    if arguments.json:
        report.print_json(plan)
    else:
        report.print_plan(plan, explain=arguments.explain)


def configure(arguments: Arguments) -> None:
    """`configure-gpu`: plan, render, check and write, for one environment or all three."""
    place = find_place(arguments)
    host = get_host(arguments)
    environments = (arguments.environment,) if arguments.environment else tuple(Environment)
    # Every plan is made before the first file is written, so that a refusal changes nothing.
    plans = {each: plan_environment(arguments, place, host, each) for each in environments}
    report.warn_all(dict.fromkeys(warning for plan in plans.values() for warning in plan.warnings))
    changes = {each: compare(place, plan) for each, plan in plans.items()}
    if not arguments.dry_run:
        for each, plan in plans.items():
            write_environment(place, plan, changes[each])
    findings = [finding for plan in plans.values() for finding in check_rendered(place, plan)]
    everything = tuple(change for group in changes.values() for change in group)
    if arguments.json:
        report.print_configured(plans, everything, findings)
        return
    report.show_changes(everything, dry_run=arguments.dry_run, diff=arguments.diff or arguments.dry_run)
    report.show_findings(findings)
    for plan in plans.values():
        if arguments.explain:
            report.print_plan(plan, explain=True)
    if not arguments.dry_run:
        _tell_next(place, environments[0])


def _tell_next(place: Place, environment: Environment) -> None:
    from generator.runtime.compose import command_by_hand

    stack = project.load_stack(place.root, place.state, environment)
    command = project.name_command("start-environment", environment.value, root=place.root, working=Path.cwd())
    report.tell(f"next: {command}")
    if stack is not None:
        report.tell(f"or, without Stackwright: (cd {shlex.quote(str(place.root))} && {command_by_hand(stack)})")


def get_host(arguments: Arguments) -> Host:
    """Return the host of `--host`, else this machine, with its warnings shown."""
    if arguments.host is not None:
        from generator.detect.snapshot import read_snapshot

        return read_snapshot(arguments.host)
    found = detect_host()
    report.warn_all(found.warnings)
    return found.host


def plan_environment(arguments: Arguments, place: Place, host: Host, environment: Environment) -> Plan:
    """Make the plan of one environment from its wishes, the command line and the host."""
    wishes = project.read_wishes(place.root, environment)
    catalog = load_catalog()
    name = arguments.model or wishes.model
    facts = read_model(name or SMOKE, catalog.llms, place.smoke)
    request = Request(
        host=host,
        environment=environment,
        mode=arguments.mode,
        wishes=wishes,
        llm=name_llm(facts),
        facts=facts,
        pins={**wishes.settings, **dict(arguments.pins)},
        folders=place.folders,
        uid=os.getuid(),
        gid=os.getgid(),
        objective=arguments.objective,
        needs=EngineNeeds(exact=arguments.engine, allow_vulnerable=arguments.allow_vulnerable),
    )
    if name is None:
        has_token = find_hub_token(os.environ, Path(place.folders.hf_home)) is not None
        request = with_default_llm(request, catalog, has_token=has_token)
    return make_plan(request, catalog)


def compare(place: Place, plan: Plan) -> tuple[write.FileChange, ...]:
    """Render a plan and compare it with what stands in the project folder."""
    return write.compare_files(place.root, _generated(place, plan), render_plan(plan))


def write_environment(place: Place, plan: Plan, changes: tuple[write.FileChange, ...]) -> None:
    """Write the rendered files of one environment, its secrets, and the folders and model that they name."""
    project.lay_out(place.root)
    for sentence in write.write_files(_generated(place, plan), changes):
        report.warn(sentence)
    ensure_secrets(place.root / "envs" / ".secrets" / plan.environment.value, os.environ, Path(place.folders.hf_home))
    make_folders(plan, place)


def make_folders(plan: Plan, place: Place) -> None:
    """Make the cache folders, which Compose mounts, and the smoke model where the plan serves it."""
    try:
        for key in ("HF_HOME", "VLLM_CACHE_ROOT"):
            Path(plan.settings[key].value).mkdir(parents=True, exist_ok=True)
        if plan.settings["VLLM_MODEL"].value == str(place.smoke):
            from generator.smoke_model import write_smoke_model

            write_smoke_model(place.smoke)
    except OSError as failure:
        raise UsageError(
            f"{failure.filename}: cannot be written: {failure.strerror}",
            hint="STACKWRIGHT_STATE, HF_HOME and VLLM_CACHE_ROOT name other folders",
        ) from None


def check_rendered(place: Place, plan: Plan) -> tuple[Finding, ...]:
    """Check what was rendered, with the person's local file over it, by the rules that need no running engine."""
    env = {key: setting.value for key, setting in plan.settings.items()}
    local = place.root / "envs" / f".env.{plan.environment.value}.local"
    if local.exists():
        env |= project.read_env_file(local)
    return (*check_environment(plan, env), *check_shell(env, os.environ, plan.environment.value))


def _generated(place: Place, plan: Plan) -> Path:
    return place.root / "compose" / "generated" / plan.environment.value
