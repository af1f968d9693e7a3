"""The project folder: where it is, what is copied into it, and the files that a stage begins from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.domain.environment import Environment
from stackwright.errors import UsageError, ValidationError
from stackwright.project.folder import (
    lay_out,
    load_plan,
    load_stack,
    missing_base_files,
    read_env_file,
    read_environment,
    read_wishes,
)
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import paths_of, plan_for, recorded
from tests.test_layers import PACKAGE

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a project folder with the rendered files of the staging environment."""
    lay_out(tmp_path)
    for file in render_plan(plan_for(recorded("2x-rtx3090-nvlink"), Environment.STAGING)):
        target = tmp_path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.text, encoding="utf-8")
    return tmp_path


def test_laying_out_copies_every_base_file_once(tmp_path: Path) -> None:
    """What the person has changed since stays."""
    assert missing_base_files(tmp_path) != ()
    lay_out(tmp_path)
    assert missing_base_files(tmp_path) == ()
    assert (tmp_path / "compose/compose.yaml").read_bytes() == (CHECKOUT / "compose/compose.yaml").read_bytes()
    (tmp_path / "compose/compose.yaml").write_text("mine", encoding="utf-8")
    (tmp_path / "envs/dev.yaml").unlink()
    lay_out(tmp_path)
    assert (tmp_path / "compose/compose.yaml").read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "envs/dev.yaml").is_file()
    assert [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []


def test_a_folder_that_cannot_be_laid_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "envs").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError) as failure:
        lay_out(tmp_path)
    assert failure.value.message.startswith(f"{tmp_path}/envs/dev.yaml: cannot be written: ")
    assert failure.value.hint == "choose another folder with --out DIR"


@pytest.mark.parametrize("environment", Environment)
def test_the_shipped_wishes_are_read_where_the_folder_has_none(environment: Environment, tmp_path: Path) -> None:
    shares = {Environment.DEV: 0.80, Environment.STAGING: 0.85, Environment.PROD: 0.90}
    assert read_wishes(paths_of(tmp_path, environment)).gpu_memory_utilization == shares[environment]


def test_a_rendered_stack_is_read_back(project: Path) -> None:
    stack = load_stack(paths_of(project, Environment.STAGING))
    assert stack is not None
    assert stack.env == {key: setting.value for key, setting in flat_settings(stack.plan).items()}
    assert stack.plan.environment is Environment.STAGING
    assert load_stack(paths_of(project)) is None


def test_the_local_file_wins(project: Path) -> None:
    (project / "envs/.env.staging.local").write_text("# mine\nexport GATEWAY_PORT=5000\nVLLM_IMAGE='a b'\n")
    env = read_environment(paths_of(project, Environment.STAGING))
    assert (env["GATEWAY_PORT"], env["VLLM_IMAGE"], env["GPU_COUNT"]) == ("5000", "a b", "2")


def test_a_missing_environment_file_is_named_with_what_writes_it(project: Path) -> None:
    (project / "envs/.env.staging").unlink()
    with pytest.raises(ValidationError) as failure:
        load_stack(paths_of(project, Environment.STAGING))
    assert failure.value.message == f"{project}/envs/.env.staging is missing"
    assert failure.value.hint == "`configure-gpu staging` writes it"


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    """Return an edit of the plan's JSON."""

    def edit(text: str) -> str:
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-3], "cannot be read as JSON"),
        (lambda _: "", "cannot be read as JSON"),
        (lambda _: "[" * 100_000, "cannot be read as JSON"),
        (lambda _: "[]", "not a plan of this release"),
        (changed(lambda plan: plan.update(schema=2)), "not a plan of this release"),
        (changed(lambda plan: plan.update(replicas=[])), "not a plan of this release"),
        (changed(lambda plan: plan.update(models=[])), "not a plan of this release"),
        (
            changed(lambda plan: plan["settings"].update(EVIL=plan["settings"]["GPU_COUNT"])),
            "not a plan of this release",
        ),
        (changed(lambda plan: plan.update(environment="prod")), "a plan for prod"),
        (changed(lambda plan: plan.update(mode="fast")), "mode: unknown value 'fast'"),
        (changed(lambda plan: plan.update(moed="cpu")), "moed: unknown key"),
        (changed(lambda plan: plan.pop("workers")), "`workers` is missing"),
    ],
    ids=[
        "cut",
        "empty",
        "nested",
        "list",
        "schema",
        "replicas",
        "models",
        "setting",
        "other",
        "mode",
        "key",
        "missing",
    ],
)
def test_a_damaged_plan_is_named_with_what_writes_it_anew(
    edit: Callable[[str], str], message: str, project: Path
) -> None:
    path = project / "compose/generated/staging/plan.json"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValidationError) as failure:
        load_plan(paths_of(project, Environment.STAGING))
    assert failure.value.message == f"{path}: {message}"
    assert failure.value.hint == "`configure-gpu staging` renders it again"


def test_a_plan_that_is_a_folder_is_named(project: Path) -> None:
    path = project / "compose/generated/staging/plan.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(ValidationError, match=r"plan\.json: cannot be read: Is a directory"):
        load_plan(paths_of(project, Environment.STAGING))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nB='open\nC=3\n", "2: expected KEY=VALUE"),
        (b"A=1\nB\n", "2: expected KEY=VALUE"),
        (b"A=1\n\nhalf a sentence\n", "3: expected KEY=VALUE"),
    ],
)
def test_a_wrong_line_is_told_by_its_number_alone(content: bytes, message: str, tmp_path: Path) -> None:
    """It may hold a secret."""
    path = tmp_path / ".env.dev.local"
    path.write_bytes(content)
    with pytest.raises(ValidationError) as failure:
        read_env_file(path)
    assert failure.value.message == f"{path}:{message}"
    assert failure.value.hint == "correct or remove it"


def test_only_a_generated_file_is_rendered_again(tmp_path: Path) -> None:
    path = tmp_path / ".env.dev"
    path.write_text("A\n", encoding="utf-8")
    with pytest.raises(ValidationError) as failure:
        read_env_file(path)
    assert failure.value.hint == "correct it, or move it away: `configure-gpu` then renders it again"


@pytest.mark.parametrize("line", ["A=/models/$USER", 'A="/models/${USER}"', "export A = a$$b"])
def test_what_compose_would_replace_is_refused(line: str, tmp_path: Path) -> None:
    """Compose 2.26.1 reads `ab$cd` as `ab`; the two runtimes would then serve two things."""
    path = tmp_path / ".env.dev.local"
    path.write_text(f"B=1\n{line}\n", encoding="utf-8")
    with pytest.raises(ValidationError) as failure:
        read_env_file(path)
    assert failure.value.message == f"{path}:2: a `$` outside single quotes, which Compose would expand"
    assert failure.value.hint == "write A='…'"
    path.write_text("A='/models/$USER'\nexport B = 'a$$b'\nC=1 # not $this\n", encoding="utf-8")
    assert read_env_file(path) == {"A": "/models/$USER", "B": "a$$b", "C": "1"}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120) | st.text("AB='\"\\$#\n {}", max_size=40).map(str.encode))
def test_any_environment_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        values = read_env_file(path)
    except ValidationError as failure:
        assert failure.message.startswith(str(path))
    else:
        assert [key for key in values if key.encode() not in content] == []


def test_a_cloud_is_read_and_a_wrong_one_named(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    path = tmp_path / "envs" / "dev.yaml"
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    entry = "gateway:\n  cloud: [{name: away, model: PROVIDER/big, key: mine}]"
    path.write_text(shipped.replace("gateway:", entry.replace("PROVIDER", "mistral")), encoding="utf-8")
    (cloud,) = read_wishes(paths_of(tmp_path)).gateway.cloud
    assert (cloud.name, cloud.model, cloud.secret, cloud.address) == ("away", "mistral/big", "cloud_mine_key", None)
    path.write_text(shipped.replace("gateway:", entry), encoding="utf-8")
    with pytest.raises(
        UsageError, match=r"gateway.cloud\[0\].model: found 'PROVIDER/big', allowed: PROVIDER/MODEL with"
    ):
        read_wishes(paths_of(tmp_path))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("name: '*', model: mistral/big, key: mine", "gateway.cloud[0].name: found `*`, allowed: a name without `*`"),
        ("name: os.environ/HOME, model: mistral/big, key: mine", "gateway.cloud[0].name: found `os.environ/HOME`"),
        (
            "name: away, model: mistral/big, key: sk-proj-Secret",
            "gateway.cloud[0].key: found another value, not shown",
        ),
        (
            "name: away, model: mistral/big, key: mine, address: 'https://me:Secret@example.com'",
            "gateway.cloud[0].address: found another value, not shown",
        ),
    ],
)
def test_a_wrong_cloud_is_named_without_a_secret(entry: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    text = shipped.replace("gateway:", f"gateway:\n  cloud: [{{{entry}}}]")
    (tmp_path / "envs" / "dev.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as refusal:
        read_wishes(paths_of(tmp_path))
    assert problem in refusal.value.message
    assert "Secret" not in f"{refusal.value.message} {refusal.value.hint}"
