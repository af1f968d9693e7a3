"""What a load test of a real stack has to measure, whichever runtime has started it."""

from __future__ import annotations

import json

from tests.integration.project import Project


def check_load(project: Project) -> None:
    """Put a little load on, by the engine's own generator, and look at what it measured."""
    done = project.command("bench", "dev", "--concurrency=2", "--requests=4", "--rounds=2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    wanted, [point] = result["workload"], result["points"]
    assert [(one["requests"], one["failed"]) for one in point["rounds"]] == [(4, 0), (4, 0)], done.stderr
    for one in point["rounds"]:
        # The engine goes on where the model would end; the prompt is as long as was wanted, give or take.
        assert one["output_tokens"] == 4 * wanted["output_tokens"]
        assert 0.9 < one["input_tokens"] / (4 * wanted["input_tokens"]) < 1.1
        assert 0 < one["first_token"]["p50"] <= one["first_token"]["p99"] < one["whole_answer"]["p99"]
    key = (project.folder / "envs/.secrets/dev/litellm_master_key").read_text(encoding="utf-8").strip()
    assert key not in done.stdout + done.stderr
