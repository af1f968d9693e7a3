"""Asks the stack's models, through the gateway: captions, answers, transcripts, embeddings.

With a key of the service's own, in the name of the key whose job it is: its rights hold, and its limits. Standard
library only; one request at a time.
"""

import base64
import contextlib
import copy
import http.client
import json
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keys import ACTS_FOR
from trust import certificate_in, trust_gateway

OWN = "multimodal"
"""The name of the service's own key: its self-test's."""

MOST_ANSWER_BYTES = 64 * 2**20

CAPTION = "Describe this picture in one or two plain sentences, for a search. Name what can be seen and read in it."

READ_PAGE = (
    "Write down the text of this scanned page, word for word and in its order, and nothing else. Where there is no"
    " text, describe in one or two sentences what can be seen."
)
CAPTION_TOKENS, PAGE_TOKENS = 300, 1500
"""The longest answers: of a page a dense one of A4, some 700 English words."""

LATER = frozenset({401, 408, 425, 429, 500, 502, 503, 504})
"""What may pass: the gateway, or an engine behind it, is not there, is busy, or failed; a key is about to be known."""


class LaterError(Exception):
    """No answer for now. `pause_s`: where a limit of requests says for how long; `status`: of an error answer."""

    def __init__(self, reason: str, pause_s: float | None = None, status: int = 0) -> None:
        super().__init__(reason)
        self.pause_s, self.status = pause_s, status


class RefusedRequestError(Exception):
    """An answer that would be the same again; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Where the models are, and which: an empty name where the stack has none of that role.

    `speech_socket`: of the transcriber on this machine's processor (speech.py), which stands in where no engine has the
    role.
    `embeds_pictures`: whether the embedding model takes pictures beside text.
    """

    address: str
    key_file: Path
    vision: str = ""
    speech: str = ""
    embedding: str = ""
    embeds_pictures: bool = False
    speech_socket: Path | None = None
    timeout_s: float = 600.0
    certificate: Path | None = None

    @property
    def hears(self) -> bool:
        """Whether anything here writes down speech."""
        return bool(self.speech or self.speech_socket)


def read_stack(environment: Mapping[str, str]) -> Stack:
    """Return what the service's variables say of the stack."""
    secrets = Path(environment.get("SECRETS_DIRECTORY", "/run/secrets"))
    return Stack(
        address=environment["GATEWAY_ADDRESS"],
        key_file=secrets / f"{OWN}_gateway_key",
        vision=environment.get("VISION_MODEL", ""),
        speech=environment.get("SPEECH_MODEL", ""),
        embedding=environment.get("EMBEDDING_MODEL", ""),
        embeds_pictures=environment.get("EMBEDDING_SEES") == "yes",
        speech_socket=Path(environment["SPEECH_SOCKET"]) if environment.get("SPEECH_SOCKET") else None,
        timeout_s=float(environment.get("GATEWAY_REQUEST_TIMEOUT_S", "600")),
        certificate=certificate_in(secrets),
    )


class Models:
    """The models of the stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._owner = OWN
        self._tls = None if stack.certificate is None else trust_gateway(stack.certificate)

    def acting_for(self, owner: str) -> "Models":
        """Return these models, asked in the name of a key."""
        asked = copy.copy(self)
        asked._owner = owner
        return asked

    def look(self, pictures: Sequence[Path], question: str, most_tokens: int = CAPTION_TOKENS) -> str:
        """Return what the vision model says of pictures. Raises LaterError, RefusedRequestError."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": _data(path)}} for path in pictures]
        parts.append({"type": "text", "text": question})
        fields = {"model": self.stack.vision, "messages": [{"role": "user", "content": parts}]}
        answer = self._ask_json("/v1/chat/completions", {**fields, "max_tokens": most_tokens, "temperature": 0})
        try:
            return str(answer["choices"][0]["message"]["content"] or "").strip()
        except (LookupError, TypeError) as failure:
            raise LaterError(f"`{self.stack.vision}` answered without a text") from failure

    def read_page(self, page: Path) -> str:
        """Return the text of a scanned page; its beginning where the context holds no more. Raises as `look`."""
        try:
            return self.look([page], READ_PAGE, PAGE_TOKENS)
        except RefusedRequestError:
            return self.look([page], READ_PAGE)

    def hear(self, sound: bytes, language: str | None) -> dict[str, Any]:
        """Return `text` and `segments` of a WAV file. Raises LaterError, RefusedRequestError."""
        fields = {"model": self.stack.speech or "speech", "temperature": "0"}
        if language:
            fields["language"] = language
        try:
            return self._hear({**fields, "response_format": "verbose_json"}, sound)
        except LaterError as fault:
            # vLLM 0.32.0 fails at silence where times are asked for (speech_to_text/base/serving.py).
            if fault.status != 500:
                raise
        return self._hear({**fields, "response_format": "json"}, sound)

    def _hear(self, fields: Mapping[str, str], sound: bytes) -> dict[str, Any]:
        body, kind = _form(fields, sound)
        return _segments(self._ask("/v1/audio/transcriptions", body, kind, is_here=not self.stack.speech))

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of texts. Raises LaterError, RefusedRequestError."""
        if self.stack.embeds_pictures:
            return [self._embed_said({"type": "text", "text": text}) for text in texts]
        fields = {"model": self.stack.embedding, "input": list(texts), "encoding_format": "float"}
        return _vectors(self._ask_json("/v1/embeddings", fields), len(texts))

    def embed_picture(self, picture: Path) -> list[float]:
        """Return the vector of a picture. Raises LaterError, RefusedRequestError."""
        return self._embed_said({"type": "image_url", "image_url": {"url": _data(picture)}})

    def _embed_said(self, part: Mapping[str, Any]) -> list[float]:
        """Return the vector of a conversation with one part, which is how a model that sees takes pictures and texts.

        By its template both get the same frame; vectors of plain texts would lie elsewhere (vLLM 0.32.0
        entrypoints/pooling, examples/pooling/embed/vision_embedding_online.py). One vector a request.
        """
        fields = {"model": self.stack.embedding, "messages": [{"role": "user", "content": [part]}]}
        return _vectors(self._ask_json("/v1/embeddings", {**fields, "encoding_format": "float"}), 1)[0]

    def _ask_json(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask(path, json.dumps(fields).encode(), "application/json")

    def _ask(self, path: str, body: bytes, kind: str, *, is_here: bool = False) -> dict[str, Any]:
        """Ask the gateway, or the transcriber of this service, and return the answer's JSON object."""
        who = "the transcriber" if is_here else "the gateway"
        headers = {"Content-Type": kind}
        if not is_here:
            headers["Authorization"] = f"Bearer {self._key()}"
            if self._owner != OWN:
                headers[ACTS_FOR] = self._owner
        try:
            with contextlib.closing(self._connection(is_here)) as connection:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                content, status = answer.read(MOST_ANSWER_BYTES), answer.status
        except TimeoutError as failure:
            raise LaterError(f"no answer within {self.stack.timeout_s:.0f} s (GATEWAY_REQUEST_TIMEOUT_S)") from failure
        except (OSError, http.client.HTTPException) as failure:
            raise LaterError(f"{who} cannot be reached: {failure}") from failure
        if status != 200:
            raise _refusal(who, status, answer.headers.get("Retry-After", ""), content)
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise LaterError(f"{who} answered no JSON object")
        return document

    def _connection(self, is_here: bool) -> http.client.HTTPConnection:
        if is_here:
            assert self.stack.speech_socket is not None
            return _UnixConnection(self.stack.speech_socket, self.stack.timeout_s)
        if self._tls is not None:
            return http.client.HTTPSConnection(self.stack.address, timeout=self.stack.timeout_s, context=self._tls)
        return http.client.HTTPConnection(self.stack.address, timeout=self.stack.timeout_s)

    def _key(self) -> str:
        """Read the key anew for each request, so that one that is changed holds at once."""
        try:
            return self.stack.key_file.read_text(encoding="ascii").strip()
        except OSError as failure:
            raise LaterError(f"the service's own key cannot be read: {failure.strerror}") from failure


def _data(picture: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()


def _form(fields: Mapping[str, str], sound: bytes) -> tuple[bytes, str]:
    """Return a form with a WAV file as multipart/form-data has it, and its content type."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="sound.wav"\r\n'
    body = "".join((*parts, head, "Content-Type: audio/wav\r\n\r\n")).encode() + sound
    return body + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


def _segments(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the text and its segments; a server that tells none gave one text for all."""
    try:
        told = [
            {"start_s": float(each["start"]), "end_s": float(each["end"]), "text": str(each["text"]).strip()}
            for each in answer.get("segments") or ()
        ]
        return {"text": str(answer["text"]).strip(), "segments": told, "language": answer.get("language")}
    except (LookupError, TypeError, ValueError) as failure:
        raise LaterError("the speech model's answer has no text") from failure


def _vectors(answer: Mapping[str, Any], number: int) -> list[list[float]]:
    try:
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [[float(part) for part in row["embedding"]] for row in rows]
    except (LookupError, TypeError, ValueError) as failure:
        raise LaterError("the embedding model's answer has no vectors") from failure
    if len(vectors) != number or len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise LaterError(f"the embedding model gave {len(vectors)} vectors for {number} texts")
    return vectors


def _refusal(who: str, status: int, retry_after: str, content: bytes) -> Exception:
    """Return what an error answer means: try again, or never."""
    try:
        told = json.loads(content)
        error = told.get("error", told)
        message = str(error.get("message") if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        message = content.decode(errors="replace")[:200]
    sentence = f"{who} answered {status}: {message}"
    if status in LATER:
        pause_s = float(retry_after) if status == 429 and retry_after.isdecimal() else None
        return LaterError(sentence, pause_s, status)
    return RefusedRequestError(sentence)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a socket of this machine."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
