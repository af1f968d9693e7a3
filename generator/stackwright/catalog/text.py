"""Write catalog rows as YAML text, the same bytes for the same rows, so that a diff shows what changed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

# Plain in block and flow context alike, and never read as a number, a date or a boolean.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ._/+()-]*[A-Za-z0-9)]|[A-Za-z]")
_WORDS = frozenset("true false yes no on off null y n".split())


def render_rows(rows: Iterable[Mapping[str, object]]) -> str:
    """Write rows as a YAML list, one block each: lists of values in one line, lists of mappings one line each."""
    return "".join(_row(row) for row in rows)


def render_mapping(values: Mapping[str, object], indent: str = "") -> str:
    """Write one mapping as a YAML block, nested mappings indented."""
    return "".join(_entry(key, value, indent) for key, value in values.items())


def render_json(value: object, indent: str = "") -> str:
    """Write a table as JSON, which is YAML too and is read a hundred times as fast: one line for each entry.

    Mappings of mappings or lists, and lists of mappings, are broken up; all else stands on the line of its key.
    """
    inner = indent + " "
    if isinstance(value, Mapping) and any(isinstance(item, Mapping | list | tuple) for item in value.values()):
        entries = [f"{json.dumps(key)}: {render_json(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return "[\n" + ",\n".join(inner + json.dumps(item, ensure_ascii=False) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _row(row: Mapping[str, object]) -> str:
    text = render_mapping(row, "  ")
    return "-" + text[1:]


def _entry(key: str, value: object, indent: str) -> str:
    if (
        isinstance(value, Mapping)
        and value
        and any(isinstance(item, Mapping | list | tuple) for item in value.values())
    ):
        return f"{indent}{scalar(key)}:\n{render_mapping(value, indent + '  ')}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        lines = "".join(f"{indent}  - {_flow(item)}\n" for item in value)
        return f"{indent}{scalar(key)}:\n{lines}"
    return f"{indent}{scalar(key)}: {_flow(value)}\n"


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return scalar(value)


def scalar(value: object) -> str:
    """Write one value; strings are quoted wherever YAML could read them as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)
