"""The way to the internet, as the shell, Docker's files, its daemon and the distribution say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from stackwright.detect.network import Proxy, find_network, find_proxy, parse_docker_proxies
from stackwright.domain.host import Network

PROXY = "http://proxy.corp:3128"
DOCKER = {"proxies": {"default": {"httpsProxy": f"{PROXY}/", "noProxy": "*.corp,10.0.0.0/8"}}}


def write(root: Path, path: str, text: str = "") -> None:
    """Write a file below a root folder."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("shell", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": PROXY}, Proxy(url=PROXY)),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other"}, Proxy(url=PROXY)),
        ({"HTTP_PROXY": f"{PROXY}/", "no_proxy": "a, .b  c,a"}, Proxy(url=PROXY, direct=("a", ".b", "c"))),
        ({"all_proxy": "proxy.corp:3128"}, Proxy(url=PROXY)),
        ({"HTTPS_PROXY": "http://me:p%40ss@proxy.corp:3128"}, Proxy(url=PROXY, login="me:p%40ss")),
        ({"https_proxy": "http://[fd00::1]:8080"}, Proxy(url="http://[fd00::1]:8080")),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "socks5://proxy.corp:1080"}, None),
        ({"HTTPS_PROXY": "http://pro xy", "HTTP_PROXY": PROXY}, Proxy(url=PROXY)),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a'b,$(c),d"}, Proxy(url=PROXY, direct=("d",))),
    ],
)
def test_the_shells_proxy(shell: Mapping[str, str], found: Proxy | None, tmp_path: Path) -> None:
    assert find_proxy(shell, tmp_path, {}) == found


def test_docker_gives_containers_a_proxy_and_the_shell_beats_it(tmp_path: Path) -> None:
    write(tmp_path, "/home/you/.docker/config.json", json.dumps(DOCKER))
    expected = Proxy(url=PROXY, direct=("*.corp", "10.0.0.0/8"))
    assert find_proxy({"HOME": "/home/you"}, tmp_path, {"HTTPS_PROXY": "http://daemons:1"}) == expected
    assert find_proxy({"HOME": "/home/you", "HTTPS_PROXY": "http://mine:1"}, tmp_path, {}) == Proxy(url="http://mine:1")
    assert find_proxy({"HOME": "/", "DOCKER_CONFIG": "/home/you/.docker"}, tmp_path, {}) == expected


@pytest.mark.parametrize("text", ["", "[]", "{", '{"proxies": []}', '{"proxies": {"default": 1}}', "[" * 100_000])
def test_a_configuration_that_says_nothing(text: str) -> None:
    assert parse_docker_proxies(text) == ()


def test_the_daemons_proxy_is_taken_last_and_its_login_is_never_known(tmp_path: Path) -> None:
    masked = {"HTTPS_PROXY": "http://xxxxx:xxxxx@proxy.corp:3128", "HTTP_PROXY": "", "NO_PROXY": ""}
    assert find_network({}, tmp_path, masked) == Network(proxy=PROXY)
    desktop = {"HTTP_PROXY": "http.docker.internal:3128", "HTTPS_PROXY": "http.docker.internal:3128"}
    assert find_network({}, tmp_path, desktop) is None


def test_no_password_is_in_the_host(tmp_path: Path) -> None:
    network = find_network({"HTTPS_PROXY": "http://me:secret@proxy.corp:3128"}, tmp_path, {})
    assert network == Network(proxy=PROXY)


def test_authorities_of_the_shell_or_of_the_administrator(tmp_path: Path) -> None:
    shell = {"REQUESTS_CA_BUNDLE": "/opt/corp.pem"}
    assert find_network(shell, tmp_path, {}) is None  # no such file
    write(tmp_path, "/opt/corp.pem")
    assert find_network(shell, tmp_path, {}) == Network(certificates="/opt/corp.pem")
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    write(tmp_path, bundle)
    # The distribution's own bundle, with nothing added, is what every image has too.
    assert find_network({"SSL_CERT_FILE": bundle}, tmp_path, {}) is None
    write(tmp_path, "/usr/local/share/ca-certificates/corp.crt")
    assert find_network({"SSL_CERT_FILE": bundle}, tmp_path, {}) == Network(certificates=bundle)
    assert find_network({}, tmp_path, {}) == Network(certificates=bundle)


@pytest.mark.parametrize(
    ("shell", "found"),
    [
        ({"HF_ENDPOINT": "https://mirror.corp/hf/"}, Network(hub="https://mirror.corp/hf")),
        ({"HF_ENDPOINT": "https://huggingface.co/"}, None),
        ({"HF_HUB_OFFLINE": "1"}, Network(offline=True)),
        ({"TRANSFORMERS_OFFLINE": "yes"}, Network(offline=True)),
        ({"HF_HUB_OFFLINE": "0"}, None),
    ],
)
def test_hubs(shell: Mapping[str, str], found: Network | None, tmp_path: Path) -> None:
    assert find_network(shell, tmp_path, {}) == found
