"""A WAV file of one channel, part by part: what a speech model is given at once. Standard library only."""

import io
import sys
import wave
from array import array
from pathlib import Path

PART_S = 300
"""One part: 9.6 MB, below what vLLM takes (25 MB, VLLM_MAX_AUDIO_CLIP_FILESIZE_MB in 0.33.0 envs.py), and what a kill
costs at most.
"""

SEARCH_S = 15
"""How far before its end a part may be cut, where it is quietest: a cut through a word loses it."""

WINDOW_S = 0.2


def next_part(path: Path, start: int) -> tuple[bytes, int, int]:
    """Return the part from a sample on as a WAV file, the sample where the next begins, and the samples a second.

    Nothing is left where the next sample is `start`.
    """
    with wave.open(str(path), "rb") as file:
        rate, total = file.getframerate(), file.getnframes()
        file.setpos(min(start, total))
        data = file.readframes(PART_S * rate)
    samples = len(data) // 2
    if start + samples < total:
        samples = _quietest(data, rate)
    return _as_wav(data[: 2 * samples], rate), start + samples, rate


def _quietest(data: bytes, rate: int) -> int:
    """Return the sample in the middle of the quietest moment near the end."""
    samples = array("h", data)
    if sys.byteorder == "big":
        samples.byteswap()
    window, first = int(WINDOW_S * rate), max(len(samples) - SEARCH_S * rate, 0)
    starts = range(first, len(samples) - window, window // 2)
    return min(starts, key=lambda at: sum(map(abs, samples[at : at + window]))) + window // 2


def _as_wav(data: bytes, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(data)
    return buffer.getvalue()
