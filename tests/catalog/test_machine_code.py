"""What the kernels of a wheel were compiled for, read from libraries that are made here byte by byte."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from stackwright.catalog.load import load_kernels
from stackwright.catalog.machine_code import read_wheel
from stackwright.domain.catalog import KernelGroup
from stackwright.errors import UsageError

PTX, CODE = 1, 2


def region(*entries: tuple[int, int]) -> bytes:
    """Make one region of a fatbin: a header, and an entry of 24 bytes for each (kind, architecture)."""
    made = b"".join(
        struct.pack("<HHIQIIHHII", kind, 0x101, 64, 24, 0, 0, 0, 0, architecture, 0).ljust(64, b"\0") + b"\1" * 24
        for kind, architecture in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(made)) + made


def library(section: bytes) -> bytes:
    """Make the least ELF file for x86-64 that has a section .nv_fatbin."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    body = section + names
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 3, 2
    )
    sections = (
        bytes(64)
        + struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64, len(section), 0, 0, 8, 0)
        + struct.pack("<IIQQQQIIQQ", 12, 3, 0, 0, 64 + len(section), len(names), 0, 0, 1, 0)
    )
    return header + body + sections


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Make a wheel of two libraries, one of them without kernels, and a module."""
    file = tmp_path / "vllm-0.34.0-py3-none-any.whl"
    padding = bytes(16)  # a linker leaves room between the regions of two files
    kernels = region((CODE, 80), (PTX, 80)) + padding + region((CODE, 75), (CODE, 90)) + region((CODE, 80), (PTX, 80))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vllm/_C.abi3.so", library(kernels))
        archive.writestr("vllm/_plain.so", library(b""))
        archive.writestr("vllm/module.py", "import os\n")
    return file


def test_kernels_of_the_same_architectures_are_counted_together(wheel: Path) -> None:
    assert read_wheel(wheel) == (
        KernelGroup(library="_C", machine_code=("7.5", "9.0"), ptx=(), kernels=1, releases=()),
        KernelGroup(library="_C", machine_code=("8.0",), ptx=("8.0",), kernels=2, releases=()),
    )


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_wheel_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.whl"
    file.write_bytes(content)
    with pytest.raises(UsageError) as failure:
        read_wheel(file)
    assert failure.value.message.startswith(f"{file}: cannot be read: ")


def test_a_library_that_is_no_elf_file_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vllm/_C.so", b"MZ")
    with pytest.raises(UsageError):
        read_wheel(file)


@pytest.mark.parametrize(
    ("capability", "alone"),
    [("7.5", False), ("8.0", True), ("8.6", True), ("9.0", False), ("9.1", False), ("6.0", False)],
)
def test_ptx_is_needed_where_no_machine_code_runs(capability: str, alone: bool) -> None:
    group = KernelGroup(library="_C", machine_code=("7.5", "9.0"), ptx=("8.0",), kernels=1, releases=("1",))
    assert group.needs_ptx(capability) is alone


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9"])
def test_newer_releases_have_machine_code_from_turing_to_ada(capability: str) -> None:
    table = load_kernels()
    assert table.libraries_by_ptx("0.32.0", capability) == ()


@pytest.mark.parametrize("capability", ["9.0", "10.0", "12.0"])
def test_flash_attention_2_comes_as_ptx_for_newer_gpus(capability: str) -> None:
    table = load_kernels()
    assert "_vllm_fa2_C" in (table.libraries_by_ptx("0.32.0", capability) or ())


def test_nobody_knows_of_a_release_that_was_not_read() -> None:
    assert load_kernels().libraries_by_ptx("0.40.0", "8.0") is None
