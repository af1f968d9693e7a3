"""An engine below the program that watches it, as the tests of the heartbeat and its benchmark run it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

ENGINE_FOLDER = Path(__file__).parents[3] / "compose" / "engine"
HEARTBEAT = ENGINE_FOLDER / "heartbeat" / "heartbeat.py"
STAND_IN = Path(__file__).with_name("stand_in_engine.py")
KEY = "key-of-the-engine"
LONGEST_S = 1200
HUNG, KILLED = 70, 137


class Watched(Struct, frozen=True, kw_only=True):
    """An engine that runs below the program that watches it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    notes: Path

    def said(self, pattern: str) -> re.Match[str] | None:
        """Search the log."""
        return re.search(pattern, self.log.read_text(errors="replace"))

    def await_words(self, pattern: str) -> re.Match[str]:
        """Return once the log has a text; fail if the program ends before."""
        deadline = time.monotonic() + LONGEST_S
        while (found := self.said(pattern)) is None:
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.05)
        return found

    def await_answer(self) -> None:
        """Return once the engine has answered a completion, and is watched."""
        deadline = time.monotonic() + LONGEST_S
        while self.complete(max_tokens=1) != 200:
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline
            time.sleep(0.2)
        self.await_words("heartbeat: watching; ")

    def complete(self, **fields: object) -> int:
        """Ask for a completion; return its status, 0 where the engine ended before."""
        return self.ask("/v1/completions", **{"model": "smoke", "prompt": "x", **fields})

    def ask(self, path: str, **fields: object) -> int:
        """Ask the engine; return the status of its answer, 0 where it ended before."""
        try:
            with self._open(path, fields) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            return refusal.code
        except OSError:
            return 0

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep a streamed answer open that has begun, and that takes long."""
        fields = {"model": "smoke", "prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with self._open("/v1/completions", fields) as answer:
            assert answer.readline()
            yield

    def _open(self, path: str, fields: Mapping[str, object]) -> Any:
        body = json.dumps(fields).encode() if fields else None
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LONGEST_S)

    def ends(self) -> int:
        """Return the exit status once it has ended; nobody of it is left then."""
        status = self.process.wait(timeout=LONGEST_S)
        assert members(self.process.pid) == [], self.log.read_text(errors="replace")
        return status

    def named(self, name: str) -> list[int]:
        """Return the processes of this engine whose name has some letters, oldest first."""
        found = []
        for pid in members(self.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found += [pid] if name in words else []
        return sorted(found)

    def hangs(self) -> list[dict[str, Any]]:
        """Return what is noted."""
        told: list[dict[str, Any]] = json.loads(self.notes.read_text())["hung"]
        return told


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, _, of_group = entry.read_text(errors="replace").rpartition(")")[2].split()[:3]
            found += [int(entry.parent.name)] if int(of_group) == group and state != "Z" else []
    return found


@contextlib.contextmanager
def watched(
    folder: Path, command: Sequence[str | Path], grace_s: str, port: int, variables: Mapping[str, str]
) -> Iterator[Watched]:
    """Run a command that watches an engine; what is left of it is gone after the block."""
    log, notes = folder / "engine.log", folder / "notes.json"
    told = {"ENGINE_HEARTBEAT": grace_s, "ENGINE_HEARTBEAT_FILE": str(notes), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, **variables, **told}, start_new_session=True
        )
    try:
        yield Watched(process=process, port=port, log=log, notes=notes)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(errors="replace")[-20000:])


def stand_in(folder: Path, port: int, *words: str, options: tuple[str, ...] = (), grace_s: str = "2") -> Any:
    """Run a watched stand-in."""
    command: list[str | Path] = [
        sys.executable,
        "-B",
        HEARTBEAT,
        *options,
        sys.executable,
        STAND_IN,
        f"--port={port}",
        *words,
    ]
    return watched(folder, command, grace_s, port, {"VLLM_API_KEY": KEY})


def vllm(
    folder: Path, python: Path, model: Path, port: int, *words: str, grace_s: str, ranks: int = 1
) -> contextlib.AbstractContextManager[Watched]:
    """Run real vLLM on the processor as both runtimes start it."""
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "engine_key").write_text(KEY)
    (secrets / "hf_token").touch()
    command: list[str | Path] = [
        "/bin/sh",
        ENGINE_FOLDER / "start.sh",
        "--model",
        model,
        "--served-model-name",
        "smoke",
    ]
    command += ["--enforce-eager", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--tensor-parallel-size", str(ranks), *words]
    variables = {"PYTHON": str(python), "SECRETS_DIRECTORY": str(secrets), "VLLM_CPU_KVCACHE_SPACE": "1"}
    variables |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"}
    variables |= {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, range(ranks)))} if ranks > 1 else {}
    return watched(folder, command, grace_s, port, variables)
