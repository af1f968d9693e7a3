"""`stackwright fit --observed`: a real start, as its log tells of it, beside the forecast of the same settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.commands.host import choose_gpus, gateway_bytes
from stackwright.commands.options import ENVIRONMENTS, parse_environment
from stackwright.commands.pasted_log import read_log
from stackwright.domain.forecast import CAME_UP, Forecast, GpuMemory, ObservedStart
from stackwright.domain.host import Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.engines import ENGINES, engine_named
from stackwright.errors import HostError, NoPlanError, UsageError, unwritable
from stackwright.planning.comparison import ComparedLine, compare
from stackwright.units import GIB, MIB

# All that an engine writes at its start and in some days of service; what comes later says nothing of memory.
_LINES = 100_000
# A log's total is written with two decimals; one further off than this is of another GPU.
_SAME_TOTAL = 0.01


class ObservedArguments(Struct, frozen=True, kw_only=True):
    """What is to be compared. `log`: a file, `-` for the standard input, or an environment whose engine runs.

    `given`: the settings of the command line, by field, which beat the log's; `case`: the file to write.
    `remember`: the next plan for this host is to know of it.
    """

    log: str
    model: str | None = None
    host: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    case: Path | None = None
    remember: bool = False
    json: bool = False
    out: Path | None = None


class _Found(Struct, frozen=True, kw_only=True):
    """The log of a start, the machine that it is compared for, and the model that the engine was given, if known."""

    log: str
    host: Host
    model: str | None = None


def compare_start(asked: ObservedArguments) -> None:
    """Compare one start with the forecast of it, print every figure, and write the case where one is asked for.

    Raises:
        UsageError: the log cannot be read, shows no start, or one that ended before its cache; or no such model.
        HostError: nothing tells how much memory its GPU has.
    """
    from stackwright.catalog.load import load_llms
    from stackwright.models.read import read_model

    found = _from_stack(asked) if asked.log in ENVIRONMENTS else _from_log(asked)
    observed = _read(found.log, asked)
    name = asked.model or found.model or _known_model(observed, asked.log)
    facts = read_model(name, load_llms(), origin=f"{asked.log}: the log's model {name[:120]}, named by --model")
    gpu = None if observed.on_processor else _gpu(observed, found.host)
    answer = _forecast(observed, facts, found.host, gpu)
    lines = compare(observed, answer.memory)
    _print(asked, observed, answer, lines)
    if asked.remember:
        _remember(asked, observed, facts, found.host, gpu)
    if asked.case is not None:
        _write_case(asked.case, observed, facts, gpu, answer)


def _from_log(asked: ObservedArguments) -> _Found:
    log = read_log(asked.log)
    if asked.host is not None:
        from stackwright.detect.snapshot import read_snapshot

        return _Found(log=log, host=read_snapshot(asked.host))
    from stackwright.detect.host import detect_host

    return _Found(log=log, host=detect_host().host)


def _from_stack(asked: ObservedArguments) -> _Found:
    """Return the log of a running environment's engine, of the one that serves `--model` where it has several."""
    from stackwright.commands.paths import find_paths
    from stackwright.commands.stack import load_stack, reach

    stack = load_stack(find_paths(asked.out).of(parse_environment(asked.log)))
    plan = stack.plan
    served = next((model for model in plan.models if asked.model in (model.name, model.location)), None)
    if asked.model is not None and served is None:
        names = ", ".join(model.name for model in plan.models)
        raise UsageError(f"--model: {plan.environment} does not serve `{asked.model[:120]}`", hint=f"it serves {names}")
    replica = (served or plan.models[0]).replicas[0]
    runtime, _ = reach(stack, "auto")
    gpus = tuple(gpu for gpu in plan.host.gpus if gpu.uuid in replica.gpu_uuids)
    host = replace(plan.host, gpus=gpus) if gpus else plan.host
    return _Found(log=runtime.logs(replica.name, _LINES), host=host, model=plan.model(replica.model).location)


def _read(log: str, asked: ObservedArguments) -> ObservedStart:
    starts = (engine.read_start(log) for engine in ENGINES.values())
    observed = next((start for start in starts if start is not None), None)
    if observed is None:
        raise UsageError(
            f"{asked.log}: no start of an engine in this log",
            hint="keep the engine's log from its first line on: `docker compose logs engine > engine.log`",
        )
    seen = observed.measured
    if observed.outcome != CAME_UP and seen.kv_cache_bytes is None and seen.kv_cache_tokens is None:
        raise UsageError(
            f"{asked.log}: the start ends before the engine has sized its KV cache",
            hint=f"`stackwright doctor --log {asked.log}` names what ended it",
        )
    return replace(observed, settings=replace(observed.settings, **asked.given))


def _known_model(observed: ObservedStart, log: str) -> str:
    """Return the model that the log names, as a name that can be read: a folder of the cache by its hub id."""
    from stackwright.rendering.case_file import public_name

    if observed.model is None:
        raise UsageError(f"{log}: the log does not name its model", hint="name it with --model")
    return observed.model if Path(observed.model).is_dir() else public_name(observed.model)


def _gpu(observed: ObservedStart, host: Host) -> GpuMemory:
    """Return the memory of the GPU that the log is of: the host's, or one of the total that the log tells.

    What others held of it is left out: the start has happened.
    """
    total = observed.measured.total_bytes
    try:
        known: GpuMemory | None = choose_gpus(host, observed.settings.gpus)
    except (HostError, NoPlanError):  # another machine's log, whose GPUs this one need not have
        known = None
    if known is not None and (total is None or abs(known.total_bytes - total) <= _SAME_TOTAL * total):
        return replace(known, used_bytes=0, total_bytes=total or known.total_bytes)
    if total is None:
        raise UsageError(
            "the log does not tell how much memory its GPU has, and this host has no such GPU",
            hint="name a snapshot of the machine: --host FILE",
        )
    return GpuMemory(total_bytes=total)


def _forecast(observed: ObservedStart, facts: ModelFacts, host: Host, gpu: GpuMemory | None) -> Forecast:
    engine = engine_named(observed.engine)
    if gpu is not None:
        return engine.forecast(facts.config.shape, observed.settings, gpu, facts.weights)
    answer = engine.forecast_fit_on_processor(facts, observed.settings, host, gateway_bytes(engine, host))
    if answer is None:
        raise HostError("the host's memory is unknown", hint="use a snapshot of the machine: --host FILE")
    return answer


def _print(
    asked: ObservedArguments, observed: ObservedStart, answer: Forecast, lines: tuple[ComparedLine, ...]
) -> None:
    from stackwright import report
    from stackwright.rendering.case_file import public_name

    name = public_name(observed.model or asked.model or "")
    if asked.json:
        report.print_json(
            {
                "observed": {
                    "engine": observed.engine,
                    "version": observed.settings.version,
                    "model": name,
                    "outcome": observed.outcome,
                    "cold": observed.cold,
                    "flags": dict(observed.flags),
                    "measured": observed.measured,
                },
                "verdict": answer.verdict,
                "memory": answer.memory.without_debts,
                "lines": [_plain(line) for line in lines],
                "reasons": answer.reasons,
                "warnings": answer.warnings,
            }
        )
        return
    flags = ", ".join(f"{key} {value}" for key, value in observed.flags) or "no flags that change memory"
    title = engine_named(observed.engine).title
    release = observed.settings.version or "of an unknown release"
    table = [f"{title} {release}, {name}: {flags}", _row("", "measured", "forecast", "difference")]
    for line in lines:
        off = "" if line.difference is None else f"{line.difference:+,.0f}"
        off += "" if line.percent is None else f" ({line.percent:+.2f} %)"
        table.append(_row(line.name, _written(line.unit, line.measured), _written(line.unit, line.forecast), off))
    table.append(f"the start: {observed.outcome.replace('-', ' ')}; the forecast: {answer.verdict.replace('-', ' ')}")
    report.print_text("\n".join(report.on_one_line(line) for line in table))
    report.warn_all(answer.warnings)


def _row(name: str, measured: str, forecast: str, off: str) -> str:
    return f"  {name:<20}{measured:>14}{forecast:>14}  {off}".rstrip()


def _written(unit: str, value: float | None) -> str:
    if value is None:
        return "not printed"
    if unit != "bytes":
        return f"{value:,.2f}".removesuffix(".00")
    size, name = (GIB, "GiB") if value >= GIB else (MIB, "MiB") if value >= MIB else (1, "B")
    return f"{value / size:,.2f} {name}"


def _plain(line: ComparedLine) -> dict[str, object]:
    return {
        "name": line.name,
        "unit": line.unit,
        "measured": line.measured,
        "forecast": line.forecast,
        "difference": line.difference,
        "percent": line.percent,
    }


def _remember(
    asked: ObservedArguments, observed: ObservedStart, facts: ModelFacts, host: Host, gpu: GpuMemory | None
) -> None:
    import time

    from stackwright import report
    from stackwright.commands.paths import find_paths
    from stackwright.watching.remembered import keep_observed

    if gpu is not None and not gpu.name:
        raise UsageError(f"{asked.log}: the log is of a GPU that this host does not have", hint="leave out --remember")
    start = replace(observed, model=facts.location)
    keep_observed(find_paths(asked.out).state, host, gpu.name if gpu else "", time.strftime("%Y-%m-%d"), start)
    report.tell("remembered: the next plan and the next forecast for this host know of it")


def _write_case(
    path: Path, observed: ObservedStart, facts: ModelFacts, gpu: GpuMemory | None, answer: Forecast
) -> None:
    from stackwright import report
    from stackwright.atomic import replace_file
    from stackwright.rendering.case_file import render_case

    text = render_case(observed, facts, gpu, answer.memory)
    try:
        # An earlier case begins with the same line.
        there = path.read_bytes() if path.is_file() else b""
        if there and not there.startswith(text.partition("\n")[0].encode()):
            raise UsageError(f"--case: {path} is there already, and is no case", hint="name another file")
        replace_file(path, text, mode=None)
    except OSError as failure:
        raise unwritable(path, failure) from None
    report.tell(f"wrote {path}: it names the model, the GPU and the figures, and no path, key or host")
