"""Kills whatever runs of the service while jobs come in, and looks at what became of them.

Used by a short test, and by benchmarks/media_kills.py for its 200 kills.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.multimodal.running import Service, descendants

LONGEST_PAUSE_S = 2.0
"""Between two kills: a job takes one or two seconds on a busy machine, so every moment of one is met."""


@dataclass
class Outcome:
    """What was killed; how the jobs ended, by state and by how often they were begun; the results that are wrong."""

    killed: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    results: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Sender(threading.Thread):
    """Sends files for as long as it is not told to end, and keeps `waiting` jobs open.

    What breaks off is sent again under the name that the request had, so that a lost answer makes no second job.
    """

    def __init__(self, service: Service, files: Mapping[str, tuple[Path, str]], seed: int, waiting: int) -> None:
        super().__init__(daemon=True)
        self._service, self._files, self._waiting = service, files, waiting
        self._chance = random.Random(seed)
        self.is_over = False
        self.expected: dict[str, str] = {}
        self.broken = 0

    def run(self) -> None:
        """Send."""
        while True:
            kind = self._chance.choice(sorted(self._files))
            path, text = self._files[kind]
            job_id = self._sent(path, f"request {len(self.expected)}")
            assert job_id not in self.expected
            self.expected[job_id] = text
            while self._open() >= self._waiting:
                if self.is_over:
                    return
                time.sleep(0.05)
            if self.is_over:
                return

    def _sent(self, path: Path, request_key: str) -> str:
        while True:
            try:
                answer = self._service.submit(path, Idempotency_Key=request_key)
            except (OSError, http.client.HTTPException):
                self.broken += 1
                time.sleep(0.05)
                continue
            assert answer.status in (200, 202), answer.content
            return str(answer.document["id"])

    def _open(self) -> int:
        """Return how many jobs have not ended; none are told of while the service is down."""
        try:
            told = [self._service.ask("GET", f"/v1/jobs?state={state}").document for state in ("queued", "running")]
        except (OSError, http.client.HTTPException):
            return self._waiting
        return sum(len(each["jobs"]) for each in told)


def kill_through(
    service: Service, files: Mapping[str, tuple[Path, str]], kills: int, seed: int, waiting: int = 6
) -> Outcome:
    """Kill so many processes at random moments while files are sent; then wait for every job that was accepted.

    `files`: by kind, a file and what the text of its result has to be. `waiting`: how many jobs there are at a time.
    """
    chance, outcome = random.Random(seed), Outcome()
    sender = Sender(service, files, seed, waiting)
    sender.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0, LONGEST_PAUSE_S))
        victims = {"server": [service.pid], **{name: service.below(name) for name in ("worker", "decode")}}
        kind = chance.choices(("server", "worker", "decode"), (2, 5, 3))[0]
        pid = chance.choice(victims[kind] or [service.pid])
        outcome.killed["server" if pid == service.pid else kind] += 1
        below = descendants(service.pid)
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signal.SIGKILL)
        if pid == service.pid:
            service.kill()
            _until_gone(below)
            service.start()
        assert sender.is_alive()
    sender.is_over = True
    sender.join()
    _look(service, sender.expected, outcome)
    return outcome


def _until_gone(pids: list[int]) -> None:
    """Return when these processes have ended: the kernel kills them with their parent, a moment later."""
    end = time.monotonic() + 30
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not Path(f"/proc/{pid}").exists(), f"{pid} outlives its server"


def _look(service: Service, accepted: Mapping[str, str], outcome: Outcome) -> None:
    """Wait for the end of every job, and compare."""
    outcome.jobs = len(accepted)
    for job_id, text in accepted.items():
        job = service.ended(job_id)
        outcome.states[job["state"]] += 1
        outcome.attempts[job["attempts"]] += 1
        if job["state"] != "done":
            outcome.wrong.append(f"{job['name']}: {job['state']}: {job['error']}")
        elif job["result"]["text"] != text:
            outcome.wrong.append(f"{job['name']}: {job['result']['text']}")
        for file in (job["result"] or {}).get("files", ()):
            content = service.ask("GET", f"/v1/jobs/{job_id}/files/{file['name']}").content
            if len(content) != file["bytes"]:
                outcome.wrong.append(f"{job['name']}: {file['name']} has {len(content)} bytes")
    outcome.results = Counter(service.results_of(job_id) for job_id in accepted)
