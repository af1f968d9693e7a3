"""A container engine of the test's own, which may be killed: data, socket and networks apart from every other's.

It runs in a network namespace of its own: bridges and packet filter of an engine beside it stay as they are (a dockerd
without a default bridge, for one, deletes the machine's docker0). Containers reach each other; nothing is published or
reaches outside. Touches its folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.integration.project import wait_until
from tests.integration.testbed import wait_for_engine

STOP_S = 60
# Starts and never gets ready: the place of an engine whose daemon dies before it could.
STAND_IN = """FROM {image}
USER 0
RUN printf '#!/bin/sh\\nexec sleep 86400\\n' > /usr/local/bin/stand-in && chmod 755 /usr/local/bin/stand-in
ENV PYTHON=/usr/local/bin/stand-in
"""


class Daemon:
    """One dockerd. `host` is its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        folder = self._folder
        command: list[str | Path] = ["unshare", "--net", "dockerd", "--host", self.host]
        command += ["--pidfile", folder / "docker.pid"]
        command += ["--data-root", folder / "data", "--exec-root", folder / "exec"]
        log = folder / "dockerd.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            )
        wait_for_engine(self._process, self.host, log)

    def end(self, number: signal.Signals) -> None:
        """End it by a signal, and wait until it is gone, its containerd too; what runs in containers may go on."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for name in ("docker.pid", "exec/containerd/containerd.pid"):
            (self._folder / name).unlink(missing_ok=True)
        for pid in self._programs("containerd "):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._programs("containerd ") or None)

    def remove(self) -> None:
        """End it and everything that its containers still run, and unmount what it has mounted."""
        self.end(signal.SIGTERM)
        for shim in self._programs("containerd-shim"):
            for child in children_of(shim):
                for grandchild in children_of(child):
                    os.kill(grandchild, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
            os.kill(shim, signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((each for each in mounts if each.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)

    def _programs(self, name: str) -> list[int]:
        """Return the processes of a program that works on this engine's folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().replace(bytes(1), b" ").decode(errors="replace")
            except OSError:  # ended meanwhile
                continue
            found += [int(entry.name)] if name in words and str(self._folder) in words else []
        return found

    def take(self, image: str, source: str) -> None:
        """Copy an image from the engine at `source`."""
        with subprocess.Popen(
            ["docker", "save", image], stdout=subprocess.PIPE, env={**os.environ, "DOCKER_HOST": source}
        ) as saving:
            run_into(["docker", "load", "--quiet"], saving, self.host)
        assert saving.returncode == 0

    def build_stand_in(self, image: str, tag: str) -> None:
        """Build an engine that never gets ready from an image that is here."""
        subprocess.run(
            ["docker", "build", "--quiet", "--network=none", "--tag", tag, "-"],
            input=STAND_IN.format(image=image).encode(),
            check=True,
            capture_output=True,
            env={**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"},
        )


def run_into(command: list[str], source: subprocess.Popen[bytes], host: str) -> None:
    """Run a docker command on what another one writes."""
    subprocess.run(
        command, stdin=source.stdout, check=True, capture_output=True, env={**os.environ, "DOCKER_HOST": host}
    )


def children_of(parent: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        found += [int(entry.parent.name)] if int(fields[1]) == parent else []
    return found
