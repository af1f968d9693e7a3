"""Read in an engine's log how far its start has come, and what in it is new. Pure."""

from __future__ import annotations

import re
from enum import StrEnum


class Step(StrEnum):
    """What a service does before it answers, in the words that a person reads."""

    ABSENT = "absent"
    WAITING = "waiting"
    STARTING = "starting"
    DOWNLOADING = "downloading weights"
    LOADING = "loading weights"
    PROFILING = "profiling memory"
    COMPILING = "compiling"
    CAPTURING = "capturing graphs"
    OPENING = "opening its port"
    READY = "healthy"
    SILENT = "no longer healthy"


# Lines of vLLM 0.32.0's log, in the order in which a start passes them. Words of what a step says of itself: the
# configuration that is logged first names torch.compile and CUDA graphs also where neither is used. Profiling stands
# twice because compiling is a part of it, and memory is told last.
_STEPS = (
    (re.compile(r"Starting to load model |Loading \w+ checkpoint shards"), Step.LOADING),
    (re.compile(r"Model loading took |Loading weights took "), Step.PROFILING),
    (re.compile(r"Starting torch\.compile|Dynamo bytecode transform time|for the compilation\.\.\."), Step.COMPILING),
    (re.compile(r"Available KV cache memory: |KV cache size: [0-9]|Initial profiling"), Step.PROFILING),
    (re.compile(r"Capturing (\w+ )?CUDA graphs|Graph capturing finished"), Step.CAPTURING),
    (re.compile(r"Starting vLLM server on |Application startup complete"), Step.OPENING),
)
# The third line of the banner: what stands before the last one was said by an earlier start of the same service.
_BANNER = re.compile(r"█  version [0-9]")


def engine_step(log: str) -> Step | None:
    """Name the furthest step that the last start in an engine's log shows, or None before the first."""
    latest = last_starts(log, 1)
    reached = [name for pattern, name in _STEPS if pattern.search(latest)]
    return reached[-1] if reached else None


# Words of compose/engine/switching/group.py.
_SWITCHED = re.compile(r"switch: (?P<model>.+) is (?P<way>loaded|unloaded) after [0-9.]+ s")


def loaded_model(log: str) -> str | None:
    """Return which of several models an engine has loaded, as it told last; None during a switch."""
    told_of = [found for line in log.splitlines() if (found := _SWITCHED.fullmatch(line.strip()))]
    return told_of[-1]["model"] if told_of and told_of[-1]["way"] == "loaded" else None


def last_starts(log: str, count: int) -> str:
    """Return what the last `count` starts of a service wrote: both runtimes append to one log."""
    banners = list(_BANNER.finditer(log))
    return log[banners[-count].start() :] if len(banners) >= count else log


def start_line(log: str) -> str | None:
    """Return what stands before the last banner's version: time and process tell one start from the next."""
    banners = list(_BANNER.finditer(log))
    return log[: banners[-1].start()].rpartition("\n")[2] if banners else None


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# `(EngineCore pid=208) ERROR 11-21 03:30:18 [core.py:1510] ` of vLLM; `12:30:01 - LiteLLM Proxy:ERROR: proxy.py:1 - `.
_PREFIX = re.compile(r"^(\(\w[\w.-]* pid=\d+\) ?)?([A-Z]+ [0-9-]+ [0-9:.]+ \[\w[\w.]*:\d+\] ?)?")


def unadorned(line: str) -> str:
    """Return one line of a log without colours, control characters and the logger's own prefix; indented as it was."""
    return _PREFIX.sub("", _ESCAPES.sub("", line))


_PROGRESS = re.compile(r"[0-9]%|[0-9]/[0-9]")
_NUMBER = re.compile(r"[0-9]+")


def told(log: str) -> frozenset[str]:
    """Return what a log says, each thing once: a message that is repeated with other numbers says nothing new.

    `No available shared memory broadcast block found in 60 seconds` comes every minute of a hang. Numbers of a line that
    counts up to something (`12%`, `3/24`) are kept.
    """
    lines = (unadorned(line).strip() for line in log.splitlines())
    return frozenset(line if _PROGRESS.search(line) else _NUMBER.sub("0", line) for line in lines if line)
