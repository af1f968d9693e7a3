"""What a check found: never an exception, so that all findings are shown together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error stops a start; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding. `check` is its stable name; `fix` the next command or edit."""

    check: str
    severity: Severity
    found: str
    expected: str
    fix: str


def error(check: str, *, found: str, expected: str, fix: str) -> Finding:
    """Make a finding that stops a start."""
    return Finding(check=check, severity=Severity.ERROR, found=found, expected=expected, fix=fix)


def warning(check: str, *, found: str, expected: str, fix: str) -> Finding:
    """Make a finding that is shown and does not stop a start."""
    return Finding(check=check, severity=Severity.WARNING, found=found, expected=expected, fix=fix)
