"""What the gateway's tests share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gateway.front import COOLDOWN_S, Front, start_front

LANES = ("on", "off")


@pytest.fixture(scope="module", params=LANES, ids="lane-{}".format)
def front(
    request: pytest.FixtureRequest, state_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """Start a gateway of one worker, with two engines and a cloud behind it; with the direct lane, and without it."""
    with start_front(state_folder, tmp_path_factory.mktemp("project"), GATEWAY_DIRECT=request.param) as made:
        yield made


@pytest.fixture
def fresh(front: Front) -> Iterator[Front]:
    """Give the gateway with everything well again and no replica left out."""
    yield front
    front.both(200)
    for engine in front.engines:
        engine.times, engine.well = None, True
        engine.start()
    front.cloud.mood = 200
    front.cloud.keys.clear()
    time.sleep(2 * COOLDOWN_S)
