"""What the gateway does where an engine fails: the other replica, the model of a cloud, and when each is asked.

Each test runs with the direct lane and without it: then every request goes through LiteLLM.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE as GATEWAY_RECIPE

from tests.integration.gateway.front import CLOUD_KEY, LOOK_S, ROUND, Front, until
from tests.integration.gateway.upstream import TOO_LONG, Upstream
from tests.integration.project import CHECKOUT, free_port

TRIES = """
import asyncio, contextlib, sys
import litellm
from hooks import Hooks, asked

litellm.callbacks = [Hooks()]
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
