"""Kill the multimodal worker's processes at random moments, 200 times, while jobs come in: what became of every job.

    python -P -m benchmarks.media_kills [--kills N] [--seed N]

Starts the service (server, two workers, a reading process for each file) beside a stand-in for the gateway, sends
pictures, videos, sounds and PDF files all the while, and kills the server, a worker or a reader. Writes
benchmarks/results/media_kills.json: which were killed, and for every accepted job how it ended, how often it was begun,
how many results it had, and whether its text and its files are right.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

from tests.multimodal.files import write_pdf, write_picture, write_sound, write_video
from tests.multimodal.kills import Outcome, kill_through
from tests.multimodal.running import running

RESULT = Path(__file__).parent / "results" / "media_kills.json"


def measure(kills: int, seed: int) -> Outcome:
    """Run the service through the kills."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        files = {
            "picture": (write_picture(base / "a.png"), "red"),
            "video": (write_video(base / "a.mp4", seconds=3), "3 seconds\nred\ngreen\nblue"),
            "sound": (write_sound(base / "a.wav"), "2 seconds"),
            "pdf": (write_pdf(base / "a.pdf", pages=3), "This is page 1\nThis is page 2\nThis is page 3"),
        }
        # Each killed reader counts as a failure of its job, which is not what is measured here.
        with running(base / "service", MULTIMODAL_MAX_ATTEMPTS="100") as service:
            return kill_through(service, files, kills, seed)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    outcome = measure(asked.kills, asked.seed)
    document = {
        "kills": dict(sorted(outcome.killed.items())),
        "seed": asked.seed,
        "jobs": outcome.jobs,
        "states": dict(outcome.states),
        "begun": {str(times): number for times, number in sorted(outcome.attempts.items())},
        "results_of_a_job": {str(number): jobs for number, jobs in sorted(outcome.results.items())},
        "wrong": outcome.wrong,
        "seconds": round(time.monotonic() - began),
        "python": platform.python_version(),
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
