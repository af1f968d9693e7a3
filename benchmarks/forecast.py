"""Score the memory planner on observed start-ups, beside two simpler rules.

    python benchmarks/forecast.py [--cases FILE] [--out FILE] [--each]

Without `--cases` the start-ups in benchmarks/cases/ are scored and benchmarks/results/forecast.json,
forecast_found.json and forecast_unseen.json are written: the ones that the rules were written with, the ones that were
found since, and those found before the last revision, of which a half was held out. A start that compiled is compared
with the forecast of a first start, one that did not with that of a later one.

The simpler rules: `1.2 × weights + 2 GiB` (gpustack's), and `headers + cache` (weights as stored and the cache of plain
attention, nothing else). A figure is compared only where the log prints it and the model's configuration is known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

# Run as a file, Python looks for modules beside it only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stackwright.domain.forecast import Forecast, GpuMemory, Verdict
from stackwright.domain.shape import WeightKind
from stackwright.engines.vllm.memory.defaults import complete
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.kv_cache import format_of, lay_out, token_bytes
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.weights import parameter_bytes, stage_weights
from stackwright.units import GIB

from benchmarks.observed import Case, read_cases

HERE = Path(__file__).parent
# A stand-in where the log does not name the GPU: weights and cache layout hardly depend on it.
_ANY_GPU = GpuMemory(total_bytes=80 * GIB)
_OWN = (
    (HERE / "cases/vllm_memory_cases.yaml", HERE / "results/forecast.json"),
    (HERE / "cases/found.yaml", HERE / "results/forecast_found.json"),
    (HERE / "cases/unseen.yaml", HERE / "results/forecast_unseen.json"),
)
# The first release of 2026 (PyPI: 0.14.0 of 2026-01-20).
_FIRST_OF_2026 = (0, 14, 0)
_RULES = ("ours", "weights × 1.2 + 2 GiB", "headers + cache")


class Row(Struct, frozen=True, kw_only=True):
    """One case's scores; errors in percent, of the observed figure or (pool) of the GPU's memory; None: not
    comparable.
    """

    id: str
    failed: bool
    mixed: bool
    weights_error: dict[str, float | None]
    token_error: dict[str, float | None]
    token_tolerance: float | None
    pool_error: dict[str, float | None]
    verdict: dict[str, str | None]
    assumed_utilization: bool
    unmodelled: bool
    of_2026: bool
    held_out: bool


def main() -> None:
    """Read the cases, print the scores, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, help="observed start-ups, in the form of benchmarks/cases/")
    parser.add_argument("--configs", type=Path, default=HERE / "cases/configs.yaml")
    parser.add_argument("--readings", type=Path, default=HERE / "cases/readings.yaml")
    parser.add_argument("--out", type=Path, help="where the result is written as JSON")
    parser.add_argument("--each", action="store_true", help="print every case")
    given = parser.parse_args()
    files = [(given.cases, given.out)] if given.cases else list(_OWN)
    for file, out in files:
        document = run(file, given.configs, given.readings, each=given.each)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run(file: Path, configs: Path, readings: Path, *, each: bool) -> dict[str, object]:
    """Score the cases of one file, print the scores and return them."""
    cases = read_cases(file, configs, readings)
    started = time.perf_counter()
    rows = [score(case) for case in cases]
    seconds = time.perf_counter() - started
    if each:
        for row in rows:
            print(_line(row))
    document: dict[str, object] = {
        "cases": len(rows),
        "file": file.name,
        "milliseconds_per_case": round(1000 * seconds / max(len(rows), 1), 2),
    }
    parts = {"summary": rows, "held_out": [row for row in rows if row.held_out]}
    for name, part in parts.items():
        if part:
            print(f"{file.name}: {name.replace('_', ' ')}")
            document[name] = {rule: summarize(part, rule) for rule in _RULES}
            print_table({rule: summarize(part, rule) for rule in _RULES})
    return document | {"rows": [asdict(row) for row in rows]}


def score(case: Case) -> Row:
    """Compare one case's figures with those of all three rules."""
    answer = forecast(case.shape, case.settings, case.gpu) if case.shape and case.gpu and _complete(case) else None
    return Row(
        id=case.id,
        failed=case.failed,
        mixed=case.mixed,
        weights_error=_weights_errors(case),
        token_error=_token_errors(case),
        token_tolerance=100 * 0.005 * GIB / case.kv_bytes if case.kv_bytes and case.kv_bytes > 0 else None,
        pool_error=_pool_errors(case, answer),
        verdict=_verdicts(case, answer),
        assumed_utilization=not case.utilization_known,
        unmodelled=not case.modelled,
        of_2026=case.settings.version is not None and Release(case.settings.version).version >= _FIRST_OF_2026,
        held_out=case.held_out,
    )


def _complete(case: Case) -> bool:
    """Tell whether the model is known well enough for weights and activations, and the start for a verdict."""
    known = case.shape is not None and case.shape.hidden > 0 and case.shape.vocab > 0
    return known and case.modelled and case.nvidia and case.parallel_known


def _stored_bytes(case: Case) -> float:
    assert case.shape is not None
    return parameter_bytes(case.shape) / case.settings.ranks


def _weights_errors(case: Case) -> dict[str, float | None]:
    """NVFP4 checkpoints differ in what they leave out; their headers say so, the cases do not."""
    shape = case.shape
    if shape is None or not case.weights_bytes or not _complete(case) or shape.quantization.kind is WeightKind.NVFP4:
        return dict.fromkeys(_RULES)
    release = Release(case.settings.version, legacy_engine=case.settings.legacy_engine)
    ours = max(term.bytes for term in stage_weights(shape, case.settings, case.gpu or _ANY_GPU, release))
    stored = _stored_bytes(case)
    guesses = (ours, stored * 1.2 + 2 * GIB, stored)
    return {rule: _percent(guess, case.weights_bytes) for rule, guess in zip(_RULES, guesses, strict=True)}


def _token_errors(case: Case) -> dict[str, float | None]:
    """Compare the bytes of one token: the observed pool divided by the observed tokens, as that release counts them."""
    shape, pool = case.shape, case.kv_bytes
    tokens = case.kv_tokens or (16.0 * case.blocks if case.blocks and not case.mixed else None)
    if shape is None or not pool or pool <= 0 or not tokens or not case.modelled:
        return dict.fromkeys(_RULES)
    release = Release(case.settings.version, legacy_engine=case.settings.legacy_engine)
    batch = complete(shape, case.settings, case.gpu or _ANY_GPU, release)
    settings = format_of(shape, case.settings, case.gpu or _ANY_GPU, release)
    layout = lay_out(shape, settings, release, batch.max_num_batched_tokens)
    blocks = layout.pool_blocks(tuple(int(pool) for _ in layout.block_bytes))
    counted = layout.logged_tokens(blocks, batch.max_model_len, release)
    plain = sum(token_bytes(shape, layer, case.settings) for layer in shape.layers if layer.kv_heads)
    return {
        _RULES[0]: _percent(pool / counted, pool / tokens) if counted else None,
        _RULES[1]: None,
        _RULES[2]: _percent(float(plain), pool / tokens),
    }


def _pool_errors(case: Case, answer: Forecast | None) -> dict[str, float | None]:
    """Compare the pool where the log prints it, the utilization and a dedicated GPU; unified memory is not
    comparable.
    """
    gpu = case.gpu
    if answer is None or gpu is None or gpu.unified or gpu.wsl or case.kv_bytes is None or not case.utilization_known:
        return dict.fromkeys(_RULES)
    simple, memory = answer.memory.budget_bytes - _stored_bytes(case), answer.memory
    pool = memory.later_kv_cache_bytes if case.warm and memory.later_kv_cache_bytes else memory.kv_cache_bytes
    return {
        _RULES[0]: 100 * (pool - case.kv_bytes) / gpu.total_bytes,
        _RULES[1]: None,
        _RULES[2]: 100 * (simple - case.kv_bytes) / gpu.total_bytes,
    }


def _verdicts(case: Case, answer: Forecast | None) -> dict[str, str | None]:
    if answer is None or case.gpu is None or case.shape is None:
        return dict.fromkeys(_RULES)
    stored, total = _stored_bytes(case), case.gpu.total_bytes
    plain = sum(token_bytes(case.shape, layer, case.settings) for layer in case.shape.layers if layer.kv_heads)
    cache = float(plain) * answer.max_model_len
    return {
        _RULES[0]: answer.verdict.value,
        _RULES[1]: _word(stored * 1.2 + 2 * GIB <= total),
        _RULES[2]: _word(stored + cache <= answer.memory.budget_bytes),
    }


def _word(fits: bool) -> str:
    return (Verdict.FITS if fits else Verdict.DOES_NOT_FIT).value


def _percent(guess: float, observed: float) -> float:
    return 100 * (guess - observed) / observed


def summarize(rows: list[Row], rule: str) -> dict[str, dict[str, float]]:
    """Return the figures of one rule over all rows."""
    weights = [abs(error) for row in rows if (error := row.weights_error[rule]) is not None]
    pools = [(row, abs(error)) for row in rows if (error := row.pool_error[rule]) is not None]
    return {
        "weights, % of the log's": _spread(weights),
        "bytes per token, one group": _share(rows, rule, lambda row: not row.mixed),
        "bytes per token, mixed": _share(rows, rule, lambda row: row.mixed),
        "pool, % of the GPU's memory": _spread([error for _, error in pools]),
        "pool, % of the GPU's memory, releases before 2026": _spread(
            [error for row, error in pools if not row.of_2026]
        ),
        "pool, % of the GPU's memory, releases of 2026": _spread([error for row, error in pools if row.of_2026]),
        "verdict, utilization in the log": _verdict_table([row for row in rows if not row.assumed_utilization], rule),
        "verdict, all": _verdict_table(rows, rule),
    }


def _spread(errors: list[float]) -> dict[str, float]:
    if not errors:
        return {"cases": 0}
    return {
        "cases": len(errors),
        "median": round(statistics.median(errors), 3),
        "mean": round(statistics.mean(errors), 3),
        "greatest": round(max(errors), 2),
    }


def _share(rows: list[Row], rule: str, wanted: Callable[[Row], bool]) -> dict[str, float]:
    """Count the cases within 1 %, or within the rounding of the printed pool where that is more."""
    errors = [(row, error) for row in rows if wanted(row) and (error := row.token_error[rule]) is not None]
    return {
        "cases": len(errors),
        "within_1_percent": sum(abs(error) <= max(1.0, row.token_tolerance or 0.0) for row, error in errors),
    }


def _verdict_table(rows: list[Row], rule: str) -> dict[str, float]:
    """Count verdicts by what happened; `false fits` must be 0, and of starts that fitted 5 % may be refused."""
    judged = [(row, verdict) for row in rows if (verdict := row.verdict[rule]) is not None]
    fitted = [verdict for row, verdict in judged if not row.failed]
    failed = [verdict for row, verdict in judged if row.failed]
    return {
        "fitted": len(fitted),
        "fitted, fits": fitted.count(Verdict.FITS),
        "fitted, uncertain": fitted.count(Verdict.UNCERTAIN),
        "fitted, refused": fitted.count(Verdict.DOES_NOT_FIT),
        "failed": len(failed),
        "failed, refused": failed.count(Verdict.DOES_NOT_FIT),
        "failed, uncertain": failed.count(Verdict.UNCERTAIN),
        "false fits": failed.count(Verdict.FITS),
        "false refusals, %": round(100 * fitted.count(Verdict.DOES_NOT_FIT) / max(len(fitted), 1), 1),
    }


def print_table(summary: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print one line per figure, one column per rule."""
    print(f"{'':<52}" + "".join(f"{rule:>24}" for rule in _RULES))
    for figure, parts in summary[_RULES[0]].items():
        print(figure)
        for part in parts:
            cells = [summary[rule][figure].get(part, "-") for rule in _RULES]
            print(f"  {part:<50}" + "".join(f"{cell!s:>24}" for cell in cells))


def _line(row: Row) -> str:
    cells = [
        f"{row.id:<42}",
        "failed" if row.failed else "fitted",
        f"{row.verdict[_RULES[0]] or '-':<13}",
        f"weights {_cell(row.weights_error[_RULES[0]])}",
        f"token {_cell(row.token_error[_RULES[0]])}",
        f"pool {_cell(row.pool_error[_RULES[0]])}",
        "utilization assumed" if row.assumed_utilization else "",
        "not modelled" if row.unmodelled else "",
    ]
    return "  ".join(cells).rstrip()


def _cell(error: float | None) -> str:
    return "     -  " if error is None else f"{error:+7.2f}%"


if __name__ == "__main__":
    main()
