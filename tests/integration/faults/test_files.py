"""The files of an environment are damaged, edited, mistyped, gone, or out of reach. No service is started."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.faults.command import Command, run
from tests.integration.faults.conftest import MakeFault
from tests.integration.faults.places import fill, small_disk
from tests.integration.project import Project

MakePlainProject = Callable[..., Project]
ENVIRONMENT = "envs/.env.dev"
LOCAL = "envs/.env.dev.local"
OVERRIDE = "compose/generated/dev/override.yaml"
PLAN = "compose/generated/dev/plan.json"
START = ("start-environment", "dev", "--runtime=processes")


@pytest.fixture(scope="module")
def project(make_plain_project: MakePlainProject) -> Project:
    """Give a project that is configured and does not run."""
    project = make_plain_project()
    project.configure("cpu")
    return project


@contextmanager
def changed(project: Project, name: str, content: bytes) -> Iterator[None]:
    """Let a file of a project hold something else while the block lasts."""
    path = project.folder / name
    before = path.read_bytes() if path.exists() else None
    path.touch(mode=0o600)
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@pytest.mark.parametrize(
    ("what", "damage", "says"),
    [
        ("is not text", lambda text: b"\0\xff\xfe" + text, ("not UTF-8 text", "then renders it again")),
        # At the end of a line: what is left reads as a file that lacks the rest.
        (
            "is cut off",
            lambda text: text[: text.rindex(b"\n", 0, len(text) // 2) + 1],
            ("env-missing-key", "configure-gpu dev"),
        ),
        ("is empty", lambda text: text[:0], ("is damaged", "configure-gpu dev")),
        ("has a torn line", lambda text: text + b"VLLM_MAX\n", ("expected KEY=VALUE", "then renders it again")),
    ],
    ids=["binary", "half", "empty", "torn"],
)
def test_environment_file_corrupted(
    what: str, damage: Callable[[bytes], bytes], says: tuple[str, ...], project: Project, fault: MakeFault
) -> None:
    text = (project.folder / ENVIRONMENT).read_bytes()
    with changed(project, ENVIRONMENT, damage(text)):
        case = fault(f"the environment file {what}", project, "processes")
        case.ends(run(project, *START), code=5, says=says, engine=False)


def test_plan_torn(project: Project, fault: MakeFault) -> None:
    with changed(project, PLAN, (project.folder / PLAN).read_bytes()[:300]):
        case = fault("the plan is torn", project, "processes")
        case.ends(
            run(project, *START), code=5, says=("plan.json: cannot be read as JSON", "renders it again"), engine=False
        )


def test_unknown_key(project: Project, fault: MakeFault) -> None:
    with changed(project, LOCAL, b"VLLM_MAX_MODEL_LENGTH=2048\n"):
        case = fault("a key is mistyped", project, "processes")
        says = ("env-unknown-key: VLLM_MAX_MODEL_LENGTH", "did you mean `VLLM_MAX_MODEL_LEN`?")
        case.ends(run(project, *START), code=5, says=says, engine=False)


def test_rendered_file_edited(project: Project, fault: MakeFault) -> None:
    """It is the person's: a warning, which `--strict` makes an error; and configuring anew keeps it aside."""
    edited = (project.folder / OVERRIDE).read_bytes() + b"# mine\n"
    with changed(project, OVERRIDE, edited):
        case = fault("a rendered file was edited: validate-environment --strict", project, "processes")
        ended = run(project, "validate-environment", "dev", "--runtime=processes", "--strict")
        says = ("file-edited", "override.yaml was edited after rendering", "envs/.env.dev.local")
        case.ends(ended, code=5, says=says, engine=False)
        case = fault("a rendered file was edited: configure-gpu", project, "any")
        ended = run(project, "configure-gpu", "cpu", "--env=dev", *project.pins)
        aside = f"{OVERRIDE}.edited-1"
        case.ends(ended, code=0, changed=(OVERRIDE, aside), engine=False)
        assert (
            "override.yaml was edited: your version is kept as compose/generated/dev/override.yaml.edited-1"
            in ended.said
        )
        assert (project.folder / aside).read_bytes() == edited
        (project.folder / aside).unlink()


def test_secrets_folder_removed(project: Project, fault: MakeFault, tmp_path: Path) -> None:
    secrets = project.folder / "envs" / ".secrets"
    moved = shutil.move(secrets, tmp_path / "secrets")
    for words, code, says in (
        (("validate-environment", "dev", "--runtime=processes"), 5, ("secret-missing", "configure-gpu dev")),
        (("key", "dev"), 2, ("no key yet", "configure-gpu")),
    ):
        case = fault(f"the secrets are gone: {words[0]}", project, "processes")
        case.ends(run(project, *words), code=code, says=says, engine=False)
    shutil.move(moved, secrets)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("configure-gpu", "cpu", "--env=dev"), 2, ("cannot be written: not writable", "--out DIR")),
        (START, 2, ("cannot be written: not writable", "--out DIR")),
        (("stop-environment", "dev", "--runtime=processes"), 0, ("cannot be written", "going on without it")),
    ],
    ids=["configure-gpu", "start-environment", "stop-environment"],
)
def test_project_folder_is_read_only(
    words: tuple[str, ...], code: int, says: tuple[str, ...], make_plain_project: MakePlainProject, fault: MakeFault
) -> None:
    """Only what stops needs to write nothing."""
    project = make_plain_project()
    with small_disk(project.folder, 2**22):
        project.configure("cpu")
        case = fault(f"the project folder is read-only: {words[0]}", project, "processes")
        subprocess.run(["mount", "-o", "remount,ro", project.folder], check=True)
        ended = run(project, *words)
        case.ends(ended, code=code, says=says, engine=False)


def test_state_folder_on_a_full_disk(
    make_plain_project: MakePlainProject, fault: MakeFault, state_folder: Path, tmp_path: Path
) -> None:
    """Full before the checks; and full once the services' files are written."""
    with small_disk(tmp_path / "state", 2**22) as state:
        (state / "venvs").symlink_to(state_folder / "venvs")
        project = make_plain_project(STACKWRIGHT_STATE=str(state))
        project.configure("cpu")
        for room, code, says in (
            (0, 5, ("disk-full", "no bytes free")),
            (2 * 4096, 6, ("No space left on device", "everything it started is stopped", "STACKWRIGHT_STATE")),
        ):
            case = fault(f"the state folder's disk has {room} bytes free", project, "processes")
            filler = fill(state, leave_bytes=room)
            ended = run(project, *START)
            filler.unlink()
            case.ends(ended, code=code, says=says, engine=False)


@pytest.mark.parametrize("name", ["project", pytest.param("environments", marks=pytest.mark.long)])
def test_folder_deleted_during_a_start(name: str, make_quick_project: MakePlainProject, fault: MakeFault) -> None:
    """What was started can still be taken down, since its runtime keeps its own records."""
    project = make_quick_project()
    project.configure("cpu")
    with project.held(), Command(project, *START) as start:
        start.wait_for("engine: starting")
        shutil.rmtree(project.folder if name == "project" else project.folder / "envs")
        case = fault(f"the {name} folder is deleted during the start", project, "processes")
        start.mark()
        ended = start.end()
    case.ends(ended, code=7, engine=False)
