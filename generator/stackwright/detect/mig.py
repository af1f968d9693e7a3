"""Turns NVML's answers about MIG devices into slices: small GPUs behind the whole ones. Pure: touches nothing.

A slice has no connection to any other GPU: MIG allows no peer access, by NVLink or PCIe (NVIDIA MIG user guide 620,
deployment considerations; NVIDIA/nccl issue 1716, 2026-08-23: verified on Hopper and Blackwell).
"""

from __future__ import annotations

from stackwright.detect.fact import SLICE_UUID, Fact, Missing, Unread, plain_text, take
from stackwright.detect.nvml import GpuAnswers, NvmlAnswers, SliceAnswers
from stackwright.domain.host import Gpu, MigSlice


def make_slices(answers: NvmlAnswers, gpus: tuple[Gpu, ...], missing: list[Missing]) -> tuple[Gpu, ...]:
    """Describe every MIG slice, in the order of its GPU and of NVML; `gpus` are the whole ones that NVML counts."""
    rows = () if isinstance(answers.gpus, Unread) else answers.gpus
    answered = [
        (gpu, row)
        for gpu, answer in zip(gpus, rows, strict=True)
        if isinstance(answer, GpuAnswers)
        for row in _slices_of(gpu, answer.slices, missing)
    ]
    return tuple(_make_slice(index, gpu, row, missing) for index, (gpu, row) in enumerate(answered, start=len(gpus)))


def add_without_peers(p2p: tuple[tuple[bool | None, ...], ...], count: int) -> tuple[tuple[bool | None, ...], ...]:
    """Widen the n×n matrix of the whole GPUs by `count` slices, each of which reads only its own memory."""
    whole = len(p2p)
    known = tuple((*row, *(False,) * count) for row in p2p)
    return (*known, *(tuple(column == whole + row for column in range(whole + count)) for row in range(count)))


def _slices_of(
    gpu: Gpu, answer: Fact[tuple[SliceAnswers | Unread, ...]], missing: list[Missing]
) -> tuple[SliceAnswers, ...]:
    """Return the slices that answer; the others are only told of, since nothing could name them."""
    rows = take(answer, missing, f"GPU {gpu.index}", "MIG slices") or ()
    answered = [take(row, missing, f"GPU {gpu.index}", "a MIG slice") for row in rows]
    return tuple(row for row in answered if row is not None)


def _make_slice(index: int, gpu: Gpu, row: SliceAnswers, missing: list[Missing]) -> Gpu:
    who = f"MIG slice {row.number} of GPU {gpu.index}"
    memory = take(row.memory, missing, who, "memory")
    return Gpu(
        index=index,
        uuid=take(_checked_uuid(row.uuid), missing, who, "UUID"),
        name=take(plain_text(row.name), missing, who, "name"),
        memory_bytes=memory[0] if memory else None,
        memory_used_bytes=memory[1] if memory else None,
        compute_capability=gpu.compute_capability,
        pci_bus_id=gpu.pci_bus_id,
        numa_node=gpu.numa_node,
        mig=False,
        mig_slice=MigSlice(gpu=gpu.index, gpu_instance=take(row.gpu_instance, missing, who, "GPU instance")),
    )


def _checked_uuid(fact: Fact[str]) -> Fact[str]:
    known = isinstance(fact, Unread) or SLICE_UUID.fullmatch(fact)
    return fact if known else Unread(words="not a MIG slice's UUID")
