"""What a command keeps of earlier choices, and which values it changes, in one line each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from stackwright import report
from stackwright.commands.choices import command
from stackwright.commands.configure import Configured
from stackwright.domain.environment import EnvironmentPaths
from stackwright.domain.plan import Mode
from stackwright.errors import StackError
from stackwright.project import folder as project
from stackwright.rendering.numbered import changed_keys

NONE = "(none)"
_UUID = re.compile(r"\b((?:GPU|MIG)-[0-9a-f]{8})-[0-9a-f-]{27}\b")


def tell_kept(made: Sequence[Configured]) -> None:
    """Say what some environments keep from before, and what of it no longer counts; once for those that share it."""
    report.warn_all(dict.fromkeys(note for configured in made for note in configured.chosen.notes))
    for configured in made:
        tuned = ", ".join(f"{key}={one.value}" for key, one in configured.chosen.choices.tuned.items())
        if tuned:
            report.tell(f"{configured.paths.environment}: tuned: {tuned} (forget one: `--unset KEY`)")
    idle = [configured for configured in made if configured.chosen.kept.mode is Mode.CPU and configured.plan.host.gpus]
    if idle:
        gpus = len(idle[0].plan.host.gpus)
        names = _names([configured.paths for configured in idle])
        again = command(idle[0].paths, "auto")
        devices = f"{gpus} GPU{'s' if gpus > 1 else ''}"
        report.warn(f"{names}: {devices} idle, since `cpu` is kept from before; `{again}` chooses anew")
    kept = [(shlex.join(configured.chosen.kept.words), configured.paths) for configured in made]
    for words, paths in _grouped(row for row in kept if row[0]):
        reset = command(paths[0], "--reset") if len(paths) == 1 else "configure-gpu --reset"
        report.tell(f"{_names(paths)}: kept from before: {words} (forget it: `{reset}`)")


def tell_changes(made: Sequence[Configured]) -> None:
    """Say each value that changes, `a → b`; to be called before the files are written."""
    lines = [(line, configured.paths) for configured in made for line in changed_values(configured)]
    shown = _grouped(lines)
    report.tell_first((f"{_names(paths)}: {line}" for line, paths in shown), "`--diff` shows them")


def changed_values(configured: Configured) -> Iterator[str]:
    """Yield what changes in an environment's file, most noticeable first; nothing where there is none yet."""
    before = values_before(configured.paths)
    if not before:
        return
    engine = configured.chosen.options.engine
    first = [engine.keys.model, engine.keys.image, engine.keys.context]
    after = configured.values
    changed = changed_keys(before, after, engine.keys.model)
    for key in sorted(changed, key=lambda key: first.index(key) if key in first else len(first)):
        yield f"{key}: {_short(before.get(key))} → {_short(after.get(key))}"


def values_before(paths: EnvironmentPaths) -> Mapping[str, str]:
    """Return what was rendered before; empty where nothing was, or it cannot be read."""
    if paths.rendered.exists():
        with suppress(StackError):
            return project.read_env_file(paths.rendered)
    return {}


def _short(value: str | None) -> str:
    if value is None:
        return NONE
    return _UUID.sub(r"\1…", value) or "(empty)"


def _grouped(rows: Iterable[tuple[str, EnvironmentPaths]]) -> list[tuple[str, list[EnvironmentPaths]]]:
    groups: dict[str, list[EnvironmentPaths]] = {}
    for text, paths in rows:
        groups.setdefault(text, []).append(paths)
    return list(groups.items())


def _names(paths: Sequence[EnvironmentPaths]) -> str:
    return ", ".join(one.environment.value for one in paths)
