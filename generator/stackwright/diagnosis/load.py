"""Load the packaged rules.

Touches only `failures.yaml` beside this module and those of the engines, when first needed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from stackwright.diagnosis.rules import EvidenceKind, Rule
from stackwright.engines import ENGINES
from stackwright.errors import StackError
from stackwright.reading import read_yaml

FAILURES = Path(__file__).parent / "failures.yaml"


def load_rules() -> tuple[Rule, ...]:
    """Return every rule, best first: the rules of all engines before those of what only a service's state tells."""
    rules = _read(FAILURES)
    last = next((position for position, rule in enumerate(rules) if rule.where == (EvidenceKind.STATE,)), len(rules))
    files = tuple(engine.failures for engine in ENGINES.values() if engine.failures is not None)
    return (*rules[:last], *(rule for file in files for rule in _read(file)), *rules[last:])


@cache
def _read(file: Path) -> tuple[Rule, ...]:
    """Read the rules of a file; a damaged one is a fault of the installation, not of the user."""
    return read_yaml(file, tuple[Rule, ...], StackError, packaged=True)
