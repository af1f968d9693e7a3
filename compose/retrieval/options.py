"""What the proxy is told by its environment and its secret files, read once at the start of each process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trust import certificate_in

MEBIBYTE = 1 << 20

OWN = "retrieval"
"""The name of the proxy's own key (services/retrieval.py)."""

INDEX_FROM = 20_000
"""Passages from which a collection gets an index; fewer are compared one by one, which finds them all.

Judgement by benchmarks/results/retrieval.json, 2026-11-30: comparing costs some 2 ms per thousand passages on two busy
cores, so 20,000 are at the limit of what nobody notices, and most collections have no index to build and to keep.
"""

LEASE_S = 30.0
"""How long a document belongs to a worker that says nothing more: a worker that was killed gives it back so late."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that the gateway serves: its name there, what it does, whose weights it has, and its context.

    `context_tokens` is 0 where nobody has said it. `sees`: it takes pictures beside text.
    """

    name: str
    kind: str
    source: str
    context_tokens: int
    sees: bool = False


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """An S3 bucket for originals, and its key. `endpoint`: the URL of its server."""

    name: str
    prefix: str
    endpoint: str
    region: str
    key_id: str = field(repr=False)
    secret_key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that a process of the proxy is told. Paths are folders; sizes are bytes, times seconds."""

    gateway_url: str
    gateway_certificate: Path | None
    database_server: str
    database_name: str
    originals: Path
    bucket: Bucket | None
    incoming: Path
    models: tuple[ServedModel, ...]
    multimodal_url: str = ""
    workers: int = 1
    max_document_bytes: int = 100 * MEBIBYTE
    lease_s: float = LEASE_S
    index_from: int = INDEX_FROM
    own_key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def models_for(self, kind: str) -> tuple[ServedModel, ...]:
        """Return the models that do this, the stack's first one first."""
        return tuple(model for model in self.models if model.kind == kind)

    def model_named(self, name: str) -> ServedModel | None:
        """Return the model of this name; None where the plan has none."""
        return next((model for model in self.models if model.name == name), None)


def read_options(environment: Mapping[str, str] = os.environ) -> Options:
    """Return the options of this process.

    Raises:
        KeyError: a variable that start.sh and services/retrieval.py set is missing.
        OSError: a secret cannot be read.
    """
    secrets = Path(environment.get("SECRETS_DIRECTORY", "/run/secrets"))
    data = Path(environment["RETRIEVAL_DATA"])
    host, port = environment["DATABASE_HOST"], environment["DATABASE_PORT"]
    certificate = certificate_in(secrets)
    return Options(
        gateway_url=f"{'http' if certificate is None else 'https'}://{environment['GATEWAY_ADDRESS']}/v1",
        gateway_certificate=certificate,
        database_server=f"host={host} port={port} user=retrieval",
        database_name="retrieval",
        originals=data / "originals",
        bucket=_bucket(environment, secrets),
        incoming=data / "incoming",
        models=tuple(_model(row) for row in json.loads(environment["RETRIEVAL_MODELS"])["models"]),
        multimodal_url=environment.get("MULTIMODAL_URL", "").rstrip("/"),
        workers=int(environment.get("RETRIEVAL_PROXY_WORKERS") or 1),
        max_document_bytes=int(environment.get("RETRIEVAL_MAX_DOCUMENT_MIB") or 100) * MEBIBYTE,
        lease_s=float(environment.get("RETRIEVAL_LEASE_S") or LEASE_S),
        index_from=int(environment.get("RETRIEVAL_INDEX_FROM") or INDEX_FROM),
        own_key=(secrets / "retrieval_gateway_key").read_text(encoding="utf-8").strip(),
        password=(secrets / "retrieval_database_password").read_text(encoding="utf-8").strip(),
    )


def _model(row: Mapping[str, Any]) -> ServedModel:
    context = str(row.get("context_tokens", ""))
    return ServedModel(
        name=row["name"],
        kind=row["kind"],
        source=row["source"],
        context_tokens=int(context) if context.isdecimal() else 0,
        sees=row.get("sees") == "yes",
    )


def _bucket(environment: Mapping[str, str], secrets: Path) -> Bucket | None:
    address = environment.get("RETRIEVAL_ORIGINALS", "")
    if not address.startswith("s3://"):
        return None
    name, _, prefix = address.removeprefix("s3://").partition("/")
    return Bucket(
        name=name,
        prefix=prefix.strip("/"),
        endpoint=environment["RETRIEVAL_S3_ENDPOINT"],
        region=environment["RETRIEVAL_S3_REGION"],
        key_id=(secrets / "retrieval_s3_key_id").read_text(encoding="utf-8").strip(),
        secret_key=(secrets / "retrieval_s3_secret_key").read_text(encoding="utf-8").strip(),
    )
