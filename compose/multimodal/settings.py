"""What the service is told by its environment (generator/stackwright/services/multimodal.py declares each setting)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from multimodal.confine import Share
from multimodal.jobs import Room
from multimodal.reading import Bounds
from multimodal.work import Folders

MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The service's settings. `folder` is its volume."""

    folder: Path
    workers: int
    most_attempts: int
    most_file_bytes: int
    keep_s: float
    room: Room
    bounds: Bounds

    @property
    def folders(self) -> Folders:
        """Where files lie."""
        return Folders(incoming=self.folder / "incoming", kept=self.folder / "files")


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings in force."""
    time_s, file_bytes = (
        float(environment["MULTIMODAL_FILE_TIMEOUT_S"]),
        int(environment["MULTIMODAL_MAX_FILE_MIB"]) * MIB,
    )
    share = Share(
        memory_bytes=int(environment["MULTIMODAL_FILE_MEMORY_MIB"]) * MIB, file_bytes=file_bytes, cpu_s=int(time_s)
    )
    return Settings(
        folder=Path(environment["MULTIMODAL_FOLDER"]),
        workers=int(environment["MULTIMODAL_WORKER_PROCESSES"]),
        most_attempts=int(environment["MULTIMODAL_MAX_ATTEMPTS"]),
        most_file_bytes=file_bytes,
        keep_s=float(environment["MULTIMODAL_KEEP_DAYS"]) * 86_400,
        room=Room(
            jobs=int(environment["MULTIMODAL_MAX_QUEUED_JOBS"]), bytes=int(environment["MULTIMODAL_DISK_MIB"]) * MIB
        ),
        bounds=Bounds(
            share=share,
            folder_bytes=file_bytes,
            time_s=time_s,
            most_s=float(environment["MULTIMODAL_MAX_DURATION_S"]),
        ),
    )
