"""docs/reference/compatibility.md says what the planner says of every model on every usual GPU.

`pytest tests/test_compatibility.py --update-golden` writes it again. A thousand plans take long: a part of the rows is
made anew each time, all of them with `--long`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.commands.matrix import find_gpus, mark_of
from stackwright.domain.model_facts import CatalogLlm
from stackwright.planning.matrix import MatrixRow, make_matrix, with_driver
from stackwright.planning.sold_hosts import short_name

from tests.planning_requests import recorded, request, stored_checkpoints
from tests.test_layers import PACKAGE
from tests.test_reference import fill

PAGE = PACKAGE.parents[1] / "docs" / "reference" / "compatibility.md"
# Every so many rows are made anew.
STEP = 9


def matrix_of(rows: Sequence[CatalogLlm], *, whole: bool) -> tuple[MatrixRow, ...]:
    """Ask the planner; which cells need a newer driver than others can be said of the whole alone."""
    catalog = load_catalog()
    made = make_matrix(request(recorded("cpu-small")), rows, find_gpus((), catalog.gpus()), stored_checkpoints, catalog)
    return with_driver(made, None) if whole else made


def page_lines(matrix: Sequence[MatrixRow]) -> Iterator[str]:
    """Yield the page: a row for each model, a column for each usual GPU, and why some go with no number of GPUs."""
    gpus = [cell.gpu for cell in matrix[0].cells]
    yield "# Compatibility"
    yield ""
    yield from fill(
        "After this page you know which models of the catalog run on which GPUs, and on how many. The page is made from"
        " the planner's answers for `prod`, with the newest driver, GPUs that nothing else uses, and no NVLink bridge."
        " `stackwright models --matrix --gpu NAME` shows other GPUs, `stackwright recommend --model NAME` the GPUs for"
        " one model with longer or more requests."
    )
    yield ""
    yield "- 1, 2, 4, 8: the least number of GPUs that serves requests of 8,192 tokens, or of the model's own"
    yield "  length, in the most precise weights of the catalog that fit there. *least driver*: for most models."
    yield "- ^: it needs a newer driver than that. ?: it may fit; its memory cannot be forecast."
    yield "- –: 8 of them have too little memory. x: not supported, whatever their number; the reasons are below."
    yield ""
    yield f"| model | {' | '.join(short_name(gpu) for gpu in gpus)} |"
    yield f"|---|{'---|' * len(gpus)}"
    yield f"| *least driver* | {' | '.join(least_drivers(matrix))} |"
    yield from map(row_line, matrix)
    yield ""
    yield "## Not supported"
    yield ""
    for one in matrix:
        refused = [cell for cell in one.cells if mark_of(cell) == "x"]
        if refused:
            names = ", ".join(short_name(cell.gpu) for cell in refused)
            yield from fill(f"- `{one.row.name}` on {names}: {refused[0].reason}")


def row_line(one: MatrixRow) -> str:
    """Write the row of one model."""
    return f"| `{one.row.name}` | {' | '.join(map(mark_of, one.cells))} |"


def least_drivers(matrix: Sequence[MatrixRow]) -> Iterator[str]:
    """Yield the least driver of each column."""
    for at in range(len(matrix[0].cells)):
        drivers = [driver for one in matrix if (driver := one.cells[at].driver) is not None]
        yield f"≥ {min(drivers, key=lambda text: [int(part) for part in text.split('.')])}" if drivers else ""


def test_a_part_of_the_page_is_what_the_planner_says(update_golden: bool) -> None:
    llms = load_catalog().llms()
    if update_golden:
        PAGE.write_text("\n".join(page_lines(matrix_of(llms, whole=True))) + "\n", encoding="utf-8")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line.split("`")[1] for line in lines if line.startswith("| `")] == [row.name for row in llms]
    made = [row_line(one) for one in matrix_of(llms[::STEP], whole=False)]
    assert [line for line in made if line not in [line.replace("^", "") for line in lines]] == []


@pytest.mark.long
def test_the_page_is_what_the_planner_says() -> None:
    lines = page_lines(matrix_of(load_catalog().llms(), whole=True))
    assert PAGE.read_text(encoding="utf-8") == "\n".join(lines) + "\n"
