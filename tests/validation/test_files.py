"""Checks that look at the machine: rendered files, secrets, the model's folder, the port."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.domain.cloud import CloudModel
from stackwright.domain.finding import Finding
from stackwright.domain.plan import Origin, Setting
from stackwright.project.credentials import ensure_secrets
from stackwright.project.write import compare_files, write_files
from stackwright.rendering import render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.services.gateway import GATEWAY
from stackwright.validation.files import check_files, find_newest_s, inspect_files
from stackwright.validation.ports import SeenPort, check_ports, probe_ports
from stackwright.validation.secrets import check_secrets, inspect_secrets

from tests.planning_requests import plan_for, recorded


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack whose files are all as they should be."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    made = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
    write_files({made.generated: compare_files(tmp_path, made.generated, render_plan(plan))})
    ensure_secrets(made.secrets, {}, tmp_path / "hf")
    return made


def check_all(stack: Stack) -> tuple[Finding, ...]:
    """Check files and secrets."""
    return (*check_files(stack, inspect_files(stack)), *check_secrets(stack, inspect_secrets(stack)))


def test_files_as_rendered_have_no_finding(stack: Stack) -> None:
    assert check_all(stack) == ()


def remove(path: str) -> Callable[[Path], object]:
    """Return what takes a file away."""
    return lambda root: (root / path).unlink()


def open_to_all(path: str) -> Callable[[Path], object]:
    """Return what opens a file to others."""
    return lambda root: (root / path).chmod(0o644)


def write(path: str, content: bytes) -> Callable[[Path], object]:
    """Return what writes into a file."""
    return lambda root: (root / path).write_bytes(content)


KEY = "envs/.secrets/prod/litellm_master_key"
REDIS = "envs/.secrets/prod/redis_password"
TOKEN = "envs/.secrets/prod/hf_token"
OVERRIDE = "compose/generated/prod/override.yaml"
MANIFEST = "compose/generated/prod/manifest.json"


@pytest.mark.parametrize(
    ("harm", "check", "severity", "found"),
    [
        (remove(OVERRIDE), "file-missing", "error", f"no readable {OVERRIDE}"),
        (open_to_all(OVERRIDE), "file-mode", "error", f"{OVERRIDE} is readable by others"),
        (write(OVERRIDE, b"\xff"), "file-edited", "warning", f"{OVERRIDE} was edited after rendering"),
        (remove(MANIFEST), "file-missing", "error", "no readable manifest.json in {generated}"),
        (write(MANIFEST, b"["), "file-missing", "error", "no readable manifest.json in {generated}"),
        (write(MANIFEST, b"[" * 100_000), "file-missing", "error", "no readable manifest.json in {generated}"),
        (remove(KEY), "secret-missing", "error", "no readable {root}/" + KEY),
        (open_to_all(KEY), "secret-mode", "error", "{root}/" + KEY + " is readable by others"),
        (write(KEY, b"sk-1234"), "secret-weak", "error", "litellm_master_key is a well-known default"),
        (
            write(KEY, b"\xff" * 8),
            "secret-weak",
            "error",
            "litellm_master_key has 8 characters; 32 are needed",
        ),
        (remove(REDIS), "secret-missing", "error", "no readable {root}/" + REDIS),
        (open_to_all(TOKEN), "secret-mode", "error", "{root}/" + TOKEN + " is readable by others"),
        (
            lambda root: (root / KEY).parent.chmod(0o755),
            "secret-mode",
            "error",
            "{root}/envs/.secrets/prod is accessible to others",
        ),
    ],
    ids=[
        "gone",
        "open",
        "edited",
        "no-list",
        "damaged-list",
        "nested-list",
        "no-key",
        "open-key",
        "weak-key",
        "no-text",
        "no-password",
        "open-token",
        "open-folder",
    ],
)
def test_what_was_harmed_is_named_with_its_remedy(
    harm: Callable[[Path], object], check: str, severity: str, found: str, stack: Stack
) -> None:
    harm(stack.root)
    (finding,) = check_all(stack)
    assert (finding.check, finding.severity.value) == (check, severity)
    assert finding.found == found.format(root=stack.root, generated=stack.generated)
    assert "`" in finding.fix


def test_every_finding_comes_at_once(stack: Stack) -> None:
    for harm in (remove(OVERRIDE), open_to_all("envs/.env.prod"), remove(KEY)):
        harm(stack.root)
    assert [finding.check for finding in check_all(stack)] == ["file-missing", "file-mode", "secret-missing"]


@pytest.mark.parametrize(
    ("text", "check"),
    [(None, "secret-missing"), ("\n", "secret-missing"), ("a\nb\n", "secret-unusable"), ("a\n", None)],
)
def test_a_clouds_key_is_for_a_person_to_bring(text: str | None, check: str | None, stack: Stack) -> None:
    cloud = CloudModel(name="away", model="openai/big", key="mine")
    plan = replace(stack.plan, gateway=replace(stack.plan.gateway, cloud=(cloud,)))
    path = stack.secrets / "cloud_mine_key"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    cloudy = replace(stack, plan=plan)
    found = tuple(check_secrets(cloudy, inspect_secrets(cloudy)))
    assert [finding.check for finding in found] == ([check] if check else [])
    assert all(str(path) in finding.fix for finding in found)


def test_a_file_of_somebody_else_is_named(stack: Stack) -> None:
    """Whoever owns a file may change what runs."""
    other = Stack(root=stack.root, state=stack.state, plan=stack.plan, env={**stack.env, "STACKWRIGHT_UID": "4711"})
    path = stack.root / OVERRIDE
    if os.getuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 4712, -1)
    (finding,) = check_files(other, inspect_files(other))
    assert (finding.check, finding.found) == ("file-owner", f"{OVERRIDE} is owned by user 4712")
    os.chown(path, 4711, -1)
    assert tuple(check_files(other, inspect_files(other))) == ()


def test_a_persons_own_file_is_to_be_private_too(stack: Stack) -> None:
    local = stack.root / "envs/.env.prod.local"
    local.write_text("LITELLM_NUM_WORKERS=2\n", encoding="utf-8")
    local.chmod(0o640)
    (finding,) = check_files(stack, inspect_files(stack))
    assert (finding.check, finding.severity.value) == ("file-mode", "warning")
    assert finding.found == "envs/.env.prod.local is readable by others"
    local.chmod(0o600)
    assert tuple(check_files(stack, inspect_files(stack))) == ()


def test_the_newest_file_is_told(stack: Stack) -> None:
    os.utime(stack.root / OVERRIDE, (4e9, 4e9))
    assert find_newest_s(stack) == 4e9
    write(MANIFEST, b"[")(stack.root)
    assert find_newest_s(stack) is None


def seen_ports(env: Mapping[str, str]) -> tuple[SeenPort, ...]:
    """Look at the gateway's port."""
    return probe_ports([GATEWAY], lambda setting: env[setting.key])


def test_a_port_is_free_until_someone_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {"GATEWAY_BIND": "127.0.0.1", "GATEWAY_PORT": str(taken.getsockname()[1])}
        taken.listen()
        (port,) = seen_ports(env)
    (finding,) = check_ports([replace(port, listener="nginx (pid 7)")], "dev", {})
    assert finding.found == f"127.0.0.1:{env['GATEWAY_PORT']}: Address already in use, by nginx (pid 7)"
    assert (
        finding.fix
        == "stop the program that listens there, or choose another port: `configure-gpu dev --set GATEWAY_PORT=…`"
    )
    assert tuple(check_ports(seen_ports(env), "dev", {})) == ()


def test_two_services_of_a_stack_do_not_share_a_port() -> None:
    free = SeenPort(
        service=GATEWAY, address="127.0.0.1:4000", port_key="GATEWAY_PORT", bind_key="GATEWAY_BIND", refusal=None
    )
    page = replace(free, port_key="WEBUI_PORT", bind_key="SERVICES_BIND")
    assert list(check_ports([free, replace(page, address="127.0.0.1:3000")], "dev", {})) == []
    (finding,) = check_ports([free, page], "dev", {})
    assert finding.found == "WEBUI_PORT and GATEWAY_PORT are one port, 127.0.0.1:4000"
    assert finding.fix == "choose another port: `configure-gpu dev --set WEBUI_PORT=…`"


def test_an_address_of_another_machine_is_not_blamed_on_a_listener() -> None:
    """192.0.2.0/24 belongs to documentation (RFC 5737): no machine has it."""
    env = {"GATEWAY_BIND": "192.0.2.1", "GATEWAY_PORT": "4000"}
    (finding,) = check_ports(seen_ports(env), "dev", {})
    assert (finding.check, finding.found) == ("address-unknown", "192.0.2.1 is not an address of this machine")
    assert finding.fix.startswith("correct gateway.bind in envs/dev.yaml, ")


@pytest.mark.parametrize(
    ("value", "origin", "source", "fix"),
    [
        ("192.0.2.1", Origin.PINNED, "--set", "plan without `--set GATEWAY_BIND=…`, "),
        ("192.0.2.1", Origin.WISHED, "envs/dev.yaml", "correct gateway.bind in envs/dev.yaml, "),
        (
            "192.0.2.1",
            Origin.WISHED,
            "envs/dev.yaml: settings.GATEWAY_BIND",
            "correct GATEWAY_BIND in envs/dev.yaml, ",
        ),
        ("127.0.0.1", Origin.WISHED, "envs/dev.yaml", "correct GATEWAY_BIND in envs/.env.dev.local"),
    ],
)
def test_a_wrong_address_is_corrected_where_it_was_written(value: str, origin: Origin, source: str, fix: str) -> None:
    env = {"GATEWAY_BIND": "192.0.2.1", "GATEWAY_PORT": "4000"}
    planned = {"GATEWAY_BIND": Setting(value=value, reason="", source=source, origin=origin)}
    (finding,) = check_ports(seen_ports(env), "dev", planned)
    assert finding.fix.startswith(fix)
