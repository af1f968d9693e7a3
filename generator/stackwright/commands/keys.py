"""`stackwright keys`: keys for people and programs, what they may do, and what was used with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from msgspec import Struct, field

from stackwright import report
from stackwright.commands.options import add_environment, add_json, add_out, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import load_stack
from stackwright.domain.access_key import MASTER, AccessKey, Rights
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.plan import Plan
from stackwright.errors import UsageError, did_you_mean
from stackwright.project.access_keys import (
    ShownKey,
    add_key,
    find_key,
    read_keys,
    renew_master_key,
    revoke_key,
    rotate_key,
)
from stackwright.project.folder import load_plan
from stackwright.project.key_usage import KeyUsage, read_usage
from stackwright.services import additions, services_of

ACTIONS: Mapping[str, str] = {
    "add": "Make a key. It is printed once; only a salted hash of it is stored.",
    "list": "Show the keys and what each may do; never their texts.",
    "rotate": "Give a key a new text, which is printed once; the old one is refused. `master`: the administrator's.",
    "revoke": "Take a key away. It is refused from then on.",
    "usage": "Show requests and tokens by day, key and model.",
}
SHOWN_ONCE = "is shown only once; keep it now. A running gateway accepts it within two seconds"
MOST = 10**12
DAYS = 30


class KeysArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `keys`. `name`: None for `list`, and for `usage` of all keys."""

    action: str
    environment: Environment
    name: str | None = None
    rights: Rights = field(default_factory=Rights)
    days: int = DAYS
    json: bool = False
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line, one parser for each action."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    for action, summary in ACTIONS.items():
        made = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        if action in ("add", "rotate", "revoke"):
            made.add_argument("name", metavar="NAME", help="the key's name: whose it is, or what for")
        add_environment(made)
        if action == "add":
            _add_rights(made)
        if action == "usage":
            made.add_argument("--key", dest="name", metavar="NAME", help="of one key (default: of all)")
            made.add_argument(
                "--days",
                type=_whole("--days"),
                metavar="N",
                default=DAYS,
                help=f"newest days with use (default: {DAYS})",
            )
        add_out(made)
        if action != "revoke":
            add_json(made)


def _add_rights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        dest="models",
        metavar="MODEL",
        action="append",
        help="a model that it may ask; repeatable (default: all)",
    )
    for flag, what in (
        ("--requests-per-minute", "requests per minute (default: GATEWAY_KEY_REQUESTS_PER_MINUTE; 0: no limit)"),
        ("--tokens-per-minute", "tokens per minute (default: GATEWAY_KEY_TOKENS_PER_MINUTE; 0: no limit)"),
        ("--tokens-per-day", "tokens per day of UTC (default: no limit)"),
    ):
        parser.add_argument(flag, type=_whole(flag), metavar="N", help=what)
    parser.add_argument("--metrics-only", action="store_true", help="it may read /metrics, and ask no model")
    parser.add_argument("--expires", type=_last_day, metavar="DATE", help="its last day, in UTC, such as 2027-01-31")


def _whole(flag: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 16 and int(text) <= MOST):
            raise UsageError(
                f"{flag}: found `{text[:40]}`, allowed: a whole number, 0 to {MOST}", hint=f"for example `{flag} 60`"
            )
        return int(text)

    return read


def _last_day(text: str) -> int:
    """Return the end of a day of UTC, which must not be over, in Unix time."""
    try:
        day = date.fromisoformat(text)
        end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--expires: found `{text[:40]}`, allowed: a date YYYY-MM-DD", hint="for example `--expires 2027-01-31`"
        ) from None
    if end <= datetime.now(UTC):
        raise UsageError(f"--expires: {day} is over", hint="name today or a later day, or leave it out")
    return int(end.timestamp())


def read_arguments(given: argparse.Namespace) -> KeysArguments:
    """Turn the parsed words into the record."""
    if given.action != "add":
        return record_of(KeysArguments, given)
    rights = record_of(Rights, given, models=tuple(dict.fromkeys(given.models or ())))
    return record_of(KeysArguments, given, rights=rights)


def run(arguments: KeysArguments) -> None:
    """Do it.

    Raises:
        UsageError: a name is wrong, taken or unknown, or a file cannot be read or written.
        ValidationError: a key is to be made for an environment that is not configured.
    """
    paths = find_paths(arguments.out).of(arguments.environment)
    {"add": _add, "list": _list, "rotate": _rotate, "revoke": _revoke, "usage": _usage}[arguments.action](
        paths, arguments
    )


def _add(paths: EnvironmentPaths, arguments: KeysArguments) -> None:
    from msgspec.structs import replace

    plan = load_stack(paths).plan
    models = tuple(dict.fromkeys(served_name(plan, model) for model in arguments.rights.models))
    _show_once(add_key(paths, arguments.name or "", replace(arguments.rights, models=models)), arguments)


def _rotate(paths: EnvironmentPaths, arguments: KeysArguments) -> None:
    if arguments.name != MASTER:
        own = _own_services(paths, arguments.name or "")
        made = rotate_key(paths, arguments.name or "", paths.secrets / own[0] if own else None)
        _show_once(made, arguments)
        if own is not None:
            report.tell(f"`start-environment {paths.environment.value}` gives it to {', '.join(own[1])}")
        return
    load_stack(paths)
    text = renew_master_key(paths)
    if arguments.json:
        report.print_json({"name": MASTER, "key": text})
    else:
        report.print_text(text)
    again = f"`stackwright key {paths.environment.value}` prints the master key again"
    report.tell(f"{again}. A running gateway accepts it within two seconds")


def _own_services(paths: EnvironmentPaths, name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the secret that holds this key for the stack's own services, and who they are; None for anybody's key."""
    plan = load_plan(paths)
    addition = additions().get(name)
    if plan is None or addition is None or not addition.has_key or name not in plan.additions:
        return None
    secret = addition.key_secret
    return secret, tuple(service.name for service in services_of(plan) if secret in service.secrets)


def _show_once(made: ShownKey, arguments: KeysArguments) -> None:
    if arguments.json:
        report.print_json({**describe_key(made.stored), "key": made.text})
    else:
        report.print_text(made.text)
    report.tell(f"the key of `{made.stored.name}` {SHOWN_ONCE}")


def _revoke(paths: EnvironmentPaths, arguments: KeysArguments) -> None:
    gone = revoke_key(paths, arguments.name or "")
    report.tell(f"revoked `{gone.name}` (sk-{gone.id}…); a running gateway refuses it within two seconds")


def _list(paths: EnvironmentPaths, arguments: KeysArguments) -> None:
    keys = read_keys(paths).keys
    if arguments.json:
        report.print_json({"environment": paths.environment.value, "keys": [describe_key(key) for key in keys]})
    elif keys:
        report.print_text(_table(("name", "key", "models", "limits", "created", "last day"), map(_row_of_key, keys)))
    else:
        report.tell(f"no keys; make one: `stackwright keys add NAME {paths.environment.value}`")


def _usage(paths: EnvironmentPaths, arguments: KeysArguments) -> None:
    found = read_usage(paths, days=arguments.days, key=arguments.name)
    if arguments.name is not None and not found:
        find_key(paths, read_keys(paths), arguments.name)
    if arguments.json:
        report.print_json({"environment": paths.environment.value, "usage": found})
    elif found:
        heads = ("day", "key", "model", "requests", "prompt tokens", "completion tokens", "refused")
        report.print_text(_table(heads, (row for usage in found for row in _rows_of_usage(usage))))
    else:
        report.tell("nothing was used yet")


def served_name(plan: Plan, asked: str) -> str:
    """Return the served name of a model that is asked for by its name or an alias. Raises UsageError for no model."""
    names = {alias: model.name for model in plan.models for alias in (*model.aliases, model.name)}
    names |= {adapter.name: adapter.name for model in plan.models for adapter in model.attached.adapters}
    names |= {model.name: model.name for model in plan.gateway.cloud}
    if asked not in names:
        hint = did_you_mean(asked, names) or f"models: {', '.join(names)}"
        raise UsageError(f"--model: {plan.environment} serves no `{asked[:80]}`", hint=hint)
    return names[asked]


def describe_key(key: AccessKey) -> dict[str, object]:
    """Return what JSON says of a key: all but its hash. `expires` is the moment from which it is refused."""
    rights = key.rights
    return {
        "name": key.name,
        "id": key.id,
        "created": _moment(key.created),
        "models": rights.models,
        "requests_per_minute": rights.requests_per_minute,
        "tokens_per_minute": rights.tokens_per_minute,
        "tokens_per_day": rights.tokens_per_day,
        "expires": None if rights.expires is None else _moment(rights.expires),
        "metrics_only": rights.metrics_only,
        "acts_for": rights.acts_for,
    }


def _row_of_key(key: AccessKey) -> tuple[str, ...]:
    rights = key.rights
    limits = {
        "requests/min": rights.requests_per_minute,
        "tokens/min": rights.tokens_per_minute,
        "tokens/day": rights.tokens_per_day,
    }
    told = (f"{limit or 'no limit of'} {what}" for what, limit in limits.items() if limit is not None)
    last = "" if rights.expires is None else _moment(rights.expires - 1)[:10]
    over = " (expired)" if rights.expires is not None and rights.expires <= datetime.now(UTC).timestamp() else ""
    models = "none, only metrics" if rights.metrics_only else ", ".join(rights.models) or "all"
    return (key.name, f"sk-{key.id}…", models, ", ".join(told) or "default", _moment(key.created)[:10], last + over)


def _rows_of_usage(usage: KeyUsage) -> Iterable[tuple[str, ...]]:
    totals = [sum(getattr(model, name) for model in usage.models) for name in USED]
    yield (usage.day, usage.key, "(all)", *map(str, totals), str(usage.refused))
    for model in usage.models:
        yield ("", "", model.model, *(str(getattr(model, name)) for name in USED), "")


USED = ("requests", "prompt_tokens", "completion_tokens")


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Lay rows out in columns; numbers to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    right = [all(line[column].isdecimal() or not line[column] for line in lines[1:]) for column in range(len(heads))]
    cells = (
        [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(line, widths, right, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in cells)


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
