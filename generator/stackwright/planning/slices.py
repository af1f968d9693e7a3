"""MIG slices as small GPUs: which of them may serve, and what cannot. Pure.

A CUDA process sees one MIG device, whatever is handed to its container, and no peer access leads out of one (NVIDIA MIG
user guide 620, CUDA_VISIBLE_DEVICES and deployment considerations). An engine hands one list of devices to all ranks,
so none
spans slices: a model that a slice does not hold needs another GPU. NCCL's support of MIG is experimental and goes
through host memory (NVIDIA/nccl issue 1716, 2026-08-23).
"""

from __future__ import annotations

from stackwright.domain.host import Gpu, Host

NO_SPAN = "a model cannot span MIG slices"


def has_slices(host: Host, gpu: Gpu) -> bool:
    """Return whether slices of this GPU are among the host's GPUs."""
    return any(other.mig_slice is not None and other.mig_slice.gpu == gpu.index for other in host.gpus)


def one_per_instance(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Leave of the slices that share a GPU instance's memory the first: each would count all of it as its own.

    Where NVML does not tell the instance, slices of one GPU may share.
    """
    seen = {gpu.mig_slice: gpu.index for gpu in reversed(gpus) if gpu.mig_slice is not None}
    return tuple(gpu for gpu in gpus if gpu.mig_slice is None or seen[gpu.mig_slice] == gpu.index)


def why_shared(gpu: Gpu, used: tuple[Gpu, ...]) -> str | None:
    """Return with which used slice an idle one shares its memory; None where it has its own."""
    other = next((one for one in used if one.mig_slice is not None and one.mig_slice == gpu.mig_slice), None)
    if other is None or other.mig_slice is None:
        return None
    doubt = "" if other.mig_slice.gpu_instance is not None else "perhaps "
    return f"{doubt}it shares the memory of GPU {other.index}"


def how_to_cut(gpu: Gpu) -> str:
    """Return how a GPU with MIG on gets slices."""
    return (
        f"`nvidia-smi mig -i {gpu.index} -lgip` lists the profiles, `sudo nvidia-smi mig -i {gpu.index} -cgi "
        "PROFILE -C` "
        "creates a slice"
    )
