"""The container engine that answers, its Compose plugin, and how it hands GPUs to containers.

Runs the `docker` client (found on PATH, by the person's own context and DOCKER_HOST) and reads CDI folders below a root
folder; read-only. The parsers are pure.

Not by way of `runtime.docker`, as everything else: importing python-on-whales takes longer than the whole of detection,
and this one question goes on while the rest of the machine is looked at, and is given up where the daemon hangs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from stackwright.detect.fact import Fact, Unread, is_plain, plain_text, read_file
from stackwright.domain.host import Containers, GpuAccess

TIMEOUT_S = 10.0

HOOK = "nvidia-container-runtime-hook"
"""Docker offers its `nvidia` device driver where the daemon finds this program (moby, daemon/nvidia_linux.go)."""

CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
"""Where CDI specifications live unless an engine says otherwise (CNCF CDI specification, 0.8)."""

CDI_FIRST = (29, 2)
"""From this Docker release on, a request for NVIDIA devices takes CDI before the hook (moby pull request 50228)."""

PODMANS_LAST = 16
"""Docker Engine's numbers begin at 17 (2017-03), Podman's have come to 6: its Docker API tells its own as the server's
(Podman 4.3.1 and 5.4, pkg/api/handlers/compat/info.go), and the client drops what else would tell."""

ENFORCING = "/sys/fs/selinux/enforce"

NO_CONTAINERS = Containers(engine=None, version=None, compose=None, gpu_access=None)


class EngineAnswer(Struct, frozen=True, kw_only=True):
    """What the client said of its engine. `cdi_folders` is empty where the engine has CDI switched off.

    `security` are its options, such as `name=rootless`; `proxies` what its own downloads take, as variables.
    """

    engine: str
    version: str | None
    compose: str | None
    runtimes: tuple[str, ...]
    cdi_folders: tuple[str, ...]
    cdi_devices: tuple[str, ...]
    security: tuple[str, ...] = ()
    proxies: Mapping[str, str] = field(default_factory=dict)


class ContainerProbe:
    """Asks the client in the background: begun at once, so that the rest of detection runs meanwhile.

    `finish` leaves no process behind; `cancel` does so in its place, also where it was interrupted.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare to ask; nothing runs before `start`."""
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: Unread | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        """Run `docker info`, with the client on this environment's PATH: it tells all."""
        # Ctrl-C between the start and the assignment would lose the process: it waits that long.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                ["docker", "info", "--format", "{{json .}}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                # A group of its own, so that the plugins which the client starts end with it.
                start_new_session=True,
            )
        except FileNotFoundError:
            pass
        except OSError as failure:
            self._failure = Unread(words=failure.strerror or "cannot run the docker client")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def finish(self) -> Fact[EngineAnswer] | None:
        """Wait for the answer; None where the machine has no client."""
        if self._process is None:
            return self._failure
        try:
            stdout, stderr = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self.cancel()
            return Unread(words=f"no answer in {self._timeout_s:g} seconds")
        return parse_info(stdout.decode("utf-8", errors="replace"), stderr.decode("utf-8", errors="replace"))

    def cancel(self) -> None:
        """End the client and what it started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def describe_containers(
    answer: Fact[EngineAnswer] | None, root: Path, environment: Mapping[str, str]
) -> tuple[Containers, tuple[str, ...]]:
    """Name the engine and how it reaches GPUs, with the sentences that a person should read."""
    if answer is None:
        return NO_CONTAINERS, ()
    if isinstance(answer, Unread):
        return NO_CONTAINERS, (f"container engine: no engine answers the docker client: {answer.words}",)
    warnings = [] if answer.compose else [f"container engine: {answer.engine} has no Compose plugin"]
    containers = Containers(
        engine=answer.engine,
        version=answer.version,
        compose=answer.compose,
        gpu_access=choose_gpu_access(answer, has_cdi=_has_cdi(answer, root), has_hook=_has_hook(root, environment)),
        rootless="name=rootless" in answer.security or None,
        # Where the kernel is merely permissive, it only writes down what it would refuse.
        selinux=(_labels(answer) and read_file(root, ENFORCING) == "1") or None,
    )
    return containers, tuple(warnings)


def _labels(answer: EngineAnswer) -> bool:
    """Return whether the engine labels containers for SELinux; Podman always does, and its API does not say so."""
    return answer.engine == "podman" or "name=selinux" in answer.security


def choose_gpu_access(answer: EngineAnswer, *, has_cdi: bool, has_hook: bool) -> GpuAccess:
    """Decide which way a request for NVIDIA devices takes on this engine.

    Args:
        answer: the engine.
        has_cdi: it has CDI switched on, and a specification for nvidia.com/gpu exists.
        has_hook: NVIDIA's hook is installed where the engine finds it.
    """
    has_runtime = has_hook or "nvidia" in answer.runtimes
    prefers_cdi = answer.engine != "docker" or release(answer.version) >= CDI_FIRST
    if has_cdi and (prefers_cdi or not has_runtime):
        return GpuAccess.CDI
    return GpuAccess.RUNTIME if has_runtime else GpuAccess.NONE


def parse_info(stdout: str, stderr: str) -> Fact[EngineAnswer]:
    """Read `docker info --format '{{json .}}'`, or the reason why no engine is behind the client."""
    try:
        info = json.loads(stdout)
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        return Unread(words=_first_line(stderr) or "the client's answer is not JSON")
    podman = _mapping(info.get("version"))
    if "host" in info and podman:
        return _parse_podman(info, podman)
    version = _text(info.get("ServerVersion"))
    if version is None:
        errors = info.get("ServerErrors")
        said = _first_line(stderr) or _first_line(str(errors[0]) if isinstance(errors, list) and errors else "")
        return Unread(words=said or "the client reports no server")
    is_podman = 0 < release(version)[0] <= PODMANS_LAST
    return EngineAnswer(
        engine="podman" if is_podman else "docker",
        version=version,
        compose=_parse_compose(_mapping(info.get("ClientInfo")).get("Plugins")),
        runtimes=tuple(sorted(str(name) for name in _mapping(info.get("Runtimes")))),
        cdi_folders=CDI_FOLDERS if is_podman else _texts(info.get("CDISpecDirs")),
        cdi_devices=_parse_cdi_devices(info.get("DiscoveredDevices")),
        security=_texts(info.get("SecurityOptions")),
        proxies={
            name: text
            for name, key in (("HTTPS_PROXY", "HttpsProxy"), ("HTTP_PROXY", "HttpProxy"), ("NO_PROXY", "NoProxy"))
            if isinstance(text := info.get(key), str)
        },
    )


def _parse_podman(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineAnswer:
    """Podman's `docker` shim answers in its own form; it always reads CDI specifications (4.1 and later)."""
    host = _mapping(info.get("host"))
    runtime, is_rootless = _mapping(host.get("ociRuntime")).get("name"), _mapping(host.get("security")).get("rootless")
    return EngineAnswer(
        engine="podman",
        version=_text(version.get("Version")),
        compose=None,
        runtimes=(runtime,) if isinstance(runtime, str) else (),
        cdi_folders=CDI_FOLDERS,
        cdi_devices=(),
        security=("name=rootless",) if is_rootless is True else (),
    )


def release(version: str | None) -> tuple[int, int]:
    """Return major and minor of `28.2.2` or `20.10.24+dfsg1`; (0, 0) where a version names none."""
    numbers = re.match(r"v?([0-9]{1,6})\.([0-9]{1,6})", version or "")
    return (int(numbers.group(1)), int(numbers.group(2))) if numbers else (0, 0)


def _parse_compose(plugins: object) -> str | None:
    for plugin in plugins if isinstance(plugins, list) else []:
        if isinstance(plugin, dict) and plugin.get("Name") == "compose":
            return _text(str(plugin.get("Version", "")).removeprefix("v"))
    return None


def _parse_cdi_devices(devices: object) -> tuple[str, ...]:
    """Read what Engine 28.2 and later discovered: `{"Source": "cdi", "ID": "nvidia.com/gpu=0"}`."""
    rows = [row for row in devices if isinstance(row, dict)] if isinstance(devices, list) else []
    return tuple(row["ID"] for row in rows if row.get("Source") == "cdi" and isinstance(row.get("ID"), str))


def _has_cdi(answer: EngineAnswer, root: Path) -> bool:
    if any(device.startswith("nvidia.com/gpu=") for device in answer.cdi_devices):
        return True
    return any(_names_gpus(root, folder) for folder in answer.cdi_folders)


def _names_gpus(root: Path, folder: str) -> bool:
    """Return whether a CDI folder holds a specification for `nvidia.com/gpu`, written in YAML or JSON."""
    try:
        files = sorted(path for path in (root / folder.lstrip("/")).iterdir() if path.suffix in {".yaml", ".json"})
    except (OSError, ValueError):
        return False
    kind = re.compile(r"""^[\s{]*"?kind"?\s*:\s*["']?nvidia\.com/gpu["']?\s*,?\s*$""", flags=re.MULTILINE)
    for path in files:
        text = read_file(root, str(path.relative_to(root)))
        if not isinstance(text, Unread) and (kind.search(text) or '"kind":"nvidia.com/gpu"' in text):
            return True
    return False


def _has_hook(root: Path, environment: Mapping[str, str]) -> bool:
    """Look for the hook where a daemon on this machine would; one elsewhere (tcp, ssh) has its own programs."""
    if not environment.get("DOCKER_HOST", "unix:").startswith("unix:"):
        return False
    if shutil.which(HOOK, path=environment.get("PATH", "")) is not None:
        return True
    return os.access(root / "usr/bin" / HOOK, os.X_OK)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = plain_text(lines[0][:LONGEST_WORDS].rstrip(".")) if lines else ""
    return "" if isinstance(line, Unread) else line


LONGEST_WORDS = 180


def _text(value: object) -> str | None:
    """Return a short printable text, or None."""
    return value if isinstance(value, str) and is_plain(value) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
