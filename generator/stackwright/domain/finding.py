"""What a check found: never an exception, so that all findings are shown together."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace


class Severity(StrEnum):
    """An error stops a start; a warning does not, and a note asks for nothing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(Struct, frozen=True, kw_only=True):
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


def note(check: str, *, found: str, expected: str, fix: str) -> Finding:
    """Make a finding that is shown and stays what it is, also where warnings count as errors."""
    return Finding(check=check, severity=Severity.NOTE, found=found, expected=expected, fix=fix)


def not_checked(what: str, why: str, environment: str) -> Finding:
    """Make the finding of a check that could not look: never silence, which would read as a pass."""
    return warning(
        "not-checked",
        found=f"{what}: not checked: {why}",
        expected="a check before the start",
        fix=f"check again with `validate-environment {environment}`",
    )


def harden(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Make every warning an error."""
    return tuple(
        replace(finding, severity=Severity.ERROR) if finding.severity is Severity.WARNING else finding
        for finding in findings
    )
