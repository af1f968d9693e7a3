"""`stackwright doctor` on real failures under Docker Compose: an engine that cannot start, and one that is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import Project, write_long_model
from tests.integration.test_watching import check_refusal


@pytest.fixture(scope="module")
def pins(images: Images) -> list[str]:
    """Give the settings that put the built images in the place of the official ones."""
    return images.pins()


def look(project: Project, *words: str) -> tuple[int, dict[str, Any]]:
    """Run doctor on the development environment; return its exit code and what it says of that environment."""
    done = project.command("doctor", "dev", "--runtime=compose", "--json", *words)
    (found,) = json.loads(done.stdout)["environments"]
    return done.returncode, found


def test_a_start_that_failed_is_named_and_mended(make_project: MakeProject, pins: list[str], tmp_path: Path) -> None:
    """It is tried once. Everything is taken down by then: what was kept tells."""
    project = make_project()
    project.configure("cpu", f"--model={write_long_model(tmp_path)}", *pins)
    local = check_refusal(project, "compose")
    assert project.remains("container") == project.remains("network") == []
    code, found = look(project)
    assert code == 7
    assert [failure["rule"] for failure in found["failures"]] == ["kv-cache-too-small"]
    assert found["failed_s_ago"] is not None
    bundle = tmp_path / "report.tar.gz"
    assert project.command("doctor", "dev", "--runtime=compose", f"--bundle={bundle}").returncode == 7
    assert bundle.stat().st_size > 1000
    local.unlink()
    applied = project.command("doctor", "dev", "--runtime=compose", "--apply")
    assert applied.returncode == 0, applied.stderr
    assert "VLLM_MAX_MODEL_LEN=2097" in (project.folder / "envs/.env.dev").read_text().replace("'", "")
    code, found = look(project)
    assert (code, found["failures"], found["failed_s_ago"]) == (0, [], None)


def test_a_kill_by_hand_is_told_from_the_kernels(make_project: MakeProject, pins: list[str]) -> None:
    """Redis, since nothing waits for it to load: once killed by `docker kill`, once by its memory limit."""
    project = make_project()
    project.configure("cpu", *pins)
    files = [f"--env-file={project.folder}/envs/.env.dev", f"--file={project.folder}/compose/compose.yaml"]
    files.append(f"--file={project.folder}/compose/generated/dev/override.yaml")
    project.docker("compose", *files, "up", "--detach", "redis")
    project.docker("update", "--restart=no", project.container("redis"))
    project.docker("kill", project.container("redis"))
    code, found = look(project)
    assert (code, found["failures"][0]["rule"]) == (7, "killed-by-hand")
    project.docker("start", project.container("redis"))
    project.docker("update", "--memory=8m", "--memory-swap=8m", project.container("redis"))
    hungry = "head -c 64000000 /dev/zero | tail >/dev/null"
    project.run(
        ["docker", "exec", project.container("redis"), "sh", "-c", f"echo 1000 > /proc/1/oom_score_adj; {hungry}"]
    )
    _, found = look(project)
    fallen = {state["name"]: state["detail"] for state in found["services"] if state["phase"] == "exited"}
    if fallen.get("redis") != "out of memory":
        pytest.skip("the kernel chose the hungry process, not the service")
    assert found["failures"][0]["rule"] == "oom-killed"


def test_a_daemon_that_is_gone_is_named(make_project: MakeProject, pins: list[str]) -> None:
    project = make_project()
    project.configure("cpu", *pins)
    code, found = look(replace(project, variables={**project.variables, "DOCKER_HOST": "unix:///nonexistent.sock"}))
    assert (code, [failure["rule"] for failure in found["failures"]]) == (6, ["no-daemon"])
