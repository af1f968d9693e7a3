"""`stackwright doctor --bundle`: what goes into an archive for a bug report."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stackwright import __version__, report
from stackwright.commands.paths import ProjectPaths
from stackwright.detect.host import Detection
from stackwright.detect.snapshot import format_snapshot
from stackwright.diagnosis.bundle import write_bundle
from stackwright.diagnosis.evidence import Examination
from stackwright.diagnosis.redaction import Redaction, assigned_secrets, make_redaction, secret_variables
from stackwright.domain.environment import EnvironmentPaths
from stackwright.errors import StackError
from stackwright.project.credentials import find_hub_token
from stackwright.services import generated_files
from stackwright.validation.files import text_of

# Of the kernel's messages: what it says of GPUs and of memory.
_KERNEL = re.compile(r"NVRM|nvidia|nouveau|oom|[Oo]ut of memory|Killed process", re.IGNORECASE)


def write_report(
    target: Path,
    paths: ProjectPaths,
    detection: Detection,
    kernel: str,
    exams: tuple[Examination, ...],
    found: list[dict[str, object]],
) -> None:
    """Write the archive and say what is in it. `found`: what doctor names, one for each examination."""
    files = dict(_about_host(detection, kernel))
    for exam, description in zip(exams, found, strict=True):
        name = exam.environment.value
        files[f"{name}/doctor.json"] = report.format_json(description)
        files |= {f"{name}/{path}": text for path, text in _about_environment(paths.of(exam.environment), exam)}
    names = write_bundle(target, files, _redaction(paths, exams))
    report.tell(
        f"wrote {target}: {len(names)} files; secrets, tokens and names are removed; read it before you send it"
    )


def _about_host(detection: Detection, kernel: str) -> Iterator[tuple[str, str]]:
    containers = detection.host.containers
    versions = {
        "stackwright": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "containers": f"{containers.engine} {containers.version}, Compose {containers.compose}",
    }
    yield "versions.txt", "".join(f"{name}: {version}\n" for name, version in versions.items())
    yield "host.yaml", format_snapshot(detection.host)
    yield "host-warnings.txt", "".join(f"{warning}\n" for warning in detection.warnings)
    yield "kernel.txt", "".join(f"{line}\n" for line in kernel.splitlines() if _KERNEL.search(line))


def _about_environment(paths: EnvironmentPaths, exam: Examination) -> Iterator[tuple[str, str]]:
    """Yield the rendered and hand-written files, the logs, and what the runtime knows. Nothing of envs/.secrets."""
    rendered = (paths.generated / file for file in ("plan.json", "override.yaml", *generated_files()))
    for path in (paths.wishes, paths.local, paths.rendered, *rendered):
        text = text_of(path)
        if text is not None:
            yield path.name.lstrip("."), text
    kept = "failed-start" if exam.gathered.failed_s_ago is not None else "logs"
    yield from ((f"{kept}/{service}.log", text) for service, text in exam.gathered.logs)
    if exam.runtime is not None:
        yield "events.txt", exam.gathered.events
        yield "inspect.txt", _inspect(exam)


def _inspect(exam: Examination) -> str:
    try:
        return exam.runtime.inspect() if exam.runtime is not None else ""
    except StackError as failure:
        return failure.message


def _redaction(paths: ProjectPaths, exams: tuple[Examination, ...]) -> Redaction:
    """Collect every value that must not leave: all secret files, the hub's token, and variables named as secrets."""
    values = [
        text for path in (paths.root / "envs" / ".secrets").rglob("*") if path.is_file() and (text := text_of(path))
    ]
    values += secret_variables(os.environ)
    for exam in exams:
        own = paths.of(exam.environment)
        for path in (own.wishes, own.local):
            values += assigned_secrets(text_of(path) or "")
    with suppress(StackError):  # unreadable, hence in no text either
        values.append(find_hub_token(os.environ, Path(paths.folders.hf_home)) or "")
    services = [service.name for exam in exams if exam.stack is not None for service in exam.stack.services]
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or ""
    return make_redaction(values, home=str(Path.home()), user=user, machine=platform.node(), services=services)
