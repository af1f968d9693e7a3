"""On a machine with an NVIDIA GPU: detection beside `nvidia-smi`, and what PyTorch allocates beside the forecast.

Skipped where there is none (tests/conftest.py). The allocations need a Python with PyTorch's CUDA build, named by
STACKWRIGHT_TORCH_PYTHON; where that is not set, this Python is asked, and the test is skipped where it has none. They
take less than 3 GiB of the first GPU's memory, and give it back.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import pytest
from stackwright.catalog.load import find_gpu, load_llms
from stackwright.detect.host import detect_host
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.host import Gpu
from stackwright.domain.model_facts import CatalogLlm
from stackwright.domain.shape import Shape
from stackwright.engines.memory.gpu import gpu_memory
from stackwright.engines.memory.parts import embedding_matrix, layer_matrices
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.models.stored import stored_facts
from stackwright.units import GIB, MIB

pytestmark = pytest.mark.gpu

MODEL = "Qwen/Qwen3-0.6B"
FIELDS = ("index", "uuid", "name", "memory.total", "compute_cap", "pci.bus_id", "driver_version")
# Programs come and go between two looks.
USED_TOLERANCE_BYTES = 512 * MIB
# CUDA's allocator and its context round; the whole must agree this well.
ALLOCATION_TOLERANCE = 0.01
ALLOCATE = """
import json, sys
try:
    import torch
except ImportError:
    print(json.dumps(None)); raise SystemExit
if not torch.cuda.is_available():
    print(json.dumps(None)); raise SystemExit
asked = json.load(sys.stdin)
kept = [torch.empty(rows, columns, dtype=torch.bfloat16, device="cuda") for rows, columns in asked["matrices"]]
weights = torch.cuda.memory_allocated()
cache = [torch.empty(size, dtype=torch.int8, device="cuda") for size in asked["cache"]]
total = torch.cuda.mem_get_info()[1]
print(json.dumps({"weights": weights, "cache": torch.cuda.memory_allocated() - weights, "total": total}))
"""


def ask_smi(*fields: str) -> list[dict[str, str]]:
    """Return what `nvidia-smi` says of each GPU: numbers without units."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = csv.reader(said.splitlines(), skipinitialspace=True)
    return [dict(zip(fields, (value.strip() for value in row), strict=True)) for row in rows]


def described(gpu: Gpu, driver: str | None) -> dict[str, str]:
    """Write a detected GPU as `nvidia-smi` does."""
    return {
        "index": str(gpu.index),
        "uuid": str(gpu.uuid),
        "name": str(gpu.name),
        "memory.total": str((gpu.memory_bytes or 0) // MIB),
        "compute_cap": str(gpu.compute_capability),
        "pci.bus_id": str(gpu.pci_bus_id).upper(),
        "driver_version": str(driver),
    }


def test_detection_is_what_nvidia_smi_says() -> None:
    """Every GPU, in the same order, with the same facts."""
    host = detect_host().host
    if any(gpu.mig for gpu in host.gpus):
        pytest.skip("a GPU is cut into slices, which `--query-gpu` does not list")
    assert host.driver is not None
    assert [described(gpu, host.driver.version) for gpu in host.gpus] == ask_smi(*FIELDS)


def test_slices_are_those_that_nvidia_smi_lists() -> None:
    """In the same order; none on a machine where MIG is off."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    found = [gpu.uuid for gpu in detect_host().host.gpus if gpu.mig_slice is not None]
    assert found == re.findall(r"UUID: (MIG-[^)]+)\)", listed)


def test_memory_in_use_is_what_nvidia_smi_says() -> None:
    """As near as two looks in a row can be; NVML counts the driver's own part or not, by the call."""
    host = detect_host().host
    if any(gpu.mig for gpu in host.gpus):
        pytest.skip("a GPU is cut into slices, which `--query-gpu` does not list")
    for gpu, row in zip(host.gpus, ask_smi("memory.used", "memory.reserved"), strict=True):
        used = int(row["memory.used"]) * MIB
        reserved = int(row["memory.reserved"]) * MIB if row["memory.reserved"].isdecimal() else 0
        assert gpu.memory_used_bytes is not None
        assert used - USED_TOLERANCE_BYTES <= gpu.memory_used_bytes <= used + reserved + USED_TOLERANCE_BYTES


def test_driver_cuda_is_what_nvidia_smi_says() -> None:
    """The newest CUDA that the driver runs, which stands in the head of the table."""
    said = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout
    shown = re.search(r"CUDA (?:UMD )?Version: *(\d+\.\d+)", said)
    host = detect_host().host
    assert shown
    assert host.driver is not None
    assert host.driver.cuda == shown[1]


def test_pytorch_allocates_what_is_forecast() -> None:
    """Weights and cache of a small model, allocated as the engine does: one tensor per matrix, one cache per layer."""
    row, gpu = model_row(), first_gpu()
    shape = stored_facts(row, row.checkpoints[0]).config.shape
    settings = EngineSettings(
        version="0.32.0", gpu_memory_utilization=0.5, max_model_len=4096, max_num_seqs=8, max_num_batched_tokens=2048
    )
    answer = forecast(shape, settings, gpu)
    cache_bytes = GIB // len(shape.layers) * len(shape.layers)
    matrices = rank_matrices(shape)
    asked = {"matrices": matrices, "cache": [cache_bytes // len(shape.layers)] * len(shape.layers)}
    seen = allocate(asked)
    assert seen["weights"] == pytest.approx(answer.memory.weights_bytes, rel=ALLOCATION_TOLERANCE)
    assert seen["cache"] == pytest.approx(cache_bytes, rel=ALLOCATION_TOLERANCE)
    assert gpu.total_bytes == pytest.approx(seen["total"], rel=ALLOCATION_TOLERANCE)


def model_row() -> CatalogLlm:
    """Return the small model's row, whose first checkpoint is in its own format."""
    return next(row for row in load_llms() if row.hub_id == MODEL)


def first_gpu() -> GpuMemory:
    """Return the memory of the first GPU that CUDA sees, as the planner counts it: of one with MIG on, its first
    slice.
    """
    host = detect_host().host
    found = next(gpu for gpu in host.gpus if not gpu.mig)
    row = find_gpu(found.name)
    memory = gpu_memory(
        found,
        known_gib=row.cuda_memory_gib if row else None,
        unified=row.unified_memory if row else False,
        wsl=host.os.wsl is True,
        host_bytes=host.memory_bytes,
    )
    assert memory is not None
    return memory


def rank_matrices(shape: Shape) -> list[tuple[int, int]]:
    """Return rows and columns of each tensor of a rank that serves alone: a tied embedding once, and the rotations."""
    layers = [matrix for index in range(len(shape.layers)) for matrix in layer_matrices(shape, index, 1)]
    embedding = embedding_matrix(shape, 1)
    every = [*layers, embedding] if shape.tied else [*layers, embedding, embedding]
    return [*((matrix.rows * matrix.copies, matrix.columns) for matrix in every), *shape.rope_rows]


def allocate(asked: dict[str, object]) -> dict[str, int]:
    """Let PyTorch allocate in a process of its own, which gives all of it back; skip where there is no PyTorch."""
    python = os.environ.get("STACKWRIGHT_TORCH_PYTHON") or sys.executable
    done = subprocess.run(
        [python, "-c", ALLOCATE], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, int] | None = json.loads(done.stdout)
    if seen is None:
        pytest.skip(f"{python} has no PyTorch with CUDA; name one that has by STACKWRIGHT_TORCH_PYTHON")
    return seen
