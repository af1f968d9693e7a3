"""The fault table: one row for each fault that a test has shown. Appends to the file of STACKWRIGHT_FAULT_TABLE, if
any.

`python -m benchmarks.faults` asks for it and makes benchmarks/results/faults.json and docs/faults.md of it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from tests.integration.project import CHECKOUT, Project

VARIABLE = "STACKWRIGHT_FAULT_TABLE"


class Row(Struct, frozen=True, kw_only=True):
    """One fault under one runtime: what the person saw, how the command ended, what was left, and how long it took."""

    fault: str
    runtime: str
    saw: str
    exit_code: int
    left: str
    seconds: float


def append(row: Row) -> None:
    """Add a row to the table where one is asked for."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")


def plain(text: str, project: Project) -> str:
    """Replace what is another on every run by words: names, folders, ports, process ids."""
    state = project.variables["STACKWRIGHT_STATE"]
    known = {
        str(project.folder): "PROJECT",
        f"{CHECKOUT}/": "",
        state: "STATE",
        str(project.folder.parent): "TMP",
        project.variables["DOCKER_HOST"]: "DOCKER_HOST",
        project.name: "STACK",
        str(project.port): "PORT",
    }
    for found, word in known.items():
        text = text.replace(found, word)
    text = re.sub(r"(process|kill|pid) [0-9]+", r"\1 N", text)
    return re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
