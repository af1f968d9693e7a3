"""Plans as one HTML page that needs nothing else: no script, no address, no file beside it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from stackwright.domain.host import Gpu, Host, Link, LinkKind
from stackwright.domain.plan import Memory, Plan, Replica, ServedModel
from stackwright.reading import to_plain
from stackwright.rendering.gpu_picture import LINK_WORDS
from stackwright.rendering.numbered import flat_settings, spec_of_written
from stackwright.rendering.page import fill_page
from stackwright.rendering.plan_document import plan_document
from stackwright.rendering.sheet import UNICODE, Part, short_name
from stackwright.rendering.summary import (
    NextStep,
    describe_beside,
    describe_device,
    describe_download,
    describe_model,
    describe_reach,
    gpus_of,
    memory_label,
    memory_parts,
)
from stackwright.units import GIB

# What a page of ours says of itself, so that a later one may take its place and a stranger's file is left alone.
MARK = '<meta name="generator" content="Stackwright plan report">'

# The drawing of the GPUs, in pixels.
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _ROW, _SWITCH = 168, 62, 28, 132, 22
_BOXES_A_ROW = 4


class Bar(Struct, frozen=True, kw_only=True):
    """One memory bar: parts with their share of the bar in percent, and where the forecast's range begins and ends."""

    label: str
    parts: tuple[tuple[Part, float], ...]
    total_bytes: int
    range_from: float
    range_to: float
    uncertainty_bytes: int
    fits: bool


class Box(Struct, frozen=True, kw_only=True):
    """One GPU in the drawing: its left upper corner, its lines, and whether an engine of the plan runs on it."""

    x: int
    y: int
    title: str
    lines: tuple[str, ...]
    used: bool


class Wire(Struct, frozen=True, kw_only=True):
    """A link in the drawing, as an SVG path, with what it is."""

    path: str
    kind: str
    title: str


class Drawing(Struct, frozen=True, kw_only=True):
    """GPUs and their links, `words` for those who do not see it."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    rows: tuple[tuple[int, str], ...]
    words: str


class Row(Struct, frozen=True, kw_only=True):
    """A setting as one or several environments have it."""

    key: str
    environments: str
    value: str
    origin: str
    reason: str
    source: str


def render_page(plans: Sequence[Plan], next_steps: Sequence[NextStep], release: str) -> str:
    """Return the page of some plans of one host; `release` is this program's."""
    names = ", ".join(plan.environment.value for plan in plans)
    return fill_page(
        "report.html.j2",
        mark=MARK,
        release=release,
        names=names,
        host=plans[0].host,
        facts=list(_host_facts(plans[0].host)),
        warnings=_warnings(plans),
        environments=[_environment(plan, step) for plan, step in zip(plans, next_steps, strict=True)],
        links=[(link, LINK_WORDS[link.kind]) for link in plans[0].host.links],
        differences=list(_differences(plans)),
        sections=_sections(plans),
        documents=[(plan.environment.value, _document(plan)) for plan in plans],
    )


def _host_facts(host: Host) -> Iterator[tuple[str, str]]:
    cpu = host.cpu
    yield "processor", f"{cpu.model or 'unknown'}, {_number(cpu.cores)} cores, {_number(cpu.threads)} threads"
    yield "NUMA nodes", _number(cpu.numa_nodes)
    yield "memory", "unknown" if host.memory_bytes is None else f"{host.memory_bytes / GIB:.1f} GiB"
    where = "Windows Subsystem for Linux" if host.os.wsl else host.os.container
    yield "kernel", f"{host.os.kernel or 'unknown'}{f' ({where})' if where else ''}"
    if host.driver is not None:
        said = host.driver.error or f"{host.driver.version or 'unknown'}, CUDA {host.driver.cuda or 'unknown'}"
        yield "NVIDIA driver", said
    containers = host.containers
    yield "containers", f"{containers.engine} {containers.version or ''}".strip() if containers.engine else "none"


def _number(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _warnings(plans: Sequence[Plan]) -> list[tuple[str, str]]:
    """Return each warning once, with the environments that it is for."""
    said: dict[str, list[str]] = {}
    for plan in plans:
        for text in plan.warnings:
            said.setdefault(text, []).append(plan.environment.value)
    return [(", ".join(names), text) for text, names in said.items()]


def _environment(plan: Plan, step: NextStep) -> Mapping[str, object]:
    return {
        "name": plan.environment.value,
        "mode": plan.mode.value,
        "device": describe_device(plan.host, gpus_of(plan, plan.replicas), plan.replicas, UNICODE),
        "url": step.url,
        "command": step.command,
        "drawing": _draw(plan),
        "models": [_model(plan, model, step) for model in plan.models],
        "gateway": plan.gateway,
        "workers": plan.workers.litellm,
        "additions": ", ".join(plan.additions),
    }


def _model(plan: Plan, model: ServedModel, step: NextStep) -> Mapping[str, object]:
    return {
        "model": model,
        "what": describe_model(model, UNICODE),
        "reach": [*describe_reach(model), *describe_beside(model), *describe_download(model, step)],
        "bar": _bar(plan, model),
        "engines": list(_alike(plan.host, model.replicas)),
    }


def _alike(host: Host, replicas: Sequence[Replica]) -> Iterator[tuple[Replica, str, str]]:
    """Yield the replicas that are told the same as one, with their names and their GPUs."""
    index = {gpu.uuid: str(gpu.index) for gpu in host.gpus}
    alike: dict[object, list[Replica]] = {}
    for replica in replicas:
        alike.setdefault((replica.args, replica.env), []).append(replica)
    for members in alike.values():
        places = ["+".join(index[uuid] for uuid in replica.gpu_uuids if uuid in index) for replica in members]
        names = ", ".join(replica.name for replica in members)
        yield members[0], names, f"GPU {', '.join(places)}" if any(places) else "processor"


def _bar(plan: Plan, model: ServedModel) -> Bar | None:
    memory = model.forecast
    if memory is None:
        return None
    parts = memory_parts(plan, model, memory)
    whole = max(memory.total_bytes, sum(part.bytes for part in parts), 1)
    low, high = _range(memory, sum(part.bytes for part in parts if part.name != "free"))
    return Bar(
        label=memory_label(plan, model),
        parts=tuple((part, 100 * part.bytes / whole) for part in parts if part.bytes),
        total_bytes=memory.total_bytes,
        range_from=100 * low / whole,
        range_to=min(100, 100 * high / whole),
        uncertainty_bytes=memory.uncertainty_bytes,
        fits=memory.verdict == "fits",
    )


def _range(memory: Memory, taken: int) -> tuple[int, int]:
    return max(0, taken - memory.uncertainty_bytes), taken + memory.uncertainty_bytes


def _draw(plan: Plan) -> Drawing | None:
    """Lay the GPUs out by NUMA node, four a row, with NVLinks between them and NVSwitches below."""
    gpus = tuple(gpu for gpu in plan.host.gpus if not (gpu.mig and gpu.mig_slice is None))
    if not gpus:
        return None
    corners: dict[int, tuple[int, int]] = {}
    rows: list[tuple[int, str]] = []
    top = _GAP
    for node in sorted({gpu.numa_node for gpu in gpus}, key=lambda value: -1 if value is None else value):
        members = [gpu for gpu in gpus if gpu.numa_node == node]
        rows.append((top - 8, "GPUs" if node is None else f"NUMA node {node}"))
        for start in range(0, len(members), _BOXES_A_ROW):
            for column, gpu in enumerate(members[start : start + _BOXES_A_ROW]):
                corners[gpu.index] = (_GAP + column * (_BOX_WIDTH + _GAP), top)
            top += _ROW
    links = [link for link in plan.host.links if link.a in corners and link.b in corners]
    columns = min(_BOXES_A_ROW, max(sum(gpu.numa_node == other.numa_node for gpu in gpus) for other in gpus))
    return Drawing(
        width=_GAP + columns * (_BOX_WIDTH + _GAP),
        height=top,
        boxes=tuple(_box(plan, gpu, corners[gpu.index]) for gpu in gpus),
        wires=tuple(_wires(links, corners)),
        rows=tuple(rows),
        words="; ".join(_placement(plan, gpu) for gpu in gpus),
    )


def _engines_on(plan: Plan, gpu: Gpu) -> list[Replica]:
    return [engine for engine in plan.engines if gpu.uuid is not None and gpu.uuid in plan.gpus_of(engine)]


def _placement(plan: Plan, gpu: Gpu) -> str:
    names = ", ".join(engine.name for engine in _engines_on(plan, gpu))
    return f"GPU {gpu.index} {gpu.name or ''}: {names or 'not used'}"


def _box(plan: Plan, gpu: Gpu, corner: tuple[int, int]) -> Box:
    engines = _engines_on(plan, gpu)
    memory = "memory unknown" if gpu.memory_bytes is None else f"{gpu.memory_bytes / GIB:.0f} GiB"
    kind = short_name(gpu.name or "GPU")
    return Box(
        x=corner[0],
        y=corner[1],
        title=_placement(plan, gpu),
        lines=(f"{gpu.index}  {kind}"[:24], memory, ", ".join(engine.name for engine in engines)[:26] or "not used"),
        used=bool(engines),
    )


def _wires(links: Sequence[Link], corners: Mapping[int, tuple[int, int]]) -> Iterator[Wire]:
    """Yield a curve for each NVLink, and a stem to one bar for each GPU behind NVSwitches."""
    bottom = max(y for _, y in corners.values()) + _BOX_HEIGHT + _SWITCH
    switched = sorted({number for link in links if link.kind is LinkKind.NVSWITCH for number in (link.a, link.b)})
    for number in switched:
        x, y = corners[number][0] + _BOX_WIDTH // 2, corners[number][1] + _BOX_HEIGHT
        # Stems of an upper row pass between the boxes of the lower ones.
        aside = x if y + _SWITCH >= bottom else corners[number][0] + _BOX_WIDTH + _GAP // 2
        path = f"M {x} {y} L {x} {y + 8} L {aside} {y + 8} L {aside} {bottom}"
        yield Wire(path=path, kind="nvlink", title=f"GPU {number}: NVSwitch")
    if switched:
        right = max(corners[number][0] for number in switched) + _BOX_WIDTH + _GAP // 2
        yield Wire(path=f"M {_GAP} {bottom} L {right} {bottom}", kind="switch", title="NVSwitch")
    for link in links:
        if link.kind is LinkKind.NVLINK:
            (ax, ay), (bx, by) = corners[link.a], corners[link.b]
            start, end = ax + _BOX_WIDTH // 2, bx + _BOX_WIDTH // 2
            low = max(ay, by) + _BOX_HEIGHT + 44
            path = f"M {start} {ay + _BOX_HEIGHT} C {start} {low} {end} {low} {end} {by + _BOX_HEIGHT}"
            yield Wire(path=path, kind="nvlink", title=f"GPU {link.a} and {link.b}: NVLink")


def _differences(plans: Sequence[Plan]) -> Iterator[tuple[str, list[str]]]:
    """Yield each key that some environments have otherwise, with the value of each."""
    every = [flat_settings(plan) for plan in plans]
    for key in dict.fromkeys(key for flat in every for key in flat):
        values = [flat[key].value if key in flat else "–" for flat in every]
        if len(set(values)) > 1:
            yield key, values


def _sections(plans: Sequence[Plan]) -> list[tuple[str, list[Row]]]:
    """Return all settings by section; what several environments have alike stands there once."""
    every = [(plan.environment.value, flat_settings(plan)) for plan in plans]
    sections: dict[str, list[Row]] = {}
    for key in dict.fromkeys(key for _, flat in every for key in flat):
        spec = spec_of_written(key)
        rows = sections.setdefault(spec.section if spec else "Others", [])
        same: dict[tuple[str, str, str, str], list[str]] = {}
        for name, flat in every:
            if key in flat:
                setting = flat[key]
                said = (setting.value, setting.origin.value, setting.reason, setting.source)
                same.setdefault(said, []).append(name)
        for (value, origin, reason, source), names in same.items():
            shown = "all" if len(names) == len(plans) > 1 else ", ".join(names)
            rows.append(Row(key=key, environments=shown, value=value, origin=origin, reason=reason, source=source))
    return list(sections.items())


def _document(plan: Plan) -> str:
    return json.dumps(to_plain(plan_document(plan)), indent=2, ensure_ascii=False)
