"""`stackwright models`: what a host can serve, a model's checkpoints side by side, the matrix of models and GPUs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.matrix import ModelsArguments, show_matrix
from stackwright.commands.options import (
    ENVIRONMENTS,
    MODES,
    add_choice_flags,
    add_json,
    add_out,
    parse_environment,
    read_plan_options,
    record_of,
)
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Mode
from stackwright.domain.role import Role
from stackwright.errors import NoPlanError, UsageError, did_you_mean
from stackwright.planning.other_makers import warn_of_other_gpus

if TYPE_CHECKING:
    from stackwright.commands.offers import Ground
    from stackwright.domain.model_facts import CatalogLlm
    from stackwright.planning.request import PlanRequest, WantedModel
    from stackwright.planning.survey import Listed, Offer, Refusal

_LEGEND = "CONTEXT in tokens, AT ONCE: requests of that length; * is served where nobody names a model"


def _role(text: str) -> Role:
    if text not in tuple(Role):
        hint = did_you_mean(text, Role) or "for example `chat`"
        raise UsageError(f"--role: found `{text[:40]}`, allowed: {', '.join(Role)}", hint=hint)
    return Role(text)


def _share(text: str) -> str:
    try:
        good = 0 < float(text) <= 1
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"--gpu-memory-utilization: found `{text[:40]}`, allowed: a share above 0, up to 1", hint="for example 0.9"
        )
    return text


def _driver(text: str) -> str:
    if not all(part.isdecimal() for part in text.split(".")):
        raise UsageError(f"--driver: found `{text[:40]}`, allowed: numbers such as 550.54", hint="as nvidia-smi says")
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ENV|MODE|NAME",
        help=f"whose wishes count: {', '.join(ENVIRONMENTS)} (default: dev); where: {', '.join(MODES)}; "
        "a model, or words of its name, to compare its checkpoints",
    )
    parser.add_argument("--env", dest="environment", metavar="ENV", type=parse_environment, help="the same by a flag")
    parser.add_argument("--role", type=_role, metavar="NAME", help=f"only models for this: {', '.join(Role)}")
    parser.add_argument("--fits", action="store_true", help="leave out what this host does not serve")
    add_choice_flags(parser)
    parser.add_argument(
        "--gpu-memory-utilization",
        dest="share",
        metavar="SHARE",
        type=_share,
        help="the share of each GPU's memory, instead of the environment's",
    )
    parser.add_argument("--matrix", action="store_true", help="which models run on which GPUs, and on how many")
    parser.add_argument(
        "--gpu",
        dest="gpus",
        metavar="NAME",
        action="append",
        help="a GPU of the matrix; repeatable (default: some)",
    )
    parser.add_argument(
        "--driver", metavar="VERSION", type=_driver, help="mark what needs a newer driver than this in the matrix"
    )
    add_out(parser)
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> ModelsArguments:
    """Turn the parsed words into the record."""
    from stackwright.commands.offers import split_words

    environment, mode, name = split_words(given.words)
    if given.environment is not None and environment not in (None, given.environment):
        raise UsageError(f"found two environments: {environment} and {given.environment}", hint="name one")
    if not given.matrix and (given.gpus or given.driver):
        flag = "--gpu" if given.gpus else "--driver"
        raise UsageError(f"{flag} is for the matrix", hint="add --matrix, or name a host with --host FILE")
    if given.role is not None and name:
        raise UsageError("--role is for the list", hint="leave it out, or the name")
    options = read_plan_options(given, mode)
    if given.matrix and options.host is not None:
        raise UsageError("--host is not for the matrix, which is of GPUs alone", hint="name them: `--gpu NAME`")
    if given.share is not None:
        share = options.engine.keys.memory_share
        options = replace(options, pins=(*options.pins, *(((share, given.share),) if share else ())))
    return record_of(
        ModelsArguments,
        given,
        options=options,
        environment=given.environment or environment,
        name=name,
        gpus=tuple(given.gpus or ()),
    )


def run(asked: ModelsArguments) -> None:
    """List, compare, or show the matrix."""
    if asked.matrix:
        show_matrix(asked)
        return
    from stackwright.catalog.load import load_catalog
    from stackwright.commands.offers import find_rows, make_ground

    # Before the host is looked at: a name that means nothing is told at once.
    rows: Sequence[CatalogLlm] = (
        find_rows(asked.name, load_catalog(), "models") if asked.name else load_catalog().llms()
    )
    host = get_host(asked.options.host)
    ground = make_ground(asked.options, asked.out, host, asked.environment or Environment.DEV)
    if asked.role is not None:
        rows = [row for row in rows if row.role is asked.role or (asked.role is Role.CHAT and row.role is Role.VISION)]
    if asked.options.mode is None and (others := warn_of_other_gpus(host)):
        report.warn(others)
    if asked.name and len(rows) <= 1:
        _compare(asked, ground, rows[0] if rows else None)
    else:
        _list(asked, ground, rows)


def _list(asked: ModelsArguments, ground: Ground, rows: Sequence[CatalogLlm]) -> None:
    from stackwright.commands.offers import offer_document
    from stackwright.planning.survey import Lack, survey

    listed = survey(ground.request, rows, ground.catalog, ground.read, ground.default())
    shown = [one for one in listed if one.offer.served is not None or not asked.fits]
    served = [one for one in listed if one.offer.served is not None]
    if asked.json:
        documents = [
            {
                "name": one.row.name,
                "role": one.row.role,
                "parameters": one.row.parameters,
                "released": one.row.released,
                "default": one.is_default,
                **offer_document(one.offer),
            }
            for one in shown
        ]
        report.print_json({"host": _host_document(ground), "environment": _name(ground), "models": documents})
    elif served or (listed and listed[0].offer.refusal and listed[0].offer.refusal.lack is Lack.MEMORY):
        _print_list(ground, shown)
    if not served and listed:
        refusal = listed[0].offer.refusal
        if refusal is not None and refusal.lack is not Lack.MEMORY:
            raise NoPlanError(refusal.reason, hint=refusal.hint)
        raise NoPlanError("no such model of the catalog fits this host", hint=_who_holds(ground, listed[0].row.name))


def _who_holds(ground: Ground, name: str) -> str:
    """Return the hint that leads to the GPUs that hold a model; they are for no host that was named."""
    from stackwright.commands.offers import pasted

    return f"`{pasted(replace(ground, host_file=None), 'recommend', '--model', name)}` names GPUs that hold it"


def _print_list(ground: Ground, shown: Sequence[Listed]) -> None:
    from stackwright.commands.offers import notes_of, pasted
    from stackwright.rendering.table import Column

    columns = (
        Column(title="MODEL"),
        Column(title="WEIGHTS", rank=4),
        Column(title="SIZE", right=True, rank=5),
        Column(title="CONTEXT", right=True),
        Column(title="AT ONCE", right=True, rank=1),
        Column(title="GPUS", right=True, rank=2),
        Column(title="REPLICAS", right=True, rank=6),
        Column(title="SPLIT", rank=7),
        Column(title="NOTES", rank=3, cut=True),
    )
    rows = []
    for one in shown:
        if one.offer.served is None:
            continue
        role = [] if one.row.role is Role.CHAT else ["images" if one.row.role is Role.VISION else one.row.role.value]
        name, notes = one.row.name + (" *" if one.is_default else ""), ", ".join(notes_of(one.offer) + role)
        rows.append((name, *_cells(one.offer), notes))
    report.print_lines((_heading(ground),))
    if rows:
        report.print_table(columns, rows)
    _print_refused([one for one in shown if one.offer.served is None])
    report.print_lines(("", _LEGEND))
    report.print_text(f"to compare a model's checkpoints: {pasted(ground, 'models', *_mode_words(ground), 'NAME')}")


def _cells(offer: Offer) -> tuple[str, ...]:
    """Return what both tables say of an offer, from its weights to how it is split."""
    from stackwright.commands.offers import DASH, at_once_of, format_of, size_of, split_of

    served = offer.served
    return (
        format_of(offer),
        size_of(offer),
        f"{served.reach.tokens:,}" if served else DASH,
        at_once_of(offer),
        str(served.gpus) if served and served.gpus else "",
        str(served.replicas) if served and served.replicas > 1 else "",
        split_of(offer),
    )


def _print_refused(refused: Sequence[Listed]) -> None:
    """Print what does not fit, those first that come nearest to it."""
    from stackwright.commands.offers import format_of, size_of
    from stackwright.rendering.table import Column

    if not refused:
        return
    columns = (
        Column(title="NOT SERVED"),
        Column(title="WEIGHTS", rank=3),
        Column(title="SIZE", right=True, rank=2),
        Column(title="WHY", rank=1, cut=True),
    )
    rows = [(one.row.name, format_of(one.offer), size_of(one.offer), _why(one.offer.refusal)) for one in refused]
    report.print_text("")
    report.print_table(columns, rows)


def _why(refusal: Refusal | None) -> str:
    from stackwright.planning.survey import Lack

    if refusal is None:
        return ""
    return "too large in every format of the catalog" if refusal.lack is Lack.MEMORY else refusal.reason


def _compare(asked: ModelsArguments, ground: Ground, row: CatalogLlm | None) -> None:
    """Show the checkpoints of one model side by side; of one that the catalog does not have, itself alone."""
    from stackwright.commands.offers import offer_document
    from stackwright.planning.survey import Lack

    offers, best = _weigh_checkpoints(asked, ground, row)
    location = best.facts.location if best.served is not None else None
    shown = [offer for offer in offers if offer.served is not None or not asked.fits]
    if asked.json:
        documents = [{"best": offer.facts.location == location, **offer_document(offer)} for offer in shown]
        report.print_json(
            {
                "host": _host_document(ground),
                "environment": _name(ground),
                "model": row and _model_document(row),
                "checkpoints": documents,
            }
        )
    elif best.refusal is None or best.refusal.lack not in (Lack.DRIVER, Lack.IMAGE):
        _print_comparison(ground, row, shown, location)
    if best.served is None and best.refusal is not None:
        name = row.name if row is not None else asked.name
        if best.refusal.lack is not Lack.MEMORY:
            raise NoPlanError(best.refusal.reason, hint=best.refusal.hint or _who_holds(ground, name))
        words = f"{name} does not fit here, in any format that the catalog knows"
        raise NoPlanError(words if row is not None else best.refusal.reason, hint=_who_holds(ground, name))


def _weigh_checkpoints(asked: ModelsArguments, ground: Ground, row: CatalogLlm | None) -> tuple[Sequence[Offer], Offer]:
    """Return each checkpoint of a model, the one that loses least first, and the best of them."""
    from stackwright.planning.request import model_request
    from stackwright.planning.survey import best_of, weigh

    gpus = ground.request.host.gpus
    if row is None:
        wanted: Sequence[WantedModel] = (ground.read_named(asked.name, f"models {asked.name[:120]}"),)
    else:
        from stackwright.planning.quantization import order_by_loss

        ordered = order_by_loss(ground.rules, row, gpus[0].compute_capability if gpus else None)
        wanted = [ground.read(row, checkpoint) for checkpoint in ordered]
    requests = (model_request(replace(ground.request, models=(model,)), 0) for model in wanted)
    offers = [weigh(request, ground.catalog, ground.rules) for request in requests]
    best = offers[0] if row is None else best_of(ground.request, row, ground.catalog, ground.rules, ground.read)
    return offers, best


def _model_document(row: CatalogLlm) -> dict[str, Any]:
    return {
        "name": row.name,
        "role": row.role,
        "parameters": row.parameters,
        "context_tokens": row.context_tokens,
        "released": row.released,
        "licence": row.licence,
    }


def _print_comparison(ground: Ground, row: CatalogLlm | None, shown: Sequence[Offer], location: str | None) -> None:
    from stackwright.commands.offers import DASH, notes_of, pasted
    from stackwright.rendering.table import Column
    from stackwright.units import format_bytes

    report.print_lines((_heading(ground), *((_describe(row),) if row is not None else ())))
    columns = (
        Column(title="CHECKPOINT", cut=True),
        Column(title="WEIGHTS"),
        Column(title="SIZE", right=True, rank=3),
        Column(title="CONTEXT", right=True),
        Column(title="AT ONCE", right=True, rank=1),
        Column(title="GPUS", right=True, rank=4),
        Column(title="REPLICAS", right=True, rank=5),
        Column(title="SPLIT", rank=6),
        Column(title="CACHE/GPU", right=True, rank=7),
        Column(title="NOTES", rank=2, cut=True),
    )
    rows = []
    for offer in shown:
        served = offer.served
        best = ["best"] if offer.facts.location == location else []
        cache = served.memory.kv_cache_bytes if served is not None and served.memory is not None else None
        notes = best + notes_of(offer) + ([_short_reason(offer.refusal)] if offer.refusal else [])
        held = format_bytes(max(0, cache)) if cache is not None else DASH
        rows.append((offer.facts.location, *_cells(offer), held, ", ".join(notes)))
    report.print_table(columns, rows)
    if location is not None:
        words = (*_mode_words(ground), "--model", location, *replace(ground.chosen.choices, mode=None, models=()).words)
        report.print_text(f"next: {pasted(ground, 'plan', *words)}")


def _short_reason(refusal: Refusal) -> str:
    from stackwright.planning.survey import Lack

    return "does not fit" if refusal.lack is Lack.MEMORY else refusal.reason


def _describe(row: CatalogLlm) -> str:
    parts = (
        row.name,
        row.role.value,
        f"{row.parameters / 1e9:.3g}B parameters" if row.parameters else None,
        f"{row.active_parameters / 1e9:.3g}B per token" if row.active_parameters else None,
        f"up to {row.context_tokens:,} tokens" if row.context_tokens else None,
        f"released {row.released}" if row.released else None,
        row.licence,
    )
    return " · ".join(part for part in parts if part)


def _heading(ground: Ground) -> str:
    """Return the host and the environment in one line."""
    from stackwright.planning.placement import describe_gpus
    from stackwright.units import format_bytes

    host, request = ground.request.host, ground.request
    if host.gpus and request.mode is not Mode.CPU:
        driver = f", driver {host.driver.version}" if host.driver and host.driver.version else ""
        what = describe_gpus(host) + driver
        return f"{what} · {_name(ground)}: {_share_of(request):.0%} of each GPU's memory"
    memory = format_bytes(host.memory_bytes)
    return f"processor {host.cpu.model or 'of unknown model'}, {memory} of memory · {_name(ground)}"


def _share_of(request: PlanRequest) -> float:
    key = request.engine.keys.memory_share
    pinned = next((pin.value for pin in request.pins if pin.key == key), None)
    return float(pinned) if pinned is not None else request.wishes.gpu_memory_utilization


def _mode_words(ground: Ground) -> tuple[str, ...]:
    mode = ground.request.mode
    return (_name(ground), *((mode.value,) if mode is not None else ()))


def _name(ground: Ground) -> str:
    return ground.request.environment.value


def _host_document(ground: Ground) -> dict[str, Any]:
    host = ground.request.host
    return {
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in host.gpus],
        "memory_bytes": host.memory_bytes,
        "driver": host.driver and host.driver.version,
    }
