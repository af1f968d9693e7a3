"""The project folder: where its files stand, and reading those that a stage begins from. Reads and makes folders."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from msgspec.structs import asdict, replace

from stackwright.domain.environment import COMMON, EnvironmentPaths
from stackwright.domain.plan import PLAN_SCHEMA, Plan
from stackwright.domain.setting_spec import Kind, SettingSpec, problem_with
from stackwright.domain.wishes import WISHES_SCHEMA, GatewayWishes, JoinedWishes, ModelWish, Wishes
from stackwright.engines import default_engine
from stackwright.errors import UsageError, ValidationError, did_you_mean
from stackwright.planning.cloud import problem_with_cloud
from stackwright.planning.gateway import problem_with_name
from stackwright.project.joining import join_wishes, shared_keys
from stackwright.project.pasting import CHECKOUT
from stackwright.project.pins import check_pins
from stackwright.reading import convert, load_yaml, read_text
from stackwright.rendering.numbered import MOST_MODELS
from stackwright.rendering.plan_document import plan_from_document
from stackwright.runtime import Stack
from stackwright.services import additions, base_files
from stackwright.settings import declared_settings, find_spec, where_secrets_belong

_IN_SINGLE_QUOTES = re.compile(r"=\s*'")
_BASE_FILES = (
    *(f"compose/{name}" for name in base_files()),
    "envs/dev.yaml",
    "envs/staging.yaml",
    "envs/prod.yaml",
    COMMON,
)


def missing_base_files(root: Path) -> tuple[str, ...]:
    """Return the hand-written base files that a project folder does not have, by their paths in it."""
    return tuple(name for name in _BASE_FILES if not (root / name).exists())


def lay_out(root: Path) -> None:
    """Copy the hand-written base files that are missing into the project folder; never over one that is there.

    Raises:
        UsageError: the folder cannot be written.
    """
    for name in missing_base_files(root):
        target = root / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _packaged(name) as source:
                shutil.copy(source, temporary)
            temporary.replace(target)
        except OSError as failure:
            with suppress(OSError):
                temporary.unlink()
            raise UsageError(
                f"{target}: cannot be written: {failure.strerror}", hint="choose another folder with --out DIR"
            ) from None


def _packaged(name: str) -> AbstractContextManager[Path]:
    """Return a base file as shipped: beside the package in a checkout, inside it in a wheel.

    Wishes always inside it: those of a checkout are a person's to edit.
    """
    checkout = CHECKOUT / name
    if checkout.is_file() and not name.startswith("envs/"):
        return nullcontext(checkout)
    from importlib.resources import as_file, files

    return as_file(files("stackwright") / "base" / name)


def shipped_text(name: str) -> str:
    """Return a base file, named by its path in the project folder, as it is shipped."""
    with _packaged(name) as shipped:
        return read_text(shipped)


def read_wishes(paths: EnvironmentPaths) -> Wishes:
    """Read envs/<env>.yaml over envs/common.yaml, of the project folder or, where it has none yet, as shipped.

    Raises:
        UsageError: one cannot be read, has an unknown key, a wrong type, a value out of bounds or a newer schema.
    """
    where, own = _load_wishes(paths.wishes, paths.root)
    common = read_common(paths)
    wishes = check_wishes(join_wishes(common, own), where)
    return JoinedWishes(**asdict(wishes), shared=shared_keys(common, own)) if common else wishes


def read_common(paths: EnvironmentPaths) -> dict[str, object]:
    """Return what envs/common.yaml says, checked by itself; nothing where there is none.

    Raises:
        UsageError: as `read_wishes`.
    """
    where, common = _load_wishes(paths.common, paths.root)
    # What each environment says for itself is not missing here.
    check_wishes(
        join_wishes({"gpu_memory_utilization": 0.9, "gateway": {"bind": "127.0.0.1", "port": 1}}, common), where
    )
    return {key: value for key, value in common.items() if key != "schema"} if isinstance(common, dict) else {}


def _load_wishes(path: Path, root: Path) -> tuple[str, object]:
    """Return how a file of wishes is called in a message, and what stands in it."""
    name = str(path.relative_to(root))
    if path.exists():
        return str(path), _load_written(path, str(path))
    with _packaged(name) as shipped:
        return name, _load_written(shipped, name)


def _load_written(path: Path, where: str) -> object:
    default = "remove it: `configure-gpu` then copies the default one"
    try:
        data = load_yaml(path, UsageError)
    except UsageError as failure:
        raise UsageError(failure.message, hint=failure.hint or f"correct it there, or {default}") from None
    if data is None:
        raise UsageError(f"{where}: empty", hint=default)
    return data


def check_wishes(data: object, where: str) -> Wishes:
    """Turn the values of an environment's file into wishes. `where` names it.

    Raises:
        UsageError: an unknown key, a wrong type, a value out of bounds or a newer schema.
    """
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > WISHES_SCHEMA:
        raise UsageError(
            f"{where}: schema {_written(data['schema'])} is newer than this release reads ({WISHES_SCHEMA})",
            hint="update Stackwright",
        )
    if isinstance(data, dict) and isinstance(data.get("models"), list):
        # A model of which nothing is said but its name may be the name alone.
        data = {**data, "models": [{"name": each} if isinstance(each, str) else each for each in data["models"]]}
    wishes = _convert_wishes(data, where)
    _check(where, "schema", Kind.INTEGER, _written(wishes.schema), WISHES_SCHEMA, WISHES_SCHEMA)
    _check_declared(where, wishes)
    _check_network(where, wishes.gateway.network)
    _check_models(where, wishes)
    _check_cloud(where, wishes)
    for name in wishes.services:
        check_addition(name, where=f"{where}: services")
    for key, value in wishes.settings.items():
        # One of more than 4300 digits cannot even be written; what a key allows is told below.
        if isinstance(value, int) and abs(value) >= 2**64:
            raise UsageError(f"{where}: settings.{key}: found {_written(value)}")
    check_pins(wishes.pins, where=f"{where}: settings")
    return wishes


_EXAMPLES = {
    "schema": f"schema: {WISHES_SCHEMA}",
    "gpu_memory_utilization": "gpu_memory_utilization: 0.9",
    "gateway": "gateway: {bind: 127.0.0.1, port: 4000}",
    "bind": "bind: 127.0.0.1",
    "port": "port: 4000",
    "name": "name: smoke",
}
"""A line for each key that a file of wishes cannot do without."""


def _convert_wishes(data: object, where: str) -> Wishes:
    """Turn values into wishes; a refusal shows how what it is about is written. Raises UsageError."""
    spots = {"": data, "gateway.": data.get("gateway")} if isinstance(data, dict) else {}
    known = {*Wishes.__struct_fields__, *GatewayWishes.__struct_fields__}
    for spot, values in spots.items():
        for key in values if isinstance(values, dict) else ():
            if key not in known and (hint := where_secrets_belong(str(key), Path(where).stem)):
                raise UsageError(f"{where}: {spot}{str(key)[:80]}: unknown key", hint=hint)
    try:
        return convert(data, Wishes, where=where, error=UsageError)
    except UsageError as failure:
        raise UsageError(failure.message, hint=failure.hint or _how_to_write(failure.message, data)) from None


def _how_to_write(message: str, data: object) -> str:
    """Return what to write instead of what a refusal is about."""
    if missing := re.search("`([a-z_]+)` is missing$", message):
        return f"add `{_EXAMPLES.get(missing[1], f'{missing[1]}: …')}`"
    services = data.get("services") if isinstance(data, dict) else None
    if isinstance(services, list) and services:
        return f"write `services: {{{', '.join(f'{str(name)[:60]}: true' for name in services)}}}`"
    return "docs/reference/environments.md shows how each key is written"


def check_addition(name: str, *, where: str) -> None:
    """Refuse the name of no addition. Raises UsageError."""
    known = tuple(additions())
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError(f"{where}: unknown addition `{name[:60]}`, allowed: {', '.join(known) or 'none'}", hint=hint)


def _check_network(where: str, network: str | None) -> None:
    """Refuse what no container network can be called (moby, daemon/names/names.go)."""
    if network is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", network):
        raise UsageError(f"{where}: gateway.network: found `{network[:80]}`, allowed: the name of a container network")


def _check_declared(where: str, wishes: Wishes) -> None:
    """Refuse what the setting that a wish becomes does not take: its bounds are declared once."""
    keys = default_engine().keys
    values = {
        ("gpu_memory_utilization", keys.memory_share): f"{wishes.gpu_memory_utilization:.6g}",
        ("gateway.bind", "GATEWAY_BIND"): wishes.gateway.bind,
        ("gateway.port", "GATEWAY_PORT"): _written(wishes.gateway.port),
    }
    if wishes.max_model_len is not None:
        values["max_model_len", keys.context] = _written(wishes.max_model_len)
    for (name, key), value in values.items():
        spec = declared_settings().by_key[key] if key is not None else None
        if spec is not None:
            _check_against(where, name, replace(spec, kind=Kind.INTEGER) if spec.kind is Kind.CONTEXT else spec, value)


def _check_models(where: str, wishes: Wishes) -> None:
    """Refuse a list of models beside the one that `model` names, and what no client or GPU could make of an entry."""
    if wishes.model is not None and wishes.models:
        raise UsageError(f"{where}: found both `model` and `models`", hint="move the model into the list")
    if len(wishes.models) > MOST_MODELS:
        raise UsageError(f"{where}: models: found {len(wishes.models)}, allowed: at most {MOST_MODELS}")
    for position, model in enumerate(wishes.models):
        spot = f"models[{position}]"
        _check(where, f"{spot}.name", Kind.TEXT, model.name)
        for alias in model.aliases:
            _check_client_name(where, f"{spot}.aliases", alias)
        _check_own(where, spot, model)
        if model.gpu_share is not None:
            _check(where, f"{spot}.gpu_share", Kind.FRACTION, f"{model.gpu_share:.6g}", 0.01, 1)
        _check_exclusive(where, spot, model)
    # Rounded: 0.2, 0.4, 0.3 and 0.1 are more than 1 in floating point.
    shared = round(sum(model.gpu_share or 0 for model in wishes.models), 6)
    if shared > 1:
        raise UsageError(
            f"{where}: models: found a sum of gpu_share of {shared:.6g}, allowed: at most 1",
            hint="each is a share of all GPUs: lower one, or serve models in turn with `exclusive`",
        )
    _check_groups(where, wishes.models)


def _check_own(where: str, spot: str, model: ModelWish) -> None:
    """Refuse names that no client could ask for, and folders that no container can be given at their own path."""
    if model.served_name is not None:
        _check_client_name(where, f"{spot}.served_name", model.served_name)
    for name, location in model.lora.items():
        _check_client_name(where, f"{spot}.lora", name)
        _check(where, f"{spot}.lora.{name}", Kind.TEXT, location)
    for volume in model.volumes:
        folder = re.sub(":(ro|rw)$", "", volume)
        _check(where, f"{spot}.volumes", Kind.PATH, folder)
    for field, kind, value in (
        ("image", Kind.IMAGE, model.image),
        ("chat_template", Kind.TEXT, model.chat_template),
    ):
        if value is not None:
            _check(where, f"{spot}.{field}", kind, value)


def _check_groups(where: str, models: tuple[ModelWish, ...]) -> None:
    """Refuse an exclusive group of one model, which has nobody to take turns with, and one with two pinned."""
    sizes = Counter(model.exclusive for model in models)
    for position, model in enumerate(models):
        group = model.exclusive
        if group is not None and sizes[group] == 1:
            others = [other for other in sizes if other is not None and other != group]
            raise UsageError(
                f"{where}: models[{position}].exclusive: found `{group[:80]}`, which no other model has",
                hint=did_you_mean(group, others) or "give another model the same name, or remove it",
            )
    for group, count in Counter(model.exclusive for model in models if model.pinned).items():
        if count > 1:
            raise UsageError(f"{where}: models: {count} of the exclusive group {group} are pinned, allowed: one")


def _check_exclusive(where: str, spot: str, model: ModelWish) -> None:
    """Refuse what a model that takes turns with others cannot have, and what only such a one can."""
    if model.exclusive is None:
        if model.pinned:
            raise UsageError(
                f"{where}: {spot}.pinned: found true without `exclusive`",
                hint="only models in turn are unloaded: remove it",
            )
        return
    _check(where, f"{spot}.exclusive", Kind.TEXT, model.exclusive)
    if model.gpu_share is not None:
        raise UsageError(
            f"{where}: {spot}.gpu_share: found {model.gpu_share:.6g} beside `exclusive`",
            hint="remove it: an exclusive group gets the fewest whole GPUs that hold each of its models",
        )


def _check_cloud(where: str, wishes: Wishes) -> None:
    for position, cloud in enumerate(wishes.gateway.cloud):
        spot = f"gateway.cloud[{position}]"
        _check_client_name(where, f"{spot}.name", cloud.name)
        problem = problem_with_cloud(cloud)
        if problem is not None:
            field, found_and_allowed = problem
            raise UsageError(
                f"{where}: {spot}.{field}: {found_and_allowed}", hint="docs/how-to/fallbacks.md shows whole entries"
            )


def _check_client_name(where: str, key: str, name: str) -> None:
    """Refuse a name that no client could ask for, or that the gateway would read as more than a name."""
    _check(where, key, Kind.TEXT, name)
    allowed = problem_with_name(name)
    if allowed is not None:
        raise UsageError(f"{where}: {key}: found `{name[:80]}`, allowed: {allowed}")


def _written(number: int) -> str:
    """Write a number that may be absurdly long: Python refuses to write more than 4300 digits."""
    return str(number) if abs(number) < 2**64 else "a number beyond 64 bits"


def _check(
    where: str, key: str, kind: Kind, value: str, minimum: float | None = None, maximum: float | None = None
) -> None:
    spec = SettingSpec(key=key, section="", kind=kind, meaning="", minimum=minimum, maximum=maximum)
    _check_against(where, key, spec, value)


def _check_against(where: str, key: str, spec: SettingSpec, value: str) -> None:
    problem = problem_with(spec, value)
    if problem:
        raise UsageError(f"{where}: {key}: found `{value[:80]}`, allowed: {problem}")


def load_plan(paths: EnvironmentPaths) -> Plan | None:
    """Read the plan that was rendered for an environment, or None where none was.

    Raises:
        ValidationError: it is damaged or from another release.
    """
    path, environment = paths.plan, paths.environment
    again = f"`configure-gpu {environment.value}` renders it again"
    try:
        data = json.loads(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as failure:
        raise ValidationError(f"{path}: cannot be read: {failure.strerror}", hint=again) from None
    except (ValueError, RecursionError):
        raise ValidationError(f"{path}: cannot be read as JSON", hint=again) from None
    if not isinstance(data, dict) or data.get("schema") != PLAN_SCHEMA:
        raise ValidationError(f"{path}: not a plan of this release", hint=again)
    try:
        plan = plan_from_document(data, where=str(path))
    except ValidationError as failure:
        raise ValidationError(failure.message, hint=again) from None
    # What every plan has, and what reads one relies on.
    if not (plan.models and plan.settings and all(model.replicas for model in plan.models)) or not all(
        find_spec(key) is not None
        for settings in (plan.settings, *(model.settings for model in plan.models))
        for key in settings
    ):
        raise ValidationError(f"{path}: not a plan of this release", hint=again)
    if plan.environment is not environment:
        raise ValidationError(f"{path}: a plan for {plan.environment}", hint=again)
    return plan


def read_environment(paths: EnvironmentPaths, local: Path | None = None) -> dict[str, str]:
    """Return the environment in force: the generated file, then the person's local file, or `local`, over it.

    Raises:
        ValidationError: the generated file is missing, or one of them cannot be read.
    """
    local = local or paths.local
    if not paths.rendered.exists():
        again = f"`configure-gpu {paths.environment}` writes it"
        raise ValidationError(f"{paths.rendered} is missing", hint=again)
    return {**read_env_file(paths.rendered), **(read_env_file(local) if local.exists() else {})}


def read_env_file(path: Path) -> dict[str, str]:
    """Read KEY=VALUE lines; nothing is interpolated.

    Raises:
        ValidationError: it cannot be read, a line is not KEY=VALUE, or one means something else to Compose.
    """
    from dotenv.parser import parse_stream

    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "not UTF-8 text"
        raise ValidationError(f"{path}: cannot be read: {reason}", hint=_how_to_mend(path)) from None
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        written = binding.original.string
        # dotenv counts the blank lines above to it. The line itself may hold a secret, so only its number is told.
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        if binding.error or (binding.key and binding.value is None):
            raise ValidationError(f"{path}:{line}: expected KEY=VALUE", hint=_how_to_mend(path))
        if binding.key is not None and binding.value is not None:
            if "$" in binding.value and not _IN_SINGLE_QUOTES.search(written):
                raise ValidationError(
                    f"{path}:{line}: a `$` outside single quotes, which Compose would expand",
                    hint=f"write {binding.key[:80]}='…'",
                )
            values[binding.key] = binding.value
    return values


def _how_to_mend(path: Path) -> str:
    """Return what to do about a damaged environment file: only the generated one is ever rendered again."""
    if path.suffix == ".local":
        return "correct or remove it"
    return "correct it, or move it away: `configure-gpu` then renders it again"


def load_stack(paths: EnvironmentPaths, local: Path | None = None) -> Stack | None:
    """Return the rendered stack of an environment, or None where nothing has been rendered.

    `local` takes the place of the person's local file.

    Raises:
        ValidationError: a rendered file is missing or damaged.
    """
    plan = load_plan(paths)
    if plan is None:
        return None
    env = read_environment(paths, local)
    return Stack(root=paths.root, state=paths.state, plan=plan, env=env, local=local)
