"""Waiting for a stack: what ends it, what does not, and what the person is told. The gateway is a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from generator.domain.service import ServicePhase, ServiceState
from generator.errors import NotHealthyError
from generator.runtime import Say, Stack
from generator.watching.health import Verdict, judge
from generator.watching.probe import base_url, complete
from generator.watching.watch import ANSWERS_WITHIN_S, Clock, watch
from tests.planning_requests import plan_for, recorded

KEY = "sk-test"


def state(name: str, phase: ServicePhase, **more: int) -> ServiceState:
    """Return one service's state."""
    return ServiceState(name=name, phase=phase, **more)  # type: ignore[arg-type]


ALL_WELL = (state("engine", ServicePhase.HEALTHY), state("gateway", ServicePhase.HEALTHY))


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (ALL_WELL, Verdict.ASK),
        ((ALL_WELL[0], state("gateway", ServicePhase.STARTING)), Verdict.WAIT),
        ((ALL_WELL[0], state("gateway", ServicePhase.UNHEALTHY)), Verdict.WAIT),
        ((ALL_WELL[0], state("gateway", ServicePhase.EXITED, exit_code=1)), Verdict.FAILED),
        ((state("engine", ServicePhase.STARTING, restarts=3), ALL_WELL[1]), Verdict.FAILED),
        ((state("engine", ServicePhase.STARTING, restarts=2), ALL_WELL[1]), Verdict.WAIT),
        ((), Verdict.WAIT),
    ],
)
def test_services_are_judged_together(states: tuple[ServiceState, ...], verdict: Verdict) -> None:
    """An unhealthy one may recover; one that ended for good does not."""
    assert judge(states).verdict is verdict


class Gateway(BaseHTTPRequestHandler):
    """Answers from the list of replies on its server, the last one again and again."""

    def do_POST(self) -> None:
        """Give the next reply."""
        server = self.server
        assert isinstance(server, GatewayServer)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, self.headers["Authorization"], body["model"]))
        status, text = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        self.send_response(status)
        if server.location:
            self.send_header("Location", server.location)
        if server.promised:
            self.send_header("Content-Length", str(server.promised))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


class GatewayServer(ThreadingHTTPServer):
    """A gateway on loopback with the replies that a test wants."""

    def __init__(self, replies: list[tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Gateway)
        self.replies = replies
        self.asked: list[tuple[str, str, str]] = []
        self.location = ""
        self.promised = 0


CHAT = json.dumps({"choices": [{"message": {"content": "Hello."}}]})
PLAIN = json.dumps({"choices": [{"text": "Hello there."}]})


@pytest.fixture
def gateway() -> Iterator[GatewayServer]:
    """Give a gateway that answers each chat."""
    with GatewayServer([(200, CHAT)]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(gateway: GatewayServer) -> tuple[int | None, bool, str]:
    """Ask it for a completion; return status, whether it is one, and its text."""
    answer = complete(base_url("127.0.0.1", gateway.server_address[1]), KEY, "smoke")
    return answer.status, answer.ok, answer.text


def test_a_completion_is_asked_as_a_client_would(gateway: GatewayServer) -> None:
    """With the key, at the path that every client uses."""
    assert ask(gateway) == (200, True, "Hello.")
    assert gateway.asked == [("/v1/chat/completions", f"Bearer {KEY}", "smoke")]


def test_a_model_without_a_chat_template_is_asked_for_plain_text(gateway: GatewayServer) -> None:
    """Base models answer only that way."""
    gateway.replies = [(400, "default chat template is no longer allowed"), (200, PLAIN)]
    assert ask(gateway) == (200, True, "Hello there.")
    assert [path for path, *_ in gateway.asked] == ["/v1/chat/completions", "/v1/completions"]


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_refusal_is_an_answer_with_its_words(status: int, gateway: GatewayServer) -> None:
    """Never an exception."""
    gateway.replies = [(status, "no")]
    assert ask(gateway) == (status, False, "no")


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"choices": []}', '{"choices": [{}]}', "null", "\x00"])
def test_a_200_that_is_no_completion_is_no_answer(body: str, gateway: GatewayServer) -> None:
    """A proxy's page, or an empty reply."""
    gateway.replies = [(200, body)]
    assert ask(gateway)[1] is False


def test_nobody_there_is_an_answer_too() -> None:
    """A port that nothing listens on."""
    with GatewayServer([(200, CHAT)]) as closed:
        port = closed.server_address[1]
    answer = complete(base_url("0.0.0.0", port), KEY, "smoke")
    assert (answer.status, answer.ok) == (None, False)


@dataclass
class Scripted:
    """A runtime that reports what it is told to, one look after another; the last stays."""

    looks: list[tuple[ServiceState, ...]]
    log: str = ""
    name: str = "scripted"
    notes: tuple[str, ...] = ()
    down_calls: int = field(default=0)

    def prepare(self, say: Say) -> None:
        """Do nothing."""

    def up(self) -> None:
        """Do nothing."""

    def services(self) -> tuple[ServiceState, ...]:
        """Report the next look."""
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def logs(self, service: str, lines: int) -> str:  # noqa: ARG002  # the Protocol's signature
        """Return the scripted log."""
        return self.log

    def events(self) -> str:
        """Have noted nothing."""
        return ""

    def inspect(self) -> str:
        """Know nothing."""
        return ""

    def down(self) -> None:
        """Count the calls."""
        self.down_calls += 1


def stack_at(port: int) -> Stack:
    """Return a stack whose gateway is at `port`."""
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in plan.settings.items()} | {"GATEWAY_PORT": str(port)}
    return Stack(root=Path("/nowhere"), state=Path("/nowhere"), plan=plan, env=env)


def test_ready_is_a_completion(gateway: GatewayServer) -> None:
    """Not a health check: the engine may be healthy and unable to answer. A failing first answer is asked again."""
    gateway.replies = [(503, "cooling down"), (200, CHAT)]
    starting = (state("engine", ServicePhase.STARTING), state("gateway", ServicePhase.WAITING))
    said: list[tuple[str, str]] = []
    runtime = Scripted(
        looks=[starting, ALL_WELL], log="INFO 11-21 03:30:18 [gpu_model_runner.py:1] Starting to load model smoke..."
    )
    answers = watch(runtime, stack_at(gateway.server_address[1]), KEY, lambda *words: said.append(words), limit_s=60)
    assert answers == {"smoke": "Hello."}
    assert said[0][0] == "engine"
    assert said[-1] == ("gateway", "answered")
    assert len(gateway.asked) == 2


def test_a_wrong_key_is_not_asked_twice(gateway: GatewayServer) -> None:
    """It will not become right."""
    gateway.replies = [(401, "wrong or missing key")]
    with pytest.raises(NotHealthyError, match="no completion: 401: wrong or missing key"):
        watch(Scripted(looks=[ALL_WELL]), stack_at(gateway.server_address[1]), KEY, lambda *_: None, limit_s=60)
    assert len(gateway.asked) == 1


def test_a_service_that_ended_is_named_with_its_reason() -> None:
    """Its exit code, and the line of its log that tells why."""
    ended = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    runtime = Scripted(looks=[ended], log="INFO a\nRuntimeError: no kernel image is available\n")
    with pytest.raises(NotHealthyError) as failure:
        watch(runtime, stack_at(1), KEY, lambda *_: None, limit_s=60)
    assert failure.value.message == (
        "engine ended with exit code 1 before it answered: RuntimeError: no kernel image is available"
    )


def test_the_limit_names_who_is_behind() -> None:
    """And how to wait longer."""
    slow = (replace(ALL_WELL[0], phase=ServicePhase.STARTING), ALL_WELL[1])
    with pytest.raises(NotHealthyError) as failure:
        watch(Scripted(looks=[slow]), stack_at(1), KEY, lambda *_: None, limit_s=0)
    assert failure.value.message == "engine is still starting after 0s"
    assert failure.value.hint == "`--timeout SECONDS` waits longer"


@dataclass
class Time:
    """A clock that only sleeping moves."""

    now_s: float = 0.0

    def clock(self) -> Clock:
        """Return it as the watcher takes it."""
        return Clock(now=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass at once."""
        self.now_s += seconds


def test_an_engine_that_dies_of_the_first_question_is_named(gateway: GatewayServer) -> None:
    """It was healthy, and the gateway only says that it cannot be reached."""
    gateway.replies = [(500, "Cannot connect to host engine:8000")]
    dead = (state("engine", ServicePhase.EXITED, exit_code=1), ALL_WELL[1])
    runtime = Scripted(looks=[ALL_WELL, dead], log="torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler\n")
    with pytest.raises(NotHealthyError) as failure:
        watch(runtime, stack_at(gateway.server_address[1]), KEY, lambda *_: None, limit_s=60, clock=Time().clock())
    assert failure.value.message.startswith("engine ended with exit code 1 before it answered")
    assert len(gateway.asked) == 1


def test_a_healthy_gateway_that_never_completes_is_given_up(gateway: GatewayServer) -> None:
    """After two minutes of its refusals, however long the limit is; with its own words."""
    gateway.replies = [(503, "no deployments available")]
    time = Time()
    with pytest.raises(NotHealthyError) as failure:
        watch(
            Scripted(looks=[ALL_WELL]),
            stack_at(gateway.server_address[1]),
            KEY,
            lambda *_: None,
            limit_s=3600,
            clock=time.clock(),
        )
    assert failure.value.message == "the gateway gave no completion: 503: no deployments available"
    assert ANSWERS_WITHIN_S < time.now_s <= ANSWERS_WITHIN_S + 1


def test_the_limit_holds_for_questions_too(gateway: GatewayServer) -> None:
    gateway.replies = [(503, "no deployments available")]
    time = Time()
    with pytest.raises(NotHealthyError, match="503: no deployments available"):
        watch(
            Scripted(looks=[ALL_WELL]),
            stack_at(gateway.server_address[1]),
            KEY,
            lambda *_: None,
            limit_s=5,
            clock=time.clock(),
        )
    assert 5 < time.now_s <= 6


def test_a_long_start_is_told_change_by_change(gateway: GatewayServer) -> None:
    """The engine's log tells its step; a restart is counted; the rest is the phase."""
    looks: list[tuple[ServiceState, ...]] = [
        (state("engine", ServicePhase.STARTING), state("gateway", ServicePhase.WAITING)),
        (state("engine", ServicePhase.STARTING, restarts=1), state("gateway", ServicePhase.WAITING)),
        ALL_WELL,
    ]
    said: list[tuple[str, str]] = []
    runtime = Scripted(looks=looks, log="INFO [cpu_model_runner.py:68] Starting to load model /smoke...")
    watch(
        runtime,
        stack_at(gateway.server_address[1]),
        KEY,
        lambda *words: said.append(words),
        limit_s=60,
        clock=Time().clock(),
    )
    assert said == [
        ("engine", "loading weights"),
        ("gateway", "waiting"),
        ("engine", "loading weights (restart 1)"),
        ("gateway", "waiting"),
        ("engine", "healthy"),
        ("gateway", "asking for a completion"),
        ("gateway", "answered"),
    ]


def test_a_download_is_told_by_its_size(tmp_path: Path, gateway: GatewayServer) -> None:
    """As long as a part of it is incomplete; afterwards the log tells again."""
    blobs = tmp_path / "hub" / "models--acme--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "aa").write_bytes(b"x" * 2**20)
    (blobs / "bb.incomplete").write_bytes(b"x" * 2**20)
    stack = stack_at(gateway.server_address[1])
    stack = replace(stack, env={**stack.env, "VLLM_MODEL": "acme/tiny", "HF_HOME": str(tmp_path)})
    said: list[tuple[str, str]] = []

    def say(service: str, words: str) -> None:
        said.append((service, words))
        (blobs / "bb.incomplete").replace(blobs / "bb") if len(said) == 1 else None

    starting = (state("engine", ServicePhase.STARTING),)
    watch(Scripted(looks=[starting, starting, ALL_WELL]), stack, KEY, say, limit_s=60, clock=Time().clock())
    assert said[:2] == [("engine", "downloading weights, 2 MiB"), ("engine", "starting")]


def test_the_key_is_not_carried_elsewhere(gateway: GatewayServer) -> None:
    """A redirection is an answer, not an address."""
    with GatewayServer([(200, CHAT)]) as elsewhere:
        gateway.location = f"http://127.0.0.1:{elsewhere.server_address[1]}/"
        gateway.replies = [(302, "")]
        status, ok, _ = ask(gateway)
    assert (status, ok, elsewhere.asked) == (302, False, [])


def test_a_reply_that_is_cut_off_is_no_answer(gateway: GatewayServer) -> None:
    """The engine behind it was killed meanwhile."""
    gateway.promised = 1000
    for status in (200, 500):
        gateway.replies = [(status, CHAT[:20])]
        assert ask(gateway)[1] is False


def test_a_model_that_only_thinks_has_answered(gateway: GatewayServer) -> None:
    """Eight tokens may all be thoughts, which come apart from the content."""
    gateway.replies = [(200, json.dumps({"choices": [{"message": {"content": None, "reasoning_content": "Well"}}]}))]
    assert ask(gateway) == (200, True, "")
