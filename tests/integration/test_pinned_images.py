"""Images by digest, against a real registry on loopback: what is pinned, and that a tag which moves changes nothing."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import Project, free_port, wait_until
from tests.integration.testbed import answers, run

pytestmark = pytest.mark.integration
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Debian's registry and give its address. Docker takes one on loopback without TLS."""
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "registry.yaml").write_text(yaml.safe_dump(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "registry.yaml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: answers(["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/v2/"]) or None)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def push(docker_host: str, image: str, name: str) -> None:
    """Publish a local image under a name of the registry, and forget the name here."""
    run(["docker", "tag", image, name], DOCKER_HOST=docker_host)
    run(["docker", "push", "--quiet", name], DOCKER_HOST=docker_host)
    run(["docker", "rmi", name], DOCKER_HOST=docker_host)


def digest_of(name: str) -> str:
    """Ask the registry itself what a tag is."""
    address, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    request = urllib.request.Request(
        f"http://{address}/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFESTS}, method="HEAD"
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        return str(response.headers["Docker-Content-Digest"])


def emitted(project: Project) -> str:
    """Return the image of Redis as the environment file names it."""
    lines = (project.folder / "envs/.env.dev").read_text().splitlines()
    return next(line.removeprefix("REDIS_IMAGE=") for line in lines if line.startswith("REDIS_IMAGE="))


def test_a_pinned_image_stays_when_its_tag_moves(
    make_project: MakeProject, docker_host: str, images: Images, registry: str, tmp_path: Path
) -> None:
    """The tag is looked up when a person asks for it, and at no other time."""
    name = f"{registry}/redis:7"
    push(docker_host, images.redis, name)
    pins = [f"--set=VLLM_IMAGE={images.engine}", f"--set=LITELLM_IMAGE={images.gateway}", f"--set=REDIS_IMAGE={name}"]
    project = make_project()
    project.configure("cpu", *pins)
    assert emitted(project) == name
    done = project.command("pin-images", "dev")
    assert done.returncode == 0, done.stderr
    assert f"{images.engine} is not pinned" in done.stderr
    first = digest_of(name)
    project.configure("cpu", *pins)
    assert emitted(project) == f"{name}@{first}"
    # Another image takes the tag.
    (tmp_path / "Dockerfile").write_text(f"FROM {images.redis}\nLABEL moved=yes\n")
    run(["docker", "build", "--quiet", "--tag", "swtest-moved", tmp_path], DOCKER_HOST=docker_host)
    push(docker_host, "swtest-moved", name)
    assert digest_of(name) != first
    project.configure("cpu", *pins)
    assert emitted(project) == f"{name}@{first}"
    project.docker("run", "--rm", "--pull=always", "--entrypoint=/bin/true", emitted(project))
    label = '{{index .Config.Labels "moved"}}'
    assert project.docker("image", "inspect", "--format", label, emitted(project)) == ""
    done = project.command("pin-images", "dev")
    assert f"{digest_of(name)}, was {first}" in done.stderr
    project.configure("cpu", *pins)
    assert emitted(project) == f"{name}@{digest_of(name)}"


def test_nothing_to_pin_is_told(make_project: MakeProject, images: Images) -> None:
    """Images that were built here have no digest that another machine could use."""
    project = make_project()
    pins = [f"--set=VLLM_IMAGE={images.engine}", f"--set=LITELLM_IMAGE={images.gateway}"]
    project.configure("cpu", *pins, f"--set=REDIS_IMAGE={images.redis}")
    done = project.command("pin-images", "dev")
    assert done.returncode == 5
    assert "no image could be pinned" in done.stderr
    assert not (project.folder / "envs/digests.yaml").exists()
