"""The gateway's door: how many requests a model works on at once, who waits for a place, and what is refused at once.

LiteLLM's own limits do not queue: `max_parallel_requests` counts in each worker alone and refuses the next request at
once, and the scheduler queues only while no deployment is healthy and orders equal priorities by a random number
(LiteLLM 1.105.3, router_utils/client_initalization_utils.py, router.py `schedule_acompletion`). So this is our own, as
one of LiteLLM's documented hooks: `async_pre_call_hook`. Requests per minute and tokens per minute stay LiteLLM's.

The limits of a model stand in its `model_info.limits` in gateway.yaml; 0 means none. Runs inside the gateway.
"""

import asyncio
import contextlib
import fcntl
import heapq
import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar

from fastapi import HTTPException, Request
from litellm.integrations.custom_logger import CustomLogger  # noqa: TID251  # runs inside LiteLLM

# Set by the key check, which alone sees the request itself; both run in the request's own task.
asked: ContextVar[Request | None] = ContextVar("asked", default=None)

DEFAULT_PRIORITY = 128
"""The middle of LiteLLM's 0 to 255; lower goes first."""

LOOK_AGAIN_S = 0.02
"""How often a worker looks whether another worker has freed a place, only while somebody waits here."""

PRESENT_S = 1.0
"""How often a waiting client is asked whether it is still there."""

LONGEST_RETRY_S = 60

TRIED = "stackwright.tried"
"""Where a request's scope keeps the replicas that it was sent to."""

CHAT = "chat"
OTHER_KINDS = {"embedding": frozenset({"embedding"}), "rerank": frozenset({"rerank", "embedding"})}
"""What is asked for beside text, and the kinds of model that answer it: vLLM ranks by the likeness of vectors, too."""


class Places:
    """A number of places that all workers of one gateway share: bytes of one file, each locked while it is taken.

    The kernel frees the places of a worker that dies. A process never conflicts with its own locks, so it remembers
    which it has.
    """

    def __init__(self, file: int, first: int, count: int) -> None:
        self._file = file
        self._free = list(range(first, first + count))

    def take(self) -> int | None:
        """Take a place; None where all are taken."""
        for position in range(len(self._free) - 1, -1, -1):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._free[position])
            except OSError:
                continue
            return self._free.pop(position)
        return None

    def give(self, place: int) -> None:
        """Give a place back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        self._free.append(place)


class Line:
    """The requests of one model: `slots` work, `seats` wait; by priority, and in order of arrival inside one."""

    def __init__(self, file: int, first: int, slots: int, seats: int) -> None:
        self.slots, self.seats = slots, seats
        self._slots, self._seats = Places(file, first, slots), Places(file, first + slots, seats)
        self._waiting: list[tuple[int, int, asyncio.Future[int]]] = []
        self._numbers = itertools.count()
        self._freed = asyncio.Event()
        self._server: asyncio.Task[None] | None = None
        self.mean_s = 0.0

    async def enter(self, priority: int, timeout_s: float, request: Request) -> int:
        """Return a slot as soon as it is this request's turn; raise HTTPException where there is none."""
        if not self._waiting and (slot := self._slots.take()) is not None:
            return slot
        seat = self._seats.take()
        if seat is None:
            raise self._refusal(f"all {self.slots} slots are in use and {self.seats} requests are queued")
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._numbers), turn))
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        try:
            return await self._await_turn(turn, timeout_s, request)
        except BaseException:
            if not turn.cancel():
                self.leave(turn.result(), None)
            raise
        finally:
            self._seats.give(seat)

    def leave(self, slot: int, entered_s: float | None) -> None:
        """Give a slot back; `entered_s` is when it was taken, None where it was not used."""
        self._slots.give(slot)
        if entered_s is not None:
            took_s = time.monotonic() - entered_s
            self.mean_s = took_s if self.mean_s == 0 else 0.9 * self.mean_s + 0.1 * took_s
        self._freed.set()

    async def _await_turn(self, turn: "asyncio.Future[int]", timeout_s: float, request: Request) -> int:
        until = time.monotonic() + timeout_s
        while not turn.done():
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise self._refusal(f"waited {timeout_s:.0f} s in the queue")
            await asyncio.wait({turn}, timeout=min(left_s, PRESENT_S))
            if not turn.done() and await request.is_disconnected():
                raise HTTPException(status_code=499, detail="the client disconnected while it was queued")
        return turn.result()

    async def _serve(self) -> None:
        """Hand the slots that become free to those who wait, until nobody does."""
        while self._waiting:
            if self._waiting[0][2].done():
                heapq.heappop(self._waiting)
            elif (slot := self._slots.take()) is not None:
                heapq.heappop(self._waiting)[2].set_result(slot)
            else:
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), LOOK_AGAIN_S)

    def _refusal(self, why: str) -> HTTPException:
        wait_s = math.ceil(self.mean_s * max(self.seats, 1) / self.slots)
        headers = {"Retry-After": str(min(max(wait_s, 1), LONGEST_RETRY_S))}
        return HTTPException(status_code=429, detail=f"the model is busy: {why}", headers=headers)


class Door(CustomLogger):
    """LiteLLM's hooks before a request is routed, and where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, str] = {}
        self._lines: dict[str, Line] = {}
        self._most_tokens: dict[str, int] = {}
        self._aliases: Mapping[str, object] = {}
        self._file: int | None = None
        self._first = 0

    async def async_pre_call_hook(self, user_api_key_dict: object, cache: object, data: dict, call_type: str) -> dict:  # noqa: ARG002  # LiteLLM's signature
        """Refuse what is not served and an input that cannot fit, then wait for a place, which is given back at the
        request's end.
        """
        priority = data.pop("priority", None)  # LiteLLM's router would start its own scheduler at this word
        if not self._kinds:
            self._read_models()
        model = self._find(data.get("model"))
        refuse_other_kind(model, self._kinds[model], call_type)
        refuse_oversized(data, self._most_tokens.get(model, 0))
        line, request = self._lines.get(model), asked.get()
        if line is not None and request is not None:
            order = priority if isinstance(priority, int) else DEFAULT_PRIORITY
            # FastAPI closes this stack when the last byte of the answer is sent, or its client is gone.
            ending = request.scope["fastapi_inner_astack"]
            slot = await line.enter(order, float(os.environ["REQUEST_TIMEOUT"]), request)
            ending.callback(line.leave, slot, time.monotonic())
        return data

    async def async_pre_call_deployment_hook(self, kwargs: Mapping[str, object], call_type: object) -> None:  # noqa: ARG002  # LiteLLM's signature
        """Note which replica a request is sent to."""
        request, info = asked.get(), kwargs.get("model_info")
        if request is not None and isinstance(info, Mapping):
            request.scope.setdefault(TRIED, set()).add(info.get("id"))

    async def async_filter_deployments(
        self,
        model: str,  # noqa: ARG002  # LiteLLM's signature
        healthy_deployments: list,
        messages: object,  # noqa: ARG002
        request_kwargs: object = None,  # noqa: ARG002
        parent_otel_span: object = None,  # noqa: ARG002
    ) -> list:
        """Leave out the replicas that have failed this request, while there are others: LiteLLM tries again by
        chance.
        """
        request = asked.get()
        tried = request.scope.get(TRIED, ()) if request is not None else ()
        return [each for each in healthy_deployments if each["model_info"]["id"] not in tried] or healthy_deployments

    def _find(self, asked_for: object) -> str:
        """Return the model that a request names.

        LiteLLM would take several at once, a provider's, or a deployment's id.
        """
        model = self._aliases.get(asked_for, asked_for) if isinstance(asked_for, str) else None
        if not isinstance(model, str) or model not in self._kinds:
            named = f"unknown model `{str(asked_for)[:200]}`" if asked_for else "the request names no model"
            raise HTTPException(status_code=400, detail=f"{named}; GET /v1/models lists the models")
        return model

    def _read_models(self) -> None:
        """Read every model's kind and limits, and the names that stand for other names."""
        from litellm.proxy.proxy_server import llm_router  # noqa: TID251  # exists once the configuration is read

        if llm_router is not None:
            self._lay_out(llm_router.get_model_list() or ())
            self._aliases = dict(llm_router.model_group_alias or {})

    def _lay_out(self, listed: Iterable[Mapping[str, object]]) -> None:
        """Give each model its bytes of the file, in the order of gateway.yaml, which is the same in every worker."""
        for entry in listed:
            name, info = str(entry["model_name"]), entry.get("model_info")
            info = info if isinstance(info, Mapping) else {}
            if name in self._kinds:
                continue
            mode = str(info.get("mode"))
            self._kinds[name] = mode if mode in OTHER_KINDS else CHAT
            limits = info.get("limits")
            if not limits:
                continue
            self._most_tokens[name] = int(limits["input_tokens"])
            slots, seats = int(limits["concurrent_requests"]), int(limits["queued_requests"])
            if slots:
                if self._file is None:
                    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                    self._file = os.open(os.environ["GATEWAY_PLACES"], flags, 0o600)
                self._lines[name] = Line(self._file, self._first, slots, seats)
                self._first += slots + seats


def refuse_other_kind(model: str, kind: str, call_type: str) -> None:
    """Raise HTTPException 400 where a model is asked for what it is not served for.

    The engine would answer 404, which LiteLLM takes for a replica's failure: a few such requests would leave everybody
    without it.
    """
    wanted = next((word for word in OTHER_KINDS if word in call_type), CHAT)
    if kind not in OTHER_KINDS.get(wanted, {CHAT}):
        raise HTTPException(status_code=400, detail=f"`{model}` is served for {kind}, not for {wanted}")


def refuse_oversized(data: Mapping[str, object], most_tokens: int) -> None:
    """Raise HTTPException 400 where the input has surely more than `most_tokens`; 0 means no limit.

    A text has at least as many tokens as words: no tokenizer that splits at white space first, as those of today's
    models do, makes one token of two words. What lies between the words and the tokens the engine refuses, exactly.
    """
    if most_tokens and "truncate_prompt_tokens" not in data:
        least = max(_least(data.get(field), most_tokens) for field in ("messages", "prompt", "input"))
        if least > most_tokens:
            raise HTTPException(
                status_code=400,
                detail=(
                    f"the input has at least {least} tokens; this model takes {most_tokens} (GATEWAY_MAX_INPUT_TOKENS)"
                ),
            )


def _least(field: object, enough: int) -> int:
    """Return a number of tokens that `field` has at least; counts no further than just beyond `enough`."""
    if isinstance(field, str):
        return len(field.split(None, enough)) if len(field) // 2 >= enough else 0
    if not isinstance(field, list) or not field:
        return 0
    if isinstance(field[0], int):
        return len(field)
    if isinstance(field[0], dict):
        return sum(_least_of_part(part, enough) for part in field if isinstance(part, dict))
    return max(_least(each, enough) for each in field)  # several inputs, each by itself


def _least_of_part(part: Mapping[str, object], enough: int) -> int:
    """Count a message or a part of one. What the model said before is left out: templates drop its thoughts."""
    if part.get("role") == "assistant":
        return 0
    text = part.get("content", part.get("text"))
    return _least(text, enough)


door = Door()
