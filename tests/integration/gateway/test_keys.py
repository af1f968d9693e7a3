"""Keys of people before a running gateway: no restart, limits over its workers, usage that a restart keeps.

A quick engine has vLLM's place. The tests of the module share one stack and run in the order written.
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.project import Project, wait_until


@pytest.fixture(scope="module")
def project(make_project: MakeProject, quick_pins: list[str]) -> Project:
    """Give a stack of two gateway workers that runs."""
    project = make_project()
    project.configure("cpu", "--set=LITELLM_NUM_WORKERS=2", *quick_pins)
    project.start()
    return project


def keys(project: Project, *words: str) -> str:
    """Run `stackwright keys` and return what it prints."""
    done = project.command("keys", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def await_status(project: Project, key: str, status: int) -> str:
    """Ask until so many answers in a row, more than one worker gives, have this status; return the last."""

    def answers() -> str | None:
        told = [project.ask(key) for _ in range(8)]
        return told[-1][1] if {code for code, _ in told} == {status} else None

    return wait_until(answers)


def began(project: Project) -> Any:
    """Return when the gateway's container began."""
    return project.inspect("gateway")["State"]["StartedAt"]


def test_a_key_is_followed_without_a_restart(project: Project) -> None:
    before = began(project)
    first = keys(project, "add", "anna", "dev", "--model=smoke")
    await_status(project, first, 200)
    second = keys(project, "rotate", "anna", "dev")
    await_status(project, first, 401)
    await_status(project, second, 200)
    keys(project, "revoke", "anna", "dev")
    await_status(project, second, 401)
    assert began(project) == before


def test_a_key_is_for_its_models(project: Project) -> None:
    key = keys(project, "add", "bert", "dev", "--model=smoke")
    await_status(project, key, 200)
    file = project.folder / "envs/.secrets/dev/keys/keys.json"
    file.write_text(file.read_text().replace('"smoke"', '"another"'))
    assert "bert" in await_status(project, key, 403)


def test_a_key_for_the_metrics_reads_them_alone(project: Project) -> None:
    key = keys(project, "add", "watcher", "dev", "--metrics-only")
    assert "may read the metrics, and nothing else" in await_status(project, key, 403)
    text = read_metrics(project, key)
    assert not any(
        line.startswith("stackwright_gateway_refused_total") and " 0.0" in line
        for line in text.splitlines()
        if 'status="403"' in line
    )
    for name in ("waiting", "working", "processor_seconds", "memory_bytes", "started_seconds"):
        assert f"\nstackwright_gateway_{name}" in text
    assert "\nstackwright_certificate_ends_seconds +Inf\n" in text


def read_metrics(project: Project, key: str) -> str:
    """Return what the gateway shows whoever may read its metrics."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{project.port}/metrics/", headers={"Authorization": f"Bearer {key}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_all_workers_count_together(project: Project) -> None:
    key = keys(project, "add", "ci", "dev", "--requests-per-minute=3")
    assert "requests a minute" in wait_until(
        lambda: next((body for code, body in [project.ask(key)] if code == 429), "")
    )
    (row,) = [row for row in usage(project) if row["key"] == "ci"]
    assert row["refused"] >= 1


def usage(project: Project) -> Any:
    """Return the rows of `keys usage`."""
    return json.loads(keys(project, "usage", "dev", "--json"))["usage"]


def test_usage_is_kept_over_a_restart(project: Project) -> None:
    (before,) = [row for row in usage(project) if row["key"] == "bert"]
    assert before["models"][0]["model"] == "smoke"
    assert before["models"][0]["completion_tokens"] > 0
    project.docker("restart", project.container("gateway"))
    assert project.complete()
    (after,) = [row for row in usage(project) if row["key"] == "bert"]
    assert after == before


def test_a_rotated_master_key_is_followed(project: Project) -> None:
    old = project.secrets["litellm_master_key"]
    new = keys(project, "rotate", "master", "dev")
    await_status(project, old, 401)
    await_status(project, new, 200)


def test_a_damaged_file_keeps_the_master_key(project: Project) -> None:
    key = keys(project, "add", "dora", "dev")
    await_status(project, key, 200)
    (project.folder / "envs/.secrets/dev/keys/keys.json").write_text("{")
    await_status(project, key, 401)
    assert project.complete()
    assert "keys-damaged" in project.command("doctor", "dev").stderr
