"""A hub is asked once, by a HEAD request that carries the token to it alone; real HTTP on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.domain.host import is_offline
from stackwright.domain.machine import HubAnswer, Unseen
from stackwright.models.reach import ask_hub


class Hub(ThreadingHTTPServer):
    """Answers every path with `status` and `headers`, and keeps what was asked."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 replaced as a whole
    date: str | None = None
    asked: list[tuple[str, str, str | None]]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_HEAD(self) -> None:
        """Answer as the test says."""
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Tell the time, or what the test says it is."""
        return self.server.date or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Give a hub on loopback."""
    with Hub(("127.0.0.1", 0), Answer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(hub: Hub, token: str | None = None) -> HubAnswer:
    """Ask for one model."""
    answer = ask_hub("owner/name", {"HF_ENDPOINT": hub.address + "/"}, token)
    assert isinstance(answer, HubAnswer)
    return answer


def test_one_question_with_the_token(hub: Hub) -> None:
    answer = ask(hub, "hf-token")
    assert hub.asked == [("HEAD", "/owner/name/resolve/main/config.json", "Bearer hf-token")]
    assert (answer.hub, answer.status, answer.gated) == (hub.address, 200, False)
    assert answer.ahead_s is not None
    assert abs(answer.ahead_s) < 60


def test_a_redirect_is_an_answer_and_is_not_followed(hub: Hub) -> None:
    hub.status, hub.headers = 302, {"Location": f"{hub.address}/elsewhere"}
    assert ask(hub, "hf-token").status == 302
    assert len(hub.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
def test_a_refusal_is_an_answer(status: int, hub: Hub) -> None:
    hub.status = status
    assert (ask(hub).status, ask(hub).gated) == (status, False)


def test_a_gated_model_says_so(hub: Hub) -> None:
    hub.status, hub.headers = 401, {"X-Error-Code": "GatedRepo"}
    assert ask(hub).gated


def test_clocks_are_compared(hub: Hub) -> None:
    hub.date = "Fri, 21 Nov 2036 12:00:00 GMT"
    ahead = ask(hub).ahead_s
    assert ahead is not None
    assert ahead > 86400
    hub.date = "yesterday"
    assert ask(hub).ahead_s is None


def test_a_hub_that_is_gone_is_unseen() -> None:
    with Hub(("127.0.0.1", 0), Answer) as gone:
        address = gone.address
    assert ask_hub("owner/name", {"HF_ENDPOINT": address}, None) == Unseen(
        why=f"cannot reach {address}: Connection refused"
    )


@pytest.mark.parametrize(
    "address", ["ftp://x", "file:///etc/passwd", "hub", "http://[", "http://a b", "http://127.0.0.1:99999"]
)
def test_an_address_that_is_none_is_unseen(address: str) -> None:
    assert isinstance(ask_hub("owner/name", {"HF_ENDPOINT": address}, None), Unseen)


@given(name=st.text(max_size=60))
def test_no_name_leaves_the_hub(name: str) -> None:
    """The name is quoted into the path; nothing listens there, so each ends unseen."""
    assert isinstance(ask_hub(name, {"HF_ENDPOINT": "http://127.0.0.1:9"}, None), Unseen)


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_the_variable_that_forbids(value: str, offline: bool) -> None:
    assert is_offline({"HF_HUB_OFFLINE": value}) is offline
