"""What good starts on this host took of its memory, for the next plan. Touches one file of the state folder.

Nothing depends on the file: a missing, damaged or unwritable one only means that nothing is known of earlier starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from stackwright.atomic import replace_file
from stackwright.domain.forecast import ObservedStart, RememberedStart
from stackwright.domain.host import Host
from stackwright.domain.plan import Plan, Replica
from stackwright.errors import StackError, UsageError
from stackwright.reading import convert, read_bytes, to_plain

SCHEMA = 1
MOST_STARTS = 64
MOST_BYTES = 2**20


def remembered_starts(state: Path, host: Host, model: str | None = None) -> tuple[RememberedStart, ...]:
    """Return the starts that this host has shown, newest first.

    `model`: of this one alone, as the engine is given it; None for those of all.
    """
    entries = _entries(state)
    own = host_word(host) if entries else ""
    kept = (entry for entry in entries if entry.host == own and model in (None, entry.start.model))
    return tuple(kept)[::-1]


def keep_observed(state: Path, host: Host, gpu: str, date: str, start: ObservedStart) -> None:
    """Remember a start; one with the same settings is forgotten. A folder that cannot be written is no failure.

    A first start, which compiles, is not forgotten for one that finds its work done: the next first one takes as much.

    Args:
        host: on which it came up; `gpu` the name of its GPUs there, empty without one.
        date: the day, `YYYY-MM-DD`.
        start: its `model` as the engine was given it.
    """
    entry = RememberedStart(host=host_word(host), date=date, gpu=gpu, start=start)
    others = [kept for kept in _entries(state) if not _replaced(kept, entry)]
    document = {"schema": SCHEMA, "starts": to_plain([*others, entry][-MOST_STARTS:])}
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(_file(state), json.dumps(document))
    except OSError:
        return


def keep_replica(state: Path, plan: Plan, replica: Replica, date: str, start: ObservedStart) -> None:
    """Remember the start of a replica of a plan, under the model's name as the plan has it."""
    named = {plan.model(turn.model).location for turn in plan.turns(replica)}
    model = start.model if start.model in named else plan.model(replica.model).location if len(named) == 1 else None
    if model is not None:
        gpu = next((gpu.name or "" for gpu in plan.host.gpus if gpu.uuid in replica.gpu_uuids), "")
        keep_observed(state, plan.host, gpu, date, replace(start, model=model))


def host_word(host: Host) -> str:
    """Return a word that tells a host's GPUs, driver and memory from others'; what is free now does not count."""
    from hashlib import sha256  # brings OpenSSL, and most hosts have nothing to compare with

    driver = host.driver.version if host.driver else None
    gpus = sorted(f"{gpu.name} {gpu.memory_bytes}" for gpu in host.gpus)
    facts = json.dumps([driver, gpus, host.cpu.model, host.memory_bytes])
    return sha256(facts.encode()).hexdigest()[:16]


def _replaced(kept: RememberedStart, entry: RememberedStart) -> bool:
    one, other = kept.start, entry.start
    same = (kept.host, kept.gpu, one.model, one.settings) == (entry.host, entry.gpu, other.model, other.settings)
    return same and not (one.cold is True and other.cold is False)


def _file(state: Path) -> Path:
    return state / "observed.json"


def _entries(state: Path) -> list[RememberedStart]:
    return list(_read(state))


def _read(state: Path) -> Iterator[RememberedStart]:
    """Yield the starts that were kept, oldest first; what is not ours is passed over."""
    try:
        document = json.loads(read_bytes(_file(state), most=MOST_BYTES))
        starts = document["starts"] if document["schema"] == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for entry in starts if isinstance(starts, list) else []:
        try:
            yield convert(entry, RememberedStart, where=str(_file(state)), error=UsageError)
        except StackError:
            continue
