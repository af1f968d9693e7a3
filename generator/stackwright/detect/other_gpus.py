"""GPUs of other makers than NVIDIA: seen by the kernel's files, so that a plan can say what serves them.

Touches /sys and the table of PCI names below a root folder; read-only. Formats: Linux's Documentation/ABI/testing/
sysfs-bus-pci, Documentation/gpu/amdgpu/driver-misc.rst (mem_info_vram_total, product_name), drivers/gpu/drm/amd/amdkfd/
kfd_topology.c (gfx_target_version, location_id, cpu_cores_count); pci.ids, https://pci-ids.ucw.cz. Read 2026-11-29.
"""

from __future__ import annotations

import re
from pathlib import Path

from stackwright.detect.fact import is_plain, known, read_file, whole_number
from stackwright.domain.host import Maker, OtherGpu
from stackwright.units import GIB

_DEVICES = "/sys/bus/pci/devices"
_NODES = "/sys/class/kfd/kfd/topology/nodes"
_MAKERS = {"0x1002": Maker.AMD, "0x8086": Maker.INTEL, "0x1da3": Maker.HABANA}
# PCI class codes: display controllers, and processing accelerators (pci.ids, C 03 and C 12).
_CLASSES = re.compile(r"0x(03|12)[0-9a-f]{4}")
_NAMES = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids")
# Judgement, 2026-11-29: what a processor's own graphics are given; no GPU that serves a model has less.
_LEAST_OWN_BYTES = 4 * GIB


def probe_other_gpus(root: Path) -> tuple[OtherGpu, ...]:
    """Return the GPUs of other makers in the order of their PCI addresses; none where the kernel shows none."""
    try:
        addresses = sorted(path.name for path in (root / _DEVICES.lstrip("/")).iterdir())
    except OSError:
        return ()
    seen = [(address, _text(root, address, "vendor")) for address in addresses]
    named = [(address, _MAKERS[vendor]) for address, vendor in seen if vendor in _MAKERS]
    gpus = [(address, maker) for address, maker in named if _CLASSES.fullmatch(_text(root, address, "class"))]
    nodes = _read_nodes(root) if any(maker is Maker.AMD for _, maker in gpus) else {}
    return tuple(_describe(root, address, maker, nodes.get(address.lower(), {})) for address, maker in gpus)


def _describe(root: Path, address: str, maker: Maker, node: dict[str, int]) -> OtherGpu:
    memory = known(whole_number(read_file(root, f"{_DEVICES}/{address}/mem_info_vram_total")))
    memory = memory if memory is not None and memory > 0 else None
    small = maker is Maker.AMD and memory is not None and memory < _LEAST_OWN_BYTES
    # Intel's own graphics sit on the processor's bus; a card is behind a bridge.
    on_processor = maker is Maker.INTEL and re.fullmatch(r"[0-9a-f]+:00:[0-9a-f]{2}\.[0-7]", address) is not None
    product = _text(root, address, "product_name")
    return OtherGpu(
        maker=maker,
        name=product if is_plain(product) else _find_name(root, address),
        architecture=_architecture(node),
        memory_bytes=memory,
        pci_bus_id=address,
        driver=_driver(root, address),
        integrated=small or on_processor or bool(node.get("cpu_cores_count")),
    )


def _text(root: Path, address: str, name: str) -> str:
    return " ".join((known(read_file(root, f"{_DEVICES}/{address}/{name}")) or "").split())


def _driver(root: Path, address: str) -> str | None:
    link = root / _DEVICES.lstrip("/") / address / "driver"
    try:
        name = link.readlink().name
    except OSError:
        return None
    return name if is_plain(name) else None


def _read_nodes(root: Path) -> dict[str, dict[str, int]]:
    """Return what AMD's compute driver says of each GPU, by its PCI address."""
    nodes: dict[str, dict[str, int]] = {}
    try:
        numbers = [path.name for path in (root / _NODES.lstrip("/")).iterdir()]
    except OSError:
        return nodes
    for number in numbers:
        text = known(read_file(root, f"{_NODES}/{number}/properties")) or ""
        rows = (line.split() for line in text.splitlines())
        fields = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}
        if fields.get("simd_count"):
            place = fields.get("location_id", 0)
            bus, slot = place >> 8 & 0xFF, place & 0xFF
            nodes[f"{fields.get('domain', 0):04x}:{bus:02x}:{slot >> 3:02x}.{slot & 7}"] = fields
    return nodes


def _architecture(node: dict[str, int]) -> str | None:
    """Return AMD's name of an architecture: 90010 is gfx90a, 110000 is gfx1100."""
    version = node.get("gfx_target_version")
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}" if version else None


def _find_name(root: Path, address: str) -> str | None:
    """Return a device's name of the table of PCI names, where this machine has one."""
    vendor, device = (_text(root, address, name).removeprefix("0x") for name in ("vendor", "device"))
    text = next((found for path in _NAMES if (found := known(read_file(root, path)))), "")
    own = re.search(rf"^{re.escape(vendor)}  .*\n((?:[\t#].*\n)*)", text, re.MULTILINE)
    row = own and re.search(rf"^\t{re.escape(device)}  (.+)$", own[1], re.MULTILINE)
    if not row or not device:
        return None
    # `Navi 31 [Radeon RX 7900 XT/7900 XTX]`: the chip, and what it is sold as.
    sold = re.search(r"\[(.+)\]", row[1])
    name = (sold[1] if sold else row[1]).strip()
    return name if is_plain(name) else None
