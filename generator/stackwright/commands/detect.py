"""`stackwright detect`: print the host, or write a snapshot of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_json, record_of
from stackwright.detect.host import detect_host
from stackwright.errors import HostError, UsageError


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

    if arguments.output is not None:
        _refuse_to_overwrite(arguments.output)
    found = detect_host()
    report.warn_all(found.warnings)
    if arguments.output is not None:
        write_snapshot(found.host, arguments.output)
        report.tell(f"wrote {arguments.output}")
    if arguments.json:
        report.print_json(found.host)
    elif arguments.output is None:
        report.print_text(format_snapshot(found.host))


def _refuse_to_overwrite(target: Path) -> None:
    """Raise UsageError where a file that is no snapshot of a host would be lost; an empty one holds nothing."""
    from stackwright.detect.snapshot import read_snapshot

    try:
        if target.is_file() and target.stat().st_size:
            read_snapshot(target)
    except OSError:
        return  # the writing says what is wrong
    except HostError:
        raise UsageError(
            f"--output: {target} is there already, and is no snapshot of a host", hint="name another file"
        ) from None
