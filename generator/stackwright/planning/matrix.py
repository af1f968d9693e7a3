"""Which models of the catalog run on which GPUs of it, on how many, and from which driver on. Pure.

A cell is the answer of planning/recommend.py for requests of a useful length, one at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.hardware import GpuModel
from stackwright.domain.model_facts import CatalogLlm
from stackwright.planning.recommend import Checkpoints, Unsuited, Wish, least_driver, least_number
from stackwright.planning.request import PlanRequest
from stackwright.planning.survey import Lack, Offer
from stackwright.units import version_parts

# What is bought and rented most for serving, one of each size and generation: the columns where nobody names others.
USUAL_GPUS = (
    "rtx3090",
    "rtx4090",
    "rtx5090",
    "l40s",
    "a100-sxm-80",
    "h100-sxm",
    "h200-sxm",
    "b200",
    "t4",
    "rtx3060",
    "rtx5080",
    "gb10",
)


class Fit(StrEnum):
    """How a model and a GPU go together.

    `newer-driver`: than other models need on that GPU, or than the one given. `may-fit`: there is a plan, whose memory
    nobody can forecast for sure.
    """

    COMPATIBLE = "compatible"
    SEVERAL_GPUS = "several-gpus"
    NEWER_DRIVER = "newer-driver"
    MAY_FIT = "may-fit"
    NOT_SUPPORTED = "not-supported"
    UNKNOWN = "unknown"


class Cell(Struct, frozen=True, kw_only=True):
    """One model on one GPU: the least number that serves it, its best checkpoint there, the least driver.

    All None where none does, with the `reason`; `lack` says what is missing.
    """

    gpu: GpuModel
    fit: Fit
    count: int | None = None
    offer: Offer | None = None
    driver: str | None = None
    reason: str = ""
    lack: Lack | None = None


class MatrixRow(Struct, frozen=True, kw_only=True):
    """One model with a cell for each GPU."""

    row: CatalogLlm
    cells: tuple[Cell, ...]


def make_matrix(
    whole: PlanRequest,
    rows: Iterable[CatalogLlm],
    gpus: Sequence[GpuModel],
    checkpoints: Callable[[CatalogLlm], Checkpoints],
    catalog: Catalog,
) -> tuple[MatrixRow, ...]:
    """Return a cell for each model and GPU. `checkpoints`: a model's, to choose from."""
    drivers: _Drivers = {}
    made = []
    for row in rows:
        models = checkpoints(row)
        made.append(MatrixRow(row=row, cells=tuple(_cell(whole, models, gpu, catalog, drivers) for gpu in gpus)))
    return tuple(made)


def least_drivers(matrix: Sequence[MatrixRow]) -> dict[str, str]:
    """Return the least driver that any model needs on each GPU, by the GPU's id."""
    least: dict[str, str] = {}
    for cell in (cell for one in matrix for cell in one.cells):
        if cell.driver is not None:
            least[cell.gpu.id] = min(least.get(cell.gpu.id, cell.driver), cell.driver, key=version_parts)
    return least


def with_driver(matrix: Sequence[MatrixRow], driver: str | None) -> tuple[MatrixRow, ...]:
    """Return the matrix with cells marked that need a newer driver than `driver`, else than the least on that GPU."""
    least = least_drivers(matrix)

    def marked(cell: Cell) -> Cell:
        bound = driver or least.get(cell.gpu.id)
        newer = bound is not None and cell.driver is not None and version_parts(cell.driver) > version_parts(bound)
        return replace(cell, fit=Fit.NEWER_DRIVER) if newer else cell

    return tuple(replace(one, cells=tuple(map(marked, one.cells))) for one in matrix)


# The least driver by GPU, image, and what of a model decides on the image.
_Drivers = dict[tuple[str, str, str | None, str, bool], str | None]


def _cell(whole: PlanRequest, models: Checkpoints, gpu: GpuModel, catalog: Catalog, drivers: _Drivers) -> Cell:
    found = least_number(whole, models, Wish(), catalog, gpu)
    if isinstance(found, Unsuited):
        fit = Fit.NOT_SUPPORTED if found.known else Fit.UNKNOWN
        if found.offer is not None and found.offer.reach.comfortable and not found.offer.reach.sure:
            return Cell(gpu=gpu, fit=Fit.MAY_FIT, count=found.count, offer=found.offer, reason=found.why)
        return Cell(gpu=gpu, fit=fit, reason=found.reason, lack=found.lack)
    fit = Fit.COMPATIBLE if found.count == 1 else Fit.SEVERAL_GPUS
    facts, image = found.offer.facts, found.offer.served.image.version if found.offer.served else ""
    config = facts.config
    key = (gpu.id, image, facts.minimum_engine, config.architecture, config.takes_media)
    if key not in drivers:
        drivers[key] = least_driver(whole, found, Wish(), catalog)
    return Cell(gpu=gpu, fit=fit, count=found.count, offer=found.offer, driver=drivers[key])
