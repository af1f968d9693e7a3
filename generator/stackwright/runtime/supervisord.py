"""supervisord of one stack: started in the stack's run folder, found again, asked over its socket there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackwright.errors import RuntimeRefusedError

if TYPE_CHECKING:
    from xmlrpc.client import Transport

# It answers within milliseconds, or waits for a service to stop; frozen or swapped out, it never does.
ANSWERS_WITHIN_S = 5.0
STARTS_WITHIN_S = 60.0
# A stop of another command may take this long: every service has its time to end.
HELD_FOR_S = 600.0


class SilentError(RuntimeRefusedError):
    """supervisord runs, and does not answer: it is frozen, or its socket is gone."""


@contextlib.contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep two commands, of two project folders even, from starting or stopping one stack at once; the second waits.

    Raises:
        RuntimeRefusedError: the first does not end.
    """
    run.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = run.parent / f".{run.name}.lock"
    deadline = time.monotonic() + HELD_FOR_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        # The one that held it has taken the file away, and somebody else may have a fresh one by now.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise RuntimeRefusedError(
                f"{path}: held by another command for more than {HELD_FOR_S:g} seconds",
                hint=f"`fuser {path}` names it; end it, then try again",
            )
        time.sleep(0.05)
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
    hint = f"see {logs / 'supervisord.log'}"
    try:
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")],
            cwd=run,
            env={name: os.environ[name] for name in kept if name in os.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=STARTS_WITHIN_S,
            # A terminal's Ctrl-C is for the command alone; what it has started, `down` ends.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeRefusedError(f"supervisord did not start in {STARTS_WITHIN_S:g} seconds", hint=hint) from None
    if started.returncode != 0:
        words = started.stderr.strip().splitlines() or ["no reason given"]
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
def connect(run: Path, hint: str, *, limit_s: float = ANSWERS_WITHIN_S) -> Iterator[Any]:
    """Give supervisord's calls; their replies are untyped XML-RPC values. None may take longer than `limit_s`.

    The path through the folder's descriptor stays below a socket path's 108 bytes.

    Raises:
        SilentError: it does not answer; with `hint`.
        RuntimeRefusedError: it refuses a call.
    """
    from xmlrpc.client import Error, Fault, ServerProxy

    folder = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    transport = _transport(f"/proc/self/fd/{folder}/supervisor.sock", limit_s)
    try:
        proxy: Any = ServerProxy("http://127.0.0.1", transport=transport)
        yield proxy.supervisor
    except Fault as failure:
        raise RuntimeRefusedError(f"supervisord refuses: {failure.faultString}", hint=hint) from None
    except TimeoutError:
        raise SilentError(f"supervisord has not answered for {limit_s:g} seconds", hint=hint) from None
    except (OSError, Error) as failure:
        words = str(failure) or type(failure).__name__
        raise SilentError(f"supervisord does not answer: {words}", hint=hint) from None
    finally:
        transport.close()
        os.close(folder)


def _transport(path: str, limit_s: float) -> Transport:
    """Return a way for XML-RPC calls through a socket, none of which may take longer than `limit_s`."""
    import http.client
    import socket
    from xmlrpc.client import Transport

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(limit_s)
            self.sock.connect(path)

    class OverSocket(Transport):
        def make_connection(self, host: Any) -> http.client.HTTPConnection:
            connection = self._connection[1] or Connection(str(host))
            self._connection = host, connection  # which `close` closes
            return connection

    return OverSocket()
