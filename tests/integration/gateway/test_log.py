"""The gateway's log as JSON: every line that a start, failures, and an end leave there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.gateway.front import MODEL, start_front


def test_every_line_is_an_object(state_folder: Path, tmp_path: Path) -> None:
    with start_front(state_folder, tmp_path, GATEWAY_LOGS="json", GATEWAY_DIRECT="off") as front:
        front.both(500)
        front.cloud.mood = 500
        assert front.ask(MODEL)[0] >= 500

    lines = (tmp_path / "gateway.log").read_text(encoding="utf-8").splitlines()
    assert lines
    told = [json.loads(line) for line in lines]
    assert all(isinstance(row, dict) and "message" in row for row in told)
