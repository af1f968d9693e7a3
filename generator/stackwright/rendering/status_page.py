"""A running stack as lines of text for a terminal: its services, GPUs or processor, models, and drift. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from stackwright.domain.running import (
    GpuStatus,
    GpuUse,
    ModelLoad,
    ProcessorStatus,
    Quantiles,
    ServiceStatus,
    StackStatus,
)
from stackwright.domain.service import ServicePhase
from stackwright.rendering.sheet import Part, Sheet, Tone, short_name
from stackwright.units import GIB, format_bytes

NARROW = 76
"""Below so many columns a bar and what it shows stand on lines of their own."""

WIDEST_BAR = 24


def status_page(status: StackStatus, sheet: Sheet) -> tuple[str, ...]:
    """Return the lines of a page."""
    generation = [] if status.generation is None else [f"generation {status.generation}"]
    lines = list(sheet.flow([str(status.environment), status.runtime, status.url, *generation], "  "))
    others = [
        one for one in status.generations if status.generation is None or not one.startswith(f"{status.generation} ")
    ]
    if others:
        lines += sheet.flow(["other generations: " + ", ".join(others)], "  ", "  ")
    lines += ["", "services", *_service_lines(status.services, sheet)]
    if status.gpus:
        lines += ["", "GPUs"]
        for gpu in status.gpus:
            lines += _gpu_lines(gpu, sheet)
    if status.processor is not None:
        lines += ["", "processor", *_processor_lines(status.processor, sheet)]
    if status.models:
        lines += ["", f"models{_period(status)}"]
        for model in status.models:
            lines += _model_lines(model, sheet)
    lines += ["", "drift"]
    for words in _drift(status):
        lines += sheet.flow([words], "    ", "  ")
    for note in status.notes:
        lines += sheet.flow([note], "  ", "note: ")
    return tuple(lines)


def _service_lines(services: tuple[ServiceStatus, ...], sheet: Sheet) -> Iterator[str]:
    width = max((len(row.state.name) for row in services), default=0)
    for row in services:
        state = row.state
        code = "" if state.exit_code is None else f" (exit code {state.exit_code})"
        times = "x" if sheet.ascii else "×"
        since = "" if row.since_s is None else f"  since {format_age(row.since_s)}"
        items = [f"{f'{state.phase}{code}':<9}{since}".rstrip()]
        items += [f"restarted {state.restarts}{times}"] if state.restarts else []
        items += [state.detail] if state.detail else []
        yield from sheet.flow(items, " " * (width + 4), f"  {state.name:<{width}}  ")


def _gpu_lines(gpu: GpuStatus, sheet: Sheet) -> Iterator[str]:
    state, reading = gpu.state, gpu.state.reading
    name = short_name(reading.name) if reading.name else "unknown GPU"
    head = f"  {state.index}  {name}"
    serves = [", ".join(gpu.serves)] if gpu.serves else ["not used by this stack"]
    if state.failure is not None:
        yield from sheet.flow([*serves, f"does not answer: {state.failure}"], "     ", f"{head}  ")
        return
    yield from sheet.flow([name, *serves, *_work(gpu, sheet)], "     ", f"  {state.index}  ")
    yield from _memory_lines(gpu.use, sheet, "     ")
    for row, use in gpu.slice_uses:
        yield from sheet.flow([f"slice {short_name(row.name or 'unknown')}"], "       ", "     ")
        yield from _memory_lines(use, sheet, "       ")
    ill = [f"XID {number}" for number in reading.xids]
    ill += [f"{state.ecc_errors} uncorrected memory errors"] if state.ecc_errors else []
    ill += ["memory rows broken"] if state.rows_broken else []
    if ill:
        yield from sheet.flow(ill, "     ", "     faults: ")


def _work(gpu: GpuStatus, sheet: Sheet) -> Iterator[str]:
    state, reading = gpu.state, gpu.state.reading
    if reading.busy_percent is not None:
        yield f"busy {reading.busy_percent} %"
    if reading.temperature_c is not None:
        yield f"{reading.temperature_c} {'C' if sheet.ascii else '°C'}"
    if reading.power_w is not None:
        limit = "" if reading.power_limit_w is None else f" of {reading.power_limit_w:.0f}"
        yield f"{reading.power_w:.0f}{limit} W"
    if state.lanes:
        yield f"NVLink {state.lanes_up} of {state.lanes} up"
    if reading.slowed:
        yield f"slowed by {', '.join(reading.slowed)}"


def _memory_lines(use: GpuUse, sheet: Sheet, indent: str) -> Iterator[str]:
    """Draw one device's memory: ours, others', free."""
    if use.total_bytes is None or use.free_bytes is None or use.others_bytes is None:
        yield f"{indent}memory unknown"
        return
    whole = f"free {use.free_bytes / GIB:.1f} of {format_bytes(use.total_bytes)}"
    if use.ours_bytes is None:
        items = [f"used {use.others_bytes / GIB:.1f}", whole]
    else:
        items = [f"ours {use.ours_bytes / GIB:.1f}", f"others {use.others_bytes / GIB:.1f}", whole]
    parts = (
        Part("ours", use.ours_bytes or 0, Tone.WEIGHTS),
        Part("others", use.others_bytes, Tone.OTHERS),
        Part("free", use.free_bytes, Tone.FREE),
    )
    if sheet.width < NARROW:
        yield indent + sheet.bar(parts, max(min(WIDEST_BAR, sheet.width - len(indent)), 8))
        yield from sheet.flow(items, indent, indent)
    else:
        yield from sheet.flow(items, indent, f"{indent}{sheet.bar(parts, WIDEST_BAR)}  ")


def _processor_lines(processor: ProcessorStatus, sheet: Sheet) -> Iterator[str]:
    busy = "busy unknown" if processor.busy is None else f"busy {processor.busy:.1f} of {processor.processors}"
    free = processor.memory_bytes - processor.memory_used_bytes
    ours = min(sum(row.memory_bytes or 0 for row in processor.services), processor.memory_used_bytes)
    use = GpuUse(
        total_bytes=processor.memory_bytes,
        ours_bytes=ours,
        others_bytes=processor.memory_used_bytes - ours,
        free_bytes=free,
    )
    yield from sheet.flow([busy], "  ", "  ")
    yield from _memory_lines(use, sheet, "  ")
    width = max((len(row.name) for row in processor.services), default=0)
    for row in processor.services:
        items = ["busy unknown" if row.processors is None else f"busy {row.processors:.1f}"]
        items += [] if row.memory_bytes is None else [format_bytes(row.memory_bytes)]
        yield from sheet.flow(items, " " * (width + 4), f"  {row.name:<{width}}  ")


def _period(status: StackStatus) -> str:
    over = [model.over_s for model in status.models if model.over_s]
    if not over:
        return ""
    return " (since their start)" if status.from_start else f" (last {format_age(max(over))})"


def _model_lines(model: ModelLoad, sheet: Sheet) -> Iterator[str]:
    head, indent = f"  {model.name}  ", "     "
    notes = [model.note] if model.note else []
    if model.running is None and model.waiting is None and model.over_s is None:
        yield from sheet.flow(notes, indent, head)
        return
    counts = [f"{model.replicas} replicas"] if model.replicas > 1 else []
    counts += [f"{_count(model.running)} running", f"{_count(model.waiting)} waiting"]
    counts += [f"cache {_percent(model.cache_usage)}", f"hits {_percent(model.cache_hit_rate)}"]
    yield from sheet.flow([*counts, *notes], indent, head)
    rates = [f"in {_rate(model.prompt_tokens_per_s)}", f"out {_rate(model.generation_tokens_per_s)}"]
    rates += [f"first token {_quantiles(model.first_token)}", f"between tokens {_quantiles(model.between_tokens)}"]
    yield from sheet.flow(rates, indent, indent)


def _drift(status: StackStatus) -> Iterator[str]:
    if not any(row.state.phase is not ServicePhase.ABSENT for row in status.services):
        yield "nothing runs"
        return
    if not status.drift:
        yield "none: what runs is what a start would bring up now"
    for row in status.drift:
        yield row.what if row.service is None else f"{row.service}: {row.what}"


def format_age(seconds: float) -> str:
    """Write a duration with its two largest units: `3 s`, `2 h 05 min`, `4 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 and seconds != whole else f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min {whole % 60:02d} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def format_latency(seconds: float | None) -> str:
    """Write how long a token took: `0.8 ms`, `120 ms`, `2.4 s`; `unknown` for None."""
    if seconds is None:
        return "unknown"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _quantiles(quantiles: Quantiles) -> str:
    if quantiles.p50_s is None:
        return "none yet"
    return f"p50 {format_latency(quantiles.p50_s)} p99 {format_latency(quantiles.p99_s)}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share * 100:.0f} %"


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return "unknown"
    return f"{per_s:,.0f} tokens/s" if per_s >= 10 or per_s == 0 else f"{per_s:.1f} tokens/s"
