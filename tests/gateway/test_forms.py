"""Forms on their way to a speech model: read strictly, and written anew so that no reader can see something else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from admission import Message, Receive, RefusedError, Send, check_shape
from forms import FORM_TYPE, Upload, encode_form, parse_form
from front import Front
from hypothesis import given
from hypothesis import strategies as st
from keys import Keys, Limits
from models import Models

KIND = "multipart/form-data; boundary=mark"
KEY = "sk-right"


def form(*parts: tuple[str, bytes], mark: str = "mark") -> bytes:
    """Return a form; a part is what stands behind `form-data`, and its content."""
    head = f"--{mark}\r\nContent-Disposition: form-data"
    return b"".join(f"{head}; {name}\r\n\r\n".encode() + content + b"\r\n" for name, content in parts) + (
        f"--{mark}--\r\n".encode()
    )


SOUND = ('name="file"; filename="a b.wav"', b"RIFF\x00\xff\r\n--nearly\r\n")
GOOD = form(('name="model"', b"ears"), SOUND, ('name="temperature"', b"0"), ('name="stream"', b"false"))


def test_a_form_is_read() -> None:
    fields = parse_form(KIND, GOOD)

    assert fields == {"model": "ears", "file": Upload("a_b.wav", SOUND[1]), "temperature": 0.0, "stream": False}
    check_shape("audio/transcriptions", fields)
    assert parse_form('Multipart/Form-Data; charset=utf-8; boundary="mark"', GOOD) == fields


def test_what_is_sent_on_reads_the_same() -> None:
    fields = {**parse_form(KIND, GOOD), "timestamp_granularities[]": ["word", "segment"], "prompt": "Größe\r\n--mark"}

    assert parse_form(FORM_TYPE, encode_form(fields)) == fields


@given(content=st.binary(max_size=300), name=st.text(max_size=30), text=st.text(max_size=50))
def test_no_content_changes_what_is_read(content: bytes, name: str, text: str) -> None:
    fields = {"file": Upload("a.wav", content), "prompt": text, "model": name}
    assert parse_form(FORM_TYPE, encode_form(fields)) == fields


BAD = [
    ("application/json", GOOD, 415, "the body must be a form"),
    ("multipart/form-data", GOOD, 415, "the body must be a form"),
    (KIND, b"", 400, "the form cannot be read"),
    (KIND, GOOD[:-6], 400, "the form cannot be read"),
    (KIND, b"before" + GOOD, 400, "the form cannot be read"),
    ("multipart/form-data; boundary=other", GOOD, 400, "the form cannot be read"),
    (KIND, GOOD.replace(b"RIFF", b"\r\n--markx" * 40), 400, "the form has more than 32 parts"),
    (KIND, form(("", b"a")), 400, "the form cannot be read: Field name not found"),
    (KIND, form(('name="model"; x="' + "y" * 9_000 + '"', b"a")), 400, "the form cannot be read: Maximum header size"),
    (KIND, form(('name="api_base"', b"http://x")), 400, "`api_base` is no field of this endpoint"),
    (KIND, form(('name="model"', b"a"), ('name="model"', b"b")), 400, "the form has `model` twice"),
    (KIND, form(('name="prompt"', b"a" * 70_000)), 400, "a text of the form has more than 65536 bytes"),
    (KIND, form(('name="prompt"', b"\xff")), 400, "a text of the form is not UTF-8"),
    (KIND, form(*[('name="timestamp_granularities[]"', b"word")] * 40), 400, "the form has more than 32 parts"),
]


@pytest.mark.parametrize(("kind", "body", "status", "why"), BAD, ids=[row[3] + str(at) for at, row in enumerate(BAD)])
def test_what_cannot_be_read_is_refused(kind: str, body: bytes, status: int, why: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_form(kind, body)
    assert refused.value.status == status
    assert str(refused.value).startswith(why)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": "ears"}, "`file` is missing; it must be a sound"),
        ({"file": "words"}, "`file` is missing; it must be a sound"),
        ({"file": Upload("a", b"a"), "response_format": "srt"}, "`response_format` must be json or verbose_json"),
        ({"file": Upload("a", b"a"), "temperature": "hot"}, "`temperature` is a text; it must be a number"),
        ({"file": Upload("a", b"a"), "stream": "yes"}, "`stream` is a text; it must be true or false"),
        ({"file": Upload("a", b"a"), "language": Upload("b", b"")}, "`language` is a file; it must be a text"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        check_shape("audio/transcriptions", fields)


def asked(path: str, model: bytes, folder: Path) -> tuple[list[bytes], dict[bytes, bytes], list[Message]]:
    """Send a form through the layer before LiteLLM; return what reached that, and what was answered."""
    reached: list[bytes] = []
    headers: dict[bytes, bytes] = {}
    answered: list[Message] = []
    entry = {"model_name": "ears", "litellm_params": {"model": "openai/ears"}}
    entry["model_info"] = {"id": "1", "mode": "audio_transcription"}
    router = SimpleNamespace(model_list=[entry], model_group_alias={}, fallbacks=[], context_window_fallbacks=[])

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        headers.update(scope["headers"])
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"text": "hello"}'})

    async def receive() -> Message:
        if body:
            return {"type": "http.request", "body": body.pop()}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        answered.append(message)

    (folder / "master").write_text(KEY)
    environment = {"GATEWAY_MAX_BODY_BYTES": "20000", "REQUEST_TIMEOUT": "60", "DEFAULT_COOLDOWN_TIME_SECONDS": "5"}
    front = Front(
        app,
        {**environment, "GATEWAY_ROUTING_STRATEGY": "simple-shuffle"},
        keys=Keys(folder / "keys.json", folder / "master"),
        limits=Limits(folder),
        hang_up=print,
        models=lambda: Models(router, ""),
        figures=lambda: None,
    )
    body = [form(('name="model"', model), SOUND)]
    scope: Message = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    scope["headers"] = [(b"authorization", b"Bearer sk-right"), (b"content-type", KIND.encode())]
    asyncio.run(front(scope, receive, send))
    return reached, headers, answered


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/audio/transcriptions", "/v1/audio/translations"])
def test_a_form_reaches_litellm_as_it_was_checked(path: str, tmp_path: Path) -> None:
    (body,), headers, answered = asked(path, b"ears", tmp_path)

    assert headers[b"content-type"] == FORM_TYPE.encode()
    assert headers[b"content-length"] == str(len(body)).encode()
    assert parse_form(FORM_TYPE, body) == {"model": "ears", "file": Upload("a_b.wav", SOUND[1])}
    assert answered[0]["status"] == 200


def test_a_model_for_speech_writes_in_no_conversation(tmp_path: Path) -> None:
    reached, _, answered = asked("/v1/chat/completions", b"ears", tmp_path)

    assert (reached, answered[0]["status"]) == ([], 415)
    _, _, answered = asked("/v1/audio/transcriptions", b"eyes", tmp_path)
    assert b"unknown model `eyes`" in answered[1]["body"]
