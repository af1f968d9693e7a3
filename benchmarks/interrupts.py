"""SIGTERM at random moments: does one ever leave something behind?

    python -m benchmarks.interrupts [OF_A_START] [OF_THE_LOCK]

**Of a start**: `start-environment dev --runtime=processes` under the real supervisor, with stand-ins for vLLM and
LiteLLM that load at once, is sent a signal after a random part of the time that a whole start takes. A start that had
said that it is ready has left a stack, not a remainder, if that is whole; it is stopped. After every other one what is
left is looked for: processes, locks, temporary files, and whether the next `status` warns of an interrupted command.
What the supervisor wrote is kept of the end that took longest.
**Of the lock**: a process that takes and lets go of an environment's lock in a tight loop, 5,000 times another one.
Ctrl-C ends the starts early: what was counted until then is written.

Writes benchmarks/results/interrupts.json and ends with 1 where something was left. Touches temporary folders.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stackwright.interrupts import clean_end
from stackwright.project.lock import hold

from tests.integration.faults.left import find_left
from tests.integration.project import Project
from tests.integration.quick_engine.gateway import make_gateway
from tests.integration.quick_engine.layout import make_engine

RESULT = Path(__file__).resolve().parent / "results" / "interrupts.json"
OF_A_START, OF_THE_LOCK = 500, 5000
WHOLE_RUNS = 5
INTERRUPTED = 130
START = ("start-environment", "dev", "--runtime=processes")
# Long enough for some turns of the loop, which takes a tenth of a millisecond.
LONGEST_S = 0.003
READY = b"\ndev is ready at "
LONG_END_S = 20
"""Beyond this the end of a start waited for something that did not end."""


def main() -> int:
    """Signal, look, write the result and return the exit code."""
    starts, locks = (*map(int, sys.argv[1:]), *(OF_A_START, OF_THE_LOCK)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder:
        of_lock = signal_locks(Path(folder) / "generated" / "dev", locks)
    with tempfile.TemporaryDirectory() as folder:
        of_start = signal_starts(make_project(Path(folder)), starts)
    result = {"machine": platform.platform(), "cpus": os.cpu_count(), "lock": of_lock, "start": of_start}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if of_lock["left"] or of_start["left"] else 0


def signal_locks(folder: Path, signals: int) -> dict[str, object]:
    """End a process in the middle of taking and letting go of a lock, many times; count what was left."""
    ends: Counter[int] = Counter()
    left = 0
    for _ in range(signals):
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_hold_and_let_go(folder, tell))
        os.read(ready, 1)
        time.sleep(random.uniform(0, LONGEST_S))
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        os.close(ready)
        os.close(tell)
        ends[os.waitstatus_to_exitcode(status)] += 1
        left += folder.parent.exists()
    return {
        "signals": signals,
        "exit_codes": {str(code): number for code, number in sorted(ends.items())},
        "left": left,
    }


def _hold_and_let_go(folder: Path, tell: int) -> int:
    try:
        with clean_end():
            os.write(tell, b".")
            while True:
                with hold((folder,), "benchmark"):
                    pass
    except KeyboardInterrupt:
        return INTERRUPTED


def make_project(folder: Path) -> Project:
    """Return a project for the CPU, configured, whose services are stand-ins."""
    state = folder / "state"
    make_engine(state)
    make_gateway(state)
    (folder / "project").mkdir()
    project = Project.new(folder / "project", state)
    project.configure("cpu")
    return project


def signal_starts(project: Project, signals: int) -> dict[str, object]:
    """End starts at random moments; count how they ended and what they left."""
    took = [start(project, None).seconds for _ in range(WHOLE_RUNS)]
    whole_s = statistics.median(took)
    ends: Counter[int] = Counter()
    left: list[str] = []
    longest_s, why_long, finished = 0.0, "", 0
    with suppress(KeyboardInterrupt):
        for _ in range(signals):
            after_s = random.uniform(0, 1.05 * whole_s)
            done = start(project, after_s)
            finished += done.is_ready
            whole = done.is_ready and not look_at_whole(project)
            found = "" if whole else look(project)
            ends[done.code] += 1
            if done.seconds - after_s > longest_s:
                longest_s, why_long = done.seconds - after_s, supervisors_words(project)
            if found or done.code not in (0, INTERRUPTED, -signal.SIGTERM):
                left.append(f"after {after_s:.3f} s, exit code {done.code}: {found}")
            if whole or found:
                project.command("stop-environment", "dev", "--now")
    return {
        "signals": ends.total(),
        "finished_before_the_signal": finished,
        "whole_start_s": round(whole_s, 2),
        "longest_end_s": round(longest_s, 2),
        "supervisor_at_the_longest_end": why_long if longest_s > LONG_END_S else "",
        "exit_codes": {str(code): number for code, number in sorted(ends.items())},
        "left": left,
    }


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start: how it ended, what it took, and whether it had said that the stack is ready."""

    code: int
    seconds: float
    is_ready: bool


def start(project: Project, after_s: float | None) -> Start:
    """Start, with a signal after so many seconds; without one, stop it again."""
    began = time.monotonic()
    command = [sys.executable, "-m", "stackwright", *START, f"--out={project.folder}"]
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            command, env=dict(project.variables), stdin=subprocess.DEVNULL, stdout=told, stderr=told
        ) as process,
    ):
        if after_s is not None:
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
        code = process.wait()
        seconds = time.monotonic() - began
        told.seek(0)
        is_ready = READY in told.read()
    if after_s is None:
        assert code == 0, "a whole start failed"
        assert is_ready, "a whole start did not say that the stack is ready"
        project.command("stop-environment", "dev", "--now")
    return Start(code=code, seconds=seconds, is_ready=is_ready)


def look_at_whole(project: Project) -> str:
    """Return what is wrong with a stack whose start had finished, in words; empty where that is nothing."""
    told = project.command("status", "dev", "--runtime=processes", "--json")
    phases = {service["name"]: service["phase"] for service in json.loads(told.stdout)["services"]}
    ill = [f"{name} is {phase}" for name, phase in phases.items() if phase != "healthy"]
    warned = [line for line in told.stderr.splitlines() if line.startswith("warning: ")]
    return "; ".join([*ill, *warned])


def supervisors_words(project: Project) -> str:
    """Return the end of what the supervisor wrote of this stack."""
    logs = Path(project.variables["STACKWRIGHT_STATE"]) / "logs"
    return "\n".join(line for log in logs.glob("*/supervisord.log") for line in log.read_text().splitlines()[-25:])


def look(project: Project) -> str:
    """Return what a start has left, in words; empty where that is nothing."""
    left = str(find_left(project, engine=False))
    told = project.command("status", "dev", "--runtime=processes").stderr
    warned = [line for line in told.splitlines() if line.startswith("warning: ")]
    return "; ".join([*([] if left == "nothing" else [left]), *warned])


if __name__ == "__main__":
    sys.exit(main())
