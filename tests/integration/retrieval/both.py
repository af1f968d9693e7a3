"""Retrieval and the multimodal worker as processes that know the same keys. Touches the test's folder and loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from stackwright.domain.environment import KEYS_FOLDER
from stackwright.runtime.provision import ensure
from stackwright.services.multimodal import RECIPE

from tests.integration.retrieval.parts import SERVED, Retrieval, start_retrieval
from tests.multimodal.running import Gateway, Service, free_port


@contextlib.contextmanager
def start_both(
    state: Path,
    folder: Path,
    gateway: Gateway,
    variables: Mapping[str, str],
    served: Sequence[Mapping[str, object]] = SERVED,
) -> Iterator[tuple[Retrieval, Service]]:
    """Start both in `folder`; the worker asks `gateway`, and `variables` are laid over its settings."""
    port = free_port()
    python = ensure(state, RECIPE, lambda *_: None) / "bin" / "python"
    with start_retrieval(state, folder, served=served, MULTIMODAL_URL=f"http://127.0.0.1:{port}") as retrieval:
        own = {"SECRETS_DIRECTORY": str(folder / "envs/.secrets/dev")}
        own |= {"GATEWAY_KEYS": str(folder / "envs" / KEYS_FOLDER.format(environment="dev")), **variables}
        Path(own["SECRETS_DIRECTORY"], "multimodal_gateway_key").write_text(retrieval.keys["retrieval"])
        gateway.start()
        worker = Service(folder / "multimodal", gateway, str(python), **own)
        worker.port = port
        worker.start()
        yield retrieval, worker
        worker.stop()
        gateway.stop()


def holds_through_a_restart(retrieval: Retrieval, worker: Service, check: Callable[[], None]) -> None:
    """Check, let proxy and database start anew without the worker, and check again."""
    check()
    worker.stop()
    for part in (retrieval.proxy, retrieval.database):
        part.end()
    for part in (retrieval.database, retrieval.proxy):
        part.start()
    retrieval.proxy.wait()
    check()
    worker.start()
