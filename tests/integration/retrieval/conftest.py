"""What the retrieval proxy's tests share: one proxy for all of them, before a stand-in for the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.retrieval.parts import Retrieval, start_retrieval


@pytest.fixture(scope="session")
def running(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrieval]:
    """Start a proxy of two workers."""
    with start_retrieval(state_folder, tmp_path_factory.mktemp("retrieval"), workers=2) as made:
        yield made


@pytest.fixture
def retrieval(running: Retrieval) -> Iterator[Retrieval]:
    """Give the proxy with a stand-in that is well, and nothing asked of it yet."""
    running.models.asked.clear()
    yield running
    running.models.status, running.models.context_bytes = 200, 1 << 30
