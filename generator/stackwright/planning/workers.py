"""How many worker processes the gateway gets. Pure."""

from __future__ import annotations

from stackwright.domain.host import Host
from stackwright.domain.plan import Mode
from stackwright.units import GIB

DECISION = "docs/decisions/0036-door-and-workers.md"
# LiteLLM 1.105.3 under load (PSS, benchmarks/results/gateway.json, 2026-11-21): one worker 428 MB, two and their parent
# 1081 MB together. So half a GiB each holds the parent too.
WORKER_BYTES = GIB // 2
# Judgement: beyond these the engine, not the gateway, is what waits. A worker fills one core
# (docs/explanation/gateway.md).
MOST_WORKERS = {Mode.CPU: 4, Mode.SINGLE: 4, Mode.MULTI: 8}
# What an event of a stream costs a worker (cpu_us_per_paced_event in benchmarks/results/gateway.json, 2026-11-29): the
# direct lane 38 µs, LiteLLM's own way 841 with our metrics. Judgement: an engine writes 20 tokens a second for each of
# the requests that it works on, and half of a worker's core is kept free, or latencies grow: 657 requests. Through
# LiteLLM a worker that is busy all the time passes on 1,200 to 1,500 events a second: 64 requests.
REQUESTS_PER_WORKER, THROUGH_LITELLM = 640, 64
# The rest of the host's memory is the engine's: weights pass through it, and in CPU mode they stay there.
MEMORY_SHARE = 4


def count_gateway_workers(
    host: Host, mode: Mode, gpus: int, requests: int | None = None, *, through_litellm: bool = False
) -> tuple[int, str]:
    """Return the number of the gateway's workers and why.

    Bounded by the mode, by the cores that the engine leaves (each GPU keeps one busy; on the CPU the engine takes
    all but a quarter), by a quarter of the memory at half a GiB each, and by the load; never less than one.

    Args:
        requests: how many requests the engines work on at once; None where that is not known or not limited.
        through_litellm: requests, or those for a cloud, go through LiteLLM and not by the direct lane.
    """
    each = THROUGH_LITELLM if through_litellm else REQUESTS_PER_WORKER
    by_load = None if requests is None else -(-requests // each)
    cores = host.cpu.cores
    left = None if cores is None else (cores // 4 if mode is Mode.CPU else cores - gpus)
    bounds = {
        f"at most {MOST_WORKERS[mode]} in {mode} mode": MOST_WORKERS[mode],
        f"{left or 'no'} cores free beside the engine, of {cores}": left,
        f"one for each {each} of {requests} concurrent requests": by_load,
        "a quarter of the memory, at 0.5 GiB each": _by_memory(host),
    }
    known = {why: bound for why, bound in bounds.items() if bound is not None}
    why, least = min(known.items(), key=lambda item: item[1])
    if cores is None or host.memory_bytes is None:
        return 1, "the host's cores or memory are unknown"
    return max(1, least), why


def _by_memory(host: Host) -> int | None:
    return None if host.memory_bytes is None else host.memory_bytes // MEMORY_SHARE // WORKER_BYTES
