"""How one service comes along, sample by sample: what moves, and since when nothing does. Pure.

Something moves when the log says something new, when bytes of the model arrive on the disk or are read from one, when
a step is reached for the first time, or when the runtime has begun a start anew. Processor time alone only slows the
count: a spinning wait uses as much of it as a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from stackwright.domain.service import Effort, ServicePhase, ServiceState, Step
from stackwright.watching.limits import BUSY_SHARE, Limits

# Time that passes between two samples beyond this was not the service's: this program, or the machine, stood still.
LONGEST_SAMPLE_S = 30.0
# A waiting Python process wakes up for its timers; a health check of the container is not among its processes.
BUSY_CPU_SHARE = 0.1
# Below it a read may be a page of the program itself.
READ_BYTES = 2**20


class Sample(Struct, frozen=True, kw_only=True):
    """What one sample of a service shows.

    `step` is None where the log names none; `start` tells the log's last start from those before
    (`steps.start_line`), None where its beginning is not in sight; `lines` is what was said since
    (`steps.distinct_lines`); `arrived_bytes` what has been stored of its model.
    `held`: it waits for another service, which is on its way.
    """

    state: ServiceState
    step: Step | None = None
    start: str | None = None
    lines: frozenset[str] = frozenset()
    arrived_bytes: int = 0
    held: bool = False


class Course(Struct, frozen=True, kw_only=True):
    """One service up to its last sample.

    `still_s` is what counts against the limit, `quiet_s` the plain time since something moved; `busy`: the processor
    worked at the last sample. `spent` sums the seconds of each step of the present start.
    """

    sample: Sample
    step: Step
    still_s: float = 0.0
    quiet_s: float = 0.0
    busy: bool = False
    reached: frozenset[Step] = frozenset()
    lines: frozenset[str] = frozenset()
    spent: Mapping[Step, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The service's name."""
        return self.sample.state.name

    def most_s(self, limits: Limits) -> float:
        """Return how long the present silence may last if it goes on as it is, in seconds."""
        left_s = max(limits.still_s(self.step) - self.still_s, 0.0)
        return self.quiet_s + left_s / (BUSY_SHARE if self.busy else 1)


def begin(sample: Sample) -> Course:
    """Return the course of a service that is sampled for the first time."""
    step = _step(sample, frozenset())
    return Course(sample=sample, step=step, reached=frozenset({step}), lines=sample.lines)


def advance(course: Course, sample: Sample, elapsed_s: float) -> Course:
    """Return the course after another sample, `elapsed_s` after the last one."""
    before = course.sample
    anew = sample.state.restarts > before.state.restarts or (sample.start is not None and sample.start != before.start)
    reached = frozenset() if anew else course.reached
    step = _step(sample, reached)
    counted_s = 0.0 if step is Step.READY else min(elapsed_s, LONGEST_SAMPLE_S)
    busy, read = _worked(before.state.effort, sample.state.effort, elapsed_s)
    moved = (
        (anew or sample.held or read)
        or (step not in reached or ({step, course.step} <= _STARTS and step is not course.step))
        or (not sample.lines <= course.lines or sample.arrived_bytes > before.arrived_bytes)
    )
    return Course(
        sample=sample,
        step=step,
        still_s=0.0 if moved else course.still_s + counted_s * (BUSY_SHARE if busy else 1.0),
        quiet_s=0.0 if moved else course.quiet_s + counted_s,
        busy=busy,
        reached=reached | {step},
        lines=sample.lines if anew else course.lines | sample.lines,
        spent={} if anew else {**course.spent, course.step: course.spent.get(course.step, 0.0) + elapsed_s},
    )


def stands_still(course: Course, limits: Limits) -> bool:
    """Return whether a service has stood still for longer than its step may.

    Health that comes and goes is no movement: what it was away for adds up.
    """
    return course.step is not Step.READY and course.still_s > limits.still_s(course.step)


def _step(sample: Sample, reached: frozenset[Step]) -> Step:
    """Name the step. A log whose telling lines have scrolled away does not take a service back to its beginning."""
    phase = sample.state.phase
    plain = {
        ServicePhase.ABSENT: Step.ABSENT,
        ServicePhase.WAITING: Step.WAITING,
        ServicePhase.HEALTHY: Step.READY,
    }.get(phase)
    if plain is not None:
        return plain
    if Step.READY in reached:
        return Step.SILENT
    if sample.step is not None:
        return sample.step
    return next((step for step in reversed(_ORDER) if step in reached), Step.STARTING)


_ORDER = (Step.STARTING, Step.LOADING, Step.PROFILING, Step.COMPILING, Step.CAPTURING, Step.OPENING)
_STARTS = frozenset({*_ORDER, Step.DOWNLOADING})


def _worked(before: Effort | None, now: Effort | None, elapsed_s: float) -> tuple[bool, bool]:
    """Return whether the processor worked for a service between two samples, and whether disks were read for it."""
    if before is None or now is None:
        return False, False
    busy = now.cpu_s - before.cpu_s >= BUSY_CPU_SHARE * elapsed_s and now.cpu_s > before.cpu_s
    read = (now.read_bytes or 0) - (before.read_bytes or 0) >= READ_BYTES
    return busy, read
