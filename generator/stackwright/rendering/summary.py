"""A plan in a few lines: on what it runs, what it serves, how the memory is shared out, and where it answers. Pure.

The lines are made of spans, each with its tone; what a line says never depends on the tone. A terminal's width and
letters come in as a `Canvas`, so that the same plan gives the same lines everywhere.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from stackwright.domain.host import Cpu, Gpu, Host, LinkKind
from stackwright.domain.llm import LlmSource
from stackwright.domain.plan import Memory, Plan, Replica, ServedModel
from stackwright.domain.role import Role
from stackwright.engines import engine_named
from stackwright.rendering.sheet import UNICODE, Glyphs, Part, Tone, share_columns, short_name
from stackwright.services import additions
from stackwright.units import GIB, format_bytes

# Below this many columns a paragraph starts at the left edge and each bar has a line of its own.
_NARROW = 70
_WIDEST_BAR, _SHORTEST_BAR = 24, 8
# No terminal is taken to be narrower than this.
_LEAST = 20
# What other programs hold is shown from here on: in figures of one decimal, less is next to nothing.
_NOTABLE_BYTES = GIB // 10
_PROCESSOR = "processor"


class Span(Struct, frozen=True):
    """A piece of a line."""

    text: str
    tone: Tone = Tone.PLAIN


Line = tuple[Span, ...]


class Canvas(Struct, frozen=True, kw_only=True):
    """What a picture is drawn on: `width` in columns, and `indent`, the columns that environments' names take."""

    width: int = 100
    indent: int = 0
    glyphs: Glyphs = UNICODE

    @property
    def narrow(self) -> bool:
        """Whether a bar and its figures stand on lines of their own."""
        return self.width < _NARROW


class NextStep(Struct, frozen=True, kw_only=True):
    """What is known beside the plan: where it answers and the command that comes next, None without one.

    `missing_bytes`: by a model's location, what this machine has yet to download of its weights; a model that it does
    not name is shown with all of them. `overridden`: which settings of the plan a person's own file replaces, in words.
    """

    url: str | None = None
    command: str | None = None
    missing_bytes: Mapping[str, int] = {}
    overridden: str | None = None


def indent_of(plans: Iterable[Plan]) -> int:
    """Return the columns that the names of some plans' environments take."""
    return max(len(plan.environment.value) for plan in plans) + 3


def summarize_plan(plan: Plan, canvas: Canvas, next_step: NextStep) -> tuple[Line, ...]:
    """Return the picture of one plan."""
    name = plan.environment.value
    indent = 2 if canvas.narrow else max(canvas.indent, indent_of((plan,)))
    inner = Canvas(width=max(canvas.width - indent, _LEAST), glyphs=canvas.glyphs)
    body: list[Line] = []
    host = [[describe_device(plan.host, gpus_of(plan, plan.replicas), plan.replicas, inner.glyphs)]]
    if len(plan.models) == 1:
        body += _wrap([*host, describe_model(plan.models[0], inner.glyphs)], inner)
        body += _model_lines(plan, plan.models[0], inner, next_step)
    else:
        body += _wrap([*host, [f"{len(plan.models)} models"]], inner)
        below = Canvas(width=max(inner.width - 2, _LEAST), glyphs=inner.glyphs)
        for model in plan.models:
            body += _wrap([[*describe_model(model, inner.glyphs), *_where(plan, model)]], inner)
            body += ((Span("  "), *line) for line in _model_lines(plan, model, below, next_step))
    body += _wrap(_describe_additions(plan), inner)
    body += _wrap([[next_step.overridden]] if next_step.overridden else [], inner)
    ends = [[next_step.url]] if next_step.url else []
    ends += [[f"next: {next_step.command}"]] if next_step.command else []
    body += _wrap(ends, inner)
    if canvas.narrow:
        return ((Span(name, Tone.NAME),), *((Span(" " * indent), *line) for line in body))
    heads = [Span(name.ljust(indent), Tone.NAME), *[Span(" " * indent)] * (len(body) - 1)]
    return tuple((head, *line) for head, line in zip(heads, body, strict=True))


def _describe_additions(plan: Plan) -> list[list[str]]:
    """Return what runs beside the models, and what that takes."""
    beside = f"beside: {', '.join(plan.additions)}"
    return [[beside, f"{format_bytes(_taken_by_additions(plan))} of memory"]] if plan.additions else []


def _taken_by_additions(plan: Plan) -> int:
    """Return what the services beside the models take of the machine's memory."""
    values = {key: setting.value for key, setting in plan.settings.items()}
    known = additions()
    return sum(known[name].memory_bytes(values) for name in plan.additions)


def text_of(line: Line) -> str:
    """Return a line's text."""
    return "".join(span.text for span in line)


def _wrap(groups: Sequence[Sequence[str]], canvas: Canvas) -> Iterator[Line]:
    """Yield the lines of some groups of items: a dot between items, a gap between groups, no item broken."""
    line = ""
    dot = f" {canvas.glyphs.dot} "
    for group in groups:
        for position, item in enumerate(group):
            joint = "" if not line else dot if position else "   "
            if line and len(line) + len(joint) + len(item) > canvas.width:
                yield (Span(line),)
                line, joint = "", ""
            line += joint + item
    if line:
        yield (Span(line),)


def describe_device(host: Host, gpus: Sequence[Gpu], replicas: Iterable[Replica], glyphs: Glyphs) -> str:
    """Return what a plan runs on: GPUs, of how many, and the link inside its replicas; else the processor."""
    if not gpus:
        return describe_processor(host.cpu, host.memory_bytes)
    there = Counter(_short_gpu(gpu) for gpu in host.gpus if not (gpu.mig and gpu.mig_slice is None))
    used = Counter(_short_gpu(gpu) for gpu in gpus)
    parts = []
    for name, count in used.items():
        of = f" of {there[name]}" if there[name] > count else ""
        parts.append(f"{count}{of}{glyphs.times} {name}")
    link = _link(host, gpus, replicas)
    if link is None:
        return " + ".join(parts)
    line = glyphs.nvlink if link in (LinkKind.NVLINK, LinkKind.NVSWITCH) else glyphs.link
    return f"{' + '.join(parts)} {line}{_LINK_NAMES[link]}{line}"


_LINK_NAMES: Mapping[LinkKind, str] = {
    LinkKind.NVLINK: "NVLink",
    LinkKind.NVSWITCH: "NVSwitch",
    LinkKind.PCIE_SWITCH: "PCIe switch",
    LinkKind.PCIE_HOST: "PCIe",
    LinkKind.NUMA: "PCIe",
    LinkKind.SYSTEM: "between processors",
}
_FARTHEST_LAST = tuple(LinkKind)


def _link(host: Host, gpus: Sequence[Gpu], replicas: Iterable[Replica]) -> LinkKind | None:
    """Return the worst link inside a replica; None where each has one GPU, or nothing is known of a link."""
    index = {gpu.uuid: gpu.index for gpu in gpus}
    pairs = {
        frozenset((index[one], index[other]))
        for replica in replicas
        for one in replica.gpu_uuids
        for other in replica.gpu_uuids
        if one in index and other in index and one != other
    }
    kinds = [link.kind for link in host.links if frozenset((link.a, link.b)) in pairs]
    return max(kinds, key=_FARTHEST_LAST.index) if kinds else None


_ORNAMENTS = re.compile(r"\((R|TM)\)| CPU\b| \d+-Core Processor| Processor| @ .*", re.IGNORECASE)


def describe_processor(cpu: Cpu, memory_bytes: int | None) -> str:
    """Return a processor's name without its maker's ornaments, its cores and the memory."""
    name = _ORNAMENTS.sub("", cpu.model or "processor")
    cores = f", {cpu.cores} cores" if cpu.cores else ""
    memory = f", {format_bytes(memory_bytes)}" if memory_bytes else ""
    return f"{' '.join(name.split())}{cores}{memory}"


def _short_gpu(gpu: Gpu) -> str:
    return short_name(gpu.name or "GPU")


def gpus_of(plan: Plan, replicas: Iterable[Replica]) -> tuple[Gpu, ...]:
    """Return the GPUs that some replicas run on, in the host's order."""
    uuids = {uuid for replica in replicas for uuid in replica.gpu_uuids}
    return tuple(gpu for gpu in plan.host.gpus if gpu.uuid in uuids)


def describe_model(model: ServedModel, glyphs: Glyphs) -> list[str]:
    """Return the model's name, what it is for where that is not chat, its engine and how it is split."""
    engine = engine_named(model.engine.name)
    items = [model.name]
    if model.role is not Role.CHAT:
        items.append(model.role.value)
    items.append(f"{engine.title} {model.engine.version}")
    return [*items, *_split(model, glyphs)]


def _split(model: ServedModel, glyphs: Glyphs) -> Iterator[str]:
    replica, count = model.replicas[0], len(model.replicas)
    parts = []
    if replica.tensor_parallel > 1:
        parts.append(f"tensor parallel {replica.tensor_parallel}")
    if replica.pipeline_parallel > 1:
        parts.append(f"pipeline parallel {replica.pipeline_parallel}")
    split = f" {glyphs.times} ".join(parts)
    if count > 1:
        yield f"{count} replicas of {split}" if split else f"{count} replicas"
    elif split:
        yield split


def _where(plan: Plan, model: ServedModel) -> Iterator[str]:
    """Name the GPUs of one model of several, and with whom it takes turns."""
    gpus = gpus_of(plan, model.replicas)
    if len(gpus) < len(gpus_of(plan, plan.replicas)) or not gpus:
        yield f"GPU {', '.join(str(gpu.index) for gpu in gpus)}" if gpus else "processor"
    if model.exclusive is not None:
        yield f"in turn with the others of {model.exclusive}" + (", loaded first" if _is_first(plan, model) else "")


def _is_first(plan: Plan, model: ServedModel) -> bool:
    return next(other for other in plan.models if other.exclusive == model.exclusive) is model


def _model_lines(plan: Plan, model: ServedModel, canvas: Canvas, next_step: NextStep) -> Iterator[Line]:
    reach, download = describe_reach(model), describe_download(model, next_step)
    yield from _wrap([[*reach, *describe_beside(model), *download, *_unable(model)]], canvas)
    memory = model.forecast
    if memory is None:
        yield (Span("memory not forecast"),)
    else:
        yield from _memory_lines(plan, model, memory, canvas)


def describe_reach(model: ServedModel) -> Iterator[str]:
    """Say how long a request may be, and how many of that length are worked on at once."""
    keys, memory = engine_named(model.engine.name).keys, model.forecast
    context = model.settings[keys.context].value
    if context.isdecimal():
        yield f"context {int(context):,}"
    elif memory is not None and memory.kv_cache_tokens > 0:
        yield f"context found at start, about {memory.kv_cache_tokens:,} tokens of cache"
        return
    else:
        yield "context found at start"
    if memory is None or memory.kv_cache_bytes <= 0:
        return
    limit, fitting = _most_at_once(model), int(memory.max_concurrency)
    count = (fitting if limit is None else min(fitting, limit)) * len(model.replicas)
    if count:
        yield f"{count:,} full-length request{'s' if count > 1 else ''} at once"


def _most_at_once(model: ServedModel) -> int | None:
    """Return how many requests a replica works on at once at most, whatever the cache has room for; None unknown."""
    engine, replica = engine_named(model.engine.name), model.replicas[0]
    told = model.settings.get(engine.keys.requests or "")
    if told is not None and told.value.isdecimal():
        return int(told.value)
    return None if replica.gpu_uuids else engine.processor_requests * replica.ranks


def describe_beside(model: ServedModel) -> Iterator[str]:
    """Say what is loaded beside a model: adapters, and what drafts for it."""
    adapters = len(model.attached.adapters)
    if adapters:
        yield f"{adapters} LoRA adapter{'s' if adapters > 1 else ''}"
    drafting = _drafting(model)
    if drafting:
        drafter = drafting.get("model")
        by = drafter if isinstance(drafter, str) else drafting.get("method", "the engine's choice")
        yield f"speculative decoding by {by}"


def _drafting(model: ServedModel) -> Mapping[str, object]:
    """Return the engine's configuration of speculative decoding; empty without one, or where it is not readable."""
    told = model.settings.get(engine_named(model.engine.name).flags.get("--speculative-config") or "")
    try:
        found = json.loads(told.value) if told is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def describe_download(model: ServedModel, next_step: NextStep) -> Iterator[str]:
    """Say what is to be downloaded; nothing of a model that is no hub's."""
    if model.source is not LlmSource.HUB:
        return
    missing = next_step.missing_bytes.get(model.location, model.weight_bytes)
    if missing is None:
        yield "download of unknown size"
    elif missing:
        beside = " and the drafter" if "model" in _drafting(model) else ""
        yield f"about {format_bytes(missing)}{beside} to download"
    else:
        yield "already downloaded"


def _unable(model: ServedModel) -> Iterator[str]:
    """Say that a model answers no tool calls, where that is so only for want of its parser's name."""
    key = engine_named(model.engine.name).flags.get("--tool-call-parser")
    parser = model.settings.get(key or "")
    if model.role.generates and model.source is not LlmSource.SMOKE and parser is not None and parser.value == "none":
        yield "no tool calls, as its parser is not known"


def _memory_lines(plan: Plan, model: ServedModel, memory: Memory, canvas: Canvas) -> Iterator[Line]:
    parts = memory_parts(plan, model, memory)
    shown = f" {canvas.glyphs.dot} ".join(f"{part.name} {_gib(part.bytes)}" for part in parts)
    total = f" of {_gib(memory.total_bytes)} GiB"
    missing = sum(part.bytes for part in parts) - memory.total_bytes
    label = f"{memory_label(plan, model)}  "
    doubt = _doubt(memory, missing)
    room = canvas.width - len(label) - len(shown) - len(total) - 2
    if room < _SHORTEST_BAR:
        bar = _bar(parts, memory.total_bytes, min(_WIDEST_BAR, max(canvas.width - len(label), 1)), canvas.glyphs)
        yield (Span(label), *bar)
        items = [f"{part.name} {_gib(part.bytes)}" for part in parts]
        yield from _wrap([[*items[:-1], f"{items[-1]}{total}"]], canvas)
    else:
        bar = _bar(parts, memory.total_bytes, min(_WIDEST_BAR, room), canvas.glyphs)
        yield (Span(label), *bar, Span(f"  {shown}{total}"))
    if doubt:
        yield (Span(doubt, Tone.DOUBT),)


def memory_label(plan: Plan, model: ServedModel) -> str:
    """Say of what the bar is: of the memory, of each GPU, or of the fullest where their sizes differ."""
    gpus = gpus_of(plan, model.replicas)
    if len(gpus) < 2:
        return "memory"
    return "per GPU" if len({gpu.memory_bytes for gpu in gpus}) == 1 else "fullest GPU"


def _doubt(memory: Memory, missing: int) -> str:
    if memory.verdict == "fits":
        return ""
    error = f"plus or minus {_gib(memory.uncertainty_bytes)} GiB"
    if missing < GIB // 20 and memory.kv_cache_bytes > memory.uncertainty_bytes:
        # Here it is not the sum that is in doubt, but what the machine will give: the warnings say why.
        return f"uncertain, {error} at least"
    short = f": {_gib(missing)} GiB more than there is" if missing >= GIB // 20 else ""
    return f"may not fit{short}, {error}"


def memory_parts(plan: Plan, model: ServedModel, memory: Memory) -> tuple[Part, ...]:
    """Share the memory of a model's fullest GPU, or of the machine, which holds all of its ranks, out."""
    beside = _beside(plan, model)
    others = _held_by_others(plan, model, memory.total_bytes)
    ranks = _ranks_together(model.replicas[0])
    weights, cache = ranks * memory.weights_bytes, ranks * max(0, memory.kv_cache_bytes)
    overhead = ranks * (memory.activation_bytes + memory.cuda_graph_bytes + memory.overhead_bytes)
    own = weights + cache + overhead
    services = 0 if model.replicas[0].gpu_uuids else _taken_by_additions(plan)
    free = max(0, memory.total_bytes - others - beside - services - own)
    known = (
        Part("other programs", others, Tone.OTHERS),
        Part("other models", beside, Tone.OTHERS),
        Part("services beside", services, Tone.OTHERS),
        Part("weights", weights, Tone.WEIGHTS),
        Part("cache", cache, Tone.CACHE),
        Part("graphs, overhead" if memory.cuda_graph_bytes else "overhead", overhead, Tone.OVERHEAD),
        Part("free", free, Tone.FREE),
    )
    return tuple(part for part in known if part.bytes or part.tone is not Tone.OTHERS)


def _beside(plan: Plan, model: ServedModel) -> int:
    """Return what other engines of the plan take of the same memory, at most."""
    own = {replica.name for replica in model.replicas}
    taken: Counter[str] = Counter()
    for engine in plan.engines:
        if engine.name not in own:
            most = max(_taken(turn) for turn in plan.turns(engine))
            taken.update(dict.fromkeys(plan.gpus_of(engine) or (_PROCESSOR,), most))
    places = (place for replica in model.replicas for place in replica.gpu_uuids or (_PROCESSOR,))
    return max((taken[place] for place in places), default=0)


def _taken(replica: Replica) -> int:
    memory = replica.memory
    return 0 if memory is None else _ranks_together(replica) * (memory.taken_bytes + memory.cuda_graph_bytes)


def _ranks_together(replica: Replica) -> int:
    """Return how many of a replica's ranks share one memory: on GPUs each has its own."""
    return 1 if replica.gpu_uuids else replica.ranks


def _held_by_others(plan: Plan, model: ServedModel, total_bytes: int) -> int:
    """Return what other programs hold of the fullest GPU. What the driver keeps is no part of `total_bytes`."""
    gpus = gpus_of(plan, model.replicas)
    used = [(gpu.memory_used_bytes or 0) - max(0, (gpu.memory_bytes or 0) - total_bytes) for gpu in gpus]
    most = max(used, default=0)
    return most if most >= _NOTABLE_BYTES else 0


def _bar(parts: Sequence[Part], total: int, width: int, glyphs: Glyphs) -> Iterator[Span]:
    for part, size in zip(parts, share_columns(parts, width, total), strict=True):
        if size:
            yield Span(glyphs.bars[part.tone] * size, part.tone)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
