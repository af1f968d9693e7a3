"""Checks that look at the machine: rendered files, secrets, the model's folder, the port."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.credentials import ensure_secrets
from generator.rendering import render_plan
from generator.runtime import Stack
from generator.validation.live import check_files, check_port
from generator.write import compare_files, write_files
from tests.planning_requests import plan_for, recorded


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Give a stack whose files are all as they should be."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    env = {key: setting.value for key, setting in plan.settings.items()}
    made = Stack(root=tmp_path, state=tmp_path / "state", plan=plan, env=env)
    write_files({made.generated: compare_files(tmp_path, made.generated, render_plan(plan))})
    ensure_secrets(made.secrets, {}, tmp_path / "hf")
    return made


def test_files_as_rendered_have_no_finding(stack: Stack) -> None:
    assert check_files(stack) == ()


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
OVERRIDE = "compose/generated/prod/override.yaml"
MANIFEST = "compose/generated/prod/manifest.json"


@pytest.mark.parametrize(
    ("harm", "check", "severity", "found"),
    [
        (remove(OVERRIDE), "file-missing", "error", f"no {OVERRIDE}"),
        (open_to_all(OVERRIDE), "file-mode", "error", f"{OVERRIDE} is readable by others"),
        (write(OVERRIDE, b"\xff"), "file-edited", "warning", f"{OVERRIDE} was edited after rendering"),
        (remove(MANIFEST), "file-missing", "error", "no readable manifest.json in {generated}"),
        (write(MANIFEST, b"["), "file-missing", "error", "no readable manifest.json in {generated}"),
        (write(MANIFEST, b"[" * 100_000), "file-missing", "error", "no readable manifest.json in {generated}"),
        (remove(KEY), "secret-missing", "error", "no {root}/" + KEY),
        (open_to_all(KEY), "secret-mode", "error", "{root}/" + KEY + " is readable by others"),
        (write(KEY, b"sk-1234"), "secret-weak", "error", "a short master key"),
        (write(KEY, b"\xff" * 8), "secret-weak", "error", "a short master key"),
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
    ],
)
def test_what_was_harmed_is_named_with_its_remedy(
    harm: Callable[[Path], object], check: str, severity: str, found: str, stack: Stack
) -> None:
    harm(stack.root)
    (finding,) = check_files(stack)
    assert (finding.check, finding.severity.value) == (check, severity)
    assert finding.found == found.format(root=stack.root, generated=stack.generated)
    assert "`" in finding.fix


def test_every_finding_comes_at_once(stack: Stack) -> None:
    for harm in (remove(OVERRIDE), open_to_all("envs/.env.prod"), remove(KEY)):
        harm(stack.root)
    assert [finding.check for finding in check_files(stack)] == ["file-missing", "file-mode", "secret-missing"]


def test_a_model_folder_without_its_description_is_named(stack: Stack, tmp_path: Path) -> None:
    local = Stack(root=stack.root, state=stack.state, plan=stack.plan, env={**stack.env, "VLLM_MODEL": str(tmp_path)})
    (finding,) = check_files(local)
    assert (finding.check, finding.found) == ("model-missing", f"no config.json in {tmp_path}")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert check_files(local) == ()


def test_a_port_is_free_until_someone_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = {"GATEWAY_BIND": "127.0.0.1", "GATEWAY_PORT": str(taken.getsockname()[1])}
        taken.listen()
        (finding,) = check_port(env, "dev")
    assert finding.found == f"127.0.0.1:{env['GATEWAY_PORT']}: Address already in use"
    assert finding.fix == "stop what listens there, or `configure-gpu --env dev --set GATEWAY_PORT=…`"
    assert check_port(env, "dev") == ()


def test_an_address_of_another_machine_is_not_blamed_on_a_listener() -> None:
    """192.0.2.0/24 belongs to documentation (RFC 5737): no machine has it."""
    (finding,) = check_port({"GATEWAY_BIND": "192.0.2.1", "GATEWAY_PORT": "4000"}, "dev")
    assert (finding.check, finding.found) == ("address-unknown", "192.0.2.1 is no address of this machine")
    assert "gateway.bind" in finding.fix
