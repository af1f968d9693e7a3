"""GPUs of other makers: seen in trees of /sys as the kernel writes them, and what a plan says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.detect.other_gpus import probe_other_gpus
from stackwright.detect.snapshot import format_snapshot, read_snapshot
from stackwright.domain.host import Host, Maker
from stackwright.domain.plan import Mode
from stackwright.errors import NoPlanError
from stackwright.units import GIB

from tests.fakes.level_zero import LIBRARY
from tests.planning_requests import plan_for, recorded

PCI_IDS = """\
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900M]
\t\t1002 0e3b  a subsystem
\t164e  Raphael
8086  Intel Corporation
\te20b  Battlemage G21 [Arc B580]
1da3  Habana Labs Ltd.
\t1020  Gaudi2
"""
HOST_BRIDGE = ("0000:00:00.0", {"vendor": "0x8086", "class": "0x060000", "device": "0x1237"})
ETHERNET = ("0000:00:1f.6", {"vendor": "0x8086", "class": "0x020000", "device": "0x15fb"})
NVIDIA = ("0000:01:00.0", {"vendor": "0x10de", "class": "0x030000", "device": "0x2204"})
BOARD = ("0000:02:00.0", {"vendor": "0x1a03", "class": "0x030000", "device": "0x2000"})
RADEON = (
    "0000:03:00.0",
    {"vendor": "0x1002", "class": "0x030000", "device": "0x744c", "mem_info_vram_total": str(24 * GIB)},
)
RAPHAEL = (
    "0000:0e:00.0",
    {"vendor": "0x1002", "class": "0x030000", "device": "0x164e", "mem_info_vram_total": str(GIB // 2)},
)
STRIX_HALO = (
    "0000:c5:00.0",
    {"vendor": "0x1002", "class": "0x038000", "device": "0x1586", "mem_info_vram_total": str(96 * GIB)},
)
MI300X = (
    "0000:65:00.0",
    {"vendor": "0x1002", "class": "0x120000", "device": "0x74a1", "mem_info_vram_total": str(192 * GIB)}
    | {"product_name": "AMD Instinct MI300X OAM"},
)
VEGA = (
    "0000:04:00.0",
    {"vendor": "0x1002", "class": "0x030000", "device": "0x66af", "mem_info_vram_total": str(16 * GIB)},
)
UHD = ("0000:00:02.0", {"vendor": "0x8086", "class": "0x030000", "device": "0x4680"})
ARC = ("0000:03:00.0", {"vendor": "0x8086", "class": "0x030000", "device": "0xe20b"})
NPU = ("0000:00:0b.0", {"vendor": "0x8086", "class": "0x120000", "device": "0x7d1d"})
GAUDI = ("0000:33:00.0", {"vendor": "0x1da3", "class": "0x120000", "device": "0x1020"})
Device = tuple[str, dict[str, str]]


@pytest.fixture(autouse=True)
def _no_level_zero(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the library of a machine that has a card of Intel behind one that cannot be loaded."""
    folder = tmp_path_factory.mktemp("level-zero")
    (folder / LIBRARY).write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


def tree(root: Path, *devices: Device, nodes: tuple[str, ...] = (), names: bool = True) -> Path:
    """Write /sys of a machine with these devices, and nodes of AMD's compute driver."""
    for address, files in devices:
        folder = root / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n", encoding="utf-8")
    for number, text in enumerate(nodes):
        folder = root / "sys/class/kfd/kfd/topology/nodes" / str(number)
        folder.mkdir(parents=True)
        (folder / "properties").write_text(text, encoding="utf-8")
    if names:
        (root / "usr/share/misc").mkdir(parents=True)
        (root / "usr/share/misc/pci.ids").write_text(PCI_IDS, encoding="utf-8")
    return root


def node(bus: int, version: int, *, cores: int = 0) -> str:
    """Write what the compute driver says of a GPU on a bus."""
    return f"cpu_cores_count {cores}\nsimd_count 192\nlocation_id {bus << 8}\ndomain 0\ngfx_target_version {version}\n"


def host_with(root: Path, *devices: Device, nodes: tuple[str, ...] = ()) -> Host:
    """Return a machine without NVIDIA's driver and with these devices."""
    return replace(recorded("cpu-small"), other_gpus=probe_other_gpus(tree(root, *devices, nodes=nodes), []))


def test_a_card_is_told_with_name_architecture_and_memory(tmp_path: Path) -> None:
    devices = (HOST_BRIDGE, ETHERNET, NVIDIA, BOARD, RADEON)
    folder = tmp_path / "sys/bus/pci/devices" / RADEON[0]
    root = tree(tmp_path, *devices, nodes=("cpu_cores_count 16\nsimd_count 0\n", node(3, 110000)))
    (folder / "driver").symlink_to("../../../bus/pci/drivers/amdgpu")
    (gpu,) = probe_other_gpus(root, [])
    assert (gpu.maker, gpu.name) == (Maker.AMD, "Radeon RX 7900 XT/7900 XTX/7900M")
    assert (gpu.architecture, gpu.memory_bytes) == ("gfx1100", 24 * GIB)
    assert (gpu.pci_bus_id, gpu.driver, gpu.integrated) == ("0000:03:00.0", "amdgpu", False)


def test_a_chip_that_is_sold_under_several_names_has_that_of_its_revision(tmp_path: Path) -> None:
    (tmp_path / "usr/share/libdrm").mkdir(parents=True)
    rows = "744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"
    (tmp_path / "usr/share/libdrm/amdgpu.ids").write_text(rows, encoding="utf-8")
    (gpu,) = probe_other_gpus(tree(tmp_path, (RADEON[0], RADEON[1] | {"revision": "0xcc"})), [])
    assert gpu.name == "AMD Radeon RX 7900 XT"


@pytest.mark.parametrize(
    ("device", "nodes", "maker", "name", "architecture", "integrated"),
    [
        (MI300X, (node(0x65, 90402),), Maker.AMD, "AMD Instinct MI300X OAM", "gfx942", False),
        (VEGA, (node(4, 90006),), Maker.AMD, None, "gfx906", False),
        (RADEON, (node(9, 110000),), Maker.AMD, "Radeon RX 7900 XT/7900 XTX/7900M", None, False),
        (RAPHAEL, (), Maker.AMD, "Raphael", None, True),
        (STRIX_HALO, (node(0xC5, 110501, cores=16),), Maker.AMD, None, "gfx1151", True),
        (UHD, (), Maker.INTEL, None, None, True),
        pytest.param(ARC, (), Maker.INTEL, "Arc B580", None, False, marks=pytest.mark.subprocess),
        (NPU, (), Maker.INTEL, None, None, True),
        (GAUDI, (), Maker.HABANA, "Gaudi2", None, False),
    ],
)
def test_each_kind_is_told_apart(
    device: Device,
    nodes: tuple[str, ...],
    maker: Maker,
    name: str | None,
    architecture: str | None,
    integrated: bool,
    tmp_path: Path,
) -> None:
    (gpu,) = probe_other_gpus(tree(tmp_path, device, nodes=nodes), [])
    assert (gpu.maker, gpu.name, gpu.architecture, gpu.integrated) == (maker, name, architecture, integrated)


def test_nothing_is_seen_where_the_kernel_shows_nothing(tmp_path: Path) -> None:
    assert probe_other_gpus(tmp_path, []) == ()
    assert probe_other_gpus(tree(tmp_path, HOST_BRIDGE, NVIDIA, BOARD, names=False), []) == ()


@pytest.mark.parametrize("text", ["", "\0", "0x1002 0x1002", "größe", "9" * 400])
def test_odd_files_are_no_fault(text: str, tmp_path: Path) -> None:
    files = dict.fromkeys(("mem_info_vram_total", "product_name", "device"), text)
    (gpu,) = probe_other_gpus(tree(tmp_path, (RADEON[0], RADEON[1] | files), nodes=(text, f"simd_count {text}")), [])
    assert gpu.memory_bytes is None
    host = replace(recorded("cpu-small"), other_gpus=(gpu,))
    (tmp_path / "host.yaml").write_text(format_snapshot(host), encoding="utf-8")
    assert read_snapshot(tmp_path / "host.yaml") == host


@pytest.mark.subprocess
def test_a_snapshot_has_them_in_rows(tmp_path: Path) -> None:
    host = host_with(tmp_path, UHD, ARC)
    text = format_snapshot(host)
    assert text.count("\n  - {maker: intel, ") == 2
    (tmp_path / "host.yaml").write_text(text, encoding="utf-8")
    assert read_snapshot(tmp_path / "host.yaml") == host
    assert "other_gpus" not in format_snapshot(recorded("cpu-small"))


@pytest.mark.parametrize(
    ("device", "nodes", "found", "would"),
    [
        (RADEON, (node(3, 110000),), "AMD Radeon RX 7900 XT/7900 XTX/7900M (gfx1100, 24.0 GiB)", "lists gfx1100"),
        (VEGA, (node(4, 90006),), "AMD GPU (gfx906, 16.0 GiB)", "do not list gfx906"),
        pytest.param(ARC, (), "Intel Arc B580", "`vllm/vllm-openai-xpu`", marks=pytest.mark.subprocess),
        (GAUDI, (), "Intel Gaudi2", "vllm-gaudi"),
    ],
)
def test_a_plan_says_what_it_cannot_do_and_what_would(
    device: Device, nodes: tuple[str, ...], found: str, would: str, tmp_path: Path
) -> None:
    host = host_with(tmp_path, device, nodes=nodes)
    (warning,) = (warning for warning in plan_for(host).warnings if "does not support" in warning)
    assert warning.startswith(f"this release does not support 1× {found}: the processor serves; ")
    assert would in warning
    assert not any("does not support" in warning for warning in plan_for(host, mode=Mode.CPU).warnings)
    with pytest.raises(NoPlanError) as refusal:
        plan_for(host, mode=Mode.SINGLE)
    assert refusal.value.message == f"no usable GPU: found 1× {found}"
    assert would in (refusal.value.hint or "")
    assert "install the NVIDIA driver" not in (refusal.value.hint or "")


@pytest.mark.parametrize("device", [UHD, RAPHAEL])
def test_a_processors_own_graphics_change_no_plan(device: Device, tmp_path: Path) -> None:
    host = host_with(tmp_path, device)
    assert plan_for(host).warnings == plan_for(recorded("cpu-small")).warnings
    with pytest.raises(NoPlanError, match=r"^no usable GPU: found none$"):
        plan_for(host, mode=Mode.SINGLE)
