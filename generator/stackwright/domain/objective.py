"""What a person wants most of a stack."""

from __future__ import annotations

from enum import StrEnum


class Objective(StrEnum):
    """Most requests at once, the quickest answer to one, or the longest context."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    CONTEXT = "context"
