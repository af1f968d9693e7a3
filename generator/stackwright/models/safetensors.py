"""Read the header of a safetensors file: which tensors it holds, without their data.

The format (huggingface/safetensors 0.8.0, README and safetensors/src/tensor.rs, read 2026-11-21): 8 bytes of header
length, little endian; that many bytes of JSON, `{name: {dtype, shape, data_offsets: [begin, end]}}` beside an optional
`__metadata__`; then the data, which the tensors cover without gaps or overlaps. Touches only the file that it is asked
to read; what the file claims is believed only after it has been checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeGuard

from msgspec import Struct

from stackwright.domain.tensors import DTYPE_BITS, TensorHeader
from stackwright.errors import UsageError
from stackwright.reading import open_file
from stackwright.units import format_bytes

LENGTH_BYTES = 8
# safetensors/src/tensor.rs, MAX_HEADER_SIZE; a longer one is refused by every reader of the format.
MAX_HEADER_BYTES = 100_000_000
# No tensor has more elements than fit in an address space, nor (PyTorch) more than 64 dimensions; without bounds the
# product of a hostile shape grows without end.
MAX_ELEMENTS = 2**63
MAX_DIMENSIONS = 64
METADATA = "__metadata__"
LFS_POINTER = b"version https://git-lfs"


class FileHeader(Struct, frozen=True, kw_only=True):
    """What one file says of itself. `file_bytes` is the size that the whole file must have."""

    tensors: tuple[TensorHeader, ...]
    file_bytes: int


def read_header(file: Path) -> FileHeader:
    """Read the header of a file on disk, and compare the file's size with what the header promises.

    Raises:
        UsageError: the file cannot be read, is not safetensors, or is cut short.
    """
    try:
        size = file.stat().st_size
        with open_file(file) as stream:
            start = stream.read(LENGTH_BYTES)
            _refuse_pointer(start + stream.read(len(LFS_POINTER)), str(file))
            length = header_length(start, str(file))
            stream.seek(LENGTH_BYTES)
            text = stream.read(length)
    except OSError as failure:
        raise UsageError(f"{file}: cannot be read: {failure.strerror or failure}") from None
    header = parse_header(text, length, str(file))
    if size != header.file_bytes:
        raise UsageError(
            f"{file}: has {size} bytes, but its header says {header.file_bytes}",
            hint=(
                f"the copy is incomplete ({format_bytes(size)} of {format_bytes(header.file_bytes)}): download it again"
            ),
        )
    return header


def header_length(start: bytes, where: str) -> int:
    """Return the length in bytes of the JSON that follows the first 8 bytes.

    Raises:
        UsageError: there are fewer than 8 bytes, or they name an impossible length.
    """
    if len(start) < LENGTH_BYTES:
        raise UsageError(f"{where}: not a safetensors file: it has only {len(start)} bytes")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise UsageError(
            f"{where}: not a safetensors file: a header of {length} bytes (2 to {MAX_HEADER_BYTES} are possible)"
        )
    return length


def parse_header(text: bytes, length: int, where: str) -> FileHeader:
    """Parse the JSON of a header and check that its tensors cover the data without gaps.

    Args:
        text: the JSON, `length` bytes of it.
        where: the file's name, for messages.

    Raises:
        UsageError: the header breaks a rule of the format; the message names the tensor.
    """
    if len(text) != length:
        raise UsageError(
            f"{where}: truncated: {len(text)} of {length} bytes of its header", hint="fetch the file again"
        )
    try:
        document = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: not a safetensors file: its header is not valid JSON") from None
    if not isinstance(document, dict):
        raise UsageError(f"{where}: not a safetensors file: its header is not a JSON object")
    placed = sorted(
        (_parse_tensor(name, entry, where) for name, entry in document.items() if name != METADATA),
        key=lambda item: (item[1], item[2]),
    )
    end = 0
    for tensor, begin, stop in placed:
        if begin != end:
            raise UsageError(f"{where}: tensor {tensor.name!r:.80} begins at byte {begin} of the data, expected {end}")
        end = stop
    return FileHeader(tensors=tuple(tensor for tensor, _, _ in placed), file_bytes=LENGTH_BYTES + length + end)


def _parse_tensor(name: str, entry: object, where: str) -> tuple[TensorHeader, int, int]:
    """Return one tensor with the begin and end of its data, counted from the end of the header."""
    at = f"{where}: tensor {name!r:.80}"
    if not isinstance(entry, dict):
        raise UsageError(f"{at}: not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UsageError(f"{at}: unknown number format {dtype!r:.40}")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2:
        raise UsageError(
            f"{at}: shape and data_offsets must be lists of whole numbers, found {shape!r:.60}, {offsets!r:.60}"
        )
    tensor = TensorHeader(name=name, dtype=dtype, shape=tuple(shape[:MAX_DIMENSIONS]))
    begin, end = offsets
    if len(shape) > MAX_DIMENSIONS or end - begin != tensor.bytes:
        raise UsageError(f"{at}: {dtype} of shape {shape!r:.60} does not match the {end - begin} bytes of its offsets")
    return tensor, begin, end


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= MAX_ELEMENTS for item in value
    )


def _refuse_pointer(start: bytes, where: str) -> None:
    if start.startswith(LFS_POINTER):
        raise UsageError(f"{where}: a Git LFS pointer, not the weights", hint="run `git lfs pull` in that folder")
