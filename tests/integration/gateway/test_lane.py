"""What a client sees of an answer, with the direct lane and without it: events, tokens, breaks, and a stop."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.exchange import Answer, Ask, connection, exchange, read_until
from tests.integration.gateway.front import LOOK_S, MODEL, NUMBERS, ROUND, Front, held_slots, start_front, until
from tests.integration.gateway.upstream import USAGE

COUNTED = {
    *("litellm_proxy_total_requests_metric_total", "litellm_requests_metric_total", "litellm_spend_metric_total"),
    *("litellm_total_tokens_metric_total", "litellm_input_tokens_metric_total", "litellm_output_tokens_metric_total"),
    *("litellm_deployment_success_responses_total", "litellm_deployment_total_requests_total"),
    *("litellm_request_total_latency_metric_count", "litellm_llm_api_latency_metric_count"),
    *("litellm_llm_api_time_to_first_token_metric_count", "litellm_request_queue_time_seconds_count"),
    "litellm_deployment_latency_per_output_token_count",
}
"""What LiteLLM counts of a stream that is answered."""


only_lane = pytest.mark.parametrize("front", ["on"], indirect=True)


def asking(front: Front, *, content: str = "who are you?", **further: object) -> Ask:
    """Return a request with a beginning of its own, which chance sends to either replica."""
    message = {"role": "user", "content": f"{next(NUMBERS)}: {content}"}
    body = {"model": MODEL, "messages": [message], **further}
    return Ask(path="/v1/chat/completions", content=json.dumps(body).encode(), key=front.key)


def ask(front: Front, **further: Any) -> Answer:
    """Send one request and return the answer."""
    return asyncio.run(exchange(front.port, asking(front, **further)))


def events(answer: Answer) -> list[dict[str, Any]]:
    """Return the events of a stream, without the mark of its end."""
    lines = [line.removeprefix("data: ") for line in answer.body.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def figures(front: Front) -> dict[str, float]:
    """Return each metric's sum over its labels."""
    text = asyncio.run(exchange(front.port, Ask(path="/metrics/", method="GET", key=front.key))).body
    sums: dict[str, float] = {}
    for name, value in re.findall(r"^(litellm_\w+)\{.*\} (\S+)$", text, re.MULTILINE):
        sums[name] = sums.get(name, 0) + float(value)
    return sums


def successes_of_engines(front: Front) -> float:
    """Return how many answers are counted as given by engines of ours."""
    text = asyncio.run(exchange(front.port, Ask(path="/metrics/", method="GET", key=front.key))).body
    counted = r'^litellm_deployment_success_responses_total\{.*api_provider="hosted_vllm".*\} (\S+)$'
    return sum(map(float, re.findall(counted, text, re.MULTILINE)))


def test_usage_is_told_when_asked_for_and_counted_when_not(fresh: Front) -> None:
    before = figures(fresh)
    without, answer = ask(fresh, stream=True), ask(fresh, stream=True, stream_options={"include_usage": True})
    (told,) = [event["usage"] for event in events(answer) if event.get("usage")]
    assert {**told, **USAGE} == told  # LiteLLM adds fields of its own
    assert [event for event in events(without) if event.get("usage") or not event["choices"]] == []
    assert without.body.endswith("data: [DONE]\n\n")
    wanted = {"input": 2 * USAGE["prompt_tokens"], "output": 2 * USAGE["completion_tokens"]}
    until(
        lambda: all(
            figures(fresh)[name] - before.get(name, 0) == tokens
            for kind, tokens in wanted.items()
            if (name := f"litellm_{kind}_tokens_metric_total")
        ),
        LOOK_S,
    )
    after = figures(fresh)
    assert {name for name in COUNTED if name not in after} == set()
    assert {name for name in COUNTED if after[name] - before.get(name, 0) == 0} == {"litellm_spend_metric_total"}


@only_lane
@pytest.mark.parametrize("mood", ["no-event", 500, 503, None], ids=str)
def test_a_replica_that_fails_before_its_first_event_is_replaced(fresh: Front, mood: str | int | None) -> None:
    """Also where it has sent its head, which LiteLLM hands on at once; the cloud is not asked."""
    broken = fresh.engines[0]
    if mood is None:
        broken.stop()
    else:
        broken.mood = mood
    for _ in range(6):
        answer = ask(fresh, stream=True)
        assert (answer.status, {event["choices"][0]["delta"].get("content") for event in events(answer)}) == (
            200,
            {"engine-2", None},
        )
    assert fresh.cloud.keys == []


@only_lane
def test_a_stream_that_breaks_off_ends_with_an_error(fresh: Front) -> None:
    fresh.both("one-event")
    answer = ask(fresh, stream=True)
    *told, last = events(answer)
    assert (answer.status, len(told)) == (200, 1)
    assert last["error"] == {
        "message": "the connection to the engine broke",
        "type": "server_error",
        "param": None,
        "code": "503",
    }


@only_lane
def test_a_request_that_every_engine_fails_at_takes_no_replica_out(fresh: Front) -> None:
    """The cloud answers; both engines are asked again at once by others. LiteLLM would leave them out for a while."""
    before = successes_of_engines(fresh)
    for _ in range(4):
        fresh.both(500)
        assert fresh.ask() == (200, "cloud")
    assert successes_of_engines(fresh) == before
    fresh.both(200)
    counts = [len(engine.keys) for engine in fresh.engines]
    for _ in range(ROUND):
        assert fresh.ask()[0] == 200
    assert [engine.name for engine, count in zip(fresh.engines, counts, strict=True) if len(engine.keys) == count] == []


@only_lane
def test_a_replica_that_dies_under_load_loses_no_request(fresh: Front) -> None:
    """2,000 requests, while it goes and comes back again and again."""
    second = fresh.engines[1]
    with ThreadPoolExecutor(8) as clients:
        answers = []
        for _ in range(10):
            asked = [clients.submit(fresh.ask) for _ in range(100)]
            second.stop()
            asked += [clients.submit(fresh.ask) for _ in range(100)]
            answers += [each.result() for each in asked]
            second.start()
    assert [answer for answer in answers if answer[0] != 200] == []
    assert "cloud" not in {name for _, name in answers}


def test_an_engine_learns_that_its_client_is_gone(fresh: Front) -> None:
    fresh.both("endless")
    wanted = asking(fresh, content="leave me", stream=True)

    async def leave() -> None:
        async with connection(fresh.port) as (reader, writer):
            writer.write(wanted.head() + wanted.content)
            await read_until(reader, b"data: ")

    asyncio.run(leave())
    until(lambda: any("leave me" in text for engine in fresh.engines for text in engine.left), LOOK_S)


def test_a_stream_holds_its_slot_until_its_last_byte(fresh: Front) -> None:
    """Who leaves gives it back."""
    fresh.both("endless")
    wanted = asking(fresh, stream=True)

    async def hold() -> int:
        async with connection(fresh.port) as (reader, writer):
            writer.write(wanted.head() + wanted.content)
            for _ in range(2):
                await read_until(reader, b"data: ")
            return held_slots(fresh.stack)

    assert held_slots(fresh.stack) == 0
    assert asyncio.run(hold()) == 1
    until(lambda: held_slots(fresh.stack) == 0, LOOK_S)


@only_lane
def test_a_client_that_does_not_read_holds_up_its_own_engine(fresh: Front) -> None:
    """Nothing is heaped up for it: the engine's own writes wait, and others are answered."""
    fresh.both("endless")
    wanted = asking(fresh, content="slow", stream=True)

    async def wait() -> None:
        async with connection(fresh.port) as (reader, writer):
            writer.write(wanted.head() + wanted.content)
            await read_until(reader, b"data: ")
            fresh.both(200)
            answer = await exchange(fresh.port, asking(fresh))
            assert answer.status == 200

    asyncio.run(wait())


@pytest.mark.parametrize("lane", ["on", "off"])
def test_a_stop_lets_what_is_open_end_and_refuses_what_comes(
    state_folder: Path, tmp_path_factory: pytest.TempPathFactory, lane: str
) -> None:
    """On a connection that is kept a new request is told when to come again; at the second SIGTERM a stream breaks off
    with an error event.
    """
    folder = tmp_path_factory.mktemp("project")
    with start_front(state_folder, folder, GATEWAY_DIRECT=lane) as front:
        front.both("endless")
        wanted = asking(front, stream=True)

        async def stop() -> tuple[bytes, Answer]:
            async with connection(front.port) as (reader, writer):
                writer.write(wanted.head() + wanted.content)
                await read_until(reader, b"data: ")
                front.both(200)
                os.kill(front.process, signal.SIGTERM)
                refused = await until_refused(front)
                os.kill(front.process, signal.SIGTERM)
                return await reader.read(), refused

        rest, refused = asyncio.run(stop())
        assert (refused.status, refused.message) == (503, "the gateway is being stopped")
        assert int(refused.headers["retry-after"]) >= 1
        assert b"the gateway is being stopped" in rest


async def until_refused(front: Front) -> Answer:
    """Ask until the answer is a refusal."""
    while (answer := await exchange(front.port, asking(front))).status == 200:
        await asyncio.sleep(0.05)
    return answer
