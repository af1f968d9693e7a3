"""Stacks whose rendered files are gone or damaged: found by what each runtime noted of them, and taken down.

Touches the run folders below the state folder, the container engine, and what runs of such stacks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import EnvironmentPaths
from stackwright.runtime import supervisord
from stackwright.runtime.compose import down_by_name
from stackwright.runtime.docker import TELLS_WITHIN_S, ask
from stackwright.runtime.process_groups import end_orphans
from stackwright.runtime.processes import end_run


class UnrenderedStack(Struct, frozen=True, kw_only=True):
    """One stack that runs, by the name that it runs under. `down` ends it: what clients ask first, Redis last."""

    name: str
    down: Callable[[], None]


def find_unrendered(paths: EnvironmentPaths) -> tuple[UnrenderedStack, ...]:
    """Return the stacks of an environment that were started from this project folder, whatever its files say now."""
    end_orphans()
    return (*_of_processes(paths), *_of_compose(paths))


def _of_processes(paths: EnvironmentPaths) -> Iterator[UnrenderedStack]:
    """Find run folders by the secrets that their start scripts name."""
    secrets = str(paths.secrets)
    for run in sorted((paths.state.resolve() / "run").glob("*/")):
        scripts = (script.read_text(encoding="utf-8", errors="replace") for script in run.glob("*.sh"))
        if any(secrets in text for text in scripts):
            yield UnrenderedStack(name=run.name, down=lambda run=run: _end_held(run))  # type: ignore[misc]


def _end_held(run: Path) -> None:
    with supervisord.hold(run):
        end_run(run)


def _of_compose(paths: EnvironmentPaths) -> Iterator[UnrenderedStack]:
    """Find projects by the files that Compose noted on their containers; none where no engine answers."""
    if shutil.which("docker") is None:
        return
    project, files = ('{{.Label "com.docker.compose.project"}}', '{{.Label "com.docker.compose.project.config_files"}}')
    command = ["docker", "ps", "--all", "--no-trunc", "--filter", "label=com.docker.compose.project"]
    answer = ask([*command, "--format", f"{project}\t{files}"], TELLS_WITHIN_S)
    own = str(paths.generated)
    names = {line.partition("\t")[0] for line in answer.out.splitlines() if f"{own}/" in line.partition("\t")[2]}
    for name in sorted(names):
        yield UnrenderedStack(name=name, down=lambda name=name: down_by_name(name))  # type: ignore[misc]
