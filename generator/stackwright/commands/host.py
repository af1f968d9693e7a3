"""The host that a command is for: this machine, or a snapshot of one.

Light on purpose: `docker info` is asked before the planner is even imported, and makes up its answer meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from stackwright import report
from stackwright.detect import detect_host
from stackwright.domain.host import Host


def get_host(snapshot: Path | None) -> Host:
    """Return the host of a snapshot, else this machine, with its warnings shown."""
    if snapshot is not None:
        from stackwright.detect.snapshot import read_snapshot

        return read_snapshot(snapshot)
    found = detect_host(meanwhile=_load_planner)
    report.warn_all(found.warnings)
    return found.host


def _load_planner() -> None:
    """Load what every plan and its files take: nearly half of a short command's time."""
    from stackwright.catalog.load import load_catalog
    from stackwright.commands import configure  # noqa: F401  # imported for what it imports
    from stackwright.rendering import load_templates

    load_catalog()
    load_templates()
