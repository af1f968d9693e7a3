"""The retrieval proxy and its PostgreSQL. Pure."""

from __future__ import annotations

from stackwright.domain.recipe import LOCKED, REQUIREMENTS, InstallStep, Recipe
from stackwright.units import MIB

RECIPE = Recipe(
    name="retrieval",
    package="starlette",
    attempts=(InstallStep(arguments=(*LOCKED, str(REQUIREMENTS / "retrieval.txt"))),),
    lock=REQUIREMENTS / "retrieval.txt",
    size_bytes=200 * MIB,
    compiled=True,  # start.sh lets it write nothing beside its modules
)
"""PostgreSQL's too: the wheel with its programs is part of it."""
