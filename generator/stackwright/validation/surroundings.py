"""What surrounds a stack: the clock, Windows' subsystem, a database, and the inputs that its files were made from."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from stackwright.domain.finding import Finding, not_checked, warning
from stackwright.domain.host import Host
from stackwright.domain.machine import Seen, Unseen
from stackwright.domain.plan import Mode, Plan
from stackwright.engines import engine_named
from stackwright.project.inputs import changed_inputs
from stackwright.rendering.numbered import keys_of
from stackwright.services import front_of, services_of
from stackwright.units import format_seconds
from stackwright.validation.check import IN_CONTAINERS, Check, Observation
from stackwright.validation.compose_config import MERGED, engine_variables, variables_of
from stackwright.validation.files import find_newest_s

# A file system in the network may keep its own time, a second or two off.
FILE_LEEWAY_S = 60
# WSL mounts Windows' drives at /mnt/<letter>; each file there goes through 9P, several times slower than WSL's own disk
# (Microsoft, "Working across Windows and Linux file systems").
WINDOWS_DRIVE = re.compile(r"/mnt/[a-z](/.*)?")
# LiteLLM 1.108.0, proxy_cli.py: each worker's pool takes general_settings.database_connection_pool_limit, which
# gateway.yaml does not set, so 10. A `connection_limit` in the address is written over (2026-11-29).
POOL = 10
# PostgreSQL 17, runtime-config-connection: max_connections 100, of which superuser_reserved_connections keeps 3.
POSTGRESQL_CONNECTIONS = 97


def check_clock(plan: Plan, now_s: float, newest_file_s: float | None) -> Iterator[Finding]:
    """Find a clock that stands before the files that were rendered: it has been set back. Seconds since 1970."""
    if newest_file_s is not None and newest_file_s > now_s + FILE_LEEWAY_S:
        yield warning(
            "clock",
            found=f"files of {plan.environment.value} are dated {format_seconds(newest_file_s - now_s)} in the future",
            expected="a correct clock, for certificates and caches",
            fix="correct it with `sudo timedatectl set-ntp true`; `date` shows it",
        )


def check_wsl(plan: Plan, env: Mapping[str, str], host: Host, variables: frozenset[str]) -> Iterator[Finding]:
    """Find what works otherwise under the Windows Subsystem for Linux.

    `variables` are those that the engine is given.
    """
    if not host.os.wsl:
        return
    engine = engine_named(plan.engine.name)
    read = (engine.keys.model, "HF_HOME", engine.keys.cache_folder)
    folders = [written for key in read for written in keys_of(env, key)]
    for key in folders:
        if WINDOWS_DRIVE.fullmatch(env[key]):
            yield warning(
                "wsl-drive",
                found=f"{key}={env[key][:120]} is on a Windows drive",
                expected="a Linux folder: loading weights through /mnt is many times slower",
                fix=f"copy it below $HOME, then run `configure-gpu {plan.environment.value}` with that folder",
            )
    variable = engine.wsl_variable(plan.engine.version)
    if plan.mode is not Mode.CPU and variable is not None and variable not in variables:
        yield warning(
            "wsl-pinning",
            found=f"{plan.engine.name} {plan.engine.version} finds no pinned memory under WSL",
            expected=(
                f"{variable}=1, without which the engine ends with `UVA is not available`, or release 0.30 or newer"
            ),
            fix=f'add `{variable}: "1"` to the engine\'s `environment:` in compose/compose.yaml',
        )


def check_connections(plan: Plan, env: Mapping[str, str], gateway: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the connections that the gateway's workers may open with PostgreSQL's default, where a database is set.

    `gateway` are its variables as Compose reads them.
    """
    started = front_of(services_of(plan)).resources.workers
    workers = 0 if started is None else int(env[started.count.key])
    if started and gateway.get("DATABASE_URL") and POOL * workers > POSTGRESQL_CONNECTIONS:
        yield warning(
            "database-connections",
            found=f"{workers} workers × {POOL} connections = {POOL * workers}",
            expected=f"at most {POSTGRESQL_CONNECTIONS}, PostgreSQL's default, or a server with a higher limit",
            fix=(
                f"`configure-gpu {plan.environment.value} --set {started.count.key}={POSTGRESQL_CONNECTIONS // POOL}`"
            ),
        )


def check_inputs(plan: Plan, changed: Seen[tuple[str, ...] | None]) -> Iterator[Finding]:
    """Find files that were rendered from something else than what is there now; None where nobody recorded it."""
    name = plan.environment.value
    again = f"render again: `configure-gpu {name}`"
    if isinstance(changed, Unseen):
        yield not_checked("what the files were rendered from", changed.why, name)
    elif changed is None:
        found = "no readable record of the inputs of the rendered files"
        yield warning("inputs-unknown", found=found, expected="inputs.json beside the plan", fix=again)
    elif changed:
        found = f"changed since the files were rendered: {', '.join(changed)}"
        yield warning("inputs-changed", found=found, expected="files rendered from the present inputs", fix=again)


# What the files were rendered from and has changed since; None without a record.
CHANGED_INPUTS: Observation[tuple[str, ...] | None] = Observation(
    take=lambda machine: changed_inputs(machine.stack.paths), may_fail=True
)
# Seconds since 1970: now, and when the newest rendered file was written.
TIMES = Observation(take=lambda machine: (time.time(), find_newest_s(machine.stack)))


INPUTS = Check(
    name="inputs",
    about="the inputs of the rendered files: wishes, catalog, Stackwright's version",
    findings=tuple("inputs-changed inputs-unknown".split()),
    rule=lambda on, changed: check_inputs(on.plan, changed),
    observations=(CHANGED_INPUTS,),
)


CLOCK = Check(
    name="clock",
    about="a clock that is behind the rendered files",
    findings=tuple("clock".split()),
    rule=lambda on, times: check_clock(on.plan, *times),
    observations=(TIMES,),
)


WINDOWS = Check(
    name="Windows",
    about="Windows Subsystem for Linux: folders on Windows drives, pinned memory",
    findings=tuple("wsl-drive wsl-pinning".split()),
    rule=lambda on, merged: check_wsl(on.plan, on.env, on.host, engine_variables(on.plan, merged)),
    observations=(MERGED,),
)


DATABASE = Check(
    name="database",
    about="the gateway's workers × connections against PostgreSQL's limit, if DATABASE_URL is set",
    findings=tuple("database-connections".split()),
    rule=lambda on, merged: check_connections(on.plan, on.env, variables_of(merged, on.stack.front.name)),
    observations=(MERGED,),
    when=IN_CONTAINERS,
)
