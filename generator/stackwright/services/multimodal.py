"""The multimodal worker: jobs over pictures, sound, video and PDF files. Pure."""

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
    Dependency,
    EnvironmentFolder,
    EnvironmentFolderRef,
    Executable,
    Health,
    HostFolder,
    HttpProbe,
    InContainer,
    ListenAddress,
    Login,
    MountedFile,
    Port,
    PortOf,
    Scraped,
    Service,
    SettingRef,
    Smoke,
    VolumeRef,
    Word,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.services.additions import BIND, SECTION, Addition, PlannedStack, count_workers, port_setting
from stackwright.services.gateway import ADDRESS, GATEWAY
from stackwright.units import GIB, MIB

_NAME = "multimodal"
_IMAGE, _PORT, _WORKERS = "MULTIMODAL_IMAGE", "MULTIMODAL_PORT", "MULTIMODAL_WORKER_PROCESSES"
SPEECH, _MEMORY = "MULTIMODAL_SPEECH_MODEL", "MULTIMODAL_FILE_MEMORY_MIB"
_MAY_USE = "docs/decisions/0080-media-jobs.md"
OFF = "off"
"""No speech model on the processor."""

_LIMITS: Mapping[str, tuple[int, tuple[int, int], str, str]] = {
    _MEMORY: (
        768,
        (256, 65536),
        "MiB of memory that reading one file may take",
        "8K video, and pictures of 50 megapixels but for WebP",
    ),
    "MULTIMODAL_FILE_TIMEOUT_S": (600, (1, 86400), "Seconds that reading one file may take", "an hour of 4K video"),
    "MULTIMODAL_MAX_FILE_MIB": (1024, (1, 1 << 20), "MiB that a file may have", "an hour of video"),
    "MULTIMODAL_MAX_DURATION_S": (4 * 3600, (1, 10**6), "Seconds of sound that a file may have", "a long meeting"),
    "MULTIMODAL_MAX_ATTEMPTS": (8, (1, 100), "Failures after which a job is dead", "nine minutes of a gateway away"),
    "MULTIMODAL_MAX_QUEUED_JOBS": (1000, (1, 10**6), "Jobs of one key that may wait", "no key fills the queue"),
    "MULTIMODAL_KEEP_DAYS": (7, (1, 3650), "Days that ended jobs and their files are kept", "for whoever asks late"),
    "MULTIMODAL_DISK_MIB": (
        20480,
        (1, 1 << 30),
        "MiB that the files of all jobs may have",
        "a disk is bounded",
    ),
}
"""What each setting is where nobody says, its bounds, its meaning and the reason."""

SETTINGS = (
    SettingSpec(key=_IMAGE, section="Images", kind=Kind.IMAGE, meaning="Image of the multimodal worker"),
    whole_number(_PORT, SECTION, (1, 65535), "Port that the multimodal worker is published on"),
    whole_number(_WORKERS, SECTION, (1, 64), "Worker processes of the multimodal worker: jobs at once"),
    SettingSpec(
        key=SPEECH,
        section=SECTION,
        kind=Kind.TEXT,
        meaning="Whisper model in CTranslate2's form for speech on the processor: a folder, or its name in HF_HOME; "
        "off: none. Not used where an engine has the role transcription",
    ),
    *(whole_number(key, SECTION, bounds, meaning) for key, (_, bounds, meaning, _) in _LIMITS.items()),
)

# Measured on two cores, 2026-11-30: the server 42 MB, a worker 27 MB. A file's reader takes what its limit allows.
_SERVER_BYTES, _WORKER_BYTES = 64 * MIB, 32 * MIB

# Judgement: Whisper large-v3 has 1.6 GB of weights in int8; tiny.en, of 78 MB, took 290 MB (measured, 2026-11-30).
_SPEECH_BYTES = 2 * GIB


def _decide(planned: PlannedStack, catalog: Catalog) -> dict[str, Setting]:
    memory = _LIMITS[_MEMORY][0] * MIB
    return {
        _IMAGE: catalog.service(_NAME).setting("built here"),
        _PORT: port_setting(8020, planned.environment),
        _WORKERS: count_workers(planned, {Mode.CPU: 2, Mode.SINGLE: 2, Mode.MULTI: 4}, _WORKER_BYTES + memory),
        SPEECH: Setting(value=OFF, reason="no model named", source="docs/how-to/multimodal.md"),
        **{key: Setting(value=str(usual), reason=why, source=_MAY_USE) for key, (usual, _, _, why) in _LIMITS.items()},
    }


def _memory_bytes(values: Mapping[str, str]) -> int:
    each = _WORKER_BYTES + int(values[_MEMORY]) * MIB
    return _SERVER_BYTES + int(values[_WORKERS]) * each + (_SPEECH_BYTES if values[SPEECH] != OFF else 0)


ADDITION = Addition(
    name=_NAME,
    title="the multimodal worker, which reads pictures, sound, video and PDF files",
    decide=_decide,
    memory_bytes=_memory_bytes,
    has_key=True,
    rights=Rights(acts_for=True),
)

# start.sh lets it write nothing beside its modules.
RECIPE = locked_recipe(_NAME, "av", size_bytes=460 * MIB, compiled=True)

_MODULES = (
    *("__init__ api asking confine decode decoded jobs pages pictures reading".split()),
    *("serve settings sounds speech streams want work worker".split()),
)
FILES = (
    MountedFile(source="multimodal/start.sh", name="multimodal/start.sh"),
    *(MountedFile(source=f"multimodal/{name}.py", name=f"multimodal/{name}.py") for name in _MODULES),
    *(MountedFile(source=f"gateway/{name}.py", name=f"gateway/{name}.py") for name in ("keys", "trust")),
)

MULTIMODAL = Service(
    name=_NAME,
    kind=_NAME,
    image=SettingRef(key=_IMAGE),
    script="multimodal/start.sh",
    command=(ListenAddress(), PortOf(service=_NAME)),
    environment={
        "PYTHONUNBUFFERED": "1",
        "GATEWAY_ADDRESS": ADDRESS,
        "GATEWAY_KEYS": EnvironmentFolderRef(name="keys"),
        "GATEWAY_REQUEST_TIMEOUT_S": SettingRef(key="GATEWAY_REQUEST_TIMEOUT_S"),
        "MULTIMODAL_FOLDER": VolumeRef(name=_NAME),
        **{key: SettingRef(key=key) for key in (_WORKERS, *_LIMITS)},
    },
    secrets=(ADDITION.key_secret, "litellm_master_key", "tls_certificate"),
    files=FILES,
    environment_folders=(EnvironmentFolder(name="keys", source=KEYS_FOLDER),),
    volumes=(_NAME,),
    port=Port(number=8020, published=(BIND, SettingRef(key=_PORT))),
    scraped=Scraped(job=_NAME),
    health=Health(probe=HttpProbe(path="/health"), start_period="2m"),
    smoke=Smoke(
        what="to read a picture",
        path="/v1/self-test",
        method="POST",
        login=Login(secret=ADDITION.key_secret),
        holds='"ok": true',
    ),
    after=(Dependency(service=GATEWAY.name),),
    in_container=InContainer(environment={"HOME": "/tmp"}),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python")}, recipe=RECIPE),
)


_JOB_SECONDS = f"sum(rate(stackwright_multimodal_job_seconds_total[{OVER}]))"
_JOBS_ENDED = f"sum(rate(stackwright_multimodal_jobs_ended_total[{OVER}]))"
MONITORED = Monitored(
    title="Jobs on media",
    metrics=metric_rows(
        _NAME,
        "compose/multimodal/api.py",
        {
            "stackwright_multimodal_jobs": "Jobs, by state; dead ones wait for a person",
            "stackwright_multimodal_jobs_ended_total": "Jobs that have ended, by outcome",
            "stackwright_multimodal_job_seconds_total": "Seconds that all ended jobs took",
            "stackwright_multimodal_attempts_total": "Attempts at jobs; more than jobs where some are tried again",
            "stackwright_multimodal_worker_restarts_total": "Worker processes that began anew",
            "stackwright_multimodal_kept_bytes": "Bytes that the files of all jobs have on the disk",
        },
    ),
    panels=(
        Panel(
            title="Jobs",
            says="Pictures, sound, video and PDF files by state; dead ones wait for a person",
            unit=Unit.COUNT,
            queries=(Query("sum by (state) (stackwright_multimodal_jobs)", "{{state}}"),),
        ),
        Panel(
            title="Ended jobs",
            says="Per second, by outcome, and attempts: more of these where jobs are tried again",
            unit=Unit.PER_SECOND,
            queries=(
                rates("stackwright_multimodal_jobs_ended_total", "outcome", "{{outcome}}"),
                Query(f"sum(rate(stackwright_multimodal_attempts_total[{OVER}]))", "attempts"),
            ),
        ),
        Panel(
            title="Time of a job",
            says="Mean of the jobs that ended",
            unit=Unit.SECONDS,
            queries=(Query(f"{_JOB_SECONDS} / {_JOBS_ENDED}", "mean"),),
        ),
        Panel(
            title="Restarts of job workers in the last day",
            says="A file that ends its worker costs one job",
            unit=Unit.COUNT,
            queries=(Query("sum(increase(stackwright_multimodal_worker_restarts_total[1d]))", "restarts"),),
        ),
        Panel(
            title="Files of jobs",
            says="On the disk; MULTIMODAL_DISK_MIB bounds them",
            unit=Unit.BYTES,
            queries=(Query("max(stackwright_multimodal_kept_bytes)", "files"),),
        ),
    ),
    alerts=(
        Alert(
            name="JobsWait",
            when=(
                '(sum(stackwright_multimodal_jobs{state=~"queued|running"}) > 0)'
                " and (sum(increase(stackwright_multimodal_jobs_ended_total[15m])) == 0)"
            ),
            lasts="15m",
            urgency=Urgency.WARNING,
            says="{{ $value }} jobs wait, and none has ended for a quarter of an hour",
            heading="Jobs do not end",
        ),
        Alert(
            name="JobsDead",
            when='sum(stackwright_multimodal_jobs{state="dead"}) > 0',
            lasts="0m",
            urgency=Urgency.WARNING,
            says="{{ $value }} jobs have failed too often and wait for a person",
            heading="Jobs are dead",
        ),
    ),
)


def multimodal_services(plan: Plan) -> tuple[Service, ...]:
    """Return the worker, told which models of the plan look, listen and embed."""
    first = {model.role: model for model in reversed(plan.models)}
    named = {role: model.name for role, model in first.items()}
    environment: dict[str, Word | None] = {
        **MULTIMODAL.environment,
        "VISION_MODEL": named.get(Role.VISION, ""),
        "EMBEDDING_MODEL": named.get(Role.EMBEDDING, ""),
        "EMBEDDING_SEES": "yes" if Role.EMBEDDING in first and first[Role.EMBEDDING].sees else "",
        "SPEECH_MODEL": named.get(Role.TRANSCRIPTION, ""),
    }
    speech = plan.settings[SPEECH].value
    if speech == OFF or Role.TRANSCRIPTION in named:
        return (replace(MULTIMODAL, environment=environment),)
    is_folder = speech.startswith("/")
    folder = HostFolder(path=speech if is_folder else SettingRef(key="HF_HOME"), read_only=True)
    told: dict[str, Word | None] = {SPEECH: SettingRef(key=SPEECH), "HF_HUB_OFFLINE": "1"}
    if not is_folder:
        told["HF_HOME"] = SettingRef(key="HF_HOME")
    return (replace(MULTIMODAL, environment={**environment, **told}, folders=(folder,)),)
