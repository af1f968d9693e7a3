"""What every client is promised, whichever way its request goes: each test with the direct lane and without it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
from stackwright.domain.access_key import Rights
from stackwright.domain.environment import EnvironmentPaths
from stackwright.project.access_keys import add_key, ensure_key_folders, revoke_key

from tests.integration.gateway.exchange import Answer, Ask, exchange
from tests.integration.gateway.front import LOOK_S, MODEL, Front, until
from tests.integration.gateway.test_lane import events

CHAT = "/v1/chat/completions"


def asked(key: str | None, **fields: object) -> Ask:
    """Return a request for a completion."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return Ask(path=CHAT, content=json.dumps(body).encode(), key=key)


def ask(front: Front, wanted: Ask) -> Answer:
    """Send one request and return the answer."""
    return asyncio.run(exchange(front.port, wanted))


def metrics(front: Front) -> str:
    """Return the page of metrics."""
    return ask(front, Ask(path="/metrics/", method="GET", key=front.key)).body


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "nobody"}, 400, "unknown model `nobody`"),
        ({"api_base": "http://127.0.0.1:1"}, 400, "`api_base` is set by the gateway"),
        ({"messages": "hi"}, 400, "`messages` is a text"),
        ({"n": 10_000}, 400, "asks for 10000 texts"),
    ],
    ids=["model", "steering", "shape", "number"],
)
def test_what_is_refused_is_told_in_openais_form_and_asks_nobody(
    fresh: Front, fields: dict[str, object], status: int, words: str
) -> None:
    before = [len(engine.keys) for engine in fresh.engines]
    answer = ask(fresh, asked(fresh.key, **fields))
    error = json.loads(answer.body)["error"]
    assert (answer.status, set(error), error["code"]) == (status, {"message", "type", "param", "code"}, str(status))
    assert words in error["message"]
    assert [len(engine.keys) for engine in fresh.engines] == before
    assert fresh.cloud.keys == []


def test_what_is_too_long_is_refused(fresh: Front) -> None:
    most = int(fresh.stack.env["GATEWAY_MAX_BODY_BYTES"])
    answer = ask(fresh, asked(fresh.key, user="x" * most))
    assert (answer.status, answer.message) == (413, f"the request has more than {most} bytes (GATEWAY_MAX_BODY_BYTES)")


@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_without_a_right_key_nobody_is_asked(fresh: Front, key: str | None) -> None:
    before = [len(engine.keys) for engine in fresh.engines]
    answer = ask(fresh, asked(key))
    assert (answer.status, answer.message) == (401, "wrong or missing key")
    assert [len(engine.keys) for engine in fresh.engines] == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_names_the_model_that_was_asked(fresh: Front, stream: bool) -> None:
    answer = ask(fresh, asked(fresh.key, stream=stream))
    told = events(answer) if stream else [json.loads(answer.body)]
    assert {each["model"] for each in told} == {MODEL}


@pytest.fixture
def paths(fresh: Front) -> Iterator[EnvironmentPaths]:
    """Give the folders of the gateway's environment."""
    ensure_key_folders(fresh.stack.paths)
    yield fresh.stack.paths
    revoke_key(fresh.stack.paths, "anna")


def test_a_persons_key_has_its_models_and_its_limit_and_is_counted(fresh: Front, paths: EnvironmentPaths) -> None:
    key = add_key(paths, "anna", Rights(models=(MODEL,), requests_per_minute=1)).text
    until(lambda: ask(fresh, asked(key, model="away")).status == 403, LOOK_S)
    # At the turn of a minute two are let in.
    *answered, refused = until_refused(fresh, key)
    assert {answer.status for answer in answered} == {200}
    assert "has used its 1 requests a minute" in refused.message
    assert int(refused.headers["retry-after"]) >= 1
    counted = rf'^stackwright_key_requests_total\{{key="anna",model="{MODEL}"\}} {len(answered)}$'
    until(lambda: re.search(counted, metrics(fresh), re.MULTILINE), LOOK_S)
    assert re.search(r'^stackwright_key_refused_total\{key="anna"\} 1$', metrics(fresh), re.MULTILINE)


def until_refused(front: Front, key: str) -> list[Answer]:
    """Ask until an answer is a refusal; return all."""
    answers = [ask(front, asked(key))]
    while answers[-1].status == 200:
        answers.append(ask(front, asked(key)))
    assert answers[-1].status == 429
    return answers


def test_a_failure_has_a_number_and_is_counted(fresh: Front) -> None:
    """The number that the client is told stands in the log."""
    fresh.both(500)
    fresh.cloud.mood = 500
    answer = ask(fresh, asked(fresh.key))
    assert answer.status >= 500
    number = answer.headers["x-litellm-call-id"]
    log = fresh.stack.root / "gateway.log"
    until(lambda: number in log.read_text(errors="replace"), LOOK_S)
    failed = r"^litellm_proxy_failed_requests_metric_total\{.*\} (\S+)$"
    until(lambda: sum(map(float, re.findall(failed, metrics(fresh), re.MULTILINE))) >= 1, LOOK_S)


def test_a_stream_that_breaks_off_does_not_end_like_a_whole_one(fresh: Front) -> None:
    fresh.both("one-event")
    answer = ask(fresh, asked(fresh.key, stream=True))
    lines = [line.removeprefix("data: ") for line in answer.body.split("\n\n") if line]
    assert answer.status == 200
    assert "error" in json.loads(next(line for line in reversed(lines) if line != "[DONE]"))
