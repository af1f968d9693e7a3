"""Every stack that runs on this machine, of whatever environment and project folder: its processes and containers.

Found by what each runtime noted, so that no rendered file is needed. Touches the run folders below the state folder,
the container engine and /proc, read-only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.runtime.docker import TELLS_WITHIN_S, ask
from stackwright.runtime.process_groups import members, read_groups

_NAMES = "|".join(Environment)
_SECRETS = re.compile(rf"(/[^'\"\n]*)/envs/\.secrets/({_NAMES})\b")
_OVERRIDE = re.compile(rf"(/[^,]*)/compose/generated/({_NAMES})/override\.yaml")


class RunningStack(Struct, frozen=True, kw_only=True):
    """One stack that runs. `pids` are its processes, `containers` the whole ids of its containers; one is empty."""

    environment: Environment
    root: Path
    name: str
    pids: frozenset[int] = frozenset()
    containers: tuple[str, ...] = ()

    def owns(self, pid: int) -> bool:
        """Return whether a process is this stack's: the kernel's path of a contained one names its container."""
        if pid in self.pids:
            return True
        group = control_group_of(pid) if self.containers else ""
        return any(container in group for container in self.containers)

    def is_of(self, paths: EnvironmentPaths) -> bool:
        """Return whether it was started from this project folder's environment."""
        return (self.environment, self.root.resolve()) == (paths.environment, paths.root.resolve())


def control_group_of(pid: int) -> str:
    """Return where the kernel accounts a process: the path names its container. Empty of one that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    return ""


def find_running(state: Path, *, containers: bool) -> tuple[RunningStack, ...]:
    """Return every stack that runs below this state folder, and, where a container engine answers, there."""
    return (*_of_processes(state), *(_of_compose() if containers else ()))


def _of_processes(state: Path) -> Iterator[RunningStack]:
    """Find run folders with living processes; the start scripts in them name the environment's secrets."""
    for run in sorted((state / "run").glob("*/")):
        groups = [group for path in run.glob("*.groups") for group in read_groups(path)]
        pids = frozenset(pid for group in groups for pid in members(group))
        found = _find_home(run) if pids else None
        if found is not None:
            yield RunningStack(environment=Environment(found[2]), root=Path(found[1]), name=run.name, pids=pids)


def _find_home(run: Path) -> re.Match[str] | None:
    for script in sorted(run.glob("*.sh")):
        with suppress(OSError):
            found = _SECRETS.search(script.read_text(encoding="utf-8", errors="replace"))
            if found is not None:
                return found
    return None


def _of_compose() -> Iterator[RunningStack]:
    """Find containers by the files that Compose noted on them."""
    if shutil.which("docker") is None:
        return
    label = '{{.Label "com.docker.compose.project%s"}}'
    command = ["docker", "ps", "--no-trunc", "--filter", "label=com.docker.compose.project", "--format"]
    answer = ask([*command, f"{{{{.ID}}}}\t{label % ''}\t{label % '.config_files'}"], TELLS_WITHIN_S)
    stacks: dict[str, tuple[re.Match[str], list[str]]] = {}
    for line in answer.out.splitlines():
        container, _, rest = line.partition("\t")
        project, _, files = rest.partition("\t")
        found = _OVERRIDE.search(files)
        if found is not None:
            stacks.setdefault(project, (found, []))[1].append(container)
    for name, (found, ids) in sorted(stacks.items()):
        yield RunningStack(environment=Environment(found[2]), root=Path(found[1]), name=name, containers=tuple(ids))
