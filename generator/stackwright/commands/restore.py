"""`stackwright restore`: bring back what `stackwright backup` has saved."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import IO

from msgspec import Struct

from stackwright import report
from stackwright.commands.archive import RetrievalProxy, find_proxy, refusal_of
from stackwright.commands.options import add_environment, add_out, record_of
from stackwright.domain.environment import Environment
from stackwright.errors import RuntimeRefusedError, UsageError


class RestoreArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `restore`."""

    environment: Environment
    file: Path
    overwrite: bool = False
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="an archive that `stackwright backup` has written")
    parser.add_argument("--overwrite", action="store_true", help="replace the documents that are there, of all keys")
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> RestoreArguments:
    """Turn the parsed words into the record."""
    return record_of(RestoreArguments, given)


def run(arguments: RestoreArguments) -> None:
    """Send the archive, which takes the place of what is there once all of it is in."""
    proxy, path = find_proxy(arguments.environment, arguments.out), "/v1/restore"
    path += "?overwrite=true" if arguments.overwrite else ""
    with _open(arguments.file) as file:
        if not arguments.overwrite:
            _require_nothing(proxy, path, arguments)
        with proxy.ask("POST", path, file) as answer:
            if answer.status != 200:
                raise RuntimeRefusedError(f"nothing was restored, and nothing has changed: {refusal_of(answer)}")
            told = json.loads(answer.read())
    lost = f"; {told['lost']} had been deleted while it was saved" if told["lost"] else ""
    report.tell(f"restored {told['collections']} collections with {told['documents']} documents{lost}")


def _open(file: Path) -> IO[bytes]:
    try:
        return file.open("rb")
    except OSError as failure:
        raise UsageError(
            f"{file}: cannot be read: {failure.strerror}", hint="name a file of `stackwright backup`"
        ) from None


def _require_nothing(proxy: RetrievalProxy, path: str, arguments: RestoreArguments) -> None:
    """Refuse before anything is sent where documents are there."""
    with proxy.ask("POST", path) as answer:
        if answer.status == 409:
            again = f"stackwright restore {arguments.environment.value} {shlex.quote(str(arguments.file))}"
            raise UsageError(refusal_of(answer), hint=f"to replace them all: `{again} --overwrite`")
