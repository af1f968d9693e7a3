"""Words for people on stderr, results on stdout. The only room that prints."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from msgspec.structs import replace

from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding, Severity
from stackwright.errors import StackError, UsageError, unwritable
from stackwright.reading import to_plain
from stackwright.units import format_seconds

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

    from stackwright.diagnosis.pasted import LogJudgement
    from stackwright.diagnosis.rules import Diagnosis
    from stackwright.domain.plan import Plan
    from stackwright.domain.running import StackStatus
    from stackwright.project.write import FileChange
    from stackwright.rendering.sheet import Sheet
    from stackwright.rendering.summary import NextStep, Span
    from stackwright.rendering.table import Column

# What is taken for the width where the output is no terminal.
UNKNOWN_WIDTH = 100
_MOST_LINES = 16
POPULAR_SETTINGS = "docs/explanation/popular-settings.md"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ReaderGoneError(Exception):
    """Nobody reads stdout any more (`… | head`), and the command does nothing but write there."""


class _Screen:
    """What holds for the one command of this process.

    Its words, whether its document is printed, and whether there is nothing left to do once nobody reads stdout.
    """

    def __init__(self) -> None:
        self.argv: Sequence[str] = ()
        self.has_document = False
        self.only_shows = False


_screen = _Screen()


def begin(argv: Sequence[str], *, only_shows: bool = False) -> None:
    """Begin a command with its words, which say how its messages are to name others.

    One that `only_shows` ends with ReaderGoneError where nobody reads stdout any more. All others go on to their end,
    and what they say is dropped, as with `nohup`: half a start would be left behind.
    """
    _screen.argv, _screen.has_document, _screen.only_shows = argv, False, only_shows


def _write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Write at once. Where the reader has gone, this and all that follows is dropped."""
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        # In its place, what Python holds back for it and writes at its end goes nowhere either.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        if stream is sys.stdout and _screen.only_shows:
            raise ReaderGoneError from None


def pasteable(text: str) -> str:
    """Return a message with each command in it as it can be pasted here."""
    if "`" not in text:
        return text
    from stackwright.project.pasting import Pasting

    try:
        working = Path.cwd()
    except OSError:  # it has been deleted
        working = Path("/")
    return Pasting.of(_screen.argv, working).in_text(text)


def tell(text: str) -> None:
    """Print one line on stderr, with commands in it as they can be pasted."""
    _say(pasteable(text))


def _say(text: str) -> None:
    """Print one line on stderr as it is: what a person typed is quoted letter by letter."""
    _write(text, sys.stderr)


def tell_first(lines: Iterable[str], elsewhere: str = "") -> None:
    """Say the first of some lines and, of more than can be taken in at once, how many; `elsewhere` shows all."""
    shown = tuple(lines)
    for line in shown[:_MOST_LINES]:
        tell(line)
    if len(shown) > _MOST_LINES:
        tell(f"and {len(shown) - _MOST_LINES} more" + (f": {elsewhere}" if elsewhere else ""))


def warn(text: str) -> None:
    """Print one warning on stderr."""
    tell(f"warning: {on_one_line(_masked(text))}")


def warn_all(texts: Iterable[str]) -> None:
    """Print several warnings on stderr."""
    for text in texts:
        warn(text)


def show_error(failure: StackError) -> None:
    """Print what failed and, after it, what to do next."""
    _say(f"error: {on_one_line(_masked(failure.message))}")
    if failure.hint:
        tell(f"hint: {on_one_line(_masked(failure.hint))}")


def _masked(text: str) -> str:
    """Return a message without the keys that it quotes: loaded here, as most commands fail at nothing."""
    from stackwright.diagnosis.redaction import mask

    return mask(text)


def print_error(failure: StackError) -> None:
    """Print a failure as the one JSON document of a command that prints one, unless it has printed it already."""
    if _screen.has_document:
        return
    hint = None if failure.hint is None else pasteable(_masked(failure.hint))
    print_json({"error": {"message": _masked(failure.message), "hint": hint, "exit_code": failure.exit_code}})


def on_one_line(text: str) -> str:
    """Write control characters as escapes: what is quoted was typed or read, and may end lines or steer a terminal.

    Surrogates too, which stand for bytes that are not UTF-8.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


_ELSEWHERE = "let it go to a terminal, or to a file on a disk with room: `… > FILE`"


def print_text(text: str) -> None:
    """Print a result; what the output's encoding lacks is written as an escape.

    Raises:
        UsageError: stdout is closed, or takes no more.
        ReaderGoneError: nobody reads it any more, and the command only shows.
    """
    if sys.stdout is None:
        raise UsageError("the output cannot be written: stdout is closed", hint=_ELSEWHERE)
    encoding = sys.stdout.encoding or "utf-8"
    written = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        _write(written, sys.stdout, "" if written.endswith("\n") else "\n")
    except OSError as failure:
        sys.stdout = None  # or Python would try again at its end, and report that too
        raise UsageError(f"the output cannot be written: {failure.strerror}", hint=_ELSEWHERE) from None


def print_piece(text: str) -> None:
    """Print a part of a text that goes on, as it comes; a model's words steer no terminal."""
    if sys.stdout is None:
        raise UsageError("the output cannot be written: stdout is closed", hint=_ELSEWHERE)
    encoding = sys.stdout.encoding or "utf-8"
    shown = _in_lines(text).encode(encoding, "backslashreplace").decode(encoding)
    _write(shown, sys.stdout, "")


def tell_piece(text: str) -> None:
    """Print a part of a text that goes on, on stderr."""
    _write(_in_lines(text), sys.stderr, "")


def _in_lines(text: str) -> str:
    """Write control characters as escapes, but those that lay a text out."""
    return "".join(part if part in ("\n", "\t") else on_one_line(part) for part in re.split(r"([\n\t])", text))


def print_json(value: object) -> None:
    """Print one JSON document."""
    _screen.has_document = True
    print_text(format_json(value))


def pasteable_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings whose fixes can be pasted here, and which quote no key."""
    return [replace(one, found=_masked(one.found), fix=pasteable(one.fix)) for one in findings]


def format_json(value: object) -> str:
    """Write a JSON document, in ASCII, so that it is the same in every encoding."""
    return json.dumps(to_plain(value), indent=2)


def print_configured(
    plans: Mapping[Environment, Plan], changes: tuple[FileChange, ...], findings: list[Finding]
) -> None:
    """Print what `configure-gpu --json` promises: plans, files and findings."""
    from stackwright.rendering.plan_document import plan_document

    files = [{"path": str(change.file.path), "status": change.status} for change in changes]
    print_json(
        {
            "plans": {environment.value: plan_document(plan) for environment, plan in plans.items()},
            "files": files,
            "findings": pasteable_findings(findings),
        }
    )


def print_summaries(pictured: Sequence[tuple[Plan, NextStep]]) -> None:
    """Print each plan in a few lines on stdout, as its result."""
    for line in _draw(pictured, sys.stdout):
        print_text(line)


def show_summaries(pictured: Sequence[tuple[Plan, NextStep]]) -> None:
    """Print each plan in a few lines on stderr."""
    for line in _draw(pictured, sys.stderr):
        tell(line)


def _draw(pictured: Sequence[tuple[Plan, NextStep]], stream: TextIO | None) -> Iterator[str]:
    """Yield the lines for a stream: as wide as its terminal, with its letters and, where it shows them, colours."""
    from stackwright.rendering import summary
    from stackwright.rendering.sheet import ASCII, UNICODE

    glyphs = UNICODE if _can_write(UNICODE.all, stream) else ASCII
    canvas = summary.Canvas(width=_width(), indent=summary.indent_of(plan for plan, _ in pictured), glyphs=glyphs)
    coloured = _shows_colours(stream)
    for plan, next_step in pictured:
        for line in summary.summarize_plan(plan, canvas, next_step):
            yield "".join(_paint(span, coloured=coloured) for span in line).rstrip()


def _width() -> int:
    """Return the columns of the terminal, or what stands for them (shutil: COLUMNS, then stdout's terminal)."""
    return shutil.get_terminal_size(fallback=(UNKNOWN_WIDTH, 24)).columns


def _can_write(text: str, stream: TextIO | None) -> bool:
    """Return whether the encoding of a stream has these characters."""
    try:
        text.encode((stream and stream.encoding) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shows_colours(stream: TextIO | None) -> bool:
    """Return whether colours are wanted (https://no-color.org) and a stream shows them."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream is not None and stream.isatty()


# ECMA-48's colours of the foreground, which every terminal lets its user choose.
_COLOURS = {"name": "1", "weights": "34", "cache": "32", "overhead": "35", "others": "33", "free": "2", "doubt": "33"}


def _paint(span: Span, *, coloured: bool) -> str:
    code, text = _COLOURS.get(span.tone.value), on_one_line(span.text)
    return f"\x1b[{code}m{text}\x1b[0m" if coloured and code else text


def print_settings(plans: Sequence[Plan]) -> None:
    """Print every setting as its file has it, by section."""
    from stackwright.rendering.reasons import list_settings

    for plan in plans:
        print_text("\n".join(map(on_one_line, list_settings(plan))))


def print_reasons(plans: Sequence[Plan]) -> None:
    """Print why each setting has its value; what holds in several environments once."""
    from stackwright.rendering.reasons import list_reasons

    print_text("\n".join(map(on_one_line, list_reasons(plans, _width()))))
    print_text(f"claims of popular guides, and the facts: {POPULAR_SETTINGS}")


def show_changes(changes: tuple[FileChange, ...], *, dry_run: bool, diff: bool) -> None:
    """Print what was, or would be, written, a line for each environment; the differences themselves go to stdout."""
    from stackwright.project.write import FileStatus, list_paths

    words = {FileStatus.NEW: "write", FileStatus.CHANGED: "change"}
    for status, word in words.items():
        for paths in list_paths(change.file.path for change in changes if change.status is status):
            tell(f"{'would ' if dry_run else ''}{word} {paths}")
    if all(change.status is FileStatus.UNCHANGED for change in changes):
        tell("nothing to change")
    differences = "".join(change.diff() for change in changes if not change.for_programs) if diff else ""
    if differences:
        print_text(differences)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Print a table as wide as the terminal is, and return the titles of the columns that found no room.

    Where the output is no terminal and COLUMNS gives no width, it is whole.
    """
    from stackwright.rendering.table import lay_out

    lines, left_out = lay_out(columns, rows, _table_width())
    print_text("\n".join(on_one_line(line) for line in lines))
    return left_out


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, broken between words where the terminal is narrower; what is broken off is indented."""
    import textwrap

    for line in lines:
        broken = textwrap.wrap(on_one_line(line), _table_width(), subsequent_indent="  ", break_on_hyphens=False)
        print_text("\n".join(broken))


def _table_width() -> int:
    """Return the terminal's width; where there is none, and COLUMNS says nothing, one that cuts nothing."""
    return max(20, shutil.get_terminal_size(fallback=(10_000, 24)).columns)


def show_findings(findings: Iterable[Finding]) -> None:
    """Print every finding: what was found, what was expected, what to do."""
    for finding in findings:
        said = f"{finding.check}: {finding.found}; expected {finding.expected}"
        _say(f"{finding.severity}: {on_one_line(_masked(said))}")
        tell(f"  fix: {on_one_line(finding.fix)}")


def print_failures(name: str, failures: Iterable[tuple[str, Diagnosis]]) -> None:
    """Print each failure that was named, by the service that it befell: the cause, the line that told it, the fix."""
    for service, diagnosis in failures:
        what = f"{name}: {service}: {diagnosis.cause} [{diagnosis.rule}]"
        _print_failure(what, diagnosis.line, diagnosis.fix, diagnosis.source)


def print_judgement(judgement: LogJudgement) -> None:
    """Print what a log tells: the cause, the line that told it and the fix; where no rule knows it, its first error."""
    if judgement.fix is None or judgement.source is None:
        print_text(on_one_line(judgement.cause))
    else:
        _print_failure(f"{judgement.cause} [{judgement.rule}]", judgement.lines[0], judgement.fix, judgement.source)


def _print_failure(what: str, line: str, fix: str, source: str) -> None:
    for text in (what, f"  said: {line}", f"  fix: {pasteable(fix)}", f"  see: {source}"):
        print_text(on_one_line(text))


def show_notes(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print a table of what was read: the place, what became of it, and what it is."""
    whole = [tuple(on_one_line(cell) for cell in row) for row in rows]
    places, fates = (max((len(row[column]) for row in whole), default=0) for column in (0, 1))
    for place, fate, said in whole:
        tell(f"{place:<{places}}  {fate:<{fates}}  {said}")


def count_errors(findings: Iterable[Finding]) -> int:
    """Count the findings that stop a start."""
    return sum(1 for finding in findings if finding.severity is Severity.ERROR)


def print_status(status: StackStatus) -> None:
    """Print the page of a running stack."""
    print_text("\n".join(_page(status)))


def watch_status(statuses: Iterable[StackStatus]) -> None:
    """Show one page after another: in place on a terminal, else one below the other, an empty line between two."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        for number, status in enumerate(statuses):
            print_text(("\n" if number else "") + "\n".join(_page(status)))
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    last: list[str] = []
    # On the terminal's second screen, which no change of its size garbles; what was seen last stays on the first.
    with Live(console=Console(), auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        try:
            for status in statuses:
                last = _page(status)
                clock = f"{time.strftime('%H:%M:%S')}   Ctrl-C ends"
                shown = cut_lines([clock, *last], shutil.get_terminal_size().lines)
                live.update(Text("\n".join(shown), no_wrap=True), refresh=True)
        except KeyboardInterrupt:
            pass
    print_text("\n".join(last))


def cut_lines(lines: list[str], rows: int) -> list[str]:
    """Return what of a page a terminal has rows for; its last one says how much is left out."""
    left_out = len(lines) - rows + 1
    return lines if left_out < 2 else [*lines[: rows - 1], f"{left_out} more lines: make the window higher"]


def print_json_line(value: object) -> None:
    """Print one JSON document on one line: several may follow each other."""
    print_text(json.dumps(to_plain(value)))


def _page(status: StackStatus) -> list[str]:
    from stackwright.rendering.status_page import status_page

    return [on_one_line(line) for line in status_page(status, sheet())]


def sheet() -> Sheet:
    """Return what stdout can show: its columns, and whether it takes more than ASCII."""
    from stackwright.rendering.sheet import LEAST_WIDTH, UNICODE, Sheet

    return Sheet(width=max(_width(), LEAST_WIDTH), ascii=not _can_write(f"{UNICODE.all}╔╦╗║└┴┘│…°", sys.stdout))


class Headline:
    """What goes on, in one line: rewritten on a terminal; elsewhere a line for each step, without its details."""

    def __init__(self) -> None:
        """Begin with no line, on what is stderr now."""
        self._stream = sys.stderr
        self._moves = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._step = ""

    def step(self, text: str) -> None:
        """Say what is done now."""
        self._step = text
        if self._moves:
            self._show(text)
        else:
            self.stay(text)

    def detail(self, text: str) -> None:
        """Say a word on it, where the line moves."""
        if self._moves:
            self._show(f"{self._step}: {text}")

    def stay(self, text: str) -> None:
        """Leave a line above."""
        self.clear()
        _write(pasteable(on_one_line(text)), self._stream)

    def clear(self) -> None:
        """Take the moving line away."""
        if self._moves:
            _write("\r\x1b[2K", self._stream, "")

    def _show(self, text: str) -> None:
        _write(f"\r\x1b[2K{on_one_line(text)[: _width() - 1]}", self._stream, "")


class _Written(io.TextIOBase):
    """Takes what is told, as lines."""

    def __init__(self, file: TextIO, say: Callable[[str], None]) -> None:
        self._file, self._say, self._line = file, say, ""

    def write(self, text: str) -> int:
        """Write on, and say each line that is whole."""
        self._file.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        self._file.flush()


@contextmanager
def aside(log: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have what is told meanwhile stand in a file, and each line of it `say`-ed. Raises UsageError."""
    try:
        file = log.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as failure:
        raise unwritable(log, failure) from None
    with file, redirect_stderr(_Written(file, say)):
        yield


class Progress:
    """One line per service: in place on a terminal, one line per change elsewhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no line. `clock` tells seconds, from any zero."""
        self._clock = clock
        self._lines: dict[str, tuple[str, float]] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            # rich reads NO_COLOR itself; what a line says never depends on its colour.
            self._live = Live(get_renderable=self._table, console=Console(stderr=True), refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, value, trace)

    def say(self, service: str, text: str) -> None:
        """Show what a service does now; the same words again only let its clock run on."""
        before = self._lines.get(service)
        if before is not None and before[0] == text:
            return
        self._lines[service] = (text, self._clock() if before is None else before[1])
        if self._live is None:
            elapsed = "" if before is None else f" ({format_seconds(self._clock() - before[1])})"
            tell(f"{service}: {on_one_line(text)}{elapsed}")

    def _table(self) -> Text:
        """Return the lines as plain text: rich would take brackets in a string for its own markup."""
        from rich.text import Text

        width = max((len(name) for name in self._lines), default=0)
        now = self._clock()
        return Text(
            "\n".join(
                f"{name:<{width}}  {on_one_line(text)}  {format_seconds(now - since)}"
                for name, (text, since) in self._lines.items()
            )
        )
