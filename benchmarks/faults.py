"""What a person sees when something goes wrong: runs every fault test and writes the table of what each has shown.

    python -m benchmarks.faults [TESTS]

Takes the quarter of an hour that `tests/integration/faults` takes, on real Docker, Compose, vLLM, LiteLLM and Redis.
Writes benchmarks/results/faults.json and docs/faults.md, and ends with 1, writing neither, where a test fails.
TESTS, files of that folder, run alone: what their faults have shown takes the place of those faults' rows.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import asdict

from tests.integration.faults.table import VARIABLE, Row

CHECKOUT = Path(__file__).resolve().parent.parent
RESULT = CHECKOUT / "benchmarks" / "results" / "faults.json"
PAGE = CHECKOUT / "docs" / "faults.md"
HEAD = """# What happens when something goes wrong

After this page you know what each known fault does: the message, the exit code, and what is left behind.
Every row is a test in `tests/integration/faults/` on real parts: Docker, Compose, vLLM on the CPU, LiteLLM,
Redis; only the GPU library and Docker's GPU hook are stand-ins. Each test checks the messages (one error, the
next step with it, no traceback), the [exit code](reference/exit-codes.md), what is left behind (containers,
networks, processes, locks, temporary files), and that every file of the user is unchanged, byte for byte.
`python -m benchmarks.faults` runs them and writes this page and `benchmarks/results/faults.json`.

Seconds count from the fault to the end of the command, on {cpus} cores, at a load of {load} before the run.

| fault | runtime | what the user saw | exit code | left behind | seconds |
|---|---|---|---|---|---|
"""


def main() -> int:
    """Run the tests, write the results and return the exit code."""
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows"
        chosen = sys.argv[1:] or ["tests/integration/faults"]
        tests = [sys.executable, "-P", "-m", "pytest", "-q", "--long", "-m", "integration", *chosen]
        done = subprocess.run(tests, cwd=CHECKOUT, check=False, env={**os.environ, VARIABLE: str(table)})
        if done.returncode != 0:
            return 1
        rows = [Row(**json.loads(line)) for line in table.read_text(encoding="utf-8").splitlines()]
    if sys.argv[1:]:
        again = {(row.fault, row.runtime) for row in rows}
        before = (Row(**row) for row in json.loads(RESULT.read_text(encoding="utf-8"))["faults"])
        rows += [row for row in before if (row.fault, row.runtime) not in again]
    # A fault that is tried in many ways, such as every amount of room on a disk, is one row for each thing that was
    # seen.
    rows = sorted({(row.fault, row.runtime, row.saw): row for row in rows}.values(), key=lambda row: row.fault)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load_average_1_min": load}
    RESULT.write_text(json.dumps({"machine": machine, "faults": [asdict(row) for row in rows]}, indent=2) + "\n")
    PAGE.write_text(HEAD.format(cpus=os.cpu_count(), load=load) + write_rows(rows))
    print(f"{len(rows)} rows of {len({row.fault for row in rows})} faults")
    return 0


def write_rows(rows: Sequence[Row]) -> str:
    """Write the rows of the page."""
    return "".join(
        f"| {row.fault} | {row.runtime} | {write_cell(row.saw)} | {write_code(row.exit_code)} | {write_cell(row.left)} "
        f"| {row.seconds} |\n"
        for row in rows
    )


def write_code(code: int) -> str:
    """Write an exit code; one of a command that was killed has none."""
    return str(code) if code >= 0 else "killed"


def write_cell(text: str) -> str:
    """Write text that may have several lines, and signs of Markdown, as one cell."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    signs = str.maketrans({"|": "\\|", "<": "&lt;", "*": "\\*", "_": "\\_", "[": "\\["})
    return "<br>".join(line.translate(signs) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
