"""Requests that are forms, since they carry a file: read strictly, and written anew for the engine.

What is sent on is what was checked, as with JSON: two readers of one form could differ about where a part ends. The
mark between parts is this process's own, so no file can hold it on purpose. The reader is the library that LiteLLM
brings; it bounds the head of a part.
"""

import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from admission import RefusedError, bad_request
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

FORMS = frozenset({"audio/transcriptions", "audio/translations"})
"""The endpoints that are asked by a form."""

FIELDS = frozenset(
    {
        *("file", "model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]"),
        "stream",
    }
)
"""OpenAI's own, as far as vLLM takes them (0.32.0 entrypoints/speech_to_text/transcription/protocol.py)."""

MOST_PARTS, MOST_TEXT_BYTES = 32, 65_536

# It would write a line for each form that it cannot read.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

BOUNDARY = secrets.token_hex(16)
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form. `name`: as its sender calls it, in characters that need no quoting."""

    name: str
    content: bytes


def parse_form(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the fields of a form: texts, the file, and what the shapes of admission.py take for numbers and truths.

    Raises:
        RefusedError: 415 for what is no form; 400 for one that cannot be read, or has a field that is not served.
    """
    kind, options = parse_options_header(content_type)
    mark = options.get(b"boundary")
    if kind != b"multipart/form-data" or not mark:
        raise RefusedError(415, "invalid_request_error", "the body must be a form: multipart/form-data")
    fields: dict[str, Any] = {}
    for part in _parts(body, mark):
        name, value = _field(part)
        if name not in FIELDS:
            raise bad_request(f"`{name[:80]}` is no field of this endpoint; it has {', '.join(sorted(FIELDS))}")
        if name == "timestamp_granularities[]":
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise bad_request(f"the form has `{name}` twice")
        else:
            fields[name] = _typed(name, value)
    return fields


def encode_form(fields: Mapping[str, Any]) -> bytes:
    """Return fields as a form with this process's own mark."""
    parts: list[bytes] = []
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'
            if isinstance(each, Upload):
                kind = "\r\nContent-Type: application/octet-stream"
                parts += [f'{head}; filename="{each.name}"{kind}\r\n\r\n'.encode(), each.content, b"\r\n"]
            else:
                text = str(each).lower() if isinstance(each, bool) else str(each)
                parts.append(f"{head}\r\n\r\n{text}\r\n".encode())
    return b"".join((*parts, f"--{BOUNDARY}--\r\n".encode()))


def _parts(body: bytes, mark: bytes) -> list[Field | File]:
    """Return the parts between the marks; what stands behind the last is nothing."""
    # No file may hold the mark. The library goes on by single bytes behind one that is none.
    if body.count(b"\r\n--" + mark) > MOST_PARTS:
        raise bad_request(f"the form has more than {MOST_PARTS} parts")
    parts: list[Field | File] = []
    ends: list[None] = []
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body)}
    try:
        parser = FormParser(
            "multipart/form-data", parts.append, parts.append, lambda: ends.append(None), mark, config=in_memory
        )
        parser.write(body)
    except FormParserError as failure:
        raise bad_request(f"the form cannot be read: {failure}") from failure
    if not ends:
        raise bad_request("the form cannot be read: its parts do not begin and end as its boundary says")
    return parts


def _field(part: Field | File) -> tuple[str, "str | Upload"]:
    name = (part.field_name or b"").decode("utf-8", "replace")
    if isinstance(part, File):
        plain = re.sub(rb"[^A-Za-z0-9._-]", b"_", part.file_name or b"")[-100:].decode()
        part.file_object.seek(0)
        return name, Upload(plain or "file", part.file_object.read())
    content = part.value or b""
    if len(content) > MOST_TEXT_BYTES:
        raise bad_request(f"a text of the form has more than {MOST_TEXT_BYTES} bytes")
    try:
        return name, content.decode()
    except UnicodeDecodeError:
        raise bad_request("a text of the form is not UTF-8") from None


def _typed(name: str, value: "str | Upload") -> object:
    """Return a value of the type that its field has in JSON; another one's is refused where shapes are checked."""
    if isinstance(value, str) and name == "stream":
        return {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(value, str) and name == "temperature":
        try:
            return float(value)
        except ValueError:
            return value
    return value
