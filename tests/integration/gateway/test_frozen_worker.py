"""One of two workers of the gateway freezes: its sibling serves on, and it is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.integration.gateway.exchange import Ask, exchange
from tests.integration.gateway.front import MODEL, Front, start_front, until

REPLACED_S = 300
"""uvicorn's own check of its workers waits for 120 s (start.sh), and a new one loads LiteLLM."""


def workers(front: Front) -> set[int]:
    """Return the workers that serve: the gateway's processes that hold its listening socket, but for their parent."""
    found = set()
    for process in psutil.Process(front.process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            listens = (each.laddr.port for each in process.net_connections("tcp") if each.status == "LISTEN")
            found |= {process.pid} if front.port in listens else set()
    return found


@pytest.mark.long
def test_a_frozen_worker_is_replaced_and_its_sibling_serves_on(
    state_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """New connections all go to the sibling; that both serve again, eight who ask at once are answered by."""
    folder = tmp_path_factory.mktemp("project")
    with start_front(state_folder, folder, LITELLM_NUM_WORKERS="2") as front, ThreadPoolExecutor(8) as clients:
        until(lambda: len(workers(front)) >= 2, REPLACED_S)
        before = workers(front)
        frozen = max(before)
        os.kill(frozen, signal.SIGSTOP)
        answers = list(clients.map(lambda _: front.ask(), range(40)))
        assert {status for status, _ in answers} == {200}
        models = asyncio.run(exchange(front.port, Ask(path="/v1/models", method="GET", key=front.key)))
        assert MODEL in models.body
        until(lambda: frozen not in workers(front) and len(workers(front)) >= len(before), REPLACED_S)
        answers = list(clients.map(lambda _: front.ask(), range(40)))
        assert {status for status, _ in answers} == {200}
