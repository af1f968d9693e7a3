"""`stackwright detect`: print the host, or write a snapshot of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_json, record_of
from stackwright.detect.host import detect_host


class DetectArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `detect`: the file to write, and how to print."""

    output: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the snapshot to this file")
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> DetectArguments:
    """Turn the parsed words into the record."""
    return record_of(DetectArguments, given)


def run(arguments: DetectArguments) -> None:
    """Print the host, or write a snapshot of it."""
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
