"""The command line as a value: every word, and every mistake in one sentence with the closest known word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.cli import COMMANDS, load_command, parse
from stackwright.commands.configure_gpu import ConfigureArguments
from stackwright.commands.detect import DetectArguments
from stackwright.commands.key import KeyArguments
from stackwright.commands.keys import KeysArguments
from stackwright.commands.options import ENVIRONMENTS, MODES, RUNTIMES, PlanArguments, PlanOptions, StartOptions
from stackwright.commands.plan import ReportArguments
from stackwright.commands.rollback import RollbackArguments
from stackwright.commands.start_environment import StartArguments
from stackwright.commands.status import StatusArguments
from stackwright.commands.stop_environment import StopArguments
from stackwright.commands.validate_environment import ValidateArguments
from stackwright.domain.access_key import Rights
from stackwright.domain.environment import Environment
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.errors import UsageError


def planned(**words: Any) -> ReportArguments:
    """Return what `plan` takes, without a page."""
    return ReportArguments(shown=PlanArguments(**words))


WORDS = f"allowed: {', '.join(MODES)}; {', '.join(ENVIRONMENTS)}"


def parse_arguments(words: list[str]) -> object:
    """Return the record of one command line."""
    return parse(words)[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("detect", DetectArguments()),
        ("detect -o host.yaml --json", DetectArguments(output=Path("host.yaml"), json=True)),
        ("configure-gpu", ConfigureArguments()),
        ("configure-gpu auto", ConfigureArguments(plan=PlanArguments(options=PlanOptions(unset=("mode",))))),
        (
            "configure-gpu multi --env production",
            ConfigureArguments(plan=PlanArguments(options=PlanOptions(mode=Mode.MULTI), environment=Environment.PROD)),
        ),
        (
            (
                "configure-gpu --model a/b --host h --set GATEWAY_PORT=1 --set VLLM_SHM_SIZE=2gb --out o "
                "--dry-run --diff --explain --debug cpu"
            ),
            ConfigureArguments(
                plan=PlanArguments(
                    options=PlanOptions(
                        mode=Mode.CPU,
                        models=("a/b",),
                        host=Path("h"),
                        pins=(("GATEWAY_PORT", "1"), ("VLLM_SHM_SIZE", "2gb")),
                    ),
                    out=Path("o"),
                    explain=True,
                ),
                dry_run=True,
                diff=True,
            ),
        ),
        ("plan cpu dev", planned(options=PlanOptions(mode=Mode.CPU), environment=Environment.DEV)),
        (
            "plan prod --explain single --all",
            planned(options=PlanOptions(mode=Mode.SINGLE), environment=Environment.PROD, explain=True, all=True),
        ),
        ("plan prod --env production", planned(environment=Environment.PROD)),
        ("plan single", planned(options=PlanOptions(mode=Mode.SINGLE))),
        (
            "plan prod --engine vllm==0.32.0 --objective latency --allow-vulnerable",
            planned(
                options=PlanOptions(engine_version="0.32.0", objective=Objective.LATENCY, allow_vulnerable=True),
                environment=Environment.PROD,
            ),
        ),
        (
            "start-environment development --runtime=processes --timeout 90",
            StartArguments(environment=Environment.DEV, start=StartOptions(timeout_s=90), runtime="processes"),
        ),
        ("stop-environment prod", StopArguments(environment=Environment.PROD)),
        (
            "rollback dev --to 3 --no-rollback",
            RollbackArguments(environment=Environment.DEV, number=3, start=StartOptions(no_rollback=True)),
        ),
        ("validate-environment staging --json", ValidateArguments(environment=Environment.STAGING, json=True)),
        ("status dev", StatusArguments(environment=Environment.DEV)),
        ("keys list dev --json", KeysArguments(action="list", environment=Environment.DEV, json=True)),
        (
            "keys add anna prod --model a --model b --model a --tokens-per-day 9 --expires 2999-12-31",
            KeysArguments(
                action="add",
                environment=Environment.PROD,
                name="anna",
                rights=Rights(models=("a", "b"), tokens_per_day=9, expires=32_503_680_000),
            ),
        ),
        ("keys usage dev --days 3", KeysArguments(action="usage", environment=Environment.DEV, days=3)),
        ("key dev --out o", KeyArguments(environment=Environment.DEV, out=Path("o"))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_words_become_one_value(words: str, expected: object) -> None:
    assert parse_arguments(words.split()) == expected


@pytest.mark.parametrize(
    "words",
    [
        "plan",
        "plan cpu",
        "plan --model a/b --model c --host h --set GATEWAY_PORT=1 --set VLLM_SHM_SIZE=2gb --allow-vulnerable",
        "plan multi --objective latency --engine vllm==0.32.0 --arg=--seed=1",
    ],
)
def test_what_was_asked_for_can_be_asked_for_again(words: str) -> None:
    asked = parse_arguments(words.split())
    assert isinstance(asked, ReportArguments)
    assert parse_arguments(["plan", *asked.shown.options.words]) == asked


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "the following arguments are required: COMMAND", "`stackwright --help` shows what is allowed"),
        ([""], "unknown command ``", f"commands: {', '.join(COMMANDS)}"),
        (["start"], "unknown command `start`", "did you mean `start-environment`?"),
        (["stop", "dev"], "unknown command `stop`", "did you mean `stop-environment`?"),
        (["configure"], "unknown command `configure`", "did you mean `configure-gpu`?"),
        (["statsu"], "unknown command `statsu`", "did you mean `status`?"),
        (["frobnicate"], "unknown command `frobnicate`", f"commands: {', '.join(COMMANDS)}"),
        (["--json", "plan"], "`--json` stands before the command", "flags come after it: COMMAND FLAG …"),
        (["plan", "--jsn"], "stackwright plan: unknown flag `--jsn`", "did you mean `--json`?"),
        (["plan", "--mod=x"], "stackwright plan: unknown flag `--mod`", "did you mean `--model`?"),
        (["plan", "-x"], "stackwright plan: unknown flag `-x`", None),
        (["detect", "--env", "dev"], "stackwright detect: unknown flag `--env`", None),
        (["plan", "--host", ""], "--host: found ``, allowed: a path", "name one, or leave out --host"),
        (["configure-gpu", "--out="], "--out: found ``, allowed: a path", "name one, or leave out --out"),
        (["detect", "-o", ""], "-o: found ``, allowed: a path", "name one, or leave out -o"),
        (["doctor", "--log", ""], "--log: found ``, allowed: a path", "name one, or leave out --log"),
        (
            ["recommend", "--model", "x", "--requests", "-3"],
            "--requests: found `-3`, allowed: a whole number from 1 to 100000",
            None,
        ),
        (["logs", "dev", "--tail", "-5"], "--tail: found `-5`, allowed: a number of lines, or all", None),
        (["plan", "cpu", "-3"], "stackwright plan: unknown flag `-3`", None),
        (["plan", "cpu", "cpu"], "found two modes: cpu and cpu", "name one"),
        (["plan", "dev", "cpu", "prod"], "found two environments: dev and prod", "name one"),
        (["plan", "dev", "--env", "prod"], "found two environments: dev and prod", "name one"),
        (
            ["plan", "gpu"],
            f"unknown mode or environment `gpu`, {WORDS}",
            "without a mode the GPUs that are there are used",
        ),
        (["plan", "mutli"], f"unknown mode or environment `mutli`, {WORDS}", "did you mean `multi`?"),
        (["plan", "--json", "pord"], f"unknown mode or environment `pord`, {WORDS}", "did you mean `prod`?"),
        (
            ["key", "devel"],
            f"unknown environment `devel`, allowed: {', '.join(ENVIRONMENTS)}",
            "did you mean `dev`?",
        ),
        (["key", "x"], f"unknown environment `x`, allowed: {', '.join(ENVIRONMENTS)}", "for example `dev`"),
        (["key", "DEV"], f"unknown environment `DEV`, allowed: {', '.join(ENVIRONMENTS)}", None),
        (
            ["key"],
            "the following arguments are required: ENV",
            "for example `stackwright key dev`; `stackwright key --help` shows what is allowed",
        ),
        (
            ["configure-gpu", "--env"],
            "argument --env: expected one argument",
            "`configure-gpu --help` shows what is allowed",
        ),
        (
            ["status", "dev", "--runtime", "docker"],
            f"unknown runtime `docker`, allowed: {', '.join(RUNTIMES)}",
            "`auto` chooses",
        ),
        (
            ["plan", "--set", "GATEWAY_PORT"],
            "--set GATEWAY_PORT: expected KEY=VALUE",
            "for example `--set LITELLM_NUM_WORKERS=2`",
        ),
        (["plan", "--set="], "--set '': expected KEY=VALUE", "for example `--set LITELLM_NUM_WORKERS=2`"),
        (
            ["plan", f"--set=VLLM_MAX_MODEL_LEN={2**31}"],
            "--set: VLLM_MAX_MODEL_LEN: found `2147483648`, allowed: auto, or a number of tokens from 1 to 2147483647",
            None,
        ),
    ],
    ids=lambda value: ascii(" ".join(value) if value else value) if isinstance(value, list) else "",
)
def test_every_mistake_is_one_sentence_with_the_closest_word(words: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as failure:
        parse_arguments(words)
    assert failure.value.message == message
    if hint is not None:
        assert failure.value.hint == hint


@pytest.mark.parametrize("text", ["0", "-1", "0.5", "nan", "inf", "1e9", "604801", "soon", ""])
def test_a_timeout_is_from_a_second_to_a_week(text: str) -> None:
    with pytest.raises(UsageError) as failure:
        parse_arguments(["start-environment", "dev", f"--timeout={text}"])
    assert failure.value.message == f"--timeout: found `{text}`, allowed: seconds, from 1 to a week"
    assert failure.value.hint == "for example `600`"


def test_the_ends_of_a_timeout_are_allowed() -> None:
    for text in ("1", "604800", "1.5"):
        started = parse_arguments(["start-environment", "dev", "--timeout", text])
        assert started == StartArguments(environment=Environment.DEV, start=StartOptions(timeout_s=float(text)))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*COMMANDS, "dev", "cpu", "--json", "--env", "--set", "-o", "--"]) | st.text(), max_size=5)
)
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    """Never another failure, and never an exit, but for what asks for help."""
    if {"-h", "--help", "--version"} & set(words):
        return
    try:
        parse_arguments(words)
        assert words[0] in COMMANDS
    except UsageError as failure:
        assert failure.message
        assert not failure.message.endswith(".")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments([command, "--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith("usage: ")
    assert "%(" not in out


def test_every_command_is_a_module_of_its_own() -> None:
    modules = [load_command(name) for name in COMMANDS]
    assert len(set(map(id, modules))) == len(COMMANDS)
    assert all(callable(each) for module in modules for each in (module.read_arguments, module.run))


def test_whether_anything_is_planned_is_told_by_what_was_said() -> None:
    start = StartArguments(environment=Environment.DEV)
    assert not start.plans
    assert not replace(start, runtime="compose").plans
    for options in (
        PlanOptions(host=Path("h")),
        PlanOptions(models=("a/b",)),
        PlanOptions(pins=(("GATEWAY_PORT", "1"),)),
    ):
        assert replace(start, options=options).plans
