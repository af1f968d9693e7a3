"""One project folder under test: the command line run on it as a person would, and what the engine says of it.

Touches its folder, the container engine, and loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from msgspec import Struct, field
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.testbed import FOLDER

CHECKOUT = Path(__file__).resolve().parents[2]
# An address where no container engine listens.
NO_ENGINE = "unix:///nonexistent/docker.sock"
# A start on two cores takes one to two minutes; a machine that builds beside it takes longer.
START_S = 600
T = TypeVar("T")
PORTS = range(12_000, 32_000)
# Of the model of `write_long_model`, one such request needs more than a GiB of KV cache. No check can know it before
# the engine has measured its memory: 2 layers × 2 heads × 32 × keys and values × 2 bytes are 512 bytes a token.
TOO_MUCH = "VLLM_MAX_MODEL_LEN=2200000\nVLLM_CPU_KVCACHE_SPACE=1\n"


class Project(Struct, frozen=True, kw_only=True):
    """A folder of its own, with its own Compose project name, port and caches.

    `variables` is the whole environment that commands run in.
    """

    folder: Path
    variables: Mapping[str, str]
    port: int
    name: str = field(default_factory=lambda: f"swtest-{uuid.uuid4().hex[:8]}")

    @classmethod
    def new(cls, folder: Path, state: Path, docker_host: str = NO_ENGINE, **variables: str) -> Self:
        """Return one with caches in its folder and a free port; without a container engine unless one is named."""
        environment = make_variables(docker_host, state, folder / "caches", **variables)
        return cls(folder=folder, variables=environment, port=free_port())

    @property
    def pins(self) -> list[str]:
        """The settings that keep this stack apart from every other on the machine."""
        return [f"--set=COMPOSE_PROJECT_NAME={self.name}", f"--set=GATEWAY_PORT={self.port}"]

    def configure(self, mode: str, *arguments: str) -> str:
        """Run `configure-gpu` for the development environment and return what it says on stderr."""
        done = self.command("configure-gpu", mode, "--env=dev", *self.pins, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self) -> str:
        """Run `start-environment dev` under Compose and return its standard output."""
        done = self.command("start-environment", "dev", "--runtime=compose")
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def stop(self) -> None:
        """Run `stop-environment dev`."""
        done = self.command("stop-environment", "dev", "--runtime=compose")
        assert done.returncode == 0, done.stderr

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the package on this folder."""
        return self.run([sys.executable, "-m", "stackwright", *words, f"--out={self.folder}"])

    @contextlib.contextmanager
    def starting(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run `start-environment dev` beside a block, and wait for its end."""
        words = ["start-environment", "dev", "--runtime=compose", f"--out={self.folder}"]
        command = [sys.executable, "-m", "stackwright", *words]
        with subprocess.Popen(command, cwd=CHECKOUT, env=self.variables, stdin=subprocess.DEVNULL) as process:
            try:
                yield process
                process.wait(timeout=START_S)
            finally:
                process.kill()

    @contextlib.contextmanager
    def held(self) -> Iterator[Path]:
        """Let a quick engine go on starting while the block lasts, or until the file that is given is removed."""
        with self._holding("hold") as hold:
            yield hold

    @contextlib.contextmanager
    def unanswered(self) -> Iterator[Path]:
        """Let a quick engine keep whoever asks waiting while the block lasts, or until the file is removed."""
        with self._holding("hold-answers") as hold:
            yield hold

    @contextlib.contextmanager
    def _holding(self, name: str) -> Iterator[Path]:
        hold = Path(self.variables["HF_HOME"]) / name
        hold.parent.mkdir(parents=True, exist_ok=True)
        hold.touch()
        try:
            yield hold
        finally:
            hold.unlink(missing_ok=True)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run any command with this project's variables, from the checkout."""
        return subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )

    def docker(self, *words: str) -> str:
        """Run one command of the container engine's client and return what it prints."""
        done = self.run(["docker", *words])
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def remains(self, kind: str) -> list[str]:
        """Return the ids of what the engine still has of this project: `container`, `network` or `volume`."""
        everything = ["--all"] if kind == "container" else []
        label = f"label=com.docker.compose.project={self.name}"
        return self.docker(kind, "ls", "--quiet", *everything, "--filter", label).split()

    def container(self, service: str) -> str:
        """Return the name that Compose gives the container of a service."""
        return f"{self.name}-{service}-1"

    def inspect(self, service: str) -> dict[str, Any]:
        """Return all that the engine says of a service's container."""
        found: list[dict[str, Any]] = json.loads(self.docker("container", "inspect", self.container(service)))
        return found[0]

    def logs(self) -> str:
        """Return the end of every container's log, for a failed test's report."""
        texts = []
        for container in self.remains("container"):
            log = self.run(["docker", "logs", "--tail=40", container])
            texts.append(f"--- {container}\n{log.stdout}{log.stderr}")
        return "\n".join(texts)

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of the development environment by file name; an empty file holds none."""
        folder = self.folder / "envs" / ".secrets" / "dev"
        texts = {file.name: file.read_text().strip() for file in folder.iterdir() if file.is_file()}
        return {name: text for name, text in texts.items() if text}

    def ask(self, key: str | None, **further: object) -> tuple[int, str]:
        """Ask the gateway for a chat completion; return the status and the body, 0 where nothing answers."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        body = {"model": "smoke", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
        body |= further
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()
        except OSError as failure:
            return 0, str(failure)

    def complete(self) -> str:
        """Return the words of a completion, asking until one comes: after a restart the engine needs its time."""
        key = self.secrets["litellm_master_key"]
        body = wait_until(lambda: self._answer(key))
        return str(json.loads(body)["choices"][0]["message"]["content"])

    def _answer(self, key: str) -> str | None:
        status, body = self.ask(key)
        return body if status == 200 else None

    def remove(self) -> None:
        """Remove whatever is left, whatever happened before."""
        for container in self.remains("container"):
            self.run(["docker", "container", "rm", "--force", container])
        for network in self.remains("network"):
            self.run(["docker", "network", "rm", network])


def wait_until(look: Callable[[], T | None], tell: Callable[[], str] = str) -> T:
    """Return what `look` finds, looking until it finds something; fail after START_S seconds with what `tell` says."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"nothing within {START_S} s {tell()}".strip())


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on now, nor the kernel gives to whoever asks for any."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def make_variables(docker_host: str, state: Path, caches: Path, **further: str) -> dict[str, str]:
    """Return the environment of a project's commands: this one's, with its own engine and folders."""
    own = {
        "DOCKER_HOST": docker_host,
        "STACKWRIGHT_STATE": str(state),
        "HF_HOME": str(caches / "huggingface"),
        # Shared: what an architecture can do, which vLLM otherwise finds out in a process of its own, at every start.
        "VLLM_CACHE_ROOT": str(FOLDER / "vllm"),
        "PYTHONPATH": str(CHECKOUT / "generator"),
        "NO_COLOR": "1",
    }
    return {**os.environ, **own, **further}


def plain_projects(state: Path, folders: pytest.TempPathFactory) -> Iterator[Callable[..., Project]]:
    """Yield a maker of project folders with a state folder and no container engine; stop what they started."""
    made: list[Project] = []

    def make(**variables: str) -> Project:
        made.append(Project.new(folders.mktemp("project"), state, **variables))
        return made[-1]

    yield make
    for project in made:
        project.command("stop-environment", "dev", "--runtime=processes")


def write_long_model(folder: Path) -> Path:
    """Write the smoke model as one that takes 2.3 million tokens; return its folder, after which it is served as
    smoke.
    """
    model = folder / "smoke"
    write_smoke_model(model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2_300_000}), encoding="utf-8")
    return model


def write_local(project: Project, text: str) -> Path:
    """Write the person's own settings over the planned ones; return the file."""
    local = project.folder / "envs" / ".env.dev.local"
    local.touch(mode=0o600)
    local.write_text(text, encoding="utf-8")
    return local
