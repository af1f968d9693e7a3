"""Has a file read by a process of its own (multimodal.decode), and believes nothing that it has not checked.

Whatever a file does to its reader costs that reader alone: it has a limit of memory, of processor time, of bytes and of
time, and it dies with whoever asked.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from multimodal.confine import Share
from multimodal.decoded import NAME, Decoded, RefusedFileError

MOST_TOLD_BYTES = 256 * 2**20
"""Of a reader's words: 2000 pages of 100,000 characters, each of which JSON writes as `\\u0000` at worst, are more; but
no text has such pages.
"""

MOST_FILES = 400
"""Frames, pages, a thumbnail and a sound."""

MOST_SAID_BYTES = 4000
"""Of what a reader that failed said, for the log."""

LOOK_EVERY_S = 1.0


class ReaderDiedError(Exception):
    """The reader was killed from outside: the machine is short of memory, or is being stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What reading one file may take. `folder_bytes`: all that is written of it; `most_s`: of sound."""

    share: Share
    folder_bytes: int
    time_s: float
    most_s: float


def read_file(
    path: Path, folder: Path, want: Mapping[str, Any], bounds: Bounds, tell: Callable[[float], None]
) -> Decoded:
    """Return what a file holds; what is written of it lies in `folder`, which is made anew.

    `tell` is called about once a second; what it raises ends the reader.

    Raises:
        RefusedFileError: the file is none that is read, is damaged, or takes more than the bounds.
        ReaderDiedError: the reader was killed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    task = {
        "parent": os.getpid(),
        "share": asdict(bounds.share),
        "file": str(path),
        "folder": str(folder),
        "want": dict(want),
        "most_s": bounds.most_s,
    }
    with tempfile.TemporaryFile() as said, _reader(folder, said) as reader:
        assert reader.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            reader.stdin.write(json.dumps(task).encode())
            reader.stdin.close()
        told = _listen(reader, folder, bounds, tell)
        status = reader.wait()
        if status > 0:
            said.seek(0)
            words = ascii(said.read(MOST_SAID_BYTES).decode(errors="replace"))
            print(f"multimodal: the reader of {path.name} ended with {status}: {words}", file=sys.stderr, flush=True)
    if "refused" in told:
        raise RefusedFileError(str(told["refused"])[:1000])
    if status != 0 or "decoded" not in told:
        _explain(status, bounds)
    return _checked(told["decoded"], folder)


@contextlib.contextmanager
def _reader(folder: Path, said: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a reader, which ends with the block at the latest."""
    # Of this process's environment, which may hold secrets, it gets nothing.
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
        # One heap and one thread: what a thread reserves counts against the limit of memory.
        "MALLOC_ARENA_MAX": "1",
        "OMP_NUM_THREADS": "1",
    }
    reader = subprocess.Popen(
        [sys.executable, "-P", "-m", "multimodal.decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        env=environment,
        cwd=folder,
    )
    try:
        yield reader
    finally:
        reader.kill()
        reader.wait()
        for pipe in (reader.stdin, reader.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _listen(
    reader: "subprocess.Popen[bytes]", folder: Path, bounds: Bounds, tell: Callable[[float], None]
) -> dict[str, Any]:
    """Return the last thing that a reader tells, looking after it meanwhile."""
    assert reader.stdout is not None
    out, until, progress = reader.stdout.fileno(), time.monotonic() + bounds.time_s, 0.0
    held, looked_s = bytearray(), 0.0
    while True:
        ready, _, _ = select.select([out], [], [], LOOK_EVERY_S)
        data = os.read(out, 2**20) if ready else b""
        if ready and not data:
            return _read_line(bytes(held).strip().rpartition(b"\n")[2])
        held += data
        if len(held) > MOST_TOLD_BYTES:
            raise RefusedFileError(f"it holds more than {MOST_TOLD_BYTES} bytes of text")
        now = time.monotonic()
        if now - looked_s < LOOK_EVERY_S:
            continue
        looked_s = now
        if now > until:
            raise RefusedFileError(f"reading it took longer than {bounds.time_s:.0f} s")
        if folder_bytes(folder) > bounds.folder_bytes:
            raise RefusedFileError(f"what is in it has more than {bounds.folder_bytes} bytes")
        if len(held) < 4096 and (line := bytes(held).rpartition(b"\n")[0].rpartition(b"\n")[2]):
            progress = _progress(_read_line(line), progress)
        tell(progress)


def _progress(told: Mapping[str, Any], before: float) -> float:
    part = told.get("progress")
    return float(part) if isinstance(part, int | float) and 0 <= part <= 1 else before


def _read_line(line: bytes) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _explain(status: int, bounds: Bounds) -> None:
    """Raise what a reader died of."""
    if status == -signal.SIGKILL:
        raise ReaderDiedError("the process that read the file was killed; the machine may be short of memory")
    if status == -signal.SIGXCPU:
        raise RefusedFileError(f"reading it took more than {bounds.share.cpu_s} s of a processor")
    if status < 0:
        raise RefusedFileError(f"its decoder crashed at it ({signal.Signals(-status).name})")
    raise RefusedFileError("its decoder failed at it: it is damaged, or takes too much memory")


def folder_bytes(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _checked(told: object, folder: Path) -> Decoded:
    """Return what a reader told, if it has the right shape and names files of its own; their sizes are looked up."""
    try:
        _must(isinstance(told, dict))
        decoded = Decoded(**told)  # type: ignore[arg-type]
        names = [file["name"] for file in decoded.files]
        named = [*names, *(view["file"] for view in decoded.views), *([decoded.sound] if decoded.sound else [])]
        _must(isinstance(decoded.media["kind"], str) and len(names) <= MOST_FILES)
        _must(all(isinstance(page["text"], str) and isinstance(page["page"], int) for page in decoded.pages))
        _must(all(NAME.fullmatch(name) for name in named))
        for file in decoded.files:
            file["bytes"] = _size(folder / file["name"])
        for name in named:
            _size(folder / name)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as failure:
        raise RefusedFileError("its decoder failed at it, and told what cannot be") from failure
    return decoded


def _size(path: Path) -> int:
    """Return a plain file's size. A reader that a file has taken over could leave a link to another one."""
    _must(path.is_file() and not path.is_symlink())
    return path.stat().st_size


def _must(is_so: bool) -> None:
    if not is_so:
        raise ValueError
