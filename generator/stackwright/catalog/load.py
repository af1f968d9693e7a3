"""Load the packaged catalog.

Touches only the YAML files beside this module; each is read once, when it is first needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec

from stackwright.domain.catalog import (
    Advisory,
    ArchitectureTable,
    ArgumentTable,
    AttentionTable,
    Catalog,
    DefaultTable,
    EngineRelease,
    FlagTable,
    FormatTable,
    Guide,
    KernelTable,
    ParserTable,
    ServiceImage,
)
from stackwright.domain.model_facts import CatalogLlm
from stackwright.errors import StackError
from stackwright.reading import convert, parse_yaml, read_yaml

if TYPE_CHECKING:
    from stackwright.domain.hardware import Drivers, GpuModel, Price

FOLDER = Path(__file__).parent
T = TypeVar("T")


@cache
def load_catalog() -> Catalog:
    """Return what reads each file when a plan needs it; a damaged one is a fault of the installation."""
    return Catalog(
        engines=load_engines(),
        services=load_services,
        advisories=load_advisories,
        drivers=load_drivers,
        llms=load_llms,
        flags=load_flags,
        arguments=load_arguments,
        parsers=load_parsers,
        kernels=load_kernels,
        formats=load_formats,
        architectures=load_architectures,
        attention=load_attention,
        gpus=load_gpus,
        find_gpu=find_gpu,
    )


def fingerprint() -> str:
    """Return the SHA-256 of the packaged files, names included: another one means other facts."""
    from hashlib import sha256

    digest = sha256()
    for path in sorted(FOLDER.glob("*.yaml")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Rows(Sequence[T]):
    """The rows of a long file, each parsed when it is first looked at: most commands need a few, and a person waits."""

    def __init__(self, name: str, kind: type[T]) -> None:
        """Split the file into its rows; each begins with a dash in the first column."""
        self._where = FOLDER / name
        self._kind = kind
        self._texts = re.split(r"^(?=- )", self._where.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        self._parsed: dict[int, T] = {}

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._texts)

    @overload
    def __getitem__(self, position: int) -> T: ...

    @overload
    def __getitem__(self, position: slice) -> tuple[T, ...]: ...

    def __getitem__(self, position: int | slice) -> T | tuple[T, ...]:
        """Parse a row, or several."""
        if isinstance(position, slice):
            return tuple(self[number] for number in range(*position.indices(len(self))))
        number = range(len(self))[position]
        if number not in self._parsed:
            row = parse_yaml(self._texts[number], str(self._where), StackError)
            (self._parsed[number],) = convert(row, tuple[self._kind, ...], where=str(self._where), error=StackError)  # type: ignore[name-defined]
        return self._parsed[number]

    def naming(self, words: str) -> Iterator[T]:
        """Parse the rows in whose text these words stand, in capitals or not."""
        wanted = words.lower()
        return (self[number] for number, text in enumerate(self._texts) if wanted in " ".join(text.lower().split()))


@cache
def load_engines() -> Rows[EngineRelease]:
    """Open the engine releases, newest first."""
    return Rows("engines.yaml", EngineRelease)


@cache
def load_llms() -> Rows[CatalogLlm]:
    """Open the well-known models."""
    return Rows("llms.yaml", CatalogLlm)


@cache
def load_gpus() -> Rows[GpuModel]:
    """Open the GPU models."""
    from stackwright.domain.hardware import GpuModel

    return Rows("gpus.yaml", GpuModel)


@cache
def load_prices() -> tuple[Price, ...]:
    """Read what GPUs were offered for. No plan needs them."""
    from stackwright.domain.hardware import Price

    return _read("prices.yaml", tuple[Price, ...])


@cache
def load_drivers() -> Drivers:
    """Read the driver branches and their rules with CUDA."""
    from stackwright.domain.hardware import Drivers

    return _read("drivers.yaml", Drivers)


@cache
def load_services() -> tuple[ServiceImage, ...]:
    """Read the images of what is not an engine."""
    return _read("services.yaml", tuple[ServiceImage, ...])


@cache
def load_advisories() -> tuple[Advisory, ...]:
    """Read the known holes."""
    return _read("advisories.yaml", tuple[Advisory, ...])


@cache
def load_guides() -> tuple[Guide, ...]:
    """Read the claims of popular guides that a fact contradicts."""
    return _read("guides.yaml", tuple[Guide, ...])


@cache
def load_parsers() -> ParserTable:
    """Read vLLM's parsers by release."""
    return _read_table("parsers.yaml", ParserTable)


@cache
def load_formats() -> FormatTable:
    """Read which number formats vLLM reads and refuses, by release."""
    return _read_table("formats.yaml", FormatTable)


@cache
def load_architectures() -> ArchitectureTable:
    """Read which architectures vLLM serves, by role and release."""
    return _read_table("architectures.yaml", ArchitectureTable)


@cache
def load_defaults() -> DefaultTable:
    """Read what vLLM takes where a flag is not given, by release. No plan needs them: tests do."""
    return _read_table("defaults.yaml", DefaultTable)


@cache
def load_attention() -> AttentionTable:
    """Read which attention kernels vLLM has, by release."""
    return _read_table("attention.yaml", AttentionTable)


@cache
def load_kernels() -> KernelTable:
    """Read what vLLM's kernels were compiled for, by release."""
    return _read_table("kernels.yaml", KernelTable)


@cache
def load_flags() -> FlagTable:
    """Read vLLM's flags and variables by release. A plan needs them for what a person pins, and for throughput."""
    return _read_table("flags.yaml", FlagTable)


@cache
def load_arguments() -> ArgumentTable:
    """Read how vLLM's flags are read. A plan needs them for those that a person gives."""
    return _read_table("arguments.yaml", ArgumentTable)


@cache
def find_gpu(name: str | None) -> GpuModel | None:
    """Return the row of the GPU that NVML calls `name`; None for an unknown model."""
    from stackwright.domain.hardware import plain_gpu_name

    plain = plain_gpu_name(name or "")
    named = (row for row in load_gpus().naming(plain) if plain in map(plain_gpu_name, row.names))
    return next(named, None) if plain else None


def _read(name: str, kind: type[T]) -> T:
    return read_yaml(FOLDER / name, kind, StackError, packaged=True)


def _read_table(name: str, kind: type[T]) -> T:
    """Read a file that `refresh` wrote: comments, then JSON."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    try:
        return msgspec.json.decode(text[text.index("\n{") :], type=kind)
    except (ValueError, msgspec.MsgspecError) as failure:
        raise StackError(f"{FOLDER / name}: damaged: {failure}", hint="install Stackwright again") from None
