"""Several models for one host, as the tests ask for them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.role import Role
from stackwright.planning.planner import make_plan
from stackwright.planning.shares import host_with

from tests.planning_requests import joined, recorded, request, with_model


class Asked(Struct, frozen=True, kw_only=True):
    """One model of several."""

    name: str
    role: Role = Role.CHAT
    gpu_share: float | None = None
    aliases: tuple[str, ...] = ()
    exclusive: str | None = None
    pinned: bool = False


def embedding(name: str = "Qwen/Qwen3-0.6B", gpu_share: float | None = None) -> Asked:
    """Return a small model that is asked for vectors."""
    return Asked(name=name, role=Role.EMBEDDING, gpu_share=gpu_share)


def first_gpus(host: Host, count: int) -> Host:
    """Return a host that has the first GPUs of another alone."""
    return host_with(host, host.gpus[:count])


def plan_of(
    host: Host,
    *models: Asked,
    environment: Environment = Environment.PROD,
    mode: Mode | None = None,
    pins: Mapping[str, str] | None = None,
) -> Plan:
    """Plan several models on one host."""
    requests = tuple(
        with_model(
            request(host, environment, mode=mode, model=model.name, pins=pins),
            role=model.role,
            gpu_share=model.gpu_share,
            aliases=model.aliases,
            exclusive=model.exclusive,
            pinned=model.pinned,
        )
        for model in models
    )
    return make_plan(joined(*requests), load_catalog())


QWEN_8B, QWEN_4B, QWEN_32B = Asked(name="Qwen/Qwen3-8B"), Asked(name="Qwen/Qwen3-4B"), Asked(name="Qwen/Qwen3-32B")
AWQ_8B = Asked(name="Qwen/Qwen3-8B-AWQ", aliases=("small",))
LLAMA_70B = Asked(name="meta-llama/Llama-3.3-70B-Instruct")
PAIR = recorded("2x-rtx3090-pcie")

# 16 GiB, of which no two of the group's models find room beside each other.
SIXTEEN = recorded("wsl2-rtx5080")
IN_TURNS = (
    Asked(name=AWQ_8B.name, exclusive="chat"),
    Asked(name=QWEN_4B.name, exclusive="chat", pinned=True, aliases=("small",)),
)

CASES: Mapping[str, tuple[Host, tuple[Asked, ...]]] = {
    "cpu-two": (recorded("cpu-large"), (Asked(name="smoke"), Asked(name="Qwen/Qwen3-0.6B"))),
    "2x3090-two": (PAIR, (QWEN_8B, QWEN_4B)),
    "1x3090-shared": (first_gpus(PAIR, 1), (AWQ_8B, embedding())),
    "1x5080-in-turns": (SIXTEEN, IN_TURNS),
    "8xh100-70b-and-embedding": (recorded("8x-h100-nvswitch"), (LLAMA_70B, embedding())),
}
"""Hosts with several models whose plans and files are compared whole (tests/test_golden.py)."""
