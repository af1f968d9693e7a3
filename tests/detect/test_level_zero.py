"""Intel's cards over the fake Level Zero library: what each answer and each failure at the boundary makes of them."""

from __future__ import annotations

from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import pytest
from stackwright.detect.fact import Missing
from stackwright.detect.other_gpus import ask_level_zero, probe_other_gpus
from stackwright.domain.host import OtherGpu
from stackwright.units import GIB

from tests.detect.conftest import DetectHosts
from tests.detect.test_other_gpus import ARC, RADEON, UHD, Device, tree
from tests.fakes.level_zero import LIBRARY, build_fake_level_zero

pytestmark = pytest.mark.subprocess

MAX = ("0000:4D:00.0", {"vendor": "0x8086", "class": "0x038000", "device": "0x0bd5"})
IN_A_MACHINE = ("0000:00:10.0", ARC[1])
ANSWERS = f"""\
device 0 pci 0000:03:00.0
device 0 name Intel(R) Arc(TM) B580 Graphics
device 0 module 0 {12 * GIB}
device 0 system {64 * GIB} 0
device 1 pci 0000:4d:00.0
device 1 name Intel(R) Data Center GPU Max 1550
device 1 module {64 * GIB} 1
device 1 module {64 * GIB} 1
"""
FUNCTIONS = (
    "zesInit",
    "zesDriverGet",
    "zesDeviceGet",
    "zesDevicePciGetProperties",
    "zesDeviceGetProperties",
    "zesDeviceEnumMemoryModules",
    "zesMemoryGetProperties",
    "zesMemoryGetState",
)
Asked = tuple[tuple[OtherGpu, ...], list[Missing]]
Ask = Callable[..., Asked]


@pytest.fixture
def ask(fake_level_zero: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Give what looks at a machine with these devices, whose library answers as the text says."""

    def look(answers: str, *devices: Device) -> Asked:
        (tmp_path / "answers.txt").write_text(answers, encoding="utf-8")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_level_zero))
        monkeypatch.setenv("STACKWRIGHT_FAKE_LEVEL_ZERO", str(tmp_path / "answers.txt"))
        missing: list[Missing] = []
        return probe_other_gpus(tree(tmp_path / "root", *devices), missing), missing

    return look


def test_memory_of_the_card_is_told_whole(ask: Ask) -> None:
    gpus, missing = ask(ANSWERS, ARC, MAX)
    assert [(gpu.name, gpu.memory_bytes) for gpu in gpus] == [
        ("Arc B580", 12 * GIB),
        ("Intel(R) Data Center GPU Max 1550", 128 * GIB),
    ]
    assert missing == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_that_answers_an_error_leaves_its_card_unknown(function: str, ask: Ask) -> None:
    (gpu,), missing = ask(f"{ANSWERS}fail {function} 0x70010000\n", ARC)
    assert gpu.memory_bytes is None
    words = f"Level Zero's {function} answers that permission is missing (0x70010000)"
    assert missing == [Missing(subject="Intel GPU 0000:03:00.0", fact="VRAM", words=words)]


def test_one_card_that_fails_takes_nothing_from_the_other(ask: Ask) -> None:
    (first, second), missing = ask(f"{ANSWERS}fail zesMemoryGetProperties 0x70000001 1\n", ARC, MAX)
    assert (first.memory_bytes, second.memory_bytes) == (12 * GIB, None)
    assert second.name == "Intel(R) Data Center GPU Max 1550"
    assert [row.subject for row in missing] == ["Intel GPU 0000:4D:00.0"]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ("crash zesMemoryGetState", "Level Zero crashed: Aborted"),
        ("device 0 pci 0000:09:00.0", "Level Zero does not list it"),
        ("fail zesDeviceGetProperties 0x7ffffffe", "Level Zero's zesDeviceGetProperties answers an error (0x7ffffffe)"),
    ],
)
def test_a_crash_and_a_card_that_is_not_listed_are_told(answers: str, words: str, ask: Ask) -> None:
    (gpu,), missing = ask(f"{ANSWERS}{answers}\n", ARC)
    assert (gpu.name, gpu.memory_bytes) == ("Arc B580", None)
    assert [row.words for row in missing] == [words]


@pytest.mark.parametrize(
    "modules", ["", "device 0 module 0 0", f"device 0 system {GIB} {GIB}", f"device 0 module {2**63} 0"]
)
def test_a_card_without_a_size_of_its_own_has_none(modules: str, ask: Ask) -> None:
    (gpu,), missing = ask(f"device 0 pci 0000:03:00.0\n{modules}\n", ARC)
    assert gpu.memory_bytes is None
    assert [row.words for row in missing] == ["Level Zero tells no size"]


def test_lines_of_the_librarys_own_are_passed_over(ask: Ask) -> None:
    (gpu,), _ = ask(f"say {{ZE_LOADER_DEBUG_TRACE}}\n{ANSWERS}", ARC)
    assert gpu.memory_bytes == 12 * GIB


@pytest.mark.parametrize(("told", "integrated", "unknown"), [("", False, 1), ("device 0 integrated\n", True, 0)])
def test_the_processors_own_graphics_in_a_virtual_machine_are_no_card(
    told: str, integrated: bool, unknown: int, ask: Ask
) -> None:
    (gpu,), missing = ask(f"device 0 pci 0000:00:10.0\ndevice 0 system {GIB} 0\n{told}", IN_A_MACHINE)
    assert (gpu.integrated, len(missing)) == (integrated, unknown)


def test_a_library_that_hangs_is_given_up(ask: Ask) -> None:
    ask(f"{ANSWERS}hang zesInit\n", UHD)
    assert ask_level_zero(timeout_s=0.5).words == "Level Zero gives no answer in 0.5 seconds"


def test_only_a_card_of_intel_is_asked_about(ask: Ask) -> None:
    gpus, missing = ask(ANSWERS, UHD, RADEON)
    assert [gpu.memory_bytes for gpu in gpus] == [None, 24 * GIB]
    assert missing == []


def test_an_old_or_broken_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    build_fake_level_zero(tmp_path, without="zesInit")
    assert ask_level_zero().words == f"{LIBRARY} is too old: it has no zesInit"
    (tmp_path / LIBRARY).write_bytes(b"text")
    assert "file too short" in (ask_level_zero().words or "")


@pytest.mark.skipif(find_library("ze_loader") is not None, reason="this machine has Level Zero")
def test_a_machine_without_the_library_says_so() -> None:
    assert ask_level_zero().words == f"Level Zero is not installed ({LIBRARY})"


def test_detection_tells_what_is_missing_and_a_plan_does_not(
    detect_hosts: DetectHosts, fake_level_zero: Path, tmp_path: Path
) -> None:
    (shown,) = detect_hosts([(tree(tmp_path, ARC), None)], fake_level_zero)
    (warning,) = (told for told in shown.warnings if told.startswith("Intel GPU"))
    assert warning.startswith(
        "Intel GPU 0000:03:00.0: VRAM cannot be read: Level Zero's zesInit answers that no driver"
    )
    assert warning not in shown.notable
    assert "memory_bytes: null, pci_bus_id: '0000:03:00.0'" in " ".join(shown.snapshot.split())
