"""What the process that reads a stranger's file may not do: outlive its parent, take more than its share, look around.

Linux only. Limits of the kernel's (setrlimit) bound memory, processor time, files and processes. Landlock, where the
kernel has it (5.13; TCP from 6.7, signals from 6.12), leaves it the folders that it is told and no connection: a
decoder that a file has taken over finds no secret and reaches nobody. Without Landlock the limits stand alone.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

# The numbers of the calls, the same on every architecture (arch/*/entry/syscalls; Linux 5.13).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

# linux/landlock.h: rights over files, by the version of the interface that first has them.
_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_WRITE_FILE, _MAKE_REG, _REMOVE_FILE, _TRUNCATE = 1 << 1, 1 << 8, 1 << 5, 1 << 14
_OF_FIRST, _REFER, _IOCTL = (1 << 13) - 1, 1 << 13, 1 << 15
_CONNECT_TCP, _BIND_TCP = 1 << 1, 1 << 0
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_VERSION_FLAG, _RULE_PATH_BENEATH = 1, 1

SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/dev/zero")
"""What a Python program and its libraries may read at run time; none of it is a secret."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one reading process may take: bytes of memory and of one file, seconds of a processor."""

    memory_bytes: int
    file_bytes: int
    cpu_s: int


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; end now where that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def limit(share: Share) -> None:
    """Set the limits of this process, and make it the first that the kernel ends where memory is short."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for kind, most in (
        (resource.RLIMIT_AS, share.memory_bytes),
        (resource.RLIMIT_FSIZE, share.file_bytes),
        # The soft limit's signal can be told apart from a kill; the hard one ends what ignores it.
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (share.cpu_s, share.cpu_s + 5))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("1000")


def stay_within(readable: Sequence[Path], writable: Sequence[Path]) -> bool:
    """Leave this process these folders and files, and no connection; return whether the kernel could be asked that."""
    version = _landlock(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    if version < 1:
        return False
    handled = _OF_FIRST | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled |= _IOCTL if version >= 5 else 0
    network = _CONNECT_TCP | _BIND_TCP if version >= 4 else 0
    scoped = _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL if version >= 6 else 0
    length = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = struct.pack("=QQQ", handled, network, scoped)[:length]
    rules = _landlock(_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        return False
    read = _READ_FILE | _READ_DIR | _EXECUTE
    write = _WRITE_FILE | _MAKE_REG | _REMOVE_FILE | (_TRUNCATE if version >= 3 else 0)
    try:
        for path in readable:
            _allow(rules, path, read & handled)
        for path in writable:
            _allow(rules, path, (read | write) & handled)
        return _landlock(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not path.is_dir():
            rights &= _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE
        rule = struct.pack("=Qi", rights, opened)
        if _landlock(_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0) < 0:
            raise OSError(ctypes.get_errno(), f"Landlock refuses {path}")
    finally:
        os.close(opened)


def _landlock(number: int, *arguments: int | bytes | None) -> int:
    """Make one of Landlock's calls; -1 where the kernel does not have it or refuses."""
    library = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_long(value or 0) for value in arguments]
    return int(library.syscall(ctypes.c_long(number), *given))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
