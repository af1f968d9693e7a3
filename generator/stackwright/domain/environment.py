"""The three environments and their names."""

from __future__ import annotations

from enum import StrEnum


class Environment(StrEnum):
    """Where a stack serves; the value is its short name in files, folders and projects."""

    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


WRITTEN_OUT = {"development": Environment.DEV, "production": Environment.PROD}
