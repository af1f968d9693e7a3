"""What the gateway does where an engine fails: the other replica, the model of a cloud, and when each is asked.

LiteLLM and Redis are real, started as the processes runtime starts them, once for all tests; engines and cloud are
servers that answer as they are told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
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

from tests.integration.gateway.upstream import TOO_LONG, Upstream
from tests.integration.project import CHECKOUT, free_port
from tests.planning_requests import recorded, request

MODEL = "Qwen/Qwen3-0.6B"
CLOUD_KEY = "the-key-of-the-cloud-0123456789"
TIMEOUT_S, COOLDOWN_S = 4, 1
READY_S, LOOK_S = 240, 120
# Of two that are chosen by chance, one is missed by so many with a chance of 2 to the minus 20.
ROUND = 20
TRIES = """
import asyncio, contextlib, sys
import litellm
from door import Door, asked

litellm.callbacks = [Door()]
places = [{"model": "hosted_vllm/m", "api_base": url, "api_key": url} for url in sys.argv[2:]]
models = [{"model_name": "m", "litellm_params": place} for place in places]
router = litellm.Router(models, num_retries=2, disable_cooldowns=True)

class Request:
    def __init__(self):
        self.scope = {}

async def ask():
    for _ in range(int(sys.argv[1])):
        asked.set(Request())
        with contextlib.suppress(litellm.InternalServerError):
            await router.acompletion("m", [{"role": "user", "content": "Who are you?"}])

asyncio.run(ask())
"""


class Front(Struct, frozen=True, kw_only=True):
    """A gateway before two engines and a cloud."""

    stack: Stack
    engines: tuple[Upstream, Upstream]
    cloud: Upstream
    process: int

    def ask(self, model: str = MODEL) -> tuple[int, str]:
        """Ask for a completion; return the status, and who answered or the error's words."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Who are you?"}]}).encode()
        headers = {
            "Authorization": f"Bearer {read_gateway_key(self.stack.secrets)}",
            "Content-Type": "application/json",
        }
        address = f"http://127.0.0.1:{self.stack.env['GATEWAY_PORT']}/v1/chat/completions"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=120) as answer:
                return answer.status, json.load(answer)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read().decode()

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


def plan_with_cloud(cloud: Upstream, port: int) -> Plan:
    """Plan two replicas on two GPUs, and a cloud behind them."""
    pins = {"GATEWAY_REQUEST_TIMEOUT_S": str(TIMEOUT_S), "GATEWAY_COOLDOWN_S": str(COOLDOWN_S)}
    pins |= {"GATEWAY_PORT": str(port), "LITELLM_NUM_WORKERS": "1"}
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


@pytest.fixture(scope="module")
def front(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Start a gateway of one worker, with two engines and a cloud behind it."""
    venv, root = ensure(state_folder, GATEWAY_RECIPE, lambda *_: None), tmp_path_factory.mktemp("project")
    engines = (Upstream(name="engine", port=free_port()), Upstream(name="engine-2", port=free_port()))
    cloud, port = Upstream(name="cloud", port=free_port()), free_port()
    stack = write_project(root, state_folder, plan_with_cloud(cloud, port))
    ports = {each.name: each.port for each in engines} | {"redis": free_port()}
    machine = Provisions(virtual_environments={"engine": venv, "gateway": venv}, ports=ports, shared_memory_bytes=2**34)
    programs = {each.name: each for each in stack_programs(stack, machine, {"PATH": "/usr/local/bin:/usr/bin:/bin"})}
    with contextlib.ExitStack() as ended:
        for upstream in (*engines, cloud):
            upstream.start()
            ended.callback(upstream.stop)
        for name in ("redis", "gateway"):
            program, log = programs[name], ended.enter_context((root / f"{name}.log").open("wb"))
            command = ["/bin/sh", str(program.script), *program.arguments]
            environment = {**program.inherited, **program.environment, "HOME": str(root)}
            # A group of its own, as the runtime ends it: Redis' script is not Redis itself.
            process = subprocess.Popen(
                command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            ended.callback(process.wait, 30)
            ended.callback(os.killpg, process.pid, signal.SIGTERM)
        made = Front(stack=stack, engines=engines, cloud=cloud, process=process.pid)
        until(lambda: process.poll() is not None or is_ready(port), READY_S)
        assert process.poll() is None, (root / "gateway.log").read_text(errors="replace")[-2000:]
        yield made


def is_ready(port: int) -> bool:
    """Say whether the gateway answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/readiness", timeout=5):
        return True
    return False


@pytest.fixture
def fresh(front: Front) -> Iterator[Front]:
    """Give the gateway with everything well again and no replica left out."""
    yield front
    front.both(200)
    for engine in front.engines:
        engine.times, engine.well = None, True
        engine.start()
    front.cloud.mood = 200
    front.cloud.keys.clear()
    time.sleep(2 * COOLDOWN_S)


def test_a_replica_that_says_it_is_ill_gets_nothing_until_it_is_well(fresh: Front) -> None:
    """Though it would answer: its health alone decides. No request is spent on finding out."""
    first, second = fresh.engines
    until(lambda: asked_of(fresh, first, 6) and second.keys, LOOK_S)
    second.well = False
    until(lambda: asked_of(fresh, second, ROUND) == 0, LOOK_S)
    assert asked_of(fresh, second, ROUND) == 0
    second.well = True
    until(lambda: asked_of(fresh, second, 6), LOOK_S)


def asked_of(front: Front, engine: Upstream, times: int) -> int:
    """Ask so many times, and return how many of these came to one engine."""
    before = len(engine.keys)
    assert {front.ask()[0] for _ in range(times)} == {200}
    return len(engine.keys) - before


def test_no_request_fails_while_a_replica_is_away_and_it_is_asked_again(fresh: Front) -> None:
    """Refused connections, under load; the cloud is not asked while an engine answers."""
    second = fresh.engines[1]
    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(fresh.ask) for _ in range(40)]
        second.stop()
        asked += [clients.submit(fresh.ask) for _ in range(80)]
        answers = [each.result() for each in asked]
    second.start()
    assert [answer for answer in answers if answer[0] != 200] == []
    assert "cloud" not in {name for _, name in answers}
    until(lambda: asked_of(fresh, second, 6), LOOK_S)


@pytest.mark.parametrize("status", [500, 503, 429, None], ids=str)
def test_the_cloud_answers_where_every_engine_fails(fresh: Front, status: int | None) -> None:
    """With its own key. None: nobody listens."""
    for engine in fresh.engines:
        if status is None:
            engine.stop()
        else:
            engine.mood = status
    assert fresh.ask() == (200, "cloud")
    assert fresh.cloud.keys == [f"Bearer {CLOUD_KEY}"]


def test_an_error_that_passes_is_tried_again_here(fresh: Front) -> None:
    """One replica fails: the other answers, not the cloud."""
    fresh.engines[0].mood = 500
    assert {fresh.ask() for _ in range(6)} == {(200, "engine-2")}
    assert fresh.cloud.keys == []


def test_a_request_meets_every_replica_before_it_meets_one_again(state_folder: Path) -> None:
    """LiteLLM's router by itself, before two replicas that always fail: a cooldown, where it comes in time, hides the
    choice.
    """
    python = ensure(state_folder, GATEWAY_RECIPE, lambda *_: None) / "bin" / "python"
    order: list[str] = []
    engines = [Upstream(name=name, port=free_port(), mood=500, keys=order) for name in ("a", "b")]
    with contextlib.ExitStack() as ended:
        for engine in engines:
            engine.start()
            ended.callback(engine.stop)
        addresses = [f"http://127.0.0.1:{engine.port}/v1" for engine in engines]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "compose" / "gateway")}
        command = [str(python), "-c", TRIES, str(ROUND), *addresses]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(order) == 3 * ROUND
    assert [order[first] for first in range(0, len(order), 3) if order[first] == order[first + 1]] == []


@pytest.mark.parametrize("status", [500, 429])
def test_a_replica_that_is_left_alone_is_asked_again(fresh: Front, status: int) -> None:
    """After a pause of LiteLLM's; what passes never reaches the cloud."""
    first, second = fresh.engines
    second.well = False
    until(lambda: asked_of(fresh, second, ROUND) == 0, LOOK_S)
    first.mood, first.times, before = status, 1, len(first.keys)
    assert fresh.ask() == (200, "engine")
    assert len(first.keys) == before + 2
    assert fresh.cloud.keys == []


def test_an_engine_that_hangs_is_given_up(fresh: Front) -> None:
    """Once: nobody waits for the timeout again and again."""
    fresh.both("hang")
    before = sum(len(each.keys) for each in fresh.engines)
    assert fresh.ask() == (200, "cloud")
    assert sum(len(each.keys) for each in fresh.engines) == before + 1
    fresh.cloud.mood = "hang"
    before = sum(len(each.keys) for each in (*fresh.engines, fresh.cloud))
    assert fresh.ask()[0] == 408
    assert sum(len(each.keys) for each in (*fresh.engines, fresh.cloud)) <= before + 2


def test_what_is_too_long_does_not_leave_the_host(fresh: Front) -> None:
    """Its context is not known to be longer."""
    fresh.both(400, TOO_LONG)
    status, words = fresh.ask()
    assert status == 400, words
    assert "maximum context length" in words
    assert fresh.cloud.keys == []


def test_what_an_engine_refuses_is_tried_away_too(fresh: Front) -> None:
    """LiteLLM hands on every error but one, as docs/how-to/fallbacks.md tells: who must not send prompts away names no
    cloud.
    """
    fresh.both(400, "a bad request")
    assert fresh.ask() == (200, "cloud")


def test_the_clouds_key_is_nowhere_to_be_seen(fresh: Front) -> None:
    """Not in a rendered file, an argument or a log, also where the cloud itself refuses it."""
    fresh.both(500)
    fresh.cloud.mood, fresh.cloud.words = 401, "wrong key"
    status, words = fresh.ask()
    assert status >= 400
    assert CLOUD_KEY not in words
    files = [path for path in fresh.stack.root.rglob("*") if path.is_file() and fresh.stack.secrets not in path.parents]
    assert any(path.name == "gateway.log" for path in files)
    assert [path for path in files if CLOUD_KEY.encode() in path.read_bytes()] == []
    assert CLOUD_KEY.encode() not in Path(f"/proc/{fresh.process}/cmdline").read_bytes()
