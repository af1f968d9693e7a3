"""The GPUs of a host as a picture of a few lines: what joins them above, what they hang on below. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from stackwright.domain.host import Gpu, Host, Link, LinkKind
from stackwright.domain.placement import Placement
from stackwright.domain.topology import NVLINK_KINDS, GpuPair, nvlink_islands
from stackwright.rendering.sheet import Sheet, short_name
from stackwright.units import format_bytes

LABEL = 14
LEAST_CELL, WIDEST_CELL = 4, 8
MOST_PAIRS, MOST_WAYS = 6, 4
"""Pairs that are named one by one, and ways to place a model that are told; more are counted."""

# Closest first; each level holds what the one before joins (nvml.h, nvmlGpuTopologyLevel_t).
_LEVELS = (
    ("PCIe switch", (LinkKind.PCIE_SWITCH,)),
    ("PCIe host", (LinkKind.PCIE_SWITCH, LinkKind.PCIE_HOST)),
)
LINK_WORDS = {
    LinkKind.NVLINK: "NVLink",
    LinkKind.NVSWITCH: "NVSwitch",
    LinkKind.PCIE_SWITCH: "PCIe switch",
    LinkKind.PCIE_HOST: "PCIe host bridge",
    LinkKind.NUMA: "PCIe within a NUMA node",
    LinkKind.SYSTEM: "between NUMA nodes",
}
Groups = tuple[tuple[int, ...], ...]


def gpu_picture(host: Host, sheet: Sheet, usable: Mapping[int, int]) -> tuple[str, ...]:
    """Return the lines of the picture; none for a host without a GPU.

    `usable`: what CUDA gives to programs of each GPU's memory, in bytes by its index, which is what plans share out.
    """
    whole = [gpu for gpu in host.gpus if gpu.mig_slice is None]
    if not whole:
        return ()
    lines = [*_kinds(whole, sheet, usable), ""]
    islands = tuple(tuple(gpu.index for gpu in island) for island in nvlink_islands(whole, host.links))
    order = _order(whole, islands, host.links)
    most = max((sheet.width - LABEL) // LEAST_CELL, 1)
    for start in range(0, len(order), most):
        lines += _row(whole, order[start : start + most], host, islands, sheet)
    lines += _slices(host, sheet)
    return tuple(line.rstrip() for line in lines)


def _kinds(gpus: Sequence[Gpu], sheet: Sheet, usable: Mapping[int, int]) -> Iterator[str]:
    """Say what the GPUs are, equal ones once."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for gpu in gpus:
        name = short_name(gpu.name) if gpu.name else "unknown GPU"
        memory, least = format_bytes(gpu.memory_bytes), format_bytes(usable.get(gpu.index, gpu.memory_bytes))
        memory += f" ({least} for programs)" if least != memory else ""
        alike.setdefault((name, memory, gpu.compute_capability or "unknown"), []).append(gpu.index)
    for (name, memory, capability), indices in alike.items():
        which = f"GPU {indices[0]}" if len(indices) == 1 else f"GPUs {spans(indices)}"
        yield from sheet.flow([f"{which}: {name}, memory {memory}, compute capability {capability}"], "  ", "")


def _row(gpus: Sequence[Gpu], order: Sequence[int], host: Host, islands: Groups, sheet: Sheet) -> Iterator[str]:
    cell = min(max((sheet.width - LABEL) // len(order), LEAST_CELL), WIDEST_CELL)
    joined = [island for island in islands if len(island) > 1]
    if joined:
        yield _label(_link_label(joined, host.links, sheet)) + _brackets(joined, order, cell, _above(sheet))
    yield _label("GPU") + "".join(f"{index:^{cell}}" for index in order)
    drawn: Groups = ()
    for name, kinds in _LEVELS:
        groups = _closures([gpu.index for gpu in gpus], host.links, kinds)
        if groups != drawn and any(len(group) > 1 for group in groups):
            yield _label(name) + _brackets(groups, order, cell, _below(sheet))
            drawn = groups
    nodes = sorted({gpu.numa_node for gpu in gpus if gpu.numa_node is not None})
    for node in nodes:
        members = tuple(gpu.index for gpu in gpus if gpu.numa_node == node)
        yield _label(f"NUMA node {node}") + _brackets([members], order, cell, _below(sheet))


def _label(text: str) -> str:
    return f"{text:<{LABEL}}"


def _above(sheet: Sheet) -> tuple[str, ...]:
    """Return the letters of a bracket: its left end, line, branch, right end, and a group of one."""
    return tuple("+=++|" if sheet.ascii else "╔═╦╗║")


def _below(sheet: Sheet) -> tuple[str, ...]:
    return tuple("+-++|" if sheet.ascii else "└─┴┘│")


def _link_label(joined: Sequence[tuple[int, ...]], links: Iterable[Link], sheet: Sheet) -> str:
    inside = [link for link in links if any(link.a in island and link.b in island for island in joined)]
    kinds = {link.kind for link in inside}
    lanes = {link.lanes for link in inside}
    name = "NVSwitch" if kinds == {LinkKind.NVSWITCH} else "NVLink"
    times = "x" if sheet.ascii else "×"
    return f"{name} {times}{lanes.pop()}" if len(lanes) == 1 and None not in lanes else name


def _brackets(groups: Iterable[tuple[int, ...]], order: Sequence[int], cell: int, letters: tuple[str, ...]) -> str:
    """Draw a bracket for each group from its first GPU to its last; each of its GPUs has a branch."""
    left, line, branch, right, alone = letters
    drawn = [" "] * (cell * len(order))
    middles = {index: place * cell + (cell - 1) // 2 for place, index in enumerate(order)}
    for group in groups:
        at = sorted(middles[index] for index in group if index in middles)
        if not at:
            continue
        for column in range(at[0], at[-1]):
            drawn[column] = line if drawn[column] == " " else drawn[column]
        for column in at[1:-1]:
            drawn[column] = branch
        drawn[at[0]], drawn[at[-1]] = (left, right) if len(at) > 1 else (alone, alone)
    return "".join(drawn)


def _closures(indices: Sequence[int], links: Iterable[Link], kinds: tuple[LinkKind, ...]) -> Groups:
    """Group GPUs that such links join, one over the other."""
    home = {index: {index} for index in indices}
    for link in links:
        if link.kind in kinds and home.get(link.a) is not home.get(link.b):
            merged = home[link.a] | home[link.b]
            for index in merged:
                home[index] = merged
    unique = {min(group): tuple(sorted(group)) for group in home.values()}
    return tuple(unique[first] for first in sorted(unique))


def _order(gpus: Sequence[Gpu], islands: Groups, links: Sequence[Link]) -> list[int]:
    """Order GPUs so that those which belong together stand together."""
    place = _numbered(sorted(islands))
    indices = [gpu.index for gpu in gpus]
    switches, hosts = (_numbered(_closures(indices, links, kinds)) for _, kinds in _LEVELS)

    def key(gpu: Gpu) -> tuple[int, ...]:
        node = -1 if gpu.numa_node is None else gpu.numa_node
        return node, hosts[gpu.index], switches[gpu.index], place[gpu.index], gpu.index

    return [gpu.index for gpu in sorted(gpus, key=key)]


def _numbered(groups: Iterable[tuple[int, ...]]) -> dict[int, int]:
    """Return the number of the group that each GPU is in."""
    return {index: number for number, group in enumerate(groups) for index in group}


def _slices(host: Host, sheet: Sheet) -> Iterator[str]:
    cut: dict[int, dict[str, list[str]]] = {}
    for gpu in host.gpus:
        if gpu.mig_slice is not None:
            # NVML names a slice after its GPU, and then says how much of it that is: `A100-SXM4-40GB MIG 1g.5gb`.
            name = (gpu.name or "unknown").rpartition(" MIG ")[2]
            cut.setdefault(gpu.mig_slice.gpu, {}).setdefault(name, []).append(str(gpu.index))
    if cut:
        yield ""
    times = "x" if sheet.ascii else "×"
    for index, alike in cut.items():
        items = [
            f"{len(who)}{times} {name} (GPU{'s' if len(who) > 1 else ''} {', '.join(who)})"
            for name, who in alike.items()
        ]
        yield from sheet.flow(items, "  ", f"GPU {index} is cut into MIG slices: ")


def pair_lines(pairs: Sequence[GpuPair], sheet: Sheet) -> Iterator[str]:
    """Say of each kind of pair whether a replica is split over it, and why."""
    alike: dict[tuple[bool, str, str], list[GpuPair]] = {}
    for pair in pairs:
        kind = "connection unknown" if pair.kind is None else LINK_WORDS[pair.kind]
        lanes = f" {'x' if sheet.ascii else '×'}{pair.lanes}" if pair.kind in NVLINK_KINDS and pair.lanes else ""
        peers = ", no peer access" if pair.peers is False else ""
        alike.setdefault((pair.split, kind + lanes + peers, pair.why), []).append(pair)
    for (split, kind, why), found in sorted(alike.items(), key=lambda row: not row[0][0]):
        named = ", ".join(f"{pair.a}-{pair.b}" for pair in found[:MOST_PAIRS])
        if len(found) == len(pairs) > 1:
            named = f"all {len(pairs)} pairs"
        elif len(found) > MOST_PAIRS:
            named = f"{len(found)} pairs ({named}, …)" if not sheet.ascii else f"{len(found)} pairs ({named}, ...)"
        yield from sheet.flow([f"{named}: {kind}", why], "       ", f"  {'split' if split else 'apart'}  ".ljust(7))


def placement_lines(found: Sequence[Placement], sheet: Sheet) -> Iterator[str]:
    """Say how the planner would place a model, the preferred way first."""
    times = "x" if sheet.ascii else "×"
    for number, one in enumerate(found[:MOST_WAYS], start=1):
        replicas = f"{len(one.groups)} replicas" if len(one.groups) > 1 else "one replica"
        stages = f" {times} pipeline parallel {one.pipeline_parallel}" if one.pipeline_parallel > 1 else ""
        items = [f"tensor parallel {one.tensor_parallel}{stages}: {replicas} on {_where(one)}", one.reason]
        yield from sheet.flow(items, "     ", f"  {number}. ")
    if len(found) > MOST_WAYS:
        yield f"  {len(found) - MOST_WAYS} more with --json"


def _where(placement: Placement) -> str:
    gpus = [gpu for group in placement.groups for gpu in group]
    if not gpus:
        return "the processor"
    noun = "GPU" if gpus[0].mig_slice is None else "MIG slice"
    groups = " | ".join(spans([gpu.index for gpu in group]) for group in placement.groups)
    return f"{noun} {groups}" if len(gpus) == 1 else f"{noun}s {groups}"


def spans(numbers: Sequence[int]) -> str:
    """Write numbers in few characters: `0-3,6`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
