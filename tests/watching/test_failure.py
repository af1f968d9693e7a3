"""Why a start failed: told at the first fall where another start cannot help, with the cause and the fix."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.service import ServicePhase
from stackwright.watching.watch import POLL_S

from tests.watching.gateway import Gateway
from tests.watching.starting import ALL_WELL, LOGS, PERMANENT, STARTING, MakeStart, state

# No rule knows these; the general one quotes the line.
QUOTED = "engine ended with exit code 1 before it answered: the program stops and says why: "


def test_a_service_that_ended_is_named_with_its_reason(start: MakeStart) -> None:
    """Its exit code, and the line of its log that tells why."""
    ended = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    message, _ = start(ended, log="INFO a\nFrobnicationError: the reactor is cold\n").fail()
    assert message == f"{QUOTED}FrobnicationError: the reactor is cold"


def test_a_known_failure_is_named_with_its_cause_and_its_fix(start: MakeStart) -> None:
    ended = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    message, hint = start(ended, log=PERMANENT).fail()
    assert "4096 tokens fit" in message
    assert hint is not None
    assert "--set VLLM_MAX_MODEL_LEN=4096" in hint


@pytest.mark.parametrize("phase", [ServicePhase.STARTING, ServicePhase.UNHEALTHY])
def test_a_failure_that_stays_is_not_tried_again(phase: ServicePhase, start: MakeStart) -> None:
    """At the first fall, whatever the runtime has begun meanwhile: another start says nothing yet, or its first
    lines.
    """
    again = (replace(STARTING[0], phase=phase, restarts=1), STARTING[1])
    eager = (LOGS / "eager.log").read_text(encoding="utf-8")
    for log in (eager + PERMANENT, eager + PERMANENT + "\n".join(eager.splitlines()[:12])):
        made = start(STARTING, again, log=log)
        message, hint = made.fail()
        assert message.startswith("engine ended before it answered: the KV cache is too small")
        assert "--set VLLM_MAX_MODEL_LEN=4096" in str(hint)
        assert made.time.now_s == POLL_S


def test_a_fall_without_a_known_cause_may_be_made_good(start: MakeStart) -> None:
    again = (replace(STARTING[0], restarts=1), STARTING[1])
    assert start(STARTING, again, ALL_WELL, log="ConnectionResetError: peer\n").watch() == {"smoke": "Hello."}


def test_a_fall_of_long_ago_is_not_held_against_a_healthy_engine(start: MakeStart) -> None:
    """The stack ran already: its engine has fallen and come back before this start looked."""
    healthy = (replace(ALL_WELL[0], restarts=7), ALL_WELL[1])
    assert start(healthy, log=PERMANENT).watch() == {"smoke": "Hello."}


def test_an_engine_that_has_said_its_last_word_and_hangs_is_not_waited_for(start: MakeStart) -> None:
    """One rank is out of memory, the others wait for it."""
    made = start(STARTING, log=PERMANENT)
    message, hint = made.fail()
    assert message.startswith("engine cannot start: the KV cache is too small")
    assert "--set VLLM_MAX_MODEL_LEN=4096" in str(hint)
    assert 15 <= made.time.now_s < 15 + POLL_S


def test_an_engine_that_dies_of_the_first_question_is_named(start: MakeStart, gateway: Gateway) -> None:
    """It was healthy, and the gateway only says that it cannot be reached."""
    gateway.replies["completion"] = [(500, "Cannot connect to host engine:8000")]
    dead = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    made = start(ALL_WELL, dead, log="FrobnicationError: no compiler\n")
    assert made.fail()[0] == f"{QUOTED}FrobnicationError: no compiler"
    assert gateway.kinds == ["refusal", "models", "completion"]


def test_an_engine_that_is_healthy_and_cannot_answer_is_asked_once(start: MakeStart, gateway: Gateway) -> None:
    """Its log has said what no second question changes."""
    gateway.replies["completion"] = [(500, "Internal Server Error")]
    made = start(ALL_WELL, log=PERMANENT)
    assert made.fail()[0].startswith("engine cannot start: the KV cache is too small")
    assert gateway.kinds.count("completion") == 1


STARVED = "100 start engine\n160 oom engine\n161 die engine exitCode=137\n162 start engine\n"


@pytest.mark.parametrize(
    ("events", "stays"),
    [
        (STARVED, True),
        # Of another service, or of a start before the one that fell now.
        (STARVED.replace("oom engine", "oom gateway"), False),
        (STARVED + "200 die engine exitCode=1\n201 start engine\n", False),
        # Without the container's own word, a kill may have been anybody's.
        (STARVED.replace("160 oom engine\n", ""), False),
        ("160 oom\n161 die engine\nexitCode=137", False),
        ("", False),
    ],
)
def test_memory_that_ran_out_is_told_by_what_the_runtime_noted(events: str, stays: bool, start: MakeStart) -> None:
    """The first process itself was killed: no line of a log says so."""
    made = start(STARTING, (replace(STARTING[0], restarts=1), STARTING[1]), ALL_WELL)
    made.runtime.noted = events
    if stays:
        assert "ran out of memory" in made.fail()[0]
    else:
        assert made.watch() == {"smoke": "Hello."}
