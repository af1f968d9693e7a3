"""Waiting for a stack: what ends it, what does not, and what the person is told. The gateway is a real HTTP server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.service import ServicePhase, Step
from stackwright.errors import NotHealthyError
from stackwright.units import format_seconds
from stackwright.watching.history import past_steps
from stackwright.watching.remembered import remembered_starts
from stackwright.watching.watch import ANSWERS_WITHIN_S, POLL_S, await_healthy

from tests.planning.several import Asked
from tests.watching.gateway import CHAT, Gateway
from tests.watching.starting import ALL_WELL, LOADS, LOGS, PERMANENT, STARTING, MakeStart, state


def test_ready_is_an_answer_to_all_that_a_client_would_ask(start: MakeStart, gateway: Gateway) -> None:
    """Not a health check: the engine may be healthy and unable to answer. A failing first answer is asked again."""
    gateway.replies["completion"] = [(503, "cooling down"), (200, CHAT)]
    made = start(STARTING, ALL_WELL)
    assert made.watch() == {"smoke": "Hello."}
    assert gateway.kinds == ["refusal", "models", "completion", "completion", "stream"]


IN_TURNS = (Asked(name="Qwen/Qwen3-0.6B", exclusive="x", pinned=True), Asked(name="smoke", exclusive="x"))


def test_of_models_in_turns_the_one_that_is_loaded_is_asked_first(start: MakeStart, gateway: Gateway) -> None:
    """There is one engine to wait for, and every model to ask."""
    names = ("Qwen/Qwen3-0.6B", "smoke")
    gateway.replies["models"] = [(200, json.dumps({"data": [{"id": name} for name in names]}))]
    made = start(STARTING, ALL_WELL, models=IN_TURNS)
    assert made.watch() == dict.fromkeys(names, "Hello.")
    assert [model for kind, _, _, model in gateway.asked if kind == "completion"] == list(names)
    first = made.stack.plan.engines[0]
    assert past_steps(made.stack.state, made.stack.plan, first) != {}


def test_what_kept_a_model_from_its_turn_is_named_though_another_is_back(start: MakeStart, gateway: Gateway) -> None:
    gateway.replies["models"] = [(200, json.dumps({"data": [{"id": model.name} for model in IN_TURNS]}))]
    gateway.replies["completion"] = [(200, CHAT), (503, "`smoke` could not be loaded")]
    banner = "INFO 11-21 03:45:14 [utils.py:1]  █  version 0.32.0\n"
    made = start(ALL_WELL, models=IN_TURNS, log=f"{banner}{PERMANENT}{banner}INFO: Application startup complete.\n")
    message = made.fail()[0]
    assert message.startswith(
        "asked for a completion of smoke, the gateway answered 503: `smoke` could not be loaded: "
    )
    assert message.endswith("4096 tokens fit")


def test_a_start_is_told_change_by_change(start: MakeStart) -> None:
    """The engine's log tells its step, with its limit; a restart is counted; the rest is the phase."""
    fallen = (replace(STARTING[0], restarts=1), STARTING[1])
    made = start(STARTING, STARTING, fallen, ALL_WELL, log=LOADS)
    made.watch()
    assert made.said == [
        ("engine", "loading weights (limit 2m00s without progress)"),
        ("gateway", "waiting"),
        ("engine", "loading weights (restart 1) (limit 2m00s without progress)"),
        ("engine", "healthy"),
        ("gateway", "asked with a wrong key"),
        ("gateway", "asked for its models"),
        ("gateway", "asked for a completion of smoke"),
        ("gateway", "asked for a stream of smoke"),
        ("gateway", "answered"),
    ]


def test_a_silence_is_told_with_its_limit(start: MakeStart) -> None:
    made = start(*[STARTING] * int(70 / POLL_S), ALL_WELL)
    made.watch()
    assert [words for service, words in made.said if service == "engine"] == [
        "starting (limit 5m00s without progress)",
        "starting, no progress for 30s (limit 5m00s)",
        "starting, no progress for 1m00s (limit 5m00s)",
        "healthy",
    ]


def test_a_good_start_is_remembered(start: MakeStart) -> None:
    made = start(*[STARTING] * 9, ALL_WELL)
    made.watch()
    (replica,) = made.stack.plan.replicas
    assert past_steps(made.stack.state, made.stack.plan, replica) == {Step.STARTING: 9 * POLL_S}


def test_what_a_good_start_took_is_remembered_and_what_ran_already_is_not(start: MakeStart) -> None:
    log = (LOGS / "eager.log").read_text(encoding="utf-8")
    made = start(STARTING, ALL_WELL, log=log)
    made.watch()
    plan = made.stack.plan
    (seen,) = remembered_starts(made.stack.state, plan.host, plan.models[0].location)
    assert (seen.gpu, seen.start.settings.max_model_len, seen.start.measured.kv_cache_tokens) == ("", 2048, 2_097_152)
    (made.stack.state / "observed.json").unlink()
    again = start(ALL_WELL, log=log)
    again.watch()
    assert not (made.stack.state / "observed.json").exists()


def test_an_engine_that_moves_is_waited_for_however_long(start: MakeStart) -> None:
    """Six hours with a line every four minutes; then all is well."""
    made = start(STARTING)

    def write(now_s: float) -> None:
        made.runtime.log = f"Loading safetensors checkpoint shards: 1% Completed | {int(now_s // 110)}/999"
        if now_s > 6 * 3600:
            made.runtime.looks = [ALL_WELL]

    made.time.then = write
    assert made.watch() == {"smoke": "Hello."}


def test_an_engine_that_stands_still_is_given_up(start: MakeStart) -> None:
    made = start(STARTING, log=LOADS)
    message, hint = made.fail()
    assert message == (
        f"engine made no progress for {format_seconds(120 + POLL_S)} (loading weights; limit: 2m00s); "
        "its log says: Starting to load model /smoke..."
    )
    assert hint == "`stackwright doctor prod` looks for the cause"
    assert 120 < made.time.now_s <= 120 + POLL_S


def test_a_hang_that_speaks_every_minute_is_given_up(start: MakeStart) -> None:
    """vLLM 0.32.0 says so of a hang between ranks (shm_broadcast.py); it is no progress."""
    made = start(STARTING)

    def write(now_s: float) -> None:
        made.runtime.log += (
            f"INFO 11-21 03:{int(now_s // 60):02d}:00 [shm_broadcast.py:681] No available shared memory "
            "broadcast block "
            "found in 60 seconds.\n"
            if now_s % 60 == 0
            else ""
        )

    made.time.then = write
    message, _ = made.fail()
    assert message.startswith(f"engine made no progress for {format_seconds(300 + POLL_S)} (starting; limit: 5m00s)")
    assert made.time.now_s < 400


def test_waiting_for_an_engine_is_no_standing_still(start: MakeStart) -> None:
    """The gateway waits for as long as the engine moves; alone it may not wait."""
    made = start(STARTING)

    def write(now_s: float) -> None:
        made.runtime.log = f"line {'x' * int(now_s // 60)}"
        if now_s > 1200:
            made.runtime.looks = [(ALL_WELL[0], STARTING[1])]

    made.time.then = write
    message, _ = made.fail()
    assert message.startswith(f"gateway made no progress for {format_seconds(120 + POLL_S)} (waiting; limit: 2m00s)")
    assert 1320 < made.time.now_s < 1325


def test_the_persons_own_limit_holds_for_what_moves_too(start: MakeStart) -> None:
    """And how to wait longer."""
    made = start(STARTING)
    assert made.fail(limit_s=5) == (
        "engine is still starting after 5s",
        "set a longer --timeout SECONDS; without it, a start is given up only if it makes no progress",
    )


def test_the_limit_holds_for_questions_too(start: MakeStart, gateway: Gateway) -> None:
    gateway.replies["completion"] = [(503, "no deployments available")]
    made = start(ALL_WELL)
    assert (
        made.fail(limit_s=5)[0] == "asked for a completion of smoke, the gateway answered 503: no deployments available"
    )
    assert 5 < made.time.now_s <= 6


def test_a_healthy_gateway_that_never_completes_is_given_up(start: MakeStart, gateway: Gateway) -> None:
    """After two minutes of its refusals; with its own words."""
    gateway.replies["completion"] = [(503, "no deployments available")]
    made = start(ALL_WELL)
    assert made.fail()[0] == "asked for a completion of smoke, the gateway answered 503: no deployments available"
    assert ANSWERS_WITHIN_S < made.time.now_s <= ANSWERS_WITHIN_S + POLL_S


@pytest.mark.parametrize(
    ("kind", "reply", "message"),
    [
        ("models", (401, "wrong key"), "asked for its models, the gateway answered 401: wrong key"),
        ("models", (200, '{"data": []}'), "asked for its models, the gateway does not list smoke"),
        ("refusal", (200, CHAT), "asked with a wrong key, the gateway let it in"),
    ],
)
def test_what_cannot_change_is_asked_once(
    kind: str, reply: tuple[int, str], message: str, start: MakeStart, gateway: Gateway
) -> None:
    gateway.replies[kind] = [reply]
    assert start(ALL_WELL).fail()[0] == message
    assert gateway.kinds.count(kind) == 1


def test_a_gateway_that_comes_and_goes_is_given_up(start: MakeStart, gateway: Gateway) -> None:
    """Healthy at every other look, and never so while it is asked."""
    gateway.replies["refusal"] = [(503, "starting")]
    ill = (ALL_WELL[0], state("gateway", ServicePhase.UNHEALTHY))
    made = start(*[ALL_WELL, ill] * 1000)
    made.fail()
    assert made.time.now_s < 250


def test_a_download_is_told_by_its_size(start: MakeStart, tmp_path: Path) -> None:
    """As long as a part of it grows; afterwards the log tells again."""
    blobs = tmp_path / "hf" / "hub" / "models--acme--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "aa").write_bytes(b"x" * 2**20)
    snapshot = blobs.parent / "snapshots" / "abc1234"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 10485760}}')
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs" / "main").write_text("abc1234")
    made = start(STARTING)
    made.stack = replace(made.stack, env={**made.stack.env, "VLLM_MODEL": "acme/tiny"})

    def arrive(now_s: float) -> None:
        if now_s < 15:
            (blobs / "bb.incomplete").write_bytes(b"x" * int(now_s * 2**20))
        elif (blobs / "bb.incomplete").exists():
            (blobs / "bb.incomplete").replace(blobs / "bb")
            made.runtime.looks = [STARTING, ALL_WELL]

    made.time.then = arrive
    made.watch()
    assert [words for service, words in made.said if service == "engine"] == [
        "starting (limit 5m00s without progress)",
        "downloading weights, 3 MiB of 10 MiB (limit 10m00s without progress)",
        "downloading weights, at 1 MiB/s, 13 MiB (limit 10m00s without progress)",
        "starting (limit 5m00s without progress)",
        "healthy",
    ]


def test_a_service_is_awaited_alone(start: MakeStart) -> None:
    """One replica is restarted while the others answer."""
    made = start(STARTING, (ALL_WELL[0], state("gateway", ServicePhase.EXITED, exit_code=1)))
    await_healthy(made.runtime, made.stack, "engine", lambda *words: made.said.append(words), clock=made.time.clock())
    assert [service for service, _ in made.said] == ["engine", "engine"]


def test_a_service_that_is_awaited_alone_may_not_stand_still(start: MakeStart) -> None:
    made = start(STARTING)
    with pytest.raises(NotHealthyError, match=f"engine made no progress for {format_seconds(300 + POLL_S)}"):
        await_healthy(made.runtime, made.stack, "engine", lambda *_: None, clock=made.time.clock())


def test_the_persons_own_limit_holds_for_one_service_too(start: MakeStart) -> None:
    made = start(STARTING)
    with pytest.raises(NotHealthyError, match="engine is still starting after 5s"):
        await_healthy(made.runtime, made.stack, "engine", lambda *_: None, limit_s=5, clock=made.time.clock())
