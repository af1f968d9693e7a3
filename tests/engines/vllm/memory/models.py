"""Configurations of models for the tests, as their publishers write them (source: benchmarks/cases/configs.yaml)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from stackwright.domain.shape import Shape
from stackwright.models.shape import parse_shape

_FILE = Path(__file__).parents[4] / "benchmarks/cases/configs.yaml"


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(_FILE.read_text(encoding="utf-8"))["models"])


def config_of(name: str) -> dict[str, Any]:
    """Return the configuration of the row that matches a model's name."""
    found: dict[str, Any] = next(row["config"] for row in _rows() if re.search(row["match"], name))
    return found


def shape_of(name: str, **extra: Any) -> Shape:
    """Return the shape of a model by its name, with keys of its configuration changed."""
    return parse_shape({**config_of(name), **extra})
