"""What LiteLLM's configuration says of the models: kinds, limits, replicas, aliases and fallbacks.

LiteLLM has read gateway.yaml before the first request; its router is asked, so that there is one configuration.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from admission import bad_request
from forms import FORMS
from lane import Replica
from queueing import Queue

CHAT = "chat"
SPEECH = frozenset({"transcription"})
ENDPOINT_KINDS = {
    "embeddings": frozenset({"embedding"}),
    "rerank": frozenset({"rerank", "embedding"}),
    "audio/transcriptions": SPEECH,
    "audio/translations": SPEECH,
}
"""What is asked for beside text, and the kinds of model that answer it: vLLM ranks by the likeness of vectors, too."""


@dataclass(slots=True, kw_only=True)
class Model:
    """A model as clients name it. `direct`: the endpoints that its engines speak themselves; none of a cloud's.

    `fallbacks` stand in for it where it fails; `longer` where the input is too long for it, None where those are the
    same. `most_tokens`: of an input; 0: no limit.
    """

    name: str
    kind: str
    most_tokens: int
    queue: Queue | None
    replicas: tuple[Replica, ...]
    direct: frozenset[str]
    fallbacks: tuple[str, ...]
    longer: tuple[str, ...] | None


class Models:
    """All models of the gateway, by name and by alias."""

    def __init__(self, router: Any, slots_file: str) -> None:
        self._aliases: Mapping[str, object] = dict(router.model_group_alias or {})
        self._by_name: dict[str, Model] = {}
        self._file, self._first, self._slots_file = -1, 0, slots_file
        chains, longer = _chains(router.fallbacks), _chains(router.context_window_fallbacks)
        entries: dict[str, list[Mapping[str, Any]]] = {}
        for entry in router.model_list:
            entries.setdefault(str(entry["model_name"]), []).append(entry)
        for name, replicas in entries.items():
            self._by_name[name] = self._read(name, replicas, chains.get(name, ()), longer.get(name))

    def __iter__(self) -> Iterator[Model]:
        return iter(self._by_name.values())

    def find(self, asked_for: object, endpoint: str) -> Model:
        """Return the model that a request names.

        LiteLLM would take several at once, a provider's, or a deployment's number.

        Raises:
            RefusedError: 400 where there is none of that name, or it is not served for this endpoint. An engine would
                answer 404, which LiteLLM takes for a replica's failure.
        """
        model = self.named(asked_for)
        if model is None:
            named = f"unknown model `{str(asked_for)[:200]}`" if asked_for else "the request names no model"
            raise bad_request(f"{named}; GET /v1/models lists the models")
        if model.kind not in ENDPOINT_KINDS.get(endpoint, {CHAT}):
            wanted = {"embeddings": "embedding", **dict.fromkeys(FORMS, "transcription")}.get(
                endpoint, endpoint if endpoint in ENDPOINT_KINDS else CHAT
            )
            raise bad_request(f"`{model.name}` is served for {model.kind}, not for {wanted}")
        return model

    def names(self) -> tuple[str, ...]:
        """Return every name that clients may ask for, aliases too."""
        return (*self._by_name, *(name for name in self._aliases if self.named(name)))

    def named(self, asked_for: object) -> Model | None:
        """Return the model of a name or an alias; None where there is none."""
        name = self._aliases.get(asked_for, asked_for) if isinstance(asked_for, str) else None
        return self._by_name.get(name) if isinstance(name, str) else None

    def _read(
        self,
        name: str,
        entries: list[Mapping[str, Any]],
        fallbacks: tuple[str, ...],
        longer: tuple[str, ...] | None,
    ) -> Model:
        info = entries[0].get("model_info") or {}
        # LiteLLM's own word for a model that writes down speech.
        limits, mode = info.get("limits") or {}, str(info.get("mode")).removeprefix("audio_")
        # An adapter comes behind its model, and runs in the same engine.
        base = self._by_name.get(info["base"]) if "base" in info else None
        kinds = {kind for served in ENDPOINT_KINDS.values() for kind in served}
        direct = frozenset(info.get("direct") or ())
        return Model(
            name=name,
            kind=mode if mode in kinds else CHAT,
            most_tokens=int(limits.get("input_tokens", 0)),
            queue=base.queue
            if base is not None
            else self._queue(int(limits.get("concurrent_requests", 0)), int(limits.get("queued_requests", 0))),
            replicas=tuple(_replica(entry) for entry in entries) if direct else (),
            direct=direct,
            fallbacks=fallbacks,
            longer=longer,
        )

    def _queue(self, slots: int, seats: int) -> Queue | None:
        """Give a model its bytes of the file, in the order of gateway.yaml, which is the same in every worker."""
        if not slots:
            return None
        if self._file < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._slots_file, flags, 0o600)
        queue = Queue(self._file, self._first, slots, seats)
        self._first += slots + seats
        return queue


@cache
def read_models() -> Models:
    """Return the models of this worker, which LiteLLM has read; once."""
    from litellm.proxy.proxy_server import llm_router  # noqa: TID251  # exists once the configuration is read

    return Models(llm_router, os.environ["GATEWAY_SLOTS"])


def _replica(entry: Mapping[str, Any]) -> Replica:
    parameters = entry["litellm_params"]
    return Replica(entry["model_info"]["id"], parameters["api_base"], parameters["api_key"])


def _chains(listed: Iterable[Mapping[str, Iterable[str]]] | None) -> dict[str, tuple[str, ...]]:
    return {name: tuple(substitutes) for chain in listed or () for name, substitutes in chain.items()}
