"""The store of jobs: each ends once, whoever dies; retries, the dead, room, and what is forgotten."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multimodal.jobs import (
    DEAD,
    DONE,
    ENDED,
    FAILED,
    FIRST_PAUSE_S,
    MOST_INTERRUPTIONS,
    QUEUED,
    RUNNING,
    FullError,
    Job,
    Jobs,
    LostClaimError,
    NewJob,
    OtherReleaseError,
    Room,
    new_id,
)

ROOM = Room(jobs=100, bytes=10**9)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """A new store."""
    return Jobs(tmp_path / "jobs.sqlite")


def add(jobs: Jobs, owner: str = "alice", *, request_key: str | None = None, length: int = 10) -> Job:
    """Queue a job."""
    new = NewJob(id=new_id(), owner=owner, name="a.png", bytes=length, sha256="0", want={}, request_key=request_key)
    return jobs.add(new, ROOM)[0]


def claimed(jobs: Jobs, worker: int = 1) -> Job:
    """Give a worker the next job, which there is."""
    job = jobs.claim(worker)
    assert job is not None
    return job


def must(jobs: Jobs, job: Job) -> Job:
    """Return a job as it stands."""
    found = jobs.find(job.id)
    assert found is not None
    return found


def test_a_job_is_claimed_once_and_ends_once(jobs: Jobs) -> None:
    queued = add(jobs)
    job = claimed(jobs)

    assert (job.id, job.state, job.attempts, jobs.claim(2)) == (queued.id, RUNNING, 1, None)
    jobs.touch(job, 0.5, "reading the file")
    jobs.finish(job, {"text": "red"}, 7)
    found = must(jobs, job)
    assert (found.state, found.result, found.results, found.kept_bytes) == (DONE, {"text": "red"}, 1, 7)
    for write in WRITES.values():
        with pytest.raises(LostClaimError):
            write(jobs, job)
    with pytest.raises(LostClaimError):
        jobs.touch(job, 1, "")
    assert must(jobs, job).result == {"text": "red"}


def test_whoever_lost_a_job_changes_nothing_of_it(jobs: Jobs) -> None:
    add(jobs)
    lost = claimed(jobs, worker=1)
    assert jobs.release(1) == 1
    job = claimed(jobs, worker=2)

    with pytest.raises(LostClaimError):
        jobs.finish(lost, {"text": "late"}, 0)
    with pytest.raises(LostClaimError):
        jobs.keep_step(lost, "read", {"of": "the first"})
    assert jobs.steps(job) == {}
    jobs.finish(job, {"text": "right"}, 0)
    assert must(jobs, job).result == {"text": "right"}


def test_steps_are_kept_through_a_death(jobs: Jobs) -> None:
    add(jobs)
    jobs.keep_step(claimed(jobs), "read", {"pages": 3})
    jobs.release(1)

    assert jobs.steps(claimed(jobs, 2)) == {"read": {"pages": 3}}


def test_a_worker_that_dies_each_time_makes_a_job_dead(jobs: Jobs) -> None:
    job = add(jobs)
    for _ in range(MOST_INTERRUPTIONS - 1):
        claimed(jobs)
        jobs.release(1)
    jobs.keep_step(claimed(jobs), "read", {})  # one step further: the count begins anew
    jobs.release(1)
    for _ in range(MOST_INTERRUPTIONS - 2):
        claimed(jobs)
        jobs.release(1)
    assert must(jobs, job).state == QUEUED

    claimed(jobs)
    jobs.release(1)
    found = must(jobs, job)
    assert (found.state, found.reason) == (DEAD, "the worker died 20 times before this job came a step further")


def test_a_stop_of_the_service_counts_as_no_death(jobs: Jobs) -> None:
    job = add(jobs)
    for _ in range(3 * MOST_INTERRUPTIONS):
        claimed(jobs)
        assert jobs.release(is_counted=False) == 1

    assert must(jobs, job).state == QUEUED


def test_failures_are_retried_later_and_then_end(jobs: Jobs) -> None:
    job = add(jobs)
    jobs.put_off(claimed(jobs), "busy", most_failures=2)
    found = must(jobs, job)

    assert (found.state, found.reason) == (QUEUED, "busy")
    assert found.due_s - time.time() == pytest.approx(FIRST_PAUSE_S, abs=1)
    assert jobs.claim(1) is None
    assert jobs.next_due_s() == found.due_s
    jobs._base.execute("UPDATE jobs SET due_s = 0")
    jobs.put_off(claimed(jobs), "busy", most_failures=2)
    found = must(jobs, job)
    assert (found.state, found.reason) == (DEAD, "busy (tried 2 times)")


def test_the_wait_that_a_limit_asks_for_is_no_failure(jobs: Jobs) -> None:
    job = add(jobs)
    for _ in range(5):
        jobs.put_off(claimed(jobs), "429", most_failures=2, pause_s=0)

    assert (must(jobs, job).state, must(jobs, job).failures) == (QUEUED, 0)


def test_the_dead_and_the_failed_are_played_again_by_their_owner(jobs: Jobs) -> None:
    job = add(jobs)
    jobs.fail(claimed(jobs), "no speech model")

    assert [row.id for row in jobs.listed("alice", (FAILED, DEAD), 10)] == [job.id]
    assert jobs.listed("bob", (FAILED, DEAD), 10) == []
    assert jobs.replay(job.id, "bob") is None
    again = jobs.replay(job.id, "alice")
    assert again is not None
    assert (again.state, again.reason, again.failures) == (QUEUED, None, 0)
    assert jobs.replay(job.id, "alice") is None
    assert claimed(jobs).attempts == 2


def test_owners_take_turns(jobs: Jobs) -> None:
    for _ in range(3):
        add(jobs, "alice")
    add(jobs, "bob")

    assert [claimed(jobs, worker).owner for worker in range(4)] == ["alice", "bob", "alice", "alice"]


def test_one_request_makes_one_job(jobs: Jobs) -> None:
    first = add(jobs, request_key="invoice-1")

    assert add(jobs, request_key="invoice-1").id == first.id
    assert add(jobs, "bob", request_key="invoice-1").id != first.id
    assert len(jobs.listed(None, (QUEUED,), 10)) == 2


def test_room_is_bounded_for_each_owner_and_for_all(jobs: Jobs) -> None:
    new = [NewJob(id=new_id(), owner="alice", name="", bytes=600, sha256="", want={}) for _ in range(4)]
    jobs.add(new[0], Room(jobs=2, bytes=1000))

    with pytest.raises(FullError, match="would take more than 1000 bytes"):
        jobs.add(new[1], Room(jobs=2, bytes=1000))
    jobs.add(new[1], Room(jobs=2, bytes=2000))
    with pytest.raises(FullError, match="this key has 2 jobs that are not done; 2 are allowed"):
        jobs.add(new[2], Room(jobs=2, bytes=9000))


def test_a_deleted_job_is_gone_for_its_worker_too(jobs: Jobs) -> None:
    job = add(jobs)
    running = claimed(jobs)

    assert not jobs.delete(job.id, "bob")
    assert jobs.delete(job.id, "alice")
    assert jobs.find(job.id) is None
    with pytest.raises(LostClaimError):
        jobs.finish(running, {}, 0)


def test_what_ended_long_ago_is_forgotten(jobs: Jobs) -> None:
    old, waiting = add(jobs), add(jobs)
    jobs.finish(claimed(jobs), {}, 0)

    assert jobs.forget_before(time.time() - 60) == []
    assert jobs.forget_before(time.time() + 60) == [old.id]
    assert jobs.names() == {waiting.id}


def test_another_releases_file_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite") as base:
        base.execute("PRAGMA user_version = 99")
    base.close()

    with pytest.raises(OtherReleaseError, match="schema 99 is not 1"):
        Jobs(tmp_path / "jobs.sqlite")


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "step", "finish", "fail", "later", "die", "stop", "replay"]), st.integers(0, 2)
    ),
    max_size=60,
)


WRITES: Mapping[str, Callable[[Jobs, Job], None]] = {
    "step": lambda jobs, job: jobs.keep_step(job, "read", {}),
    "finish": lambda jobs, job: jobs.finish(job, {}, 0),
    "fail": lambda jobs, job: jobs.fail(job, "no"),
    "later": lambda jobs, job: jobs.put_off(job, "later", 3),
}


def written(jobs: Jobs, action: str, held: list[Job]) -> list[str]:
    """Do something to all jobs that a worker ever held, as one does that was thought dead; return which it changed."""
    changed = []
    for job in held:
        with contextlib.suppress(LostClaimError):
            WRITES[action](jobs, job)
            changed.append(job.id)
    return changed


@given(actions=ACTIONS)
def test_whatever_happens_a_job_has_at_most_one_result(
    actions: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    jobs = Jobs(tmp_path_factory.mktemp("store") / "jobs.sqlite")
    made = [add(jobs).id for _ in range(3)]
    held: dict[int, list[Job]] = {0: [], 1: [], 2: []}
    results: Counter[str] = Counter()
    for action, worker in actions:
        jobs._base.execute("UPDATE jobs SET due_s = 0")
        if action == "claim" and (job := jobs.claim(worker)) is not None:
            held[worker].append(job)
        elif action == "die":
            jobs.release(worker)
        elif action == "stop":
            jobs.release(is_counted=False)
        elif action == "replay":
            jobs.replay(made[worker], "alice")
        elif action in WRITES:
            changed = written(jobs, action, held[worker])
            results.update(changed if action == "finish" else ())
    found = jobs.listed(None, (QUEUED, RUNNING, *ENDED), 10)
    jobs.close()
    assert {job.id for job in found} == set(made)
    assert {job.id: job.results for job in found if job.results} == dict(results)
    assert max(results.values(), default=0) <= 1
