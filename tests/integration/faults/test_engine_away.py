"""The container engine is not there, or has not what is asked for. No service is started."""

from __future__ import annotations

from collections.abc import Callable

from tests.integration.conftest import MakeProject
from tests.integration.faults.command import run
from tests.integration.faults.conftest import MakeFault
from tests.integration.project import Project


def test_no_daemon(make_plain_project: Callable[..., Project], fault: MakeFault) -> None:
    project = make_plain_project()
    project.configure("cpu")
    case = fault("no daemon", project)
    ended = run(project, "start-environment", "dev", "--runtime=compose")
    case.ends(ended, code=6, says=("no container engine answers", "start Docker", "--runtime processes"), engine=False)


def test_image_that_cannot_be_pulled(make_project: MakeProject, pins: list[str], fault: MakeFault) -> None:
    project = make_project()
    # Port 1 of this machine: nothing listens there, so the refusal comes at once and from no registry.
    project.configure("cpu", *pins, "--set=VLLM_IMAGE=127.0.0.1:1/engine:none")
    case = fault("an image cannot be pulled", project)
    ended = run(project, "start-environment", "dev", "--runtime=compose")
    case.ends(ended, code=6, says=("cannot pull image 127.0.0.1:1/engine:none", "--set VLLM_IMAGE="))


def test_key_that_was_never_set(make_plain_project: Callable[..., Project], fault: MakeFault) -> None:
    """A word in the place of a key opens the gateway to whoever guesses it."""
    project = make_plain_project()
    project.configure("cpu")
    (project.folder / "envs" / ".secrets" / "dev" / "litellm_master_key").write_text("sk-1234\n")
    case = fault("the gateway's key is a weak one", project, "processes")
    ended = run(project, "start-environment", "dev", "--runtime=processes")
    case.ends(ended, code=5, says=("litellm_master_key",), engine=False)
    assert "sk-1234" not in ended.said
