"""What the installed engine itself says of the planned settings, before it loads any weights.

A look runs the engine's own program (`Engine.ask_program`) where the engine is installed, and keeps the answers in
`engine-answers.json` of the state folder, so that the same question is asked once. Nothing is pulled or downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore

from msgspec import Struct
from msgspec.structs import replace

from stackwright.atomic import replace_file
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import LONGEST_QUOTE, Rule, diagnose_log
from stackwright.domain.finding import Finding, error, not_checked, note
from stackwright.domain.host import Host
from stackwright.domain.machine import Seen, Unseen
from stackwright.domain.plan import Plan, Replica
from stackwright.engines import engine_named
from stackwright.models.cache import find_cache, find_snapshot
from stackwright.models.folder import CONFIG
from stackwright.runtime import ClientAnswer, Stack, Trial
from stackwright.runtime.docker import reason_of
from stackwright.services.engine import engine_questions
from stackwright.validation.check import Check, Later, Machine, Observation, Subject
from stackwright.validation.compose_config import MERGED
from stackwright.validation.model import MODELS

# The CPU build of 0.32.0 took 14 s of a processor, most of it imports, and 42 s on two busy cores (2026-11-29).
ASKED_S = 60.0
FILE, SCHEMA, MOST_ANSWERS, MOST_BYTES = "engine-answers.json", 1, 64, 2**20
# What Python raises for a value that is not taken; the parser of arguments and pydantic name no class. What others tell
# of (a file that is yet to come, a missing package, a full GPU) says nothing of the settings.
_OF_SETTINGS = frozenset({None, "ValueError", "NotImplementedError", "AssertionError", "TypeError", "KeyError"})
# Raised for settings and for much else: a known failure has to tell.
_OF_ANYTHING = "RuntimeError"
_RAISED = re.compile(r"(?P<name>\w*(?:Error|Exception|Enabled|Timeout)): ")

UNASKED = "engine-unasked"
"""The name of the finding that an engine is to be asked once it, or its model's config, is here."""

Answers = tuple[str | None, ...]
"""For each model of an engine its own words where it refuses the settings, else None."""


class AskedEngine(Struct, frozen=True, kw_only=True):
    """What one engine said of its models.

    `answers` is `Unseen` where it could not be asked, and None where that is yet to come: `waits_for` says for what.
    `whole`: no file of the models is missing here, so that none can be what it stumbles over. `question` is a digest of
    all that the answers depend on.
    """

    service: str
    kind: str
    models: tuple[str, ...]
    whole: bool = True
    question: str = ""
    answers: Seen[Answers] | None = None
    waits_for: str = ""


def check_engines(
    plan: Plan, env: Mapping[str, str], engines: tuple[AskedEngine, ...], rules: tuple[Rule, ...]
) -> Iterator[Finding]:
    """Find settings that the installed engine refuses, with the cause that the doctor knows, else in its own words."""
    title, values = engine_named(plan.engine.name).title, {**env, "environment": plan.environment.value}
    for engine in engines:
        if isinstance(engine.answers, Unseen):
            yield not_checked(f"{engine.service}'s configuration", engine.answers.why, plan.environment.value)
        elif engine.answers is None and engine.waits_for:
            yield note(
                UNASKED,
                found=f"{engine.service} was not asked for its configuration: {engine.waits_for}",
                expected=f"{title}'s own answer before it loads weights",
                fix=f"nothing to do: `start-environment {plan.environment.value}` asks once it is there",
            )
        answers = engine.answers if isinstance(engine.answers, tuple) else ()
        for model, words in zip(engine.models, answers, strict=False):
            if words is not None:
                yield _judge(engine, f"{model[:80]}: the installed {title}", words, rules, values)


def _judge(engine: AskedEngine, who: str, words: str, rules: tuple[Rule, ...], values: Mapping[str, str]) -> Finding:
    # What quotes whatever a program says would take every error for a refusal.
    particular = tuple(rule for rule in rules if not rule.general)
    known = next(iter(diagnose_log(words, particular, kind=engine.kind, values=values)), None)
    name = raised_in(words)
    surely = name in _OF_SETTINGS and engine.whole
    if not surely and (known is None or name not in (*_OF_SETTINGS, _OF_ANYTHING)):
        return not_checked(f"{engine.service}'s configuration", words[:LONGEST_QUOTE], values["environment"])
    first = words.strip().partition("\n")[0][:LONGEST_QUOTE]
    own = f"correct that setting: envs/.env.{values['environment']}.local, or `configure-gpu` with another --set"
    return error(
        "engine-refuses",
        found=f"{who} refuses these settings: {known.cause if known else first}",
        expected="settings that it starts with",
        fix=known.fix if known else own,
    )


def raised_in(words: str) -> str | None:
    """Return the class of Python's that an engine's words name; None of words of its own."""
    raised = _RAISED.match(words)
    return raised["name"] if raised else None


def ask_engines(machine: Machine) -> tuple[AskedEngine, ...]:
    """Ask the engines of the plan beside each other, of several that are alike one; what is remembered is not asked."""
    stack = machine.stack
    program = stack.engine.ask_program
    if program is None:
        return ()
    source, known = program.read_text(encoding="utf-8"), read_answers(stack.state)
    alike = {tuple(model.args for model in stack.plan.turns(engine)): engine for engine in stack.plan.engines[::-1]}
    cores = BoundedSemaphore(machine.host.cpu.cores or 1)  # each asked keeps one busy
    begin = partial(_ask, machine, source=source, known=known, cores=cores)
    begun = [(engine, Later(partial(begin, engine))) for engine in [*alike.values()][::-1]]
    seen = [(engine, later.result()) for engine, later in begun]
    asked = tuple(
        replace(_unasked(stack, engine), answers=answer) if isinstance(answer, Unseen) else answer
        for engine, answer in seen
    )
    new = {one.question: one.answers for one in asked if isinstance(one.answers, tuple) and is_lasting(one)}
    if new.keys() - known.keys():
        keep_answers(stack.state, {**known, **new})
    return asked


def _unasked(stack: Stack, engine: Replica) -> AskedEngine:
    models = tuple(replica.model for replica in stack.plan.turns(engine))
    return AskedEngine(service=engine.name, kind=stack.kind_of(engine.name), models=models)


def _ask(
    machine: Machine, engine: Replica, source: str, known: Mapping[str, Answers], cores: BoundedSemaphore
) -> AskedEngine:
    stack, unasked = machine.stack, _unasked(machine.stack, engine)
    merged = machine.see(MERGED)
    if isinstance(merged, Unseen):  # the files are refused, which is a finding of its own
        return unasked
    service = next(service for service in stack.services if service.name == engine.name)
    trial = machine.runtime.trial(service, engine_questions(stack.plan, engine))
    if trial is None:
        return replace(unasked, waits_for=f"{stack.engine.title} is not installed here yet")
    locations = {stack.values(replica)[stack.engine.keys.model] for replica in stack.plan.turns(engine)}
    configs = [read_config(stack, location) for location in sorted(locations)]
    if None in configs:
        return replace(unasked, waits_for=f"a model's {CONFIG} is not here yet")
    question = digest_of(trial, source, configs, machine.host)
    if question in known:
        return replace(unasked, question=question, answers=known[question])
    if machine.say is None:
        return unasked
    machine.say(f"{engine.name}: asking {stack.engine.title} whether it takes these settings")
    with cores:
        said = read_said(trial.run(source, f"[{','.join(trial.texts)}]", ASKED_S), len(trial.texts))
    models = machine.see(MODELS)
    seen = () if isinstance(models, Unseen) else models
    here = {model.location for model in seen if not isinstance(model.files, Unseen) and model.files.complete}
    return replace(unasked, question=question, answers=said, whole=locations <= here)


def read_config(stack: Stack, location: str) -> bytes | None:
    """Return the config.json of a model as it lies here; None where it does not."""
    cache = find_cache(os.environ, Path(stack.env["HF_HOME"]))
    folder = Path(location) if location.startswith("/") else find_snapshot(location, cache)
    file = None if folder is None else folder / CONFIG
    return file.read_bytes() if file is not None and file.is_file() else None


def digest_of(trial: Trial, source: str, configs: Iterable[bytes | None], host: Host) -> str:
    """Return a digest of all that an answer depends on: another image, argument, model or driver gives another."""
    gpus = [[gpu.name, gpu.compute_capability, gpu.memory_bytes] for gpu in host.gpus]
    about = [source, trial.installed, trial.variables, trial.texts, host.cpu.model, repr(host.driver), gpus]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for config in configs:
        digest.update(hashlib.sha256(config or b"").digest())
    return digest.hexdigest()


def read_said(said: ClientAnswer, models: int) -> Seen[Answers]:
    """Read what the engine's program printed: one answer for each of so many models."""
    if said.code != 0:
        return Unseen(why=reason_of(said.err)[:LONGEST_QUOTE])
    try:
        answers = tuple(answer["refused"] for answer in json.loads(said.out))
    except (ValueError, TypeError, KeyError):
        return Unseen(why="its answer is unreadable")
    whole = len(answers) == models and all(words is None or isinstance(words, str) for words in answers)
    return answers if whole else Unseen(why="its answer is unreadable")


def is_lasting(asked: AskedEngine) -> bool:
    """Return whether the same question gets the same answers tomorrow; a file may come, and a GPU's memory get free."""
    answers = asked.answers if isinstance(asked.answers, tuple) else ()
    refusals = [words for words in answers if words is not None]
    return not refusals or (asked.whole and all(raised_in(words) in _OF_SETTINGS for words in refusals))


def read_answers(state: Path) -> dict[str, Answers]:
    """Return the answers that were kept, by the digest of what was asked; none of a file that is missing or damaged."""
    try:
        with (state / FILE).open("rb") as file:
            document = json.loads(file.read(MOST_BYTES + 1))
        kept = document["answers"] if document["schema"] == SCHEMA else {}
        return {question: tuple(answers) for question, answers in kept.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def keep_answers(state: Path, answers: Mapping[str, Answers]) -> None:
    """Keep the newest answers. A folder that cannot be written is no failure: they are asked for again."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(state / FILE, json.dumps({"schema": SCHEMA, "answers": dict([*answers.items()][-MOST_ANSWERS:])}))
    except OSError:
        return


def _check(on: Subject, engines: tuple[AskedEngine, ...], rules: tuple[Rule, ...]) -> Iterator[Finding]:
    return check_engines(on.plan, on.env, engines, rules)


ENGINES = Observation(take=ask_engines, waits=True)
RULES = Observation(take=lambda _: load_rules())


SETTINGS = Check(
    name="engine",
    about=(
        "the planned settings, put to the engine that is installed here, on its GPUs: its configuration is made as at "
        "a start, without weights"
    ),
    findings=tuple("engine-refuses engine-unasked".split()),
    rule=_check,
    observations=(ENGINES, RULES),
)
