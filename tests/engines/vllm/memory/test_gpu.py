"""What of a GPU's memory CUDA gives to a program."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import find_gpu
from stackwright.domain.host import MigSlice
from stackwright.engines.memory.gpu import gpu_memory, memory_on
from stackwright.engines.vllm.memory.defaults import batch_defaults
from stackwright.engines.vllm.memory.releases import Release
from stackwright.units import GIB

from tests.planning_requests import gpu, recorded


def test_what_the_driver_keeps_is_taken_away_once() -> None:
    """NVML's used holds it, and CUDA's total does not: what is free is the same by either account."""
    [busy] = recorded("l40s-busy").gpus
    seen = gpu_memory(busy, known_gib=None, unified=False, wsl=False, host_bytes=None)
    assert seen is not None
    assert busy.memory_bytes is not None
    assert busy.memory_used_bytes is not None
    assert seen.total_bytes < busy.memory_bytes
    assert seen.total_bytes - seen.used_bytes == busy.memory_bytes - busy.memory_used_bytes


def test_nothing_in_use_stays_nothing() -> None:
    """A host that was composed without the driver's part."""
    seen = gpu_memory(gpu(0), known_gib=23.58, unified=False, wsl=False, host_bytes=None)
    assert seen is not None
    assert (seen.used_bytes, seen.total_bytes) == (0, int(23.58 * GIB))


def test_shared_memory_is_the_processors() -> None:
    """NVML tells nothing of it."""
    host = recorded("gb10")
    seen = gpu_memory(host.gpus[0], known_gib=121.7, unified=True, wsl=False, host_bytes=host.memory_bytes)
    assert seen is not None
    assert (seen.total_bytes, seen.used_bytes, seen.unified) == (host.memory_bytes, 0, True)


def test_under_wsl_nothing_is_hidden() -> None:
    host = recorded("wsl2-rtx5080")
    seen = memory_on(host, host.gpus[0], find_gpu(host.gpus[0].name))
    assert seen is not None
    assert seen.total_bytes == host.gpus[0].memory_bytes


@pytest.mark.parametrize(("place", "pytorch_gib"), [(2, 19.62), (4, 4.75)])
def test_of_a_slice_cuda_gives_all_that_nvml_tells(place: int, pytorch_gib: float) -> None:
    """PyTorch's out-of-memory messages on an A100's 3g.20gb and 1g.5gb; the whole GPU's row says nothing of them."""
    host = recorded("a100-mig")
    seen = memory_on(host, host.gpus[place], find_gpu(host.gpus[place].name))
    assert seen is not None
    assert seen.total_bytes / GIB == pytest.approx(pytorch_gib, abs=0.006)
    assert seen.used_bytes == host.gpus[place].memory_used_bytes


@pytest.mark.parametrize(("place", "batch"), [(0, (8192, 1024)), (1, (2048, 256))])
def test_on_a_slice_vllm_takes_a_small_gpus_batch(place: int, batch: tuple[int, int]) -> None:
    """However large the slice: vLLM asks for the whole GPU's memory, and a container with a slice may not know it."""
    host = recorded("8x-h100-nvswitch")
    cut = replace(host.gpus[0], mig_slice=MigSlice(gpu=0, gpu_instance=0))
    seen = memory_on(host, (host.gpus[0], cut)[place], None)
    assert seen is not None
    assert batch_defaults(seen, Release("0.32.0")) == batch
