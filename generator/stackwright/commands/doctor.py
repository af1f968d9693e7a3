"""`stackwright doctor`: look at a stack that runs, or at what its last failed start left, and name what is wrong."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.catalog.load import load_catalog
from stackwright.commands.choices import command
from stackwright.commands.configure import plan_environment
from stackwright.commands.configure_gpu import ConfigureArguments, configure
from stackwright.commands.generation import describe_left
from stackwright.commands.options import (
    ENVIRONMENTS,
    PlanArguments,
    PlanOptions,
    add_json,
    add_out,
    add_runtime,
    parse_environment,
    record_of,
)
from stackwright.commands.pasted_log import read_log
from stackwright.commands.paths import ProjectPaths, find_paths
from stackwright.commands.stack import choose_runtime, load_stack
from stackwright.detect.host import Detection, detect_host
from stackwright.diagnosis.evidence import (
    Evidence,
    Examination,
    Gathered,
    Named,
    evidence_of,
    gather,
    name_failures,
    values_of,
)
from stackwright.diagnosis.kernel import read_kernel
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.moments import without_requests
from stackwright.diagnosis.pasted import judge_log
from stackwright.diagnosis.redaction import assigned_secrets, make_redaction
from stackwright.diagnosis.rules import Diagnosis, EvidenceKind
from stackwright.domain.catalog import HoleKind, holes_of
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.finding import Finding
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode, Origin
from stackwright.domain.service import ServicePhase
from stackwright.errors import NotHealthyError, RuntimeRefusedError, StackError, UsageError, ValidationError
from stackwright.models.read import SMOKE
from stackwright.project import folder as project
from stackwright.project.lock import read_work
from stackwright.rendering.numbered import flat_settings, model_values, spec_of_written
from stackwright.runtime import Runtime, Stack
from stackwright.services import services_of
from stackwright.validation.checks import find_all, find_broken
from stackwright.watching.health import telling_line


class DoctorArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `doctor`. `environment`: None for the host and all that are configured.

    `log`: a file to judge in the place of a stack, `-` for the standard input.
    """

    environment: Environment | None = None
    log: str | None = None
    bundle: Path | None = None
    apply: bool = False
    runtime: str = "auto"
    out: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "environment",
        metavar="ENV",
        nargs="?",
        type=parse_environment,
        help=f"{', '.join(ENVIRONMENTS)} (default: the host and every configured one)",
    )
    parser.add_argument(
        "--log",
        metavar="FILE",
        help="judge a log of engine, gateway or container engine, without a stack; - reads stdin",
    )
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, help="write an archive for a bug report, without secrets"
    )
    parser.add_argument("--apply", action="store_true", help="if the fix is a setting, plan again with it pinned")
    for add in (add_runtime, add_out, add_json):
        add(parser)


def read_arguments(given: argparse.Namespace) -> DoctorArguments:
    """Turn the parsed words into the record."""
    return record_of(DoctorArguments, given)


def run(arguments: DoctorArguments) -> None:
    """Name what is wrong, with the fix; gather it for a report, or apply a fix that is a setting.

    Raises:
        RuntimeRefusedError: the runtime refuses.
        NotHealthyError: a service fell, or the last start failed.
        ValidationError: a check before the start finds an error.
        UsageError: `--apply` without an environment, or where no setting mends what was found.
    """
    paths = find_paths(arguments.out)
    if arguments.log is not None:
        _judge(arguments, arguments.log, paths)
        return
    if arguments.apply and arguments.environment is None:
        raise UsageError("--apply needs an environment", hint="for example `stackwright doctor dev --apply`")
    detection, kernel = detect_host(), read_kernel()
    on_host = name_failures([Evidence(service="host", kind=EvidenceKind.KERNEL, text=kernel)], load_rules(), {})
    exams = tuple(
        _examine(paths.of(environment), arguments.runtime, detection.host, kernel)
        for environment in _asked(paths, arguments.environment)
    )
    if arguments.bundle is not None:
        from stackwright.commands.bundle import write_report

        write_report(arguments.bundle, paths, detection, kernel, exams, [describe(exam) for exam in exams])
    resting = [] if arguments.json else [words for exam in exams if (words := _at_rest(exam)) is not None]
    if arguments.json:
        host = {"warnings": detection.warnings, "failures": [_plain(named) for named in on_host]}
        report.print_json({"host": host, "environments": [describe(exam) for exam in exams]})
    else:
        _show(detection, on_host, exams)
        for words in resting:
            report.tell(words)
    if arguments.apply:
        _apply(arguments, paths, exams[0])
        return
    _conclude(on_host, exams)
    if not arguments.json:
        names = ", ".join(exam.environment.value for exam in exams) or "this machine (nothing is configured)"
        report.tell(f"{'nothing else' if resting else 'nothing'} found wrong: {names}")


def _judge(arguments: DoctorArguments, log: str, paths: ProjectPaths) -> None:
    """Say what a log tells, with the settings of the environment that is named; nothing else is looked at."""
    if arguments.apply or arguments.bundle is not None:
        raise UsageError("--log looks at a log alone", hint="leave out --apply and --bundle")
    text = read_log(log)
    named = arguments.environment
    values = {"environment": named.value if named else "ENV"}
    if named is not None and paths.of(named).plan.exists():
        values |= load_stack(paths.of(named)).env
    redact = make_redaction(assigned_secrets(text), home="", user="", machine="")
    judged = judge_log(redact.apply(text), load_rules(), values)
    if arguments.json:
        report.print_json(judged)
        return
    for judgement in judged:
        report.print_judgement(judgement)
    if not judged:
        report.tell("nothing found wrong in this log" if text.strip() else "the log is empty")


def _asked(paths: ProjectPaths, named: Environment | None) -> tuple[Environment, ...]:
    """Return the environment that was named, else all that have been configured."""
    if named is not None:
        return (named,)
    return tuple(environment for environment in Environment if paths.of(environment).plan.exists())


def _examine(paths: EnvironmentPaths, asked: str, host: Host, kernel: str) -> Examination:
    environment = paths.environment
    try:
        stack = load_stack(paths)
    except StackError as failure:
        return Examination(environment=environment, unreadable=failure)
    values = values_of(stack)
    try:
        runtime = choose_runtime(asked, stack, host)
        gathered = gather(runtime, stack, kernel)
    except RuntimeRefusedError as failure:
        named = name_failures([evidence_of(failure)], load_rules(), values)
        unknown = () if named else (("runtime", failure.message),)
        return Examination(environment=environment, stack=stack, named=named, unknown=unknown)
    findings, refusals = _check(stack, runtime, host)
    named = name_failures((*gathered.evidence, *refusals), load_rules(), values)
    return Examination(
        environment=environment,
        stack=stack,
        runtime=runtime,
        gathered=gathered,
        named=named,
        unknown=_unknown(stack, gathered, named),
        findings=findings,
    )


def _check(stack: Stack, runtime: Runtime, host: Host) -> tuple[tuple[Finding, ...], tuple[Evidence, ...]]:
    """Run the checks before a start; what refuses them is evidence too."""
    try:
        return find_broken(stack) or find_all(stack, runtime, host), ()
    except StackError as failure:
        return (), (evidence_of(failure),)


def _unknown(stack: Stack, gathered: Gathered, named: tuple[Named, ...]) -> tuple[tuple[str, str], ...]:
    """Pick the telling line of each service that fell, of a failed start the engines', where no rule explains it."""
    explained = {failure.service for failure in named}
    fallen = [state.name for state in gathered.fallen]
    if gathered.failed_s_ago is not None and not named:
        engines = {stack.kind_of(replica.name) for replica in stack.plan.engines}
        fallen = [name for name, _ in gathered.logs if stack.kind_of(name) in engines]
    lines = (
        (name, telling_line(without_requests(dict(gathered.logs).get(name, ""))))
        for name in fallen
        if name not in explained
    )
    return tuple((name, line or "nothing in its log") for name, line in lines)


def _show(detection: Detection, on_host: tuple[Named, ...], exams: tuple[Examination, ...]) -> None:
    report.warn_all(detection.warnings)
    report.print_failures("host", ((named.service, named.diagnosis) for named in on_host))
    last = _unreadable_alone(on_host, exams)
    for exam in exams:
        name = exam.environment.value
        if exam.gathered.failed_s_ago is not None:
            report.tell(f"{name}: not running; from the logs of the last start, which failed:")
        report.print_failures(name, ((named.service, named.diagnosis) for named in exam.named))
        for service, line in exam.unknown:
            why = f"{_how_it_fell(exam.gathered, service)}no known failure; its log says: {line}"
            report.print_text(report.on_one_line(f"{name}: {service}: {why}"))
        if exam.unreadable is not None and exam.unreadable is not last:
            report.show_error(exam.unreadable)
        report.show_findings(exam.findings)
    report.warn_all(dict.fromkeys(warning for exam in exams for warning in _unread_holes(exam)))


def _at_rest(exam: Examination) -> str | None:
    """Say of a stack that is not up what became of it, and the next command; None of one that is, or cannot be seen."""
    if exam.stack is None or exam.runtime is None:
        return None
    environment = exam.environment
    work, held = read_work(exam.stack.generated)
    if work is not None and held:
        return f"{environment}: `{work.command}` (process {work.pid}) is at work on it"
    if work is not None and work.starting:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(work.since))
        return f"{describe_left(work, environment)}; that was at {since}"
    gathered = exam.gathered
    seen = [state.phase is ServicePhase.ABSENT for state in gathered.states]
    if gathered.failed_s_ago is not None or not seen or not all(seen):
        return None
    return f"{environment}: nothing runs; start it: `start-environment {environment}`"


def _unread_holes(exam: Examination) -> Iterator[str]:
    """Yield a sentence for each program of a stack with advisories whose severity nobody has said."""
    stack = exam.stack
    releases = [] if stack is None else [service.release for service in services_of(stack.plan) if service.release]
    for release in releases:
        if release.version is None:
            continue
        holes = holes_of(release.program, release.version, load_catalog().advisories())
        unread = [hole.id for hole in holes if hole.kind is HoleKind.UNKNOWN]
        if unread:
            yield (
                f"{release.program} {release.version} has known vulnerabilities of unknown severity: "
                f"{', '.join(unread)}; read their advisories before publishing the gateway"
            )


def _how_it_fell(gathered: Gathered, service: str) -> str:
    """Begin a sentence about a service that ended and starts again: `status` alone shows it as one that starts."""
    state = next((state for state in gathered.fallen if state.name == service), None)
    if state is None or state.phase is not ServicePhase.STARTING:
        return ""
    return f"{state.detail or f'restarted {state.restarts} times'}; "


def describe(exam: Examination) -> dict[str, object]:
    """Write what was found out about one environment as JSON says it."""
    unreadable = exam.unreadable
    return {
        "environment": exam.environment,
        "runtime": None if exam.runtime is None else exam.runtime.name,
        "services": exam.gathered.states,
        "failed_s_ago": exam.gathered.failed_s_ago,
        "at_rest": _at_rest(exam),
        "failures": [_plain(named) for named in exam.named],
        "unknown": [{"service": service, "line": line} for service, line in exam.unknown],
        "findings": report.pasteable_findings(exam.findings),
        "unreadable": None if unreadable is None else {"message": unreadable.message, "hint": unreadable.hint},
    }


def _plain(named: Named) -> dict[str, object]:
    diagnosis = named.diagnosis
    return {
        "service": named.service,
        "rule": diagnosis.rule,
        "cause": diagnosis.cause,
        "fix": diagnosis.fix,
        "line": diagnosis.line,
        "source": diagnosis.source,
        "permanent": diagnosis.permanent,
        "settings": dict(diagnosis.settings),
    }


def _unreadable_alone(on_host: tuple[Named, ...], exams: tuple[Examination, ...]) -> StackError | None:
    """Return the error that the command ends with where nothing was named: it is shown then, and not before."""
    if on_host or any(exam.named or exam.unknown for exam in exams):
        return None
    return next((exam.unreadable for exam in exams if exam.unreadable is not None), None)


def _conclude(on_host: tuple[Named, ...], exams: tuple[Examination, ...]) -> None:
    """End with the exit code of what was named, if anything was: runtime's, service's or check's."""
    named = [*on_host, *(failure for exam in exams for failure in exam.named)]
    unknown = [line for exam in exams for line in exam.unknown]
    count = len(named) + len(unknown)
    what = f"{count} failure{'s' if count > 1 else ''} named, see above"
    first = next((exam for exam in exams if any(failure.diagnosis.settings for failure in exam.named)), None)
    hint = f"plan again with the fix: `stackwright doctor {first.environment} --apply`" if first else None
    refused = any(failure.kind == EvidenceKind.RUNTIME for failure in named)
    if refused or any(service == "runtime" for service, _ in unknown):
        raise RuntimeRefusedError(what, hint=hint)
    if count:
        raise NotHealthyError(what, hint=hint)
    unreadable = _unreadable_alone(on_host, exams)
    if unreadable is not None:
        raise unreadable
    errors = sum(exam.errors for exam in exams)
    if errors:
        raise ValidationError(f"{errors} error{'s' if errors > 1 else ''} found, see above")


def _refuse_where_local_wins(stack: Stack, fix: Diagnosis) -> None:
    """Refuse a fix that the person's local file would undo. Raises UsageError."""
    local = stack.paths.local
    own = project.read_env_file(local) if local.exists() else {}
    for key, value in fix.settings:
        if key in own:
            raise UsageError(f"{local}: {key}={own[key][:80]} overrides every pin", hint=f"set {key}={value} there")


def _named(models: tuple[str, ...], paths: ProjectPaths, environment: Environment) -> tuple[str, ...]:
    """Name a plan's models as on a command line; none where the environment names them, or the default does."""
    wishes = project.read_wishes(paths.of(environment))
    if len(models) > 1 and len(wishes.models) == len(models):
        return ()
    return tuple(SMOKE if model == str(paths.smoke) else model for model in models if models != (str(paths.smoke),))


def _apply(arguments: DoctorArguments, paths: ProjectPaths, exam: Examination) -> None:
    """Make the plan anew with the first fix that is a setting, and show what that changes."""
    fix = next((named.diagnosis for named in exam.named if named.diagnosis.settings), None)
    if exam.stack is None or fix is None:
        raise UsageError(f"{exam.environment}: no finding that a setting fixes", hint="see the fixes above")
    engine = exam.stack.engine
    plan, env, name = exam.stack.plan, exam.stack.env, exam.environment.value
    _refuse_where_local_wins(exam.stack, fix)
    pinned = {key: setting for key, setting in flat_settings(plan).items() if setting.origin is Origin.PINNED}
    # Not the model, which `--model` names.
    pins = {key: pin.value for key, pin in pinned.items() if (spec := spec_of_written(key)) and spec.pinnable}
    # The running engine holds its GPUs' memory; a plan made now would flee to others.
    devices = () if plan.mode is Mode.CPU else (("NVIDIA_VISIBLE_DEVICES", env["NVIDIA_VISIBLE_DEVICES"]),)
    pins |= dict(fix.settings)
    models = tuple(values[engine.keys.model] for values in model_values(env, len(plan.models)))
    options = PlanOptions(
        mode=plan.mode,
        models=_named(models, paths, exam.environment),
        engine=engine,
        pins=tuple(pins.items()),
        passing=devices,
    )
    host = detect_host().host
    if plan_environment(options, paths, host, exam.environment).engine.version != plan.engine.version:
        options = replace(options, engine_version=plan.engine.version)
    report.tell(
        f"{name}: {fix.cause}; planning again with {', '.join(f'{key}={value}' for key, value in fix.settings)}"
    )
    configure(
        ConfigureArguments(
            plan=PlanArguments(options=options, environment=arguments.environment, out=arguments.out), diff=True
        ),
        host,
    )
    back = " ".join(f"--unset {key}" for key, _ in fix.settings)
    report.tell(f"the next commands keep it; to take it back: `{command(exam.stack.paths, *back.split())}`")
