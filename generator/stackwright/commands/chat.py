"""`stackwright chat`: talk to a model of a running stack, in the terminal or through a pipe."""

from __future__ import annotations

import argparse
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_out, record_of
from stackwright.commands.paths import find_paths
from stackwright.commands.stack import load_stack
from stackwright.domain.environment import Environment
from stackwright.domain.plan import Plan
from stackwright.errors import NotHealthyError, StackError, UsageError, did_you_mean
from stackwright.project.credentials import read_gateway_key
from stackwright.runtime import Stack
from stackwright.watching.conversation import Piece, Turn, stream_chat
from stackwright.watching.probe import endpoint_of

# What a terminal still has to give of a paste, after its first line, comes within this.
PASTE_S = 0.05


class ChatArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `chat`."""

    environment: Environment
    model: str | None = None
    system: str | None = None
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("--model", metavar="NAME", help="a model of the stack (default: its first chat model)")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> ChatArguments:
    """Turn the parsed words into the record."""
    return record_of(ChatArguments, given)


def run(arguments: ChatArguments) -> None:
    """Answer what is read: a line after the other on a terminal, else the whole of stdin at once."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    talk = _Talk(stack, choose_model(stack.plan, arguments.model), arguments.system)
    if not sys.stdin.isatty():
        text = sys.stdin.read().strip()
        if not text:
            raise UsageError(
                "nothing to say: stdin is empty", hint=f"`echo hi | stackwright chat {stack.plan.environment}`"
            )
        talk.answer(text)
        return
    report.tell(f"{talk.model} of {stack.plan.environment}; Ctrl-C stops an answer, Ctrl-D ends")
    for text in _read_lines():
        try:
            talk.answer(text)
        except StackError as failure:  # the next question may be answered
            report.show_error(failure)


def choose_model(plan: Plan, asked: str | None) -> str:
    """Return the name of a model that writes. Raises UsageError for an unknown one, or one that does not."""
    writers = [model for model in plan.models if model.role.generates]
    clouds = [cloud.name for cloud in plan.gateway.cloud]
    names = [name for model in writers for name in (model.name, *model.aliases)] + clouds
    if asked is None:
        if not writers:
            raise UsageError(
                f"{plan.environment} serves no chat model", hint=f"`stackwright status {plan.environment}`"
            )
        return writers[0].name
    if asked in names:
        return asked
    other = next((model for model in plan.models if asked in (model.name, *model.aliases)), None)
    if other is not None:
        raise UsageError(
            f"`{asked}` is for {other.role}, not for chat", hint=f"chat models: {', '.join(names) or 'none'}"
        )
    hint = did_you_mean(asked, names) or f"models: {', '.join(names)}"
    raise UsageError(f"{plan.environment} serves no model `{asked[:80]}`", hint=hint)


class _Talk:
    """One conversation; what was said so far goes with each question."""

    def __init__(self, stack: Stack, model: str, system: str | None) -> None:
        self._stack, self.model = stack, model
        self._turns = [] if system is None else [Turn(role="system", content=system)]

    def answer(self, text: str) -> None:
        """Ask, and show the answer as it comes; Ctrl-C on a terminal stops it, and what was said stays said."""
        asked = [*self._turns, Turn(role="user", content=text)]
        said: list[str] = []
        try:
            for piece in self._stream(asked):
                if not piece.thought:
                    said.append(piece.text)
                _show(piece)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            report.tell("\n(stopped)")
        except StackError:
            if said:
                report.tell("")
            raise
        else:
            report.print_piece("\n")
        self._turns = [*asked, Turn(role="assistant", content="".join(said))]

    def _stream(self, turns: list[Turn]) -> Iterator[Piece]:
        stack = self._stack
        limit_s = float(stack.value(stack.access.answers_within_s))
        try:
            yield from stream_chat(endpoint_of(stack), read_gateway_key(stack.secrets), self.model, turns, limit_s)
        except NotHealthyError as failure:
            hint = failure.hint or f"`stackwright status {stack.plan.environment}` says what runs"
            raise NotHealthyError(failure.message, hint=hint) from None


def _show(piece: Piece) -> None:
    """Print a piece: an answer on stdout, a thought, for a terminal alone, on stderr."""
    if not piece.thought:
        report.print_piece(piece.text)
    elif sys.stderr.isatty():
        report.tell_piece(piece.text)


def _read_lines() -> Iterator[str]:
    """Yield what a person types, several lines that are pasted at once as one; Ctrl-C drops a line, Ctrl-D ends."""
    with suppress(ImportError):
        import readline  # noqa: F401  # `input` then edits lines and takes a paste as a whole
    while True:
        try:
            lines = [input("> ")]
            while select.select([sys.stdin], [], [], PASTE_S)[0]:
                line = sys.stdin.readline()
                if not line:
                    break
                lines.append(line.rstrip("\n"))
        except KeyboardInterrupt:
            report.tell("\n(Ctrl-D ends)")
            continue
        except EOFError:
            report.tell("")
            return
        except UnicodeDecodeError:
            report.tell("(not UTF-8 text: type it again)")
            continue
        text = "\n".join(lines).strip()
        if text:
            yield text
