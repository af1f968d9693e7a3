"""Read in an engine's log how far its start has come, and what in it is new. Pure."""

from __future__ import annotations

import re

from stackwright.domain.service import Step
from stackwright.engines import ENGINES
from stackwright.engines.protocol import StartLog


def engine_step(log: str, start: StartLog) -> Step | None:
    """Name the furthest step that the last start in an engine's log shows, or None before the first."""
    latest = last_starts(log, 1)
    reached = [name for pattern, name in start.steps if pattern.search(latest)]
    return reached[-1] if reached else None


# Words of compose/engine/switching/group.py.
_SWITCHED = re.compile(r"switch: (?P<model>.+) is (?P<way>loaded|unloaded) after [0-9.]+ s")


def loaded_model(log: str) -> str | None:
    """Return which of several models an engine has loaded, as it told last; None during a switch."""
    told_of = [found for line in log.splitlines() if (found := _SWITCHED.fullmatch(line.strip()))]
    return told_of[-1]["model"] if told_of and told_of[-1]["way"] == "loaded" else None


def last_starts(log: str, count: int) -> str:
    """Return what the last `count` starts of a service wrote: both runtimes append to one log."""
    banners = _banners(log)
    return log[banners[-count].start() :] if len(banners) >= count else log


def start_line(log: str) -> str | None:
    """Return what stands before the last banner's version: time and process tell one start from the next."""
    banners = _banners(log)
    return log[: banners[-1].start()].rpartition("\n")[2] if banners else None


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _banners(log: str) -> list[re.Match[str]]:
    """Return where a start begins, whichever engine wrote the log."""
    found = (match for engine in ENGINES.values() for match in engine.start_log.banner.finditer(log))
    return sorted(found, key=lambda match: match.start())


def unadorned(line: str) -> str:
    """Return one line of a log without colours, control characters and the logger's own prefix; indented as it was."""
    plain = _ESCAPES.sub("", line)
    lengths = (len(found[0]) for engine in ENGINES.values() if (found := engine.start_log.prefix.match(plain)))
    return plain[max(lengths, default=0) :]


_PROGRESS = re.compile(r"[0-9]%|[0-9]/[0-9]")
_NUMBER = re.compile(r"[0-9]+")


def distinct_lines(log: str) -> frozenset[str]:
    """Return what a log says, each thing once: a message that is repeated with other numbers says nothing new.

    `No available shared memory broadcast block found in 60 seconds` comes every minute of a hang. Numbers of a line
    that counts up to something (`12%`, `3/24`) are kept.
    """
    lines = (unadorned(line).strip() for line in log.splitlines())
    return frozenset(line if _PROGRESS.search(line) else _NUMBER.sub("0", line) for line in lines if line)
