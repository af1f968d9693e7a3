"""What comes in: bodies within their limits, files to the incoming folder, each hashed on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request

from retrieval.failures import RefusedError, bad_request
from retrieval.kinds import SNIFFED_BYTES, is_media, media_type_of
from retrieval.options import MEBIBYTE, Options
from retrieval.store import Upload

MOST_JSON_BYTES = 16 * MEBIBYTE
MOST_FILES = 64
"""Files of one request; more come in further requests."""

SILENCE_S = 60.0
"""Longest pause between two parts of a body."""

LEAST_FREE_BYTES = 512 * MEBIBYTE
"""Room that the disk keeps: PostgreSQL stops where it has none."""

BLOCK_BYTES = 1 << 18
LONGEST_NAME = 255


class Bounded:
    """The body of a request with a limit on its bytes and on its pauses, as ASGI's `receive`."""

    def __init__(self, request: Request, most_bytes: int) -> None:
        self._receive, self._left, self._most = request.receive, most_bytes, most_bytes
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most_bytes:
            raise self._too_long()

    async def __call__(self) -> Any:
        """Return the next message. Raises RefusedError 413 or 408."""
        try:
            message = await asyncio.wait_for(self._receive(), SILENCE_S)
        except TimeoutError:
            raise RefusedError(408, f"nothing came for {SILENCE_S:.0f} seconds") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._too_long()
        return message

    def _too_long(self) -> RefusedError:
        return RefusedError(413, f"the body has more than {self._most} bytes")


async def read_json(request: Request) -> dict[str, Any]:
    """Return the fields of a JSON body. Raises RefusedError 400, 408, 413."""
    bounded = Request(request.scope, Bounded(request, MOST_JSON_BYTES))
    try:
        fields = orjson.loads(await bounded.body())
    except orjson.JSONDecodeError as failure:
        raise bad_request(f"the body is not JSON: {failure}") from failure
    except ClientDisconnect:
        raise RefusedError(400, "the body broke off") from None
    if not isinstance(fields, dict):
        raise bad_request("the body is no JSON object")
    return fields


class Uploads:
    """Files on their way in."""

    def __init__(self, options: Options) -> None:
        self._options, self._folder = options, options.incoming

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[list[tuple[Path, Upload]]]:
        """Give the files of a request, of a form or of a JSON body's texts; those that are left there go at the end.

        Raises:
            RefusedError: 400, 408, 413, 415 or 507.
        """
        if shutil.disk_usage(self._folder).free < LEAST_FREE_BYTES:
            raise RefusedError(507, "the disk is nearly full; delete documents, or make room", "api_error")
        files: list[tuple[Path, Upload]] = []
        try:
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                await self._read_form(request, files)
            else:
                await self._read_texts(await read_json(request), files)
            if not files:
                raise bad_request("there is no document in the request: send a form with `file`, or JSON with `texts`")
            yield files
        finally:
            for path, _ in files:
                path.unlink(missing_ok=True)

    async def _read_form(self, request: Request, files: list[tuple[Path, Upload]]) -> None:
        most = self._options.max_document_bytes + MEBIBYTE
        bounded = Request(request.scope, Bounded(request, most))
        try:
            form = await bounded.form(max_files=MOST_FILES, max_fields=MOST_FILES)
        except (FormParserError, ClientDisconnect) as failure:
            raise bad_request(f"the form is damaged: {type(failure).__name__}") from failure
        try:
            for _, field in form.multi_items():
                if isinstance(field, UploadFile):
                    name = _name(field.filename or "document")
                    files.append(await self._keep(_upload_blocks(field), name, field.content_type or ""))
        finally:
            await form.close()

    async def _read_texts(self, fields: Mapping[str, Any], files: list[tuple[Path, Upload]]) -> None:
        texts = fields.get("texts")
        if not isinstance(texts, list) or len(texts) > MOST_FILES:
            raise bad_request(f"`texts` must be a list of at most {MOST_FILES} texts")
        for number, entry in enumerate(texts):
            row = {"text": entry} if isinstance(entry, str) else entry
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise bad_request(f"texts[{number}] must be a text, or an object with `text`, `name` and `media_type`")
            name, kind = row.get("name") or f"text {number + 1}", row.get("media_type") or "text/plain"
            if not isinstance(name, str) or not isinstance(kind, str) or not kind.startswith("text/"):
                raise bad_request(f"texts[{number}]: `name` must be a text, `media_type` text/plain or another of text")
            files.append(await self._keep(_text_blocks(row["text"]), _name(name), kind))

    async def _keep(self, blocks: AsyncIterator[bytes], name: str, declared: str) -> tuple[Path, Upload]:
        """Write a file to the incoming folder."""
        path = self._folder / uuid4().hex
        hasher, size, first = sha256(), 0, b""
        try:
            with path.open("xb") as file:
                async for block in blocks:
                    hasher.update(block)
                    size += len(block)
                    first = first or block[:SNIFFED_BYTES]
                    await asyncio.to_thread(file.write, block)
            media_type = media_type_of(first, name, declared)
            self._check(media_type, name, size)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        upload = Upload(name=name, media_type=media_type or "", size_bytes=size, content_hash=hasher.digest())
        return path, upload

    def _check(self, media_type: str | None, name: str, size: int) -> None:
        if size == 0:
            raise bad_request(f"`{name}` is empty")
        if media_type is None:
            raise RefusedError(415, f"`{name}` is no text, PDF, HTML, Markdown or DOCX")
        if is_media(media_type) and not self._options.multimodal_url:
            raise RefusedError(415, f"`{name}` is {media_type}, which needs the multimodal worker")


def _name(name: str) -> str:
    """Return a file's name for people: one line, without what PostgreSQL cannot store."""
    kept = "".join(sign for sign in name if sign.isprintable()).encode("utf-8", "replace").decode()
    return os.path.basename(kept)[:LONGEST_NAME] or "document"  # noqa: PTH119  # a name of somebody else's system


async def _upload_blocks(file: UploadFile) -> AsyncIterator[bytes]:
    while block := await file.read(BLOCK_BYTES):
        yield block


async def _text_blocks(text: str) -> AsyncIterator[bytes]:
    yield text.encode("utf-8", "replace")
