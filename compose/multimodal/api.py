"""The service's HTTP: jobs in, results out, each key its own. aiohttp; the store is asked in a thread.

Callers are known by the gateway's keys (keys.py, which it shares).
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from aiohttp import BodyPartReader, web
from keys import ACTS_FOR, MASTER, ActingError, Caller, Keys

from multimodal.asking import OWN, Stack
from multimodal.decoded import NAME
from multimodal.jobs import DEAD, DONE, ENDED, FAILED, QUEUED, RUNNING, FullError, Job, Jobs, NewJob, new_id
from multimodal.settings import Settings
from multimodal.want import MAY, WantError, read_want

UPLOAD_S = 3600.0
"""How long a file may take to arrive: a gigabyte at 2.5 megabits a second."""

MOST_UPLOADS = 32
"""Files that arrive at once; each holds a connection and a buffer."""

MOST_WANT_BYTES, MOST_NAME, MOST_REQUEST_KEY = 65_536, 200, 200
LONGEST_WAIT_S, LOOK_EVERY_S = 60.0, 1.0
SELF_TEST_S = 110.0
CHUNK_BYTES = 2**18
LEAST_FREE_BYTES = 2**29
"""Room that is left on the disk: a full one stops the jobs that run, too."""

CALLER = web.RequestKey("caller", Caller)
_ID = re.compile(r"[0-9a-f]{32}")


class Workers(Protocol):
    """What is asked of the worker processes."""

    restarts: int

    def ring(self) -> None:
        """Wake one that waits."""

    def are_up(self) -> bool:
        """Return whether any works."""


class RefusedError(Exception):
    """A request that is refused: its status, and why in one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Api:
    """Answers requests. `workers` are given before the first; `note_end` is to be called when a job may have ended."""

    workers: Workers

    def __init__(self, jobs: Jobs, keys: Keys, stack: Stack, settings: Settings) -> None:
        self._jobs, self._keys, self._stack, self._settings = jobs, keys, stack, settings
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._arriving: set[str] = set()
        self._ended = asyncio.Event()

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/capabilities", self._capabilities),
                web.post("/v1/jobs", self._submit),
                web.get("/v1/jobs", self._list),
                web.get("/v1/jobs/{id}", self._show),
                web.delete("/v1/jobs/{id}", self._delete),
                web.get("/v1/jobs/{id}/files/{name}", self._file),
                web.get("/v1/dead", self._list_dead),
                web.post("/v1/dead/{id}/replay", self._replay),
                web.post("/v1/self-test", self._self_test),
            ]
        )
        return application

    def note_end(self) -> None:
        """Wake all who wait for the end of a job."""
        self._ended.set()
        self._ended = asyncio.Event()

    @property
    def arriving(self) -> frozenset[str]:
        """The jobs whose files are on their way."""
        return frozenset(self._arriving)

    async def ask(self, what: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Ask the store, in its thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: what(*arguments, **named))

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Know the caller, and answer errors in OpenAI's form."""
        try:
            if request.path.startswith("/v1/"):
                request[CALLER] = self._caller(request)
            return await handler(request)
        except RefusedError as refused:
            return _error(refused.status, str(refused))
        except web.HTTPException as refused:
            return _error(refused.status, refused.reason)

    def _caller(self, request: web.Request) -> Caller:
        key = request.headers.get("Authorization", "").rpartition(" ")[2]
        caller = self._keys.find(key)
        if caller is None:
            raise RefusedError(401, self._keys.refusal(key) if key else "wrong or missing key")
        if caller.metrics_only:
            raise RefusedError(403, f"the key `{caller.name}` may read the metrics, and nothing else")
        named = request.headers.get(ACTS_FOR)
        if named is None:
            return caller
        try:
            return self._keys.acting_for(caller, named)
        except ActingError as refused:
            raise RefusedError(refused.status, str(refused)) from refused

    async def _health(self, _: web.Request) -> web.Response:
        is_well = self.workers.are_up()
        return web.json_response({"workers": "up" if is_well else "down"}, status=200 if is_well else 503)

    async def _capabilities(self, _: web.Request) -> web.Response:
        stack = self._stack
        return web.json_response(
            {
                "captions": stack.vision or None,
                "transcript": stack.speech or ("faster-whisper" if stack.hears else None),
                "embedding": stack.embedding or None,
                "embeds_pictures": stack.embeds_pictures,
                "max_file_bytes": self._settings.most_file_bytes,
                "max_duration_s": self._settings.bounds.most_s,
            }
        )

    async def _submit(self, request: web.Request) -> web.Response:
        """Take a file and what is wanted of it. 202 is answered when both are on the disk."""
        caller: Caller = request[CALLER]
        request_key = request.headers.get("Idempotency-Key")
        if request_key is not None and not 0 < len(request_key) <= MOST_REQUEST_KEY:
            raise RefusedError(400, f"Idempotency-Key must have 1 to {MOST_REQUEST_KEY} characters")
        if len(self._arriving) >= MOST_UPLOADS:
            raise RefusedError(503, f"{MOST_UPLOADS} files are arriving; try again later")
        job_id = new_id()
        with self._file_of(job_id) as path:
            arrived = await self._receive(request, path)
            want = self._for_caller(arrived["want"], caller)
            new = NewJob(
                id=job_id,
                owner=caller.name,
                name=arrived["name"],
                bytes=arrived["bytes"],
                sha256=arrived["sha256"],
                want=want,
                request_key=request_key,
            )
            job, is_new = await self._add(new)
            if not is_new:
                path.unlink()
        self.workers.ring()
        return web.json_response(document(job), status=202 if is_new else 200)

    async def _add(self, new: NewJob) -> tuple[Job, bool]:
        try:
            added: tuple[Job, bool] = await self.ask(self._jobs.add, new, self._settings.room)
        except FullError as full:
            raise RefusedError(429 if "jobs that" in str(full) else 507, str(full)) from full
        return added

    @contextlib.contextmanager
    def _file_of(self, job_id: str) -> Iterator[Path]:
        """Give the place of a job's file, which is removed again where the job is not made."""
        path = self._settings.folders.original(job_id)
        self._arriving.add(job_id)
        try:
            yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            self._arriving.discard(job_id)

    async def _receive(self, request: web.Request, path: Path) -> dict[str, Any]:
        """Read the form: the file goes to the disk as it comes."""
        if request.content_type != "multipart/form-data":
            raise RefusedError(415, "send a form (multipart/form-data) with `file`, and `want` as JSON")
        told: object = None
        arrived: dict[str, Any] = {}
        try:
            async with asyncio.timeout(UPLOAD_S):
                async for part in await request.multipart():
                    if not isinstance(part, BodyPartReader):
                        raise RefusedError(400, "a form within the form is not read")
                    if part.name == "want":
                        told = await _read_json(part)
                    elif part.name == "file" and not arrived:
                        arrived = await self._store(part, path)
                    else:
                        raise RefusedError(400, f"the form has a part {str(part.name)[:50]!r}; allowed: file, want")
        except TimeoutError:
            raise RefusedError(408, f"the file did not come within {UPLOAD_S:.0f} s") from None
        except ValueError as failure:  # aiohttp's, of a form that is none
            raise RefusedError(400, f"the form cannot be read: {str(failure)[:200]}") from failure
        if not arrived:
            raise RefusedError(400, "the form has no part `file`")
        try:
            return {**arrived, "want": read_want(told)}
        except WantError as failure:
            raise RefusedError(400, str(failure)) from failure

    async def _store(self, part: BodyPartReader, path: Path) -> dict[str, Any]:
        """Write a file as it comes, never more than is allowed."""
        most, length, digest = self._settings.most_file_bytes, 0, hashlib.sha256()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while chunk := await part.read_chunk(CHUNK_BYTES):
                length += len(chunk)
                if length > most:
                    raise RefusedError(413, f"the file has more than {most} bytes (MULTIMODAL_MAX_FILE_MIB)")
                if length // 2**26 != (length - len(chunk)) // 2**26 or length == len(chunk):
                    _check_disk(path.parent)
                digest.update(chunk)
                os.write(descriptor, chunk)
            await asyncio.to_thread(_to_disk, descriptor, path.parent)
        finally:
            os.close(descriptor)
        if not length:
            raise RefusedError(400, "the file is empty")
        name = (part.filename or "file").replace("\0", "")[-MOST_NAME:].encode("utf-8", "replace").decode()
        return {"name": name, "bytes": length, "sha256": digest.hexdigest()}

    def _for_caller(self, want: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """Return what is wanted, as far as the caller's key is for the models that it takes."""
        stack = self._stack
        for wish, model in {
            "captions": stack.vision,
            "transcript": stack.speech,
            "embedding": stack.embedding,
            "picture_embedding": stack.embedding,
            "question": stack.vision,
        }.items():
            if want[wish] and model and not caller.may_ask(model):
                if want[wish] != MAY:
                    raise RefusedError(403, f"the key `{caller.name}` is not for `{model}`, which `{wish}` needs")
                want[wish] = ""
        return want

    async def _list(self, request: web.Request) -> web.Response:
        asked = request.query.get("state")
        if asked not in (None, QUEUED, RUNNING, *ENDED):
            raise RefusedError(400, f"`state` must be one of {', '.join((QUEUED, RUNNING, *ENDED))}")
        states = (asked,) if asked else (QUEUED, RUNNING, *ENDED)
        listed = await self.ask(self._jobs.listed, request[CALLER].name, states, 1000)
        return web.json_response({"jobs": [document(job, is_whole=False) for job in listed]})

    async def _show(self, request: web.Request) -> web.Response:
        try:
            wait_s = min(float(request.query.get("wait_s", 0)), LONGEST_WAIT_S)
        except ValueError:
            raise RefusedError(400, "`wait_s` must be a number of seconds") from None
        job = await self._own(request)
        if wait_s > 0:
            job = await self._until_ended(job, wait_s)
        return web.json_response(document(job))

    async def _own(self, request: web.Request) -> Job:
        """Return the job that is named, if it is the caller's own."""
        job_id = request.match_info["id"]
        job = await self.ask(self._jobs.find, job_id, request[CALLER].name) if _ID.fullmatch(job_id) else None
        if job is None:
            raise RefusedError(404, "there is no such job of this key")
        found: Job = job
        return found

    async def _until_ended(self, job: Job, wait_s: float) -> Job:
        """Return a job when it has ended, or after that time as it then is."""
        until = asyncio.get_running_loop().time() + wait_s
        while job.state not in ENDED and (left_s := until - asyncio.get_running_loop().time()) > 0:
            ended = self._ended
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), min(left_s, LOOK_EVERY_S))
            again = await self.ask(self._jobs.find, job.id)
            if again is None:
                raise RefusedError(404, "there is no such job of this key")
            job = again
        return job

    async def _delete(self, request: web.Request) -> web.Response:
        job = await self._own(request)
        await self.ask(self._jobs.delete, job.id, job.owner)
        await asyncio.to_thread(remove_files, self._settings, job.id)
        return web.Response(status=204)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        job = await self._own(request)
        name = request.match_info["name"]
        kept = {file["name"]: file["type"] for file in (job.result or {}).get("files", ())}
        if not NAME.fullmatch(name) or name not in kept:
            raise RefusedError(404, "the job has no such file")
        path = self._settings.folders.of_job(job.id) / str((job.result or {})["folder"]) / name
        headers = {"Content-Type": str(kept[name]), "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(path, headers={**headers, "Content-Disposition": f'attachment; filename="{name}"'})

    async def _list_dead(self, request: web.Request) -> web.Response:
        """List what ended without a result, and why; the administrator sees it of all keys."""
        caller: Caller = request[CALLER]
        owner = None if caller.name == MASTER else caller.name
        listed = await self.ask(self._jobs.listed, owner, (FAILED, DEAD), 1000)
        rows = [{**document(job, is_whole=False), "key": job.owner} for job in listed]
        return web.json_response({"jobs": rows})

    async def _replay(self, request: web.Request) -> web.Response:
        caller: Caller = request[CALLER]
        owner = None if caller.name == MASTER else caller.name
        job_id = request.match_info["id"]
        job = await self.ask(self._jobs.replay, job_id, owner) if _ID.fullmatch(job_id) else None
        if job is None:
            raise RefusedError(404, "there is no such failed or dead job of this key")
        self.workers.ring()
        return web.json_response(document(job, is_whole=False), status=202)

    async def _metrics(self, _: web.Request) -> web.Response:
        counts, totals = await self.ask(self._jobs.counts), await self.ask(self._jobs.totals)
        kept_bytes = await self.ask(self._jobs.kept_bytes)
        return web.Response(text=metrics(counts, totals, kept_bytes, self.workers.restarts))

    async def _self_test(self, request: web.Request) -> web.Response:
        """Have a small picture of our own read, and described where a model of the stack can."""
        if request[CALLER].name not in (OWN, MASTER):
            raise RefusedError(403, "the self-test is for the service's own key and the master key")
        job_id = new_id()
        with self._file_of(job_id) as path:
            await asyncio.to_thread(path.write_bytes, picture())
            want = read_want({"thumbnails": True, "captions": MAY})
            new = NewJob(id=job_id, owner=OWN, name="self-test.png", bytes=path.stat().st_size, sha256="", want=want)
            job, _ = await self._add(new)
        self.workers.ring()
        try:
            job = await self._until_ended(job, SELF_TEST_S)
            if job.state != DONE or job.result is None:
                sentence = job.reason or "it did not end in time"
                raise RefusedError(503, f"the picture of the self-test is {job.state}: {sentence}")
            media, files = job.result["media"], [file["name"] for file in job.result["files"]]
            if (media["width"], media["height"]) != (SIDE, SIDE) or "thumbnail.jpg" not in files:
                raise RefusedError(503, "the picture of the self-test came out wrong")
            if self._stack.vision and not job.result["text"]:
                raise RefusedError(503, f"`{self._stack.vision}` described the picture with no word")
            told = {"ok": True, "media": media, "files": files, "text": job.result["text"]}
            return web.json_response(told)
        finally:
            await self.ask(self._jobs.delete, job_id, OWN)
            await asyncio.to_thread(remove_files, self._settings, job_id)


def document(job: Job, *, is_whole: bool = True) -> dict[str, Any]:
    """Return a job as clients see it."""
    told: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "progress": job.progress,
        "stage": job.stage,
        "attempts": job.attempts,
        "name": job.name,
        "bytes": job.bytes,
        "sha256": job.sha256,
        "created_s": job.created_s,
        "ended_s": job.ended_s,
        "error": job.reason if job.state != DONE else None,
    }
    if is_whole:
        result = None if job.result is None else {name: part for name, part in job.result.items() if name != "folder"}
        told |= {"want": job.want, "result": result}
    return told


def metrics(counts: Mapping[str, int], totals: Mapping[str, float], kept_bytes: int, restarts: int) -> str:
    """Return Prometheus' text format."""
    name = "stackwright_multimodal"
    lines = [f"# TYPE {name}_jobs gauge"]
    lines += [f'{name}_jobs{{state="{state}"}} {number}' for state, number in counts.items()]
    lines.append(f"# TYPE {name}_jobs_ended_total counter")
    lines += [f'{name}_jobs_ended_total{{outcome="{state}"}} {totals.get(state, 0):.0f}' for state in ENDED]
    for metric, value in (
        ("attempts_total", totals.get("attempts", 0)),
        ("interruptions_total", totals.get("interruptions", 0)),
        ("job_seconds_total", totals.get("seconds", 0)),
        ("worker_restarts_total", restarts),
    ):
        lines += [f"# TYPE {name}_{metric} counter", f"{name}_{metric} {value:.10g}"]
    lines += [f"# TYPE {name}_kept_bytes gauge", f"{name}_kept_bytes {kept_bytes}"]
    return "\n".join(lines) + "\n"


def remove_files(settings: Settings, job_id: str) -> None:
    """Remove all that lies on the disk of a job."""
    settings.folders.original(job_id).unlink(missing_ok=True)
    shutil.rmtree(settings.folders.of_job(job_id), ignore_errors=True)


SIDE = 64


def picture() -> bytes:
    """Return a PNG picture: a red square. Made by hand, since what reads pictures runs elsewhere."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\x00\x00" * SIDE) * SIDE
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def _read_json(part: BodyPartReader) -> object:
    text = b""
    while chunk := await part.read_chunk():
        text += chunk
        if len(text) > MOST_WANT_BYTES:
            raise RefusedError(413, f"`want` has more than {MOST_WANT_BYTES} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise RefusedError(400, f"`want` is not JSON: {str(failure)[:200]}") from failure


def _to_disk(descriptor: int, folder: Path) -> None:
    """Return when a file and its name are on the disk."""
    os.fsync(descriptor)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _check_disk(folder: Path) -> None:
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < LEAST_FREE_BYTES:
        raise RefusedError(507, "the disk of the service's volume is full")


def _error(status: int, sentence: str) -> web.Response:
    kind = {401: "auth_error", 403: "permission_error", 429: "rate_limit_error"}.get(status, "invalid_request_error")
    error = {"message": sentence, "type": kind if status < 500 else "server_error", "param": None, "code": str(status)}
    return web.json_response({"error": error}, status=status)
