"""Jobs and their results, in one SQLite file on the service's own volume (docs/decisions/0080-media-jobs.md).

A job is queued, running, and then done, failed or dead. What a worker may write of a job it may write only while the
job carries the token of its claim: whoever lost the job, by a kill or a deletion, changes nothing any more, so a job
ends once. Every change is one transaction that is on the disk when it returns.

Standard library only. A store is for one thread; each process opens its own.
"""

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STORE = "jobs.sqlite"
SCHEMA = 1

BUSY_S = 30.0
"""How long a change waits for the others': each takes milliseconds, and a stop of the disk longer."""

QUEUED, RUNNING, DONE, FAILED, DEAD = "queued", "running", "done", "failed", "dead"
ENDED = (DONE, FAILED, DEAD)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
"""Before a job is tried again; twice as long each time."""

MOST_INTERRUPTIONS = 20
"""How often in a row the worker of a job may die before the job has come one step further. Files are read in a process
of their own, so a worker dies of what befalls the machine; a job at which it dies each time has to end all the same.
"""

_TABLES = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, request_key TEXT, state TEXT NOT NULL,
    name TEXT NOT NULL, bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, want TEXT NOT NULL,
    created_s REAL NOT NULL, due_s REAL NOT NULL, touched_s REAL NOT NULL, ended_s REAL,
    claim TEXT, worker INTEGER, progress REAL NOT NULL DEFAULT 0, stage TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0, results INTEGER NOT NULL DEFAULT 0,
    kept_bytes INTEGER NOT NULL DEFAULT 0, reason TEXT, result TEXT
);
CREATE UNIQUE INDEX jobs_by_request ON jobs (owner, request_key) WHERE request_key IS NOT NULL;
CREATE INDEX jobs_by_state ON jobs (state, owner, created_s);
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE steps (job TEXT NOT NULL, step TEXT NOT NULL, output TEXT NOT NULL, PRIMARY KEY (job, step)) WITHOUT ROWID;
"""


class OtherReleaseError(Exception):
    """The file was written by another release of this program."""


class LostClaimError(Exception):
    """The job is no longer this worker's: it was deleted, or given to another."""


class FullError(Exception):
    """No more jobs are taken; the message says of what there is too much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What is known of a job when its file has arrived. `request_key`: the client's own name for the request."""

    id: str
    owner: str
    name: str
    bytes: int
    sha256: str
    want: Mapping[str, Any]
    request_key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as it stands. `attempts`: how often it was begun; `failures`: how often it ended for a while."""

    id: str
    owner: str
    state: str
    name: str
    bytes: int
    sha256: str
    want: Mapping[str, Any]
    created_s: float
    due_s: float
    ended_s: float | None
    claim: str | None
    progress: float
    stage: str
    attempts: int
    failures: int
    results: int
    kept_bytes: int
    reason: str | None
    result: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much may be kept: waiting jobs of one owner, and bytes of all files together."""

    jobs: int
    bytes: int


def new_id() -> str:
    """Return a name for a job that nobody can guess."""
    return secrets.token_hex(16)


class Jobs:
    """The store. Times are in Unix seconds."""

    def __init__(self, file: Path) -> None:
        # The server calls from one thread that is not the one that opened it.
        self._base = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        self._base.row_factory = sqlite3.Row
        self._base.execute("PRAGMA journal_mode = WAL")
        # Beside a log WAL's default would lose the last commits with the machine's power: an answered 202 among them.
        self._base.execute("PRAGMA synchronous = FULL")
        with contextlib.ExitStack() as closed:
            closed.callback(self._base.close)
            self._make(file)
            closed.pop_all()

    def _make(self, file: Path) -> None:
        """Make the tables of a new file. Raises OtherReleaseError."""
        with self._change():
            (version,) = self._base.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA user_version = {SCHEMA}")
            elif version != SCHEMA:
                raise OtherReleaseError(f"{file}: schema {version} is not {SCHEMA}: another release wrote it")

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def add(self, new: NewJob, room: Room) -> tuple[Job, bool]:
        """Queue a job; return it, and whether it is new: of a request that was made before, its job is returned.

        Raises:
            FullError: the owner has as many waiting jobs as `room` allows, or the files would not fit.
        """
        now = time.time()
        with self._change():
            if new.request_key is not None:
                row = self._row("owner = ? AND request_key = ?", new.owner, new.request_key)
                if row is not None:
                    return _job(row), False
            self._check_room(new, room)
            self._base.execute(
                "INSERT INTO jobs (id, owner, request_key, state, name, bytes, sha256, want, created_s, due_s, "
                "touched_s, kept_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(new.id, new.owner, new.request_key, QUEUED, new.name, new.bytes, new.sha256),
                    *(json.dumps(new.want), now, now, now, new.bytes),
                ),
            )
            return self._must(new.id), True

    def find(self, job_id: str, owner: str | None = None) -> Job | None:
        """Return a job; None where there is none, or it is not this owner's."""
        row = self._row("id = ?", job_id)
        return _job(row) if row is not None and owner in (None, row["owner"]) else None

    def listed(self, owner: str | None, states: Sequence[str], most: int) -> list[Job]:
        """Return the newest jobs in these states, of one owner or of all."""
        marks = ", ".join("?" * len(states))
        whose = "" if owner is None else " AND owner = ?"
        query = f"SELECT * FROM jobs WHERE state IN ({marks}){whose} ORDER BY created_s DESC, id LIMIT ?"
        values = (*states, *(() if owner is None else (owner,)), most)
        return [_job(row) for row in self._base.execute(query, values)]

    def claim(self, worker: int) -> Job | None:
        """Give the next job to a worker: of the owner who has the fewest running, the one that came first."""
        now = time.time()
        with self._change():
            row = self._base.execute(
                "SELECT id FROM jobs AS job WHERE state = ? AND due_s <= ? ORDER BY "
                "(SELECT count(*) FROM jobs AS other WHERE other.state = ? AND other.owner = job.owner), "
                "created_s, id LIMIT 1",
                (QUEUED, now, RUNNING),
            ).fetchone()
            if row is None:
                return None
            self._base.execute(
                "UPDATE jobs SET state = ?, claim = ?, worker = ?, touched_s = ?, attempts = attempts + 1 WHERE id = ?",
                (RUNNING, secrets.token_hex(8), worker, now, row["id"]),
            )
            self._count("attempts")
            return self._must(row["id"])

    def next_due_s(self) -> float | None:
        """Return when the next waiting job may begin; None where none waits."""
        (due,) = self._base.execute("SELECT min(due_s) FROM jobs WHERE state = ?", (QUEUED,)).fetchone()
        return None if due is None else float(due)

    def touch(self, job: Job, progress: float, stage: str) -> None:
        """Tell how far a job is. Raises LostClaimError."""
        self._write(job, "progress = max(progress, ?), stage = ?, touched_s = ?", (progress, stage, time.time()))

    def steps(self, job: Job) -> dict[str, Any]:
        """Return what earlier attempts have done of a job, by step."""
        rows = self._base.execute("SELECT step, output FROM steps WHERE job = ?", (job.id,))
        return {row["step"]: json.loads(row["output"]) for row in rows}

    def keep_step(self, job: Job, step: str, output: object) -> None:
        """Keep what a step gave, so that no later attempt does it again. Raises LostClaimError."""
        with self._change():
            self._write(job, "interruptions = 0, touched_s = ?", (time.time(),))
            self._base.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?)", (job.id, step, json.dumps(output)))

    def finish(self, job: Job, result: Mapping[str, Any], kept_bytes: int) -> None:
        """End a job with its result. Raises LostClaimError."""
        with self._change():
            changes = "state = ?, result = ?, results = results + 1, kept_bytes = ?, progress = 1, ended_s = ?"
            now = time.time()
            self._write(job, f"{changes}, claim = NULL, stage = ''", (DONE, json.dumps(result), kept_bytes, now))
            self._base.execute("DELETE FROM steps WHERE job = ?", (job.id,))
            self._count(DONE)
            self._count("seconds", now - job.created_s)

    def fail(self, job: Job, reason: str) -> None:
        """End a job that would fail again: the file's fault, or the wish's. Raises LostClaimError."""
        changes = "state = ?, reason = ?, ended_s = ?, claim = NULL, stage = ''"
        with self._change():
            self._write(job, changes, (FAILED, reason, time.time()))
            self._count(FAILED)

    def put_off(self, job: Job, reason: str, most_failures: int, pause_s: float | None = None) -> None:
        """Let a job be tried again later, or be dead after so many failures. Raises LostClaimError.

        `pause_s`: what a limit asks for; such a wait is no failure.
        """
        now, failures = time.time(), job.failures + (pause_s is None)
        if failures >= most_failures:
            changes = "state = ?, failures = ?, reason = ?, ended_s = ?, claim = NULL, stage = ''"
            with self._change():
                self._write(job, changes, (DEAD, failures, f"{reason} (tried {failures} times)", now))
                self._count(DEAD)
            return
        pause = min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S) if pause_s is None else pause_s
        changes = "state = ?, failures = ?, reason = ?, due_s = ?, claim = NULL, stage = ''"
        self._write(job, changes, (QUEUED, failures, reason, now + pause))

    def release(self, worker: int | None = None, *, is_counted: bool = True) -> int:
        """Queue again what a worker held when it died, or all workers; return how many jobs.

        `is_counted`: it is an interruption; else the service itself is being stopped.
        """
        whose, values = ("", ()) if worker is None else (" AND worker = ?", (worker,))
        with self._change():
            told = f"the worker died {MOST_INTERRUPTIONS} times before this job came a step further"
            dead = self._base.execute(
                "UPDATE jobs SET state = ?, reason = ?, ended_s = ?, claim = NULL, stage = '' "
                f"WHERE state = ? AND interruptions + ? >= ?{whose}",
                (DEAD, told, time.time(), RUNNING, is_counted, MOST_INTERRUPTIONS, *values),
            )
            self._count(DEAD, dead.rowcount)
            freed = self._base.execute(
                "UPDATE jobs SET state = ?, claim = NULL, stage = '', interruptions = interruptions + ? "
                f"WHERE state = ?{whose}",
                (QUEUED, is_counted, RUNNING, *values),
            )
            self._count("interruptions", freed.rowcount if is_counted else 0)
            return freed.rowcount

    def replay(self, job_id: str, owner: str | None) -> Job | None:
        """Queue a failed or dead job again; what its steps gave is kept. None where it is neither, or another's."""
        now = time.time()
        whose, values = ("", ()) if owner is None else (" AND owner = ?", (owner,))
        with self._change():
            changed = self._base.execute(
                "UPDATE jobs SET state = ?, reason = NULL, ended_s = NULL, failures = 0, interruptions = 0, due_s = ? "
                f"WHERE id = ? AND state IN (?, ?){whose}",
                (QUEUED, now, job_id, FAILED, DEAD, *values),
            )
            return self._must(job_id) if changed.rowcount else None

    def delete(self, job_id: str, owner: str) -> bool:
        """Forget a job; whoever works on it notices. Return whether there was one of this owner's."""
        with self._change():
            changed = self._base.execute("DELETE FROM jobs WHERE id = ? AND owner = ?", (job_id, owner))
            if changed.rowcount:
                self._base.execute("DELETE FROM steps WHERE job = ?", (job_id,))
            return bool(changed.rowcount)

    def forget_before(self, ended_s: float) -> list[str]:
        """Forget the jobs that ended before; return their names, whose files nobody needs."""
        with self._change():
            marks = ", ".join("?" * len(ENDED))
            old = "SELECT id FROM jobs WHERE ended_s < ? AND state IN"
            names = [str(row["id"]) for row in self._base.execute(f"{old} ({marks})", (ended_s, *ENDED))]
            self._base.executemany("DELETE FROM jobs WHERE id = ?", ((name,) for name in names))
            self._base.executemany("DELETE FROM steps WHERE job = ?", ((name,) for name in names))
            return names

    def names(self) -> frozenset[str]:
        """Return the names of all jobs."""
        return frozenset(str(row["id"]) for row in self._base.execute("SELECT id FROM jobs"))

    def stalled(self, before_s: float) -> list[int]:
        """Return the workers that have told nothing of their job since."""
        rows = self._base.execute("SELECT worker FROM jobs WHERE state = ? AND touched_s < ?", (RUNNING, before_s))
        return [int(row["worker"]) for row in rows]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        rows = self._base.execute("SELECT state, count(*) AS number FROM jobs GROUP BY state")
        found = {str(row["state"]): int(row["number"]) for row in rows}
        return {state: found.get(state, 0) for state in (QUEUED, RUNNING, *ENDED)}

    def totals(self) -> dict[str, float]:
        """Return what was counted since the file was made."""
        return {str(row["name"]): float(row["value"]) for row in self._base.execute("SELECT name, value FROM totals")}

    def kept_bytes(self) -> int:
        """Return how many bytes the files of all jobs have."""
        return int(self._base.execute("SELECT coalesce(sum(kept_bytes), 0) FROM jobs").fetchone()[0])

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction, alone."""
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    def _count(self, name: str, by: float = 1) -> None:
        self._base.execute(
            "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, by),
        )

    def _write(self, job: Job, changes: str, values: Sequence[object]) -> None:
        """Change a job while it is this claim's."""
        query = f"UPDATE jobs SET {changes} WHERE id = ? AND claim = ? AND state = ?"
        if not self._base.execute(query, (*values, job.id, job.claim, RUNNING)).rowcount:
            raise LostClaimError(job.id)

    def _check_room(self, new: NewJob, room: Room) -> None:
        waiting = "SELECT count(*) FROM jobs WHERE owner = ? AND state IN (?, ?)"
        (number,) = self._base.execute(waiting, (new.owner, QUEUED, RUNNING)).fetchone()
        if number >= room.jobs:
            raise FullError(f"this key has {number} jobs that are not done; {room.jobs} are allowed")
        if self.kept_bytes() + new.bytes > room.bytes:
            raise FullError(f"the files of all jobs would take more than {room.bytes} bytes; delete jobs that are done")

    def _row(self, where: str, *values: object) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._base.execute(f"SELECT * FROM jobs WHERE {where}", values).fetchone()
        return row

    def _must(self, job_id: str) -> Job:
        row = self._row("id = ?", job_id)
        assert row is not None
        return _job(row)


def _job(row: sqlite3.Row) -> Job:
    fields = {name: row[name] for name in Job.__slots__}
    fields["want"] = json.loads(row["want"])
    fields["result"] = None if row["result"] is None else json.loads(row["result"])
    return Job(**fields)
