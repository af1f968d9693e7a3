"""`stackwright recommend`: which GPUs serve a model as it is wished for, and how many of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import (
    ENVIRONMENTS,
    PlanOptions,
    add_json,
    add_out,
    record_of,
)
from stackwright.domain.environment import Environment
from stackwright.errors import NoPlanError, UsageError

if TYPE_CHECKING:
    from stackwright.commands.offers import Ground
    from stackwright.planning.recommend import Checkpoints, Suited, Unsuited

_MOST_TOKENS, _MOST_REQUESTS = 100_000_000, 100_000
_EXAMPLES = {"--context": 32_768, "--requests": 8}
# So many answers are shown unless all are asked for: more are the same with other GPUs.
_SHOWN = 12


_LEGEND = (
    "USD/H: the lowest known price on the day that it was seen, not today's; – unknown",
    "the GPUs are free and have no NVLink bridge; CONTEXT in tokens, AT ONCE: requests of that length",
)


class RecommendArguments(Struct, frozen=True, kw_only=True):
    """What is asked. `context` None: a useful length, up to the model's own. `all`: every GPU that does is shown."""

    model: str
    context: int | None = None
    requests: int = 1
    environment: Environment | None = None
    allow_vulnerable: bool = False
    all: bool = False
    out: Path | None = None
    json: bool = False


def _count(flag: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and 1 <= int(text) <= most):
        raise UsageError(
            f"{flag}: found `{text[:40]}`, allowed: a whole number from 1 to {most}",
            hint=f"for example `{flag} {_EXAMPLES[flag]}`",
        )
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ENV|NAME",
        help=f"whose share of the GPUs counts: {', '.join(ENVIRONMENTS)} (default: prod); the model, as by --model",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="catalog name for its best checkpoint; Hugging Face id, or folder, for that one"
    )
    parser.add_argument(
        "--context",
        metavar="N",
        type=lambda text: _count("--context", text, _MOST_TOKENS),
        help="tokens of one request with its answer (default: a useful length)",
    )
    parser.add_argument(
        "--requests",
        metavar="N",
        type=lambda text: _count("--requests", text, _MOST_REQUESTS),
        default=1,
        help="requests of that length at once (default: 1)",
    )
    parser.add_argument(
        "--allow-vulnerable",
        action="store_true",
        help="allow releases with known remote-code or key-bypass vulnerabilities",
    )
    parser.add_argument("--all", action="store_true", help=f"show all that do, not the first {_SHOWN}")
    add_out(parser)
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> RecommendArguments:
    """Turn the parsed words into the record."""
    from stackwright.commands.offers import split_words

    environment, mode, name = split_words(given.words)
    if mode is not None or (name and given.model and name != given.model):
        raise UsageError(f"unknown word `{(mode or name)[:60]}`", hint="name one model, and an environment or none")
    if not (given.model or name):
        raise UsageError("--model is missing", hint="name one: `stackwright recommend --model qwen3-32b`")
    return record_of(RecommendArguments, given, model=given.model or name, environment=environment)


def run(asked: RecommendArguments) -> None:
    """Plan the model on every GPU of the catalog, and print what does and what does not."""
    from stackwright.catalog.load import load_prices
    from stackwright.commands.offers import make_ground
    from stackwright.planning.recommend import Wish, recommend

    options = PlanOptions(allow_vulnerable=asked.allow_vulnerable)
    ground = make_ground(options, asked.out, None, asked.environment or Environment.PROD)
    name, checkpoints, longest = _find(asked, ground)
    if asked.context is not None and longest is not None and asked.context > longest:
        raise UsageError(
            f"--context: found {asked.context}, but {name} takes requests of {longest:,} tokens at most",
            hint=f"lower it: `--context {longest}`, or name another model",
        )
    wish = Wish(context=asked.context, requests=asked.requests)
    suited, others = recommend(ground.request, checkpoints, wish, ground.catalog, load_prices())
    if asked.json:
        report.print_json(_document(name, asked, ground, suited, others))
    else:
        _print(name, asked, ground, suited, others)
    if not suited:
        raise NoPlanError(
            f"no GPU of the catalog serves {name} so, not even 8 of one kind",
            hint="ask for less: --context, --requests",
        )


def _find(asked: RecommendArguments, ground: Ground) -> tuple[str, Checkpoints, int | None]:
    """Return a model's name, its checkpoints to choose from, and its longest request.

    The name of a checkpoint means that one alone; any other name of a model all that the catalog knows.

    Raises:
        UsageError: it means no model, or several.
    """
    from stackwright.commands.offers import find_rows
    from stackwright.models.naming import plain_name

    rows = find_rows(asked.model, ground.catalog, "--model")
    if len(rows) > 1:
        names = ", ".join(row.name for row in rows[:8]) + (", …" if len(rows) > 8 else "")
        raise UsageError(f"--model {asked.model[:60]}: several models are of that name", hint=f"name one of {names}")
    plain = plain_name(asked.model, (), "--model").lower()
    if not rows:
        model = ground.read_named(asked.model, f"--model {asked.model[:120]}")
        return model.facts.name, lambda _: (model,), model.facts.config.longest_tokens
    row = rows[0]
    longest = ground.read(row, row.checkpoints[0]).facts.config.longest_tokens
    exact = next((each for each in row.checkpoints if each.hub_id.lower() == plain), None)
    if exact is not None and exact.hub_id != row.hub_id:
        only = ground.read(row, exact)
        return exact.hub_id, lambda _: (only,), longest
    return row.name, ground.checkpoints(row), longest


def _document(
    name: str, asked: RecommendArguments, ground: Ground, suited: Sequence[Suited], others: Sequence[Unsuited]
) -> dict[str, Any]:
    from stackwright.commands.offers import offer_document

    return {
        "model": name,
        "context_tokens": asked.context,
        "requests": asked.requests,
        "environment": ground.request.environment,
        "recommendations": [
            {
                "gpu": {"id": one.gpu.id, "name": one.gpu.names[0], "compute_capability": one.gpu.compute_capability},
                "count": one.count,
                "driver": one.driver,
                "usd_per_hour": None if one.usd_per_hour is None else round(one.usd_per_hour, 2),
                "price": one.price,
                **offer_document(one.offer),
            }
            for one in suited
        ],
        "others": [
            {"gpu": {"id": one.gpu.id, "name": one.gpu.names[0]}, "why": one.why, "reason": one.reason}
            for one in others
        ],
    }


def _print(
    name: str, asked: RecommendArguments, ground: Ground, suited: Sequence[Suited], others: Sequence[Unsuited]
) -> None:
    share = ground.request.wishes.gpu_memory_utilization
    length = f"requests of {asked.context:,} tokens" if asked.context else "requests of a useful length"
    environment = f"{ground.request.environment.value}: {share:.0%} of each GPU's memory"
    report.print_lines((f"{name} · {length}, {asked.requests:,} at once · {environment}",))
    shown = suited if asked.all else suited[:_SHOWN]
    if shown:
        _print_table(shown)
    if len(suited) > len(shown):
        report.print_text(f"and {len(suited) - len(shown)} more: --all")
    _print_others(others)
    if shown:
        report.print_lines(("", *_LEGEND))


def _print_table(shown: Sequence[Suited]) -> None:
    from stackwright.commands.offers import DASH, at_once_of, format_of, split_of
    from stackwright.planning.sold_hosts import short_name
    from stackwright.rendering.table import Column

    columns = (
        Column(title="GPUS", cut=True),
        Column(title="WEIGHTS", rank=2),
        Column(title="CONTEXT", right=True, rank=3),
        Column(title="AT ONCE", right=True, rank=4),
        Column(title="SPLIT", rank=6),
        Column(title="DRIVER", rank=1),
        Column(title="IMAGE", rank=7),
        Column(title="USD/H", right=True),
        Column(title="SEEN ON", rank=0),
        Column(title="AT", rank=5),
    )
    rows = [
        (
            f"{one.count}× {short_name(one.gpu)}",
            format_of(one.offer),
            f"{one.offer.reach.tokens:,}",
            at_once_of(one.offer),
            split_of(one.offer) + _replicas(one),
            f"≥ {one.driver}" if one.driver else DASH,
            one.offer.served.image.image.rpartition(":")[2] if one.offer.served else DASH,
            DASH if one.usd_per_hour is None else f"{one.usd_per_hour:.2f}",
            one.price.date if one.price else DASH,
            _seller(one),
        )
        for one in shown
    ]
    report.print_table(columns, rows)


def _replicas(one: Suited) -> str:
    served = one.offer.served
    return f" {served.replicas} replicas" if served is not None and served.replicas > 1 else ""


def _seller(one: Suited) -> str:
    return "" if one.price is None else one.price.provider + (", from" if one.price.market else "")


def _print_others(others: Sequence[Unsuited]) -> None:
    """Print why the others do not, one line for each reason."""
    from stackwright.planning.sold_hosts import short_name

    groups: dict[str, list[str]] = {}
    for one in others:
        groups.setdefault(one.why, []).append(short_name(one.gpu))
    if groups:
        report.print_text("")
    lines = [f"not, {why} ({len(names)}): {', '.join(names)}" for why, names in groups.items()]
    report.print_lines(lines)
