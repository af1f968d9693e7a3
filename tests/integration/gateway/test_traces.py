"""A trace goes on from the client to the engine, with the direct lane and without it, and to no cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.gateway.front import start_front

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("lane", ["on", "off"])
def test_an_engine_gets_the_gateways_span_and_a_cloud_does_not(lane: str, state_folder: Path, tmp_path: Path) -> None:
    # Nobody takes the gateway's own span there, which holds nothing up.
    with start_front(
        state_folder, tmp_path, GATEWAY_DIRECT=lane, TRACES_ENDPOINT="http://127.0.0.1:9/v1/traces"
    ) as front:
        assert front.ask(traceparent=f"00-{TRACE}-{CLIENT}-01")[0] == 200
        (told,) = [told for engine in front.engines for told in engine.traces]
        assert told is not None
        assert told.startswith(f"00-{TRACE}-")
        assert CLIENT not in told

        assert front.ask("away", traceparent=f"00-{TRACE}-{CLIENT}-01") == (200, "cloud")
        assert front.cloud.traces == [None]
