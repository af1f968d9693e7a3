"""GPUs that change between plan and start: a C library in the place of NVML, all else real. No service is started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.faults.command import run
from tests.integration.faults.conftest import MakeFault
from tests.integration.images import Images
from tests.integration.project import Project
from tests.integration.test_gpu_compose import ANSWERS, UUIDS

GONE = ("all but the first GPU",)
ONLY_ONE = re.compile(r"system |gpu 0 (?!lane)")

pytestmark = pytest.mark.usefixtures("gpu_requests")


class Machine(Struct, frozen=True, kw_only=True):
    """A stack that was planned for two linked GPUs, and the file that the stand-in for NVML answers from."""

    project: Project
    answers: Path

    @contextmanager
    def changed(self, *lines: str) -> Iterator[None]:
        """Let the GPUs be otherwise while the block lasts: by further lines, or none of it but the first GPU."""
        before = self.answers.read_text(encoding="utf-8")
        first = "".join(f"{line}\n" for line in before.replace(" 0-1 ", " 0 ").splitlines() if ONLY_ONE.match(line))
        after = first if lines == GONE else before + "".join(f"{line}\n" for line in lines)
        self.answers.write_text(after, encoding="utf-8")
        try:
            yield
        finally:
            self.answers.write_text(before, encoding="utf-8")


@pytest.fixture(scope="module")
def machine(
    make_project: MakeProject, images: Images, pins: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Machine:
    """Give a machine whose stack is configured and passes every check."""
    folder = tmp_path_factory.mktemp("nvml")
    answers = folder / "answers.txt"
    answers.write_text(ANSWERS.read_text(encoding="utf-8"), encoding="utf-8")
    project = make_project(**environment(build_fake_nvml(folder), answers))
    project.configure("multi", "--model=smoke", *pins, f"--set=VLLM_IMAGE={images.engine_for_two_gpus}")
    assert run(project, "validate-environment", "dev", "--runtime=compose").code == 0
    return Machine(project=project, answers=answers)


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("a GPU is gone since the plan", GONE, ("gpu-missing", UUIDS[1], "configure-gpu dev")),
        (
            "another GPU is in its place",
            ("gpu 1 uuid GPU-another",),
            ("gpu-missing", UUIDS[1], "configure-gpu dev"),
        ),
        (
            "a GPU fell off the bus (NVML error 15)",
            ("fail nvmlDeviceGetHandleByIndex_v2 15 gpu 1",),
            ("gpu-lost", "NVML error 15", "reboot"),
        ),
        (
            "the driver was updated under a loaded module (NVML error 18)",
            ("fail nvmlInitWithFlags 18",),
            ("driver-fault", "mismatch", "sudo reboot"),
        ),
        (
            "the driver is older than the plan's",
            ("system cuda_version 12040",),
            ("driver-too-old", "CUDA 12.4", "update the "),
        ),
    ],
    ids=["gone", "another", "lost", "mismatch", "older"],
)
def test_start_is_refused(
    name: str, lines: tuple[str, ...], says: tuple[str, ...], machine: Machine, fault: MakeFault
) -> None:
    case = fault(name, machine.project)
    with machine.changed(*lines):
        ended = run(machine.project, "start-environment", "dev", "--runtime=compose")
    case.ends(ended, code=5, says=says)


def test_order_of_the_gpus_changed(machine: Machine, fault: MakeFault) -> None:
    """Containers get GPUs by UUID, so the right GPUs are still used: a warning, which `--strict` makes an error."""
    swapped = (f"gpu 0 uuid {UUIDS[1]}", f"gpu 1 uuid {UUIDS[0]}")
    with machine.changed(*swapped):
        case = fault("the order of the GPUs changed since the plan", machine.project)
        ended = run(machine.project, "validate-environment", "dev", "--runtime=compose")
        case.ends(ended, code=0, says=("gpu-order", "the right GPUs are still used", "dev: valid"))
        case = fault("the order of the GPUs changed since the plan: --strict", machine.project)
        ended = run(machine.project, "validate-environment", "dev", "--runtime=compose", "--strict")
        case.ends(ended, code=5, says=("gpu-order", f"{UUIDS[1]} was GPU 1 and is GPU 0"))
