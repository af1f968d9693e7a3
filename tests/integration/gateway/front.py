"""A gateway of one worker before two engines and a cloud, which are servers that answer as they are told to.

LiteLLM and Redis are real, started as the processes runtime starts them. Touches loopback and the test's folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.cloud import CloudModel
from stackwright.domain.plan import Plan
from stackwright.planning.planner import make_plan
from stackwright.project.credentials import ensure_secrets, read_gateway_key
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.programs import Provisions, stack_programs
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE as GATEWAY_RECIPE

from tests.integration.gateway.upstream import Upstream
from tests.integration.project import CHECKOUT, free_port
from tests.planning_requests import recorded, request

MODEL = "Qwen/Qwen3-0.6B"
SLOTS = 4096
"""More than the gateway's file of slots has: nobody locks a byte that is not there."""
CLOUD_KEY = "the-key-of-the-cloud-0123456789"
TIMEOUT_S, COOLDOWN_S = 4, 1
READY_S, LOOK_S = 240, 120
# Of two that are chosen by chance, one is missed by so many with a chance of 2 to the minus 20.
ROUND = 20
NUMBERS = itertools.count()


class Front(Struct, frozen=True, kw_only=True):
    """A gateway before two engines and a cloud."""

    stack: Stack
    engines: tuple[Upstream, Upstream]
    cloud: Upstream
    process: int

    def ask(self, model: str = MODEL, **further: str) -> tuple[int, str]:
        """Ask for a completion; return the status, and who answered or the error's words. `further`: headers."""
        # Another beginning each time: the same one would go to the same replica.
        content = f"{next(NUMBERS)}: who are you?"
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}]}).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **further}
        address = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=120) as answer:
                return answer.status, json.load(answer)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.stack.env["GATEWAY_PORT"])

    @property
    def key(self) -> str:
        """The key that opens it."""
        return read_gateway_key(self.stack.secrets)

    def both(self, mood: int | str, words: str = "no") -> None:
        """Let both engines answer so."""
        for engine in self.engines:
            engine.mood, engine.words = mood, words


def until(true: Callable[[], object], limit_s: float) -> None:
    """Wait until something is true; fail where it never is."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def held_slots(stack: Stack) -> int:
    """Return how many requests work or wait: each of those holds a lock on a byte of its own."""
    held = 0
    with (stack.root / "gateway.slots").open("r+b") as slots:
        for position in range(SLOTS):
            try:
                fcntl.lockf(slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
                fcntl.lockf(slots, fcntl.LOCK_UN, 1, position)
            except OSError:
                held += 1
    return held


def plan_with_cloud(cloud: Upstream, port: int, further: Mapping[str, str]) -> Plan:
    """Plan two replicas on two GPUs, and a cloud behind them."""
    pins = {"GATEWAY_REQUEST_TIMEOUT_S": str(TIMEOUT_S), "GATEWAY_COOLDOWN_S": str(COOLDOWN_S)}
    pins |= {"GATEWAY_PORT": str(port), "LITELLM_NUM_WORKERS": "1", **further}
    asked = request(recorded("2x-rtx3090-pcie"), model=MODEL, pins=pins)
    model = CloudModel(name="away", model="openai/big", key="big", address=f"http://127.0.0.1:{cloud.port}/v1")
    gateway = replace(asked.wishes.gateway, fallbacks={MODEL: ("away",)}, cloud=(model,))
    return make_plan(replace(asked, wishes=replace(asked.wishes, gateway=gateway)), load_catalog())


def write_project(root: Path, state: Path, plan: Plan) -> Stack:
    """Write what configure-gpu would, and the key that a person brings."""
    for service in ("gateway", "redis"):
        shutil.copytree(CHECKOUT / "compose" / service, root / "compose" / service)
    for file in render_plan(plan):
        (root / file.path).parent.mkdir(parents=True, exist_ok=True)
        (root / file.path).write_text(file.text, encoding="utf-8")
    stack = Stack(root=root, state=state, plan=plan, env={key: each.value for key, each in flat_settings(plan).items()})
    ensure_secrets(stack.secrets, {}, root / "hf")
    (stack.secrets / "cloud_big_key").write_text(f"{CLOUD_KEY}\n", encoding="ascii")
    return stack


@contextlib.contextmanager
def start_front(state_folder: Path, root: Path, *, open_files: int = 4096, **pins: str) -> Iterator[Front]:
    """Start a gateway of one worker, which may hold so many files open, with two engines and a cloud behind it."""
    engines = (Upstream(name="engine", port=free_port()), Upstream(name="engine-2", port=free_port()))
    cloud = Upstream(name="cloud", port=free_port())
    stack = write_project(root, state_folder, plan_with_cloud(cloud, free_port(), pins))
    with contextlib.ExitStack() as ended:
        for upstream in (*engines, cloud):
            upstream.start()
            ended.callback(upstream.stop)
        ports = {each.name: each.port for each in engines}
        process = ended.enter_context(run_gateway(stack, state_folder, ports, open_files=open_files))
        yield Front(stack=stack, engines=engines, cloud=cloud, process=process)


@contextlib.contextmanager
def run_gateway(
    stack: Stack, state_folder: Path, engines: Mapping[str, int], *, open_files: int = 4096
) -> Iterator[int]:
    """Run a stack's gateway and Redis before engines on these ports; give the gateway's process once it answers."""
    venv, root = ensure(state_folder, GATEWAY_RECIPE, lambda *_: None), stack.root
    ports = {**engines, "redis": free_port()}
    machine = Provisions(virtual_environments={"engine": venv, "gateway": venv}, ports=ports, shared_memory_bytes=2**34)
    programs = {each.name: each for each in stack_programs(stack, machine, {"PATH": "/usr/local/bin:/usr/bin:/bin"})}
    with contextlib.ExitStack() as ended:
        for name in ("redis", "gateway"):
            program, log = programs[name], ended.enter_context((root / f"{name}.log").open("wb"))
            limited = f'ulimit -n {open_files}; exec /bin/sh "$0" "$@"'
            command = ["/bin/sh", "-c", limited, str(program.script), *program.arguments]
            environment = {**program.inherited, **program.environment, "HOME": str(root)}
            # A group of its own, as the runtime ends it: Redis' script is not Redis itself.
            process = subprocess.Popen(
                command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            ended.callback(process.wait, 30)
            ended.callback(end_group, process.pid)
        port = int(stack.env["GATEWAY_PORT"])
        until(lambda: process.poll() is not None or is_ready(port), READY_S)
        assert process.poll() is None, (root / "gateway.log").read_text(errors="replace")[-2000:]
        yield process.pid


def end_group(leader: int) -> None:
    """End a process and what it started, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)


def is_ready(port: int) -> bool:
    """Say whether the gateway answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/readiness", timeout=5):
        return True
    return False
