"""docs/reference/host.md says what the code says."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from msgspec import Struct, structs
from stackwright.detect.snapshot import format_snapshot, read_snapshot
from stackwright.domain.host import GpuAccess, Host, LinkKind

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "host.md").read_text(encoding="utf-8")


def test_example_is_a_snapshot_of_our_own_writing(tmp_path: Path) -> None:
    """The example can be pasted, and is formatted as `stackwright detect` would."""
    found = re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found
    path = tmp_path / "host.yaml"
    path.write_text(found.group(1))
    assert format_snapshot(read_snapshot(path)) == found.group(1)


def test_every_key_has_a_row_and_no_other() -> None:
    """The tables name the fields of the host and of its parts: each once, none besides."""
    rows = re.findall(r"^\| ((?:`[a-z0-9_.]+`(?:, )?)+) \|", PAGE, flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([a-z0-9_.]+)`", row)]
    values = {str(value) for kind in (LinkKind, GpuAccess) for value in kind}
    keys = [name for name in named if name not in values and name not in ("kind", "gpu_access")]
    assert sorted(keys) == sorted(set(leaves(Host)) - {"p2p"})
    assert "## `p2p`" in PAGE


def test_every_value_of_a_choice_has_a_row() -> None:
    """Kinds of links and ways to GPUs are explained one by one."""
    kinds: tuple[type[StrEnum], ...] = (LinkKind, GpuAccess)
    for kind in kinds:
        for value in kind:
            assert f"\n| `{value}` |" in PAGE


def leaves(kind: type, prefix: str = "") -> Iterator[str]:
    """Name the fields of a record and of the records in it, as the page does."""
    hints = typing.get_type_hints(kind)
    for field in structs.fields(kind):
        inner = [option for option in parts(hints[field.name]) if issubclass(option, Struct)]
        if inner:
            yield from leaves(inner[0], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def parts(hint: object) -> Iterator[type]:
    """List the classes in a type hint."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for option in typing.get_args(hint):
        yield from parts(option)
