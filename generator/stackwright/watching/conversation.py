"""Ask the gateway for a chat, and yield its answer piece by piece. Touches the network on this machine only."""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from msgspec import Struct

from stackwright.errors import NotHealthyError, StackError, UsageError
from stackwright.watching.probe import MOST_BYTES, Endpoint, open_request

CHAT_PATH = "/v1/chat/completions"


class Turn(Struct, frozen=True, kw_only=True):
    """One message of a conversation, as OpenAI's API has it: `role` is system, user or assistant."""

    role: str
    content: str


class Piece(Struct, frozen=True, kw_only=True):
    """A part of an answer; `thought` where the model reasons and does not answer yet."""

    text: str
    thought: bool = False


def stream_chat(endpoint: Endpoint, key: str, model: str, turns: Sequence[Turn], limit_s: float) -> Iterator[Piece]:
    """Yield the pieces of an answer as they come. `limit_s`: seconds without a byte after which it is given up.

    Raises:
        NotHealthyError: nothing answers there, or the answer breaks off.
        UsageError: the gateway refuses the question.
    """
    body: dict[str, object] = {"model": model, "messages": _messages(turns), "stream": True}
    with _failures(endpoint, limit_s), open_request(endpoint, CHAT_PATH, key, body, limit_s) as response:
        yield from _pieces(response)


def count_tokens(endpoint: Endpoint, key: str, model: str, text: str, limit_s: float) -> int:
    """Return the tokens that a model counts in a prompt, its chat template included. Asks for an answer of one token.

    Raises:
        NotHealthyError: nothing answers there, or the answer does not say.
        UsageError: the gateway refuses the question.
    """
    turns = [Turn(role="user", content=text)]
    body: dict[str, object] = {"model": model, "messages": _messages(turns), "max_completion_tokens": 1}
    with _failures(endpoint, limit_s), open_request(endpoint, CHAT_PATH, key, body, limit_s) as response:
        said = response.read(MOST_BYTES)
    try:
        return int(json.loads(said)["usage"]["prompt_tokens"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise NotHealthyError("the gateway does not say how many tokens a prompt has", hint=None) from None


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@contextmanager
def _failures(endpoint: Endpoint, limit_s: float) -> Iterator[None]:
    """Say in words why a question got no answer."""
    try:
        yield
    except urllib.error.HTTPError as refusal:
        with refusal:
            text = refusal.read(MOST_BYTES).decode(errors="replace")
        raise _refused(refusal.code, text) from None
    except TimeoutError:
        raise NotHealthyError(f"the gateway has sent nothing for {limit_s:g} s", hint=None) from None
    except (OSError, http.client.HTTPException) as failure:
        reason = getattr(failure, "reason", None) or failure
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise NotHealthyError(f"the gateway at {endpoint.url} does not answer: {words}", hint=None) from None


def _pieces(lines: Any) -> Iterator[Piece]:
    """Read server-sent events; `data: [DONE]` has to end them."""
    for line in lines:
        text = line.decode(errors="replace").strip()
        if not text.startswith("data:"):
            continue
        event = text.removeprefix("data:").strip()
        if event == "[DONE]":
            return
        try:
            document = json.loads(event)
        except (ValueError, RecursionError):
            continue
        if "error" in document:
            raise NotHealthyError(f"the answer broke off: {message_of(event)}", hint=None)
        yield from _piece(document)
    raise NotHealthyError("the answer broke off: the gateway ended the stream", hint=None)


def _piece(document: Any) -> Iterator[Piece]:
    with suppress(LookupError, TypeError, AttributeError):
        delta = document["choices"][0]["delta"]
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            yield Piece(text=str(thought), thought=True)
        if delta.get("content"):
            yield Piece(text=str(delta["content"]))


def _refused(status: int, text: str) -> StackError:
    message = message_of(text)
    if status >= 500:
        return NotHealthyError(f"the gateway answered {status}: {message}", hint=None)
    return UsageError(f"the gateway refuses ({status}): {message}", hint=None)


def message_of(text: str) -> str:
    """Return the sentence of an error document, without its final period; else the text itself, cut short."""
    message: object = text
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        message = json.loads(text)["error"]["message"]
    return " ".join(str(message).split())[:300].rstrip(".") or "no reason given"
