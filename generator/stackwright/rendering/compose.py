"""Services as Compose reads them: the base file, the same for every host, and the override, what a plan adds to it.

Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from stackwright.domain.plan import Plan
from stackwright.domain.service import (
    LOG_FILE_MEGABYTES,
    LOG_FILES,
    PROBE_RETRIES,
    PROBE_TIMEOUT_S,
    CommandProbe,
    EnvironmentFolder,
    EnvironmentFolderRef,
    Executable,
    FileRef,
    Health,
    HostOf,
    HttpProbe,
    ListenAddress,
    MountedFile,
    Part,
    PortOf,
    ScratchRef,
    Service,
    SettingRef,
    SocketProbe,
    VisibleGpus,
    VolumeRef,
    Word,
)
from stackwright.errors import StackError
from stackwright.rendering.environment import summarize
from stackwright.rendering.numbered import key_of
from stackwright.rendering.quoting import literal_for_compose, quote_comment, quote_yaml
from stackwright.services import BASE, base_of, base_services, services_of
from stackwright.services.additions import DATA_HOME
from stackwright.services.words import word_text

MOUNTED_AT = "/etc/stackwright"
ENVIRONMENT_FOLDERS_AT = "/run/stackwright"
VOLUMES_AT = "/var/lib/stackwright"
_FOLDERS = {
    FileRef: MOUNTED_AT,
    ScratchRef: "/tmp",
    EnvironmentFolderRef: ENVIRONMENT_FOLDERS_AT,
    VolumeRef: VOLUMES_AT,
}
CDI_GPU = "nvidia.com/gpu="
"""What a GPU's name begins with in a CDI specification: its UUID is one of its names (nvidia-ctk cdi generate)."""

_BASE_HEAD = """\
# What runs: the engine, the gateway (LiteLLM), and Redis for the gateway's shared router state.
#
# Rendered from generator/stackwright/services/, where the reasons stand. It names no host: every value comes from
# envs/.env.<env>, and what depends on the machine (GPUs, engine arguments, further replicas) comes from the rendered
# override. By hand:
#
#   docker compose --env-file envs/.env.prod -f compose/compose.yaml -f compose/generated/prod/override.yaml up -d
#
# Only the gateway publishes a port. Engine and Redis live on an internal network; only the gateway and a
# downloading engine reach outside. What you add here stays: no command writes this file.
"""
_BESIDE_HEAD = """\
# What runs beside the engines, for plans whose engine compose.yaml does not have: it takes that file's place, and the
# rendered override has the engines whole. Rendered from generator/stackwright/services/, where the reasons stand.
# What you add here stays: no command writes this file.
"""
_COMMENTS = {
    "init": "As first process, a program that has not set up its signals yet ignores them: a stop takes its full time.",
    "ulimits": (
        "Docker Engine 29 lowered the default soft limit to 1024 open files. A confined daemon refuses more than "
        "its own."
    ),
    "shm_size": "NCCL and torch pass tensors between ranks through /dev/shm; Docker's 64 MB default stops them.",
    "labels": "Makes Compose recreate the container when this mounted file changes.",
}
"""What a person who reads the files has to know, once before the first such key."""


# Docker publishes no port of a container that is on internal networks alone. Without masquerading, nothing that leaves
# this bridge finds its way back (Docker's bridge driver options, 2026-11).
_DOOR = "door"
_NO_WAY_OUT = {"driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}}


class _OneFile(Struct, frozen=True, kw_only=True, eq=False):
    """Everything that runs beside a service, for what it says of the others; no plan: as the base files have it."""

    plan: Plan | None
    services: tuple[Service, ...]


class Plain(str):
    """A word of Compose's own, which needs no quotes."""

    __slots__ = ()


def render_base(base: str = BASE) -> str:
    """Return a base file of compose/: what every plan over it runs; the fields that all services share stand once."""
    whole = _OneFile(plan=None, services=base_services())
    services = {service.name: _compose_service(service, whole) for service in base_services(base)}
    first, *others = services.values()
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    own = {
        name: {"<<": Plain("*service"), **{key: value for key, value in service.items() if key not in shared}}
        for name, service in services.items()
    }
    document = {"services": own, "networks": {"inside": {"internal": True}, "outside": {}}}
    document["secrets"] = _secret_files(secret for service in base_services(base) for secret in service.secrets)
    comments = dict(_COMMENTS)
    lines = ["x-service: &service", *_yaml(shared, 2, comments), *_yaml(document, 0, comments)]
    # A blank line before each section, and each service but the first.
    body = re.sub(r"\n(?=\w|  [\w-]+:\n    <<)(?<!services:\n)", "\n\n", "\n" + "\n".join(lines))
    head = _BASE_HEAD if base == BASE else _BESIDE_HEAD
    return f"{head}{body[1:]}\n"


def render_override(plan: Plan, generated: Mapping[str, str]) -> str:
    """Return the override: what a plan's services have beyond the base file, and those that it does not have.

    Args:
        generated: the texts of the rendered files that services mount, by name.

    Raises:
        StackError: a service cannot be had by adding to the base's, or the text does not say what was meant.
    """
    bases = {service.name: service for service in base_services(base_of(plan))}
    whole, without_plan = _OneFile(plan=plan, services=services_of(plan)), _OneFile(plan=None, services=base_services())
    services: dict[str, Any] = {}
    secrets: list[str] = []
    for service in whole.services:
        base, wanted = bases.get(service.kind), _compose_service(service, whole, generated)
        secrets += service.secrets
        if base is None:
            services[service.name] = wanted
            continue
        added = _added(_compose_service(base, without_plan), wanted, service.name)
        if service.name != base.name:
            added = {"extends": {"file": Plain(base_of(plan)), "service": Plain(base.name)}, **added}
        if added:
            services[service.name] = added
    document: dict[str, Any] = {"services": services}
    known = {secret for service in bases.values() for secret in service.secrets}
    if further := [secret for secret in secrets if secret not in known]:
        document["secrets"] = _secret_files(further)
    if volumes := {volume for service in whole.services for volume in service.volumes}:
        document["volumes"] = {volume: _volume(volume) for volume in sorted(volumes)}
    if networks := _networks(whole.services):
        document["networks"] = networks
    return _checked(
        f"# Rendered by Stackwright for {plan.environment} ({quote_comment(summarize(plan))}), laid over"
        f" compose/{base_of(plan)}.\n"
        "# Do not edit: `configure-gpu` writes it anew. Values come from the environment files.\n",
        document,
    )


def _networks(services: tuple[Service, ...]) -> dict[str, Any]:
    """Return the networks that the base file does not have."""
    networks: dict[str, Any] = {}
    if any(service.published is not None and not service.reaches_out for service in services):
        networks[_DOOR] = _NO_WAY_OUT
    joined = {setting.key: setting for service in services for setting in service.networks}
    return networks | {_joined(setting): {"external": True, "name": f"${{{key}:?}}"} for key, setting in joined.items()}


def compose_command(service: Service, plan: Plan, value: Callable[[SettingRef], str]) -> tuple[str, ...]:
    """Return what Compose starts a service with once it has filled in the values in force, which `value` knows."""
    whole = _OneFile(plan=plan, services=services_of(plan))

    def name(part: Part) -> str:
        if isinstance(part, str):
            return part
        setting = part.setting if isinstance(part, VisibleGpus) else part
        return value(setting) if isinstance(setting, SettingRef) else _name_of(service, whole, part)

    # Without a script the first word is the entry point.
    return tuple(word_text(word, name) for word in service.command[0 if service.script else 1 :])


def _checked(head: str, document: Mapping[str, Any]) -> str:
    """Write a document and read it back: a fault is the writer's, not the user's."""
    import yaml

    text = head + "\n".join(_yaml(document, 0, {"labels": _COMMENTS["labels"]})) + "\n"
    # libyaml's loader takes a tenth of the time: the text is ours.
    if yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) != document:
        raise StackError("the rendered override does not say what the plan says")
    return text


def _compose_service(service: Service, whole: _OneFile, generated: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return one service as Compose reads it, without what it does not have."""

    def word(word: Word) -> str:
        return word_text(word, lambda part: _name_of(service, whole, part))

    environment = {**service.in_container.environment, **service.environment}
    command = [word(part) for part in service.command]
    script = None if service.script is None else f"{MOUNTED_AT}/{service.script}"
    folders = (_bind(word(folder.path), folder.read_only) for folder in service.folders)
    shared_memory = service.resources.shared_memory
    known = {
        **_confinement(service, word),
        "image": word(service.image),
        "entrypoint": ["/bin/sh", script] if script else command[:1],
        "shm_size": None if shared_memory is None else word(shared_memory.size),
        "command": command if script else command[1:],
        "labels": _digests(service, generated),
        "environment": {name: None if value is None else word(value) for name, value in environment.items()},
        "volumes": [
            *map(_mount, service.files),
            *map(_mount_folder, service.environment_folders),
            *folders,
            *map(_mount_volume, service.volumes),
        ],
        "tmpfs": list(service.in_container.tmpfs),
        "sysctls": dict(service.in_container.sysctls),
        "secrets": list(service.secrets),
        "networks": [
            Plain("inside"),
            *([Plain("outside")] if service.reaches_out else [Plain(_DOOR)] if service.published is not None else []),
            *(Plain(_joined(setting)) for setting in service.networks),
        ],
        "ports": _published(service, word),
        "deploy": _devices(service, by_cdi=whole.plan is not None and whole.plan.host.containers.engine == "podman"),
        "depends_on": {
            dependency.service: {"condition": Plain("service_healthy" if dependency.healthy else "service_started")}
            for dependency in service.after
        },
        "healthcheck": _healthcheck(service, service.health, word),
    }
    return {key: value for key, value in known.items() if value not in (None, [], {})}


def _joined(setting: SettingRef) -> str:
    """Return what a file calls a network of the host's, whose own name is a setting."""
    return setting.key.lower().replace("_", "-")


def _confinement(service: Service, word: Callable[[Word], str]) -> dict[str, Any]:
    label = service.security.label
    return {
        "restart": Plain(f"on-failure:{service.restart.starts}"),
        "stop_grace_period": _stop_period(service, word),
        "init": True,
        "user": "0:0" if service.security.root else "${STACKWRIGHT_UID:?}:${STACKWRIGHT_GID:?}",
        "security_opt": ["no-new-privileges:true", *([] if label is None else [f"label={word(label)}"])],
        "cap_drop": [Plain("ALL")],
        "cap_add": [Plain(capability) for capability in service.security.capabilities],
        "read_only": service.security.read_only,
        "logging": {
            "driver": Plain("json-file"),
            "options": {"max-size": f"{LOG_FILE_MEGABYTES}m", "max-file": str(LOG_FILES)},
        },
        "ulimits": {"nofile": dict.fromkeys(("soft", "hard"), service.resources.open_files)},
    }


def _stop_period(service: Service, word: Callable[[Word], str]) -> str:
    """Write how long a service may take to end; Compose adds up what it is given: `20s30s` are 50 seconds."""
    own = f"{service.restart.stop_s}s"
    return Plain(own) if service.front is None else f"{own}{word(service.front.drains_within_s)}s"


def _name_of(service: Service, whole: _OneFile, part: Part) -> str:
    """Name one part of a word inside the service's container."""
    match part:
        case str():
            return literal_for_compose(part)
        case SettingRef():
            return f"${{{key_of(whole.plan, part)}:?}}"
        case VisibleGpus():
            return _name_of(service, whole, part.setting)
        case HostOf():
            return part.service
        case PortOf():
            return str(_port_of(part.service, whole.services))
        case ListenAddress():
            return "0.0.0.0"
        case FileRef() | ScratchRef() | EnvironmentFolderRef() | VolumeRef():
            return f"{_FOLDERS[type(part)]}/{part.name}"
        case Executable():
            return part.name


def _port_of(name: str, services: tuple[Service, ...]) -> int:
    port = next(service.port for service in services if service.name == name)
    if port is None:
        raise StackError(f"{name} listens on no port")
    return port.number


def _digests(service: Service, generated: Mapping[str, str]) -> dict[str, str]:
    names = [file.name for file in service.files if file.generated and file.source in generated]
    return {
        f"stackwright.{name.replace('.', '-')}": hashlib.sha256(generated[name].encode()).hexdigest() for name in names
    }


def _mount(file: MountedFile) -> dict[str, Any]:
    source = f"./generated/${{STACKWRIGHT_ENVIRONMENT:?}}/{file.source}" if file.generated else f"./{file.source}"
    return _bind(source, True, f"{MOUNTED_AT}/{file.name}".removesuffix("/"))


def _mount_folder(folder: EnvironmentFolder) -> dict[str, Any]:
    source = f"../envs/{folder.source.format(environment='${STACKWRIGHT_ENVIRONMENT:?}')}"
    return _bind(source, not folder.written, f"{ENVIRONMENT_FOLDERS_AT}/{folder.name}")


def _mount_volume(name: str) -> dict[str, Any]:
    return {"type": Plain("volume"), "source": Plain(name), "target": f"{VOLUMES_AT}/{name}"}


def _volume(name: str) -> dict[str, Any]:
    """Name a folder that we made: a new volume of Docker's own is root's, and no service is root."""
    return {
        "driver": Plain("local"),
        "driver_opts": {"type": "none", "o": "bind", "device": f"${{{DATA_HOME}:?}}/{name}"},
    }


def _bind(source: str, read_only: bool, target: str | None = None) -> dict[str, Any]:
    mount = {"type": Plain("bind"), "source": source, "target": target or source}
    return {**mount, "read_only": True} if read_only else mount


def _published(service: Service, word: Any) -> list[dict[str, Any]]:
    if service.port is None or service.published is None:
        return []
    address, port = service.published
    return [{"target": service.port.number, "published": word(port), "host_ip": word(address)}]


def _devices(service: Service, *, by_cdi: bool) -> dict[str, Any]:
    """Reserve GPUs: `gpus: all` gives none on Compose 2.26, silently.

    Podman's Docker API gives GPUs by CDI alone, from 5.4 on (podman pull request 25171, 2025-02).
    """
    if not service.resources.gpu_uuids:
        return {}
    device = {
        "driver": Plain("cdi" if by_cdi else "nvidia"),
        "capabilities": [Plain("gpu")],
        "device_ids": [f"{CDI_GPU * by_cdi}{uuid}" for uuid in service.resources.gpu_uuids],
    }
    return {"resources": {"reservations": {"devices": [device]}}}


def _healthcheck(service: Service, health: Health | None, word: Any) -> dict[str, Any]:
    if health is None:
        return {}
    match health.probe:
        case HttpProbe():
            asked = [word(part) for part in health.probe.command]
            test = ["CMD", *(asked or ("python3", "-c", _question(service, health.probe)))]
        case SocketProbe():
            test = ["CMD-SHELL", literal_for_compose(health.probe.command)]
        case CommandProbe():
            test = ["CMD", *(word(part) for part in health.probe.command)]
    times = {"interval": Plain("5s"), "timeout": Plain(f"{PROBE_TIMEOUT_S + 1}s"), "retries": PROBE_RETRIES}
    start = {} if health.start_period is None else {"start_period": Plain(health.start_period)}
    return {"test": test, **times, **start}


def _question(service: Service, probe: HttpProbe) -> str:
    """Write the question for the image's Python.

    Whose certificate it is does not matter: it asks this very container.
    """
    number = None if service.port is None else service.port.number
    where = f"://127.0.0.1:{number}{probe.path}'"
    if probe.certificate is None:
        return f"import urllib.request as u; u.urlopen('http{where}, timeout={PROBE_TIMEOUT_S})"
    return (
        f"import os, ssl, urllib.request as u; tls = os.path.getsize('/run/secrets/{probe.certificate}') > 0; "
        f"u.urlopen(('https' if tls else 'http') + '{where}, timeout={PROBE_TIMEOUT_S}, "
        "context=ssl._create_unverified_context() if tls else None)"
    )


def _secret_files(names: Iterable[str]) -> dict[str, Any]:
    folder = "../envs/.secrets/${STACKWRIGHT_ENVIRONMENT:?}"
    return {name: {"file": f"{folder}/{name}"} for name in names}


_JOINED_LISTS = frozenset({"volumes", "secrets", "networks", "tmpfs", "ports", "cap_add", "security_opt"})
"""Lists that Compose adds to; any other is taken in the place of the base's."""


def _added(base: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what has to be laid over `base` to have `wanted`.

    Raises:
        StackError: something would have to be taken away, which Compose cannot.
    """
    if lost := [key for key in base if key not in wanted]:
        raise StackError(f"{where} lacks {lost[0]}, which the base file has")
    added: dict[str, Any] = {}
    for key, value in wanted.items():
        before = base.get(key)
        if value == before:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            added[key] = _added(before, value, f"{where}.{key}")
        elif key in _JOINED_LISTS and isinstance(before, list):
            if any(item not in value for item in before):
                raise StackError(f"{where}.{key} lacks what the base file has")
            added[key] = [item for item in value if item not in before]
        else:
            added[key] = value
    return added


_BARE_KEY = re.compile(r"[A-Za-z0-9_.<-][A-Za-z0-9_.<-]*")


# A JSON document of one line is folded, which reads as the same line (YAML 1.2.2, 6.5): before each key and flag.
_LONGEST_LINE = 120
_FOLDABLE = re.compile(r"\{[ -~]*\}")
_BREAKS = re.compile(r', (?=\{?"(?:--|[a-z_]+": ))')


def _yaml(value: Any, indent: int, comments: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a mapping or a list; what is short and simple stands on one line."""
    blanks = " " * indent
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str) and len(item) > _LONGEST_LINE and _FOLDABLE.fullmatch(item):
                yield f"{blanks}- >-"
                yield from (f"{blanks}  {line}" for line in _BREAKS.sub(",\n", item).split("\n"))
            elif _is_flow(item, within_list=True):
                yield f"{blanks}- {_flow(item)}"
            else:
                first, *others = _yaml(item, indent + 2, comments)
                yield from (f"{blanks}- {first.lstrip()}", *others)
        return
    for key, inner in value.items():
        if key in comments:
            yield f"{blanks}# {comments.pop(key)}"
        name = key if _BARE_KEY.fullmatch(key) else quote_yaml(key)
        if inner is None:
            yield f"{blanks}{name}:"
        elif _is_flow(inner):
            yield f"{blanks}{name}: {_flow(inner)}"
        else:
            yield f"{blanks}{name}:"
            yield from _yaml(inner, indent + 2, comments)


def _is_flow(value: Any, *, within_list: bool = False) -> bool:
    if isinstance(value, dict | list):
        items = value.values() if isinstance(value, dict) else value
        if within_list and isinstance(value, dict):
            return not any(isinstance(item, dict | list) for item in items)
        return all(isinstance(item, Plain | int) for item in items)
    return True


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, Plain | int) else quote_yaml(value)
