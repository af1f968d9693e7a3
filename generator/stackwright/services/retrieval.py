"""The retrieval proxy and its PostgreSQL: answers from a person's own documents. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.access_key import Rights
from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import KEYS_FOLDER
from stackwright.domain.monitoring import OVER, Alert, Monitored, Panel, Query, Unit, Urgency, metric_rows, rates
from stackwright.domain.plan import Mode, Plan, Setting
from stackwright.domain.recipe import locked_recipe
from stackwright.domain.role import Role
from stackwright.domain.service import (
    AsProcess,
    CommandProbe,
    Dependency,
    Document,
    EnvironmentFolder,
    EnvironmentFolderRef,
    Executable,
    FileRef,
    Health,
    HostOf,
    HttpProbe,
    InContainer,
    Joined,
    ListenAddress,
    Login,
    MountedFile,
    Node,
    Port,
    PortOf,
    Scraped,
    ScratchRef,
    Security,
    Service,
    SettingRef,
    Smoke,
    VolumeRef,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.engines import engine_named
from stackwright.services.additions import BIND, SECTION, Addition, PlannedStack, count_workers, port_setting
from stackwright.services.gateway import ADDRESS, GATEWAY
from stackwright.units import GIB, MIB

_NAME, _DATABASE = "retrieval", "postgres"
_MULTIMODAL = "multimodal"
"""The service that reads pictures, sound and video."""
_IMAGE, _DATABASE_IMAGE = "RETRIEVAL_IMAGE", "POSTGRES_IMAGE"
_PORT, _WORKERS = "RETRIEVAL_PORT", "RETRIEVAL_PROXY_WORKERS"
_MEMORY, _LARGEST = "RETRIEVAL_DATABASE_MIB", "RETRIEVAL_MAX_DOCUMENT_MIB"
DATABASE_PASSWORD = "retrieval_database_password"
ORIGINALS, _ENDPOINT, _REGION = "RETRIEVAL_ORIGINALS", "RETRIEVAL_S3_ENDPOINT", "RETRIEVAL_S3_REGION"
S3, BUCKET_SECRETS = "s3://", ("retrieval_s3_key_id", "retrieval_s3_secret_key")
"""What the address of a bucket begins with, and the files that a person puts the bucket's key into."""

SETTINGS = (
    SettingSpec(key=_IMAGE, section="Images", kind=Kind.IMAGE, meaning="Image of the retrieval proxy"),
    SettingSpec(key=_DATABASE_IMAGE, section="Images", kind=Kind.IMAGE, meaning="Image of PostgreSQL with pgvector"),
    whole_number(_PORT, SECTION, (1, 65535), "Port that the retrieval proxy is published on"),
    whole_number(_WORKERS, SECTION, (1, 64), "Worker processes of the retrieval proxy"),
    whole_number(_MEMORY, SECTION, (128, 1 << 20), "MiB of memory for the documents' PostgreSQL"),
    SettingSpec(
        key=ORIGINALS,
        section=SECTION,
        kind=Kind.BUCKET,
        meaning="Where the documents' own bytes are kept: folder (below DATA_HOME), or s3://BUCKET/PREFIX",
    ),
    SettingSpec(key=_ENDPOINT, section=SECTION, kind=Kind.URL, meaning="Server of the bucket"),
    SettingSpec(key=_REGION, section=SECTION, kind=Kind.TEXT, meaning="Region of the bucket"),
    whole_number(_LARGEST, SECTION, (1, 4096), "Largest document that the retrieval proxy takes, in MiB"),
)

MOST_WORKERS = {Mode.MULTI: 8, Mode.SINGLE: 4, Mode.CPU: 2}
"""Worker processes by mode; what the host spares for them bounds them further."""

WORKER_BYTES = 160 * MIB
"""One worker with its two readers and its part of their parent, while long documents of each kind are read: 151 MiB.

benchmarks/retrieval.py, benchmarks/results/retrieval.json, 2026-11-30.
"""

_STEP = 256 * MIB
_S3_SOURCE = "docs/decisions/0085-originals-in-s3.md"
_AMAZON = "https://s3.us-east-1.amazonaws.com"

# start.sh lets it write nothing beside its modules.
RECIPE = locked_recipe(_NAME, "starlette", size_bytes=200 * MIB, compiled=True)
"""PostgreSQL's too: the wheel with its programs is part of it."""


def _decide(planned: PlannedStack, catalog: Catalog) -> dict[str, Setting]:
    return {
        _IMAGE: catalog.service(_NAME).setting("built here"),
        _DATABASE_IMAGE: catalog.service(_DATABASE).setting("vectors, texts and jobs"),
        _PORT: port_setting(8010, planned.environment),
        _WORKERS: count_workers(planned, MOST_WORKERS, WORKER_BYTES),
        _MEMORY: _database_memory(planned),
        ORIGINALS: Setting(value="folder", reason="needs nothing else", source=_S3_SOURCE),
        _ENDPOINT: Setting(value=_AMAZON, reason="used with s3:// alone", source=_S3_SOURCE),
        _REGION: Setting(value="us-east-1", reason="used with s3:// alone", source=_S3_SOURCE),
        _LARGEST: Setting(value="100", reason="a scanned book", source="docs/how-to/retrieval.md"),
    }


def _database_memory(planned: PlannedStack) -> Setting:
    """Return PostgreSQL's memory: a 32nd of the host's, from 512 MiB to 8 GiB."""
    memory = planned.host.memory_bytes
    least, most = 512 * MIB, 8 * GIB
    share = least if memory is None else min(most, max(least, memory // 32 // _STEP * _STEP))
    reason = "a 32nd of the memory, from 512 MiB to 8 GiB"
    return Setting(value=str(share // MIB), reason=reason, source="docs/decisions/0084-retrieval.md")


def _memory_bytes(env: Mapping[str, str]) -> int:
    return int(env[_WORKERS]) * WORKER_BYTES + int(env[_MEMORY]) * MIB


ADDITION = Addition(
    name=_NAME,
    title="answers from your own documents",
    decide=_decide,
    memory_bytes=_memory_bytes,
    has_key=True,
    rights=Rights(acts_for=True),
)

_DATABASE_FILES = ("start.sh", "ready.sh", "programs.sh")
DATABASE = Service(
    name=_DATABASE,
    kind=_DATABASE,
    image=SettingRef(key=_DATABASE_IMAGE),
    script="start.sh",
    environment={
        "POSTGRES_DATA": VolumeRef(name=_DATABASE),
        "POSTGRES_MEMORY_MIB": SettingRef(key=_MEMORY),
        "POSTGRES_WORKERS": SettingRef(key=_WORKERS),
    },
    secrets=(DATABASE_PASSWORD,),
    files=tuple(MountedFile(source=f"postgres/{name}", name=name) for name in _DATABASE_FILES),
    volumes=(_DATABASE,),
    port=Port(number=5432),
    health=Health(
        # Behind a kill it reads its log again before it answers.
        probe=CommandProbe(
            command=("/bin/sh", FileRef(name="ready.sh"), PortOf(service=_DATABASE), Executable(name="python3"))
        ),
        start_period="10m",
    ),
    # It becomes another user where it begins as root, which it refuses to be (compose/postgres/start.sh).
    security=Security(capabilities=("CHOWN", "SETGID", "SETUID")),
    in_container=InContainer(environment={"HOME": "/tmp"}),
    as_process=AsProcess(
        environment={
            "PYTHON": Executable(name="python3"),
            "POSTGRES_BIND": ListenAddress(),
            "POSTGRES_PORT": PortOf(service=_DATABASE),
        },
        recipe=RECIPE,
    ),
)

_PACKAGE = (
    "__init__ answering app database embedding failures figures gateway ingest kinds media options originals parser"
    " parsing pieces prompting ranking saving search self_test serve store upkeep uploads"
).split()
_MIGRATIONS = ("migrations/env.py", "migrations/versions/0001_collections.py")
_PROXY_FILES = (
    *(MountedFile(source=name, name=name) for name in ("retrieval/start.sh", "gateway/keys.py", "gateway/trust.py")),
    *(MountedFile(source=f"{_NAME}/{name}.py", name=f"{_NAME}/{name}.py") for name in _PACKAGE),
    *(MountedFile(source=f"{_NAME}/{name}", name=f"{_NAME}/{name}") for name in _MIGRATIONS),
)
FILES = (*DATABASE.files, *_PROXY_FILES)

PROXY = Service(
    name=_NAME,
    kind=_NAME,
    image=SettingRef(key=_IMAGE),
    script="retrieval/start.sh",
    command=(ListenAddress(), PortOf(service=_NAME)),
    environment={
        "PYTHONUNBUFFERED": "1",
        "GATEWAY_ADDRESS": ADDRESS,
        "DATABASE_HOST": HostOf(service=_DATABASE),
        "DATABASE_PORT": PortOf(service=_DATABASE),
        "RETRIEVAL_DATA": VolumeRef(name=_NAME),
        _WORKERS: SettingRef(key=_WORKERS),
        _LARGEST: SettingRef(key=_LARGEST),
        "GATEWAY_KEYS": EnvironmentFolderRef(name="keys"),
        "PROMETHEUS_MULTIPROC_DIR": ScratchRef(name="retrieval.metrics"),
    },
    secrets=(ADDITION.key_secret, DATABASE_PASSWORD, "tls_certificate"),
    files=_PROXY_FILES,
    environment_folders=(EnvironmentFolder(name="keys", source=KEYS_FOLDER),),
    volumes=(_NAME,),
    port=Port(number=8010, published=(BIND, SettingRef(key=_PORT))),
    scraped=Scraped(job=_NAME),
    health=Health(probe=HttpProbe(path="/health"), start_period="10m"),
    smoke=Smoke(
        what="to store, find and delete a document",
        path="/v1/self-test",
        method="POST",
        login=Login(secret=ADDITION.key_secret),
        holds='"ok":true',
    ),
    after=(Dependency(service=_DATABASE, healthy=True), Dependency(service=GATEWAY.name)),
    in_container=InContainer(environment={"HOME": "/tmp"}),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python3")}, recipe=RECIPE),
)


_ASKED = 'endpoint=~"POST /v1/(search|chat/completions)"'
MONITORED = Monitored(
    title="Documents",
    metrics=metric_rows(
        _NAME,
        "compose/retrieval/figures.py",
        {
            "retrieval_waiting_documents": "Documents that are not ingested yet, by state",
            "retrieval_documents_total": "Documents whose ingest has ended, by result",
            "retrieval_passages_total": "Passages stored",
            "retrieval_requests_total": "Requests answered, by endpoint and status",
            "retrieval_request_seconds": "Seconds to an answer, by endpoint",
            "retrieval_database_bytes": "Size of the database",
        },
    ),
    panels=(
        Panel(
            title="Documents that wait",
            says="Not ingested yet: queued, or at work",
            unit=Unit.COUNT,
            queries=(Query("sum by (state) (retrieval_waiting_documents)", "{{state}}"),),
        ),
        Panel(
            title="Documents and passages",
            says="Documents whose ingest has ended, and passages stored, per second",
            unit=Unit.PER_SECOND,
            queries=(
                rates("retrieval_documents_total", "result", "documents, {{result}}"),
                Query(f"sum(rate(retrieval_passages_total[{OVER}]))", "passages"),
            ),
        ),
        Panel(
            title="Time of a search",
            says="Seconds to an answer; of chats too, with the model's own time",
            unit=Unit.SECONDS,
            queries=tuple(
                Query(
                    f"histogram_quantile({share}, sum by (le, endpoint)"
                    f" (rate(retrieval_request_seconds_bucket{{{_ASKED}}}[{OVER}])))",
                    f"{{{{endpoint}}}}, {share:.0%}",
                )
                for share in (0.5, 0.95)
            ),
        ),
        Panel(
            title="Requests for documents",
            says="Requests per second, by endpoint and status",
            unit=Unit.RATE,
            queries=(rates("retrieval_requests_total", "endpoint, status", "{{endpoint}}, {{status}}"),),
        ),
        Panel(
            title="Database",
            says="Size of rows, text and vectors; originals come on top",
            unit=Unit.BYTES,
            queries=(Query("max(retrieval_database_bytes)", "database"),),
        ),
    ),
    alerts=(
        Alert(
            name="DocumentsWait",
            when="(sum(retrieval_waiting_documents) > 0) and (sum(increase(retrieval_documents_total[15m])) == 0)",
            lasts="15m",
            urgency=Urgency.WARNING,
            says="{{ $value }} documents wait, and none has been ingested for a quarter of an hour",
            heading="Documents wait",
        ),
    ),
)


def retrieval_services(plan: Plan) -> tuple[Service, ...]:
    """Return PostgreSQL and the proxy, which is told the models of the plan."""
    environment = {**PROXY.environment, "RETRIEVAL_MODELS": Document(fields={"models": tuple(_models(plan))})}
    proxy = PROXY
    if brought_secrets(plan):
        environment |= {key: SettingRef(key=key) for key in (ORIGINALS, _ENDPOINT, _REGION)}
        proxy = replace(proxy, secrets=(*proxy.secrets, *BUCKET_SECRETS), reaches_out=True, downloads=True)
    if _MULTIMODAL in plan.additions:
        host, port = HostOf(service=_MULTIMODAL), PortOf(service=_MULTIMODAL)
        environment["MULTIMODAL_URL"] = Joined(parts=("http://", host, ":", port))
    return (DATABASE, replace(proxy, environment=environment))


def brought_secrets(plan: Plan) -> tuple[str, ...]:
    """Return the files with the key of the bucket that originals are kept in; none without a bucket."""
    return BUCKET_SECRETS if plan.settings[ORIGINALS].value.startswith(S3) else ()


def _models(plan: Plan) -> list[Node]:
    rows: list[Node] = []
    for model in plan.models:
        key = engine_named(model.engine.name).keys.context
        rows.append(
            {
                "name": model.name,
                "kind": Role.CHAT if model.role.generates else model.role,
                "source": model.location,
                "sees": "yes" if model.sees else "",
                "context_tokens": SettingRef(key=key, model=model.name) if key in model.settings else "",
            }
        )
    return rows


def embedding_model(plan: Plan) -> str | None:
    """Return the name of the model whose vectors documents get; None where the plan has none."""
    return next((model.name for model in plan.models if model.role is Role.EMBEDDING), None)
