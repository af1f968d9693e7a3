"""`validate-environment` before a GPU stack, with real Docker and Compose; a C library in the place of NVML.

Nothing is started but the short container that says which GPUs it sees. In the stand-in images a script in the place of
the driver's tool names the GPUs that the engine was told to give; another image has none, as without NVIDIA's toolkit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import Project
from tests.integration.test_gpu_compose import ANSWERS, UUIDS

pytestmark = pytest.mark.usefixtures("gpu_requests")


class Machine(Struct, frozen=True, kw_only=True):
    """A configured stack on two linked GPUs, and the file that NVML's stand-in answers from."""

    project: Project
    answers: Path

    def check(self, *lines: str, strict: bool = False) -> tuple[int, list[dict[str, Any]]]:
        """Validate with further lines for the stand-in; return the exit code and the findings.

        That root configured the stack is found, too, where root runs the tests; it is left out but for its exit code.
        """
        text = ANSWERS.read_text(encoding="utf-8")
        self.answers.write_text(text + "".join(f"{line}\n" for line in lines), encoding="utf-8")
        words = ["validate-environment", "dev", "--runtime=compose", "--json", *(["--strict"] if strict else [])]
        done = self.project.command(*words)
        assert "Traceback" not in done.stderr
        findings = json.loads(done.stdout)["findings"]
        return done.returncode, [finding for finding in findings if finding["check"] != "container-root"]


@pytest.fixture(scope="module")
def machine(make_project: MakeProject, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Give a stack that passes."""
    folder = tmp_path_factory.mktemp("nvml")
    answers = folder / "answers.txt"
    answers.write_text(ANSWERS.read_text(encoding="utf-8"), encoding="utf-8")
    project = make_project(**environment(build_fake_nvml(folder), answers))
    project.configure("multi", "--model=smoke", *images.pins(images.engine_for_two_gpus))
    return Machine(project=project, answers=answers)


def test_what_is_as_planned_passes_also_strictly(machine: Machine) -> None:
    assert machine.check() == (0, [])
    assert machine.check(strict=True) == (5 if os.geteuid() == 0 else 0, [])
    assert machine.project.remains("container") == []


@pytest.mark.parametrize(
    ("lines", "code", "found"),
    [
        (("fail nvmlInitWithFlags 18",), 5, {"driver-fault", "not-checked"}),
        (("fail nvmlDeviceGetHandleByIndex_v2 15 gpu 1",), 5, {"gpu-missing", "gpu-lost"}),
        ((f"gpu 0 uuid {UUIDS[1]}", f"gpu 1 uuid {UUIDS[0]}"), 0, {"gpu-order"}),
        (("gpu 1 uuid GPU-another",), 5, {"gpu-missing", "gpu-added"}),
        (("gpu 0-1 lane 0-3 off",), 0, {"links-changed", "nvlink-lanes"}),
        (("gpu 0 lane 3 off", "gpu 1 lane 3 off"), 0, {"links-changed", "nvlink-lanes"}),
        (("gpu 0 memory 25769803776 9000000000", "gpu 0 process 1 8000000000"), 5, {"gpu-memory"}),
        (("system cuda_version 12040",), 5, {"driver-too-old"}),
        (("gpu 1 rows_broken 1",), 0, {"gpu-memory-errors"}),
    ],
    ids=["mismatch", "lost", "order", "swapped", "bridge", "lane", "held", "older", "rows"],
)
def test_what_changed_since_the_plan_is_told(
    lines: tuple[str, ...], code: int, found: set[str], machine: Machine
) -> None:
    returned, findings = machine.check(*lines)
    assert (returned, {finding["check"] for finding in findings}) == (code, found)
    assert all(finding["fix"] for finding in findings)


def test_who_holds_the_memory_is_named(machine: Machine) -> None:
    _, [finding] = machine.check("gpu 0 memory 25769803776 9000000000", "gpu 0 process 1 8000000000")
    assert "(pid 1, 7.5 GiB)" in finding["found"]


def test_an_engine_that_gives_no_gpus_is_found_by_a_container(machine: Machine, images: Images) -> None:
    local = machine.project.folder / "envs/.env.dev.local"
    local.write_text(f"VLLM_IMAGE={images.engine}\n", encoding="utf-8")
    local.chmod(0o600)
    try:
        code, findings = machine.check()
    finally:
        local.unlink()
    assert (code, [finding["check"] for finding in findings]) == (5, ["gpu-container"])
    assert "NVIDIA Container Toolkit" in findings[0]["fix"]
    assert machine.project.remains("container") == []


def test_a_base_file_that_lost_its_reservations_is_found_in_what_compose_reads(machine: Machine) -> None:
    override = machine.project.folder / "compose/generated/dev/override.yaml"
    before = override.read_text(encoding="utf-8")
    override.write_text(before.replace(UUIDS[1], "GPU-another"), encoding="utf-8")
    try:
        code, findings = machine.check()
    finally:
        override.write_text(before, encoding="utf-8")
    assert (code, {finding["check"] for finding in findings}) == (5, {"file-edited", "compose-gpus"})


def test_files_that_compose_refuses_are_a_finding_in_its_words(machine: Machine) -> None:
    base = machine.project.folder / "compose/compose.yaml"
    before = base.read_text(encoding="utf-8")
    base.write_text(before + "\nnonsense: true\n", encoding="utf-8")
    try:
        code, findings = machine.check()
    finally:
        base.write_text(before, encoding="utf-8")
    assert (code, [finding["check"] for finding in findings]) == (5, ["compose-refused"])
    assert "nonsense" in findings[0]["found"]
