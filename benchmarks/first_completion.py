"""How long it takes from a fresh clone, with nothing installed and nothing cached, to the first completion.

    python -m benchmarks.first_completion

Clones this checkout (its last commit) into a temporary folder and runs `./scripts/start-environment development` there
under the processes runtime, with a home, a state folder and caches of uv and pip that are empty. Packages come from
where this machine gets them. A stage ends at the first line of the command that tells so; a client asks the gateway for
a completion as soon as the engine is told to be healthy (the gateway would try an earlier request again after growing
pauses), and its first answer ends the time. Then the stack is stopped. Writes benchmarks/results/first_completion.json,
prints it, and ends with 1 where it took longer than the limit.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.integration.project import CHECKOUT, Project, free_port

RESULT = CHECKOUT / "benchmarks" / "results" / "first_completion.json"
LIMIT_S = 105.0
GIVE_UP_S = 900.0
STAGES = {
    "scripts' environment": r"^(?!preparing)",
    "gateway installed": r"^gateway: installed ",
    "engine installed": r"^engine: installed ",
    "engine healthy": r"^engine\S*: healthy",
    "gateway healthy": r"^gateway: healthy",
}
"""What the first line says that is written after a stage."""


def main() -> int:
    """Measure, write the result and return the exit code."""
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        completion_s, figures = measure(Path(folder))
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_average_before": load}
    result = {"machine": machine, "limit_s": LIMIT_S, "completion_s": completion_s, **figures}
    text = json.dumps(result, indent=2) + "\n"
    RESULT.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0 if completion_s <= LIMIT_S else 1


def measure(folder: Path) -> tuple[float, dict[str, object]]:
    """Start from nothing in this folder, and stop; return the seconds to the first completion, and what led there."""
    clone, port = folder / "clone", free_port()
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    project = Project(folder=clone, variables=cold(folder), port=port)
    command = ["./scripts/start-environment", "development", "--runtime=processes", f"--set=GATEWAY_PORT={port}"]
    lines: list[tuple[float, str]] = []
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=clone, env=project.variables, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        listener = threading.Thread(target=listen, args=(process, began, lines))
        listener.start()
        try:
            answered = await_completion(project, process, began, lines)
            ended = process.wait(GIVE_UP_S) or time.monotonic() - began
        finally:
            process.terminate()
            listener.join()
            subprocess.run(
                ["./scripts/stop-environment", "development", "--runtime=processes"],
                cwd=clone,
                env=project.variables,
                check=True,
            )
    return round(answered, 1), {
        "command_s": round(ended, 1),
        "stages_s": stages(lines),
        "lines": [f"{seconds:.1f} {line}" for seconds, line in lines],
    }


def cold(folder: Path) -> dict[str, str]:
    """Return the variables of a person who has never started anything: all that is kept lies in this folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STACKWRIGHT_", "PYTHON", "VIRTUAL_ENV", "HF_", "XDG_"))
    }
    home = folder / "home"
    home.mkdir()
    return kept | {
        "HOME": str(home),
        # How this machine reaches its package indexes stands there, and is no cache.
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config"),
        "STACKWRIGHT_STATE": str(folder / "state"),
        "UV_CACHE_DIR": str(folder / "uv"),
        "PIP_CACHE_DIR": str(folder / "pip"),
    }


def listen(process: subprocess.Popen[str], began: float, lines: list[tuple[float, str]]) -> None:
    """Note each line of the command, and when it came."""
    assert process.stderr is not None
    for line in process.stderr:
        lines.append((time.monotonic() - began, line.rstrip("\n")))
        print(f"{lines[-1][0]:6.1f} {lines[-1][1]}", file=sys.stderr, flush=True)


def await_completion(
    project: Project, process: subprocess.Popen[str], began: float, lines: list[tuple[float, str]]
) -> float:
    """Return when the first completion came, in seconds; a start that fails is no measurement."""
    key = project.folder / "envs" / ".secrets" / "dev" / "litellm_master_key"
    while process.poll() in (None, 0) and time.monotonic() - began < GIVE_UP_S:
        engine_answers = "engine healthy" in stages(lines)
        if engine_answers and project.ask(key.read_text().strip())[0] == 200:
            return time.monotonic() - began
        time.sleep(0.1)
    raise SystemExit(f"no completion; the command ended with {process.poll()}")


def stages(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Return when each stage had ended."""
    found = {}
    for stage, pattern in STAGES.items():
        times = [seconds for seconds, line in lines if re.search(pattern, line)]
        if times:
            found[stage] = round(times[0], 1)
    return found


if __name__ == "__main__":
    sys.exit(main())
