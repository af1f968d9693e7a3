"""The programs of the `processes` runtime and the files that start them, as text. Pure.

Every program is started by a rendered shell script, and supervisord's file names only that script: a shell quotes
any value exactly, while supervisord expands `%` and cuts values at ` ;` and ` #` (supervisor 4.3.0, options.py).
All paths in supervisord's file are relative to the run folder, where it is started, for the same reason.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stackwright.domain.host import Host
from stackwright.domain.plan import Replica
from stackwright.domain.topology import sole_slice
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import keys_of
from stackwright.runtime import Stack
from stackwright.settings import OWN_SETTINGS
from stackwright.units import MIB, format_bytes

LOOPBACK = "127.0.0.1"

GATEWAY_KEYS = ("GATEWAY_ROUTING_STRATEGY", *(spec.key for spec in OWN_SETTINGS if spec.section == "Limits"))
"""The settings that gateway.yaml and the files beside it take from the gateway's environment, as in compose.yaml."""

PASSED_ON = (
    *("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "USER"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE"),
)
"""What the services take over from the caller's environment; nothing else reaches them."""

SWITCHING_FILES = ("switch.py", "group.py", "child.py")
"""The program that loads models in turns, which start.sh starts in the place of the engine's server."""

RETRIES = 2
"""Starts after the first, as Compose's `on-failure:2`."""

PROVEN_S = 600
"""A service that ends sooner than this counts as a failed start; one that ends later is started afresh."""

LEAST_SHARED_MEMORY_BYTES = 256 * MIB
"""What an engine asks /dev/shm for where a replica has worker processes: a queue of 10 × 24 MiB (0.32.0,
shm_broadcast.py, `MessageQueue`). Containers get 64 MiB unless told otherwise."""

START_HEAD = """\
#!/bin/sh
# Rendered by Stackwright; started by supervisord in this folder.
# A service killed the hard way leaves its workers behind: end what earlier starts left, then record this one.
# A number whose process started at another time belongs to someone else by now.
started() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }
while read -r group time; do
    now=$(started "$group")
    if [ -z "$now" ] || [ "$now" = "$time" ]; then kill -s KILL -- "-$group" 2>/dev/null && sleep 1; fi
done < SERVICE.groups
echo "$$ $(started $$)" >> SERVICE.groups
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One service: `script` of compose/ with its arguments and its own environment.

    `files` are those whose content it reads once, at its start: a change of one means a restart. `inherited` is what
    comes from the caller's environment; a start from another shell must not restart what runs.
    """

    name: str
    script: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    inherited: Mapping[str, str]
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the programs lie: two virtual environments; the port of each service by name; room in /dev/shm."""

    engine: Path
    gateway: Path
    ports: Mapping[str, int]
    shared_memory_bytes: int


def stack_programs(stack: Stack, places: Places, inherited: Mapping[str, str]) -> tuple[Program, ...]:
    """Return the programs of a stack: each replica, the gateway, and Redis where `places` has a port for it.

    Args:
        inherited: the caller's environment, of which only PASSED_ON is used.
    """
    passed = {name: inherited[name] for name in PASSED_ON if name in inherited}
    programs = [_engine(stack, replica, places) for replica in stack.plan.engines] + [_gateway(stack, places)]
    programs += [_redis(stack, places)] if "redis" in places.ports else []
    shared = {"SECRETS_DIRECTORY": str(stack.secrets), "STACKWRIGHT_STACK": stack.name, "PYTHONUNBUFFERED": "1"}
    return tuple(
        replace(program, environment={**shared, **program.environment}, inherited=passed) for program in programs
    )


def is_cramped(replica: Replica, shared_memory_bytes: int) -> bool:
    """Say whether a replica's worker processes cannot have the shared memory that they need.

    Raises:
        RuntimeRefusedError: it has several, which cannot do without.
    """
    if shared_memory_bytes >= LEAST_SHARED_MEMORY_BYTES:
        return False
    if replica.tensor_parallel * replica.pipeline_parallel > 1:
        raise RuntimeRefusedError(
            f"/dev/shm has {format_bytes(shared_memory_bytes)}, but the workers of {replica.name} "
            f"need {format_bytes(LEAST_SHARED_MEMORY_BYTES)}",
            hint="start this container with `docker run --shm-size=8g`, or a memory volume on /dev/shm",
        )
    return True


def _engine(stack: Stack, replica: Replica, places: Places) -> Program:
    loaded = stack.plan.turns(replica)
    own = {each.model: _visible(stack.plan.host, each) for each in loaded}
    cramped = any(is_cramped(each, places.shared_memory_bytes) and not each.gpu_uuids for each in loaded)
    environment = {
        **stack.engine_environment(replica),
        **own[replica.model],
        "PYTHON": str(places.engine / "bin" / "python"),
        "HF_HOME": stack.env["HF_HOME"],
        stack.engine.keys.cache_folder: stack.env[stack.engine.keys.cache_folder],
        **stack.engine.process_environment(cramped=cramped),
    }
    if engine_places := stack.plan.core_range(replica):
        environment["ENGINE_PLACES"] = engine_places
    health = stack.engine.health_path
    if before := stack.plan.before(replica):
        environment["START_AFTER"] = " ".join(f"http://{LOOPBACK}:{places.ports[each.name]}{health}" for each in before)
    listen = ("--host", LOOPBACK, "--port", str(places.ports[replica.name]))
    script = stack.root / "compose" / "engine" / "start.sh"
    return Program(
        name=replica.name,
        script=script,
        arguments=(*stack.service_arguments(replica, own), *listen),
        environment=environment,
        inherited={},
        files=(
            *(script.parent / "switching" / name for name in SWITCHING_FILES if len(loaded) > 1),
            *(stack.secrets / name for name in ("engine_key", "hf_token")),
        ),
    )


def _visible(host: Host, replica: Replica) -> dict[str, str]:
    """Name the replica's GPUs to CUDA and the engine. No container renumbers them here; a UUID means the same everywhere.

    But an engine may take a MIG slice's number below its GPU for a GPU's own (0.32.0 platforms/cuda.py,
    device_control_id_to_physical_device_id). The GPU's number names its only slice to both: CUDA sees the first.
    Where there are more, validation refuses (`rules.check_processes`).
    """
    if not replica.gpu_uuids:
        return {}
    slice_alone = sole_slice(host)
    if slice_alone is not None and slice_alone.mig_slice is not None and slice_alone.uuid in replica.gpu_uuids:
        return {"CUDA_VISIBLE_DEVICES": str(slice_alone.mig_slice.gpu)}
    return {"CUDA_VISIBLE_DEVICES": ",".join(replica.gpu_uuids)}


def _gateway(stack: Stack, places: Places) -> Program:
    settings, script = stack.generated / "gateway.yaml", stack.root / "compose" / "gateway" / "start.sh"
    environment = {
        "LITELLM": str(places.gateway / "bin" / "litellm"),
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        # The price list is in the package; LiteLLM would fetch it at its start and wait.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_WORKER_STARTUP_HOOKS": "worker_start:prepare,worker_start:stand_guard,health:watch",
        "REQUEST_TIMEOUT": stack.env["GATEWAY_REQUEST_TIMEOUT_S"],
        "DEFAULT_COOLDOWN_TIME_SECONDS": stack.env["GATEWAY_COOLDOWN_S"],
        "GATEWAY_PLACES": "gateway.places",
        **{written: stack.env[written] for key in GATEWAY_KEYS for written in keys_of(stack.env, key)},
    }
    for replica in stack.plan.replicas:
        environment[replica.url_variable] = f"http://{LOOPBACK}:{places.ports[replica.name]}/v1"
    if int(stack.env["LITELLM_NUM_WORKERS"]) > 1:
        # Where the workers add their figures up; LiteLLM's own folder for it is one for all stacks of a machine.
        environment["PROMETHEUS_MULTIPROC_DIR"] = "gateway.metrics"
    if stack.plan.gateway.cloud:
        environment["CLOUD_KEYS"] = " ".join(stack.plan.gateway.cloud_secrets)
    if "redis" in places.ports:
        environment |= {"REDIS_HOST": LOOPBACK, "REDIS_PORT": str(places.ports["redis"])}
    listen = ("--host", stack.env["GATEWAY_BIND"], "--port", stack.env["GATEWAY_PORT"])
    secrets = ("litellm_master_key", "litellm_salt_key", "engine_key", "redis_password", "tls_certificate", "tls_key")
    return Program(
        name="gateway",
        script=script,
        arguments=("--config", str(settings), *listen, "--num_workers", stack.env["LITELLM_NUM_WORKERS"]),
        environment=environment,
        inherited={},
        files=(
            settings,
            script.parent / "key_auth.py",
            script.parent / "door.py",
            script.parent / "guard.py",
            script.parent / "worker_start.py",
            script.parent / "health.py",
            *(stack.secrets / name for name in (*secrets, *stack.plan.gateway.cloud_secrets)),
        ),
    )


def _redis(stack: Stack, places: Places) -> Program:
    return Program(
        name="redis",
        script=stack.root / "compose" / "redis" / "start.sh",
        arguments=(),
        environment={"REDIS_BIND": LOOPBACK, "REDIS_PORT": str(places.ports["redis"])},
        inherited={},
        files=(stack.secrets / "redis_password",),
    )


def render_start(program: Program) -> str:
    """Return the shell script that becomes one program, its environment set and every word quoted."""
    exports = [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted({**program.inherited, **program.environment}.items())
    ]
    run = shlex.join(["exec", "/bin/sh", str(program.script), *program.arguments])
    return "\n".join([START_HEAD.replace("SERVICE", program.name) + exports[0], *exports[1:], run]) + "\n"


def revision(program: Program, contents: Iterable[bytes]) -> str:
    """Return a short hash of how a program is started and of what it reads: another one means a restart."""
    digest = hashlib.sha256(render_start(replace(program, inherited={})).encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]


def revisions_in(text: str) -> dict[str, str]:
    """Return the revision of each service in a file of `render_supervisor`; nothing of any other text."""
    return dict(
        re.findall(r'^\[program:(.+)\]\n(?:.*\n)??environment=STACKWRIGHT_REVISION="(\w+)"$', text, re.MULTILINE)
    )


def render_supervisor(revisions: Mapping[str, str], *, logs: str, open_files: int, user: int) -> str:
    """Return supervisord's file for the services in `revisions` (name → revision).

    Args:
        logs: the folder of the logs, relative to the run folder.
        open_files: how many files a service may hold open; at most the hard limit.
        user: the user id, which supervisord wants to be told when it is root's.
    """
    head = [
        "[unix_http_server]",
        # supervisor makes the path of its socket absolute, and a socket's path may have 107 bytes only.
        "file=/proc/self/cwd/supervisor.sock",
        "chmod=0700",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        "[supervisord]",
        "pidfile=supervisord.pid",
        f"logfile={logs}/supervisord.log",
        "logfile_maxbytes=5MB",
        "logfile_backups=1",
        f"minfds={open_files}",
        *(["user=0"] if user == 0 else []),
    ]
    return "\n".join([*head, *(_section(name, text, logs) for name, text in revisions.items())]) + "\n"


def _section(name: str, text: str, logs: str) -> str:
    lines = [
        f"[program:{name}]",
        f"command=/bin/sh {name}.sh",
        # Not read by anyone: supervisord restarts a program whose section has changed.
        f'environment=STACKWRIGHT_REVISION="{text}"',
        "autostart=true",
        "autorestart=unexpected",
        f"startsecs={PROVEN_S}",
        f"startretries={RETRIES}",
        "stopsignal=TERM",
        "stopwaitsecs=20",
        "stopasgroup=true",
        "killasgroup=true",
        "redirect_stderr=true",
        f"stdout_logfile={logs}/{name}.log",
        "stdout_logfile_maxbytes=20MB",
        "stdout_logfile_backups=4",
    ]
    return "\n".join(lines)


def exit_code(log: str, name: str) -> int | None:
    """Read from supervisord's log how a service ended last: its exit status, or 128 and the signal's number.

    Over its socket supervisord tells 0 for a service that it has given up (supervisor 4.3.0, process.py, `finish`).
    """
    ends = re.findall(rf"exited: {re.escape(name)} \((?:exit status (\d+)|terminated by (SIG[A-Z0-9]+))", log)
    if not ends:
        return None
    status, killer = ends[-1]
    return int(status) if status else 128 + signal.Signals[killer].value
