"""The work of `stackwright tune`: start each change safely, measure it, and leave what is best, or all as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.bench import Bench, LoadOptions, own_model, place_of
from stackwright.commands.bring_up import LEFT, Attempt, bring_up
from stackwright.commands.choices import wished_words
from stackwright.commands.configure import Configured, compare, configure_environment, release_of, write_environments
from stackwright.commands.generation import put_back
from stackwright.commands.options import PlanOptions, StartOptions
from stackwright.commands.paths import ProjectPaths
from stackwright.commands.stack import choose_runtime, load_stack
from stackwright.commands.start_environment import StartArguments, make_ready
from stackwright.domain.choices import TunedSetting
from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.host import Host
from stackwright.domain.load import Point, Round
from stackwright.domain.plan import Plan
from stackwright.domain.tuning import Change, Confirmation, Outcome, Tried, TuneState
from stackwright.errors import NoPlanError, StackError, UsageError
from stackwright.interrupts import shielded
from stackwright.load.prompts import Scale
from stackwright.load.search import (
    BASELINE_ROUNDS,
    TRIAL_ROUNDS,
    Costs,
    RoundsVerdict,
    all_values,
    best_of,
    best_rounds,
    confirms,
    costs_of,
    judge,
    next_change,
    noise_of,
)
from stackwright.planning.tuning import objection_to
from stackwright.project import folder as project
from stackwright.project.generations import Generations
from stackwright.project.lock import Lock
from stackwright.project.searches import keep_search, words_file
from stackwright.rendering.tune_page import describe_rounds, describe_sent, tried_line
from stackwright.units import format_seconds

# A start whose length nobody has seen yet: judgement, 2026-11-30, for a model of a few GB.
UNSEEN_START_S = 120.0


class Workshop(Struct, frozen=True, kw_only=True):
    """Where a search works: an environment, with its plan before, on this host. `lock`: None only to look.

    `runtime` is its name; `usual_start_s`: how long a start took earlier, None where nobody knows.
    """

    paths: ProjectPaths
    own: EnvironmentPaths
    lock: Lock | None
    host: Host
    plan: Plan
    load: LoadOptions
    runtime: str
    usual_start_s: float | None = None

    def configure(self, settings: Mapping[str, str]) -> Configured:
        """Plan and render with some settings beside what is remembered. Raises NoPlanError, UsageError."""
        options = PlanOptions(passing=tuple(settings.items()))
        return configure_environment(options, self.paths, self.host, self.own.environment)

    def try_plan(self, settings: Mapping[str, str], model: str) -> tuple[Plan | None, str | None]:
        """Return the plan with some settings, None where there is none, and why they are not to be tried."""
        try:
            plan = self.configure(settings).plan
        except (NoPlanError, UsageError) as failure:
            return None, failure.message
        return plan, objection_to(self.plan, plan, model)


def bring_back(own: EnvironmentPaths, lock: Lock, number: int, runtime: str, host: Host) -> None:
    """Put the files of a generation back, and bring it up by a runtime, by its name. Raises StackError."""
    stack = put_back(own, number)
    bring_up(
        Attempt(
            options=StartOptions(),
            stack=stack,
            number=number,
            runtime=choose_runtime(runtime, stack, host),
            lock=lock,
            runtime_of=lambda other: choose_runtime(runtime, other, host),
        )
    )


class Tuner:
    """One search. `state` is what it has come to, written down after each step."""

    def __init__(self, workshop: Workshop, state: TuneState) -> None:
        """Take up a search where it stands; what ran before it runs now."""
        if workshop.lock is None:
            raise ValueError("a search changes what runs: its environment has to be held")
        self._workshop, self._lock, self.state = workshop, workshop.lock, state
        self._headline = report.Headline()
        self._running: dict[str, str] | None = {}
        self._scale: Scale | None = None
        self._since = time.monotonic()
        self._kept = False

    def run(self) -> TuneState:
        """Search to the end, and return what came of it. Whatever ends it earlier, what ran before runs again.

        Raises:
            StackError, KeyboardInterrupt: with that done, and said.
        """
        try:
            self._measure_baseline()
            while (change := self._next()) is not None:
                self._try(change)
            self._end()
        except BaseException as failure:
            self._headline.clear()
            if self._kept:
                raise
            now = self._restore()
            again = f"`stackwright tune {self.state.environment}` goes on from here"
            if isinstance(failure, StackError):
                raise type(failure)(f"{failure.message}; {now}", hint=failure.hint or again) from None
            report.tell(f"{now}; {again}")
            raise
        finally:
            self._headline.clear()
        return self.state

    def _keep(self, **changes: object) -> None:
        """Write down what is new, and the time that has passed."""
        now = time.monotonic()
        passed, self._since = now - self._since, now
        spent = replace(self.state.time, total_s=self.state.time.total_s + passed)
        self.state = replace(self.state, time=spent, **changes)
        keep_search(self._workshop.own, self.state)

    def _note_time(self, **changes: float) -> None:
        self.state = replace(self.state, time=replace(self.state.time, **changes))

    def _costs(self) -> Costs:
        usual = self._workshop.usual_start_s or UNSEEN_START_S
        found = costs_of(self.state.time, usual)
        return found or Costs(start_s=usual, round_s=0.0)

    def _measure_baseline(self) -> None:
        if not self.state.baseline:
            words_file(self._workshop.own).unlink(missing_ok=True)
            self._headline.step("measuring what runs now")
            begun = time.monotonic()
            rounds = self._measure()
            if any(one.failed for one in rounds):
                errors = next(one.errors for one in rounds if one.failed)
                raise UsageError(
                    f"requests fail before anything is changed: {', '.join(errors)}",
                    hint="lower the load: `--concurrency N`",
                )
            self._note_time(rounds_s=time.monotonic() - begun)
            self._keep(baseline=rounds, noise=noise_of(self.state.ground.aim, rounds))
        noise = self.state.noise or 0.0
        self._headline.stay(f"before: {describe_rounds(self.state.baseline)}; noise {noise:.1%}")
        costs = self._costs()
        self._headline.stay(
            f"about {format_seconds(costs.trial_s)} for each change, {format_seconds(costs.end_s)} for the "
            f"confirmation, of {format_seconds(self.state.time.left_s)} that are left"
        )

    def _next(self) -> Change | None:
        """Return what to try next; None where nothing is left, or no time.

        Raises:
            UsageError: the time is not enough for a single change.
        """
        change = next_change(self.state.ground.axes, self.state.tried)
        self._keep()
        costs = self._costs()
        if change is None or self.state.time.left_s >= costs.trial_s + costs.end_s:
            return change
        if not any(one.rounds for one in self.state.tried):
            more = int((costs.trial_s + costs.end_s) / 60) + 1
            raise UsageError(
                f"--minutes: {self.state.time.minutes} are too few: one change and its confirmation take about {more} "
                "beside the first measurement",
                hint=f"go on with more: `stackwright tune {self.state.environment} --minutes {more}`",
            )
        return None

    def _try(self, change: Change) -> None:
        """Start a change and measure it, as long as it may be better; note what came of it."""
        axis = next(axis for axis in self.state.ground.axes if axis.key == change.key)
        number, most = len(self.state.tried) + 1, len(all_values(self.state.ground.axes))
        left = format_seconds(self.state.time.left_s)
        self._headline.step(
            f"change {number} of at most {most}: {change.key} {axis.now} → {change.value} ({left} left)"
        )
        model = own_model(self._workshop.plan, self.state.ground.load.model).name
        _, objection = self._workshop.try_plan(change.settings, model)
        if objection is not None:
            tried = Tried(change=change, outcome=Outcome.LEFT_OUT, note=objection)
        else:
            try:
                self._start(change.settings)
            except StackError as failure:
                self._recover()
                note = failure.message.removesuffix(f"; {LEFT}")
                tried = Tried(change=change, outcome=Outcome.FAILED, note=note)
            else:
                tried = self._measure_change(change)
        self._keep(tried=(*self.state.tried, tried))
        self._headline.stay(tried_line(tried, axis))

    def _measure_change(self, change: Change) -> Tried:
        """Measure what runs, the first round alone: it may show that no more are worth their time."""
        bench = self._prepared()
        rounds = self._rounds(bench, (0, 1))[1:]
        judged = self._judge(rounds)
        if judged.outcome is None:
            self._headline.detail(describe_rounds(rounds))
            rounds += self._rounds(bench, range(2, TRIAL_ROUNDS + 1))
            judged = self._judge(rounds)
        outcome = judged.outcome or Outcome.NO_BETTER
        return Tried(change=change, outcome=outcome, note=judged.note, gain=judged.gain, rounds=rounds)

    def _judge(self, rounds: Sequence[Round]) -> RoundsVerdict:
        return judge(self.state.ground.aim, self.state.noise or 0.0, best_rounds(self.state), rounds)

    def _measure(self) -> tuple[Round, ...]:
        """Measure what runs, after a round that warms it up."""
        return self._rounds(self._prepared(), range(BASELINE_ROUNDS + 1))[1:]

    def _rounds(self, bench: Bench, numbers: Sequence[int]) -> tuple[Round, ...]:
        return bench.measure(Point(concurrency=self.state.ground.load.at_once), numbers, self.state.name)

    def _prepared(self) -> Bench:
        """Return the load on what runs now; the same prompts for all of it."""
        stack = load_stack(self._workshop.own)
        asked = self.state.ground.load.model
        place = place_of(stack, own_model(stack.plan, asked), self._workshop.runtime)
        bench = Bench(stack, asked, place, self._workshop.load, self._scale)
        self._scale = bench.scale
        return bench

    def _start(self, settings: dict[str, str]) -> None:
        """Bring up what is wished with these settings; none: what ran before. Raises StackError."""
        if self._running == settings:
            return
        self._running = None
        with self._without_service():
            begun = time.monotonic()
            if settings:
                configured = self._workshop.configure(settings)
                write_environments(self._workshop.paths, ((configured, compare(configured)),), trial=True)
                bring_up(self._ready())
            else:
                self._bring_back()
        self._running = settings
        # The longest: one that restarts the gateway alone says nothing of an engine's.
        self._note_time(start_s=max(time.monotonic() - begun, self.state.time.start_s or 0.0))
        self._keep()

    def _ready(self) -> Attempt:
        # Undone here, where what ran before the search comes back, and not what was tried before.
        start = StartOptions(timeout_s=max(self.state.time.left_s, UNSEEN_START_S), no_rollback=True)
        environment, runtime = self._workshop.own.environment, self._workshop.runtime
        arguments = StartArguments(environment=environment, start=start, runtime=runtime)
        return make_ready(arguments, self._workshop.paths, self._lock)

    def _bring_back(self) -> None:
        shop = self._workshop
        bring_back(shop.own, self._lock, self.state.ground.generation, shop.runtime, shop.host)

    def _recover(self) -> None:
        """After a change that did not start, make sure that what ran then runs, with its files.

        Raises:
            StackError: it does not, and what ran before the search does not either.
        """
        self._running = None
        running = Generations(self._workshop.own).running()
        if self._lock.work.starting or running is None:
            with self._without_service():
                self._bring_back()
            self._running = {}
            return
        with self._aside():  # what was refused before anything was touched has left its files
            put_back(self._workshop.own, running.number)

    def _end(self) -> None:
        """Confirm what is best against what was before, each started anew, and write it; else put all back."""
        best = best_of(self.state.tried)
        if not best:
            self._settle_as_before("nothing was better: everything is as it was")
            return
        state = self.state
        if not state.confirmation.before:
            self._headline.step("confirming: what was before, started anew")
            self._start({})
            self._keep(confirmation=Confirmation(before=self._measure()))
        words = ", ".join(f"{key}={value}" for key, value in best.items())
        self._headline.step(f"confirming: {words}, started anew")
        self._start(best)
        after = self._measure()
        self._keep(confirmation=replace(self.state.confirmation, after=after))
        better, said = confirms(state.ground.aim, self.state.confirmation.before, after)
        if not better:
            self._settle_as_before(f"{words} was not confirmed ({said}): everything is as it was")
            return
        self._write(best, said)

    def _settle_as_before(self, ended: str) -> None:
        self._start({})
        self._sweep()
        self._keep(ended=ended)

    def _sweep(self) -> None:
        Generations(self._workshop.own).drop_trials()

    def _write(self, best: dict[str, str], said: str) -> None:
        """Remember the best settings with their measurement as reason; what runs goes on."""
        shop, state = self._workshop, self.state
        day = time.strftime("%Y-%m-%d")
        model = own_model(shop.plan, state.ground.load.model)
        wished = wished_words(project.read_wishes(shop.own))
        reason = f"measured: {said} ({describe_sent(state.ground.load)})"
        tuned = {
            key: TunedSetting(
                value=value,
                reason=reason,
                measured=day,
                model=model.location,
                engine=release_of(model.engine),
                beside=wished[key].text if key in wished else None,
            )
            for key, value in best.items()
        }
        self._headline.step("writing the settings")
        with self._aside():
            configured = configure_environment(PlanOptions(tuned=tuned), shop.paths, shop.host, shop.own.environment)
            write_environments(shop.paths, ((configured, compare(configured)),))
            bring_up(self._ready())
        self._kept = True
        self._sweep()
        words = " ".join(f"{key}={value}" for key, value in best.items())
        self._keep(ended=f"written: {words}: {said}", kept=best)

    def _restore(self) -> str:
        """Bring back what ran before the search, and return what runs now."""
        generation = self.state.ground.generation
        with shielded(lambda: report.warn("still putting everything back; interrupt again to leave it as it is")):
            try:
                running = Generations(self._workshop.own).running()
                if self._running != {} or running is None or running.number != generation:
                    report.tell(f"restoring generation {generation}, which ran before")
                    with self._aside():
                        self._bring_back()
                self._sweep()
            except StackError as failure:
                return f"generation {generation}, which ran before, cannot be restored: {failure.message}"
            with suppress(UsageError):  # a disk that is full may be what ended the search
                self._keep()
        return f"everything is as before: generation {generation} runs"

    @contextmanager
    def _without_service(self) -> Iterator[None]:
        """Count the time, and keep what is said aside."""
        begun = time.monotonic()
        try:
            with self._aside():
                yield
        finally:
            took = time.monotonic() - begun
            self._note_time(without_service_s=self.state.time.without_service_s + took)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Keep what starts say in a file, and show its last line."""
        with report.aside(words_file(self._workshop.own), self._headline.detail):
            yield
