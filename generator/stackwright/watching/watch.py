"""Wait until every model of a started stack has answered through the gateway, or it is certain that it will not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from stackwright.domain.plan import Replica, ServedModel
from stackwright.domain.role import Role
from stackwright.domain.service import ServicePhase, ServiceState, Step
from stackwright.errors import NotHealthyError, RuntimeRefusedError
from stackwright.runtime import Runtime, Say, Stack
from stackwright.units import format_seconds
from stackwright.watching.course import Course, Sample, advance, begin, stands_still
from stackwright.watching.failure import Inquiry, too_late
from stackwright.watching.health import HealthVerdict, judge
from stackwright.watching.history import keep_start
from stackwright.watching.limits import Limits
from stackwright.watching.observe import Observer
from stackwright.watching.probe import (
    ANSWER_TIMEOUT_S,
    Answer,
    Endpoint,
    ask_smoke,
    complete,
    embed,
    endpoint_of,
    list_models,
    rank,
    refuse_wrong_key,
    stream,
    transcribe,
)
from stackwright.watching.remembered import keep_replica

# A sample of three containers costs a tenth of a second of processor time and more, which a starting engine needs.
POLL_S = 2.0
# A healthy gateway that refuses every completion this long will not begin to answer.
ANSWERS_WITHIN_S = 120
# More than an engine writes until it answers.
START_LINES = 20_000
# Silence this long is worth a word, and a word every so often.
QUIET_REPORTED_EVERY_S = 30.0
# A service that has said what it cannot recover from mostly ends by itself in this time.
DOOMED_AFTER_S = 15.0


class Clock(Struct, frozen=True, kw_only=True):
    """Seconds from any zero, and a way to let some pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


REAL = Clock()
"""The machine's own."""


class Question(Struct, frozen=True, kw_only=True):
    """One thing that a client would ask: `what` begins the sentence of a failure, `model` is set for a completion.

    `service` is who is asked; None: the gateway.
    """

    what: str
    ask: Callable[[], Answer]
    model: str | None = None
    service: str | None = None


def watch(
    runtime: Runtime,
    stack: Stack,
    key: str,
    say: Say,
    *,
    limit_s: float | None = None,
    clock: Clock = REAL,
) -> dict[str, str]:
    """Sample until each model has completed a chat; return its first words by model.

    The services are sampled between two questions too: an engine may say that it is healthy and die of the first.
    A start that moves is waited for; each step may stand still for a time of its own (docs/explanation/starting.md).

    Args:
        key: the gateway's key.
        limit_s: give up after this many seconds even where the start still moves; None never does.

    Raises:
        NotHealthyError: a service ended or stands still, the limit passed, or the gateway does not answer as it should.
    """
    watcher = _Watcher(runtime, stack, say, clock)
    questions = _questions(stack, key)
    started, asked_since = clock.now(), math.inf
    limit_s = math.inf if limit_s is None else limit_s
    answers: dict[str, str] = {}
    while True:
        ready = watcher.sample()
        if ready:
            running = {None, *(course.name for course in watcher.courses)}
            questions = [question for question in questions if question.service in running]
            asked_since = min(asked_since, clock.now())
            refusal = _ask(questions, say, stack.front.name, answers)
            if refusal is None:
                watcher.keep()
                return answers
            if refusal.final or clock.now() > min(asked_since + ANSWERS_WITHIN_S, started + limit_s):
                raise watcher.inquiry.refused(questions[0].what, refusal, questions[0].service)
            watcher.raise_if_doomed()
        elif clock.now() - started > limit_s:
            raise too_late(watcher.courses, limit_s)
        clock.sleep(POLL_S)


def await_healthy(
    runtime: Runtime,
    stack: Stack,
    service: str,
    say: Say,
    *,
    limit_s: float | None = None,
    clock: Clock = REAL,
) -> None:
    """Sample until one service is healthy, the others aside.

    Args:
        limit_s: give up after this many seconds even where it still moves; None never does.

    Raises:
        NotHealthyError: it ended or stands still, or the limit passed.
    """
    watcher = _Watcher(runtime, stack, say, clock, only=service)
    started = clock.now()
    while not watcher.sample():
        if limit_s is not None and clock.now() - started > limit_s:
            raise too_late(watcher.courses, limit_s)
        clock.sleep(POLL_S)


class _Watcher:
    """Follows every service of one start, or one alone, and raises once one of them will not come up."""

    def __init__(self, runtime: Runtime, stack: Stack, say: Say, clock: Clock, only: str | None = None) -> None:
        self._runtime, self._stack, self._say, self._clock, self._only = runtime, stack, say, clock, only
        self._observer = Observer(runtime, stack)
        self.inquiry = Inquiry(runtime, stack)
        self._courses: dict[str, Course] = {}
        self._restarts: dict[str, int] = {}
        self._sampled_at = clock.now()
        self._doubted: dict[str, int] = {}
        self._said: dict[str, tuple[object, ...]] = {}

    @property
    def courses(self) -> tuple[Course, ...]:
        """Every service that has been sampled."""
        return tuple(self._courses.values())

    def sample(self) -> bool:
        """Sample every service; return whether all are healthy.

        Raises:
            NotHealthyError: one ended for good, fell over something that stays, or stands still.
        """
        states = tuple(state for state in self._runtime.services() if self._only in (None, state.name))
        now = self._clock.now()
        before = {state.name: self._restarts.setdefault(state.name, state.restarts) for state in states}
        judgement = judge(states, before)
        if judgement.verdict is HealthVerdict.FAILED and judgement.culprit is not None:
            raise self.inquiry.ended(judgement.culprit)
        elapsed_s, self._sampled_at = now - self._sampled_at, now
        for sample in self._observer.sample(states, now):
            self._follow(sample, elapsed_s)
        asking = judgement.verdict is HealthVerdict.ASK
        for course in self.courses:
            if not (asking and course.name == self._stack.front.name):
                self._tell(course)
        return asking

    def raise_if_doomed(self) -> None:
        """Raise where an engine that calls itself healthy has said that it cannot answer."""
        for replica in self._stack.plan.engines:
            self._raise(self.inquiry.doomed(self._courses[replica.name].sample.state))

    def keep(self) -> None:
        """Remember how long each step of this good start took, and what memory; nothing of what ran already."""
        for replica in self._stack.plan.engines:
            spent = self._courses[replica.name].spent if replica.name in self._courses else {}
            if keep_start(self._stack.state, self._stack.plan, replica, spent):
                self._keep_observed(replica)

    def _keep_observed(self, replica: Replica) -> None:
        try:
            start = self._stack.engine.read_start(self._runtime.logs(replica.name, START_LINES))
        except RuntimeRefusedError:  # the stack answers, which is what was asked
            return
        if start is not None:
            keep_replica(self._stack.state, self._stack.plan, replica, time.strftime("%Y-%m-%d"), start)

    def _follow(self, sample: Sample, elapsed_s: float) -> None:
        before = self._courses.get(sample.state.name)
        course = begin(sample) if before is None else advance(before, sample, elapsed_s)
        self._courses[course.name] = course
        if _fell(before, sample.state):
            self._raise(self.inquiry.fallen(sample.state))
        doubt = int(course.quiet_s // DOOMED_AFTER_S) if sample.state.phase is ServicePhase.STARTING else 0
        if doubt > self._doubted.get(course.name, 0):
            self._raise(self.inquiry.doomed(sample.state))
        self._doubted[course.name] = doubt
        limits = self._limits(course.name)
        if stands_still(course, limits):
            raise self.inquiry.stuck(course, limits)

    def _limits(self, service: str) -> Limits:
        return self._observer.limits.get(service, Limits())

    @staticmethod
    def _raise(found: NotHealthyError | None) -> None:
        if found is not None:
            raise found

    def _tell(self, course: Course) -> None:
        """Print what a service does, where that is another thing than before, or has not moved for another while."""
        doing = self._observer.download_words(course.name) if course.step is Step.DOWNLOADING else _doing(course)
        quiet = int(course.quiet_s // QUIET_REPORTED_EVERY_S)
        restarts = course.sample.state.restarts
        if self._said.get(course.name) == (doing, quiet, restarts):
            return
        self._said[course.name] = (doing, quiet, restarts)
        limits = self._limits(course.name)
        patience = ""
        if quiet:
            patience = (
                f", no progress for {format_seconds(quiet * QUIET_REPORTED_EVERY_S)} ({patience_of(course, limits)})"
            )
        elif course.step not in (Step.READY, Step.WAITING):
            patience = f" (limit {format_seconds(limits.still_s(course.step))} without progress)"
        self._say(course.name, f"{doing}{f' (restart {restarts})' if restarts else ''}{patience}")


def patience_of(course: Course, limits: Limits) -> str:
    """Return the limit of the present silence in words, and why it is longer than the step's own where it is."""
    return f"limit {format_seconds(course.most_s(limits))}" + (" while the processor works" if course.busy else "")


def _doing(course: Course) -> str:
    state = course.sample.state
    return state.detail if state.detail and course.step in (Step.STARTING, Step.SILENT) else course.step.value


def _fell(before: Course | None, state: ServiceState) -> bool:
    """Return whether a service has fallen since the last sample; at the first, whether it fell and is not back yet."""
    if before is None:
        return state.restarts > 0 and state.phase is not ServicePhase.HEALTHY
    return state.restarts > before.sample.state.restarts


_OTHERS: Mapping[Role, tuple[str, Callable[[Endpoint, str, str, int], Answer]]] = {
    Role.EMBEDDING: ("an embedding", embed),
    Role.RERANK: ("a ranking", rank),
    Role.TRANSCRIPTION: ("a transcript", transcribe),
}


def _questions(stack: Stack, key: str) -> list[Question]:
    """Return what has to be answered before a stack is ready, the cheapest first."""
    endpoint = endpoint_of(stack)
    models = tuple(model.name for model in stack.plan.models)
    questions = [
        Question(what="asked with a wrong key", ask=partial(refuse_wrong_key, endpoint, models[0])),
        Question(what="asked for its models", ask=partial(list_models, endpoint, key, models)),
    ]
    for served in stack.plan.models:
        model, role, within_s = served.name, served.role, _answer_limit_s(stack, served)
        if not role.generates:
            what, ask = _OTHERS[role]
            questions.append(
                Question(
                    what=f"asked for {what} of {model}", ask=partial(ask, endpoint, key, model, within_s), model=model
                )
            )
            continue
        questions += [
            Question(
                what=f"asked for a completion of {model}",
                ask=partial(complete, endpoint, key, model, within_s),
                model=model,
            ),
            Question(what=f"asked for a stream of {model}", ask=partial(stream, endpoint, key, model, within_s)),
        ]
    smoked = ((service, service.smoke) for service in stack.services)
    questions += [
        Question(what=f"asked {smoke.what}", ask=partial(ask_smoke, stack, service, smoke), service=service.name)
        for service, smoke in smoked
        if smoke is not None
    ]
    return questions


def _answer_limit_s(stack: Stack, model: ServedModel) -> int:
    """Return how long an answer may take; of models that take turns, one may have to be loaded first."""
    return int(stack.value(stack.access.answers_within_s)) if model.exclusive else ANSWER_TIMEOUT_S


def _ask(questions: list[Question], say: Say, front: str, answers: dict[str, str]) -> Answer | None:
    """Ask what has not been answered yet; return the first refusal, or None once everything has been answered."""
    while questions:
        who = questions[0].service or front
        say(who, questions[0].what)
        answer = questions[0].ask()
        if not answer.ok:
            return answer
        answered = questions.pop(0)
        if answered.model is not None:
            answers[answered.model] = answer.text
        if all((question.service or front) != who for question in questions):
            say(who, "answered")
    return None
