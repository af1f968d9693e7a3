"""What holds of the package as a whole: no circles of imports, no class name twice, and no record or function too wide.

Counted by benchmarks/structure.py, which prints the same numbers for any tree.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.structure import Structure, measure
from tests.test_layers import PACKAGE

# More than 6 parameters, each with the reason.
WIDE_FUNCTIONS: Mapping[str, str] = {
    "planning/llm_choice.py: choose_llm": "what bounds the choice of a model, by name",
}
# More than 12 fields, each with the reason.
WIDE_RECORDS: Mapping[str, str] = {
    "domain/choices.py: Choices": "everything that is remembered of a command line",
    "domain/forecast.py: EngineSettings": "the engine's flags that decide on memory",
    "domain/hardware.py: GpuModel": "one row of catalog/gpus.yaml",
    "domain/model_facts.py: CatalogLlm": "one row of catalog/llms.yaml",
    "domain/model_facts.py: ModelFacts": "what is known of a model before a plan",
    "diagnosis/rules.py: Rule": "one row of a failures.yaml",
    "domain/catalog.py: Catalog": "the files that a plan is made from, each read when it is asked for",
    "domain/plan.py: ServedModel": "everything that is decided for one model, as a plan's file shows it",
    "domain/plan.py: Memory": "the parts of a forecast, which a plan's file shows one by one",
    "domain/service.py: Service": "everything that a runtime has to know of one thing that runs",
    "domain/shape.py: Shape": "a model's config.json, parsed once",
    "engines/protocol.py: EngineKeys": "the names of an engine's settings that others ask for",
    "engines/protocol.py: EngineMetrics": "the names of an engine's figures, by what they mean",
    "commands/options.py: PlanOptions": "everything that a command line says of a plan",
    "planning/request.py: WantedModel": "what is asked for and known of one model before a plan",
    "planning/request.py: PlanRequest": "everything that a plan is made from",
}


@pytest.fixture(scope="module")
def structure() -> Structure:
    """Count once."""
    return measure(PACKAGE)


def names(counted: tuple[str, ...]) -> set[str]:
    """Leave out the numbers: `layout.py: _try (8)` is `layout.py: _try`."""
    return {each.rpartition(" (")[0] for each in counted}


def test_no_imports_go_in_circles(structure: Structure) -> None:
    """Those inside functions and for type checkers alone included."""
    assert structure.import_circles == ()


def test_no_class_name_is_used_twice(structure: Structure) -> None:
    assert structure.class_names_used_twice == {}


def test_no_function_takes_more_than_a_reader_keeps_apart(structure: Structure) -> None:
    assert names(structure.functions_with_many_parameters) - set(WIDE_FUNCTIONS) == set()


def test_no_record_holds_more_than_one_thing(structure: Structure) -> None:
    assert names(structure.records_with_many_fields) - set(WIDE_RECORDS) == set()
