"""Behind a proxy with a login, with an authority of the company's own: what the host sees holds in real containers."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MakeProject
from tests.integration.corporate import LOGIN, NAME, Authority, Proxy, make_authority, serve_proxy
from tests.integration.fake_hub import Hub, serve_hub
from tests.integration.project import Project
from tests.integration.testbed import run
from tests.models.checkpoints import write_model
from tests.models.test_folder import CONFIG, SHARDS

MODEL = "someone/Tiny-Model"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give the company's authority."""
    return make_authority(tmp_path_factory.mktemp("corp") / "authority")


@pytest.fixture(scope="module")
def hub(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Give a mirror that only the company's authority vouches for."""
    folder = write_model(tmp_path_factory.mktemp("mirror") / "m", CONFIG, SHARDS)
    with serve_hub(folder, MODEL, certificate=(authority.certificate, authority.key), name=NAME) as hub:
        yield hub


@pytest.fixture(scope="module")
def proxy(docker_host: str) -> Iterator[Proxy]:
    """Give a proxy on the address by which containers reach this machine."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    address = run(["docker", "network", "inspect", "bridge", "--format", form], DOCKER_HOST=docker_host).strip()
    with serve_proxy(address or "172.17.0.1") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def project(make_project: MakeProject, quick_pins: list[str], authority: Authority, hub: Hub, proxy: Proxy) -> Project:
    """Give a project that is configured in a shell of that company, for a model that is yet to be downloaded."""
    bundles = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), str(authority.file))
    made = make_project(**bundles, HTTPS_PROXY=proxy.with_login, HF_ENDPOINT=hub.url, HF_TOKEN="", HF_TOKEN_PATH="")
    made.configure("cpu", f"--model={MODEL}", *quick_pins)
    return made


def validate(project: Project) -> dict[str, dict[str, Any]]:
    """Return the findings by name, without those that this small model and root bring."""
    done = project.command("validate-environment", "dev", "--runtime=compose", "--json")
    assert "Traceback" not in done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_the_files_have_the_way_out_and_the_password_only_its_own(project: Project, proxy: Proxy, hub: Hub) -> None:
    env = (project.folder / "envs" / ".env.dev").read_text()
    assert f"OUTBOUND_PROXY={proxy.url}" in env.replace("'", "")
    assert f"HF_ENDPOINT={hub.url}" in env.replace("'", "")
    assert project.secrets["proxy_login"] == LOGIN
    texts = [path for path in project.folder.rglob("*") if path.is_file() and ".secrets" not in path.parts]
    assert [str(path) for path in texts if LOGIN.partition(":")[2].encode() in path.read_bytes()] == []


def test_a_container_reaches_the_mirror_through_proxy_and_authority(project: Project, proxy: Proxy, hub: Hub) -> None:
    proxy.asked.clear()
    hub.requests.clear()
    found = validate(project)
    wrong = ("model-", "inside-", "network", "authorities")
    assert [finding["found"] for name, finding in found.items() if name.startswith(wrong)] == []
    assert f"HEAD /{MODEL}/resolve/main/config.json" in hub.requests
    # A container asks from an address beside the bridge's own.
    network = ipaddress.ip_network(f"{proxy.address}/16", strict=False)
    clients = {client for client, target in proxy.asked if target.startswith(NAME)}
    assert any(ipaddress.ip_address(client) in network for client in clients)


def test_another_authority_is_named_with_the_setting(project: Project, tmp_path: Path, authority: Authority) -> None:
    right = authority.file.read_text()
    try:
        authority.file.write_text(make_authority(tmp_path / "other").file.read_text())
        finding = validate(project)["model-unreachable"]
    finally:
        authority.file.write_text(right)
    assert "certificate verify failed" in finding["found"]
    assert "--set CA_CERTIFICATES=" in finding["fix"]


def test_a_wrong_login_is_named_with_its_file(project: Project) -> None:
    file = project.folder / "envs" / ".secrets" / "dev" / "proxy_login"
    file.write_text("me:wrong")
    try:
        finding = validate(project)["model-unreachable"]
    finally:
        file.write_text(LOGIN)
    assert "407" in finding["found"]
    assert "proxy_login" in finding["fix"]


def test_inner_traffic_never_takes_the_proxy_and_no_inspection_shows_the_login(
    make_project: MakeProject, quick_pins: list[str], proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Docker itself hands the proxy to every container here, as a company's set-up does."""
    docker = tmp_path_factory.mktemp("docker")
    default = {"httpProxy": proxy.with_login, "httpsProxy": proxy.with_login}
    (docker / "config.json").write_text(json.dumps({"proxies": {"default": default}}))
    project = make_project(DOCKER_CONFIG=str(docker))
    project.configure("cpu", *quick_pins)
    proxy.asked.clear()
    project.start()
    assert project.complete()
    assert proxy.asked == []
    # Docker shows what Docker itself was told; what is ours holds no login.
    assert f"HTTPS_PROXY={proxy.url}" in project.inspect("engine")["Config"]["Env"]
    assert LOGIN not in json.dumps(project.inspect("engine"))
    words = ["exec", project.container("engine"), "sh", "-c", "cat /proc/[0-9]*/environ"]
    assert f"HTTPS_PROXY={proxy.with_login}" in project.docker(*words)
    project.stop()
