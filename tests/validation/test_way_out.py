"""The way out of a container: what the rules say of a network, a look from inside, and caches on another machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.detect.capacity import parse_mounts
from stackwright.domain.finding import Finding
from stackwright.domain.host import Network
from stackwright.domain.machine import Unseen
from stackwright.models.outlook import look_around, try_locking, try_reading, try_writing
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import ClientAnswer
from stackwright.services.outside import way_out
from stackwright.validation.model import check_hub
from stackwright.validation.outside import (
    Authorities,
    Outlook,
    _read,
    check_authorities,
    check_far_folders,
    check_network,
    check_outlook,
    secret_words,
)

from tests.planning_requests import plan_for, recorded

PLAN = plan_for(recorded("cpu-small"))
ENV = {key: setting.value for key, setting in flat_settings(PLAN).items()}
PROXY = "http://proxy.corp:3128"


def names(findings: Iterable[Finding]) -> list[str]:
    """Return the names of findings."""
    return [finding.check for finding in findings]


@pytest.mark.parametrize(
    ("proxy", "compose", "found"),
    [
        ("http://127.0.0.1:3128", True, ["proxy-loopback"]),
        ("http://localhost:3128", True, ["proxy-loopback"]),
        ("http://[::1]:3128", True, ["proxy-loopback"]),
        ("http://127.0.0.1:3128", False, []),
        (PROXY, True, []),
        (None, True, []),
    ],
)
def test_a_proxy_on_loopback_is_the_container_itself(proxy: str | None, compose: bool, found: list[str]) -> None:
    env = ENV if proxy is None else {**ENV, "OUTBOUND_PROXY": proxy}
    assert names(check_network(PLAN, env, PLAN.host, compose=compose)) == found


def test_files_that_were_rendered_for_another_network() -> None:
    host = replace(PLAN.host, network=Network(proxy=PROXY, certificates="/corp.pem", hub="https://mirror"))
    assert names(check_network(PLAN, ENV, host, compose=True)) == ["network-changed"] * 3
    env = {**ENV, "OUTBOUND_PROXY": "http://another", "CA_CERTIFICATES": "/own.pem", "HF_ENDPOINT": "https://other"}
    assert names(check_network(PLAN, env, host, compose=True)) == []


@pytest.mark.parametrize(
    ("readable", "is_pem", "found"),
    [(True, True, []), (False, False, ["authorities-unreadable"]), (True, False, ["authorities-format"])],
)
def test_authorities(readable: bool, is_pem: bool, found: list[str]) -> None:
    assert names(check_authorities(Authorities(path="/corp.pem", readable=readable, is_pem=is_pem))) == found
    assert names(check_authorities(None)) == []


def test_folders_that_only_the_host_shows() -> None:
    seen = Outlook(unwritable={"/hf": "Permission denied"}, unreadable={"/m": "/m/config.json: Permission denied"})
    plain = tuple(check_outlook(PLAN, ENV, PLAN.host, seen))
    assert names(plain) == ["inside-unwritable", "inside-unreadable"]
    assert "root_squash" in plain[0].fix
    labelled = replace(PLAN.host, containers=replace(PLAN.host.containers, selinux=True))
    assert "SELINUX_LABEL" in next(iter(check_outlook(PLAN, ENV, labelled, seen))).fix
    assert names(check_outlook(PLAN, ENV, PLAN.host, None)) == []
    assert names(check_outlook(PLAN, ENV, PLAN.host, Unseen(why="no"))) == ["not-checked"]


def test_caches_on_another_machine() -> None:
    kinds = {"/hf": "nfs4", "/vllm": "cifs"}
    seen = Outlook(unlocked={"/vllm": "No locks available"})
    assert names(check_far_folders(PLAN, kinds, seen, compose=True)) == ["cache-far", "cache-locks"]
    assert names(check_far_folders(PLAN, {}, None, compose=True)) == []
    assert names(check_far_folders(PLAN, kinds, Unseen(why="no"), compose=False))[0] == "not-checked"


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer", "CA_CERTIFICATES="),
        ("Tunnel connection failed: 407 Proxy Authentication Required", "proxy_login"),
        ("timed out", "OUTBOUND_PROXY="),
    ],
)
def test_a_hub_out_of_reach_names_the_setting(why: str, fix: str) -> None:
    (found,) = check_hub(PLAN, "a/b", Unseen(why=why), gated=False, has_token=False, offline=False)
    assert fix in found.fix


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 21 0:40 / /srv/models rw shared:9 - nfs4 nas:/models rw,vers=4.2
41 40 0:41 / /srv/models/local\\040disk rw - xfs /dev/sdb rw
42 21 0:42 / /srv/models2 rw - cifs //nas/m rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/models", "nfs4"),
        ("/srv/models/hub/x", "nfs4"),
        ("/srv/models/local disk/x", "xfs"),
        ("/srv/models2/x", "cifs"),
        ("/srv/models3", "ext4"),
        ("/", "ext4"),
    ],
)
def test_the_file_system_of_a_folder(path: str, kind: str) -> None:
    assert parse_mounts(MOUNTS, path) == kind
    assert parse_mounts("nonsense\n", path) is None


def test_a_real_folder_is_written_read_and_locked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert (try_writing(str(tmp_path)), try_reading(str(tmp_path)), try_locking(str(tmp_path))) == (None, None, None)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    gone = str(tmp_path / "gone")
    assert try_writing(gone) == try_locking(gone) == "No such file or directory"
    assert try_reading(gone) == f"{gone}: No such file or directory"
    if os.geteuid() != 0:
        (tmp_path / "config.json").chmod(0)
        assert try_reading(str(tmp_path)) == f"{tmp_path}/config.json: Permission denied"


def test_what_was_asked_is_read_back(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/a/b/resolve/main/config.json"
    gone = str(tmp_path / "gone")
    asked = {"urls": [url], "write": [str(tmp_path), gone], "read": [], "lock": [], "token": None}
    answer = ClientAnswer(0, "a line of the image's own\n" + json.dumps(look_around(asked)), "")
    assert _read(answer, {"a/b": url}, "http://127.0.0.1:9") == Outlook(
        hubs={"a/b": Unseen(why="cannot reach http://127.0.0.1:9: Connection refused")},
        unwritable={gone: "No such file or directory"},
    )
    assert _read(ClientAnswer(125, "", "docker: Error response from daemon: no"), {}, "") == Unseen(
        why="Error response from daemon: no"
    )


def test_a_container_for_a_look_has_the_services_secrets() -> None:
    service = {"secrets": [{"source": "hf_token", "target": "/run/secrets/hf_token"}, {"source": "proxy_login"}]}
    merged = {"secrets": {"hf_token": {"file": "/s/hf_token"}, "proxy_login": {"file": "/s/proxy_login"}}}
    assert list(secret_words(service, merged)) == [
        "--mount=type=bind,source=/s/hf_token,target=/run/secrets/hf_token,readonly",
        "--mount=type=bind,source=/s/proxy_login,target=/run/secrets/proxy_login,readonly",
    ]


def test_variables_of_the_way_out() -> None:
    env = {"OUTBOUND_PROXY": PROXY, "OUTBOUND_NO_PROXY": "*.corp", "CA_CERTIFICATES": "/corp.pem"}
    seen = way_out(env, "me:secret")
    assert seen["https_proxy"] == seen["HTTPS_PROXY"] == "http://me:secret@proxy.corp:3128"
    assert (seen["no_proxy"], seen["SSL_CERT_FILE"]) == ("*.corp", "/corp.pem")
    assert way_out(env, "")["https_proxy"] == PROXY
    assert way_out({}, "me:secret") == {}
