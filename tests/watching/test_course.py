"""The state machine over one service: what counts as movement, and when a silence has lasted too long."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.service import Effort, ServicePhase, ServiceState, Step
from stackwright.watching.course import LONGEST_SAMPLE_S, READ_BYTES, Course, Sample, advance, begin, stands_still
from stackwright.watching.health import MOST_RESTARTS
from stackwright.watching.limits import BUSY_SHARE, PAST_FACTOR, SLOWEST_DISK_BYTES_PER_S, Limits
from stackwright.watching.watch import patience_of

NO_LIMITS = Limits()
LOADS = ServiceState(name="engine", phase=ServicePhase.STARTING)
LOADING = Sample(state=LOADS, step=Step.LOADING)
HEALTHY = Sample(state=replace(LOADS, phase=ServicePhase.HEALTHY))
UNHEALTHY = Sample(state=replace(LOADS, phase=ServicePhase.UNHEALTHY))


def follow(*looks: tuple[Sample, float]) -> Course:
    """Return the course after these looks, each with the seconds since the one before it."""
    course = begin(looks[0][0])
    for sample, elapsed_s in looks[1:]:
        course = advance(course, sample, elapsed_s)
    return course


def worked(sample: Sample, cpu_s: float, read_bytes: int | None = None) -> Sample:
    """Return a look at a service whose processes have done so much."""
    return replace(sample, state=replace(sample.state, effort=Effort(cpu_s=cpu_s, read_bytes=read_bytes)))


def silence_s(sample: Sample, limits: Limits = NO_LIMITS, cpu_share: float = 0.0) -> float:
    """Return how long the same look, with so much of a processor in use, is borne; in steps of five seconds."""
    course = begin(worked(sample, 0))
    for now_s in count(5, 5):
        course = advance(course, worked(sample, now_s * cpu_share), 5)
        if stands_still(course, limits):
            return now_s - 5
    raise AssertionError


@pytest.mark.parametrize(
    ("step", "silence"),
    [
        (None, 300),
        (Step.DOWNLOADING, 600),
        (Step.LOADING, 120),
        (Step.PROFILING, 600),
        (Step.COMPILING, 900),
        (Step.CAPTURING, 600),
        (Step.OPENING, 120),
    ],
)
def test_each_step_has_its_limit(step: Step | None, silence: float) -> None:
    sample = Sample(state=LOADS, step=step)
    assert silence_s(sample) == silence
    # Processor time alone stretches it: compiling looks like that, and so does a rank that spins.
    assert silence_s(sample, cpu_share=1) == silence / BUSY_SHARE


def test_the_longest_compilation_on_record_is_borne() -> None:
    """2220 s without a word, the processor at work (vllm#34399)."""
    assert silence_s(Sample(state=LOADS, step=Step.COMPILING), cpu_share=1) > 2220


def test_a_large_file_may_take_its_time() -> None:
    assert silence_s(LOADING, Limits(largest_file_bytes=100 * SLOWEST_DISK_BYTES_PER_S)) == 220
    assert silence_s(Sample(state=LOADS), Limits(largest_file_bytes=100 * SLOWEST_DISK_BYTES_PER_S)) == 300


def test_past_starts_lengthen_a_limit_and_never_shorten_it() -> None:
    assert silence_s(LOADING, Limits(past_s={Step.LOADING: 100})) == PAST_FACTOR * 100
    assert silence_s(LOADING, Limits(past_s={Step.LOADING: 1})) == 120


def test_service_removed_by_hand_is_given_up_soon() -> None:
    assert silence_s(Sample(state=replace(LOADS, phase=ServicePhase.ABSENT))) == 60


MOVES = {
    "the log says something new": replace(LOADING, lines=frozenset({"new"})),
    "bytes arrive": replace(LOADING, arrived_bytes=1),
    "another step": replace(LOADING, step=Step.PROFILING),
    "another start, by its first line": replace(LOADING, start="INFO 11-21 03:44:45"),
    "another start, by the runtime's count": replace(LOADING, state=replace(LOADS, restarts=1)),
    "it has its turn": replace(LOADING, held=True),
    "a disk is read": worked(LOADING, 0, READ_BYTES),
}


@pytest.mark.parametrize("sample", MOVES.values(), ids=MOVES)
def test_what_moves_is_not_still(sample: Sample) -> None:
    still = worked(LOADING, 0, 0)
    course = follow((still, 0), (still, 25), (still, 25))
    assert (course.still_s, course.quiet_s) == (50, 50)
    moved = advance(course, sample, 25)
    assert (moved.still_s, moved.quiet_s) == (0, 0)


STAYS = {
    "the same again": LOADING,
    "less of the log": replace(LOADING, lines=frozenset()),
    "fewer bytes": replace(LOADING, arrived_bytes=5),
    "its first line out of sight": replace(LOADING, start=None),
    "a page is read": worked(LOADING, 0, READ_BYTES - 1),
    "its processes are out of sight": replace(LOADING, state=replace(LOADS, effort=None)),
}


@pytest.mark.parametrize("sample", STAYS.values(), ids=STAYS)
def test_what_does_not_move_is_still(sample: Sample) -> None:
    full = replace(worked(LOADING, 0, 0), lines=frozenset({"a"}), arrived_bytes=9, start="INFO 11-21 03:44:45")
    assert follow((full, 0), (sample, 20)).still_s == 20


def test_a_machine_that_slept_is_given_a_chance() -> None:
    """Nothing could move while nothing ran, this program included."""
    course = follow((LOADING, 0), (LOADING, 90_000))
    assert course.still_s == LONGEST_SAMPLE_S
    assert not stands_still(course, NO_LIMITS)


def test_a_step_is_remembered_when_its_line_has_scrolled_away() -> None:
    gone = Sample(state=LOADS, step=None)
    assert follow((LOADING, 0), (replace(LOADING, step=Step.COMPILING), 1), (gone, 1)).step is Step.COMPILING


def test_a_download_goes_over_into_loading_with_a_fresh_limit() -> None:
    """The last file is renamed: no byte more, and what stood still before was the network."""
    download = replace(LOADING, step=Step.DOWNLOADING, arrived_bytes=9)
    course = follow(
        (LOADING, 0), (download, 1), *((download, 29) for _ in range(10)), (replace(LOADING, arrived_bytes=9), 1)
    )
    assert (course.step, course.still_s) == (Step.LOADING, 0)


def test_another_start_forgets_what_the_one_before_said() -> None:
    """It says the same once more, and that is movement."""
    said = replace(LOADING, lines=frozenset({"3/24"}), start="first")
    empty = replace(LOADING, start="second")
    course = follow((said, 0), (empty, 10), (empty, 10), (replace(said, start="second"), 10))
    assert (course.still_s, course.spent) == (0, {Step.LOADING: 20})


def test_health_that_comes_and_goes_adds_up() -> None:
    looks = [(HEALTHY, 5.0), (UNHEALTHY, 5.0)] * 40
    course = follow(*looks)
    assert course.step is Step.SILENT
    assert stands_still(course, NO_LIMITS)
    assert not stands_still(advance(course, HEALTHY, 1), NO_LIMITS)


def test_an_unhealthy_engine_that_loads_is_starting() -> None:
    """Compose calls it so once its start period is over; a long download is no illness."""
    assert follow((LOADING, 0), (replace(UNHEALTHY, step=Step.DOWNLOADING), 1)).step is Step.DOWNLOADING


def test_how_long_a_silence_may_last_is_told_truly() -> None:
    course = follow((worked(LOADING, 0), 0), *((worked(LOADING, 0), 10) for _ in range(3)))
    assert course.most_s(NO_LIMITS) == 120
    busy = advance(course, worked(LOADING, 10), 10)
    assert busy.most_s(NO_LIMITS) == 40 + (120 - 32.5) / BUSY_SHARE
    assert patience_of(course, NO_LIMITS) == "limit 2m00s"
    assert patience_of(busy, NO_LIMITS) == "limit 6m30s while the processor works"


WORLD = st.builds(
    Sample,
    state=st.builds(
        ServiceState,
        name=st.just("engine"),
        phase=st.sampled_from(
            [ServicePhase.STARTING, ServicePhase.UNHEALTHY, ServicePhase.WAITING, ServicePhase.ABSENT]
        ),
        restarts=st.integers(0, MOST_RESTARTS),
        effort=st.none() | st.builds(Effort, cpu_s=st.floats(0, 1e6), read_bytes=st.none() | st.integers(0, 2**40)),
    ),
    step=st.none() | st.sampled_from([Step.DOWNLOADING, Step.LOADING, Step.COMPILING, Step.OPENING]),
    start=st.none() | st.sampled_from(["first", "second"]),
    lines=st.frozensets(st.integers(0, 5).map(str)),
    arrived_bytes=st.integers(0, 10**12),
    held=st.booleans(),
)
PAUSES = st.floats(0.1, LONGEST_SAMPLE_S)


@given(st.lists(st.tuples(WORLD, PAUSES), min_size=1), st.data())
def test_whatever_happened_a_service_that_moves_is_never_given_up(
    looks: list[tuple[Sample, float]], data: st.DataObject
) -> None:
    """A line more before the limit is over, again and again, however little else can be said for it."""
    course = follow(*looks)
    assert not stands_still(
        advance(course, replace(looks[-1][0], lines=frozenset({"first"}), arrived_bytes=2**50), 30), NO_LIMITS
    )
    for number in range(20):
        limit_s = NO_LIMITS.still_s(course.step)
        pauses = data.draw(st.integers(1, int(limit_s / LONGEST_SAMPLE_S)))
        news = replace(looks[-1][0], lines=frozenset({f"line {number}"}))
        course = advance(course, news, LONGEST_SAMPLE_S)
        for _ in range(pauses - 1):
            course = advance(course, news, LONGEST_SAMPLE_S)
            assert not stands_still(course, NO_LIMITS)


@given(st.lists(st.tuples(WORLD, PAUSES), min_size=1), st.floats(0, 8))
def test_whatever_happened_a_service_that_stands_still_is_given_up(
    looks: list[tuple[Sample, float]], cpu_share: float
) -> None:
    """However busy it is meanwhile, within four times the limit."""
    last = replace(looks[-1][0], held=False)
    course = follow(*looks)
    course = advance(course, worked(last, 0), 1)
    patience_s = NO_LIMITS.still_s(course.step) / BUSY_SHARE + 2 * LONGEST_SAMPLE_S
    now_s = 0.0
    while now_s < patience_s:
        now_s += 20
        course = advance(course, worked(last, now_s * cpu_share), 20)
    assert stands_still(course, NO_LIMITS)
