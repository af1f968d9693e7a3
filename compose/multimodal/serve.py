"""The service: its HTTP, its worker processes, and what has to be cleared away. `python -m multimodal.serve HOST PORT`.

One process answers and looks after the workers. A worker that dies gives its job back and is started again; where this
process dies, the kernel ends the workers with it, and the next start queues what they held.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path

from aiohttp import web
from keys import open_keys

from multimodal.api import Api, remove_files
from multimodal.asking import read_stack
from multimodal.jobs import DONE, STORE, Jobs, OtherReleaseError
from multimodal.settings import Settings, read_settings

CLEARS_EVERY_S = 60.0

QUICK_END_S, LONGEST_PAUSE_S = 5.0, 30.0
"""A worker that ends sooner cannot start at all, and is not started again at once."""

SPARE_S = 60.0
"""Beside the longest that one thing may take, before a worker that tells nothing of its job is hung."""


class Workers:
    """The worker processes, and beside them the transcriber where there is one."""

    def __init__(self, number: int, jobs: Jobs, api: Api, speech: Path | None) -> None:
        self._number, self._jobs, self._api, self._speech = number, jobs, api, speech
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.restarts = 0
        self._doorbell, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._told, self._tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def start(self) -> None:
        """Start them all."""
        asyncio.get_running_loop().add_reader(self._told, self._note_end)
        kept: list[Coroutine[None, None, None]] = [self._keep_one() for _ in range(self._number)]
        if self._speech is not None:
            kept.append(self._keep_transcriber(self._speech))
        self._tasks = [asyncio.create_task(one) for one in kept]

    def ring(self) -> None:
        """Wake one that waits."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of rings
            os.write(self._bell, b".")

    def are_up(self) -> bool:
        """Return whether any works."""
        return len(self._running) > (self._speech is not None)

    def end(self, pid: int) -> None:
        """End a worker that hangs."""
        if pid in self._running:
            self._running[pid].kill()

    async def stop(self) -> None:
        """End them all; what they held is queued again."""
        for task in self._tasks:
            task.cancel()
        for process in list(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await self._api.ask(self._jobs.release, is_counted=False)

    def _note_end(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._told, 4096)
        self._api.note_end()

    async def _keep_one(self) -> None:
        pipes = (self._doorbell, self._tell)
        async for process, status in self._kept("multimodal.worker", *pipes, os.getpid(), pipes=pipes):
            freed = await self._api.ask(self._jobs.release, process.pid)
            note(f"worker {process.pid} ended with {status}; {freed} jobs wait again")
            self._api.note_end()
            self.ring()

    async def _keep_transcriber(self, socket: Path) -> None:
        async for process, status in self._kept("multimodal.speech", socket, os.getpid()):
            note(f"the transcriber {process.pid} ended with {status}")

    async def _kept(
        self, module: str, *words: object, pipes: tuple[int, ...] = ()
    ) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
        """Keep a process running; yield each time that one has ended, and its status."""
        pause_s = 1.0
        while True:
            began_s = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module, *map(str, words)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=pipes,
            )
            self._running[process.pid] = process
            status = await process.wait()
            self._running.pop(process.pid, None)
            self.restarts += 1
            yield process, status
            if time.monotonic() - began_s < QUICK_END_S:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = 1.0


def note(sentence: str) -> None:
    """Write one line of the log."""
    print(f"multimodal: {sentence}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the volume for this process; a second service on it would take the first one's jobs for abandoned."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        sys.exit(f"multimodal: {folder} is used by another multimodal service")
    finally:
        os.close(descriptor)


def clear_away(jobs: Jobs, settings: Settings, arriving: frozenset[str]) -> None:
    """Forget what ended long ago, and remove the files of which there is no job, or which its job does not need."""
    for job_id in jobs.forget_before(time.time() - settings.keep_s):
        remove_files(settings, job_id)
    # Looked at before the names: a file whose job is made meanwhile is not among them.
    found = {path.name for folder in (settings.folders.incoming, settings.folders.kept) for path in folder.iterdir()}
    for name in found - jobs.names() - arriving:
        remove_files(settings, name)
    for job in jobs.listed(None, (DONE,), 10_000):
        settings.folders.original(job.id).unlink(missing_ok=True)


async def look_after(api: Api, workers: Workers, jobs: Jobs, settings: Settings, hung_s: float) -> None:
    """Clear away and end hung workers, for ever."""
    while True:
        try:
            await api.ask(clear_away, jobs, settings, api.arriving)
            for pid in await api.ask(jobs.stalled, time.time() - hung_s):
                note(f"worker {pid} has told nothing for {hung_s:.0f} s and is ended")
                workers.end(pid)
        except OSError as failure:
            note(f"{failure.filename}: {failure.strerror}")
        await asyncio.sleep(CLEARS_EVERY_S)


async def serve(host: str, port: int, settings: Settings) -> None:
    """Answer until SIGTERM."""
    stack = read_stack(os.environ)
    jobs = Jobs(settings.folder / STORE)
    freed = jobs.release(is_counted=False)
    note(f"{freed} jobs of the last run wait again" if freed else "no job was left running")
    api = Api(jobs, open_keys(os.environ), stack, settings)
    workers = Workers(settings.workers, jobs, api, stack.speech_socket)
    api.workers = workers
    runner = web.AppRunner(api.application(), access_log=None, handle_signals=False)
    await runner.setup()
    workers.start()
    await web.TCPSite(runner, host, port).start()
    hung_s = max(stack.timeout_s, settings.bounds.time_s) + SPARE_S
    keeping = asyncio.create_task(look_after(api, workers, jobs, settings, hung_s))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    keeping.cancel()
    await workers.stop()
    await runner.cleanup()


def main(host: str, port: int) -> None:
    """Run the service on its volume."""
    settings = read_settings(os.environ)
    try:
        run(host, port, settings)
    except OSError as failure:
        sys.exit(
            f"multimodal: {failure.filename}: {failure.strerror}" if failure.filename else f"multimodal: {failure}"
        )
    except sqlite3.DatabaseError as failure:
        sys.exit(f"multimodal: {settings.folder / STORE}: {failure}")
    except OtherReleaseError as failure:
        sys.exit(f"multimodal: {failure}")


def run(host: str, port: int, settings: Settings) -> None:
    """Answer on a port until SIGTERM, alone on the volume."""
    for folder in (settings.folders.incoming, settings.folders.kept):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with alone(settings.folder), tempfile.TemporaryDirectory() as scratch:
        if os.environ.get("MULTIMODAL_SPEECH_MODEL") and not os.environ.get("SPEECH_MODEL"):
            # The path of a socket has 108 characters at most; the service's own folder may lie deeper.
            os.environ["SPEECH_SOCKET"] = str(Path(scratch) / "speech.sock")
        asyncio.run(serve(host, port, settings))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
