"""One worker process: takes jobs, one after the other. `python -m multimodal.worker`; multimodal.serve starts it.

A byte on the doorbell says that there may be a job; one that is written back, that one ended. It dies with the server.
"""

import contextlib
import os
import select
import shutil
import sys
import time
import traceback

from multimodal.asking import LaterError, Models, RefusedRequestError, read_stack
from multimodal.confine import die_with_parent
from multimodal.decoded import RefusedFileError
from multimodal.jobs import STORE, Job, Jobs, LostClaimError
from multimodal.reading import ReaderDiedError
from multimodal.settings import Settings, read_settings
from multimodal.work import Course, Folders, HopelessError, Work

LOOK_EVERY_S = 5.0
"""How long a worker waits for the doorbell before it looks by itself: a byte that another took may stand for two."""


def do_job(jobs: Jobs, job: Job, models: Models, settings: Settings) -> None:
    """Do a job, and write down how it ended."""
    folders = settings.folders
    with contextlib.suppress(LostClaimError):
        try:
            result, kept_bytes = Work(Course(jobs, job), models.acting_for(job.owner), folders, settings.bounds).run()
        except (RefusedFileError, HopelessError, RefusedRequestError) as fault:
            jobs.fail(job, str(fault))
        except LaterError as fault:
            jobs.put_off(job, str(fault), settings.most_attempts, fault.pause_s)
        except ReaderDiedError as fault:
            jobs.put_off(job, str(fault), settings.most_attempts)
        except OSError as fault:
            jobs.put_off(job, f"{fault.strerror or fault}: {fault.filename or ''}", settings.most_attempts)
        except LostClaimError:
            raise
        except Exception as fault:  # noqa: BLE001  # a fault of ours costs this job, and is told in the log
            traceback.print_exc()
            jobs.put_off(job, f"the worker failed at it: {type(fault).__name__}", settings.most_attempts)
        else:
            jobs.finish(job, result, kept_bytes)
            tidy(folders, job.id, str(result["folder"]), {file["name"] for file in result["files"]})


def tidy(folders: Folders, job_id: str, folder: str, names: set[str]) -> None:
    """Remove what a job that is done does not need: the file that came, and all that is not of its result."""
    folders.original(job_id).unlink(missing_ok=True)
    for other in folders.of_job(job_id).iterdir():
        if other.name != folder:
            shutil.rmtree(other, ignore_errors=True)
    for path in (folders.of_job(job_id) / folder).iterdir():
        if path.name not in names:
            path.unlink(missing_ok=True)


def wait(jobs: Jobs, doorbell: int) -> None:
    """Return when there may be a job."""
    due_s = jobs.next_due_s()
    wait_s = LOOK_EVERY_S if due_s is None else min(max(due_s - time.time(), 0.0), LOOK_EVERY_S)
    ready, _, _ = select.select([doorbell], [], [], wait_s)
    if ready:
        with contextlib.suppress(BlockingIOError):
            os.read(doorbell, 1)


def main(doorbell: int, told: int, parent: int) -> None:
    """Work until the server ends."""
    die_with_parent(parent)
    settings = read_settings(os.environ)
    jobs, models = Jobs(settings.folder / STORE), Models(read_stack(os.environ))
    while True:
        job = jobs.claim(os.getpid())
        if job is None:
            wait(jobs, doorbell)
        else:
            do_job(jobs, job, models, settings)
            with contextlib.suppress(BlockingIOError):
                os.write(told, b".")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
