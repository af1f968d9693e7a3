"""The GPUs of every recorded host as a picture that fits a screen, and what the planner makes of their pairs."""

from __future__ import annotations

import pytest
from stackwright.domain.host import Host
from stackwright.planning.pairs import judge_pairs, possible_placements
from stackwright.rendering.gpu_picture import gpu_picture, pair_lines, placement_lines, spans
from stackwright.rendering.sheet import Sheet

from tests.planning_requests import HOST_NAMES, recorded

H100 = """\
GPUs 0-7: H100 80GB HBM3, memory 79.6 GiB, compute capability 9.0

NVSwitch ×18     ╔═══════╦═══════╦═══════╦═══════╦═══════╦═══════╦═══════╗
GPU              0       1       2       3       4       5       6       7
NUMA node 0      └───────┴───────┴───────┘
NUMA node 1                                      └───────┴───────┴───────┘"""
PAIRS = """\
GPUs 0-3: A100 80GB PCIe, memory 80.0 GiB, compute capability 8.0

NVLink x12       +=======+       +=======+
GPU              0       1       2       3
NUMA node 0      +-------+
NUMA node 1                      +-------+"""


def screen(host: Host, sheet: Sheet) -> list[str]:
    """Return everything that `gpus` shows of a host."""
    found, _ = possible_placements(host)
    return [*gpu_picture(host, sheet, {}), *pair_lines(judge_pairs(host), sheet), *placement_lines(found, sheet)]


def test_a_picture_shows_what_joins_the_gpus() -> None:
    assert "\n".join(gpu_picture(recorded("8x-h100-nvswitch"), Sheet(width=80), {})) == H100
    assert "\n".join(gpu_picture(recorded("4x-a100-two-nvlink-pairs"), Sheet(width=80, ascii=True), {})) == PAIRS


@pytest.mark.parametrize("name", HOST_NAMES)
@pytest.mark.parametrize("sheet", [Sheet(width=80), Sheet(width=60, ascii=True)])
def test_every_host_fits_its_screen(name: str, sheet: Sheet) -> None:
    lines = screen(recorded(name), sheet)
    assert [line for line in lines if len(line) > sheet.width] == []
    assert not sheet.ascii or "".join(lines).isascii()
    assert sheet.width < 80 or len(lines) <= 24


def test_pairs_are_split_inside_islands_alone() -> None:
    split = {(pair.a, pair.b): pair.split for pair in judge_pairs(recorded("4x-a100-two-nvlink-pairs"))}
    assert split == {(0, 1): True, (0, 2): False, (0, 3): False, (1, 2): False, (1, 3): False, (2, 3): True}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("2x-rtx3090-nvlink", "tensor parallel inside an NVLink island"),
        ("2x-rtx3090-pcie", "all-reduces over PCIe are slow"),
        ("mixed-3090-3060", "different models of GPU"),
        ("gpu-lost", "GPU 1 cannot be used"),
        ("a100-mig", "MIG is on"),
    ],
)
def test_each_pair_has_its_reason(name: str, why: str) -> None:
    (pair,) = judge_pairs(recorded(name))
    assert pair.why.startswith(why)


def test_a_host_that_cannot_plan_says_why() -> None:
    found, refusal = possible_placements(recorded("nvml-mismatch"))
    assert (found, refusal) == ((), "no usable GPU: found NVML failing (RM has detected an NVML/RM version mismatch)")


def test_numbers_that_follow_each_other_are_a_span() -> None:
    assert spans([6, 0, 1, 2, 3]) == "0-3,6"
