"""A gateway for each test that asks one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.watching.gateway import Gateway


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Give a gateway that answers all that a client would ask."""
    with Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
