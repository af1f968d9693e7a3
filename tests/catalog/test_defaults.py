"""The forecast's own rules for a step's size, held against what every sampled release has in its source."""

from __future__ import annotations

import re

import pytest
from stackwright.catalog.load import load_defaults
from stackwright.domain.catalog import holds, order_release
from stackwright.domain.forecast import GpuMemory
from stackwright.engines.vllm.memory.defaults import batch_defaults
from stackwright.engines.vllm.memory.releases import Release
from stackwright.units import GIB

TABLE = load_defaults()
# The second engine's rules begin with 0.8.0; the forecast has the first one's elsewhere (memory/defaults.py, complete).
SAMPLED = [version for version in TABLE.sampled if order_release(version) >= order_release("0.8.0")]
GPUS = (
    GpuMemory(total_bytes=24 * GIB, name="NVIDIA GeForce RTX 3090", compute_capability=(8, 6)),
    GpuMemory(total_bytes=79 * GIB, name="NVIDIA A100-SXM4-80GB", compute_capability=(8, 0)),
    GpuMemory(total_bytes=79 * GIB, name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0)),
    GpuMemory(total_bytes=47 * GIB, name="NVIDIA H100 NVL, a part", compute_capability=(9, 0)),
    GpuMemory(total_bytes=178 * GIB, name="NVIDIA B200", compute_capability=(10, 0)),
    GpuMemory(total_bytes=94 * GIB, name="NVIDIA RTX PRO 6000 Blackwell", compute_capability=(12, 0)),
    GpuMemory(total_bytes=119 * GIB, name="NVIDIA GB10", compute_capability=(12, 1), unified=True),
)


def is_met(condition: str, gpu: GpuMemory) -> bool:
    """Say whether a condition of the source holds for a GPU: its memory, words in its name, and whether it is GB10."""
    least = re.search(r"device_memory >= (\d+) \* GiB_bytes", condition)
    wanted = re.findall(r"'(\w+)' in device_name", condition)
    barred = re.findall(r"'(\w+)' not in device_name", condition)
    name = gpu.name.lower()
    return (
        (least is None or gpu.total_bytes >= int(least[1]) * GIB)
        and (not wanted or any(word in name for word in wanted))
        and not any(word in name for word in barred)
        and not ("not is_gb10" in condition and gpu.compute_capability == (12, 1))
    )


def default_of(setting: str, version: str, gpu: GpuMemory) -> int:
    """Return what the release's source takes: the first condition that is met, largest memory first, else the rest."""
    has = {
        condition: int(value)
        for condition, values in TABLE.values.items()
        for value, span in values.items()
        if condition.partition(" ")[0] == setting and "is_cpu" not in condition and holds(span, version)
    }
    conditions = sorted((name for name in has if " where " in name), key=lambda name: "160" not in name)
    met = next((name for name in conditions if is_met(name, gpu)), None)
    return has[met] if met else has.get(f"{setting} otherwise", has.get(setting, 0))


@pytest.mark.parametrize("version", SAMPLED)
def test_the_forecast_takes_what_the_release_takes(version: str) -> None:
    for gpu in GPUS:
        read = tuple(default_of(setting, version, gpu) for setting in ("max_num_batched_tokens", "max_num_seqs"))
        assert batch_defaults(gpu, Release(version)) == read, gpu.name
