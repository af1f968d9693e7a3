"""Plan, render, compare, check and write environments: what `plan`, `configure-gpu`, a start and the doctor share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.catalog.load import load_catalog
from stackwright.commands.choices import MODEL, Chosen, choose, explained, not_tuned_any_more
from stackwright.commands.generation import keep_generation
from stackwright.commands.options import PlanArguments, PlanOptions
from stackwright.commands.paths import ProjectPaths, working_folder
from stackwright.detect.network import find_proxy
from stackwright.domain.catalog import Catalog
from stackwright.domain.choices import Choices, DefaultModel, TunedSetting
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.finding import Finding, Severity
from stackwright.domain.host import Host
from stackwright.domain.llm import LlmSource
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Adapter, Attached, Mode, Plan, PlannedEngine
from stackwright.domain.setting_spec import problem_with
from stackwright.domain.wishes import ModelWish, Wishes
from stackwright.engines import default_engine, engine_named
from stackwright.engines.protocol import Engine, EngineNeeds, pinned_fields
from stackwright.errors import NoPlanError, StackError, UsageError
from stackwright.models.cache import find_cache
from stackwright.models.read import SMOKE, HubAccess, find_folder, locate_model, read_model, read_shape
from stackwright.models.stored import name_llm
from stackwright.planning.planner import make_plan
from stackwright.planning.request import PlanRequest, User, WantedModel, model_request
from stackwright.project import folder as project
from stackwright.project import write
from stackwright.project.credentials import ensure_secrets, find_hub_token, gateway_key, has_lost_key
from stackwright.project.data_folder import check_data_folder, claim_data_folder
from stackwright.project.digests import read_image_pins
from stackwright.project.generations import Generations
from stackwright.project.inputs import record_inputs
from stackwright.project.location import name_command
from stackwright.project.pins import pins_of_model, read_pins
from stackwright.rendering import RenderedFile, render_plan
from stackwright.rendering.numbered import flat_settings, keys_of, models_of_written, spec_of_written
from stackwright.rendering.summary import NextStep
from stackwright.services import access_to, additions, outside, services_of
from stackwright.services.additions import DATA_HOME, Addition
from stackwright.validation.environment import check_environment, check_shell
from stackwright.validation.publishing import check_publishing, inspect_certificate
from stackwright.watching.remembered import remembered_starts


class Configured(Struct, frozen=True, kw_only=True):
    """One environment as it would be written: its plan, the values that the environment file has, and all files.

    `chosen`: what of that a person chose, in this command or before.
    """

    paths: EnvironmentPaths
    plan: Plan
    values: Mapping[str, str]
    files: tuple[RenderedFile, ...]
    chosen: Chosen


def plan_environment(options: PlanOptions, paths: ProjectPaths, host: Host, environment: Environment) -> Plan:
    """Make the plan of one environment from its wishes, the command line, what is remembered, and the host."""
    return plan_with_choices(options, paths, host, environment, project.read_wishes(paths.of(environment)))[0]


def plan_wishes(
    options: PlanOptions, paths: ProjectPaths, host: Host, environment: Environment, wishes: Wishes
) -> Plan:
    """Make the plan that an environment would have with these wishes, whatever its file says."""
    return plan_with_choices(options, paths, host, environment, wishes)[0]


def plan_with_choices(
    options: PlanOptions, paths: ProjectPaths, host: Host, environment: Environment, wishes: Wishes
) -> tuple[Plan, Chosen]:
    """Make the same plan, and say what of it a person chose.

    Raises:
        UsageError: the choices are wrong.
        NoPlanError: no plan fits.
    """
    own = paths.of(environment)
    chosen = choose(options, own, host, wishes)
    with explained(chosen.kept, own):
        plan, chosen = _plan_tuned(chosen, paths, host, own, wishes)
        _values_of(plan, chosen.options.engine)
    return plan, chosen


def configure_environment(
    options: PlanOptions, paths: ProjectPaths, host: Host, environment: Environment
) -> Configured:
    """Plan one environment from its wishes, the command line, what is remembered, and the host, and render it."""
    own = paths.of(environment)
    wishes = project.read_wishes(own)
    plan, chosen = plan_with_choices(options, paths, host, environment, wishes)
    return Configured(
        paths=own,
        plan=plan,
        values=_values_of(plan, chosen.options.engine),
        files=(*render_plan(plan), record_inputs(own, wishes, (*chosen.other, chosen.choices))),
        chosen=chosen,
    )


def _plan_tuned(
    chosen: Chosen, paths: ProjectPaths, host: Host, own: EnvironmentPaths, wishes: Wishes
) -> tuple[Plan, Chosen]:
    """Plan with what was tuned, as long as it holds: for the same model and engine, and where it still fits."""
    tuned = chosen.choices.tuned
    why = ""
    try:
        plan, made = _plan(chosen, paths, host, own, wishes)
        if all(_is_tuned_for(plan, key, one) for key, one in tuned.items()):
            return plan, made
        why = "it was measured with another model or engine"
    except NoPlanError as failure:
        if not tuned:
            raise
        why = failure.message
    note = not_tuned_any_more(own, tuned, why)
    bare = replace(chosen, choices=replace(chosen.choices, tuned={}), notes=(*chosen.notes, note))
    return _plan(bare, paths, host, own, wishes)


def _is_tuned_for(plan: Plan, written: str, tuned: TunedSetting) -> bool:
    found = ((model.location, release_of(model.engine)) for model in models_of_written(plan, written))
    return (tuned.model, tuned.engine) in found


def release_of(engine: PlannedEngine) -> str:
    """Return an engine with its release, as what was measured names it."""
    return f"{engine.name} {engine.version}"


def _plan(
    chosen: Chosen, paths: ProjectPaths, host: Host, own: EnvironmentPaths, wishes: Wishes
) -> tuple[Plan, Chosen]:
    catalog, options = load_catalog(), chosen.options
    request = _request(chosen, paths, host, own, wishes)
    by_default = not (options.models or wishes.models or wishes.model) and options.mode is not Mode.CPU and host.gpus
    if not by_default:
        choices = _with_whole_paths(chosen.choices, request)
        plan = make_plan(_with_known(request, paths, catalog), catalog)
        return plan, replace(chosen, choices=replace(choices, default_model=None))
    return _plan_default(request, chosen, paths, own)


def _request(chosen: Chosen, paths: ProjectPaths, host: Host, own: EnvironmentPaths, wishes: Wishes) -> PlanRequest:
    options = chosen.options
    shared = any(wishes.is_shared(key) for key in ("model", "models"))
    models = wished_models(options, wishes, str(own.common if shared else own.wishes))
    if options.arguments and len(models) > 1:
        raise UsageError(
            f"--arg: {own.environment.value} has {len(models)} models, and it does not say which one it is for",
            hint=f"write models[].args in envs/{own.environment.value}.yaml",
        )
    return replace(
        bare_request(chosen, paths, host, own, wishes),
        models=tuple(want_model(model, wished_in, paths, chosen) for model, wished_in in models),
        named=bool(options.models),
        remembered=bool(options.models) and MODEL in chosen.remembered,
    )


def bare_request(chosen: Chosen, paths: ProjectPaths, host: Host, own: EnvironmentPaths, wishes: Wishes) -> PlanRequest:
    """Return everything that a plan is made from but its models."""
    options = chosen.options
    return PlanRequest(
        host=host,
        environment=own.environment,
        mode=options.mode,
        wishes=wishes,
        models=(),
        pins=read_pins(
            wishes.pins,
            dict(options.pins),
            own.environment.value,
            chosen.remembered,
            wishes.shared_keys,
            chosen.choices.tuned,
        ),
        folders=paths.folders,
        user=User(uid=os.getuid(), gid=os.getgid()),
        objective=options.objective,
        engine=options.engine,
        needs=EngineNeeds(exact=options.engine_version, allow_vulnerable=options.allow_vulnerable),
        image_pins=read_image_pins(paths.root),
        additions=tuple(name for name, wanted in {**wishes.services, **dict(options.services)}.items() if wanted),
    )


def _with_whole_paths(choices: Choices, request: PlanRequest) -> Choices:
    """Name folders from the root: a later command may be given in another one."""
    named = zip(choices.models, request.models, strict=False)
    return replace(
        choices,
        models=tuple(model.llm.location if model.llm.source is LlmSource.DIRECTORY else name for name, model in named),
    )


def _plan_default(
    request: PlanRequest, chosen: Chosen, paths: ProjectPaths, own: EnvironmentPaths
) -> tuple[Plan, Chosen]:
    """Plan with the model of an earlier plan, where it still holds, else with the catalog's best."""
    from stackwright.planning.default_llm import with_default_llm

    catalog, options, notes = load_catalog(), chosen.options, chosen.notes
    has_token = find_hub_token(os.environ, Path(paths.folders.hf_home)) is not None
    best = with_default_llm(request, catalog, has_token=has_token, least_share=least_share(paths))
    this = DefaultModel(
        name=best.models[0].llm.location, mode=options.mode, objective=options.objective, engine=options.engine.name
    )
    before = chosen.choices.default_model
    if before is not None and before != this and replace(before, name=this.name) == this:
        try:
            return _plan_kept(request, paths, before.name), chosen
        except NoPlanError as failure:
            notes += (f"{own.environment}: the default model changes: {before.name}: {failure.message}",)
    plan = make_plan(_with_known(best, paths, catalog), catalog)
    default = None if best.models[0].reason is None else this
    return plan, replace(chosen, notes=notes, choices=replace(chosen.choices, default_model=default))


def _plan_kept(request: PlanRequest, paths: ProjectPaths, name: str) -> Plan:
    """Plan with the default model of an earlier plan. Raises NoPlanError where it is gone, or does not fit."""
    from stackwright.planning.default_llm import with_kept_default

    catalog = load_catalog()
    kept = with_kept_default(request, catalog, name)
    if kept is None:
        raise NoPlanError("not in the catalog any more")
    return make_plan(_with_known(kept, paths, catalog), catalog)


def least_share(paths: ProjectPaths) -> float:
    """Return the smallest share of a GPU's memory that an environment wishes for; unreadable wishes do not count."""
    shares = [1.0]
    key = default_engine().keys.memory_share
    for environment in Environment:
        with suppress(UsageError):
            wishes = project.read_wishes(paths.of(environment))
            shares.append(float(wishes.pins.get(key or "", wishes.gpu_memory_utilization)))
    return min(shares)


def _with_known(request: PlanRequest, paths: ProjectPaths, catalog: Catalog) -> PlanRequest:
    """Add what this host has shown of the models, and the drafters that are pinned for them."""
    models = []
    for position, model in enumerate(request.models):
        pins = model_request(request, position).pins
        drafter = pinned_fields(request.engine.memory_settings, pins).get("draft_model")
        if drafter:
            _check_drafter(drafter, catalog)
        models.append(
            replace(
                _overridden(model, request.engine, pins, catalog),
                seen=remembered_starts(paths.state, request.host, model.llm.location),
                draft=read_shape(drafter, catalog.llms()) if drafter else None,
            )
        )
    return replace(request, models=tuple(models))


def _check_drafter(name: str, catalog: Catalog) -> None:
    """Refuse a drafter by a name that the engine does not know; it is given the name as it stands."""
    location = locate_model(name, catalog.llms())
    if location != name and not find_folder(name):
        raise UsageError(
            f"speculative decoding: the engine knows no drafter `{name[:120]}`", hint=f"write `{location}`"
        )


def _overridden(model: WantedModel, engine: Engine, pins: Mapping[str, str], catalog: Catalog) -> WantedModel:
    """Return a model as its pins have it; a role that nobody wished for follows."""
    facts = engine.overridden(model.facts, pins)
    if facts.config.architecture == model.facts.config.architecture:
        return replace(model, facts=facts)
    is_own = model.role is (model.facts.role or engine.role_of(model.facts.config, catalog))
    return replace(model, facts=facts, role=engine.role_of(facts.config, catalog) if is_own else model.role)


def want_model(model: ModelWish, wished_in: str, paths: ProjectPaths, chosen: Chosen) -> WantedModel:
    """Read a model that is wished for. Raises UsageError where it cannot be read."""
    catalog, engine = load_catalog(), chosen.options.engine
    facts = read_named_model(model.name, catalog, paths, wished_in)
    llm, spot = name_llm(facts), wished_in.partition(".name: ")[0]
    attached = Attached(adapters=_adapters(model, paths, spot), volumes=model.volumes)
    model = replace(model, chat_template=_template(model, paths, chosen.options, spot))
    pins = pins_of_model(model, chosen.arguments, attached.adapters, engine, spot)
    facts = engine.overridden(facts, {pin.key: pin.value for pin in pins})
    return WantedModel(
        llm=replace(llm, name=model.served_name) if model.served_name else llm,
        facts=facts,
        wished_in=wished_in,
        role=model.role or facts.role or engine.role_of(facts.config, catalog),
        aliases=model.aliases,
        gpu_share=model.gpu_share,
        exclusive=model.exclusive,
        pinned=model.pinned,
        pins=pins,
        attached=attached,
    )


def _adapters(model: ModelWish, paths: ProjectPaths, spot: str) -> tuple[Adapter, ...]:
    if not model.lora:
        return ()
    from stackwright.models.adapter import read_adapter

    cache = find_cache(os.environ, Path(paths.folders.hf_home))
    return tuple(read_adapter(name, location, cache, f"{spot}.lora.{name}") for name, location in model.lora.items())


def _template(model: ModelWish, paths: ProjectPaths, options: PlanOptions, spot: str) -> str | None:
    """Return the chat template's absolute path: in a file it is relative to the project folder."""
    if model.chat_template is None:
        return None
    path = (paths.root / Path(model.chat_template).expanduser()).resolve()
    # Of another machine nobody here knows which files it has.
    if options.host is None and not path.is_file():
        raise UsageError(f"{spot}.chat_template: {path}: no such file", hint="write a Jinja file there, or remove it")
    return str(path)


def wished_models(options: PlanOptions, wishes: Wishes, file: str) -> tuple[tuple[ModelWish, str], ...]:
    """Return the models to serve: those of the command line, else of the environment, else the one made on the spot.

    With each comes where it was asked for. A model that the command line names and the environment, read from `file`,
    lists keeps what is said of it there, by whichever of its names each calls it.
    """
    listed = tuple(
        (model, f"{file}: models[{position}].name: {model.name[:120]}") for position, model in enumerate(wishes.models)
    )
    if options.models:
        llms = load_catalog().llms() if listed else ()
        known = {locate_model(model.name, llms): (model, origin) for model, origin in listed}
        return tuple(
            known.get(locate_model(name, llms), (ModelWish(name=name), f"--model {name[:120] or repr(name)}"))
            for name in options.models
        )
    name = wishes.model or SMOKE
    return listed or ((ModelWish(name=name), f"{file}: model: {name[:120]}"),)


def read_named_model(name: str, catalog: Catalog, paths: ProjectPaths, origin: str) -> ModelFacts:
    """Read a model by any of its names. Raises UsageError, with `origin`, where it cannot be."""
    try:
        # The smoke model is in no catalog, and reading the long one takes as long as all else together.
        llms = () if name == SMOKE else catalog.llms()
        return read_model(name, llms, paths.smoke, HubAccess(home=Path(paths.folders.hf_home)), origin)
    except (OSError, RuntimeError):  # a name longer than a path may be; a home folder of nobody
        raise UsageError(f"{origin}: no such folder", hint="`stackwright plan --help`") from None


def _values_of(plan: Plan, engine: Engine) -> dict[str, str]:
    """Return what the environment file has; what none can hold is refused: folders come from variables, which hold
    anything.
    """
    values = {key: setting.value for key, setting in flat_settings(plan).items()}
    for key, value in values.items():
        spec = spec_of_written(key)
        problem = spec and problem_with(spec, value)
        if problem:
            raise UsageError(f"{key}: found `{value[:80]}`, allowed: {problem}", hint=_other_folders(engine))
    return values


def _other_folders(engine: Engine) -> str:
    return f"set STACKWRIGHT_STATE, HF_HOME or {engine.keys.cache_folder} to another folder"


def picture_plans(
    arguments: PlanArguments, paths: ProjectPaths, plans: tuple[Plan, ...], commands: Mapping[Environment, str]
) -> tuple[tuple[Plan, NextStep], ...]:
    """Return plans with what this machine knows beside them.

    `commands`: what comes next for each of them, to be given its environment and, where it plans, the same wishes.
    """
    here = arguments.options.host is None
    following = {name: name_following(arguments, paths, command, name) for name, command in commands.items()}
    return tuple((plan, _next_step(plan, paths, following.get(plan.environment), here=here)) for plan in plans)


def next_commands(made: Iterable[Configured]) -> dict[Environment, str]:
    """Return what comes next for plans that were not written; nothing for one that runs as it is planned."""
    found = {}
    for configured in made:
        with suppress(StackError):  # a file that cannot be read is what `configure-gpu` tells of
            if all(change.status is write.FileStatus.UNCHANGED for change in compare(configured)):
                generations = Generations(configured.paths)
                running, current = generations.running(), generations.current()
                if running is None or current is None or running.number != current.number:
                    found[configured.paths.environment] = "start-environment"
                continue
        found[configured.paths.environment] = "configure-gpu"
    return found


def print_details(arguments: PlanArguments, plans: tuple[Plan, ...]) -> None:
    """Print what more of the plans was asked for."""
    if arguments.explain:
        report.print_reasons(plans)
    if arguments.all:
        report.print_settings(plans)


def name_following(arguments: PlanArguments, paths: ProjectPaths, command: str, environment: Environment | None) -> str:
    """Return a command to be pasted: for an environment, None for all; one that plans gets the same wishes."""
    words: tuple[str, ...] = () if environment is None else (environment.value,)
    words += arguments.options.words if command == "configure-gpu" else ()
    return name_command(command, *words, root=paths.root, working=working_folder())


def _next_step(plan: Plan, paths: ProjectPaths, command: str | None, *, here: bool) -> NextStep:
    """Return what this machine knows beside the plan; `here`: the plan is for this machine."""
    certificate = paths.of(plan.environment).secrets / access_to(services_of(plan)).tls[0]
    scheme = "https" if certificate.is_file() and certificate.stat().st_size else "http"
    env, overridden = _in_force(plan, paths)
    bind, port = (env[setting.key] for setting in access_to(services_of(plan)).address)
    bind = "127.0.0.1" if bind == "0.0.0.0" else bind
    from_hub = [model for model in plan.models if model.source is LlmSource.HUB] if here else []
    missing: dict[str, int] = {}
    if from_hub:
        from stackwright.models.cache import find_cache
        from stackwright.models.files import missing_bytes

        cache = find_cache(os.environ, Path(plan.settings["HF_HOME"].value))
        for model in from_hub:
            size = missing_bytes(model.location, cache, model.weight_bytes)
            missing |= {} if size is None else {model.location: size}
    return NextStep(url=f"{scheme}://{bind}:{port}", command=command, missing_bytes=missing, overridden=overridden)


def _in_force(plan: Plan, paths: ProjectPaths) -> tuple[Mapping[str, str], str | None]:
    """Return a plan's values with the person's local file over them, and in words what that replaces."""
    planned, own = {key: setting.value for key, setting in flat_settings(plan).items()}, paths.of(plan.environment)
    local: Mapping[str, str] = {}
    with suppress(StackError):  # the checks tell of a damaged one
        local = project.read_env_file(own.local) if own.local.exists() else {}
    replaced = [key for key, value in planned.items() if local.get(key, value) != value]
    words = f"{own.local.relative_to(paths.root)} overrides {', '.join(replaced)}" if replaced else None
    return {**planned, **local}, words


def compare(configured: Configured) -> tuple[write.FileChange, ...]:
    """Compare what was rendered with what stands in the project folder.

    A plan that differs in its forecast alone is left as it stands: what a start has shown since changes no setting.
    """
    paths = configured.paths
    changes = write.compare_files(paths.root, paths.generated, configured.files)
    changed = [change for change in changes if change.status is not write.FileStatus.UNCHANGED]
    if len(changed) != 1 or changed[0].target != paths.plan or not _plans_the_same(changed[0]):
        return changes
    kept = replace(changed[0], file=replace(changed[0].file, text=changed[0].before or ""))
    return tuple(kept if change is changed[0] else change for change in changes)


def _plans_the_same(change: write.FileChange) -> bool:
    """Return whether two plans differ in nothing but what they forecast of memory, and in the words about it."""
    forecast = {"memory", "forecast", "reason"}
    try:
        before, after = (_without(forecast, json.loads(text)) for text in (change.before or "", change.file.text))
    except (ValueError, RecursionError):
        return False
    return before == after


def _without(names: set[str], value: object) -> object:
    """Return plain values without what stands under these names, at any depth."""
    if isinstance(value, dict):
        return {key: _without(names, item) for key, item in value.items() if key not in names}
    return [_without(names, item) for item in value] if isinstance(value, list) else value


def write_environments(
    paths: ProjectPaths, changes: Sequence[tuple[Configured, tuple[write.FileChange, ...]]], *, trial: bool = False
) -> None:
    """Write the rendered files of some environments, their secrets, and the folders and model that they name.

    To be called while they are held. The files become a generation of each; a `trial` is kept only while it runs.

    Raises:
        UsageError: something cannot be written, which is found out before anything is.
    """
    made = [configured for configured, _ in changes]
    groups = {configured.paths.generated: group for configured, group in changes}
    hf_home = Path(paths.folders.hf_home)
    write.check_writable(
        (
            *(paths.root / name for name in project.missing_base_files(paths.root)),
            *(change.target for group in groups.values() for change in group),
            *(folder / write.MANIFEST for folder in groups),
            *(gateway_key(configured.paths.secrets) for configured in made),
        ),
        folders=(hf_home, *(Path(paths.folders.engine_caches[configured.plan.engine.name]) for configured in made)),
    )
    for configured in made:
        _check_data(configured, paths)
        _check_own_keys(configured)
    lost = [configured.paths.environment for configured in made if has_lost_key(configured.paths)]
    project.lay_out(paths.root)
    for sentence in write.write_files(groups):
        report.warn(sentence)
    for configured in made:
        prepare_stack(configured.plan, paths, configured.values, hf_home)
        keep_generation(configured.paths, trial=trial)
    for environment in lost:
        report.warn(
            f"{environment}: its keys were gone, and are new: `stackwright key {environment}` prints the master key"
        )


def _check_data(configured: Configured, paths: ProjectPaths) -> None:
    """Refuse the folder of another project folder's data, and say where data of this one stay behind."""
    folder, rendered = configured.values.get(DATA_HOME), configured.paths.rendered
    if folder is None:
        return
    environment = configured.paths.environment
    check_data_folder(Path(folder), paths.root, environment, working_folder())
    before = project.read_env_file(rendered).get(DATA_HOME) if rendered.exists() else None
    if before not in (None, folder) and Path(before).is_dir() and not Path(folder).exists():
        words = ("configure-gpu", environment.value, "--set", f"DATA_HOME={before}")
        command = name_command(*words, root=paths.root, working=working_folder())
        report.warn(f"the data of {environment} stay in {before}; `{command}` goes on with them")


def _check_own_keys(configured: Configured) -> None:
    """Refuse a key of somebody's that has the name of an addition. Raises UsageError."""
    from stackwright.project.access_keys import check_own_key

    for addition in own_keys(configured.plan):
        check_own_key(configured.paths, addition.name, configured.paths.secrets / addition.key_secret)


def own_keys(plan: Plan) -> tuple[Addition, ...]:
    """Return the additions of a plan that ask the gateway by a key of their own."""
    return tuple(one for one in additions().values() if one.name in plan.additions and one.has_key)


def prepare_stack(plan: Plan, paths: ProjectPaths, env: Mapping[str, str], hf_home: Path) -> None:
    """Make what is missing of the secrets, keys and folders that a plan's services need.

    `env` are the values in force; below `hf_home` a login leaves its token.

    Raises:
        UsageError: something cannot be written.
    """
    from stackwright.project.access_keys import ensure_key_folders, ensure_own_key

    if plan.additions:
        check_data_folder(Path(env[DATA_HOME]), paths.root, plan.environment, working_folder())
    own = paths.of(plan.environment)
    ensure_secrets(own.secrets, os.environ, hf_home, find_proxy_login(env), plan.additions)
    ensure_key_folders(own)
    for addition in own_keys(plan):
        ensure_own_key(own, addition.name, own.secrets / addition.key_secret, addition.rights)
    _make_folders(plan, env, paths)


def find_proxy_login(env: Mapping[str, str]) -> str | None:
    """Return what the proxy in force is to be shown, empty where this user's programs show it nothing.

    None where the stack has no proxy. What another proxy is shown goes to no other.
    """
    if outside.PROXY not in env:
        return None
    proxy = find_proxy(os.environ, Path("/"), {})
    return proxy.login if proxy and proxy.url == env[outside.PROXY].rstrip("/") else ""


def _make_folders(plan: Plan, env: Mapping[str, str], paths: ProjectPaths) -> None:
    """Make the folders, which Compose mounts, and the smoke model where `env`, the values in force, names it."""
    engine, smoke = engine_named(plan.engine.name), paths.smoke
    try:
        for key in ("HF_HOME", engine.keys.cache_folder):
            Path(env[key]).mkdir(parents=True, exist_ok=True)
        if plan.additions:
            claim_data_folder(Path(env[DATA_HOME]), paths.root)
        for volume in (volume for service in services_of(plan) for volume in service.volumes):
            Path(env[DATA_HOME], volume).mkdir(mode=0o700, parents=True, exist_ok=True)
        if str(smoke) in (env[written] for written in keys_of(env, engine.keys.model)):
            from stackwright.models.smoke_model import write_smoke_model

            write_smoke_model(smoke)
    except OSError as failure:
        raise UsageError(
            f"{failure.filename or smoke}: cannot be written: {failure.strerror}", hint=_other_folders(engine)
        ) from None


def check_rendered(configured: Configured) -> tuple[Finding, ...]:
    """Check what was rendered, with the person's local file over it, by the rules that need no running engine.

    What can be mended until the start only warns: a variable of the shell, which only Compose reads; a certificate.
    """
    paths, name = configured.paths, configured.paths.environment.value
    own = project.read_env_file(paths.local) if paths.local.exists() else {}
    env = {**configured.values, **own}
    broken = check_environment(configured.plan, env, load_catalog(), own)
    if broken:
        return broken
    front = access_to(services_of(configured.plan))
    certificate = inspect_certificate(paths.secrets, front.tls)
    later = [*check_shell(env, os.environ, name), *check_publishing(front, env, certificate, name)]
    return tuple(replace(finding, severity=Severity.WARNING) for finding in later)
