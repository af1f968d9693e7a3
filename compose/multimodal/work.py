"""What is done for one job, step by step: read the file, then ask the models, then put the result together.

What a step gave is kept, so an attempt after a kill goes on where the last one was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from multimodal.asking import CAPTION, Models, RefusedRequestError
from multimodal.decoded import Decoded
from multimodal.jobs import Job, Jobs
from multimodal.reading import Bounds, read_file
from multimodal.sounds import next_part
from multimodal.want import MUST

NO_SPEECH = (
    "nothing here writes down speech: the stack has no model of the role transcription, and MULTIMODAL_SPEECH_MODEL "
    "names no model for the processor"
)
NO_VISION = "no model of this stack looks at pictures (role vision)"
NO_EMBEDDING = "no model of this stack embeds (role embedding)"
NO_PICTURES = "no model of this stack embeds pictures (role embedding, with a vision encoder)"

TOLD_EVERY_S = 1.0

MOST_LOOKED_AT = 4
"""Pictures that one question is about: more costs a context that small models do not have."""

PASSAGE_S, PASSAGE_CHARACTERS = 60.0, 2000
"""How much speech one vector stands for, and how much text of it is embedded."""

BATCH = 32
"""Texts of one request for vectors."""


class HopelessError(Exception):
    """The job would fail again; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folders:
    """Where files lie on the service's volume: those that came, and what was made of them, by job."""

    incoming: Path
    kept: Path

    def original(self, job_id: str) -> Path:
        """Return the file that a client sent."""
        return self.incoming / job_id

    def of_job(self, job_id: str) -> Path:
        """Return the folder of all that was made of it."""
        return self.kept / job_id


class Course:
    """How far one attempt is, and what the attempts before it did."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self._jobs, self.job = jobs, job
        self.done = jobs.steps(job)
        self._told_s, self._stage = 0.0, ""

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        """Return what a step gives, or gave in an earlier attempt. Raises what `do` raises, and LostClaimError."""
        if name not in self.done:
            output = do()
            self._jobs.keep_step(self.job, name, output)
            self.done[name] = output
        return self.done[name]

    def tell(self, progress: float, stage: str) -> None:
        """Tell how far it is, not too often. Raises LostClaimError."""
        now = time.monotonic()
        if stage != self._stage or now - self._told_s >= TOLD_EVERY_S:
            self._told_s, self._stage = now, stage
            self._jobs.touch(self.job, round(progress, 3), stage)


class Work:
    """One attempt at one job."""

    def __init__(self, course: Course, models: Models, folders: Folders, bounds: Bounds) -> None:
        self._course, self._models, self._folders, self._bounds = course, models, folders, bounds
        self._job = course.job
        self._left_out: list[str] = []
        self._planned = self._finished = 0

    def run(self) -> tuple[dict[str, Any], int]:
        """Return the result, and the bytes of the files that belong to it.

        Raises:
            RefusedFileError, HopelessError, RefusedRequestError: it would fail again.
            LaterError, ReaderDiedError: it may succeed later.
            LostClaimError: the job is another's, or nobody's.
        """
        read = self._course.step("read", self._read)
        decoded, folder = Decoded(**read["decoded"]), self._folders.of_job(self._job.id) / read["folder"]
        looks, hears, question = self._wishes(decoded)
        views = self._captioned(decoded) if looks else []
        self._planned = len(views) + hears + bool(question) + 1
        found = [*self._speech(folder / decoded.sound)] if hears and decoded.sound else []
        found += self._captions(decoded, views, folder)
        found += [{"kind": "page", **page} for page in decoded.pages if page["text"]]
        answer = self._answer(decoded, folder, question) if question else None
        embeddings = self._embeddings(decoded, found, folder)
        files = [file for file in decoded.files if file["name"] != decoded.sound]
        result = {
            "text": "\n".join(text["text"] for text in found if text["text"]),
            "segments": [text for text in found if "start_s" in text],
            "pages": [text for text in found if "page" in text],
            "captions": [text for text in found if "file" in text],
            "embeddings": embeddings,
            "media": decoded.media,
            "files": files,
            "left_out": self._left_out,
            "folder": read["folder"],
        }
        if answer is not None:
            result["answer"] = answer
        return result, sum(file["bytes"] for file in files)

    def _read(self) -> dict[str, Any]:
        want, name = self._job.want, str(self._job.claim)
        looks = bool(want["captions"] or want["question"] or want.get("picture_embedding"))
        task = {
            "exif": want["exif"],
            "thumbnails": want["thumbnails"],
            "keyframes": want["keyframes"] or (8 if looks else 1),
            "pages": want["pages"] or (1 if looks else 0),
            "scanned_pages": want.get("scanned_pages", 0),
            "transcript": bool(want["transcript"]) and (self._models.stack.hears or want["transcript"] == MUST),
        }
        self._course.tell(0.0, "reading the file")

        def tell(part: float) -> None:
            self._course.tell(0.2 * part, "reading the file")

        folder = self._folders.of_job(self._job.id) / name
        decoded = read_file(self._folders.original(self._job.id), folder, task, self._bounds, tell)
        return {"decoded": decoded.document(), "folder": name}

    def _wishes(self, decoded: Decoded) -> tuple[bool, bool, str]:
        """Return whether to look, whether to listen, and what to ask. Raises HopelessError where no model can."""
        stack, want = self._models.stack, self._job.want
        looks = bool(want["captions"] and decoded.views) and self._can("captions", bool(stack.vision), NO_VISION)
        has_sound = "sound" in decoded.media or decoded.media["kind"] == "sound"
        hears = bool(want["transcript"] and has_sound) and self._can("transcript", stack.hears, NO_SPEECH)
        question = str(want["question"])
        if question and not decoded.views:
            raise HopelessError("a question needs a picture, a video or a page; this file has none")
        if question and not stack.vision:
            raise HopelessError(NO_VISION)
        return looks, hears, question

    def _can(self, wish: str, is_there: bool, why_not: str) -> bool:
        if not is_there:
            if self._job.want[wish] == MUST:
                raise HopelessError(why_not)
            self._left_out.append(f"{wish}: {why_not}")
        return is_there

    def _captioned(self, decoded: Decoded) -> list[dict[str, Any]]:
        """Return the views that are described: of pages those without text, which were scanned."""
        texts = {page["page"] for page in decoded.pages if page["text"]}
        return [view for view in decoded.views if view.get("page") not in texts]

    def _tell(self, stage: str) -> None:
        self._course.tell(0.2 + 0.8 * self._finished / max(self._planned, 1), stage)

    def _speech(self, sound: Path) -> Iterator[dict[str, Any]]:
        """Yield what is said, part by part of the sound."""
        number, start = 0, 0
        while True:
            self._tell("writing down speech")
            heard = self._course.step(f"hear:{number}", partial(self._hear, sound, start))
            yield from _spoken(heard)
            if heard["end"] == start:
                break
            number, start = number + 1, heard["end"]
        self._finished += 1

    def _hear(self, sound: Path, start: int) -> dict[str, Any]:
        """Have one part of a sound written down; nothing is left where it ends where it starts."""
        part, end, rate = next_part(sound, start)
        told = self._models.hear(part, self._job.want["language"]) if end > start else {}
        return {"end": end, "told": told, "start_s": start / rate, "end_s": end / rate}

    def _captions(self, decoded: Decoded, views: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
        segments = []
        length_s = decoded.media.get("duration_s")
        for number, view in enumerate(views):
            self._tell("describing pictures")
            picture = folder / view["file"]
            is_page = "page" in view
            look = (
                partial(self._models.read_page, picture) if is_page else partial(self._models.look, [picture], CAPTION)
            )
            text = str(self._course.step(f"look:{number}", look))
            self._finished += 1
            segment = {"kind": "picture", "text": text, "file": view["file"]}
            if is_page:
                segment = {**segment, "kind": "page", "page": view["page"]}
            if "time_s" in view:
                following = views[number + 1]["time_s"] if number + 1 < len(views) else length_s
                end_s = max(following or view["time_s"], view["time_s"])
                segment = {**segment, "kind": "frame", "start_s": view["time_s"], "end_s": end_s}
            segments.append(segment)
        return segments

    def _answer(self, decoded: Decoded, folder: Path, question: str) -> str:
        self._tell("answering the question")
        step = max(1, -(-len(decoded.views) // MOST_LOOKED_AT))
        pictures = [folder / view["file"] for view in decoded.views[::step]]
        answer = self._course.step("answer", partial(self._models.look, pictures, question))
        self._finished += 1
        return str(answer)

    def _embeddings(
        self, decoded: Decoded, segments: Sequence[Mapping[str, Any]], folder: Path
    ) -> list[dict[str, Any]]:
        stack, want = self._models.stack, self._job.want
        found: list[dict[str, Any]] = []
        if want["embedding"] and self._can("embedding", bool(stack.embedding), NO_EMBEDDING):
            self._tell("embedding")
            found += self._of_texts(segments)
        wants_pictures = bool(want.get("picture_embedding") and decoded.views)
        can = wants_pictures and self._can("picture_embedding", stack.embeds_pictures, NO_PICTURES)
        if can or (want["embedding"] and stack.embeds_pictures):
            self._tell("embedding pictures")
            found += self._of_pictures(decoded, folder)
        return found

    def _of_texts(self, segments: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield each passage with its vector."""
        passages = list(_passages(segments))
        for first in range(0, len(passages), BATCH):
            batch = passages[first : first + BATCH]
            texts = [passage["text"] for passage in batch]
            vectors = self._course.step(f"embed:{first}", partial(self._models.embed, texts))
            yield from ({**passage, **self._vector(one)} for passage, one in zip(batch, vectors, strict=True))

    def _of_pictures(self, decoded: Decoded, folder: Path) -> Iterator[dict[str, Any]]:
        """Yield each view with its vector. A refusal, as of a model without a template, fails what must be alone."""
        want = self._job.want
        for number, view in enumerate(decoded.views):
            embed = partial(self._models.embed_picture, folder / view["file"])
            try:
                vector = self._course.step(f"embed-view:{number}", embed)
            except RefusedRequestError as refusal:
                if MUST in (want["embedding"], want.get("picture_embedding")):
                    raise
                self._left_out.append(f"picture_embedding: {refusal}")
                return
            yield {**view, **self._vector(vector)}

    def _vector(self, vector: Sequence[float]) -> dict[str, Any]:
        return {"model": self._models.stack.embedding, "dimension": len(vector), "vector": vector}


def _spoken(heard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the segments of one part, by the clock of the whole sound."""
    told, first_s = heard["told"], heard["start_s"]
    for segment in told.get("segments") or ():
        if segment["text"]:
            start_s, end_s = (min(first_s + segment[name], heard["end_s"]) for name in ("start_s", "end_s"))
            yield {"kind": "speech", "text": segment["text"], "start_s": round(start_s, 3), "end_s": round(end_s, 3)}
    if told.get("text") and not told.get("segments"):
        yield {"kind": "speech", "text": told["text"], "start_s": round(first_s, 3), "end_s": round(heard["end_s"], 3)}


def _passages(segments: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what gets a vector: speech joined to passages of a minute, all else as it is."""
    open_now: dict[str, Any] | None = None
    for segment in segments:
        if segment["kind"] != "speech":
            yield {**segment, "text": segment["text"][:PASSAGE_CHARACTERS]}
        elif (
            open_now is not None
            and segment["end_s"] - open_now["start_s"] <= PASSAGE_S
            and len(open_now["text"]) + len(segment["text"]) < PASSAGE_CHARACTERS
        ):
            open_now["text"] += " " + segment["text"]
            open_now["end_s"] = segment["end_s"]
        else:
            if open_now is not None:
                yield open_now
            open_now = dict(segment)
    if open_now is not None:
        yield open_now
