"""Kernels that an engine compiles on this machine when it starts: an image brings the compiler, its packages do not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from stackwright.catalog.load import load_llms
from stackwright.domain.finding import Finding, error
from stackwright.domain.machine import Unseen
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Mode
from stackwright.models.read import HubAccess, read_model
from stackwright.validation.check import Check, Condition, Machine, Observation, Subject, safely

# Where FlashInfer looks (0.7.2 jit/cpp_ext.py, get_cuda_path).
_USUAL = "/usr/local/cuda"


def find_nvcc() -> str:
    """Return NVIDIA's compiler as an engine of this shell finds it; empty where there is none."""
    home = os.environ.get("CUDA_HOME")
    found = None if home else shutil.which("nvcc")
    usual = Path(home or _USUAL, "bin", "nvcc")
    return found or (str(usual) if usual.is_file() else "")


def read_served(machine: Machine) -> tuple[ModelFacts | None, ...]:
    """Return what is known here of each model; None of one that is not."""
    stack = machine.stack
    access = HubAccess(home=Path(stack.env["HF_HOME"]), online=False)
    names = [values[stack.engine.keys.model] for values in stack.models]
    found = [safely(partial(read_model, name, load_llms(), access=access)) for name in names]
    return tuple(None if isinstance(facts, Unseen) else facts for facts in found)


def check_compiler(on: Subject, served: Sequence[ModelFacts | None], nvcc: str) -> Iterator[Finding]:
    """Find models whose kernels have to be compiled where nothing is there that does."""
    if nvcc:
        return
    plan, engine, key = on.plan, on.stack.engine, on.stack.engine.keys.cache_format
    for model, facts, values in zip(plan.models, served, on.stack.models, strict=True):
        used = {uuid for replica in model.replicas for uuid in replica.gpu_uuids}
        gpus = tuple(gpu for gpu in on.host.gpus if gpu.uuid in used)
        cache_format = (values.get(key) if key else None) or "auto"
        version = plan.engine.version
        if facts and version and engine.compiles_attention(facts, version, gpus, on.catalog, cache_format):
            helps = cache_format != "auto" and not engine.compiles_attention(facts, version, gpus, on.catalog, "auto")
            plain = f"`configure-gpu {on.environment} --set {key}=auto`, " if helps else ""
            yield error(
                "no-nvcc",
                found=f"no nvcc in CUDA_HOME, PATH or {_USUAL}",
                expected=f"NVIDIA's compiler: {model.name[:80]} has its attention kernels compiled at the first start",
                fix=f"{plain}install the CUDA toolkit and g++, or use `--runtime compose`, whose image has them",
            )


COMPILER = Check(
    name="kernel compiler",
    about="whether NVIDIA's compiler is there, where an engine's kernels are compiled at its first start",
    findings=("no-nvcc",),
    rule=check_compiler,
    observations=(Observation(take=read_served), Observation(take=lambda _: find_nvcc())),
    when=Condition(
        words="plans with GPUs as processes", holds=lambda on: not on.compose and on.plan.mode is not Mode.CPU
    ),
)
