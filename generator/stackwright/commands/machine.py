"""The host that a command is for: this machine, or a snapshot of one; and `detect`, which shows it.

Light on purpose: `docker info` is asked before the planner is even imported, and makes up its answer meanwhile.
"""

from __future__ import annotations

from stackwright import report
from stackwright.commands.arguments import Arguments
from stackwright.detect import detect_host
from stackwright.domain.host import Host


def detect(arguments: Arguments) -> None:
    """`stackwright detect`: print the host, or write a snapshot of it."""
    from stackwright.detect.snapshot import format_snapshot, write_snapshot

    found = detect_host()
    report.warn_all(found.warnings)
    if arguments.output is not None:
        write_snapshot(found.host, arguments.output)
        report.tell(f"wrote {arguments.output}")
    if arguments.json:
        report.print_json(found.host)
    elif arguments.output is None:
        report.print_text(format_snapshot(found.host))


def get_host(arguments: Arguments) -> Host:
    """Return the host of `--host`, else this machine, with its warnings shown."""
    if arguments.host is not None:
        from stackwright.detect.snapshot import read_snapshot

        return read_snapshot(arguments.host)
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
