"""Video and sound, by FFmpeg's libraries (PyAV): key frames, and what is spoken. Runs in the reading process alone.

One pass over the packets. Only the key frames that are wanted are decoded, so a long film costs what reading it costs.
"""

import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from PIL import Image

from multimodal.decoded import Decoded, RefusedFileError
from multimodal.pictures import PREVIEW, check_size, flatten, keep_thumbnail, save

DEMUXERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,wav,w64,aiff,au,caf,flac,mp3,aac,amr,ac3,eac3,wv,ape,tta,dsf"
)
"""What is read, of FFmpeg's 371 formats. Left out are those that name further files or addresses (HLS, DASH, concat,
SDP, image sequences): a file of theirs would have the worker read its own secrets, or ask other machines.
"""

RATE = 16_000
"""Samples a second that speech models listen to (Whisper, and its kin)."""

FIRST_GAP_S = 1.0
"""The least time between two key frames that are kept; doubled each time that there are too many."""

ALIKE = 6.0
"""Key frames whose smallest copies differ by less, of 255 grey levels on average, show the same."""

MOST_DAMAGED = 50
"""Times that the container cannot be read on, before the rest is given up."""

_ERRORS = (av.error.FFmpegError, ValueError, OverflowError)

Tell = Callable[[float], None]


@dataclass(slots=True)
class Frames:
    """The key frames so far: as many as wanted, spread over what has been seen, however long that gets."""

    folder: Path
    most: int
    gap_s: float = FIRST_GAP_S
    kept: list[tuple[float, Image.Image]] = field(default_factory=list)
    _last: Image.Image | None = None

    def is_due(self, time_s: float) -> bool:
        """Return whether a key frame at this time may be one to keep."""
        return not self.kept or time_s >= self.kept[-1][0] + self.gap_s

    def keep(self, time_s: float, image: Image.Image) -> None:
        """Keep a frame unless it shows what the last one did; then, of too many, every second."""
        small = image.resize((16, 16)).convert("L")
        if self._last is not None and self.kept and _difference(small, self._last) < ALIKE:
            return
        self._last = small
        self.kept.append((time_s, image))
        if len(self.kept) > max(self.most, 1):
            self.kept = self.kept[::2]
            self.gap_s *= 2

    def write(self, decoded: Decoded) -> None:
        """Write the frames that were kept."""
        for number, (time_s, image) in enumerate(self.kept, start=1):
            name = f"frame-{number:03}.jpg"
            save(image, self.folder / name, decoded)
            decoded.views.append({"file": name, "time_s": round(time_s, 3)})


class Sound:
    """What is heard, as one channel of 16-bit samples in a WAV file. `damaged`: packets that could not be decoded."""

    def __init__(self, path: Path, most_s: float) -> None:
        self.path = path
        self._most = int(most_s * RATE)
        self.samples = self.damaged = 0
        self._resampler: av.AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None
        self._file = wave.open(str(path), "wb")  # noqa: SIM115  # closed by close()
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._file.setframerate(RATE)

    def add(self, packet: Any) -> None:
        """Write what a packet holds; a damaged one is left out. Raises RefusedFileError where it gets too long."""
        try:
            for frame in packet.decode():
                self._add_frame(frame)
        except MemoryError:
            raise
        except _ERRORS:
            self.damaged += 1

    def end(self) -> None:
        """Write what the resampler still holds."""
        if self._resampler is not None and self._form is not None:
            self._write(self._resampler.resample(None))
        self._resampler = self._form = None

    def _add_frame(self, frame: "av.AudioFrame") -> None:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or form != self._form:  # a stream may change its rate or its channels on the way
            self.end()
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        parts = self._resampler.resample(frame)
        self._form = form
        self._write(parts)

    def _write(self, parts: Sequence["av.AudioFrame"]) -> None:
        for part in parts:
            self.samples += part.samples
            if self.samples > self._most:
                raise RefusedFileError(f"it has more than {self._most // RATE} s of sound (MULTIMODAL_MAX_DURATION_S)")
            self._file.writeframesraw(bytes(part.planes[0])[: part.samples * 2])

    def close(self) -> None:
        """Write the header's length, and close the file."""
        self._file.close()


def read_streams(path: Path, folder: Path, want: Mapping[str, Any], most_s: float, tell: Tell) -> Decoded | None:
    """Return what a video or a sound holds; None where the file is neither. Raises RefusedFileError."""
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file", "enable_drefs": "0"}
    try:
        container = av.open(str(path), options=options, metadata_errors="replace")
    except _ERRORS:
        return None
    with container:
        picture, heard = _best(container)
        if picture is None and heard is None:
            return None
        decoded = Decoded(media=_describe(container, picture, heard))
        if picture is not None:
            check_size(picture.codec_context.width, picture.codec_context.height)
        wants_sound = heard is not None and bool(want.get("transcript"))
        frames = Frames(folder, int(want["keyframes"])) if picture is not None else None
        sound = Sound(folder / "sound.wav", most_s) if wants_sound else None
        try:
            _demux(container, (picture, frames), (heard, sound), tell)
        finally:
            if sound is not None:
                sound.close()
        _keep(decoded, frames, sound, want)
        return decoded


def _keep(decoded: Decoded, frames: Frames | None, sound: Sound | None, want: Mapping[str, Any]) -> None:
    """Write what was found; refuse what turned out to hold nothing."""
    if sound is not None and sound.samples:
        decoded.sound = sound.path.name
        decoded.media["sound_s"] = round(sound.samples / RATE, 3)
        decoded.media.setdefault("duration_s", decoded.media["sound_s"])
        if sound.damaged:
            decoded.media["sound"]["damaged_packets"] = sound.damaged
    if frames is not None:
        if not frames.kept:
            if decoded.sound is None:
                raise RefusedFileError("no frame of the video can be decoded: it is damaged or truncated")
            return
        frames.write(decoded)
        if want.get("thumbnails"):
            keep_thumbnail(frames.kept[0][1], frames.folder, decoded)
    elif sound is not None and not sound.samples:
        raise RefusedFileError("no sound can be decoded: the file is damaged, truncated or empty")


def _best(container: InputContainer) -> tuple[Any, Any]:
    """Return the stream of pictures and the one of sound; a cover picture is no video."""
    moving = [stream for stream in container.streams.video if not _is_cover(stream)]
    heard = container.streams.best("audio")
    return (moving[0] if moving else None), heard


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _describe(container: InputContainer, picture: Any, heard: Any) -> dict[str, Any]:
    media: dict[str, Any] = {"kind": "sound" if picture is None else "video", "format": container.format.name}
    if container.duration is not None and container.duration > 0:
        media["duration_s"] = round(container.duration / av.time_base, 3)
    if picture is not None:
        context = picture.codec_context
        media |= {"width": context.width, "height": context.height, "codec": context.name}
        if picture.average_rate:
            media["frames_per_s"] = round(float(picture.average_rate), 3)
    if heard is not None:
        context = heard.codec_context
        media["sound"] = {"codec": context.name, "rate": context.sample_rate, "channels": context.channels}
    tags = {str(name)[:100]: str(value)[:500] for name, value in list(container.metadata.items())[:50]}
    return {**media, "tags": tags} if tags else media


def _demux(
    container: InputContainer, pictures: tuple[Any, Frames | None], sounds: tuple[Any, Sound | None], tell: Tell
) -> None:
    (picture, frames), (heard, sound) = pictures, sounds
    wanted = [stream for stream, use in (pictures, sounds) if use is not None]
    if not wanted:
        return
    if picture is not None:
        picture.codec_context.skip_frame = "NONKEY"
        picture.codec_context.thread_count = 1
    for packet in _packets(container, wanted, tell):
        if frames is not None and packet.stream is picture:
            time_s = max(float((packet.pts or packet.dts or 0) * packet.time_base), 0.0)
            if packet.is_keyframe and frames.is_due(time_s):
                for image in _key_frame(picture, packet):
                    frames.keep(time_s, image)
        elif sound is not None and packet.stream is heard:
            sound.add(packet)
    if sound is not None:
        sound.end()


def _packets(container: InputContainer, streams: list[Any], tell: Tell) -> Iterator[Any]:
    """Yield the packets of some streams, as far as they can be read."""
    demuxed = container.demux(streams)
    damaged, length_s = 0, (container.duration or 0) / av.time_base
    while damaged < MOST_DAMAGED:
        try:
            packet = next(demuxed, None)
            if packet is None:
                return
            if packet.size == 0:
                continue
            if length_s and packet.dts is not None:
                tell(min(max(float(packet.dts * packet.time_base) / length_s, 0.0), 1.0))
            yield packet
        except av.error.EOFError:
            return
        except _ERRORS:
            damaged += 1


def _key_frame(stream: Any, packet: Any) -> list[Image.Image]:
    """Decode one key frame by itself, and leave the decoder as it was."""
    context = stream.codec_context
    try:
        decoded = [*context.decode(packet), *context.decode(None)]
    except _ERRORS:
        decoded = []
    context.flush_buffers()
    images = []
    for frame in decoded[:1]:
        check_size(frame.width, frame.height)
        images.append(flatten(_upright(frame.to_image(), frame), PREVIEW))
    return images


def _upright(image: Image.Image, frame: Any) -> Image.Image:
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Return how far two grey pictures of one size differ, on average over their pixels."""
    pairs = list(zip(one.tobytes(), other.tobytes(), strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)
