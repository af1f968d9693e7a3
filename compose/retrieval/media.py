"""Pictures, sound, video and scanned pages: the multimodal worker reads them as jobs of its own.

Here what it has found becomes passages.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from retrieval.failures import DocumentError, GatewayError
from retrieval.gateway import Gateway, Key, authorization
from retrieval.options import Options
from retrieval.parsing import cut
from retrieval.pieces import Piece

_MAY = "if-possible"
WANTED = {"captions": _MAY, "transcript": _MAY, "picture_embedding": _MAY, "keyframes": True, "scanned_pages": 1000}
"""What the worker is asked for; what a file does not have it leaves out."""

LONGEST_SEGMENT_S = 60.0
"""Seconds of speech that one passage holds at most, so that it points to a place in it."""


class Unfinished(Exception):  # no error: the document waits
    """A document that waits for another service; `detail` says for what."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Media:
    """The multimodal worker of the stack, asked with the proxy's own key in the name of whose document it is."""

    def __init__(self, options: Options, gateway: Gateway) -> None:
        self._options, self._gateway = options, gateway

    async def begin(self, path: Path, name: str, media_type: str, key: Key) -> str:
        """Send a file; return the number of its job. Raises DocumentError where there is no such worker."""
        if not self._options.multimodal_url:
            raise DocumentError(f"{media_type} needs the multimodal worker, which this stack does not have")
        form = aiohttp.FormData()
        form.add_field("want", orjson.dumps(WANTED).decode(), content_type="application/json")
        with path.open("rb") as file:
            form.add_field("file", file, filename=name, content_type=media_type)
            answer = await self._ask("POST", "/v1/jobs", key, form)
        return str(answer["id"])

    async def result(self, job: str, key: Key) -> dict[str, Any]:
        """Return what a job has found.

        Raises:
            Unfinished: it has not ended yet.
            DocumentError: it ended without a result.
        """
        answer = await self._ask("GET", f"/v1/jobs/{job}", key)
        state = str(answer.get("state"))
        if state in ("failed", "dead"):
            raise DocumentError(f"the multimodal worker could not read it: {str(answer.get('error') or state)[:300]}")
        if state != "done":
            progress = float(answer.get("progress") or 0.0)
            raise Unfinished(f"the multimodal worker has done {progress:.0%} of it")
        found: dict[str, Any] = answer.get("result") or {}
        return found

    async def _ask(self, method: str, path: str, key: Key, form: aiohttp.FormData | None = None) -> dict[str, Any]:
        url = self._options.multimodal_url + path
        try:
            async with self._gateway.session.request(method, url, data=form, headers=authorization(key)) as response:
                content = await self._gateway.read(response)
        except (TimeoutError, aiohttp.ClientError) as failure:
            raise GatewayError(0, f"the multimodal worker does not answer: {type(failure).__name__}") from failure
        if response.status not in (200, 202):
            if response.status in (400, 413, 415, 422):
                raise DocumentError(f"the multimodal worker refuses it: {content[:200].decode('utf-8', 'replace')}")
            raise GatewayError(response.status, f"the multimodal worker answered {response.status}")
        answer: dict[str, Any] = orjson.loads(content)
        return answer


def found_pieces(result: dict[str, Any], capacity: int, model: str) -> list[Piece]:
    """Return the passages of a job's result, `capacity` characters at most. Raises DocumentError where it has none."""
    if pieces := media_pieces(result, capacity, model):
        return pieces
    raise DocumentError("no model of this stack finds a text in it, or embeds pictures")


def media_pieces(result: dict[str, Any], capacity: int, model: str = "") -> list[Piece]:
    """Return the passages of a job's result: what pictures, frames and pages show, and what is said, with its times.

    A picture's vector by `model` goes with the first passage about it, or with an empty one.
    """
    pictures = {
        each["file"]: each
        for each in result.get("embeddings") or ()
        if model and "file" in each and "text" not in each and each.get("model") == model
    }
    shown = [*(result.get("captions") or ()), *(page for page in result.get("pages") or () if "file" not in page)]
    spoken = [segment for segment in result.get("segments") or () if segment.get("kind") == "speech"]
    pieces = []
    for each in shown:
        texts = _texts(_clean(each.get("text")), capacity)
        picture = pictures.pop(each.get("file"), None) if texts else None
        for text in texts:
            pieces.append(_shown(text, each, picture))
            picture = None
    pieces += [_shown("", picture, picture) for picture in pictures.values()]
    return [*pieces, *_joined(spoken, capacity)]


def _shown(text: str, where: dict[str, Any], picture: dict[str, Any] | None) -> Piece:
    moment = where.get("time_s")
    return Piece(
        text=text,
        page=where.get("page"),
        start_s=where.get("start_s", moment),
        end_s=where.get("end_s", moment),
        picture=None if picture is None else tuple(map(float, picture["vector"])),
    )


def _texts(text: str, capacity: int) -> list[str]:
    return cut(text, capacity) if len(text) > capacity else [text] * bool(text)


def _joined(segments: Iterable[dict[str, Any]], capacity: int) -> Iterable[Piece]:
    """Yield neighbouring segments as one passage, as far as the lengths allow."""
    text, begin_s, end_s = "", 0.0, 0.0
    for segment in segments:
        added, start_s, stop_s = _clean(segment.get("text")), float(segment["start_s"]), float(segment["end_s"])
        if text and (len(text) + len(added) >= capacity or stop_s - begin_s > LONGEST_SEGMENT_S):
            yield Piece(text=text, start_s=begin_s, end_s=end_s)
            text = ""
        begin_s = begin_s if text else start_s
        text, end_s = f"{text} {added}".strip()[:capacity], stop_s
    if text:
        yield Piece(text=text, start_s=begin_s, end_s=end_s)


def _clean(text: object) -> str:
    return str(text or "").replace("\0", " ").encode("utf-8", "replace").decode().strip()
