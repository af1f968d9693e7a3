"""Requests that are forms, since they carry a file: read strictly, and written anew for the engine.

What is sent on is what was checked, as with JSON: two readers of one form could differ about where a part ends. The
mark between parts is this process's own, so no file can hold it on purpose.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from admission import RefusedError, bad_request

FORMS = frozenset({"audio/transcriptions", "audio/translations"})
"""The endpoints that are asked by a form."""

FIELDS = frozenset(
    {
        *("file", "model", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]"),
        "stream",
    }
)
"""OpenAI's own, as far as vLLM takes them (0.32.0 entrypoints/speech_to_text/transcription/protocol.py)."""

MOST_PARTS, MOST_HEAD_BYTES, MOST_TEXT_BYTES = 32, 4096, 65_536
_MARK = re.compile(rb"multipart/form-data\s*;(?:.*;)?\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_DISPOSITION = re.compile(rb"(?:^|\r\n)content-disposition:\s*form-data\s*;([^\r\n]*)", re.IGNORECASE)
_NAME = re.compile(rb"(?:^|[;\s])name=\"([^\"]*)\"", re.IGNORECASE)
_FILE_NAME = re.compile(rb"(?:^|[;\s])filename=\"([^\"]*)\"", re.IGNORECASE)

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
    found = _MARK.fullmatch(content_type.encode("latin-1").strip())
    if found is None:
        raise RefusedError(415, "invalid_request_error", "the body must be a form: multipart/form-data")
    fields: dict[str, Any] = {}
    for part in _parts(body, found[1] or found[2]):
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


def _parts(body: bytes, mark: bytes) -> list[bytes]:
    """Return the parts between the marks; what stands before the first and behind the last is nothing."""
    pieces = (b"\r\n" + body).split(b"\r\n--" + mark, MOST_PARTS + 2)
    if len(pieces) > MOST_PARTS + 2:
        raise bad_request(f"the form has more than {MOST_PARTS} parts")
    if len(pieces) < 3 or not pieces[-1].startswith(b"--") or pieces[0].strip():
        raise bad_request("the form cannot be read: its parts do not begin and end as its boundary says")
    return pieces[1:-1]


def _field(part: bytes) -> tuple[str, "str | Upload"]:
    head, blank, content = part.partition(b"\r\n\r\n")
    told = _DISPOSITION.search(head) if blank and len(head) <= MOST_HEAD_BYTES and head.startswith(b"\r\n") else None
    name = None if told is None else _NAME.search(told[1])
    if told is None or name is None:
        raise bad_request("a part of the form has no name")
    file_name = _FILE_NAME.search(told[1])
    if file_name is not None:
        plain = re.sub(rb"[^A-Za-z0-9._-]", b"_", file_name[1])[-100:].decode()
        return name[1].decode("utf-8", "replace"), Upload(plain or "file", content)
    if len(content) > MOST_TEXT_BYTES:
        raise bad_request(f"a text of the form has more than {MOST_TEXT_BYTES} bytes")
    try:
        return name[1].decode(), content.decode()
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
