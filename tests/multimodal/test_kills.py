"""Kills at random moments: every accepted job has one result, the right one. benchmarks/media_kills.py does 200."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.multimodal.files import write_pdf, write_picture, write_sound, write_video
from tests.multimodal.kills import kill_through
from tests.multimodal.running import running

pytestmark = pytest.mark.subprocess


def test_every_job_has_one_result_whatever_is_killed(tmp_path: Path) -> None:
    files = {
        "picture": (write_picture(tmp_path / "a.png"), "red"),
        "video": (write_video(tmp_path / "a.mp4", seconds=2), "2 seconds\nred\ngreen"),
        "sound": (write_sound(tmp_path / "a.wav"), "2 seconds"),
        "pdf": (write_pdf(tmp_path / "a.pdf"), "This is page 1\nThis is page 2"),
    }
    with running(tmp_path / "service", MULTIMODAL_MAX_ATTEMPTS="50") as service:
        outcome = kill_through(service, files, kills=8, seed=1)

    assert outcome.wrong == []
    assert set(outcome.states) == {"done"}
    assert set(outcome.results) == {1}
    assert sum(outcome.killed.values()) == 8
    assert max(outcome.attempts) > 1
