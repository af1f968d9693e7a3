"""`stackwright gpus`: the GPUs as a picture, and what the planner makes of their connections."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import add_json, record_of
from stackwright.domain.host import Host
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Setting
from stackwright.domain.role import Role
from stackwright.domain.topology import GpuPair, nvlink_islands
from stackwright.engines import default_engine
from stackwright.engines.protocol import EngineNeeds, EngineTask
from stackwright.errors import NoPlanError
from stackwright.planning.other_makers import describe_other_gpus, what_would


class GpusArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `gpus`. `host`: a snapshot; None for this machine."""

    host: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--host", metavar="FILE", type=Path, help="draw this snapshot instead of this machine")
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> GpusArguments:
    """Turn the parsed words into the record."""
    return record_of(GpusArguments, given)


def run(arguments: GpusArguments) -> None:
    """Print the picture, then the pairs and the ways to place a model."""
    from stackwright.planning.pairs import judge_pairs, possible_placements
    from stackwright.rendering.gpu_picture import gpu_picture, pair_lines, placement_lines

    host = get_host(arguments.host)
    pairs, (ways, refusal) = judge_pairs(host), possible_placements(host)
    refusal = refusal or _no_image(host, ways)
    if arguments.json:
        report.print_json(_document(host, pairs, ways, refusal))
        return
    sheet = report.sheet()
    lines = [*gpu_picture(host, sheet, _usable(host))] or [_none_seen(host)]
    if others := describe_other_gpus(host):
        lines += ["", f"{others}: not supported by this release; {what_would(host)}"]
    if pairs:
        lines += ["", "is a replica split over a pair?", *pair_lines(pairs, sheet)]
    lines += ["", "how a model would be placed, the preferred way first (its size and heads decide)"]
    lines += placement_lines(ways, sheet)
    if refusal is not None:
        lines += sheet.flow([f"but {refusal}" if ways else refusal], "  ", "  ")
    report.print_text("\n".join(map(report.on_one_line, lines)))


def _document(
    host: Host, pairs: Sequence[GpuPair], ways: Sequence[Placement], refusal: str | None
) -> Mapping[str, object]:
    whole = [gpu for gpu in host.gpus if gpu.mig_slice is None]
    return {
        "gpus": host.gpus,
        "links": host.links,
        "other_gpus": host.other_gpus,
        "islands": [[gpu.index for gpu in island] for island in nvlink_islands(whole, host.links)],
        "pairs": pairs,
        "placements": [
            {
                "tensor_parallel": way.tensor_parallel,
                "pipeline_parallel": way.pipeline_parallel,
                "groups": [[gpu.index for gpu in group] for group in way.groups],
                "reason": way.reason,
            }
            for way in ways
        ],
        "refusal": refusal,
    }


def _no_image(host: Host, ways: Sequence[Placement]) -> str | None:
    """Return why no engine image runs on these GPUs, whatever the model; None where one does."""
    from stackwright.catalog.load import load_catalog
    from stackwright.models.read import smoke_facts
    from stackwright.models.stored import name_llm

    engine, facts = default_engine(), smoke_facts()
    task = EngineTask(
        host=host,
        llm=name_llm(facts),
        facts=facts,
        role=Role.CHAT,
        pins={},
        wished_context=None,
        wished_in="",
        model=Setting(value=facts.location, reason="", source=""),
    )
    try:
        engine.choose_image(task, ways[0].gpus, load_catalog(), EngineNeeds())
    except NoPlanError as failure:
        return failure.message
    return None


def _usable(host: Host) -> dict[int, int]:
    from stackwright.catalog.load import find_gpu
    from stackwright.engines.memory.gpu import memory_on

    seen = {gpu.index: memory_on(host, gpu, find_gpu(gpu.name)) for gpu in host.gpus}
    return {index: memory.total_bytes for index, memory in seen.items() if memory is not None}


def _none_seen(host: Host) -> str:
    """Return why there is nothing to draw: a driver that fails hides GPUs that are there."""
    failed = host.driver is not None and host.driver.error is not None
    return "NVIDIA GPUs unknown: the driver does not answer" if failed else "no NVIDIA GPU"
