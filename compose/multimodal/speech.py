"""Speech on the processor: faster-whisper behind the form of `/v1/audio/transcriptions`, on a Unix socket.

One model for all workers, loaded once, at the first request, in a process of its own that ends with the server.
Only WAV files that the reading process has written come here. `python -m multimodal.speech SOCKET PARENT`.
"""

import asyncio
import io
import os
import sys
import wave
from array import array
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, web

from multimodal.confine import die_with_parent

MOST_BYTES = 32 * 2**20
"""Three times a part of a sound (sounds.py)."""


class LoadError(Exception):
    """The model is not there, or is none that faster-whisper reads."""


class Transcriber:
    """A speech model that is loaded when it is first needed."""

    def __init__(self, model: str, threads: int) -> None:
        self._name, self._threads = model, threads
        self._model: Any = None

    def _load(self) -> None:
        if self._model is not None:
            return
        from faster_whisper import WhisperModel

        try:
            # int8 is what CTranslate2 has for every x86 and ARM processor, and a quarter of the memory.
            self._model = WhisperModel(
                self._name, device="cpu", compute_type="int8", cpu_threads=self._threads, local_files_only=True
            )
        except Exception as fault:
            told = str(fault).splitlines()[0][:300]
            raise LoadError(
                f"the speech model {self._name} (MULTIMODAL_SPEECH_MODEL) cannot be loaded: {told}"
            ) from fault

    def write_down(self, content: bytes, language: str | None) -> dict[str, Any]:
        """Return what is said in a WAV file, as OpenAI's verbose_json has it."""
        import numpy as np

        self._load()
        with wave.open(io.BytesIO(content), "rb") as file:
            samples = array("h", file.readframes(file.getnframes()))
        sound = np.asarray(samples, dtype=np.float32) / 32768.0
        # What is no speech is left out: on silence and music Whisper writes sentences that nobody said.
        found, about = self._model.transcribe(sound, language=language, vad_filter=True, beam_size=5)
        segments = [{"start": each.start, "end": each.end, "text": each.text.strip()} for each in found]
        text = " ".join(segment["text"] for segment in segments)
        return {"text": text, "segments": segments, "language": about.language, "duration": about.duration}


async def answer(request: web.Request) -> web.Response:
    """Answer one request; the next one waits."""
    fields: dict[str, Any] = {}
    async for part in await request.multipart():
        assert isinstance(part, BodyPartReader)
        fields[str(part.name)] = bytes(await part.read()) if part.name == "file" else await part.text()
    async with request.app[_TURN]:
        try:
            told = await asyncio.to_thread(
                request.app[_TRANSCRIBER].write_down, fields["file"], fields.get("language") or None
            )
        except LoadError as fault:
            return web.json_response({"error": {"message": str(fault)}}, status=400)
        except Exception as fault:  # noqa: BLE001  # told in a sentence, to the worker that asks
            return web.json_response({"error": {"message": f"the speech model failed: {str(fault)[:300]}"}}, status=500)
    return web.json_response(told)


_TURN = web.AppKey("turn", asyncio.Lock)
_TRANSCRIBER = web.AppKey("transcriber", Transcriber)


def main(socket: Path, parent: int) -> None:
    """Answer until the server ends."""
    die_with_parent(parent)
    socket.unlink(missing_ok=True)
    os.umask(0o077)
    application = web.Application(client_max_size=MOST_BYTES)
    application[_TURN] = asyncio.Lock()
    model, threads = os.environ["MULTIMODAL_SPEECH_MODEL"], int(os.environ.get("MULTIMODAL_SPEECH_THREADS") or 0)
    application[_TRANSCRIBER] = Transcriber(model, threads)
    application.router.add_post("/v1/audio/transcriptions", answer)
    web.run_app(application, path=str(socket), print=None, access_log=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
