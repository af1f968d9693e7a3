"""Each kind's way from a clone to an answer, recorded: `python -m benchmarks.ways [NAME…]`, all without a name.

A fresh clone (the last commit of this checkout), and in it the commands that such a person types, one after the other,
as they are printed or as README.md has them. Where this machine is not that person's, something stands in at the
outermost boundary, and the recording's head says what: a library for NVML, an address for the model hub, an engine that
answers without weights. All else is real. Writes benchmarks/results/ways/NAME.txt. Needs what the integration tests
need: run it behind `python -m tests.integration.testbed`.

`(look)` before a command: it only shows something. `(ask)`: a question of one's own, after the one that the start has
asked. Neither counts. tests/test_ways.py counts the others, and compares what the looks show.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from msgspec import Struct
from stackwright.catalog.load import load_llms
from stackwright.models.checkpoint import checkpoint_config

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.images import Images, build_images
from tests.integration.project import CHECKOUT
from tests.integration.testbed import state_folder

RESULTS = CHECKOUT / "benchmarks" / "results" / "ways"
HOSTS = Path("tests/hosts")
START = "./scripts/start-environment development"
ASK = "(ask) the curl line that the start has printed"
LOOK = "(look) "
MOST = {"first model": 2, "several models": 3}
"""How many commands lead to an answer at most. A start ends with one: it asks itself, and waits for the answer."""
REFUSED = {"unsupported-gpu": 1}
"""Of the commands of a way those that are refused, and say what to do instead."""
NO_GPU = "this machine has no GPU: "
NVML = "a library answers for NVML as that machine's would; "
QUICK = "the engine answers at once, without weights; the hub knows the models' configurations alone"
REAL = "The real detection, planner, files, Docker Compose with its GPU requests, gateway and Redis."
# What a person without Docker has, as far as the container engine goes.
NO_DOCKER = "unix:///nonexistent/docker.sock"


class Way(Struct, frozen=True, kw_only=True):
    """One kind of person.

    `nvml`: the recorded host whose GPUs this machine seems to have; None: none. `quick`: the stand-in engine serves.
    `before` is what the person has beside the clone: a file's name and where its text is. `parts`: the commands to the
    first model's answer, and to that of several. `disk`: the size of the cache's, where this machine's is too small for
    the models (mount(8): 2T).
    """

    title: str
    stood_in: str
    parts: Mapping[str, tuple[str, ...]]
    nvml: str | None = None
    quick: bool = True
    docker: bool = True
    disk: str | None = None
    before: Mapping[str, str] = {}


def look(host: str, command: str) -> str:
    """Return a command that shows something of a recorded host."""
    return f"{LOOK}./scripts/stackwright {command} --host {HOSTS / host / 'host.yaml'}"


CHANGES = "--set VLLM_MAX_MODEL_LEN=8192 --set GATEWAY_PORT=8123 --arg=--seed=7"
IN_TURN = (
    "sed -i 's|^model: null|models: [{name: Qwen/Qwen3-8B-AWQ, exclusive: chat, pinned: true}, "
    "{name: Qwen/Qwen3-14B-AWQ, exclusive: chat}]|' envs/dev.yaml"
)
TWO = "--model qwen3-8b --model qwen3-embedding-0.6b"
WAYS: Mapping[str, Way] = {
    "two-3090": Way(
        title="Two RTX 3090 with an NVLink bridge",
        stood_in=f"{NO_GPU}{NVML}{QUICK}. {REAL}",
        nvml="2x-rtx3090-nvlink",
        parts={
            "first model": (look("2x-rtx3090-nvlink", "gpus"), START, ASK),
            "several models": (f"{START} {TWO}", ASK),
        },
    ),
    "wsl2-16gb": Way(
        title="One 16 GB GPU under WSL 2",
        stood_in=f"{NO_GPU}{NVML}{QUICK}. This is no WSL 2 either: what it changes is in the look. {REAL}",
        nvml="wsl2-rtx5080",
        parts={
            "first model": (look("wsl2-rtx5080", "plan dev"), START, ASK),
            "several models": (IN_TURN, "./scripts/configure-gpu dev", START, ASK),
        },
    ),
    "eight-h100": Way(
        title="Eight H100 behind NVSwitch",
        stood_in=f"{NO_GPU}{NVML}{QUICK}; the disk of the models' cache is said to be larger than it is. {REAL}",
        nvml="8x-h100-nvswitch",
        disk="2T",
        parts={
            "first model": (look("8x-h100-nvswitch", "plan dev"), START, ASK),
            "several models": (f"{START} --model qwen3-32b --model qwen3-embedding-8b", ASK),
        },
    ),
    "rented-pod": Way(
        title="A rented pod with one L40S, without Docker",
        stood_in=f"{NO_GPU}the pod is a recorded host, seen in the look; what runs is the processor's stack, real vLLM "
        "and the real gateway as processes, their packages installed before (minutes, once)",
        quick=False,
        docker=False,
        parts={"first model": (look("pod-1x-l40s", "plan dev"), START, ASK)},
    ),
    "ci": Way(
        title="A CI machine without a GPU or Docker",
        stood_in="Nothing but that the packages of engine and gateway were installed before, as from a CI's cache",
        quick=False,
        docker=False,
        parts={"first model": (START, ASK)},
    ),
    "migration": Way(
        title="Coming from a hand-written Compose file",
        stood_in=f"{NO_GPU}{NVML}{QUICK}. {REAL}",
        nvml="1x-rtx3090",
        before={"docker-compose.yml": "tests/importing/one-gpu-with-dotenv/docker-compose.yml"},
        parts={"first model": ("./scripts/stackwright import ../docker-compose.yml", START, ASK)},
    ),
    "unsupported-gpu": Way(
        title="A Pascal or AMD GPU, which no engine image serves",
        stood_in=f"{NO_GPU}a library answers for NVML as a GTX 1080 Ti's would. The processor's stack that "
        "follows is real: vLLM and gateway as processes, their packages installed before",
        nvml="pascal",
        quick=False,
        docker=False,
        parts={"first model": (START, "./scripts/configure-gpu cpu", START, ASK)},
    ),
    "reasons": Way(
        title="Somebody who wants reasons",
        stood_in=f"{NO_GPU}{NVML}{QUICK}. {REAL}",
        nvml="2x-rtx3090-nvlink",
        parts={
            "first model": (
                look("2x-rtx3090-nvlink", "plan dev --explain"),
                look("2x-rtx3090-nvlink", "fit --model Qwen/Qwen3-32B --tensor-parallel 2"),
                START,
                ASK,
            )
        },
    ),
    "change-everything": Way(
        title="Somebody who wants to change everything",
        stood_in=f"{NO_GPU}{NVML}{QUICK}. {REAL}",
        nvml="2x-rtx3090-nvlink",
        parts={
            "first model": (
                f"{START} --model qwen3-8b --objective latency {CHANGES}",
                ASK,
            )
        },
    ),
}


def main(names: Sequence[str]) -> int:
    """Record the named ways and return the exit code: 1 where one did not lead to an answer."""
    RESULTS.mkdir(exist_ok=True)
    images, failed = build_images(os.environ["DOCKER_HOST"]), []
    for name in names or WAYS:
        with tempfile.TemporaryDirectory() as folder, serve_hub() as hub:
            text, ended_well = record(name, Path(folder), hub, images)
        (RESULTS / f"{name}.txt").write_text(text, encoding="utf-8")
        failed += [] if ended_well else [name]
        print(f"{name}: {'recorded' if ended_well else 'FAILED'}", flush=True)
    return 1 if failed else 0


def record(name: str, folder: Path, hub: str, images: Images) -> tuple[str, bool]:
    """Follow one way in a fresh clone; return the recording, and whether every command ended as it should."""
    way, clone = WAYS[name], folder / "stackwright"
    subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True)
    for file, source in way.before.items():
        (folder / file).write_text((CHECKOUT / source).read_text(encoding="utf-8"), encoding="utf-8")
    variables = variables_of(way, folder, hub)
    lines, refused = list(head_of(name)), 0
    cache = Path(variables["HF_HOME"])
    cache.mkdir(parents=True)
    if way.disk is not None:  # in memory: nothing is written but what configures the models
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={way.disk}", "models", cache], check=True)
    said = ""
    try:
        for part, commands in way.parts.items():
            lines += ["", f"[{part}]"]
            for command in commands:
                if way.quick and not command.startswith(LOOK):
                    stand_in(clone / "envs" / "common.yaml", images)
                typed, code, said = follow(command, said, clone, variables)
                lines += ["", *typed, *plain(said, folder)]
                refused += code != 0 and not command.startswith(LOOK)
    finally:
        stop = ["./scripts/stop-environment", "development", "--now"]
        subprocess.run(stop, cwd=clone, env=variables, capture_output=True, check=False)
        if way.disk is not None:
            subprocess.run(["umount", cache], check=True)
    return "\n".join(lines) + "\n", refused == REFUSED.get(name, 0)


def head_of(name: str) -> Iterator[str]:
    """Yield the first lines of a recording: whose way it is, what stood in, how many commands it takes."""
    way = WAYS[name]
    yield way.title
    yield f"stood in: {way.stood_in}"
    for part, commands in way.parts.items():
        refused = f", {REFUSED[name]} of them refused" if name in REFUSED else ""
        yield f"commands to an answer of the {part}: {count(commands)}{refused}"


def count(commands: Sequence[str]) -> int:
    """Count the commands that lead to an answer."""
    return sum(not command.startswith("(") for command in commands)


def follow(command: str, said: str, clone: Path, variables: Mapping[str, str]) -> tuple[list[str], int, str]:
    """Run a command as a person does, who has read what the last one `said`.

    Return it as it was typed, its exit code, and all that it says.
    """
    mark = LOOK if command.startswith(LOOK) else "(ask) " if command == ASK else ""
    typed = curl_line(said) if command == ASK else command.removeprefix(LOOK)
    done = subprocess.run(
        ["bash", "-c", typed], cwd=clone, env=variables, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    first, *rest = typed.splitlines()
    return [f"{mark}$ {first}", *(f"> {line}" for line in rest)], done.returncode, done.stdout


def curl_line(said: str) -> str:
    """Return the command that a start prints last, to be pasted."""
    found = re.search(r"^ *echo \"Authorization: .*?'$", said, re.MULTILINE | re.DOTALL)
    return found[0].strip() if found else "false  # the start has printed none"


def plain(said: str, folder: Path) -> list[str]:
    """Return lines as they would stand in a home folder; the images that stand in by the official ones' settings."""
    text = said.replace(f"{folder}/", "~/").replace(str(state_folder()), "~/.local/share/stackwright")
    # A long value is shown without its middle.
    text = re.sub(rf"{re.escape(str(folder.parent))}/tmp\w*…\S*", "~/…", text)
    return [line.rstrip() for line in text.splitlines()]


def stand_in(common: Path, images: Images) -> None:
    """Let every environment of a clone take the built images instead of the official ones."""
    pins = dict(pin.removeprefix("--set=").split("=", 1) for pin in images.pins(images.quick_engine))
    inner = ", ".join(f"{key}: {image}" for key, image in pins.items())
    text = common.read_text(encoding="utf-8")
    common.write_text(text.replace("settings: {}", f"settings: {{{inner}}}"), encoding="utf-8")


def variables_of(way: Way, folder: Path, hub: str) -> dict[str, str]:
    """Return the environment of a way's commands: a home of its own, and what stands in."""
    own = {"HF_HOME": str(folder / ".cache" / "huggingface"), "STACKWRIGHT_STATE": str(folder / "state")}
    own |= {"COLUMNS": "100", "NO_COLOR": "1", "STACKWRIGHT_VENV": sys.prefix}
    if way.quick:
        own["HF_ENDPOINT"] = hub
    else:
        (folder / "state").mkdir()
        (folder / "state" / "venvs").symlink_to(state_folder() / "venvs")
    if not way.docker:
        own["DOCKER_HOST"] = NO_DOCKER
    if way.nvml is not None:
        library, answers = folder / "nvml", folder / "nvml" / "answers.txt"
        library.mkdir()
        answers.write_text(nvml_of(way.nvml), encoding="utf-8")
        own |= environment(build_fake_nvml(library), answers)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LINES")}
    return {**kept, **own}


def nvml_of(name: str) -> str:
    """Return what the library answers; the Pascal GPU is one of Ampere's with other figures."""
    if name != "pascal":
        return (CHECKOUT / HOSTS / name / "nvml.txt").read_text(encoding="utf-8")
    figures = {"RTX 3090": "GTX 1080 Ti", "compute_capability 8.6": "compute_capability 6.1"}
    text = nvml_of("1x-rtx3090").replace("25769803776", "11811160064")
    for old, new in figures.items():
        text = text.replace(old, new)
    return text


class _Hub(BaseHTTPRequestHandler):
    """Has the configuration of every checkpoint of the catalog, and no weights."""

    configs: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def do_GET(self) -> None:
        """Answer with a model's config.json."""
        found = re.fullmatch(r"/(?P<name>[^/]+/[^/]+)/resolve/[^/]+/config\.json", self.path)
        config = self.configs.get(found["name"]) if found else None
        body = json.dumps(config).encode() if config is not None else b""
        self.send_response(200 if config is not None else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing: what is recorded is what the commands say."""


@contextmanager
def serve_hub() -> Iterator[str]:
    """Give the address of such a hub, as this machine and its containers reach it."""
    _Hub.configs = {
        checkpoint.hub_id: checkpoint_config(row, checkpoint) for row in load_llms() for checkpoint in row.checkpoints
    }
    with ThreadingHTTPServer(("0.0.0.0", 0), _Hub) as server, ExitStack() as ended:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ended.callback(server.shutdown)
        yield f"http://{bridge()}:{server.server_port}"


def bridge() -> str:
    """Return this machine's address on the container engine's own network."""
    form = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    done = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", form], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() or "172.17.0.1"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
