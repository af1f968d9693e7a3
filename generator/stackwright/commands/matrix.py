"""What `stackwright models --matrix` shows: which models of the catalog run on which GPUs, and on how many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from stackwright import report
from stackwright.commands.options import PlanOptions
from stackwright.domain.environment import Environment
from stackwright.domain.role import Role
from stackwright.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from stackwright.domain.hardware import GpuModel
    from stackwright.planning.matrix import Cell, MatrixRow

_LEGEND = (
    "1 2 4 8: the least number of GPUs; ^ with a newer driver than other models; ? may fit, memory cannot be forecast",
    "– too little memory on 8; x not supported whatever their number",
)


class ModelsArguments(Struct, frozen=True, kw_only=True):
    """What `models` is asked: `name` empty for all.

    For the matrix alone: `gpus`, empty for the usual ones, and `driver`; what needs a newer one is marked.
    """

    options: PlanOptions = field(default_factory=PlanOptions)
    environment: Environment | None = None
    name: str = ""
    role: Role | None = None
    fits: bool = False
    matrix: bool = False
    gpus: tuple[str, ...] = ()
    driver: str | None = None
    out: Path | None = None
    json: bool = False


def show_matrix(asked: ModelsArguments) -> None:
    """Print the matrix as a table, or as JSON with each cell's checkpoint, driver and reason."""
    from stackwright.catalog.load import load_catalog
    from stackwright.commands.offers import find_rows, make_ground
    from stackwright.planning.matrix import make_matrix, with_driver

    catalog = load_catalog()
    gpus = find_gpus(asked.gpus, catalog.gpus())
    ground = make_ground(asked.options, asked.out, None, asked.environment or Environment.PROD)
    rows = find_rows(asked.name, catalog, "models") if asked.name else catalog.llms()
    rows = [row for row in rows if asked.role in (None, row.role)]
    matrix = with_driver(make_matrix(ground.request, rows, gpus, ground.checkpoints, catalog), asked.driver)
    if asked.fits:
        matrix = tuple(one for one in matrix if any(cell.count for cell in one.cells))
    if asked.json:
        report.print_json({"environment": ground.request.environment, "models": [_document(one) for one in matrix]})
        return
    _print(gpus, matrix)


def find_gpus(names: Sequence[str], known: Sequence[GpuModel]) -> tuple[GpuModel, ...]:
    """Return the GPUs of some names or ids, the usual ones without a name. Raises UsageError for an unknown one."""
    from stackwright.planning.matrix import USUAL_GPUS
    from stackwright.planning.sold_hosts import short_name

    by_name = {name: gpu for gpu in known for name in (_squeezed(short_name(gpu)), *map(_squeezed, gpu.names), gpu.id)}
    found: list[GpuModel] = []
    for name in names or USUAL_GPUS:
        gpu = by_name.get(name) or by_name.get(_squeezed(name))
        begun = [gpu] if gpu else [each for each in known if _squeezed(name) and each.id.startswith(_squeezed(name))]
        if not begun:
            hint = did_you_mean(_squeezed(name), by_name) or f"for example {', '.join(USUAL_GPUS[:4])}"
            raise UsageError(f"--gpu: the catalog has no GPU `{name[:60]}`", hint=hint)
        found += begun
    return tuple(dict.fromkeys(found))


def _squeezed(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


_MARKS = {"newer-driver": "^", "may-fit": "?"}


def mark_of(cell: Cell) -> str:
    """Return a cell in a few characters: the number of GPUs, and what stands in the way."""
    from stackwright.planning.matrix import Fit
    from stackwright.planning.survey import Lack

    if cell.count is None or cell.fit is Fit.NOT_SUPPORTED:
        return "–" if cell.lack in (None, Lack.MEMORY) else "x"
    return str(cell.count) + _MARKS.get(cell.fit.value, "")


def _document(one: MatrixRow) -> dict[str, Any]:
    return {
        "name": one.row.name,
        "role": one.row.role,
        "gpus": [
            {
                "gpu": cell.gpu.id,
                "fit": cell.fit,
                "count": cell.count,
                "checkpoint": cell.offer and cell.offer.facts.location,
                "format": cell.offer and cell.offer.facts.format,
                "driver": cell.driver,
                "reason": cell.reason or None,
            }
            for cell in one.cells
        ],
    }


def _print(gpus: Sequence[GpuModel], matrix: Sequence[MatrixRow]) -> None:
    from stackwright.rendering.table import Column

    columns = [Column(title="MODEL"), *(Column(title=gpu.id, rank=at) for at, gpu in enumerate(gpus, start=1))]
    rows = [(one.row.name, *map(mark_of, one.cells)) for one in matrix]
    left_out = report.print_table(columns, rows)
    report.print_lines(("", *_LEGEND))
    if left_out:
        report.print_lines((f"no room here for {', '.join(left_out)}: choose with --gpu",))
