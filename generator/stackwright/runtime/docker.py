"""The one way to the container engine, through the `docker` client. Touches the engine and the clients that it starts.

python-on-whales where its types carry what is needed. For the rest the client's own words: `ask` for what is answered
at once, `begin` and `end` for what goes on (a pull, an `up`), both in a process group of its own that ends with the
command. What the client says when it refuses becomes a RuntimeRefusedError with a hint.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stackwright.errors import RuntimeRefusedError
from stackwright.runtime import ClientAnswer, Say
from stackwright.runtime.process_groups import owned

if TYPE_CHECKING:
    from python_on_whales import DockerClient

# Ends a hint where the command can do without: one that has no `--runtime` takes it off.
OR_WITHOUT = ", or run without Docker: --runtime processes"
NO_ENGINE_HINT = f"start Docker{OR_WITHOUT}"

# Compose takes a moment to leave at SIGTERM; after this it is killed.
ENDS_WITHIN_S = 10

# Docker tells what it knows in a moment or, where its daemon hangs, never.
TELLS_WITHIN_S = 20.0
# The engine keeps the last 256 events only, health checks among them; what is older is gone anyway.
EVENTS_SINCE = "60m"
EVENTS = ("create", "start", "kill", "die", "oom", "stop", "restart", "destroy")

_OURS = re.compile(r"stackwright/([a-z-]+):[\w.-]+")
"""An image that is built here, from compose/images/ by its name."""

_PORT_HINT = "stop what uses the port (`ss -ltnp` names it)"

# What the engine says, and what to do about it. Looked for in the order given.
HINTS = (
    ("port is already allocated", _PORT_HINT),
    ("address already in use", _PORT_HINT),
    ("could not select device driver", "install the NVIDIA Container Toolkit and restart Docker"),
    ("permission denied while trying to connect", f"join the docker group{OR_WITHOUT}"),
    ("Cannot connect to the Docker daemon", NO_ENGINE_HINT),
    ("error during connect", NO_ENGINE_HINT),
    ("is not a docker command", f"install Docker Compose v2{OR_WITHOUT}"),
    ("unknown shorthand flag: 'f'", f"install Docker Compose v2{OR_WITHOUT}"),
)


def open_client() -> DockerClient:
    """Return a client of the engine that the `docker` command reaches; nothing is asked yet.

    Raises:
        RuntimeRefusedError: there is no such command.
    """
    from python_on_whales import DockerClient

    need_command()
    return DockerClient()


def need_command() -> None:
    """Refuse a machine without the `docker` command. Raises RuntimeRefusedError."""
    if shutil.which("docker") is None:
        raise RuntimeRefusedError("no `docker` command on this machine", hint=NO_ENGINE_HINT)


def client_words(docker: DockerClient) -> list[str]:
    """Return the words that a command of this client begins with."""
    with refusals():
        return [str(word) for word in docker.client_config.docker_cmd]


def compose_words(docker: DockerClient) -> list[str]:
    """Return the words that a command of this client's Compose begins with: project, files, environment files."""
    with refusals():
        return [str(word) for word in docker.client_config.docker_compose_cmd]


def ask(
    command: Sequence[str],
    limit_s: float | None = None,
    *,
    one_stream: bool = False,
    folder: str | None = None,
    given: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> ClientAnswer:
    """Run a command, mostly of the client, to its end, and end it after `limit_s`.

    `one_stream`: what it says on either output, in the order that it says it, is `out`. `folder`: where it works.
    `given`: what it reads. `variables`: its environment; None for this command's own.
    """
    err = subprocess.STDOUT if one_stream else subprocess.PIPE
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    try:
        client = begin(
            list(command), stdout=subprocess.PIPE, stderr=err, stdin=stdin, folder=folder, variables=variables
        )
    except OSError as failure:
        return ClientAnswer(127, "", f"cannot run {command[0]}: {failure.strerror}")
    try:
        said = client.communicate(None if given is None else given.encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        end(client)
        client.communicate()
        return ClientAnswer(None, "", f"no answer in {limit_s:g} seconds")
    except BaseException:
        end(client)
        client.communicate()
        raise
    out, words = ((stream or b"").decode(errors="replace") for stream in said)
    return ClientAnswer(client.returncode, out, words)


def begin(
    command: list[str],
    *,
    stdout: int,
    stderr: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
    folder: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, so that `end` reaches what it starts in turn (a client's plugin).

    `folder` and `variables` as for `ask`.
    """
    environment = {**(os.environ if variables is None else variables), **owned()}
    return subprocess.Popen(
        command, stdin=stdin, stdout=stdout, stderr=stderr, process_group=0, env=environment, cwd=folder
    )


def end(client: subprocess.Popen[bytes]) -> None:
    """End a client and its plugin: Docker's client of 20.10 dies of a signal without passing it on."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # One signal, then only looking: a second one would cut the client's own cleaning up short.
        left = _signal_group(client, number)
        deadline = time.monotonic() + ENDS_WITHIN_S
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = _signal_group(client, 0)


def _signal_group(client: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal, or none for 0, and say whether anything of the group is left to get it."""
    client.poll()  # takes the client's exit status, without which its group would live on
    try:
        os.killpg(client.pid, number)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what python-on-whales raises into a refusal with the engine's own words."""
    from python_on_whales import DockerException

    try:
        yield
    except DockerException as failure:
        raise refused(failure.stderr or str(failure)) from None


def refused(text: str) -> RuntimeRefusedError:
    """Return the refusal that the client's words amount to."""
    reason = reason_of(text)
    hint = next((hint for words, hint in HINTS if words in text), None)
    return RuntimeRefusedError(f"Docker refused: {reason}", hint=hint)


def reason_of(text: str) -> str:
    """Return the line that says why: the last one, without the client's own prefixes and final period."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else "no reason given"
    for prefix in ("Error response from daemon: ", "Error: ", "ERROR: ", "docker: "):
        line = line.removeprefix(prefix)
    return line.rstrip(".")


def is_here(docker: DockerClient, image: str) -> bool:
    """Return whether the engine has an image. Raises RuntimeRefusedError where none answers."""
    with refusals():
        return bool(docker.image.exists(image))


def pull(docker: DockerClient, image: str, service: str, say: Say, key: str | None) -> str | None:
    """Pull one image, telling how many of its layers are there; return the digest that the engine says it has.

    `key`: the setting that names the image; None where a person's own file does.

    Raises:
        RuntimeRefusedError: it cannot be had.
    """
    say(service, f"pulling {image}")
    command = [*client_words(docker), "pull", image]
    layers: set[str] = set()
    done: set[str] = set()
    digests: list[str] = []

    def note(line: str) -> None:
        layer, _, event = line.partition(": ")
        if layer == "Digest":
            digests.append(event)
        if event == "Pulling fs layer":
            layers.add(layer)
        if event in ("Pull complete", "Already exists") and layer not in done:
            done.add(layer)
            say(service, f"pulling {image}: {len(done)} of {len(layers | done)} layers")

    code, last = _follow(command, note)
    if code != 0:
        raise _pull_refused(image, service, last, key)
    return digests[-1] if digests else None


def _follow(command: list[str], note: Callable[[str], None] = lambda _: None) -> tuple[int, str]:
    """Run a command to its end, telling each line; return its exit code and the last line, which is a refusal's reason.

    Both outputs are one stream, so that the reason is the last line.
    """
    last = ""
    with begin(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        try:
            for line in client.stdout or ():
                last = line.decode(errors="replace").strip() or last
                note(last)
        except BaseException:
            end(client)
            raise
    return client.returncode, last


def recipe_of(root: Path, image: str) -> Path | None:
    """Return the Dockerfile that makes an image of ours, which no registry has; None of another's image."""
    name = _OURS.fullmatch(image)
    recipe = None if name is None else root / "compose" / "images" / name[1] / "Dockerfile"
    return recipe if recipe is not None and recipe.is_file() else None


def build(docker: DockerClient, image: str, service: str, recipe: Path, say: Say) -> None:
    """Build one image of ours; its context is the project folder.

    Raises:
        RuntimeRefusedError: it cannot be built.
    """
    say(service, f"building {image} (minutes, once)")
    root = recipe.parents[3]
    words = ["build", "--file", str(recipe), "--tag", image, str(root)]
    code, last = _follow([*client_words(docker), *words])
    if code != 0:
        raise RuntimeRefusedError(
            f"{service}: cannot build image {image}: {reason_of(last)}",
            hint=f"see what it says: `docker {shlex.join(words)}`",
        )


def _pull_refused(image: str, service: str, last: str, key: str | None) -> RuntimeRefusedError:
    setting = "" if key is None else f": --set {key}=…"
    if own := _OURS.fullmatch(image):
        command = f"docker build -f compose/images/{own[1]}/Dockerfile -t {image} ."
        return RuntimeRefusedError(
            f"{service}: image {image} is not here, and no registry has it",
            hint=f"build it in a clone of Stackwright: `{command}`",
        )
    return RuntimeRefusedError(
        f"{service}: cannot pull image {image}: {reason_of(last)}",
        hint=f"set an image that this machine can pull{setting}; or build one: compose/images/",
    )


def read_events(docker: Sequence[str], project: str) -> str:
    """Return one line for each event, oldest first.

    `TIME ACTION SERVICE exitCode=N signal=N`; empty where none can be had.
    """
    attributes = '{{index .Actor.Attributes "%s"}}'
    service = attributes % "com.docker.compose.service"
    line = f"{{{{.Time}}}} {{{{.Action}}}} {service} exitCode={attributes % 'exitCode'} signal={attributes % 'signal'}"
    # To the nanosecond: the client cuts a duration such as `0s` down to the second, and what just happened is lost.
    until = f"{time.time_ns() / 1e9:.9f}"
    command = [*docker, "events", "--since", EVENTS_SINCE, "--until", until, "--format", line]
    command += ["--filter", "type=container", "--filter", f"label=com.docker.compose.project={project}"]
    command += [word for kind in EVENTS for word in ("--filter", f"event={kind}")]
    said = ask(command, TELLS_WITHIN_S).out
    return said.replace("<no value>", "").replace(" exitCode= ", " ").replace(" signal=\n", "\n")


def read_inspect(docker: Sequence[str], identities: Sequence[str]) -> str:
    """Return what `docker inspect` tells of some containers, as JSON text; empty where there are none."""
    said = ask([*docker, "inspect", *identities], TELLS_WITHIN_S).out if identities else ""
    try:
        return json.dumps(json.loads(said), indent=1)
    except ValueError:  # one of them is gone meanwhile
        return said
