"""A gateway for each test that asks one, and starts to watch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack

from tests.planning.several import Asked, plan_of
from tests.planning_requests import plan_for, recorded
from tests.watching.gateway import Gateway
from tests.watching.starting import MakeStart, Scripted, Start, States


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Give a gateway that answers all that a client would ask."""
    with Gateway().serving() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, gateway: Gateway) -> MakeStart:
    """Give a maker of starts from their looks and the engine's log."""

    def make(*looks: States, log: str = "", models: tuple[Asked, ...] = ()) -> Start:
        host = recorded("cpu-small")
        plan = plan_of(host, *models) if models else plan_for(host)
        unforecast = (
            replace(model, replicas=tuple(replace(replica, memory=None) for replica in model.replicas))
            for model in plan.models
        )
        plan = replace(plan, models=tuple(unforecast))
        env = {key: setting.value for key, setting in flat_settings(plan).items()}
        env |= {"GATEWAY_PORT": str(gateway.server_address[1]), "HF_HOME": str(tmp_path / "hf")}
        stack = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
        return Start(runtime=Scripted(looks=list(looks), log=log), stack=stack)

    return make
