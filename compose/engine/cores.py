"""Print the cores of one engine's ranks as vLLM's VLLM_CPU_OMP_THREADS_BIND: `cores.py FIRST-LAST/TOTAL [FILE]`.

A stack has an even share of the host's cores, of those that no other stack has taken. They are cut into TOTAL parts, of
which these ranks have FIRST to LAST.
Prints nothing where one rank has the whole processor: vLLM chooses then. Standard library only. Looks where the engine
will run: what a container, a control group or an affinity leaves of the processor no plan can know.

FILE is the stack's own, in a folder that all stacks of the host share; the start script has it open as descriptor 9,
and the engine keeps that. So its lock, which every engine of a stack shares, says whether one of them runs, and its
text which cores they are bound to. Two stacks bound to one core would starve each other.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
DESCRIPTOR = 9
SHARED = (
    "other stacks are bound to nearly all cores; this one shares them, bound to none. To divide them evenly, restart "
    "the engine of each other stack, then this one"
)


def usable_cores(numbers: Iterable[int], system: Path = SYSTEM) -> list[int]:
    """Return one logical CPU of each physical core among `numbers`, those of a memory node together.

    It is a core's last one, as where vLLM chooses by itself (0.32.0 utils/ompmultiprocessing.py).
    """
    cores: dict[tuple[str, str], tuple[int, int]] = {}
    for number in sorted(numbers):
        folder = system / f"cpu{number}"
        core = _read(folder / "topology" / "physical_package_id"), _read(folder / "topology" / "core_id") or str(number)
        nodes = [int(path.name[4:]) for path in folder.glob("node[0-9]*")]
        cores[core] = (nodes[0] if nodes else 0, number)
    return [number for _, number in sorted(cores.values())]


def bind(cores: list[int], first: int, last: int, total: int) -> str:
    """Return the cores of the parts `first` to `last` of `total`, parts divided by `|`; `nobind` where some would be
    empty.

    A part's last core is left to the engine's server and scheduler, as vLLM does by itself; its only core is not.
    """
    if len(cores) < total:
        return "nobind"
    return "|".join(",".join(map(str, part)) for part in cut(cores, total)[first - 1 : last])


def cut(cores: list[int], total: int) -> list[list[int]]:
    """Return what the ranks of each part are bound to."""
    bounds = [len(cores) * place // total for place in range(total + 1)]
    parts = [cores[begin:end] for begin, end in itertools.pairwise(bounds)]
    return [part[:-1] or part for part in parts]


def claim(file: Path, descriptor: int, cores: list[int], total: int) -> list[int]:
    """Return which of the cores are the stack's, and keep others from them for as long as the descriptor is open.

    At most an even share among the stacks that run. None where others leave less than half of that, as a stack does
    that began alone: threads bound to none share every core with it, and once it is started again it takes its share.
    """
    with _alone(file.parent):
        if not _take(descriptor):  # another engine of this stack runs, and its choice stands
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            own = _read_json(file)["cores"]
            return own if isinstance(own, list) else []
        others = list(_others(file))
        share = max(len(cores) // (len(others) + 1), total)
        own = [core for core in cores if not any(core in bound for bound in others)][:share]
        own = own if len(own) >= max(total, share / 2) else []
        bound = [core for part in cut(own, total) for core in part]
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"cores": own, "bound": bound}).encode())
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return own


def _others(own: Path) -> Iterator[list[int]]:
    """Yield the cores of each other stack that runs; none of one that is bound to none."""
    for file in own.parent.glob("*.cores"):
        if file.name == own.name:
            continue
        with file.open("rb") as other:
            if not _take(other.fileno()):
                yield _read_json(file).get("bound") or []


def _take(descriptor: int) -> bool:
    """Lock a file unless an engine holds it; say which."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one engine of the host choose at a time."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_json(path: Path) -> dict[str, list[int]]:
    try:
        found = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def main(words: list[str]) -> str:
    """Return what is to be printed."""
    asked = re.fullmatch(r"(\d+)-(\d+)/(\d+)", words[0])
    if asked is None:
        raise SystemExit(f"cores.py: found {words[0]!r}, allowed: FIRST-LAST/TOTAL")
    first, last, total = map(int, asked.groups())
    everything = cores = usable_cores(os.sched_getaffinity(0))
    if len(words) > 1:
        try:
            cores = claim(Path(words[1]), DESCRIPTOR, everything, total)
            if not cores and len(everything) >= total:
                print(f"cores.py: {SHARED}", file=sys.stderr)
        except OSError as failure:  # a file system without locks
            print(f"cores.py: {words[1]}: {failure.strerror}; other stacks are not looked at", file=sys.stderr)
    return "" if total == 1 and cores == everything else bind(cores, first, last, total)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    print(main(sys.argv[1:]))
