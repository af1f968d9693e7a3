"""A container engine of the test's own, which may be killed: data, socket and networks apart from every other's.

It keeps its hands off the machine's packet filter and has no default bridge, so an engine beside it is not disturbed.
Containers reach each other, and nothing is published or reaches outside. Touches its folder.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

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
        command: list[str | Path] = ["dockerd", "--host", self.host, "--pidfile", folder / "docker.pid"]
        command += ["--data-root", folder / "data", "--exec-root", folder / "exec"]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        command += ["--default-address-pool", "base=10.213.0.0/16,size=24"]
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
        """End it by a signal, and wait until it is gone."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        (self._folder / "docker.pid").unlink(missing_ok=True)

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
