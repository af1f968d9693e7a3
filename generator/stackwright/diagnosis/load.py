"""Load the packaged rules. Touches only `failures.yaml` beside this module, when it is first needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from stackwright.diagnosis.rules import Rule
from stackwright.errors import StackError
from stackwright.reading import read_yaml

FAILURES = Path(__file__).parent / "failures.yaml"


@cache
def load_rules() -> tuple[Rule, ...]:
    """Read every rule, best first; a damaged file is a fault of the installation, not of the user."""
    return read_yaml(FAILURES, tuple[Rule, ...], StackError, packaged=True)
