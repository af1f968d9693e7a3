"""Who listens on a port of this machine, as far as this user may see. Touches /proc below a root folder; read-only.

Formats: proc(5), /proc/net/tcp (state 0A is TCP_LISTEN) and the links of /proc/<pid>/fd.
"""

from __future__ import annotations

from pathlib import Path

from stackwright.detect.fact import known, plain_text, read_file

LISTENING = "0A"


def find_listener(port: int, root: Path = Path("/")) -> str | None:
    """Name the process that listens on a port, `nginx (pid 12)`; None where nobody does or it is another user's."""
    sockets = {inode for table in ("tcp", "tcp6") for inode in _listening(root, table, port)}
    folder = root / "proc"
    for process in sorted(folder.iterdir()) if sockets else ():
        if process.name.isdecimal() and _holds(process / "fd", sockets):
            name = known(plain_text(read_file(root, f"/proc/{process.name}/comm")))
            return f"{name or 'a process'} (pid {process.name})"
    return None


def _listening(root: Path, table: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port."""
    text = known(read_file(root, f"/proc/net/{table}"))
    rows = [line.split() for line in (text or "").splitlines()[1:]]
    wanted = f"{port:04X}"
    return {row[9] for row in rows if len(row) > 9 and row[3] == LISTENING and row[1].rpartition(":")[2] == wanted} - {
        "0"
    }


def _holds(folder: Path, sockets: set[str]) -> bool:
    links = {f"socket:[{inode}]" for inode in sockets}
    try:
        return any(str(entry.readlink()) in links for entry in folder.iterdir())
    except OSError:  # another user's, or gone meanwhile
        return False
