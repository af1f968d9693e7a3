"""`stackwright fit`: will this model with these settings fit? A forecast, alone or beside a real start."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from stackwright.commands.host import choose_gpus, gateway_bytes
from stackwright.commands.options import add_json, add_out
from stackwright.commands.paths import find_paths
from stackwright.domain.catalog import EngineRelease
from stackwright.domain.forecast import EngineSettings, Forecast, RememberedStart, Verdict
from stackwright.domain.host import Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.objective import Objective
from stackwright.domain.setting_spec import Kind, SettingSpec, problem_with
from stackwright.engines import default_engine, engine_named
from stackwright.engines.protocol import Engine, MemorySetting, fields_of
from stackwright.errors import HostError, NoPlanError, UsageError

if TYPE_CHECKING:
    from stackwright.commands.observed import ObservedArguments

_RELEASE = re.compile(r"v?\d+\.\d+(\.\d+)?([.\-+]?\w+)*")


class FitArguments(Struct, frozen=True, kw_only=True):
    """What `fit` is asked. `settings` has no release yet: that of `engine`, NAME==VERSION, else the newest.

    `observed`: a real start to compare with, which tells the rest.
    """

    model: str
    settings: EngineSettings
    host: Path | None = None
    engine: str | None = None
    json: bool = False
    observed: ObservedArguments | None = None
    out: Path | None = None


def _positive(option: str, spec: SettingSpec, text: str) -> str:
    least, most = max(1, round(spec.minimum or 1)), round(spec.maximum or 10**9)
    # The length first: Python reads no more than 4300 digits.
    if not text.isdecimal() or len(text) > len(str(most)) or not least <= int(text) <= most:
        raise UsageError(f"{option}: found `{text[:40]}`, allowed: a whole number from {least} to {most}")
    return text


def _add_setting(parser: argparse.ArgumentParser, setting: MemorySetting) -> None:
    """Take a setting by the engine's flag, and by the one that `fit` has for it."""
    spec, options = setting.spec, [word for word in (setting.option, setting.spec.flag) if word]
    words = spec.meaning.partition("; auto")[0]
    if words.split()[0][1:].islower():
        words = words[0].lower() + words[1:]
    if spec.kind is Kind.BOOLEAN:
        parser.add_argument(*options, dest=setting.name, action=argparse.BooleanOptionalAction, help=words)
        return
    metavar = {Kind.INTEGER: "N", Kind.CONTEXT: "N", Kind.FRACTION: "SHARE", Kind.JSON: "JSON"}.get(
        spec.kind, "NAME" if spec.choices or spec.kind is Kind.NAME else "N,N"
    )
    whole = spec.kind in (Kind.INTEGER, Kind.CONTEXT) and not spec.choices
    read = functools.partial(_positive, options[0], spec) if whole else str
    parser.add_argument(*options, dest=setting.name, metavar=metavar, type=read, help=words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line. The flags have the engine's own names where it has them."""
    parser.add_argument("--model", metavar="NAME", help="Hugging Face id, folder, or catalog name")
    parser.add_argument("--host", metavar="FILE", type=Path, help="forecast for this snapshot instead of this machine")
    parser.add_argument(
        "--engine", metavar="NAME[==VERSION]", help=f"for example {default_engine().name}==0.32.0 (default: the newest)"
    )
    for setting in default_engine().memory_settings:
        _add_setting(parser, setting)
    parser.add_argument(
        "--observed",
        metavar="LOG",
        help="compare with the start in an engine's log: a file, - for stdin, or an environment that runs",
    )
    parser.add_argument("--case", metavar="FILE", type=Path, help="write what was observed to a file that can be sent")
    parser.add_argument(
        "--remember", action="store_true", help="let the next plan for this host know what was observed"
    )
    add_out(parser)
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> FitArguments:
    """Turn the parsed words into the record."""
    engine = engine_named(name) if (name := (given.engine or "").partition("==")[0]) else default_engine()
    texts = {
        setting.name: str(text).lower() if isinstance(text, bool) else text
        for setting in engine.memory_settings
        if (text := vars(given).get(setting.name)) is not None
    }
    _check_bounds(engine, texts)
    values = fields_of(engine.memory_settings, texts)
    if given.observed is None and (given.case is not None or given.remember):
        raise UsageError("--case and --remember take what --observed has read", hint="name a log with --observed")
    if given.observed is None and given.model is None:
        raise UsageError("--model is missing", hint="name one: `stackwright fit --model smoke`")
    observed = None
    if given.observed is not None:
        from stackwright.commands.observed import ObservedArguments

        values |= {"version": version} if (version := (given.engine or "").partition("==")[2]) else {}
        observed = ObservedArguments(
            log=given.observed,
            model=given.model,
            host=given.host,
            given=values,
            case=given.case,
            remember=given.remember,
            json=given.json,
            out=given.out,
        )
    return FitArguments(
        model=given.model or "",
        settings=EngineSettings(**values),
        host=given.host,
        engine=given.engine,
        json=given.json,
        observed=observed,
        out=given.out,
    )


def _check_bounds(engine: Engine, texts: Mapping[str, str]) -> None:
    """Refuse what the engine's settings do not take: their bounds are declared once. Raises UsageError."""
    for setting in engine.memory_settings:
        text = texts.get(setting.name)
        if text is not None and (problem := problem_with(setting.spec, text)):
            raise UsageError(f"{setting.option or setting.spec.flag}: found `{text[:40]}`, allowed: {problem}")


def run(asked: FitArguments) -> None:
    """Forecast for the snapshot of `--host`, or for this machine; with `--observed` beside a real start."""
    from stackwright import report

    if asked.observed is not None:
        from stackwright.commands.observed import compare_start

        compare_start(asked.observed)
        return
    if asked.host is not None:
        from stackwright.detect.snapshot import read_snapshot

        fit(asked, read_snapshot(asked.host))
        return
    from stackwright.detect.host import detect_host

    found = detect_host()
    report.warn_all(found.notable)
    fit(asked, found.host)


def fit(asked: FitArguments, host: Host) -> Forecast:
    """Forecast for one host, print the answer, and return it.

    Raises:
        UsageError: the model or the engine is not known.
        HostError: the host has no GPU whose memory is known.
        NoPlanError: it has too few GPUs; or it does not fit, and the answer has been printed before.
    """
    answer = answer_fit(asked, host)
    _print(asked, answer)
    if answer.verdict is Verdict.DOES_NOT_FIT:
        what = "cannot be served" if answer.refused else "does not fit"
        raise NoPlanError(f"{asked.model} {what} with these settings", hint=_what_fits(asked, host, answer))
    return answer


def _what_fits(asked: FitArguments, host: Host, answer: Forecast) -> str:
    """Return what would fit, tried before it is said."""
    from stackwright.catalog.load import load_catalog, load_llms
    from stackwright.models.read import read_model
    from stackwright.planning.placement import Heads, most_ranks

    for requests, length in _less(asked, host, answer):
        given = {"max_num_seqs": requests, "max_model_len": length}
        less = replace(asked.settings, **{key: value for key, value in given.items() if value is not None})
        if answer_fit(replace(asked, settings=less), host).verdict is not Verdict.DOES_NOT_FIT:
            return _in_words(requests, length)
    config, engine = read_model(asked.model, load_llms()).config, _engine_of(asked)
    version = _settings(asked).version or ""
    recut = engine.recuts_experts(version, host.gpus)
    heads = Heads.of(config, recut=recut, whole_experts=engine.keeps_experts_whole(version, load_catalog()))
    if not heads.allow(asked.settings.tp, whole_experts=asked.settings.expert_parallel):
        specs = (row.spec for row in engine.memory_settings)
        flag = next((spec.flag for spec in specs if spec.key == engine.keys.expert_parallel), None)
        return f"--tensor-parallel: sizes that split it: {heads.sizes(most_ranks(host, None), flag)}"
    if answer.refused:
        return "change the flag that the line above is about"
    more = ", or more GPUs with --tensor-parallel" if host.gpus else ", or a host with more memory"
    none = "no context length fits: " if answer.surely < answer.max_model_len else ""
    return f"{none}use a smaller or quantized model{more}"


def _less(asked: FitArguments, host: Host, answer: Forecast) -> Iterator[tuple[int | None, int | None]]:
    """Yield what may fit in the place of what was asked, the least change first: requests at once, and the length."""
    wanted = asked.settings.max_num_seqs
    if answer.running and (wanted is None or answer.running < wanted):
        yield answer.running, None
    if 0 < answer.surely < answer.max_model_len:
        yield None, answer.surely
    if not host.gpus:
        return
    engine, facts, settings = _on_gpus(asked, host)
    free = replace(settings, max_num_seqs=None, max_model_len=None, max_num_batched_tokens=None)
    gpu = choose_gpus(host, settings.gpus)
    found = engine.solve(facts.config.shape, free, gpu, facts.weights, Objective.THROUGHPUT)
    if found is not None:
        yield found.settings.max_num_seqs, found.settings.max_model_len


def _in_words(requests: int | None, length: int | None) -> str:
    told = [f"{requests:,} requests at once"] if requests is not None else []
    told += [f"{length:,} tokens"] if length is not None else []
    flags = [f"--max-num-seqs {requests}"] if requests is not None else []
    flags += [f"--max-model-len {length}"] if length is not None else []
    return f"{' of '.join(told)} fit: `{' '.join(flags)}`"


def answer_fit(asked: FitArguments, host: Host) -> Forecast:
    """Return the forecast without printing it; same failures but for the verdict."""
    from stackwright.catalog.load import load_catalog, load_llms
    from stackwright.engines.memory.gpu import with_seen
    from stackwright.models.read import read_model

    if not host.gpus and (host.driver is None or host.driver.error is None):
        facts, engine = read_model(asked.model, load_llms()), _engine_of(asked)
        engine.check_release(facts, _settings(asked, engine.processor_release()), host, load_catalog())
        return _answer_on_cpu(asked, facts, host)
    engine, facts, settings = _on_gpus(asked, host)
    gpu = with_seen(choose_gpus(host, settings.gpus), _seen(asked, facts, host))
    return engine.forecast(facts.config.shape, settings, gpu, facts.weights)


def _on_gpus(asked: FitArguments, host: Host) -> tuple[Engine, ModelFacts, EngineSettings]:
    """Return what is asked of the GPUs, checked: the cache has the format that the plan would give it."""
    from stackwright.catalog.load import load_catalog, load_llms
    from stackwright.models.read import read_model, read_shape
    from stackwright.planning.placement import check_stages

    facts, engine, settings = read_model(asked.model, load_llms()), _engine_of(asked), _settings(asked)
    if settings.kv_cache_dtype == "auto":
        best = engine.cache_formats(facts, settings.version or "", host.gpus, load_catalog())[0]
        settings = replace(settings, kv_cache_dtype=best)
    engine.check_release(facts, settings, host, load_catalog())
    staged = engine.has_stages(facts.config, settings.version or "", load_catalog())
    check_stages(settings.pp, f"--pipeline-parallel is {settings.pp}", staged=staged)
    if settings.draft_model is not None:
        settings = replace(settings, draft=read_shape(settings.draft_model, load_llms()))
    return engine, facts, settings


def _answer_on_cpu(asked: FitArguments, facts: ModelFacts, host: Host) -> Forecast:
    """Forecast for the processor of a host without a GPU, with the cache and the gateway that a plan would have."""
    from stackwright.planning.comparison import confirm

    engine = _engine_of(asked)
    settings = _settings(asked, engine.processor_release())
    answer = engine.forecast_fit_on_processor(facts, settings, host, gateway_bytes(engine, host))
    if answer is None:
        raise HostError("no GPU, and the host's memory is unknown", hint="use a snapshot of the machine: --host FILE")
    answer = confirm(answer, _seen(asked, facts, host), settings.version, settings.ranks)
    if asked.settings.gpu_memory_utilization is None:
        return answer
    cache = engine.keys.processor_cache or "the engine"
    unread = f"--gpu-memory-utilization has no effect on a processor; {cache} sets the KV cache"
    return replace(answer, warnings=(unread, *answer.warnings))


def _seen(asked: FitArguments, facts: ModelFacts, host: Host) -> tuple[RememberedStart, ...]:
    """Return what earlier starts of the model on this host took."""
    from stackwright.watching.remembered import remembered_starts

    try:
        return remembered_starts(find_paths(asked.out).state, host, facts.location)
    except UsageError:  # no home folder, hence nothing that was kept in it
        return ()


def _settings(asked: FitArguments, default: str | None = None) -> EngineSettings:
    """Return what is asked with its release, `default` where none is named, else the catalog's newest."""
    return replace(asked.settings, version=_version(asked.engine, default))


def _engine_of(asked: FitArguments) -> Engine:
    """Return the engine of `NAME[==VERSION]`, the usual one where none is named."""
    name = (asked.engine or "").partition("==")[0]
    return engine_named(name) if name else default_engine()


def _version(engine: str | None, default: str | None) -> str:
    """Return the release of `NAME==VERSION`; where none is named `default`, else the catalog's newest."""
    name, _, version = (engine or "").partition("==")
    if version and not _RELEASE.fullmatch(version):
        raise UsageError(f"--engine: found version `{version[:40]}`, allowed: numbers such as 0.32.0")
    if default and not version:
        return default
    from stackwright.catalog.load import load_engines

    chosen = engine_named(name) if name else default_engine()
    newest = [release.version for release in islice(_releases_of(chosen, load_engines()), 3)]
    if not version:
        return newest[0]
    bare = version.removeprefix("v")
    if newest and bare not in (release.version for release in _releases_of(chosen, load_engines().naming(bare))):
        hint = f"the newest known are {', '.join(newest)}; docs/reference/catalog.md lists all"
        raise NoPlanError(f"{chosen.name} {version} is not in the catalog", hint=hint)
    return version


def _releases_of(engine: Engine, releases: Iterable[EngineRelease]) -> Iterator[EngineRelease]:
    return (release for release in releases if release.name == engine.name)


def _print(asked: FitArguments, answer: Forecast) -> None:
    from stackwright import report

    if asked.json:
        report.print_json(
            {
                "verdict": answer.verdict,
                "memory": answer.memory.without_debts,
                "reasons": answer.reasons,
                "warnings": answer.warnings,
                "lacking_bytes": max(0, -answer.memory.kv_cache_bytes),
            }
        )
        return
    lines = [f"{asked.model}: {answer.verdict.value.replace('-', ' ')}", *(f"  {reason}" for reason in answer.reasons)]
    if answer.verdict is not Verdict.DOES_NOT_FIT and answer.memory.kv_bytes_per_token:
        lines.append(
            f"  {answer.memory.kv_cache_tokens:,} tokens in the KV cache, {answer.memory.max_concurrency:g} requests "
            f"of {answer.max_model_len:,} tokens at once"
        )
    report.print_text("\n".join(lines))
    report.warn_all(answer.warnings)
