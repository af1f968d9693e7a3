"""What validation sees from the host must hold in the container: the way out, folders, locks.

The look starts one short-lived container of the engine's image, as Compose would, and asks everything in it. Nothing is
pulled, and no network of the stack is made.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct, field

from stackwright.detect.capacity import file_system_kind
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.host import Host, Network
from stackwright.domain.machine import HubAnswer, Seen, Unseen
from stackwright.domain.plan import Plan
from stackwright.models import outlook
from stackwright.models.cache import snapshot_in
from stackwright.models.reach import config_url, hub_of, read_answer
from stackwright.project.pasting import PRESENT_NETWORK
from stackwright.runtime import ClientAnswer, Stack
from stackwright.runtime.docker import ask, reason_of
from stackwright.runtime.trial import container_words, mount_word, run_in_container, variables_in_container
from stackwright.services import outside
from stackwright.validation.check import IN_CONTAINERS, Check, Machine, Observation, Subject
from stackwright.validation.compose_config import MERGED
from stackwright.validation.containers import ASKED_S, CONTAINER_ENGINE, STARTED_S, ContainerEngine
from stackwright.validation.files import text_of
from stackwright.validation.model import MODELS, OFFLINE, InspectedModel, check_hub

GUIDE = "docs/how-to/locked-down.md"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
# File systems whose files lie on another machine (filesystems(5), mount.nfs(8), mount.cifs(8), and their projects').
FAR = frozenset(
    "nfs nfs4 cifs smb3 smbfs ceph 9p lustre beegfs gpfs afs fuse.glusterfs fuse.sshfs fuse.s3fs fuse.rclone "
    "fuse.juicefs fuse.ceph".split()
)
# As a start script, then our questions; Python's text and the questions are arguments of the shell.
LOOK = 'set -eu; secrets=/run/secrets; [ -z "${OUTSIDE:-}" ] || . "$OUTSIDE"; exec python3 -c "$0" "$1"'


class Outlook(Struct, frozen=True, kw_only=True):
    """What was seen from where the engine runs: each model's hub by its location; folders, each with what is wrong."""

    hubs: Mapping[str, Seen[HubAnswer]] = field(default_factory=dict)
    unwritable: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unlocked: Mapping[str, str] = field(default_factory=dict)


class Authorities(Struct, frozen=True, kw_only=True):
    """The file of further certificate authorities: there, readable for the stack's user, PEM."""

    path: str
    readable: bool
    is_pem: bool


def check_network(plan: Plan, env: Mapping[str, str], host: Host, *, compose: bool) -> Iterator[Finding]:
    """Find a proxy that no container reaches, and what this host needs and the rendered files lack."""
    name = plan.environment.value
    if compose and urllib.parse.urlsplit(env.get(outside.PROXY, "")).hostname in LOOPBACK:
        yield error(
            "proxy-loopback",
            found=f"{outside.PROXY}={env[outside.PROXY]}, which in a container is the container itself",
            expected="a proxy that listens on an address of this machine's network",
            fix=f"let it listen there too, then `configure-gpu {name} --set {outside.PROXY}=http://ADDRESS:PORT`",
        )
    network = host.network or Network()
    needed = {outside.PROXY: network.proxy, outside.CERTIFICATES: network.certificates, outside.HUB: network.hub}
    for key, value in needed.items():
        if value and key not in env:
            yield warning(
                "network-changed",
                found=f"this host has {key}={value[:120]}, and the rendered files have none",
                expected="files rendered for the network as it is",
                fix=f"{PRESENT_NETWORK}`configure-gpu {name}`",
            )


def check_authorities(authorities: Authorities | None) -> Iterator[Finding]:
    """Find a file of authorities that the engine cannot read, or that is not PEM."""
    if authorities is None or (authorities.readable and authorities.is_pem):
        return
    shown = f"{outside.CERTIFICATES}={authorities.path[:120]}"
    if not authorities.readable:
        fix = f"`chmod a+r {authorities.path}`, or name another file"
        found = f"{shown}: no file that the stack's user can read"
        yield error("authorities-unreadable", found=found, expected="a file readable for STACKWRIGHT_UID", fix=fix)
        return
    yield error(
        "authorities-format",
        found=f"{shown} holds no certificate in PEM form",
        expected="lines between BEGIN CERTIFICATE and END CERTIFICATE",
        fix=f"convert it: `openssl x509 -inform der -in {authorities.path} -out authority.pem`, and name that file",
    )


def check_outlook(plan: Plan, env: Mapping[str, str], host: Host, seen: Seen[Outlook] | None) -> Iterator[Finding]:
    """Find folders that the host shows and a container does not."""
    if isinstance(seen, Unseen):
        yield not_checked("what a container sees", seen.why, plan.environment.value)
    elif seen is not None:
        expected = f"a folder for user {env['STACKWRIGHT_UID']} of the containers"
        fix = _fix_of_folders(host, env)
        for folder, why in seen.unwritable.items():
            found = f"a container cannot write into {folder}: {why}"
            yield error("inside-unwritable", found=found, expected=expected, fix=fix)
        for why in seen.unreadable.values():
            yield error("inside-unreadable", found=f"a container cannot read {why}", expected=expected, fix=fix)


def _fix_of_folders(host: Host, env: Mapping[str, str]) -> str:
    if host.containers.selinux and outside.LABEL not in env:
        return f"`configure-gpu` again, which sets {outside.LABEL}; see {GUIDE}"
    if host.containers.rootless and env["STACKWRIGHT_UID"] != "0":
        return f"`configure-gpu` again: with a rootless engine STACKWRIGHT_UID is 0; see {GUIDE}"
    return f"`chown -R {env['STACKWRIGHT_UID']}` it; on NFS the server may map users (root_squash); see {GUIDE}"


def check_far_folders(
    plan: Plan, kinds: Mapping[str, str], seen: Seen[Outlook] | None, *, compose: bool
) -> Iterator[Finding]:
    """Find caches on another machine's disk: slow to load from, and of no use where locks do not hold.

    `kinds`: the file systems of those folders, by path. Under Compose `check_outlook` tells what could not be seen.
    """
    if isinstance(seen, Unseen) and not compose:
        yield not_checked("locks of the caches", seen.why, plan.environment.value)
    unlocked = seen.unlocked if isinstance(seen, Outlook) else {}
    for folder, kind in kinds.items():
        if folder in unlocked:
            yield error(
                "cache-locks",
                found=f"{folder} is on {kind}, where file locks fail: {unlocked[folder]}",
                expected="working locks: a download waits for one for ever",
                fix="mount it with locks (NFS 4, or `local_lock=flock`; CIFS without `nobrl`), or use a local HF_HOME",
            )
        else:
            yield warning(
                "cache-far",
                found=f"{folder} is on {kind}, another machine's disk",
                expected="a local disk: weights and compiled kernels load at the network's speed",
                fix=f"export HF_HOME as a local folder, then `configure-gpu {plan.environment.value}`",
            )


def inspect_authorities(stack: Stack) -> Authorities | None:
    """Look at the file of further authorities; None where the stack has none."""
    path = stack.env.get(outside.CERTIFICATES)
    if path is None:
        return None
    text, mode = text_of(Path(path)), Path(path).stat().st_mode if Path(path).exists() else 0
    others = bool(mode & 0o004) or stack.env["STACKWRIGHT_UID"] in (str(os.getuid()), "0")
    is_pem = text is not None and "-----BEGIN CERTIFICATE-----" in text.replace("TRUSTED ", "")
    return Authorities(path=path, readable=text is not None and others, is_pem=is_pem)


def find_far_folders(stack: Stack) -> dict[str, str]:
    """Return the caches and local models that lie on another machine, each with its file system."""
    folders = (stack.env["HF_HOME"], stack.env[stack.engine.keys.cache_folder])
    kinds = {folder: file_system_kind(Path(folder)) for folder in dict.fromkeys(folders)}
    return {folder: kind for folder, kind in kinds.items() if kind in FAR}


def inspect_outlook(machine: Machine) -> Seen[Outlook] | None:
    """Look from where the engine runs; None where nothing is to be asked, or no container can be had now.

    That is while the stack runs, or before its image is here.
    """
    stack, seen = machine.stack, machine.see(MODELS)
    models = () if isinstance(seen, Unseen) else seen
    far = tuple(find_far_folders(stack))
    containers = machine.host.containers
    special = containers.rootless or containers.selinux or containers.engine == "podman" or machine.host.os.container
    if not machine.compose:
        return _look_here(far) if far else None
    if not (special or far or outside.KEYS & stack.env.keys() or any(model.hub is not None for model in models)):
        return None
    engine, merged = machine.see(CONTAINER_ENGINE), machine.see(MERGED)
    if machine.runs or not isinstance(engine, ContainerEngine) or not isinstance(merged, dict):
        return None
    return look_inside(stack, merged, models, far) if engine.has_engine_image else None


def _check_hubs(
    on: Subject, models: tuple[InspectedModel, ...], offline: bool, seen: Seen[Outlook] | None
) -> Iterator[Finding]:
    """Check the hub as the engine will meet it: what a container was told counts more than what the host was."""
    has_token = any(model.has_token for model in models)
    hubs = seen.hubs if isinstance(seen, Outlook) else {}
    for model in models:
        location, files = model.location, model.files
        if not (location.startswith("/") or isinstance(files, Unseen) or files.complete or files.problem):
            hub = hubs.get(location, model.hub)
            yield from check_hub(on.plan, location, hub, gated=model.gated, has_token=has_token, offline=offline)


def _look_here(far: tuple[str, ...]) -> Seen[Outlook]:
    """Try the locks as a process of this user does; one that never comes must hold nobody back."""
    questions: dict[str, object] = {"urls": [], "write": [], "read": [], "lock": far, "token": None}
    return _read(ask([sys.executable, "-c", _program(), json.dumps(questions)], ASKED_S), {}, "")


def look_inside(
    stack: Stack, merged: Mapping[str, Any], models: tuple[InspectedModel, ...], far: tuple[str, ...]
) -> Seen[Outlook]:
    """Start a container as Compose would start the first engine, without its GPUs and networks, and look around.

    It is given the folders of every engine: each may serve a model of its own.
    """
    services = [merged["services"][engine.name] for engine in stack.plan.engines]
    volumes = {volume["target"]: volume for service in services for volume in service.get("volumes") or ()}
    service = {**services[0], "volumes": [*volumes.values()]}
    variables = variables_in_container(service)
    urls = {model.location: config_url(model.location, variables) for model in models if model.hub is not None}
    caches = (stack.env["HF_HOME"], stack.env[stack.engine.keys.cache_folder])
    questions = {
        "urls": [*urls.values()],
        "write": [*dict.fromkeys(caches)],
        "read": [folder for model in models if (folder := _folder_of(model))],
        "lock": far,
        "token": "/run/secrets/hf_token",
    }
    words = [*container_words(service), *secret_words(service, merged), "--entrypoint=/bin/sh", service["image"]]
    words += ["-c", LOOK, _program(), json.dumps(questions)]
    answer = run_in_container(["docker"], f"{stack.name}-look", words, variables, "", STARTED_S)
    return _read(answer, urls, hub_of(variables))


def secret_words(service: Mapping[str, Any], merged: Mapping[str, Any]) -> Iterator[str]:
    """Yield the options that give a container the secrets of a service of the merged file."""
    for secret in service.get("secrets") or ():
        # A target is a whole path from some release of Compose on, a name before.
        target = PurePosixPath("/run/secrets", secret.get("target") or secret["source"])
        yield mount_word(merged["secrets"][secret["source"]]["file"], str(target), read_only=True)


def _folder_of(model: InspectedModel) -> str | None:
    """Return the folder whose files the engine will load; None of what is yet to be downloaded."""
    if isinstance(model.files, Unseen) or not model.files.complete or model.files.folder is None:
        return None
    snapshot = None if model.location.startswith("/") else snapshot_in(Path(model.files.folder))
    return model.files.folder if snapshot is None else str(snapshot)


@cache
def _program() -> str:
    return inspect.getsource(outlook)


def _read(answer: ClientAnswer, urls: Mapping[str, str], hub: str) -> Seen[Outlook]:
    """Read what the program said; `urls` are those that it asked, by the model's location."""
    if answer.code != 0:
        return Unseen(why=reason_of(answer.err))
    said = json.loads(answer.out.strip().splitlines()[-1])
    hubs = {location: read_answer(hub, said["urls"][url]) for location, url in urls.items()}
    return Outlook(hubs=hubs, unwritable=said["write"], unreadable=said["read"], unlocked=said["lock"])


AUTHORITIES = Observation(take=lambda machine: inspect_authorities(machine.stack))
OUTLOOK = Observation(take=inspect_outlook, waits=True, may_fail=True)
FAR_FOLDERS = Observation(take=lambda machine: find_far_folders(machine.stack))


NETWORK = Check(
    name="network",
    about="the proxy, and whether the rendered files fit the network as this host is told of it now",
    findings=tuple("proxy-loopback network-changed".split()),
    rule=lambda on: check_network(on.plan, on.env, on.host, compose=on.compose),
)


AUTHORITIES_FILE = Check(
    name="certificate authorities",
    about="the file of further authorities: readable for the stack's user, PEM",
    findings=tuple("authorities-unreadable authorities-format".split()),
    rule=lambda _, authorities: check_authorities(authorities),
    observations=(AUTHORITIES,),
)


HUB = Check(
    name="hub",
    about=(
        "a model to download: hub or mirror reachable (from a real container where one can be had), name known, token "
        "valid; HF_HUB_OFFLINE is respected"
    ),
    findings=tuple("model-missing model-gated model-unknown model-unreachable clock".split()),
    rule=_check_hubs,
    observations=(MODELS, OFFLINE, OUTLOOK),
)


INSIDE = Check(
    name="inside a container",
    about=(
        "caches and models as a real container of the engine's image sees them, where a proxy, a download, SELinux, "
        "a rootless engine, Podman or a network file system could make a difference"
    ),
    findings=tuple("inside-unwritable inside-unreadable".split()),
    rule=lambda on, seen: check_outlook(on.plan, on.env, on.host, seen),
    observations=(OUTLOOK,),
    when=IN_CONTAINERS,
)


CACHES = Check(
    name="caches",
    about="caches on a network file system, and their locks",
    findings=tuple("cache-far cache-locks".split()),
    rule=lambda on, kinds, seen: check_far_folders(on.plan, kinds, seen, compose=on.compose),
    observations=(FAR_FOLDERS, OUTLOOK),
)
