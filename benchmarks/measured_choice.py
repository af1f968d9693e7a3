"""Other ways to choose a replica than the lane's own, for benchmarks/replica_choice.py; runs inside the gateway.

The variable MEASURED_CHOICE names one. Standard library and the gateway's own modules.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Mapping
from typing import Any

import lane  # of compose/gateway
import orjson


def install() -> None:
    """Put the choice in place of the lane's; LITELLM_WORKER_STARTUP_HOOKS names this function."""
    match os.environ["MEASURED_CHOICE"]:
        case "least busy":
            lane.choose = least
        case "power of two":
            lane.choose = of_two
        case "conversation":
            lane.prefix_of = conversation_of


def least(replicas: Any, fields: Any, strategy: str) -> Any:  # noqa: ARG001  # as lane.choose
    """Choose the one with the fewest open requests; by chance among equals."""
    return min(replicas, key=lambda one: (one.open, random.random()))


def of_two(replicas: Any, fields: Any, strategy: str) -> Any:
    """Draw two and choose the less busy one."""
    return least(random.sample(replicas, min(2, len(replicas))), fields, strategy)


def conversation_of(fields: Mapping[str, Any]) -> bytes:
    """Return what tells a conversation from all others, however long its beginning is."""
    return hashlib.blake2b(orjson.dumps(fields["messages"][:2])).digest()
