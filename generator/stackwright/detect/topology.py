"""Turns NVML's answers into driver, GPUs, links and P2P matrix. Pure: touches nothing.

What NVML did not answer is None and a row of `missing`. Numbers: nvml.h, as bound by nvidia-ml-py 13.
"""

from __future__ import annotations

import re

from msgspec import Struct

from stackwright.detect.fact import UUID, Fact, Missing, Unread, plain_text, take, whole_number
from stackwright.detect.gpu_reading import NOT_SUPPORTED
from stackwright.detect.nvml import (
    FUNCTION_NOT_FOUND,
    GpuAnswers,
    LaneAnswers,
    NvmlAnswers,
    PairAnswers,
)
from stackwright.domain.host import Driver, Gpu, Link, LinkKind

P2P_OK = 0
P2P_UNKNOWN = 6
REMOTE_GPU = 0
REMOTE_SWITCH = 2

ANCESTORS = {
    0: LinkKind.PCIE_SWITCH,  # INTERNAL: two GPUs of one board meet in the board's own switch
    10: LinkKind.PCIE_SWITCH,
    20: LinkKind.PCIE_SWITCH,
    30: LinkKind.PCIE_HOST,
    40: LinkKind.NUMA,
    50: LinkKind.SYSTEM,
}

# nvmlDeviceGetNvLinkVersion has two encodings in the field: nvml.h's nvmlNvlinkVersion_t, and the kernel driver's
# NV2080_CTRL_NVLINK_STATUS_NVLINK_VERSION_* (open-gpu-kernel-modules, ctrl2080nvlink.h) passed through, in which 7 is
# 4.0: an H100 (4.0) has been reported to say 7, which nvml.h calls 5.0. Both agree on 1, 2, 3 and 5.
VERSION_BY_HEADER = {1: 1, 2: 2, 3: 2, 4: 3, 5: 3, 6: 4, 7: 5, 8: 6}
VERSION_BY_DRIVER = {1: 1, 2: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 5}
# NVLink by compute capability's major number: P100, V100 and Turing, Ampere, Hopper, Blackwell (NVIDIA's datasheets).
VERSION_BY_CAPABILITY = {6: 1, 7: 2, 8: 3, 9: 4, 10: 5}


class Ends(Struct, frozen=True, kw_only=True):
    """Where a GPU's NVLink lanes end: lanes to each other GPU by its index, and lanes to switches."""

    peers: dict[int, int]
    switch_lanes: int
    version: int | None


def make_driver(answers: Fact[NvmlAnswers] | None, module: Fact[str], missing: list[Missing]) -> Driver | None:
    """Describe the driver; None where the machine has neither NVML nor the kernel module.

    Args:
        answers: what `probe_nvml` brought.
        module: the text of /proc/driver/nvidia/version, which names the loaded kernel module.
        missing: receives a row for every null.
    """
    loaded = parse_module_version(module)
    if answers is None and loaded is None:
        return None
    if answers is None:
        answers = Unread(words="NVML Shared Library Not Found")
    if isinstance(answers, Unread):
        missing.append(Missing(subject="NVIDIA driver", fact="NVML", words=answers.words))
        return Driver(version=loaded, cuda=None, error=_one_line(answers.words))
    version = take(plain_text(answers.driver_version), missing, "NVIDIA driver", "version")
    cuda = take(answers.cuda_version, missing, "NVIDIA driver", "CUDA version")
    if isinstance(answers.gpus, Unread):
        missing.append(Missing(subject="NVIDIA driver", fact="number of GPUs", words=answers.gpus.words))
    return Driver(
        version=version or loaded,
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        error=_one_line(answers.gpus.words) if isinstance(answers.gpus, Unread) else None,
    )


def parse_module_version(module: Fact[str]) -> str | None:
    """Find the version in /proc/driver/nvidia/version: `NVRM version: … Kernel Module  580.95.05  Tue …`."""
    if isinstance(module, Unread):
        return None
    version = re.search(r"^NVRM version:.*?\s([0-9]{1,4}(?:\.[0-9]{1,4}){1,2})\s", module, flags=re.MULTILINE)
    return version.group(1) if version else None


def make_gpus(answers: NvmlAnswers, missing: list[Missing]) -> tuple[Gpu, ...]:
    """Describe every device, in NVML's order; a lost one keeps its row."""
    rows = () if isinstance(answers.gpus, Unread) else answers.gpus
    return tuple(_make_gpu(index, row, missing) for index, row in enumerate(rows))


def _make_gpu(index: int, row: GpuAnswers | Unread, missing: list[Missing]) -> Gpu:
    who = f"GPU {index}"
    if isinstance(row, Unread):
        missing.append(Missing(subject=who, fact="the device", words=row.words))
        return _make_lost_gpu(index)
    memory = take(row.memory, missing, who, "memory")
    capability = take(_checked_capability(row.capability), missing, who, "compute capability")
    node = take(whole_number(row.numa_node), missing, who, "NUMA node")
    return Gpu(
        index=index,
        uuid=take(_checked_uuid(row.uuid), missing, who, "UUID"),
        name=take(plain_text(row.name), missing, who, "name"),
        memory_bytes=memory[0] if memory else None,
        memory_used_bytes=memory[1] if memory else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        pci_bus_id=take(plain_text(row.pci_bus_id), missing, who, "PCI address"),
        # The kernel writes -1 where the firmware ties the device to no node (most desktop boards): known, and none.
        numa_node=node if node is not None and node >= 0 else None,
        mig=_make_mig(row.mig, missing, who),
    )


def _checked_capability(fact: Fact[tuple[int, int]]) -> Fact[tuple[int, int]]:
    known = isinstance(fact, Unread) or (0 <= fact[0] < 1000 and 0 <= fact[1] < 100)
    return fact if known else Unread(words="not a compute capability")


def _checked_uuid(fact: Fact[str]) -> Fact[str]:
    known = isinstance(fact, Unread) or UUID.fullmatch(fact)
    return fact if known else Unread(words="not a GPU's UUID")


def _make_mig(fact: Fact[int], missing: list[Missing], who: str) -> bool | None:
    """NVML answers Not Supported for a GPU that cannot be partitioned: then MIG is off for certain."""
    if isinstance(fact, Unread) and fact.code == NOT_SUPPORTED:
        return False
    mode = take(fact, missing, who, "MIG mode")
    return None if mode is None else mode == 1


def _make_lost_gpu(index: int) -> Gpu:
    return Gpu(
        index=index,
        uuid=None,
        name=None,
        memory_bytes=None,
        memory_used_bytes=None,
        compute_capability=None,
        pci_bus_id=None,
        numa_node=None,
        mig=None,
    )


def make_p2p(answers: NvmlAnswers, missing: list[Missing]) -> tuple[tuple[bool | None, ...], ...]:
    """Build the n×n matrix: can the i-th GPU read the j-th's memory. A GPU that answers reads its own."""
    rows = () if isinstance(answers.gpus, Unread) else answers.gpus
    matrix: list[list[bool | None]] = [[None] * len(rows) for _ in rows]
    for index, row in enumerate(rows):
        matrix[index][index] = None if isinstance(row, Unread) else True
    for pair in answers.pairs:
        matrix[pair.a][pair.b] = _make_access(pair.a_reads_b, missing, pair.a, pair.b)
        matrix[pair.b][pair.a] = _make_access(pair.b_reads_a, missing, pair.b, pair.a)
    return tuple(tuple(row) for row in matrix)


def _make_access(status: Fact[int], missing: list[Missing], reader: int, owner: int) -> bool | None:
    if status == P2P_UNKNOWN:
        status = Unread(words="P2P status unknown")
    known = take(status, missing, f"GPU {reader}", _toward("P2P", owner, status))
    return None if known is None else known == P2P_OK


def _toward(fact: str, other: int, answer: Fact[int]) -> str:
    """Name the other GPU in a fact about a pair, unless the reason is the driver's and the same for every pair."""
    lacking = isinstance(answer, Unread) and answer.code == FUNCTION_NOT_FOUND
    return f"{fact} to other GPUs" if lacking else f"{fact} to GPU {other}"


def make_links(answers: NvmlAnswers, gpus: tuple[Gpu, ...], missing: list[Missing]) -> tuple[Link, ...]:
    """Name the best connection of every pair; a pair whose connection is unknown has no row."""
    rows = () if isinstance(answers.gpus, Unread) else answers.gpus
    ends = [
        _find_ends(row.lanes if isinstance(row, GpuAnswers) else (), gpu, gpus, missing)
        for row, gpu in zip(rows, gpus, strict=True)
    ]
    links = (_make_link(pair, ends[pair.a], ends[pair.b], missing) for pair in answers.pairs)
    return tuple(link for link in links if link is not None)


def _make_link(pair: PairAnswers, first: Ends, second: Ends, missing: list[Missing]) -> Link | None:
    # Either end may be unreadable; the lanes that one of them names are there.
    direct = max(first.peers.get(pair.b, 0), second.peers.get(pair.a, 0))
    switched = min(first.switch_lanes, second.switch_lanes)
    if direct or switched:
        kind = LinkKind.NVLINK if direct else LinkKind.NVSWITCH
        versions = [version for version in (first.version, second.version) if version is not None]
        return Link(a=pair.a, b=pair.b, kind=kind, lanes=direct or switched, version=min(versions, default=None))
    ancestor = pair.ancestor
    if not isinstance(ancestor, Unread) and ancestor not in ANCESTORS:
        ancestor = Unread(words=f"topology level {ancestor} is unknown")
    level = take(ancestor, missing, f"GPU {pair.a}", _toward("connection", pair.b, ancestor))
    return None if level is None else Link(a=pair.a, b=pair.b, kind=ANCESTORS[level], lanes=None, version=None)


def _find_ends(lanes: tuple[LaneAnswers, ...], gpu: Gpu, gpus: tuple[Gpu, ...], missing: list[Missing]) -> Ends:
    who = f"GPU {gpu.index}"
    by_address = {other.pci_bus_id.lower(): other.index for other in gpus if other.pci_bus_id is not None}
    peers: dict[int, int] = {}
    switch_lanes = 0
    versions: set[int] = set()
    for lane in lanes:
        state = take(lane.state, missing, who, "NVLink state")
        if not state:
            continue
        end = _find_end(lane, by_address, missing, who)
        if end == REMOTE_SWITCH:
            switch_lanes += 1
        elif isinstance(end, str) and end in by_address:
            peers[by_address[end]] = peers.get(by_address[end], 0) + 1
        version = take(decode_version(lane.version, gpu.compute_capability), missing, who, "NVLink version")
        versions |= {version} if version is not None else set()
    return Ends(peers=peers, switch_lanes=switch_lanes, version=min(versions, default=None))


def _find_end(lane: LaneAnswers, by_address: dict[str, int], missing: list[Missing], who: str) -> str | int | None:
    """Return where an active lane ends: the address of a GPU, REMOTE_SWITCH, or None (unknown, or neither)."""
    if lane.remote_type == REMOTE_SWITCH:
        return REMOTE_SWITCH
    address = lane.remote_bus_id.lower() if isinstance(lane.remote_bus_id, str) else None
    if address in by_address:
        return address
    if isinstance(lane.remote_type, Unread):
        take(lane.remote_type, missing, who, "NVLink peer")
    elif lane.remote_type == REMOTE_GPU and isinstance(lane.remote_bus_id, Unread):
        take(lane.remote_bus_id, missing, who, "NVLink peer")
    return None


def decode_version(answer: Fact[int] | None, compute_capability: str | None) -> Fact[int]:
    """Turn nvmlDeviceGetNvLinkVersion's number into a generation, 1 to 6; Unread where it could be two."""
    if answer is None or isinstance(answer, Unread):
        return answer or Unread(words="not asked")
    candidates = {table[answer] for table in (VERSION_BY_HEADER, VERSION_BY_DRIVER) if answer in table}
    if len(candidates) > 1 and compute_capability is not None:
        candidates &= {VERSION_BY_CAPABILITY.get(int(compute_capability.partition(".")[0]))}
    if len(candidates) == 1:
        return candidates.pop()
    return Unread(
        words=f"version number {answer} is ambiguous" if candidates else f"version number {answer} is unknown"
    )


def _one_line(words: str) -> str:
    """Make NVML's words fit a snapshot."""
    text = plain_text(words[:150])
    return "unreadable error" if isinstance(text, Unread) else text
