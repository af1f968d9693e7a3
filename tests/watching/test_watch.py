"""Waiting for a stack: what ends it, what does not, and what the person is told. The gateway is a real HTTP server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from generator.domain.service import ServicePhase, ServiceState
from generator.errors import NotHealthyError
from generator.runtime import Say, ServiceChange, Stack
from generator.watching.history import past_steps
from generator.watching.steps import Step
from generator.watching.watch import ANSWERS_WITHIN_S, POLL_S, Clock, await_healthy, watch
from tests.planning_requests import plan_for, recorded
from tests.watching.gateway import CHAT, KEY, Gateway

LOGS = Path(__file__).parent / "logs"


def state(name: str, phase: ServicePhase, **more: int) -> ServiceState:
    """Return one service's state."""
    return ServiceState(name=name, phase=phase, **more)  # type: ignore[arg-type]


States = tuple[ServiceState, ...]
ALL_WELL = (state("engine", ServicePhase.HEALTHY), state("gateway", ServicePhase.HEALTHY))
STARTING = (state("engine", ServicePhase.STARTING), state("gateway", ServicePhase.WAITING))
PERMANENT = """\
ValueError: To serve at least one request with the models's max seq len (40960), (4.38 GiB KV cache is needed, which is \
larger than the available KV cache memory (0.44 GiB). Based on the available memory, the estimated maximum model length \
is 4096. Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine.
"""
LOADS = "(Worker pid=9491) INFO 11-21 03:45:14 [cpu_model_runner.py:68] Starting to load model /smoke...\n"


@dataclass
class Time:
    """A clock that only sleeping moves. `then` is called after each pause."""

    now_s: float = 0.0
    then: Callable[[float], None] = lambda _: None

    def clock(self) -> Clock:
        """Return it as the watcher takes it."""
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now_s += seconds
        self.then(self.now_s)


@dataclass
class Scripted:
    """A runtime that reports what it is told to, one look after another; the last stays."""

    looks: list[States]
    log: str = ""
    name: str = "scripted"
    notes: tuple[str, ...] = ()
    noted: str = ""

    def prepare(self, say: Say) -> None:
        """Do nothing."""

    def owner(self) -> Path | None:
        """Know of nobody."""
        return None

    def changes(self) -> tuple[ServiceChange, ...]:
        """Have nothing to change."""
        return ()

    def up(self, services: tuple[str, ...] = ()) -> None:
        """Do nothing."""

    def halt(self) -> None:
        """Do nothing."""

    def services(self) -> States:
        """Report the next look."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def logs(self, service: str, lines: int) -> str:  # noqa: ARG002  # the Protocol's signature
        """Return the scripted log of an engine."""
        return self.log if service.startswith("engine") else ""

    def events(self) -> str:
        """Tell what the test noted."""
        return self.noted

    def inspect(self) -> str:
        """Know nothing."""
        return ""

    def down(self) -> None:
        """Do nothing."""


@dataclass
class Start:
    """One start under watch: its runtime, its gateway, its time, and what the person is told."""

    runtime: Scripted
    stack: Stack
    time: Time = field(default_factory=Time)
    said: list[tuple[str, str]] = field(default_factory=list)

    def watch(self, limit_s: float | None = None) -> dict[str, str]:
        """Watch it to its end."""
        return watch(self.runtime, self.stack, KEY, self._say, limit_s=limit_s, clock=self.time.clock())

    def _say(self, service: str, words: str) -> None:
        self.said.append((service, words))

    def fail(self, limit_s: float | None = None) -> tuple[str, str | None]:
        """Watch it to its bad end; return message and hint."""
        with pytest.raises(NotHealthyError) as failure:
            self.watch(limit_s)
        return failure.value.message, failure.value.hint


@pytest.fixture
def start(tmp_path: Path, gateway: Gateway) -> Callable[..., Start]:
    """Give a maker of starts from their looks and the engine's log."""

    def make(*looks: States, log: str = "") -> Start:
        plan = plan_for(recorded("cpu-small"))
        env = {key: setting.value for key, setting in plan.settings.items()}
        env |= {"GATEWAY_PORT": str(gateway.server_address[1]), "HF_HOME": str(tmp_path / "hf")}
        stack = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
        return Start(runtime=Scripted(looks=list(looks), log=log), stack=stack)

    return make


MakeStart = Callable[..., Start]


def test_ready_is_an_answer_to_all_that_a_client_would_ask(start: MakeStart, gateway: Gateway) -> None:
    """Not a health check: the engine may be healthy and unable to answer. A failing first answer is asked again."""
    gateway.replies["completion"] = [(503, "cooling down"), (200, CHAT)]
    made = start(STARTING, ALL_WELL)
    assert made.watch() == {"smoke": "Hello."}
    assert gateway.kinds == ["refusal", "models", "completion", "completion", "stream"]


def test_a_start_is_told_change_by_change(start: MakeStart) -> None:
    """The engine's log tells its step, with its limit; a restart is counted; the rest is the phase."""
    fallen = (replace(STARTING[0], restarts=1), STARTING[1])
    made = start(STARTING, STARTING, fallen, ALL_WELL, log=LOADS)
    made.watch()
    assert made.said == [
        ("engine", "loading weights (given up after 2m00s without progress)"),
        ("gateway", "waiting"),
        ("engine", "loading weights (restart 1) (given up after 2m00s without progress)"),
        ("engine", "healthy"),
        ("gateway", "asked with a wrong key"),
        ("gateway", "asked for its models"),
        ("gateway", "asked for a completion of smoke"),
        ("gateway", "asked for a stream of smoke"),
        ("gateway", "answered"),
    ]


def test_a_silence_is_told_with_its_limit(start: MakeStart) -> None:
    made = start(*[STARTING] * 70, ALL_WELL)
    made.watch()
    assert [words for service, words in made.said if service == "engine"] == [
        "starting (given up after 5m00s without progress)",
        "starting, no progress for 30s of at most 5m00s",
        "starting, no progress for 1m00s of at most 5m00s",
        "healthy",
    ]


def test_a_good_start_is_remembered(start: MakeStart) -> None:
    made = start(*[STARTING] * 9, ALL_WELL)
    made.watch()
    (replica,) = made.stack.plan.replicas
    assert past_steps(made.stack.state, made.stack.plan, replica) == {Step.STARTING: 9}


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
        "engine has not moved for 2m01s (loading weights; allowed: 2m00s); its log says: Starting to load model /smoke..."
    )
    assert hint == "`stackwright doctor prod` shows what is known"
    assert 120 < made.time.now_s < 122


def test_a_hang_that_speaks_every_minute_is_given_up(start: MakeStart) -> None:
    """vLLM 0.32.0 says so of a hang between ranks (shm_broadcast.py); it is no progress."""
    made = start(STARTING)

    def write(now_s: float) -> None:
        made.runtime.log += (
            f"INFO 11-21 03:{int(now_s // 60):02d}:00 [shm_broadcast.py:681] No available shared memory broadcast block "
            "found in 60 seconds.\n"
            if now_s % 60 == 0
            else ""
        )

    made.time.then = write
    message, _ = made.fail()
    assert message.startswith("engine has not moved for 5m01s (starting; allowed: 5m00s)")
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
    assert message.startswith("gateway has not moved for 2m01s (waiting; allowed: 2m00s)")
    assert 1320 < made.time.now_s < 1325


def test_the_persons_own_limit_holds_for_what_moves_too(start: MakeStart) -> None:
    """And how to wait longer."""
    made = start(STARTING)
    assert made.fail(limit_s=5) == (
        "engine is still starting after 5s",
        "`--timeout SECONDS` waits longer; without it, a start is given up only where it stands still",
    )


def test_the_limit_holds_for_questions_too(start: MakeStart, gateway: Gateway) -> None:
    gateway.replies["completion"] = [(503, "no deployments available")]
    made = start(ALL_WELL)
    assert (
        made.fail(limit_s=5)[0] == "asked for a completion of smoke, the gateway answered 503: no deployments available"
    )
    assert 5 < made.time.now_s <= 6


def test_a_service_that_ended_is_named_with_its_reason(start: MakeStart) -> None:
    """Its exit code, and the line of its log that tells why."""
    ended = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    message, _ = start(ended, log="INFO a\nFrobnicationError: the reactor is cold\n").fail()
    assert message == "engine ended with exit code 1 before it answered: FrobnicationError: the reactor is cold"


def test_a_known_failure_is_named_with_its_cause_and_its_fix(start: MakeStart) -> None:
    ended = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    message, hint = start(ended, log=PERMANENT).fail()
    assert "4096 tokens fit" in message
    assert hint is not None
    assert "--set VLLM_MAX_MODEL_LEN=4096" in hint


@pytest.mark.parametrize("phase", [ServicePhase.STARTING, ServicePhase.UNHEALTHY])
def test_a_failure_that_stays_is_not_tried_again(phase: ServicePhase, start: MakeStart) -> None:
    """At the first fall, whatever the runtime has begun meanwhile: another start says nothing yet, or its first lines."""
    again = (replace(STARTING[0], phase=phase, restarts=1), STARTING[1])
    eager = (LOGS / "eager.log").read_text(encoding="utf-8")
    for log in (eager + PERMANENT, eager + PERMANENT + "\n".join(eager.splitlines()[:12])):
        made = start(STARTING, again, log=log)
        message, hint = made.fail()
        assert message.startswith("engine ended before it answered: the memory left for the KV cache")
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
    assert message.startswith("engine cannot start: the memory left for the KV cache")
    assert "--set VLLM_MAX_MODEL_LEN=4096" in str(hint)
    assert made.time.now_s == 15


def test_an_engine_that_dies_of_the_first_question_is_named(start: MakeStart, gateway: Gateway) -> None:
    """It was healthy, and the gateway only says that it cannot be reached."""
    gateway.replies["completion"] = [(500, "Cannot connect to host engine:8000")]
    dead = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    made = start(ALL_WELL, dead, log="FrobnicationError: no compiler\n")
    assert made.fail()[0] == "engine ended with exit code 1 before it answered: FrobnicationError: no compiler"
    assert gateway.kinds == ["refusal", "models", "completion"]


def test_an_engine_that_is_healthy_and_cannot_answer_is_asked_once(start: MakeStart, gateway: Gateway) -> None:
    """Its log has said what no second question changes."""
    gateway.replies["completion"] = [(500, "Internal Server Error")]
    made = start(ALL_WELL, log=PERMANENT)
    assert made.fail()[0].startswith("engine cannot start: the memory left for the KV cache")
    assert gateway.kinds.count("completion") == 1


def test_a_healthy_gateway_that_never_completes_is_given_up(start: MakeStart, gateway: Gateway) -> None:
    """After two minutes of its refusals; with its own words."""
    gateway.replies["completion"] = [(503, "no deployments available")]
    made = start(ALL_WELL)
    assert made.fail()[0] == "asked for a completion of smoke, the gateway answered 503: no deployments available"
    assert ANSWERS_WITHIN_S < made.time.now_s <= ANSWERS_WITHIN_S + 1


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
        "starting (given up after 5m00s without progress)",
        "downloading weights, 2 MiB (given up after 10m00s without progress)",
        "downloading weights, at 1 MiB/s, 12 MiB (given up after 10m00s without progress)",
        "starting (given up after 5m00s without progress)",
        "healthy",
    ]


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
        assert "memory ran out" in made.fail()[0]
    else:
        assert made.watch() == {"smoke": "Hello."}


def test_a_service_is_awaited_alone(start: MakeStart) -> None:
    """One replica is restarted while the others answer."""
    made = start(STARTING, (ALL_WELL[0], state("gateway", ServicePhase.EXITED, exit_code=1)))
    await_healthy(made.runtime, made.stack, "engine", lambda *words: made.said.append(words), clock=made.time.clock())
    assert [service for service, _ in made.said] == ["engine", "engine"]


def test_a_service_that_is_awaited_alone_may_not_stand_still(start: MakeStart) -> None:
    made = start(STARTING)
    with pytest.raises(NotHealthyError, match="engine has not moved for 5m01s"):
        await_healthy(made.runtime, made.stack, "engine", lambda *_: None, clock=made.time.clock())


def test_the_persons_own_limit_holds_for_one_service_too(start: MakeStart) -> None:
    made = start(STARTING)
    with pytest.raises(NotHealthyError, match="engine is still starting after 5s"):
        await_healthy(made.runtime, made.stack, "engine", lambda *_: None, limit_s=5, clock=made.time.clock())
