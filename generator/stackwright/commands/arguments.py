"""The command line, parsed once into a frozen value. Touches nothing but argv."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from stackwright import __version__
from stackwright.commands.fit_flags import FitArguments, add_fit_arguments
from stackwright.domain.environment import WRITTEN_OUT, Environment
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.errors import UsageError, closest, did_you_mean
from stackwright.settings import parse_pin

ENVIRONMENTS = (*(each.value for each in Environment), *WRITTEN_OUT)
MODES = ("auto", *(mode.value for mode in Mode))
RUNTIMES = ("auto", "compose", "processes")
# Commands that people type by their own name; the others are `stackwright NAME`.
OWN_ENTRY_POINTS = ("configure-gpu", "start-environment", "stop-environment", "validate-environment")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """One parsed command line. What a command does not take keeps its default."""

    command: str
    environment: Environment | None = None
    mode: Mode | None = None
    models: tuple[str, ...] = ()
    objective: Objective | None = None
    engine: str | None = None
    allow_vulnerable: bool = False
    host: Path | None = None
    pins: tuple[tuple[str, str], ...] = ()
    runtime: str = "auto"
    out: Path | None = None
    output: Path | None = None
    dry_run: bool = False
    diff: bool = False
    json: bool = False
    explain: bool = False
    debug: bool = False
    timeout_s: float | None = None
    no_rollback: bool = False
    strict: bool = False
    to: int | None = None
    bundle: Path | None = None
    apply: bool = False
    fit: FitArguments | None = None

    @property
    def plans(self) -> bool:
        """Whether the person said anything that a plan is made from."""
        return any((self.models, self.host, self.pins, self.mode, self.objective, self.engine, self.allow_vulnerable))


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, so that every mistake is shown in one way."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` shows what is allowed")


def parse_arguments(argv: list[str]) -> Arguments:
    """Parse `argv`. Raises UsageError for anything unknown, naming the closest known word."""
    parser, subparsers = build_parser()
    if argv and not argv[0].startswith("-") and argv[0] not in subparsers:
        begun = next((f"did you mean `{name}`?" for name in subparsers if argv[0] and name.startswith(argv[0])), None)
        hint = begun or did_you_mean(argv[0], subparsers) or f"commands: {', '.join(subparsers)}"
        raise UsageError(f"unknown command `{argv[0][:60]}`", hint=hint)
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
        raise UsageError(f"`{argv[0][:60]}` stands before the command", hint="flags come after it: COMMAND FLAG …")
    if argv and argv[0] in subparsers:
        _check_flags(subparsers[argv[0]], argv[1:])
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        prog = subparsers[namespace.command].prog
        raise UsageError(f"{prog}: unknown argument `{unknown[0][:60]}`", hint=f"`{prog} --help` shows what is allowed")
    values = vars(namespace)
    if namespace.command == "fit":
        debug = values.pop("debug")
        return Arguments(command=values.pop("command"), debug=debug, fit=FitArguments(**values))
    for key in ("pins", "models"):
        values[key] = tuple(values.get(key) or ())
    return Arguments(**{key: value for key, value in values.items() if value is not None})


def _check_flags(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """Refuse an unknown flag first: argparse would take its value for the mode, and blame that."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for word in words:
        flag = word.partition("=")[0]
        if word.startswith("-") and flag not in flags and word[:2] not in ("-o", "-h"):
            # The dashes, alike in all, would make any two short flags look close.
            names = {each.lstrip("-"): each for each in flags}
            close = closest(flag.lstrip("-"), names)
            hint = f"did you mean `{names[close]}`?" if close else f"`{parser.prog} --help` shows what is allowed"
            raise UsageError(f"{parser.prog}: unknown flag `{flag[:60]}`", hint=hint)


def build_parser() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and the parser of each command by its name. Nothing is parsed."""
    parser = _Parser(
        prog="stackwright",
        description="From a bare host to a running, checked LLM service.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 done, 1 unexpected, 2 usage, 3 host unreadable, 4 no plan fits, 5 validation failed,\n"
        "            6 runtime refused, 7 started but not healthy, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    made: dict[str, argparse.ArgumentParser] = {}
    for name, (text, groups) in _COMMANDS.items():
        prog = name if name in OWN_ENTRY_POINTS else f"stackwright {name}"
        made[name] = commands.add_parser(name, help=text, description=text, prog=prog, allow_abbrev=False)
        for group in groups:
            group(made[name])
        made[name].add_argument("--debug", action="store_true", help="show the traceback of an unexpected fault")
    return parser, made


def _environment(text: str) -> Environment:
    if text in WRITTEN_OUT:
        return WRITTEN_OUT[text]
    try:
        return Environment(text)
    except ValueError:
        hint = did_you_mean(text, ENVIRONMENTS)
        raise UsageError(
            f"unknown environment `{text[:60]}`, allowed: {', '.join(ENVIRONMENTS)}", hint=hint or "for example `dev`"
        ) from None


def _mode(text: str) -> Mode | None:
    if text not in MODES:
        raise UsageError(
            f"unknown mode `{text[:60]}`, allowed: {', '.join(MODES)}",
            hint=did_you_mean(text, MODES) or "for example `auto`",
        )
    return None if text == "auto" else Mode(text)


def _objective(text: str) -> Objective:
    if text not in tuple(Objective):
        hint = did_you_mean(text, Objective)
        raise UsageError(f"unknown objective `{text[:60]}`, allowed: {', '.join(Objective)}", hint=hint)
    return Objective(text)


def _engine(text: str) -> str:
    """Return the release of NAME==VERSION."""
    name, _, release = text.partition("==")
    if name != "vllm" or not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(\.?[a-z]+[0-9]+)?", release):
        raise UsageError(
            f"--engine: found `{text[:60]}`, allowed: vllm==VERSION", hint="for example `--engine vllm==0.32.0`"
        )
    return release


def _runtime(text: str) -> str:
    if text not in RUNTIMES:
        hint = did_you_mean(text, RUNTIMES) or "`auto` chooses"
        raise UsageError(f"unknown runtime `{text[:60]}`, allowed: {', '.join(RUNTIMES)}", hint=hint)
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 7 * 86400:
        raise UsageError(
            f"--timeout: found `{text[:40]}`, allowed: seconds, from 1 to a week", hint="for example `600`"
        )
    return seconds


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < len(text) <= 9):
        raise UsageError(f"--to: found `{text[:40]}`, allowed: a generation's number", hint="`stackwright status ENV`")
    return int(text)


def _take_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", metavar="ENV", type=_environment, help=", ".join(ENVIRONMENTS))


def _take_any_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "environment",
        metavar="ENV",
        nargs="?",
        type=_environment,
        help=f"{', '.join(ENVIRONMENTS)} (default: the host and all that are configured)",
    )


def _take_environment_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env", dest="environment", metavar="ENV", type=_environment, help=f"only this one: {', '.join(ENVIRONMENTS)}"
    )


def _take_mode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mode", nargs="?", type=_mode, metavar="MODE", help=f"{', '.join(MODES)} (default: auto)")


def _take_plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        dest="models",
        metavar="NAME",
        action="append",
        help="Hugging Face id, folder, or catalog name; repeatable, for several models",
    )
    parser.add_argument("--host", metavar="FILE", type=Path, help="plan for this snapshot instead of this machine")
    parser.add_argument(
        "--objective",
        type=_objective,
        metavar="NAME",
        help=f"{', '.join(Objective)} (default: as many GPUs to a replica as pay)",
    )
    parser.add_argument(
        "--engine", type=_engine, metavar="NAME==VERSION", help="an engine release, for example vllm==0.32.0"
    )
    parser.add_argument(
        "--allow-vulnerable", action="store_true", help="consent to releases with known remote-code or key-bypass holes"
    )
    parser.add_argument(
        "--set", dest="pins", metavar="KEY=VALUE", action="append", type=parse_pin, help="pin a setting; repeatable"
    )


def _take_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="project folder (default: this checkout, else the working folder)"
    )


def _take_preview(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would change; touch nothing")
    parser.add_argument("--diff", action="store_true", help="show the differences that are written")


def _take_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def _take_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", action="store_true", help="give each value's reason and source")


def _take_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runtime", type=_runtime, metavar="NAME", help=f"{', '.join(RUNTIMES)} (default: auto)")


def _take_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        type=_seconds,
        metavar="SECONDS",
        help="give up after this long, also where the start still moves (default: never)",
    )


def _take_no_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-rollback", action="store_true", help="leave a start that failed as it is, for a look")


def _take_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--strict", action="store_true", help="take every warning for an error")


def _take_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", type=_number, metavar="N", help="the generation (default: the last good one before this)"
    )


def _take_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the snapshot to this file")


def _take_doctor_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, help="write an archive for a bug report, with secrets taken out"
    )
    parser.add_argument("--apply", action="store_true", help="where the fix is a setting, plan anew with it pinned")


_COMMANDS = {
    "detect": ("Read the host: GPUs, links, processor, memory, container engine.", (_take_output, _take_json)),
    "configure-gpu": (
        "Detect, plan, render and check; writes the files of all three environments, or of one with --env.",
        (_take_mode, _take_environment_flag, _take_plan_flags, _take_out, _take_preview, _take_json, _take_explain),
    ),
    "plan": (
        "Show the plan of one environment (dev unless --env); nothing is written.",
        (_take_mode, _take_environment_flag, _take_plan_flags, _take_out, _take_json, _take_explain),
    ),
    "fit": ("Forecast whether a model with these settings fits; nothing is written.", (add_fit_arguments,)),
    "validate-environment": (
        "Check what was rendered against this machine; all findings at once.",
        (_take_environment, _take_runtime, _take_strict, _take_out, _take_json),
    ),
    "start-environment": (
        "Configure where needed, validate, start, and watch until a completion has come through the gateway.",
        (_take_environment, _take_plan_flags, _take_runtime, _take_timeout, _take_no_rollback, _take_out),
    ),
    "stop-environment": ("Take a stack down; caches and files stay.", (_take_environment, _take_runtime, _take_out)),
    "rollback": (
        "Put an earlier generation of rendered files back, and bring it up where the stack runs.",
        (_take_environment, _take_generation, _take_runtime, _take_timeout, _take_no_rollback, _take_out),
    ),
    "status": ("Show what runs.", (_take_environment, _take_runtime, _take_out, _take_json)),
    "doctor": (
        "Name what is wrong with a stack, or with its last failed start, and how to mend it.",
        (_take_any_environment, _take_doctor_flags, _take_runtime, _take_out, _take_json),
    ),
    "pin-images": (
        "Pull the images of an environment by tag, and write their digests to envs/digests.yaml, which pins them.",
        (_take_environment, _take_out),
    ),
    "key": ("Print the gateway's key.", (_take_environment, _take_out)),
}
