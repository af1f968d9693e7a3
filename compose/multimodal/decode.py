"""The reading process: one file in, plain data and small files out. `python -m multimodal.decode`, a task on its stdin.

Its parent is `multimodal.reading`. A file that a stranger made is opened here and nowhere else, after the limits of
confine.py are in force. Tells JSON lines on stdout: `{"progress": …}`, then `{"decoded": …}` or `{"refused": "…"}`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from multimodal.confine import SYSTEM_FOLDERS, Share, die_with_parent, limit, stay_within

TELL_EVERY_S = 1.0


class Teller:
    """Tells progress, now and then."""

    def __init__(self) -> None:
        self._told_s = 0.0

    def __call__(self, part: float) -> None:
        """Tell what part of the file is read."""
        now = time.monotonic()
        if now - self._told_s >= TELL_EVERY_S:
            self._told_s = now
            say({"progress": round(part, 3)})


def say(document: dict[str, Any]) -> None:
    """Write one line for the parent."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do the task on stdin."""
    task = json.load(sys.stdin)
    die_with_parent(task["parent"])
    limit(Share(**task["share"]))
    from multimodal import pages, pictures, streams
    from multimodal.decoded import RefusedFileError

    pictures.load_plugins()
    path, folder, want, tell = Path(task["file"]), Path(task["folder"]), task["want"], Teller()
    installed = (Path(prefix) for prefix in {sys.prefix, sys.base_prefix, *sys.path} if prefix)
    stay_within([*map(Path, SYSTEM_FOLDERS), *installed, path], [folder])
    try:
        decoded = (
            pages.read_pages(path, folder, want, tell)
            or pictures.read_picture(path, folder, want)
            or streams.read_streams(path, folder, want, task["most_s"], tell)
        )
        if decoded is None:
            raise RefusedFileError("the file is no picture, sound, video or PDF, or it is damaged")
        say({"decoded": decoded.document()})
    except RefusedFileError as refused:
        say({"refused": str(refused)})
    except MemoryError:
        say({"refused": "it takes more memory to read than MULTIMODAL_FILE_MEMORY_MIB allows"})
    except OSError as failure:
        say({"refused": f"it cannot be read: {failure.strerror or failure}"})


if __name__ == "__main__":
    main()
