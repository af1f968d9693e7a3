"""Print the cores of one engine's ranks as vLLM's VLLM_CPU_OMP_THREADS_BIND: `cores.py FIRST-LAST/TOTAL`.

The host's cores are cut into TOTAL parts, of which these ranks have FIRST to LAST. Standard library only. Looks where
the
engine will run: what a container, a control group or an affinity leaves of the processor no plan can know.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")


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
    bounds = [len(cores) * place // total for place in range(total + 1)]
    parts = [cores[bounds[place - 1] : bounds[place]] for place in range(first, last + 1)]
    return "|".join(",".join(map(str, part[:-1] or part)) for part in parts)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    asked = re.fullmatch(r"(\d+)-(\d+)/(\d+)", sys.argv[1])
    if asked is None:
        raise SystemExit(f"cores.py: found {sys.argv[1]!r}, allowed: FIRST-LAST/TOTAL")
    print(bind(usable_cores(os.sched_getaffinity(0)), *map(int, asked.groups())))
