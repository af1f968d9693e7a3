"""How many workers the gateway gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from generator.domain.host import Host
from generator.domain.plan import Mode
from generator.planning.workers import count_gateway_workers
from generator.units import GIB
from tests.planning_requests import recorded


def host_with(cores: int | None, gib: int | None) -> Host:
    """Compose a host with so many cores and so much memory."""
    host = recorded("cpu-small")
    return replace(host, cpu=replace(host.cpu, cores=cores), memory_bytes=None if gib is None else gib * GIB)


@pytest.mark.parametrize(
    ("cores", "gib", "mode", "gpus", "workers"),
    [
        (64, 512, Mode.MULTI, 8, 8),
        (64, 512, Mode.SINGLE, 1, 4),
        (64, 512, Mode.CPU, 0, 4),
        (6, 64, Mode.MULTI, 2, 4),
        (2, 24, Mode.CPU, 0, 1),
        (1, 1, Mode.CPU, 0, 1),
        (2, 64, Mode.MULTI, 8, 1),
        (64, 6, Mode.MULTI, 2, 3),
        (None, 64, Mode.MULTI, 2, 1),
        (64, None, Mode.MULTI, 2, 1),
    ],
)
def test_workers_are_bounded_by_mode_cores_and_memory(
    cores: int | None, gib: int | None, mode: Mode, gpus: int, workers: int
) -> None:
    """At most 8 multi, 4 otherwise; one at least; an unknown host gets one."""
    count, reason = count_gateway_workers(host_with(cores, gib), mode, gpus)
    assert count == workers
    assert reason
