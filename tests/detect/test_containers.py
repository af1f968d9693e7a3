"""The container engine: what its client says, and programs in its place that misbehave as it can."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.containers import (
    HOOK,
    NO_CONTAINERS,
    ContainerProbe,
    EngineAnswer,
    choose_gpu_access,
    describe_containers,
    parse_info,
    release,
)
from stackwright.detect.fact import Fact, Unread, is_plain
from stackwright.domain.host import Containers, GpuAccess

from tests.detect.conftest import PACKAGES

PATIENCE_S = 30
"""How long a process that was ended may take to be gone before the test fails; it sleeps for twice that."""

# The keys that are read, of `docker info --format '{{json .}}'` of Engine 20.10.24 under client 28.2.2.
INFO: dict[str, Any] = {
    "ServerVersion": "20.10.24+dfsg1",
    "Runtimes": {"io.containerd.runc.v2": {"path": "runc"}, "runc": {"path": "runc"}},
    "CDISpecDirs": None,
    "ClientInfo": {"Plugins": [{"Name": "buildx", "Version": "v0.24.0"}, {"Name": "compose", "Version": "2.26.1-4"}]},
}
# The same client without a daemon: a whole answer, all of it empty, and the reason on stderr.
NO_DAEMON = {"ServerVersion": "", "Runtimes": None, "CDISpecDirs": None, "ClientInfo": INFO["ClientInfo"]}
NO_DAEMON_SAYS = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n"
PODMAN = {
    "host": {"arch": "amd64", "ociRuntime": {"name": "crun"}},
    "version": {"Version": "5.4.2", "APIVersion": "5.4.2"},
}


def engine(**changes: Any) -> EngineAnswer:
    """Write what a plain Docker engine answers, with changes."""
    plain: dict[str, Any] = {
        "engine": "docker",
        "version": "28.2.2",
        "compose": "2.39.1",
        "runtimes": ("runc",),
        "cdi_folders": (),
        "cdi_devices": (),
    }
    return EngineAnswer(**(plain | changes))


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        (
            json.dumps(INFO),
            "",
            engine(version="20.10.24+dfsg1", compose="2.26.1-4", runtimes=("io.containerd.runc.v2", "runc")),
        ),
        (
            json.dumps(
                INFO
                | {
                    "ServerVersion": "29.4.0",
                    "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
                    "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}, {"Source": "x", "ID": "y"}, 7],
                    "ClientInfo": {"Plugins": [{"Name": "compose", "Version": "v2.39.1"}]},
                    "Runtimes": {"nvidia": {}},
                }
            ),
            "",
            engine(
                version="29.4.0",
                runtimes=("nvidia",),
                cdi_folders=("/etc/cdi", "/var/run/cdi"),
                cdi_devices=("nvidia.com/gpu=0",),
            ),
        ),
        (
            json.dumps(INFO | {"ClientInfo": {"Plugins": None}}),
            "",
            engine(version="20.10.24+dfsg1", compose=None, runtimes=("io.containerd.runc.v2", "runc")),
        ),
        (json.dumps(NO_DAEMON), NO_DAEMON_SAYS, Unread(words=NO_DAEMON_SAYS.strip())),
        (json.dumps(NO_DAEMON | {"ServerErrors": ["permission denied."]}), "", Unread(words="permission denied")),
        (json.dumps(NO_DAEMON), "", Unread(words="the client reports no server")),
        (
            json.dumps(PODMAN),
            "Emulate Docker CLI using podman.\n",
            engine(
                engine="podman",
                version="5.4.2",
                compose=None,
                runtimes=("crun",),
                cdi_folders=("/etc/cdi", "/var/run/cdi"),
            ),
        ),
        (
            "",
            "docker: 'info' is not a docker command.\nSee 'docker --help'\n",
            Unread(words="docker: 'info' is not a docker command"),
        ),
        ("{", "", Unread(words="the client's answer is not JSON")),
        ("[]", "\x1b[31m\n", Unread(words="the client's answer is not JSON")),
        ("[" * 100_000, "", Unread(words="the client's answer is not JSON")),
    ],
    ids=[
        "docker",
        "docker-cdi",
        "no-compose",
        "no-daemon",
        "errors",
        "nameless",
        "podman",
        "refused",
        "cut",
        "list",
        "deep",
    ],
)
def test_parse_info(stdout: str, stderr: str, expected: Fact[EngineAnswer]) -> None:
    """An engine, or the client's own reason why there is none."""
    assert parse_info(stdout, stderr) == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Name", "Version", "ID", "name"]), inner)
    ),
    max_leaves=6,
)
KEYS = [
    "ServerVersion",
    "Runtimes",
    "CDISpecDirs",
    "DiscoveredDevices",
    "ClientInfo",
    "ServerErrors",
    "host",
    "version",
]


@given(
    info=st.dictionaries(st.sampled_from(KEYS), values) | values, stderr=st.text(max_size=40), text=st.text(max_size=9)
)
def test_any_answer_is_an_engine_or_a_reason(info: object, stderr: str, text: str) -> None:
    """Whatever a client prints, what enters the host is plain, and a reason is one line."""
    for stdout in (json.dumps(info), text):
        answer = parse_info(stdout, stderr)
        if isinstance(answer, Unread):
            assert is_plain(answer.words)
        else:
            assert all(value is None or is_plain(value) for value in (answer.engine, answer.version, answer.compose))


@pytest.mark.parametrize(
    ("answer", "has_cdi", "has_hook", "expected"),
    [
        (engine(), False, False, GpuAccess.NONE),
        (engine(), False, True, GpuAccess.RUNTIME),
        (engine(runtimes=("nvidia", "runc")), False, False, GpuAccess.RUNTIME),
        # Before 29.2 a request for NVIDIA devices takes the hook where there is one; from then on CDI.
        (engine(version="28.2.2"), True, True, GpuAccess.RUNTIME),
        (engine(version="29.1.9"), True, True, GpuAccess.RUNTIME),
        (engine(version="29.2.0"), True, True, GpuAccess.CDI),
        (engine(version="29.2.0"), False, True, GpuAccess.RUNTIME),
        (engine(version="28.2.2"), True, False, GpuAccess.CDI),
        (engine(engine="podman", version="5.4.2"), True, True, GpuAccess.CDI),
        (engine(engine="podman", version="5.4.2"), False, False, GpuAccess.NONE),
    ],
)
def test_gpu_access(answer: EngineAnswer, has_cdi: bool, has_hook: bool, expected: GpuAccess) -> None:
    """The way that a request for devices takes on this engine."""
    assert choose_gpu_access(answer, has_cdi=has_cdi, has_hook=has_hook) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [("28.2.2", (28, 2)), ("20.10.24+dfsg1", (20, 10)), ("v29.2", (29, 2)), ("dev", (0, 0)), (None, (0, 0))],
)
def test_release(version: str | None, expected: tuple[int, int]) -> None:
    """Major and minor of every spelling."""
    assert release(version) == expected


CDI_YAML = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("nvidia.yaml", CDI_YAML, GpuAccess.CDI),
        ("nvidia.json", '{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[]}', GpuAccess.CDI),
        (
            "nvidia.json",
            '{\n  "cdiVersion": "0.5.0",\n  "kind": "nvidia.com/gpu",\n  "devices": []\n}\n',
            GpuAccess.CDI,
        ),
        ("nvidia.yaml", CDI_YAML.replace("nvidia.com/gpu", '"nvidia.com/gpu"'), GpuAccess.CDI),
        ("nvidia.yaml.bak", CDI_YAML, GpuAccess.NONE),
        ("other.yaml", CDI_YAML.replace("nvidia.com/gpu", "nvidia.com/imex-channel"), GpuAccess.NONE),
        ("other.yaml", CDI_YAML.replace("nvidia.com/gpu", "nvidia.com/gpu-shared"), GpuAccess.NONE),
    ],
)
def test_cdi_specification_is_found(tmp_path: Path, name: str, text: str, expected: GpuAccess) -> None:
    """A specification for NVIDIA's GPUs in a folder that the engine reads, and only there."""
    (tmp_path / "etc/cdi").mkdir(parents=True)
    (tmp_path / "etc/cdi" / name).write_text(text)
    on = engine(version="29.2.0", cdi_folders=("/etc/cdi", "/var/run/cdi"))
    assert describe_containers(on, tmp_path, {})[0].gpu_access == expected
    off = engine(version="29.2.0", cdi_folders=())
    assert describe_containers(off, tmp_path, {})[0].gpu_access == GpuAccess.NONE


def test_devices_that_the_engine_discovered_need_no_folder(tmp_path: Path) -> None:
    """Engine 28.2 and later lists what CDI offers; a remote one's folders cannot be read."""
    answer = engine(version="29.2.0", cdi_devices=("nvidia.com/gpu=all",))
    assert describe_containers(answer, tmp_path, {})[0].gpu_access == GpuAccess.CDI


@pytest.mark.parametrize(
    ("docker_host", "expected"),
    [
        (None, GpuAccess.RUNTIME),
        ("unix:///run/x.sock", GpuAccess.RUNTIME),
        ("ssh://far", GpuAccess.NONE),
        ("tcp://far:1", GpuAccess.NONE),
    ],
)
def test_hook_counts_for_an_engine_on_this_machine(
    tmp_path: Path, docker_host: str | None, expected: GpuAccess
) -> None:
    """The hook on PATH says nothing of an engine elsewhere."""
    write_program(tmp_path / HOOK, "exit 0")
    environment = {"PATH": str(tmp_path)} | ({} if docker_host is None else {"DOCKER_HOST": docker_host})
    assert describe_containers(engine(), tmp_path / "root", environment)[0].gpu_access == expected


def test_what_is_said_of_an_engine(tmp_path: Path) -> None:
    """No client is no warning; a client without an engine is one; an engine without Compose is another."""
    assert describe_containers(None, tmp_path, {}) == (NO_CONTAINERS, ())
    assert describe_containers(Unread(words="no answer"), tmp_path, {}) == (
        NO_CONTAINERS,
        ("container engine: no engine answers the docker client: no answer",),
    )
    assert describe_containers(engine(compose=None), tmp_path, {}) == (
        Containers(engine="docker", version="28.2.2", compose=None, gpu_access=GpuAccess.NONE),
        ("container engine: docker has no Compose plugin",),
    )


def write_program(path: Path, script: str) -> None:
    """Write a shell script that can be run by name."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, None),
        (f"cat <<'END'\n{json.dumps(INFO)}\nEND", parse_info(json.dumps(INFO), "")),
        (f"echo '{json.dumps(NO_DAEMON)}'; echo refused >&2; exit 1", Unread(words="refused")),
        ('[ "$*" = "info --format {{json .}}" ] && echo asked rightly >&2', Unread(words="asked rightly")),
        ("printf '\\377\\376'; printf '\\377' >&2", Unread(words="\ufffd")),
        ("exit 3", Unread(words="the client's answer is not JSON")),
    ],
    ids=["absent", "answers", "no-daemon", "arguments", "bytes", "silent"],
)
def test_client_is_run(tmp_path: Path, script: str | None, expected: Fact[EngineAnswer] | None) -> None:
    """A program named docker on PATH is asked; its absence is no failure."""
    if script is not None:
        write_program(tmp_path / "docker", script)
    assert ask({"PATH": f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path)}) == expected


@pytest.mark.subprocess
def test_client_that_cannot_be_run(tmp_path: Path) -> None:
    """A file of that name that is not a program keeps the system's words."""
    (tmp_path / "docker").write_text("")
    assert ask({"PATH": str(tmp_path)}) == Unread(words="Permission denied")


def ask(environment: dict[str, str]) -> Fact[EngineAnswer] | None:
    """Ask the client that this environment has."""
    probe = ContainerProbe()
    probe.start(environment)
    return probe.finish()


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """Write a client that never answers and has started another program; it reports both by number to `started`."""
    os.mkfifo(tmp_path / "started")
    write_program(tmp_path / "docker", f'sleep 60 & echo "$! $$" > {tmp_path / "started"}; wait')
    return tmp_path


@pytest.mark.subprocess
@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_client_that_hangs_is_ended_with_its_children(hanging: Path, end: str) -> None:
    """A daemon that never answers costs the limit, and leaves neither the client nor what it started."""
    probe = ContainerProbe(timeout_s=0.01)
    probe.start({"PATH": f"{hanging}:/bin:/usr/bin"})
    with watch_processes(hanging / "started") as ended:
        if end == "finish":
            assert probe.finish() == Unread(words="no answer in 0.01 seconds")
        else:
            probe.cancel()
        assert ended()


@pytest.mark.subprocess
def test_interrupt_ends_the_client(hanging: Path) -> None:
    """Ctrl-C while the client hangs ends detection at once, and the client with it."""
    # Where the tests run in the background, a shell may have made them ignore the signal.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    detection = subprocess.Popen(
        [sys.executable, "-c", f"{listen}; from stackwright.detect.host import detect_host; detect_host()"],
        cwd=PACKAGES,
        env={"PATH": f"{hanging}:/bin:/usr/bin"},
        stderr=subprocess.PIPE,
    )
    with watch_processes(hanging / "started") as ended:
        detection.send_signal(signal.SIGINT)
        _, stderr = detection.communicate()
        assert b"KeyboardInterrupt" in stderr
        assert ended()


@contextmanager
def watch_processes(started: Path) -> Iterator[Callable[[], bool]]:
    """Wait until a hanging client reports its processes; give what tells whether all of them end."""
    descriptors = [os.pidfd_open(int(number)) for number in started.read_text().split()]
    try:
        # A process that is ended closes its files first and is gone a moment later: wait for that, not for a time.
        yield lambda: all(select.select([descriptor], [], [], PATIENCE_S)[0] for descriptor in descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
