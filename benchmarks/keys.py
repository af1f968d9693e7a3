"""What keys cost the gateway: wrong and right ones, and the counts of two workers at once.

    python benchmarks/keys.py

Keys are looked up as the gateway does, among 10 and among 10,000. Counts are those of one worker alone, and of two
processes that change the same row. Times are the processor's of one core, best of five runs. Writes
benchmarks/results/keys.json, and ends with 1 where 100,000 wrong keys a minute would take more than 1 % of a core.
Touches a temporary folder and that file.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Run as a file, Python looks for modules beside it only.
CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "generator"), str(CHECKOUT / "compose" / "gateway")]

from keys import Caller, Keys, Limits
from stackwright.domain.access_key import AccessKey, AccessKeys, Rights, hash_key, text_of_key
from stackwright.project.access_keys import FILE
from stackwright.reading import to_plain

RESULT = CHECKOUT / "benchmarks" / "results" / "keys.json"
RUNS, LOOKUPS, ANSWERS = 5, 50_000, 10_000
WRONG_A_MINUTE = 100_000
MOST_PERCENT = 1.0


def main() -> int:
    """Measure, write the result, and judge it."""
    with tempfile.TemporaryDirectory() as name:
        lookups = {str(count): measure_lookups(Path(name), count) for count in (10, 10_000)}
        counts = {str(workers): measure_counts(Path(name), workers) for workers in (1, 2)}
    worst_us = max(lookup["wrong_us"] for lookup in lookups.values())
    percent = worst_us * WRONG_A_MINUTE / 60 / 1e6 * 100
    result = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version()},
        "lookups_by_stored_keys": lookups,
        "counts_by_workers": counts,
        "core_percent_of_100000_wrong_keys_a_minute": round(percent, 2),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return int(percent > MOST_PERCENT)


def measure_lookups(folder: Path, count: int) -> dict[str, float]:
    """Return the microseconds of a wrong key, a wrong one whose first digits are known, and a right one."""
    texts = [text_of_key(f"{number:08x}", os.urandom(32).hex()) for number in range(count)]
    stored = AccessKeys(keys=tuple(stored_key(number, text) for number, text in enumerate(texts)))
    (folder / FILE).write_text(json.dumps(to_plain(stored)), encoding="utf-8")
    (folder / "master").write_text(f"sk-{os.urandom(32).hex()}", encoding="utf-8")
    began = time.process_time()
    keys = Keys(folder / FILE, folder / "master")
    keys.find("")
    read_ms = (time.process_time() - began) * 1e3
    wrong, close = f"sk-{os.urandom(36).hex()}", f"{texts[-1][:11]}{os.urandom(32).hex()}"
    asked = {"wrong_us": wrong, "wrong_but_its_id_us": close, "right_us": texts[-1]}
    times = {name: cost_us(lambda text=text: keys.find(text)) for name, text in asked.items()}  # type: ignore[misc]
    return {**times, "wrong_per_s": round(1e6 / times["wrong_us"]), "read_file_ms": round(read_ms, 2)}


def stored_key(number: int, text: str) -> AccessKey:
    """Return what is stored of a key."""
    salt = number.to_bytes(16, "big")
    hashed = hash_key(text, salt).hex()
    return AccessKey(name=f"key-{number}", id=f"{number:08x}", salt=salt.hex(), hash=hashed, created=0, rights=Rights())


def cost_us(work: Callable[[], object]) -> float:
    """Return the processor's microseconds of one call, of the best run."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(LOOKUPS):
            work()
        best = min(best, (time.process_time() - began) / LOOKUPS * 1e6)
    return round(best, 2)


def measure_counts(folder: Path, workers: int) -> dict[str, float]:
    """Return the microseconds that a request with limits costs each of so many workers: admitted, then counted."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        times = pool.map(count_answers, [str(folder)] * workers, chunksize=1)
    return {"admit_and_count_us": round(max(times), 1)}


def count_answers(folder: str) -> float:
    """Count answers as one worker; return the processor's microseconds of each."""

    async def work() -> float:
        limits, anna = Limits(Path(folder)), Caller(name="anna", requests_per_minute=10**9)
        best = float("inf")
        for _ in range(RUNS):
            began = time.process_time()
            for _ in range(ANSWERS):
                await limits.admit(anna)
                await limits.count(anna, "small", 10, 100)
            best = min(best, (time.process_time() - began) / ANSWERS * 1e6)
        return best

    return asyncio.run(work())


if __name__ == "__main__":
    sys.exit(main())
