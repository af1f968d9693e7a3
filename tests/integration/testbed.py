"""Makes a machine ready for the integration tests, and unmakes what it started: `python -m tests.integration.testbed`.

With a command behind it (`… testbed pytest …`) it runs that while the engine is there, and ends as it does.
An engine that answers is used as it is. Where none does, and this is root on Debian, one is installed from Debian's
packages and started for the tests alone, with a folder, a socket and a pid file of its own; it is ended by that pid.
Compose v2, which Debian 12 lacks, comes from Debian 13 through a second apt source that is the machine's own with
another suite, and with package lists of its own, so that nothing else is upgraded.

Touches: packages and /usr/local/lib/docker/cli-plugins (as root on Debian only), and the folder STACKWRIGHT_TESTBED,
by default below the user's caches, which keeps images from run to run. Idempotent. Words go to stderr.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

FOLDER = Path(
    os.environ.get("STACKWRIGHT_TESTBED")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stackwright-testbed"
)
OWN_HOST = f"unix://{FOLDER}/docker.sock"
PLUGINS = Path("/usr/local/lib/docker/cli-plugins")
COMPOSE_SUITE = "trixie"
# What must be on the PATH, and the Debian package that brings it.
TOOLS = {
    "debootstrap": "debootstrap",
    "redis-server": "redis-server",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "prometheus-redis-exporter": "prometheus-redis-exporter",
    "busybox": "busybox-static",
    "docker-registry": "docker-registry",
    "cc": "gcc",
    "curl": "curl",
    "chromium": "chromium",
    "espeak-ng": "espeak-ng",
    "zsh": "zsh",
    "fish": "fish",
}
ENGINE_PROGRAMS = {"docker": "docker.io", "dockerd": "docker.io", "iptables": "iptables"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# dockerd takes 5 s on a small machine; its first start makes the network and takes longer.
ENGINE_START_S = 120


class TestbedError(Exception):
    """A step of the preparation failed: the tests that need it fail, too."""


class TestbedUnavailableError(TestbedError):
    """This machine has no engine and is none to install one on; the tests that need it are skipped with this reason."""


def say(text: str) -> None:
    """Tell the person one line."""
    print(text, file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], **variables: str) -> str:
    """Run a program to its end and return its standard output.

    Raises:
        TestbedError: it failed; the message holds the command and the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise TestbedError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{said}")
    return done.stdout


def answers(command: Sequence[str], **variables: str) -> bool:
    """Say whether a program is there and succeeds."""
    try:
        run(command, **variables)
    except (OSError, TestbedError):
        return False
    return True


@contextmanager
def engine() -> Iterator[str]:
    """Give the DOCKER_HOST of an engine with Compose v2; one that was started here ends with the block.

    Raises:
        TestbedUnavailableError: no engine answers and none can be installed here.
    """
    if answers(["docker", "version"]) and answers(["docker", "compose", "version"]):
        yield current_host()
    elif answers(["docker", "version"], DOCKER_HOST=OWN_HOST):
        yield OWN_HOST
    else:
        install_engine()
        # On a machine with an init system the package has started its engine by now.
        if answers(["docker", "version"]):
            yield current_host()
        else:
            with started_engine(OWN_HOST):
                yield OWN_HOST


def current_host() -> str:
    """Return the address that the `docker` client uses here, whether a variable or a context names it."""
    form = "{{.Endpoints.docker.Host}}"
    return os.environ.get("DOCKER_HOST") or run(["docker", "context", "inspect", "--format", form]).strip()


def is_root_on_debian() -> bool:
    """Say whether Debian's packages can be installed here."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return os.geteuid() == 0 and release.get("ID") == "debian"


def install_tools() -> None:
    """Install what the tests start beside the engine; nothing where this is not root on Debian."""
    if is_root_on_debian():
        packages = missing(TOOLS)
        if "libnuma.so.1" not in run(["ldconfig", "-p"]):
            packages.append("libnuma1")
        if not Path("/usr/include/stdio.h").exists():
            packages.append("libc6-dev")  # gcc merely recommends it
        install_packages(packages)


def install_engine() -> None:
    """Install an engine and Compose v2 from Debian's packages.

    Raises:
        TestbedUnavailableError: this is not root on Debian.
        TestbedError: apt failed.
    """
    if not is_root_on_debian():
        found = f"{platform.system()} as user {os.geteuid()}"
        message = f"no Docker engine with Compose v2 answers, and only root on Debian gets one ({found})"
        raise TestbedUnavailableError(message)
    install_packages(missing(ENGINE_PROGRAMS))
    # Debian 13 splits the client off; older releases have no such package.
    install_packages([] if shutil.which("docker") else ["docker-cli"])
    if not answers(["docker", "compose", "version"]):
        say("installing Docker Compose v2")
        PLUGINS.mkdir(parents=True, exist_ok=True)
        shutil.copy(download_compose(), PLUGINS / "docker-compose")


def missing(programs: Mapping[str, str]) -> list[str]:
    """Return the packages of the programs that are not on the PATH."""
    return sorted({package for program, package in programs.items() if not shutil.which(program)})


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages without asking and without what they merely recommend."""
    if packages:
        say(f"installing Debian's {', '.join(packages)}")
        run(["apt-get", "update"])
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
        run(command, DEBIAN_FRONTEND="noninteractive")


def download_compose() -> Path:
    """Fetch Compose v2 from Debian 13 by a source derived from the machine's own, and return the plugin's file."""
    work = FOLDER / COMPOSE_SUITE
    for folder in ("sources", "lists/partial", "tree"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    signed = f"Signed-By: {KEYRING}\n" if KEYRING.exists() else ""
    stanza = f"Types: deb\nURIs: {debian_mirror()}\nSuites: {COMPOSE_SUITE}\nComponents: main\n{signed}"
    (work / "sources" / "compose.sources").write_text(stanza)
    options = ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={work / 'sources'}"]
    apt = ["apt-get", *options, "-o", f"Dir::State::Lists={work / 'lists'}"]
    run([*apt, "update"])
    for old in work.glob("*.deb"):
        old.unlink()
    # apt-get downloads into the working directory, and has no option for another.
    run(["env", f"--chdir={work}", *apt, "download", "docker-compose"])
    (package,) = work.glob("*.deb")
    run(["dpkg", "-x", package, work / "tree"])
    return work / "tree" / "usr/libexec/docker/cli-plugins/docker-compose"


def debian_mirror() -> str:
    """Return the mirror that this machine gets Debian itself from.

    Raises:
        TestbedError: apt knows none.
    """
    form = "$(URI)|$(COMPONENT)|$(SUITE)|$(ORIGIN)"
    sources = ["apt-get", "indextargets", "--format", form, "Created-By: Packages"]
    # Suite and origin are known only once the lists have been fetched; a slim image comes without.
    for attempt in (sources, ["sh", "-c", 'apt-get update >&2 && exec "$@"', "sh", *sources]):
        for line in run(attempt).splitlines():
            uri, component, suite, origin = line.split("|")
            mirror, dists, _ = uri.partition("/dists/")
            # The archive proper: not its security or update suites, nor a third party's.
            if dists and component == "main" and origin == "Debian" and "-" not in suite:
                return mirror.rstrip("/")
    raise TestbedError("apt knows no source of Debian itself")


@contextmanager
def started_engine(host: str) -> Iterator[None]:
    """Run an engine of our own while the block lasts, with a GPU hook that does nothing.

    The engine offers the `nvidia` device driver as soon as an executable of the hook's name is on its PATH, so
    containers with GPU reservations start as they would beside a GPU (tried with Engine 20.10).
    """
    programs = FOLDER / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    hook = programs / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    command: list[str | Path] = ["dockerd", "--host", host, "--pidfile", FOLDER / "docker.pid"]
    command += ["--data-root", FOLDER / "data", "--exec-root", FOLDER / "exec"]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    log = FOLDER / "dockerd.log"
    with log.open("ab") as output:
        # A session of its own: a Ctrl-C in the tests' terminal must not end it before the containers are gone.
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        wait_for_engine(daemon, host, log)
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(timeout=60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def wait_for_engine(daemon: subprocess.Popen[bytes], host: str, log: Path) -> None:
    """Return once the engine answers; raise with the end of its log where it does not."""
    deadline = time.monotonic() + ENGINE_START_S
    while not answers(["docker", "version"], DOCKER_HOST=host):
        if daemon.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise TestbedError(f"dockerd does not answer; the end of {log}:\n{tail}")
        time.sleep(0.5)


def state_folder() -> Path:
    """Return the folder of the services' virtual environments, which outlive the tests: making them takes minutes."""
    default = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "stackwright"
    return Path(os.environ.get("STACKWRIGHT_STATE") or default)


def make_environments() -> None:
    """Make what runs the services without containers, as `start-environment` would at its first time."""
    from stackwright.engines.vllm.engine import VLLM
    from stackwright.runtime.provision import ensure_all
    from stackwright.services import gateway, multimodal, retrieval, webui

    from tests.integration.quick_engine.layout import planned_engine

    def say_of(service: str, text: str) -> None:
        say(f"{service}: {text}")

    engine = VLLM.recipe(planned_engine(), on_gpus=False)
    recipes = {row.name: row for row in (gateway.RECIPE, multimodal.RECIPE, retrieval.RECIPE, webui.RECIPE)}
    ensure_all(state_folder(), {"engine": engine, **recipes}, say_of)


def main(command: Sequence[str]) -> int:
    """Prepare everything that takes long, so that the tests themselves do not; return the exit code, or the
    command's.
    """
    from tests.integration.images import build_images

    install_tools()
    with ExitStack() as ended:
        variables, builds = {}, []
        try:
            variables["DOCKER_HOST"] = ended.enter_context(engine())
            beside = ended.enter_context(ThreadPoolExecutor())
            builds.append(beside.submit(build_images, variables["DOCKER_HOST"]))
        except TestbedUnavailableError as reason:
            say(f"the Docker tests will be skipped: {reason}")
        make_environments()
        for build in builds:
            build.result()
        return run_to_its_end(command, variables) if command else 0


def run_to_its_end(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command and return its exit code. A Ctrl-C reaches it, too: it still needs the engine to clean up."""
    with subprocess.Popen(command, env={**os.environ, **variables}) as process:
        while True:
            with suppress(KeyboardInterrupt):
                return process.wait()


if __name__ == "__main__":
    # By its own name, so that the error classes are those that `images` knows.
    from tests.integration import testbed

    sys.exit(testbed.main(sys.argv[1:]))
