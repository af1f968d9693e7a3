"""Read which GPUs the kernels of a wheel have machine code for. Touches only the wheel; nothing of it is run.

A compiled library keeps its kernels in ELF sections called `.nv_fatbin`: one region for each source file, and in each
region one entry for each architecture that it was compiled for, as machine code or as PTX, which the driver compiles at
the first use and an older driver than the toolkit refuses. The layout of both headers is that of CUDA's fatbinary.h and
of public readers of it (NVIDIA's cuobjdump shows the same entries).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.catalog import KernelGroup
from stackwright.errors import UsageError

_REGION = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the entries
_MAGIC = 0xBA55ED50
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, version, size of this header, of what follows, …, architecture
_PTX = 1


def read_wheel(wheel: Path) -> tuple[KernelGroup, ...]:
    """Return the kernels of a wheel, those of one library with the same architectures together, without a release.

    Raises:
        UsageError: it is no wheel, or a library in it is no ELF file.
    """
    from elftools.common.exceptions import ELFError

    groups: Counter[tuple[str, tuple[str, ...], tuple[str, ...]]] = Counter()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in (name for name in archive.namelist() if name.endswith(".so")):
                for machine_code, ptx in _regions(archive.read(name)):
                    groups[Path(name).name.partition(".")[0], machine_code, ptx] += 1
    except (OSError, zipfile.BadZipFile, ELFError, struct.error) as failure:
        raise UsageError(f"{wheel}: cannot be read: {failure}", hint="name a wheel of the release") from None
    return tuple(
        KernelGroup(library=library, machine_code=code, ptx=ptx, kernels=count, releases=())
        for (library, code, ptx), count in sorted(groups.items())
    )


def _regions(library: bytes) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield for each region the architectures with machine code, and those with PTX."""
    from elftools.elf.elffile import ELFFile

    for section in ELFFile(io.BytesIO(library)).iter_sections():
        if ".nv_fatbin" not in section.name:
            continue
        data, position = section.data(), 0
        while position + _REGION.size <= len(data):
            magic, _, header, size = _REGION.unpack_from(data, position)
            if magic != _MAGIC:
                position += 8  # regions begin at multiples of eight bytes
                continue
            kinds = set(_entries(data[position + header : position + header + size]))
            yield tuple(_names(kinds, ptx=False)), tuple(_names(kinds, ptx=True))
            position += header + size


def _entries(data: bytes) -> Iterator[tuple[bool, int]]:
    """Yield whether an entry is PTX, and its architecture: 86 for 8.6."""
    position = 0
    while position + _ENTRY.size <= len(data):
        kind, _, header, size, *_, architecture = _ENTRY.unpack_from(data, position)
        yield kind == _PTX, architecture
        position += header + size


def _names(kinds: set[tuple[bool, int]], *, ptx: bool) -> list[str]:
    return [f"{number // 10}.{number % 10}" for is_ptx, number in sorted(kinds) if is_ptx is ptx]
