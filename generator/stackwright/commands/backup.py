"""`stackwright backup`: save everything that people have given to retrieval in one file."""

from __future__ import annotations

import argparse
import http.client
import os
import shlex
from pathlib import Path
from typing import IO

from msgspec import Struct

from stackwright import report
from stackwright.commands.archive import BLOCK_BYTES, SERVICE, RetrievalProxy, find_proxy, refusal_of
from stackwright.commands.options import add_environment, add_out, record_of
from stackwright.domain.environment import Environment
from stackwright.errors import RuntimeRefusedError, UsageError, unwritable
from stackwright.units import format_bytes


class BackupArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `backup`."""

    environment: Environment
    file: Path
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("file", metavar="FILE", type=Path, help="the archive to write; it must not be there yet")
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> BackupArguments:
    """Turn the parsed words into the record."""
    return record_of(BackupArguments, given)


def run(arguments: BackupArguments) -> None:
    """Write the archive beside its place, and move it there once it is whole."""
    proxy, file = find_proxy(arguments.environment, arguments.out), arguments.file
    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} is there already", hint="name another file, or move that one away")
    part = file.with_name(f".{file.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as written:
                size = _save(proxy, written)
            os.link(part, file)  # which never replaces a file
        finally:
            part.unlink(missing_ok=True)
    except OSError as failure:
        raise unwritable(file, failure) from None
    environment = arguments.environment.value
    report.tell(f"wrote {file} ({format_bytes(size)}); it holds the documents of all keys, so keep it safe")
    report.tell(f"to bring it back: stackwright restore {environment} {shlex.quote(str(file))}")


def _save(proxy: RetrievalProxy, file: IO[bytes]) -> int:
    """Write the archive to a file and return its size in bytes."""
    size = 0
    with report.Progress() as progress, proxy.ask("GET", "/v1/backup") as answer:
        if answer.status != 200:
            raise RuntimeRefusedError(f"no backup was made: {refusal_of(answer)}")
        while block := answer.read(BLOCK_BYTES):
            size += file.write(block)
            progress.say(SERVICE, f"saved {format_bytes(size)}")
        if answer.length:  # it read as much as there was
            raise http.client.IncompleteRead(b"", answer.length)
    file.flush()
    os.fsync(file.fileno())
    return size
