"""GPUs of other makers than NVIDIA: seen by the kernel's files, so that a plan can say what serves them.

Touches /sys and tables of names below a root folder, read-only; where an Intel card is seen, runs `level_zero`, which
asks Intel's library of this machine. Formats: Linux's Documentation/ABI/testing/sysfs-bus-pci, Documentation/gpu/
amdgpu/driver-misc.rst (mem_info_vram_total, product_name), drivers/gpu/drm/amd/amdkfd/kfd_topology.c
(gfx_target_version, location_id, cpu_cores_count); pci.ids, https://pci-ids.ucw.cz. Read 2026-11-29. libdrm's
data/amdgpu.ids, read 2026-11-30.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import strsignal

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.detect.fact import Missing, is_plain, known, read_file, whole_number
from stackwright.domain.host import Maker, OtherGpu
from stackwright.units import GIB

_DEVICES = "/sys/bus/pci/devices"
_NODES = "/sys/class/kfd/kfd/topology/nodes"
_MAKERS = {"0x1002": Maker.AMD, "0x8086": Maker.INTEL, "0x1da3": Maker.HABANA}
# PCI class codes: display controllers, and processing accelerators (pci.ids, C 03 and C 12).
_CLASSES = re.compile(r"0x(03|12)[0-9a-f]{4}")
# Intel's own graphics are device 2 of bus 0 (QEMU's docs/igd-assign.txt, read 2026-11-30), and its neural processor is
# an accelerator there. A card is behind a bridge; in a virtual machine it can be elsewhere on bus 0.
_ON_PROCESSOR = re.compile(r"0x03.* [0-9a-f]+:00:02\.[0-7]|0x12.* [0-9a-f]+:00:.*", re.IGNORECASE)
_NAMES = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids")
# Judgement, 2026-11-29: what a processor's own graphics are given; no GPU that serves a model has less.
_LEAST_OWN_BYTES = 4 * GIB
_AMD_NAMES = "/usr/share/libdrm/amdgpu.ids"
_LEVEL_ZERO = Path(__file__).with_name("level_zero.py")
# Judgement, 2026-11-30: a library that takes longer hangs; the container engine is given as long.
LEVEL_ZERO_S = 10.0


class CardAnswers(Struct, frozen=True, kw_only=True):
    """What Level Zero tells of one card; `words` is why the rest is missing."""

    name: str | None = None
    integrated: bool = False
    memory_bytes: int | None = None
    words: str | None = None


class LevelZeroAnswers(Struct, frozen=True, kw_only=True):
    """Its cards by PCI address; `words` is why one may be missing."""

    words: str | None = None
    cards: Mapping[str, CardAnswers] = field(default_factory=dict)


def probe_other_gpus(root: Path, missing: list[Missing]) -> tuple[OtherGpu, ...]:
    """Return the GPUs of other makers in the order of their PCI addresses; none where the kernel shows none.

    Adds to `missing` each Intel card whose memory stays unknown.
    """
    try:
        addresses = sorted(path.name for path in (root / _DEVICES.lstrip("/")).iterdir())
    except OSError:
        return ()
    seen = [(address, _text(root, address, "vendor")) for address in addresses]
    named = [(address, _MAKERS[vendor]) for address, vendor in seen if vendor in _MAKERS]
    gpus = [(address, maker) for address, maker in named if _CLASSES.fullmatch(_text(root, address, "class"))]
    nodes = _read_nodes(root) if any(maker is Maker.AMD for _, maker in gpus) else {}
    found = [_describe(root, address, maker, nodes.get(address.lower(), {})) for address, maker in gpus]
    if any(_is_intel_card(gpu) for gpu in found):
        told = ask_level_zero()
        found = [_add_answers(gpu, told, missing) if _is_intel_card(gpu) else gpu for gpu in found]
    return tuple(found)


def ask_level_zero(timeout_s: float = LEVEL_ZERO_S) -> LevelZeroAnswers:
    """Run the program that loads Intel's library: where it crashes or hangs, its words say so, and this one goes on."""
    program = [sys.executable, "-I", "-S", str(_LEVEL_ZERO)]
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(program, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, start_new_session=True)
    except OSError as failure:
        return LevelZeroAnswers(words=f"{sys.executable}: {failure.strerror}")
    try:
        # The library may have written lines of its own before.
        line = process.communicate(timeout=timeout_s)[0].splitlines()[-1:]
        return msgspec.json.decode(b"".join(line), type=LevelZeroAnswers)
    except subprocess.TimeoutExpired:
        return LevelZeroAnswers(words=f"Level Zero gives no answer in {timeout_s:g} seconds")
    except (msgspec.DecodeError, UnicodeDecodeError):
        code = process.returncode
        return LevelZeroAnswers(words=f"Level Zero crashed: {strsignal(-code) if code < 0 else f'exit code {code}'}")
    finally:
        process.kill()
        # One that the kernel's driver holds cannot be ended: it is not waited for.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)


def _is_intel_card(gpu: OtherGpu) -> bool:
    return gpu.maker is Maker.INTEL and not gpu.integrated


def _add_answers(gpu: OtherGpu, told: LevelZeroAnswers, missing: list[Missing]) -> OtherGpu:
    absent = CardAnswers(words=told.words or "Level Zero does not list it")
    card = told.cards.get(gpu.pci_bus_id.lower(), absent)
    if card.memory_bytes is None and not card.integrated:
        subject = f"Intel GPU {gpu.pci_bus_id}"
        missing.append(Missing(subject=subject, fact="VRAM", words=card.words or "Level Zero tells no size"))
    name = card.name if card.name and is_plain(card.name) else None
    return replace(gpu, name=gpu.name or name, memory_bytes=card.memory_bytes, integrated=card.integrated)


def _describe(root: Path, address: str, maker: Maker, node: dict[str, int]) -> OtherGpu:
    memory = known(whole_number(read_file(root, f"{_DEVICES}/{address}/mem_info_vram_total")))
    memory = memory if memory is not None and memory > 0 else None
    small = maker is Maker.AMD and memory is not None and memory < _LEAST_OWN_BYTES
    place = f"{_text(root, address, 'class')} {address}"
    on_processor = maker is Maker.INTEL and _ON_PROCESSOR.fullmatch(place) is not None
    product = _text(root, address, "product_name")
    return OtherGpu(
        maker=maker,
        name=product if is_plain(product) else _find_amd_name(root, address, maker) or _find_name(root, address),
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


def _find_amd_name(root: Path, address: str, maker: Maker) -> str | None:
    """Return what AMD's own tools call a device: a chip is sold under several names, by its revision."""
    device, revision = (_text(root, address, name).removeprefix("0x") for name in ("device", "revision"))
    text = known(read_file(root, _AMD_NAMES)) if maker is Maker.AMD and device and revision else None
    row = re.search(
        rf"^{re.escape(device)},\s*{re.escape(revision)},\s*(.+)$", text or "", re.MULTILINE | re.IGNORECASE
    )
    name = row[1].strip() if row else ""
    return name if is_plain(name) else None


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
