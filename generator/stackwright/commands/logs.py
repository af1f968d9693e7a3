"""`stackwright logs`: what services have written, and what they write, without secrets."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_out, add_runtime, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.running import reach_running, require_service
from stackwright.commands.stack import load_stack
from stackwright.diagnosis.redaction import Redaction, make_redaction, secret_variables
from stackwright.domain.environment import Environment
from stackwright.errors import UsageError
from stackwright.runtime import LogRequest, Stack
from stackwright.validation.files import text_of

DEFAULT_TAIL = 100
_AGE = re.compile(r"([0-9]{1,6})(s|m|h|d)")
# Programs colour their words even where they write to a file (ECMA-48, SGR).
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class LogsArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `logs`. `tail`: lines of each service; None: all of them, or the default without `since_s`."""

    environment: Environment
    service: str | None = None
    follow: bool = False
    since_s: int | None = None
    tail: str | None = None
    as_json: bool = False
    runtime: str = "auto"
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("service", nargs="?", metavar="SERVICE", help="one service (default: all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written, until Ctrl-C")
    parser.add_argument(
        "--since", dest="since_s", type=_age, metavar="AGE", help="what is younger, for example 90s, 10m, 2h or 1d"
    )
    parser.add_argument(
        "--tail",
        type=_tail,
        metavar="N",
        help=f"the last N lines of each service, or `all` (default: {DEFAULT_TAIL}; all with --since)",
    )
    parser.add_argument(
        "--json",
        dest="as_json",
        action="store_true",
        help="one JSON object a line: service, at (when it was written, in UTC; null where unknown) and line",
    )
    for add in (add_runtime, add_out):
        add(parser)


def _age(text: str) -> int:
    found = _AGE.fullmatch(text)
    if found is None:
        raise UsageError(f"--since: found `{text[:40]}`, allowed: a number and s, m, h or d", hint="for example `10m`")
    return int(found[1]) * _SECONDS[found[2]]


def _tail(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UsageError(f"--tail: found `{text[:40]}`, allowed: a number of lines, or all", hint="for example `200`")
    return text


def read_arguments(given: argparse.Namespace) -> LogsArguments:
    """Turn the parsed words into the record."""
    return record_of(LogsArguments, given)


def run(arguments: LogsArguments) -> None:
    """Print the lines of logs on stdout, each after its service's name where there are several."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    if arguments.service is not None:
        require_service(stack, arguments.service)
    names = tuple(service.name for service in stack.services)
    request = LogRequest(
        services=names if arguments.service is None else (arguments.service,),
        tail=_lines(arguments),
        since_s=arguments.since_s,
        follow=arguments.follow,
        times=arguments.as_json,
    )
    runtime, redaction = reach_running(stack, arguments.runtime), redaction_of(stack)
    width = max(map(len, request.services)) if len(request.services) > 1 else 0
    count = 0
    try:
        for service, line, at in runtime.read_logs(request):
            count += 1
            shown = report.on_one_line(redaction.apply(_COLOURS.sub("", line)))
            if arguments.as_json:
                report.print_text(json.dumps({"service": service, "at": at, "line": shown}, ensure_ascii=False))
            else:
                report.print_text(f"{service:<{width}} | {shown}" if width else shown)
    except KeyboardInterrupt:
        if not arguments.follow:
            raise
        return
    if not count:
        report.tell(f"{stack.plan.environment}: no lines; `stackwright status {stack.plan.environment}` says what runs")


def _lines(arguments: LogsArguments) -> int | None:
    if arguments.tail is None:
        return DEFAULT_TAIL if arguments.since_s is None else None
    return None if arguments.tail == "all" else int(arguments.tail)


def redaction_of(stack: Stack) -> Redaction:
    """Prepare to take the stack's secrets out of a text; names and folders of this machine's person stay."""
    return make_redaction([*_secrets(stack), *secret_variables(os.environ)], home="", user="", machine="")


def _secrets(stack: Stack) -> Iterator[str]:
    for path in stack.secrets.rglob("*"):
        if path.is_file() and (text := text_of(path)):
            yield text
