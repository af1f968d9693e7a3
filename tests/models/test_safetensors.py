"""Headers of safetensors files: what is read from honest ones, and that no dishonest one does harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.domain.tensors import DTYPE_BITS, TensorHeader
from stackwright.errors import UsageError
from stackwright.models.safetensors import MAX_HEADER_BYTES, header_length, parse_header, read_header

from tests.models.checkpoints import header_bytes, write_safetensors

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 8), max_size=4).map(tuple)
# A tensor's bytes are whole: 4- and 6-bit formats come in shapes that fill them.
TENSORS = st.builds(
    lambda name, dtype, shape: TensorHeader(name=name, dtype=dtype, shape=(*shape, 4)),
    NAMES,
    st.sampled_from(sorted(DTYPE_BITS)),
    SHAPES,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["BF16", "U8", "Q4"]) | JSON,
        "shape": st.lists(st.integers(-2, 2**70), max_size=70) | JSON,
        "data_offsets": st.lists(st.integers(-2, 2**70), max_size=3) | JSON,
    },
)


def parse(text: bytes) -> tuple[TensorHeader, ...]:
    """Parse a whole header from its JSON."""
    return parse_header(text, len(text), "model.safetensors").tensors


@given(st.lists(TENSORS, max_size=8, unique_by=lambda tensor: tensor.name))
def test_what_was_written_is_read(tensors: list[TensorHeader]) -> None:
    blob = header_bytes(tensors)
    length = header_length(blob, "model.safetensors")
    header = parse_header(blob[8 : 8 + length], length, "model.safetensors")
    assert sorted(header.tensors, key=lambda each: each.name) == sorted(tensors, key=lambda each: each.name)
    assert header.file_bytes == len(blob) + sum(tensor.bytes for tensor in tensors)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_one_sentence(blob: bytes) -> None:
    try:
        length = header_length(blob, "x")
        parse_header(blob[8:], length, "x")
    except UsageError as refused:
        assert "\n" not in refused.message


@given(st.dictionaries(st.text(max_size=8), ENTRIES | JSON, max_size=4))
def test_any_json_is_a_header_or_one_sentence(document: dict[str, object]) -> None:
    try:
        tensors = parse(json.dumps(document).encode())
    except UsageError as refused:
        assert refused.message.startswith("model.safetensors: ")
        assert "\n" not in refused.message
    else:
        assert {tensor.name for tensor in tensors} == set(document) - {"__metadata__"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[]", "not a safetensors file: its header is not a JSON object"),
        (b"{]", "not a safetensors file: its header is not valid JSON"),
        (b"\xff\xfe", "not a safetensors file: its header is not valid JSON"),
        (b"[" * 100_000, "not a safetensors file: its header is not valid JSON"),
        (b'{"w": 1}', "tensor 'w': not a JSON object"),
        (b'{"w": {"dtype": "Q4", "shape": [], "data_offsets": [0, 1]}}', "tensor 'w': unknown number format 'Q4'"),
        (
            b'{"w": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1]}}',
            "tensor 'w': U8 of shape [2] does not match the 1 bytes of its offsets",
        ),
        (
            b'{"w": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]}}',
            "tensor 'w' begins at byte 8 of the data, expected 0",
        ),
        (
            (
                b'{"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "b": {"dtype": "U8", "shape": [2], '
                b'"data_offsets": [1, 3]}}'
            ),
            "tensor 'b' begins at byte 1 of the data, expected 2",
        ),
        (
            b'{"w": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}}',
            "tensor 'w': shape and data_offsets must be lists of whole numbers, found [-1], [0, 1]",
        ),
        (
            b'{"w": {"dtype": "U8", "shape": [1], "data_offsets": [1]}}',
            "tensor 'w': shape and data_offsets must be lists of whole numbers, found [1], [1]",
        ),
    ],
)
def test_each_broken_rule_is_named(text: bytes, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text)
    assert refused.value.message == f"model.safetensors: {sentence}"


def test_a_hostile_shape_is_refused_before_it_is_multiplied() -> None:
    shape = [2**62] * 100_000
    entry = {"w": {"dtype": "U8", "shape": shape, "data_offsets": [0, 1]}}
    with pytest.raises(UsageError, match="does not match the 1 bytes"):
        parse(json.dumps(entry).encode())


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**64 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(UsageError, match=f"a header of {length} bytes"):
        header_length(length.to_bytes(8, "little"), "x")


def test_metadata_is_no_tensor() -> None:
    assert parse(b'{"__metadata__": {"format": "pt"}}') == ()


def test_a_file_is_read_without_its_data(tmp_path: Path) -> None:
    tensors = [TensorHeader(name="w", dtype="BF16", shape=(3, 5))]
    file = write_safetensors(tmp_path / "model.safetensors", tensors)
    assert read_header(file).tensors == tuple(tensors)
    assert read_header(file).file_bytes == file.stat().st_size


@pytest.mark.parametrize("change", [-1, 1], ids=["cut short", "grown"])
def test_a_file_of_the_wrong_size_is_refused(tmp_path: Path, change: int) -> None:
    file = write_safetensors(tmp_path / "model.safetensors", [TensorHeader(name="w", dtype="F32", shape=(7,))])
    whole = file.read_bytes()
    file.write_bytes(whole[:change] if change < 0 else whole + b"\0" * change)
    with pytest.raises(UsageError, match=f"has {len(whole) + change} bytes, but its header says {len(whole)}"):
        read_header(file)


def test_a_header_cut_short_is_refused(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "model.safetensors", [TensorHeader(name="w", dtype="F32", shape=(7,))])
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UsageError, match="truncated: 12 of"):
        read_header(file)


def test_a_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", encoding="ascii")
    with pytest.raises(UsageError) as refused:
        read_header(file)
    assert refused.value.hint == "run `git lfs pull` in that folder"


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("BF16", (2, 3), 12), ("F4", (4, 3), 6), ("F6_E2M3", (4,), 3), ("I64", (), 8), ("F8_E4M3", (0, 9), 0)],
)
def test_sizes_by_format(dtype: str, shape: tuple[int, ...], size: int) -> None:
    assert TensorHeader(name="w", dtype=dtype, shape=shape).bytes == size
