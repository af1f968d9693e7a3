"""supervisord of one stack: started in the stack's run folder, found again, asked over its socket there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stackwright.errors import RuntimeRefusedError


@contextlib.contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep two commands, of two project folders even, from starting or stopping one stack at once; the second waits."""
    run.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = run.parent / f".{run.name}.lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The one that held it has taken the file away, and somebody else may have a fresh one by now.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def launch(run: Path, logs: Path) -> None:
    """Start supervisord; it detaches itself once its socket is open.

    Raises:
        RuntimeRefusedError: it does not start.
    """
    kept = ("HOME", "LANG", "PATH", "PYTHONPATH", "TMPDIR", "USER")
    started = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")],
        cwd=run,
        env={name: os.environ[name] for name in kept if name in os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        # A terminal's Ctrl-C is for the command alone; what it has started, `down` ends.
        start_new_session=True,
    )
    if started.returncode != 0:
        words = started.stderr.strip().splitlines() or ["no reason given"]
        hint = f"see {logs / 'supervisord.log'}"
        raise RuntimeRefusedError(
            f"supervisord did not start: {words[0].removeprefix('Error: ').rstrip('.')}", hint=hint
        )


def pid(run: Path) -> int | None:
    """Return supervisord's process id, or None where it does not run; a reused number is not taken for it."""
    import psutil

    try:
        text = (run / "supervisord.pid").read_text(encoding="utf-8", errors="replace").strip()
        words = psutil.Process(int(text)).cmdline() if text.isdecimal() else []
    except (FileNotFoundError, psutil.Error):
        return None
    return int(text) if str(run / "supervisord.conf") in words else None


@contextlib.contextmanager
def connect(run: Path, hint: str) -> Iterator[Any]:
    """Give supervisord's calls; their replies are untyped XML-RPC values.

    The path through the folder's descriptor stays below a socket path's 108 bytes.

    Raises:
        RuntimeRefusedError: it does not answer, or not to this call; with `hint`.
    """
    from xmlrpc.client import Error, ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    transport = SupervisorTransport(None, None, f"unix:///proc/self/fd/{folder}/supervisor.sock")
    try:
        proxy: Any = ServerProxy("http://127.0.0.1", transport=transport)
        yield proxy.supervisor
    except (OSError, Error) as failure:
        words = getattr(failure, "faultString", None) or str(failure) or type(failure).__name__
        raise RuntimeRefusedError(f"supervisord does not answer: {words}", hint=hint) from None
    finally:
        transport.close()
        os.close(folder)
