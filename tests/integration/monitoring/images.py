"""Images in the place of the official ones of monitoring, which need a registry: Debian's programs, laid out as theirs.

As in the makers' images there is nothing but busybox and the program, under the maker's name for it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tests.fakes.nvml import LIBRARY, SOURCE, build_fake_nvml
from tests.integration.images import build, tag_of
from tests.integration.testbed import answers, run

# Where each maker's image has its program (Dockerfile of prometheus/prometheus and prometheus/node_exporter, 2026-08;
# docker/Dockerfile.alpine of oliver006/redis_exporter, 2026-08), and Debian's name for it.
PROGRAMS = {
    "PROMETHEUS_IMAGE": ("bin/prometheus", "prometheus"),
    "NODE_EXPORTER_IMAGE": ("bin/node_exporter", "prometheus-node-exporter"),
    "REDIS_EXPORTER_IMAGE": ("redis_exporter", "prometheus-redis-exporter"),
}
RECIPE = """\
FROM scratch
COPY . /
RUN ["/bin/busybox", "--install", "-s", "/bin"]
USER 65534
"""


def build_program_images(host: str) -> list[str]:
    """Build the images that are not there yet, and return the settings that put them in the official ones' place."""
    return [f"--set={key}={_build(host, *names)}" for key, names in PROGRAMS.items()]


def _build(host: str, path: str, program: str) -> str:
    version = run(["dpkg-query", "--show", program, "busybox-static"])
    tag = tag_of(program, version, path, RECIPE)
    if answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        return tag
    found = shutil.which(program)
    assert found, program
    with tempfile.TemporaryDirectory() as folder:
        files = {path: found, "bin/busybox": shutil.which("busybox") or ""}
        files |= {library.lstrip("/"): library for library in re.findall(r"(/\S+) \(", run(["ldd", found]))}
        for name, source in files.items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        build(host, tag, RECIPE, "--file", "-", folder)
    return tag


def build_gateway_with_gpus(host: str, gateway: str, told: str) -> str:
    """Build a gateway image with the fake NVML, which NVIDIA's hook would bring into the container; return its tag."""
    recipe = f"FROM {gateway}\nCOPY . /usr/lib/\nENV STACKWRIGHT_FAKE_NVML=/usr/lib/nvml.txt\n"
    tag = tag_of("gateway-with-gpus", recipe, told, SOURCE.read_text())
    if not answers(["docker", "image", "inspect", tag], DOCKER_HOST=host):
        with tempfile.TemporaryDirectory() as folder:
            (build_fake_nvml(Path(folder)) / "nvml.txt").write_text(told)
            (Path(folder) / "exports.map").unlink()
            assert (Path(folder) / LIBRARY).exists()
            build(host, tag, recipe, "--file", "-", folder)
    return tag
