"""Flags that several commands take, and the records that their values become. Touches nothing but argv."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field

from stackwright.domain.choices import TunedSetting, wish_words
from stackwright.domain.environment import WRITTEN_OUT, Environment
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.engines import default_engine, engine_named
from stackwright.engines.protocol import Engine
from stackwright.errors import UsageError, did_you_mean

R = TypeVar("R")
ENVIRONMENTS = (*(environment.value for environment in Environment), *WRITTEN_OUT)
MODES = ("auto", *(mode.value for mode in Mode))
RUNTIMES = ("auto", "compose", "processes")
FORGETTABLE = ("model", "mode", "objective", "engine", "arg", "with", "allow-vulnerable")
"""What `--unset` takes beside the keys of settings."""


class PlanOptions(Struct, frozen=True, kw_only=True):
    """What to plan, as the command line says it: None or empty where it says nothing.

    What it leaves open is remembered from the last time (commands/choices.py): `unset` takes single choices back,
    `reset` all. `passing`: pins that are for this command alone. `services`: the additions that are wished for (True),
    or not any more. `tuned`: what was measured to be better, to be remembered with its reason.
    """

    mode: Mode | None = None
    models: tuple[str, ...] = ()
    host: Path | None = None
    pins: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    objective: Objective | None = None
    engine: Engine = field(default_factory=default_engine)
    engine_version: str | None = None
    allow_vulnerable: bool = False
    unset: tuple[str, ...] = ()
    reset: bool = False
    passing: tuple[tuple[str, str], ...] = ()
    services: tuple[tuple[str, bool], ...] = ()
    tuned: Mapping[str, TunedSetting] = {}

    @property
    def words(self) -> tuple[str, ...]:
        """The same as words of a command line."""
        engine = f"{self.engine.name}=={self.engine_version}" if self.engine_version else self.engine.name
        said: tuple[tuple[str, str | None], ...] = (
            *(("--model", model) for model in self.models),
            ("--host", None if self.host is None else str(self.host)),
            ("--objective", self.objective),
            ("--engine", engine if engine != default_engine().name else None),
            *(("--set", f"{key}={value}") for key, value in self.pins),
            *(wish_words(name, wanted=wanted) for name, wanted in self.services),
            *(("--unset", key) for key in self.unset),
        )
        flags = (word for flag, value in said if value is not None for word in (flag, value))
        # One word: what it names begins with dashes itself.
        arguments = (f"--arg={argument}" for argument in self.arguments)
        mode = () if self.mode is None else (self.mode.value,)
        switches = (("--allow-vulnerable", self.allow_vulnerable), ("--reset", self.reset))
        return (*mode, *flags, *arguments, *(switch for switch, on in switches if on))


class PlanArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `plan` and `configure-gpu`. `environment`: None where none is named."""

    options: PlanOptions = field(default_factory=PlanOptions)
    environment: Environment | None = None
    out: Path | None = None
    json: bool = False
    explain: bool = False
    all: bool = False


class StartOptions(Struct, frozen=True, kw_only=True):
    """How a stack is brought up: the patience, None without end, and whether a start that failed is left as it is."""

    timeout_s: float | None = None
    no_rollback: bool = False


def parse_environment(text: str) -> Environment:
    """Read the name of an environment. Raises UsageError where it is none."""
    if text in WRITTEN_OUT:
        return WRITTEN_OUT[text]
    try:
        return Environment(text)
    except ValueError:
        hint = did_you_mean(text, ENVIRONMENTS)
        raise UsageError(
            f"unknown environment `{text[:60]}`, allowed: {', '.join(ENVIRONMENTS)}", hint=hint or "for example `dev`"
        ) from None


def _read_words(words: Sequence[str], flag: Environment | None) -> tuple[Environment | None, Mode | None]:
    """Read which environment and which mode some words name, in any order; None where none does.

    `flag`: what `--env` says. Raises UsageError where a word is neither, or a second one of its kind.
    """
    environments = [parse_environment(word) for word in words if word in ENVIRONMENTS]
    modes = [word for word in words if word in MODES]
    for word in words:
        if word not in ENVIRONMENTS and word not in MODES:
            allowed = f"allowed: {', '.join(MODES)}; {', '.join(ENVIRONMENTS)}"
            hint = did_you_mean(word, (*MODES, *ENVIRONMENTS)) or "without a mode the GPUs that are there are used"
            raise UsageError(f"unknown mode or environment `{word[:60]}`, {allowed}", hint=hint)
    if flag is not None and flag not in environments:
        environments.append(flag)
    for kind, several in (("environments", environments), ("modes", modes)):
        if len(several) > 1:
            raise UsageError(f"found two {kind}: {several[0]} and {several[1]}", hint="name one")
    mode = modes[0] if modes else "auto"
    return next(iter(environments), None), None if mode == "auto" else Mode(mode)


def _objective(text: str) -> Objective:
    if text not in tuple(Objective):
        hint = did_you_mean(text, Objective)
        raise UsageError(f"unknown objective `{text[:60]}`, allowed: {', '.join(Objective)}", hint=hint)
    return Objective(text)


def _engine(text: str) -> tuple[Engine, str | None]:
    """Return the engine of NAME[==VERSION], and the release where one is named."""
    name, equals, release = text.partition("==")
    engine = engine_named(name)
    if equals and not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(\.?[a-z]+[0-9]+)?", release):
        raise UsageError(
            f"--engine: found `{text[:60]}`, allowed: {name}==VERSION", hint=f"for example `--engine {name}==0.32.0`"
        )
    return engine, release or None


def _additions(flag: str, text: str) -> tuple[str, ...]:
    from stackwright.project.folder import check_addition

    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        check_addition(name, where=flag)
    return names


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


def parse_whole_seconds(text: str) -> int:
    """Read seconds, up to a day. Raises UsageError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 86400):
        raise UsageError(f"--drain: found `{text[:40]}`, allowed: whole seconds, up to a day", hint="for example `30`")
    return int(text)


def add_environment(parser: argparse.ArgumentParser) -> None:
    """Take the environment as the first word."""
    parser.add_argument("environment", metavar="ENV", type=parse_environment, help=", ".join(ENVIRONMENTS))


def add_environment_and_mode(parser: argparse.ArgumentParser) -> None:
    """Take an environment and a mode, both as words and in any order, and `--env` for the environment.

    For the commands that are for all three environments, or for dev, without one.
    """
    parser.add_argument(
        "words", nargs="*", metavar="ENV|MODE", help=f"{', '.join(ENVIRONMENTS)}; {', '.join(MODES)} (default: auto)"
    )
    parser.add_argument(
        "--env", dest="environment", metavar="ENV", type=parse_environment, help="the environment, by a flag"
    )


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Take what a plan is made from; `read_plan_options` reads it."""
    from stackwright.services import additions

    parser.add_argument(
        "--model",
        dest="models",
        metavar="NAME",
        action="append",
        help="Hugging Face id, folder, or catalog name; repeatable, for several models",
    )
    add_choice_flags(parser)
    parser.add_argument(
        "--arg",
        dest="arguments",
        metavar="FLAG=VALUE",
        action="append",
        help="a flag of the engine's own, such as `--arg=--chat-template-content-format=openai`; repeatable",
    )
    for flag, what in (("--with", "run beside the models"), ("--without", "do not run")):
        parser.add_argument(
            flag,
            dest=f"{flag[2:]}_services",
            metavar="NAME",
            action="append",
            type=functools.partial(_additions, flag),
            help=f"{what}: {', '.join(additions()) or 'nothing yet'}; repeatable, or with commas",
        )
    parser.add_argument(
        "--unset",
        metavar="KEY",
        action="append",
        help=f"forget a remembered pin, or one of {', '.join(FORGETTABLE)}; repeatable",
    )
    parser.add_argument("--reset", action="store_true", help="forget everything that was chosen before")


def add_choice_flags(parser: argparse.ArgumentParser) -> None:
    """Take what a plan is made from beside its models, and what it forgets."""
    from stackwright.project.pins import parse_pin

    parser.add_argument("--host", metavar="FILE", type=Path, help="plan for this snapshot instead of this machine")
    parser.add_argument(
        "--objective",
        type=_objective,
        metavar="NAME",
        help=f"{', '.join(Objective)} (default: as many GPUs per replica as pay)",
    )
    parser.add_argument(
        "--engine",
        type=_engine,
        metavar="NAME[==VERSION]",
        help=f"an engine, or a release of it, for example {default_engine().name}==0.32.0",
    )
    parser.add_argument(
        "--allow-vulnerable",
        action="store_true",
        help="allow releases with known remote-code or key-bypass vulnerabilities",
    )
    parser.add_argument(
        "--set", dest="pins", metavar="KEY=VALUE", action="append", type=parse_pin, help="pin a setting; repeatable"
    )


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what `plan` and `configure-gpu` share; `read_plan_arguments` reads it."""
    for add in (add_environment_and_mode, add_plan_flags, add_out):
        add(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """Take `--out`, the project folder."""
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="project folder (default: this checkout, else the working folder)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Take `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def add_details(parser: argparse.ArgumentParser) -> None:
    """Take what shows more of a plan than its summary."""
    parser.add_argument("--all", action="store_true", help="show every setting too")
    parser.add_argument("--explain", action="store_true", help="give each value's reason and source too")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Take `--runtime`."""
    parser.add_argument(
        "--runtime", type=_runtime, metavar="NAME", default="auto", help=f"{', '.join(RUNTIMES)} (default: auto)"
    )


def add_start_options(parser: argparse.ArgumentParser) -> None:
    """Take how a stack is brought up; `read_start_options` reads it."""
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        type=_seconds,
        metavar="SECONDS",
        help="time limit of the whole start (default: none)",
    )
    parser.add_argument("--no-rollback", action="store_true", help="leave a failed start as it is, for inspection")


def record_of(kind: type[R], given: argparse.Namespace, **further: object) -> R:
    """Return a command's record: each field is the parsed word of its name, but for those in `further`."""
    words = vars(given)
    return kind(**{name: words[name] for name in kind.__annotations__ if name in words} | further)


def read_plan_options(given: argparse.Namespace, mode: Mode | None = None) -> PlanOptions:
    """Read what `add_plan_flags` or `add_choice_flags` took; `mode`: what its words name."""
    return PlanOptions(
        mode=mode,
        models=tuple(vars(given).get("models") or ()),
        host=given.host,
        pins=tuple(given.pins or ()),
        arguments=tuple(vars(given).get("arguments") or ()),
        objective=given.objective,
        engine=given.engine[0] if given.engine else default_engine(),
        engine_version=given.engine[1] if given.engine else None,
        allow_vulnerable=given.allow_vulnerable,
        unset=tuple(dict.fromkeys((*(vars(given).get("unset") or ()), *_taken_back(given)))),
        reset=vars(given).get("reset", False),
        services=tuple(_wished(given).items()),
    )


def _wished(given: argparse.Namespace) -> dict[str, bool]:
    """Return the additions that the words name. Raises UsageError where one is named with and without."""
    named = {
        wanted: [name for names in vars(given).get(f"{flag}_services") or () for name in names]
        for flag, wanted in (("with", True), ("without", False))
    }
    if both := set(named[True]) & set(named[False]):
        raise UsageError(f"--without {min(both)}: `--with` names it as well", hint="leave one of the two out")
    return {name: wanted for wanted, names in named.items() for name in names}


def _taken_back(given: argparse.Namespace) -> Iterator[str]:
    """Yield what is chosen anew by its name: the mode `auto`, an engine without a release."""
    if "auto" in vars(given).get("words", ()):
        yield "mode"
    if given.engine is not None and given.engine[1] is None:
        yield "engine"


def read_plan_arguments(given: argparse.Namespace) -> PlanArguments:
    """Read what `add_plan_arguments`, `add_json` and `add_details` took."""
    environment, mode = _read_words(given.words, given.environment)
    return record_of(PlanArguments, given, options=read_plan_options(given, mode), environment=environment)


def read_start_options(given: argparse.Namespace) -> StartOptions:
    """Read what `add_start_options` took."""
    return record_of(StartOptions, given)
