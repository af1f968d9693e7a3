"""A plan has the way out that its host needs, in the services that take it, and nothing of it elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from stackwright.domain.host import Containers, GpuAccess, Host, Network
from stackwright.domain.plan import Plan
from stackwright.domain.setting_spec import problem_with
from stackwright.rendering.compose import render_override
from stackwright.services import services_of
from stackwright.services.outside import KEYS
from stackwright.settings import declared_settings

from tests.planning_requests import plan_for, recorded

COMPOSE = Path(__file__).parents[2] / "compose"
BARE = recorded("cpu-small")
CORPORATE = Network(
    proxy="http://proxy.corp:3128",
    no_proxy=("*.corp", "10.0.0.0/8"),
    certificates="/etc/corp.pem",
    hub="https://mirror.corp/hf",
    offline=True,
)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")


def services_in(plan: Plan) -> dict[str, Any]:
    """Return the services of a plan's override."""
    services: dict[str, Any] = yaml.safe_load(render_override(plan, {}))["services"]
    return services


def with_engine(host: Host, **engine: object) -> Host:
    """Return a host whose container engine is another."""
    return replace(host, containers=replace(host.containers, **engine))


def test_nothing_is_emitted_where_nothing_is_needed() -> None:
    plan = plan_for(BARE)
    assert not KEYS & plan.settings.keys()
    assert "NO_PROXY" not in str(services_in(plan))


def test_what_downloads_gets_the_way_out_and_the_rest_is_told_what_is_inside() -> None:
    plan = plan_for(replace(BARE, network=CORPORATE))
    assert {key: plan.settings[key].value for key in KEYS & plan.settings.keys()} == {
        "OUTBOUND_PROXY": "http://proxy.corp:3128",
        "OUTBOUND_NO_PROXY": "*.corp,10.0.0.0/8",
        "CA_CERTIFICATES": "/etc/corp.pem",
        "HF_ENDPOINT": "https://mirror.corp/hf",
        "HF_HUB_OFFLINE": "1",
    }
    services = services_in(plan)
    engine = services["engine"]
    inside = "localhost,127.0.0.1,::1,engine,redis,gateway,${OUTBOUND_NO_PROXY:?}"
    for service in services.values():
        assert {service["environment"][name] for name in ("NO_PROXY", "no_proxy")} == {inside}
    assert {engine["environment"][name] for name in PROXIES} == {"${OUTBOUND_PROXY:?}"}
    assert (
        engine["environment"]["SSL_CERT_FILE"] == engine["environment"]["REQUESTS_CA_BUNDLE"] == "${CA_CERTIFICATES:?}"
    )
    assert engine["environment"]["HF_ENDPOINT"] == "${HF_ENDPOINT:?}"
    mounted = {"type": "bind", "source": "${CA_CERTIFICATES:?}", "target": "${CA_CERTIFICATES:?}", "read_only": True}
    assert mounted in engine["volumes"]
    assert engine["secrets"] == ["proxy_login"]
    for name in ("gateway", "redis"):
        assert not {*PROXIES, "SSL_CERT_FILE", "HF_ENDPOINT"} & services[name]["environment"].keys()
        assert "secrets" not in services[name]


def test_a_service_of_the_stack_is_never_asked_through_the_proxy() -> None:
    plan = plan_for(replace(BARE, network=Network(proxy="http://proxy.corp:3128")))
    names = {service.name for service in services_of(plan)}
    for service in services_in(plan).values():
        assert names | {"localhost", "127.0.0.1"} <= set(service["environment"]["NO_PROXY"].split(","))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("OUTBOUND_PROXY", "http://proxy.corp:3128", True),
        ("OUTBOUND_PROXY", "http://me:secret@proxy.corp:3128", False),
        ("OUTBOUND_PROXY", "socks5://proxy.corp", False),
        ("HF_ENDPOINT", "https://mirror.corp/hf", True),
        ("HF_ENDPOINT", "https://me:secret@mirror.corp/hf", False),
        ("CA_CERTIFICATES", "corp.pem", False),
    ],
)
def test_a_person_pins_what_nobody_detects_but_no_password(key: str, value: str, allowed: bool) -> None:
    assert (problem_with(declared_settings().by_key[key], value) is None) == allowed
    if allowed:
        assert plan_for(BARE, pins={key: value}).settings[key].value == value


def test_a_rootless_engine_runs_services_as_its_own_user() -> None:
    plan = plan_for(with_engine(BARE, engine="docker", rootless=True))
    assert {plan.settings[key].value for key in ("STACKWRIGHT_UID", "STACKWRIGHT_GID")} == {"0"}


def test_selinux_asks_for_a_label_of_every_container() -> None:
    services = services_in(plan_for(with_engine(BARE, engine="docker", selinux=True)))
    assert all(service["security_opt"] == ["label=${SELINUX_LABEL:?}"] for service in services.values())


def test_podman_gets_gpus_by_their_cdi_names() -> None:
    host = recorded("2x-rtx3090-nvlink")
    podman = Containers(engine="podman", version="5.4.2", compose="2.39.1", gpu_access=GpuAccess.CDI)
    (device,) = services_in(plan_for(replace(host, containers=podman)))["engine"]["deploy"]["resources"][
        "reservations"
    ]["devices"]
    uuids = [f"nvidia.com/gpu={gpu.uuid}" for gpu in host.gpus]
    assert device == {"driver": "cdi", "capabilities": ["gpu"], "device_ids": uuids}


def sourced(tmp_path: Path, variables: Mapping[str, str], *, login: str) -> dict[str, str]:
    """Return the variables of a shell that read outside.sh, as a start script does."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "proxy_login").write_text(login)
    script = f'set -eu; secrets={secrets}; . "{COMPOSE}/engine/outside.sh"; env'
    path = {"PATH": os.environ["PATH"], "TRUSTED": "engine.authorities.pem"}
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={**path, **variables}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.subprocess
def test_the_login_comes_from_its_file(tmp_path: Path) -> None:
    proxy = dict.fromkeys(PROXIES, "http://proxy.corp:3128")
    seen = sourced(tmp_path, proxy, login="me:p%40ss")
    assert {seen[name] for name in PROXIES} == {"http://me:p%40ss@proxy.corp:3128"}
    assert "SSL_CERT_FILE" not in seen


@pytest.mark.subprocess
def test_an_open_proxy_is_left_as_it_is_and_authorities_join_the_public_ones(tmp_path: Path) -> None:
    own = tmp_path / "corp.pem"
    own.write_text("-- corp --\n")
    seen = sourced(tmp_path, {"HTTPS_PROXY": "http://proxy.corp:3128", "SSL_CERT_FILE": str(own)}, login="")
    assert seen["HTTPS_PROXY"] == "http://proxy.corp:3128"
    bundle = Path(seen["SSL_CERT_FILE"])
    assert bundle == tmp_path / "engine.authorities.pem"
    assert seen["REQUESTS_CA_BUNDLE"] == seen["CURL_CA_BUNDLE"] == str(bundle)
    assert bundle.read_text().endswith("-- corp --\n")
    assert "BEGIN CERTIFICATE" in bundle.read_text()
