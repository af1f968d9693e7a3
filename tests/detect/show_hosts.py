"""Detects hosts in a process of its own, which has the fake NVML library on its LD_LIBRARY_PATH.

Reads rows of [root folder, answers file or null] as JSON from stdin; writes a row of snapshot and warnings for each to
stdout. NVML is asked anew for each row, so one process serves many answers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from stackwright.detect.host import detect_host
from stackwright.detect.snapshot import format_snapshot


def main() -> None:
    """Detect one host after the other."""
    rows = []
    for root, answers in json.load(sys.stdin):
        if answers is not None:
            os.environ["STACKWRIGHT_FAKE_NVML"] = answers
        found = detect_host(Path(root))
        told = {"warnings": found.warnings, "notable": found.notable}
        rows.append({"snapshot": format_snapshot(found.host), **told})
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
