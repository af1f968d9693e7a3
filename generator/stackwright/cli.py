"""From a command line to an exit code: the one place where commands are chosen and failures are shown."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword
from typing import Any, NoReturn, Protocol, cast

from stackwright import __version__, report
from stackwright.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_UNREAD, StackError, UsageError, closest, did_you_mean
from stackwright.interrupts import clean_end

# Each with its one sentence. The module `commands/NAME.py`, with `_` for `-`, declares its arguments and does the work;
# only that of the command that is asked for is ever loaded.
COMMANDS: Mapping[str, str] = {
    "init": "Lay out a project folder, where Stackwright is installed and not cloned.",
    "detect": "Read the host: GPUs, links, processor, memory, container engine.",
    "configure-gpu": (
        "Detect, plan, render and check; writes the files of all three environments, or of the one named."
    ),
    "plan": "Show the plan of one environment (dev unless named); nothing is written.",
    "fit": "Forecast whether a model with these settings fits, or compare a real start with its forecast.",
    "models": "List what a host can serve, best first; compare a model's checkpoints; show which GPUs run which.",
    "recommend": "Name the GPUs that serve a model as wished: how many, the least driver, the image, a dated price.",
    "validate-environment": "Check what was rendered against this machine; all findings at once.",
    "start-environment": (
        "Configure where needed, validate, start, and watch until a completion has come through the gateway."
    ),
    "stop-environment": "Take a stack down; caches and files stay.",
    "rollback": "Put an earlier generation of rendered files back, and bring it up where the stack runs.",
    "status": "Show what runs and how it fares: services, GPUs, models, and what differs from the plan.",
    "logs": "Print what the services have written, and with -f what they write.",
    "restart": "Restart a running stack or one service: let open requests end, and watch until it answers again.",
    "chat": "Talk to a model of a running stack.",
    "bench": "Put load on a running stack, and keep what was measured; list and compare results.",
    "tune": "Search for better settings of a running stack, within a time; keep what is measurably better.",
    "open": "Print the addresses of a stack, and which of them need a key.",
    "gpus": "Draw the GPUs, how they are linked, and what the planner makes of it.",
    "doctor": "Name what is wrong with a stack, or with its last failed start, and how to mend it.",
    "pin-images": (
        "Pull the images of an environment by tag, and write their digests to envs/digests.yaml, which pins them."
    ),
    "facts": "List old and unsure rows of the catalog, and what is newer or known bad of all that is pinned.",
    "key": "Print the gateway's key.",
    "completion": "Print what makes bash, zsh or fish complete commands, environments, models and settings.",
    "import": "Read a hand-written vLLM and LiteLLM setup, and write an environment's wishes from it.",
    "backup": "Save the documents of retrieval, of all keys, in one file.",
    "restore": "Bring back what `backup` has saved; refused where documents are there, unless told to replace them.",
    "keys": "Make, list, rotate and revoke keys for people and programs, and show what was used with them.",
}
# What people type who know other tools (docker compose, kubectl).
SYNONYMS: Mapping[str, str] = {
    "up": "start-environment",
    "run": "start-environment",
    "down": "stop-environment",
    "kill": "stop-environment",
    "ps": "status",
    "top": "status",
    "ls": "status",
    "tail": "logs",
    "benchmark": "bench",
    "optimize": "tune",
    "nvidia-smi": "gpus",
    "topo": "gpus",
}
# What the help calls the value of a flag that names a place on the disk: an empty one would be the working folder.
FILES = ("FILE", "DIR", "LOG")
NEGATIVE = re.compile(r"-[0-9.]+")
# Commands that do nothing but show something: they end where nobody reads it any more. All others go on to their end.
SHOWING = (
    *("detect", "plan", "fit", "models", "recommend", "validate-environment", "status", "logs", "chat", "open"),
    *("gpus", "doctor", "facts", "key", "completion"),
)
# Commands that people type by their own name; the others are `stackwright NAME`.
OWN_ENTRY_POINTS = ("configure-gpu", "start-environment", "stop-environment", "validate-environment")


class Command(Protocol):
    """What a module of `commands/` that is a command has: the record between `read_arguments` and `run` is its own."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""

    def read_arguments(self, given: argparse.Namespace) -> Any:
        """Turn the parsed words into the command's record."""

    def run(self, arguments: Any) -> None:
        """Do it. Raises StackError where it fails."""


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that every mistake is shown in one way."""

    def error(self, message: str) -> NoReturn:
        example = f"for example `{self.prog} dev`; " if message.endswith("required: ENV") else ""
        raise UsageError(message, hint=f"{example}`{self.prog} --help` shows what is allowed")


def main(argv: list[str]) -> int:
    """Run one command and return its exit code. Nothing but an asked-for traceback reaches the person raw."""
    report.begin(argv, only_shows=bool(argv) and argv[0] in SHOWING)
    try:
        with clean_end():
            command, arguments = parse(argv)
            command.run(arguments)
    except StackError as failure:
        return _refuse(failure, argv)
    except KeyboardInterrupt:
        # Interrupted in an `exec`, as libraries run one, Python notes a Ctrl-C that nobody caught, and `python -m`
        # then dies of it whatever is returned here; the next `exec` takes the note back (CPython, run_eval_code_obj).
        exec("")  # noqa: S102  # it runs nothing
        report.tell("interrupted")
        return EXIT_INTERRUPTED
    except report.ReaderGoneError:
        return EXIT_UNREAD
    except Exception as failure:  # the last resort: whatever it is, no traceback unasked
        if "--debug" in argv:
            raise
        if isinstance(failure, OSError) and failure.filename is not None:
            fault = StackError(
                f"{failure.filename}: {failure.strerror}",
                hint="correct that file or folder; the same command with --debug shows what it was needed for",
            )
            return _refuse(fault, argv)
        fault = StackError(
            f"unexpected fault: {type(failure).__name__}: {str(failure)[:200]}",
            hint="run the same command with --debug for a traceback, and report it",
        )
        return _refuse(fault, argv)
    return EXIT_DONE


def _refuse(failure: StackError, argv: list[str]) -> int:
    """Show a failure, as a document too where one was asked for, and return its exit code."""
    report.show_error(failure)
    if "--json" in argv:
        with suppress(StackError, report.ReaderGoneError):  # nobody reads stdout; the words are said
            report.print_error(failure)
    return failure.exit_code


def parse(argv: list[str]) -> tuple[Command, Any]:
    """Return the command and its record. Raises UsageError for anything unknown, naming the closest known word."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    name = argv[0] if argv else ""
    if argv and not name.startswith("-") and name not in COMMANDS:
        begun = next((f"did you mean `{known}`?" for known in COMMANDS if name and known.startswith(name)), None)
        begun = f"did you mean `{SYNONYMS[name]}`?" if name in SYNONYMS else begun
        hint = begun or did_you_mean(name, COMMANDS) or f"commands: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command `{name[:60]}`", hint=hint)
    if name.startswith("-") and name not in ("-h", "--help", "--version"):
        raise UsageError(f"`{name[:60]}` stands before the command", hint="flags come after it: COMMAND FLAG …")
    argv = _with_flags_of_engine(argv)
    parser, subparsers = build_parser(name)
    if name in subparsers:
        _check_words(subparsers[name], argv[1:])
    given, unknown = parser.parse_known_args(argv)
    if "words" in given and not any(word.startswith("-") for word in unknown):
        # argparse takes the words before the first flag alone.
        given.words, unknown = [*given.words, *unknown], []
    if vars(given).get("service", "") is None and len(unknown) == 1 and not unknown[0].startswith("-"):
        given.service, unknown = unknown[0], []
    if unknown:
        prog = subparsers[name].prog
        raise UsageError(f"{prog}: unknown argument `{unknown[0][:60]}`", hint=f"`{prog} --help` shows what is allowed")
    command = load_command(name)
    return command, command.read_arguments(given)


def _with_flags_of_engine(argv: list[str]) -> list[str]:
    """Join `--arg` with a word behind it that is a flag itself, which argparse would take for one of ours."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--arg" and word.startswith("-"):
            joined[-1] = f"--arg={word}"
        else:
            joined.append(word)
    return joined


def load_command(name: str) -> Command:
    """Import the module of a command."""
    # A word of Python's own names no module.
    ending = "_" if iskeyword(name) else ""
    return cast("Command", import_module(f"stackwright.commands.{name.replace('-', '_')}{ending}"))


def build_parser(wanted: str | None = None) -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and that of each command by its name, or of the wanted one alone.

    `wanted`: None for all commands; a word that is none of them has all listed, and none declared.
    """
    parser = _Parser(
        prog="stackwright",
        description="From a bare host to a running, checked LLM service.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 done, 1 unexpected, 2 usage, 3 host unreadable, 4 no plan fits, 5 validation failed,\n"
        "            6 runtime refused, 7 started but not healthy, 130 interrupted, 141 nobody reads on",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    made: dict[str, argparse.ArgumentParser] = {}
    for name, summary in COMMANDS.items():
        if wanted in COMMANDS and name != wanted:
            continue
        prog = name if name in OWN_ENTRY_POINTS else f"stackwright {name}"
        made[name] = commands.add_parser(name, help=summary, description=summary, prog=prog, allow_abbrev=False)
        if wanted in (None, name):
            load_command(name).add_arguments(made[name])
            for leaf in leaves(made[name]):
                leaf.add_argument("--debug", action="store_true", help="show the traceback of an unexpected fault")
    return parser, made


def leaves(parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, ...]:
    """Return the parsers of a command's actions; its own where it has none."""
    return tuple(_actions_of(parser).values()) or (parser,)


def _actions_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    nested = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next((action.choices for action in nested), {})


def _check_words(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Refuse an unknown action and an unknown flag, which argparse would tell otherwise."""
    actions = _actions_of(parser)
    if not actions or not words or words[0].startswith("-"):
        _check_flags(parser, words)
    elif words[0] in actions:
        _check_flags(actions[words[0]], words[1:])
    else:
        hint = did_you_mean(words[0], actions) or f"actions: {', '.join(actions)}"
        raise UsageError(f"{parser.prog}: unknown action `{words[0][:60]}`", hint=hint)


def _names_of_place(action: argparse.Action) -> list[str]:
    """Return what the help calls a word without a flag: `ENV` and `MODE` of `ENV|MODE`; nothing of a flag."""
    return [] if action.option_strings else str(action.metavar or "").split("|")


def _check_flags(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Refuse an unknown flag first: argparse would take its value for the mode, and blame that."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    places = {name.lower() for action in parser._actions for name in _names_of_place(action)}
    files = {flag for action in parser._actions if action.metavar in FILES for flag in action.option_strings}
    for word, before in zip(words, ["", *words], strict=False):
        flag, equals, value = word.partition("=")
        named = before if before in files and not word else flag if flag in files and equals and not value else None
        if named:
            raise UsageError(f"{named}: found ``, allowed: a path", hint=f"name one, or leave out {named}")
        if not word and before not in flags:
            raise UsageError(f"{parser.prog}: found an empty word", hint="leave it out, or write a name there")
        if before in flags and NEGATIVE.fullmatch(word):
            continue  # the flag's own reading says what it allows
        if word.startswith("-") and word != "-" and flag not in flags and word[:2] not in ("-o", "-h"):
            # The dashes, alike in all, would make any two short flags look close.
            names = {flag_word.lstrip("-"): flag_word for flag_word in flags}
            close = closest(flag.lstrip("-"), names)
            hint = f"did you mean `{names[close]}`?" if close else f"`{parser.prog} --help` shows what is allowed"
            if flag.lstrip("-") in places:
                hint = f"write it as a word without a flag: `{parser.prog} {flag.lstrip('-').upper()}`"
            elif "--arg" in flags and not close:
                hint += f"; a flag of the engine goes behind --arg: `--arg={flag[:60]}`"
            raise UsageError(f"{parser.prog}: unknown flag `{flag[:60]}`", hint=hint)
