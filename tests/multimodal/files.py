"""Small real files, good and bad ones: pictures, sound, video, PDF. Made anew by the libraries that people use."""

from __future__ import annotations

import math
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

COLOURS = ("red", "lime", "blue", "yellow")
FRAMES_PER_S, RATE = 12, 16_000


def write_picture(path: Path, colour: str = "red", size: tuple[int, int] = (120, 80), **options: object) -> Path:
    """Write a picture of one colour; its ending tells the format."""
    Image.new("RGB", size, colour).save(path, **options)  # type: ignore[arg-type]
    return path


def write_bomb(path: Path, side: int = 60_000) -> Path:
    """Write a PNG file of a few bytes that says it has 3.6 thousand million pixels."""
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side // 8 + 1) * 100)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + b"".join((_chunk(b"IHDR", head), _chunk(b"IDAT", rows), _chunk(b"IEND", b"")))
    )
    return path


def write_text_bomb(path: Path) -> Path:
    """Write a PNG file whose comment unpacks to 200 MB."""
    packing = zlib.compressobj(1)
    text = b"".join((*(packing.compress(bytes(2**20)) for _ in range(200)), packing.flush()))
    whole = write_picture(path.with_suffix(".small.png")).read_bytes()
    path.write_bytes(whole[:33] + _chunk(b"zTXt", b"Comment\0\0" + text) + whole[33:])
    return path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_pdf(path: Path, pages: int = 2) -> Path:
    """Write a PDF file with pages that say which they are."""
    parts = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(pages))
    parts.append(f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>".encode())
    parts.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number in range(pages):
        drawn = f"BT /F1 24 Tf 20 100 Td (This is page {number + 1}) Tj ET".encode()
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {5 + 2 * number} 0 R "
        parts.append((page + "/Resources << /Font << /F1 3 0 R >> >> >>").encode())
        parts.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    text, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, start=1):
        places.append(len(text))
        text += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(parts) + 1, len(text))
    path.write_bytes(text + b"xref\n0 %d\n0000000000 65535 f \n" % (len(parts) + 1) + table + end)
    return path


def write_video(path: Path, seconds: int = 4, *, with_sound: bool = True, size: tuple[int, int] = (160, 96)) -> Path:
    """Write a video that changes its colour each second, with a tone where it is to have a sound."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=FRAMES_PER_S)
        pictures.width, pictures.height = size
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=RATE) if with_sound else None
        for number in range(seconds * FRAMES_PER_S):
            colour = COLOURS[number // FRAMES_PER_S % len(COLOURS)]
            frame = av.VideoFrame.from_image(Image.new("RGB", size, colour))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_S)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        if sound is not None:
            _add_tone(container, sound, seconds)
    return path


def write_sound(path: Path, seconds: int = 2, codec: str = "pcm_s16le", rate: int = RATE) -> Path:
    """Write a tone; its ending tells the container."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        _add_tone(container, stream, seconds)
    return path


def _add_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: int) -> None:
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=stream.rate)
    for first in range(0, seconds * RATE, 1024):
        frame = av.AudioFrame(format="s16", layout="mono", samples=1024)
        frame.sample_rate, frame.pts = RATE, first
        tone = (int(8000 * math.sin(2 * math.pi * 440 * (first + number) / RATE)) for number in range(1024))
        frame.planes[0].update(struct.pack("<1024h", *tone))
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))
