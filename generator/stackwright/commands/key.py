"""`stackwright key`: print the gateway's key for the person who asks."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_out, record_of
from stackwright.commands.paths import find_paths
from stackwright.domain.environment import Environment
from stackwright.project.credentials import read_gateway_key


class KeyArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `key`."""

    environment: Environment
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> KeyArguments:
    """Turn the parsed words into the record."""
    return record_of(KeyArguments, given)


def run(arguments: KeyArguments) -> None:
    """Print the key."""
    report.print_text(read_gateway_key(find_paths(arguments.out).of(arguments.environment).secrets))
