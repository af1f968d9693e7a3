"""Files of strangers: what is found in good ones, and that bad ones cost their reader alone, and little of it."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import wave
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from multimodal.confine import Share
from multimodal.decoded import Decoded, RefusedFileError
from multimodal.reading import Bounds, ReaderDiedError, read_file
from PIL import Image

from tests.multimodal.files import (
    RATE,
    write_bomb,
    write_pdf,
    write_picture,
    write_sound,
    write_text_bomb,
    write_video,
)

pytestmark = pytest.mark.subprocess

MIB = 2**20
ALL: Mapping[str, Any] = {"exif": True, "thumbnails": True, "keyframes": 8, "pages": 5, "transcript": True}
BOUNDS = Bounds(
    share=Share(memory_bytes=768 * MIB, file_bytes=64 * MIB, cpu_s=30), folder_bytes=64 * MIB, time_s=30, most_s=600
)


def silent(_: float) -> None:
    """Take a reader's progress and say nothing."""


def read(
    path: Path, bounds: Bounds = BOUNDS, want: Mapping[str, Any] = ALL, tell: Callable[[float], None] = silent
) -> Decoded:
    """Read a file into a folder beside it."""
    return read_file(path, path.parent / "out", want, bounds, tell)


def names(decoded: Decoded) -> list[str]:
    """Return the names of what was kept."""
    return [file["name"] for file in decoded.files]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif"])
def test_a_picture(tmp_path: Path, ending: str) -> None:
    decoded = read(write_picture(tmp_path / f"a.{ending}", size=(3000, 2000)))

    found = (decoded.media["kind"], decoded.media["width"], decoded.media["height"])
    assert found == ("picture", 3000, 2000)
    assert names(decoded) == ["preview.jpg", "thumbnail.jpg"]
    with Image.open(tmp_path / "out" / "thumbnail.jpg") as small, Image.open(tmp_path / "out/preview.jpg") as view:
        assert (small.size, view.size) == ((256, 171), (1024, 683))
        red, green, blue = view.getpixel((5, 5))  # type: ignore[misc]
        assert red > 200
        assert max(green, blue) < 60


def test_exif_is_read_and_taken_out(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "Maker"
    tags.get_ifd(0x8825)[1] = "N"
    decoded = read(write_picture(tmp_path / "a.jpg", size=(400, 200), exif=tags))

    assert decoded.media["exif"] == {"Orientation": 6, "Make": "Maker", "GPSInfo": None} | decoded.media["exif"]
    assert (decoded.media["width"], decoded.media["height"]) == (200, 400)
    with Image.open(tmp_path / "out" / "preview.jpg") as view:
        assert view.size == (200, 400)
        assert not view.getexif()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "I;16", "F", "CMYK"])
def test_every_kind_of_pixels(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tiff" if mode in ("F", "CMYK") else "a.png")
    Image.new(mode, (50, 40)).save(path)

    assert names(read(path)) == ["preview.jpg", "thumbnail.jpg"]


def test_a_video(tmp_path: Path) -> None:
    decoded = read(write_video(tmp_path / "a.mp4", seconds=4))

    assert decoded.media["kind"] == "video"
    assert decoded.media["duration_s"] == pytest.approx(4, abs=0.2)
    assert [view["time_s"] for view in decoded.views] == pytest.approx([0, 1, 2, 3], abs=0.2)
    assert names(decoded) == ["frame-001.jpg", "frame-002.jpg", "frame-003.jpg", "frame-004.jpg", "thumbnail.jpg"]
    with wave.open(str(tmp_path / "out" / "sound.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getsampwidth()) == (1, 16_000, 2)
        assert sound.getnframes() / 16_000 == pytest.approx(4, abs=0.2)


def test_frames_are_few_however_long_a_video_is(tmp_path: Path) -> None:
    decoded = read(write_video(tmp_path / "a.mkv", seconds=24, with_sound=False), want={**ALL, "keyframes": 3})

    assert 2 <= len(decoded.views) <= 3
    assert decoded.views[-1]["time_s"] > 8
    assert decoded.sound is None


@pytest.mark.parametrize(
    ("ending", "codec"), [("wav", "pcm_s16le"), ("mp3", "mp3"), ("ogg", "libopus"), ("flac", "flac")]
)
def test_sound(tmp_path: Path, ending: str, codec: str) -> None:
    decoded = read(write_sound(tmp_path / f"a.{ending}", codec=codec))

    assert (decoded.media["kind"], decoded.sound, decoded.views) == ("sound", "sound.wav", [])
    assert decoded.media["sound_s"] == pytest.approx(2, abs=0.2)


def test_a_pdf_file(tmp_path: Path) -> None:
    decoded = read(write_pdf(tmp_path / "a.pdf", pages=3), want={**ALL, "pages": 2})

    assert decoded.media["pages"] == 3
    assert [page["text"] for page in decoded.pages] == ["This is page 1", "This is page 2", "This is page 3"]
    assert names(decoded) == ["page-0001.jpg", "thumbnail.jpg", "page-0002.jpg"]


def damaged(path: Path) -> Path:
    """Leave a file half its bytes."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def archive(path: Path) -> Path:
    """Write a zip file that says it is a picture."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "0" * 1000)
    return path


def bomb_within(path: Path) -> Path:
    """Write a Word file of 200 kB whose text has 200 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("word/document.xml", "w") as text:
        for _ in range(200):
            text.write(bytes(MIB))
    return path


def test_scanned_pages_are_drawn_larger_and_no_others(tmp_path: Path) -> None:
    scanned = [Image.new("RGB", (600, 900), colour) for colour in ("red", "blue")]
    scanned[0].save(tmp_path / "a.pdf", save_all=True, append_images=scanned[1:])
    decoded = read(tmp_path / "a.pdf", want={"pages": 0, "scanned_pages": 1})
    written = read(write_pdf(tmp_path / "b.pdf"), want={"pages": 0, "scanned_pages": 5})

    assert [page["scanned"] for page in decoded.pages] == [True, True]
    assert decoded.views == [{"file": "page-0001.jpg", "page": 1}]
    assert written.views == []


def pages_without_end(path: Path) -> Path:
    """Write a PDF file whose list of pages holds itself, and says that it has a million."""
    whole = write_pdf(path, pages=1).read_bytes()
    path.write_bytes(whole.replace(b"/Kids [4 0 R] /Count 1 ", b"/Kids [2 0 R] /Count 1000000 "))
    return path


def damaged_within(path: Path) -> Path:
    """Overwrite some bytes in the middle of a file with noise, the same each time."""
    content, chance = bytearray(path.read_bytes()), random.Random(1)
    for _ in range(60):
        place = chance.randrange(len(content) // 5, 4 * len(content) // 5)
        content[place : place + 20] = chance.randbytes(20)
    path.write_bytes(content)
    return path


def plain(content: bytes) -> Callable[[Path], Path]:
    """Return what writes these bytes."""

    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


NOTHING = "the file is no picture, sound, video or PDF, or it is damaged"
# It says that it goes on without end, and has 255 channels, which no speaker's layout has.
ENDLESS = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 255, RATE, 510 * RATE, 510, 16)
ENDLESS += b"data\xff\xff\xff\xff" + bytes(510 * 1000)
ENTITY = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&x;</svg>'
DAMAGED = "the picture is damaged or truncated"
# By a play list, and by FFmpeg's own kind of list, the decoder would read other files, or ask other machines.
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("text.png", plain(b"hello"), NOTHING),
    ("empty.png", plain(b""), NOTHING),
    ("zip.jpg", archive, NOTHING),
    ("list.m3u8", plain(PLAYLIST), NOTHING),
    ("list.txt", plain(b"ffconcat version 1.0\nfile /etc/passwd\n"), NOTHING),
    ("noise.mp4", plain(os.urandom(50_000)), NOTHING),
    ("half.png", lambda path: damaged(write_picture(path)), DAMAGED),
    ("half.jpg", lambda path: damaged(write_picture(path, size=(900, 900))), DAMAGED),
    ("entity.svg", plain(ENTITY), NOTHING),
    ("bomb.docx", bomb_within, NOTHING),
    ("endless.wav", plain(ENDLESS), "no sound can be decoded"),
    ("endless.pdf", pages_without_end, "no page of the PDF file can be read"),
    ("half.pdf", plain(b"%PDF-1.7\nhalf of it"), "the PDF file cannot be opened"),
    ("bomb.png", write_bomb, "it has 60000 × 60000 pixels; 50000000 are allowed"),
    ("comment.png", write_text_bomb, f"{DAMAGED}|{NOTHING}"),
]


@pytest.mark.parametrize(("name", "write", "why"), BAD, ids=[name for name, _, _ in BAD])
def test_a_bad_file_is_refused_with_a_sentence(
    tmp_path: Path, name: str, write: Callable[[Path], Path], why: str
) -> None:
    with pytest.raises(RefusedFileError, match=why):
        read(write(tmp_path / name))


def test_half_a_video_gives_what_is_in_it(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", seconds=8)

    assert 0 < len(read(damaged(whole)).views) < 8


@pytest.mark.parametrize(("ending", "codec"), [("mp3", "mp3"), ("flac", "flac"), ("m4a", "aac")])
def test_damage_within_a_sound_costs_what_is_damaged(tmp_path: Path, ending: str, codec: str) -> None:
    decoded = read(damaged_within(write_sound(tmp_path / f"a.{ending}", seconds=20, codec=codec)))

    assert decoded.media["sound"]["damaged_packets"] > 0
    assert 5 < decoded.media["sound_s"] < 20


def test_damage_within_a_videos_sound_leaves_its_frames(tmp_path: Path) -> None:
    decoded = read(damaged_within(write_video(tmp_path / "a.mp4", seconds=8)))

    assert decoded.views
    assert decoded.sound


def test_a_sound_may_change_its_rate_on_the_way(tmp_path: Path) -> None:
    parts = [write_sound(tmp_path / f"{rate}.mp3", seconds=3, codec="mp3", rate=rate) for rate in (16_000, 44_100)]
    both = plain(b"".join(part.read_bytes() for part in parts))(tmp_path / "both.mp3")

    assert read(both).media["sound_s"] == pytest.approx(6, abs=0.3)


def test_memory_is_bounded(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", size=(7000, 7000), compress_level=1)
    bounds = Bounds(
        share=Share(memory_bytes=300 * MIB, file_bytes=64 * MIB, cpu_s=30), folder_bytes=MIB, time_s=30, most_s=9
    )

    with pytest.raises(RefusedFileError, match="memory"):
        read(path, bounds)


def test_the_length_of_a_sound_is_bounded(tmp_path: Path) -> None:
    bounds = Bounds(share=BOUNDS.share, folder_bytes=MIB, time_s=30, most_s=3)

    with pytest.raises(RefusedFileError, match=r"more than 3 s of sound \(MULTIMODAL_MAX_DURATION_S\)"):
        read(write_sound(tmp_path / "a.wav", seconds=5), bounds)


def test_a_file_that_is_written_is_bounded(tmp_path: Path) -> None:
    bounds = Bounds(
        share=Share(memory_bytes=768 * MIB, file_bytes=100_000, cpu_s=30), folder_bytes=MIB, time_s=30, most_s=900
    )

    with pytest.raises(RefusedFileError):
        read(write_sound(tmp_path / "a.wav", seconds=20), bounds)


def test_time_is_bounded_even_of_a_reader_that_only_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    bounds = Bounds(share=BOUNDS.share, folder_bytes=MIB, time_s=1.5, most_s=9)

    with pytest.raises(RefusedFileError, match="reading it took longer than 2 s"):
        read(tmp_path / "endless", bounds)


def test_a_killed_reader_is_no_fault_of_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    killed: list[int] = []

    def kill(_: float) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in set(map(int, children)) - set(killed):
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(ReaderDiedError):
        read(tmp_path / "endless", tell=kill)


def test_whoever_loses_interest_leaves_no_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")

    def stop(_: float) -> None:
        raise KeyError("not wanted any more")

    with pytest.raises(KeyError):
        read(tmp_path / "endless", tell=stop)
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text().split() == []


LOOK_AROUND = """
import os, socket, sys
from pathlib import Path
from multimodal.confine import SYSTEM_FOLDERS, Share, die_with_parent, limit, stay_within
die_with_parent(os.getppid())
limit(Share(memory_bytes=2**29, file_bytes=2**20, cpu_s=5))
folder, secret, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if not stay_within([*map(Path, SYSTEM_FOLDERS), Path(sys.prefix), Path(sys.base_prefix)], [folder]):
    sys.exit(77)
(folder / "mine").write_text("mine")
assert (folder / "mine").read_text() == "mine"
for attempt in (
    lambda: open(secret),
    lambda: open("/etc/passwd"),
    lambda: open(f"/proc/{os.getppid()}/environ"),
    lambda: open(folder.parent / "beside", "w"),
    lambda: os.symlink(secret, folder / "link"),
    lambda: os.kill(os.getppid(), 0),
    lambda: socket.create_connection(("127.0.0.1", port)),
):
    try:
        attempt()
    except OSError as failure:
        print(type(failure).__name__)
    else:
        print("done")
"""


def test_a_reader_that_a_file_has_taken_over_finds_nothing(tmp_path: Path) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("sk-1")
    folder.mkdir()
    program = Path(__file__).parents[2] / "compose"
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-P", "-c", LOOK_AROUND, str(folder), str(secret), str(server.getsockname()[1])]
        done = subprocess.run(command, env={"PYTHONPATH": str(program)}, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")

    refused = done.stdout.split()
    assert done.returncode == 0, done.stderr
    # Signals are kept in from Linux 6.12 on, connections from 6.7 on.
    assert refused[:5] == ["PermissionError"] * 5
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert refused[5] == ("PermissionError" if release >= (6, 12) else "done")
    assert refused[6] == ("PermissionError" if release >= (6, 7) else "done")


def test_a_reader_dies_with_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from multimodal.confine import Share\nfrom multimodal.reading import *\n"
        "b = Bounds(share=Share(memory_bytes=2**29, file_bytes=2**20, cpu_s=9), folder_bytes=9, time_s=60, most_s=9)\n"
        f"read_file(Path({str(tmp_path / 'endless')!r}), Path({str(tmp_path / 'o')!r}), {dict(ALL)!r}, b, "
        "lambda part: print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "compose")}
    with subprocess.Popen([sys.executable, "-P", "-c", script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        reader = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{reader}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(f"/proc/{reader}").exists()
