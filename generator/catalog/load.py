"""Load the packaged catalog. Touches only the YAML files beside this module; each is read once, when it is first needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeVar

from generator.domain.catalog import (
    Advisory,
    Catalog,
    Drivers,
    EngineRelease,
    FlagTable,
    GpuModel,
    ServiceImage,
    plain_gpu_name,
)
from generator.domain.model_facts import CatalogLlm
from generator.errors import StackError
from generator.reading import read_yaml

FOLDER = Path(__file__).parent
T = TypeVar("T")


@cache
def load_catalog() -> Catalog:
    """Read every file that a plan needs; a damaged one is a fault of the installation, not of the user."""
    return Catalog(
        engines=load_engines(),
        services=_read("services.yaml", tuple[ServiceImage, ...]),
        advisories=load_advisories(),
        read_drivers=load_drivers,
        read_llms=load_llms,
        read_gpus=load_gpus,
    )


@cache
def load_engines() -> tuple[EngineRelease, ...]:
    """Read the engine releases, newest first."""
    return _read("engines.yaml", tuple[EngineRelease, ...])


@cache
def load_llms() -> tuple[CatalogLlm, ...]:
    """Read the well-known models."""
    return _read("llms.yaml", tuple[CatalogLlm, ...])


@cache
def load_gpus() -> tuple[GpuModel, ...]:
    """Read the GPU models."""
    return _read("gpus.yaml", tuple[GpuModel, ...])


@cache
def load_drivers() -> Drivers:
    """Read the driver branches and their rules with CUDA."""
    return _read("drivers.yaml", Drivers)


@cache
def load_advisories() -> tuple[Advisory, ...]:
    """Read the known holes."""
    return _read("advisories.yaml", tuple[Advisory, ...])


@cache
def load_flags() -> FlagTable:
    """Read vLLM's flags and variables by release. No plan needs them: whoever checks an argument list does."""
    return _read("flags.yaml", FlagTable)


def find_gpu(name: str | None) -> GpuModel | None:
    """Return the row of the GPU that NVML calls `name`; None for an unknown model."""
    return _gpus_by_name().get(plain_gpu_name(name or ""))


@cache
def _gpus_by_name() -> dict[str, GpuModel]:
    return {plain_gpu_name(name): row for row in load_gpus() for name in row.names}


def _read(name: str, kind: type[T]) -> T:
    return read_yaml(FOLDER / name, kind, StackError, packaged=True)
