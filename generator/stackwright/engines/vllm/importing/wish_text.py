"""An environment's wishes as a YAML file for people: each line that comes from another file says from where. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stackwright.engines.vllm.importing.tree import Spot

_HEAD = """\
# What the {environment} environment wishes for, imported from {sources}.
# Every key: docs/reference/environments.md
"""


def write_wishes(
    document: Mapping[str, Any], origins: Mapping[tuple[str, ...], Spot], environment: str, sources: tuple[str, ...]
) -> str:
    """Write the wishes; `origins` tells where a value comes from, by its keys and numbers as texts."""
    head = _HEAD.format(environment=environment, sources=", ".join(sources))
    return head + "\n".join(_lines(document, origins, (), "")) + "\n"


def _lines(
    value: Mapping[str, Any], origins: Mapping[tuple[str, ...], Spot], path: tuple[str, ...], indent: str
) -> Iterator[str]:
    for key, child in value.items():
        here = (*path, str(key))
        comment = f"  # {origins[here]}" if here in origins else ""
        name = _scalar(str(key))
        if isinstance(child, Mapping) and child:
            yield f"{indent}{name}:{comment}"
            yield from _lines(child, origins, here, indent + "  ")
        elif isinstance(child, list) and child and isinstance(child[0], Mapping):
            yield f"{indent}{name}:{comment}"
            for number, item in enumerate(child):
                inner = list(_lines(item, origins, (*here, str(number)), indent + "    "))
                yield f"{indent}  - {inner[0].lstrip()}"
                yield from inner[1:]
        else:
            yield f"{indent}{name}: {_scalar(child)}{comment}"


def _scalar(value: Any) -> str:
    """Write a value that takes one line, quoted where YAML would read it as something else."""
    import yaml

    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return str(written).removesuffix("\n").removesuffix("\n...").rstrip("\n")
