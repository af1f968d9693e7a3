"""The master key in the folder that the gateway is given, and a link to it where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.project.access_keys import ensure_key_folders, master_key_file, renew_master_key
from stackwright.project.credentials import ensure_secrets, gateway_key, read_gateway_key


@pytest.fixture
def paths(tmp_path: Path) -> EnvironmentPaths:
    """Give an environment with its secrets and folders."""
    made = EnvironmentPaths(root=tmp_path, state=tmp_path / "state", environment=Environment.DEV)
    ensure_secrets(made.secrets, {}, tmp_path / "hf")
    return made


def test_the_master_key_moves_beside_the_other_keys(paths: EnvironmentPaths) -> None:
    key = read_gateway_key(paths.secrets)
    for _ in range(2):
        ensure_key_folders(paths)
        assert gateway_key(paths.secrets).readlink() == Path("keys/litellm_master_key")
        assert (read_gateway_key(paths.secrets), master_key_file(paths).read_text()) == (key, key)
        assert master_key_file(paths).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in master_key_file(paths).parent.iterdir()] == ["litellm_master_key"]


def test_a_key_that_replaced_the_link_takes_its_place(paths: EnvironmentPaths) -> None:
    ensure_key_folders(paths)
    brought = paths.secrets / "new"
    brought.write_text("sk-brought")
    brought.replace(gateway_key(paths.secrets))
    ensure_key_folders(paths)
    assert gateway_key(paths.secrets).is_symlink()
    assert master_key_file(paths).read_text() == "sk-brought"


@pytest.mark.parametrize("gone", ["link", "file"])
def test_a_removed_master_key_is_made_anew(gone: str, paths: EnvironmentPaths, tmp_path: Path) -> None:
    ensure_key_folders(paths)
    before = read_gateway_key(paths.secrets)
    (gateway_key(paths.secrets) if gone == "link" else master_key_file(paths)).unlink()
    ensure_secrets(paths.secrets, {}, tmp_path / "hf")
    ensure_key_folders(paths)
    assert read_gateway_key(paths.secrets) == master_key_file(paths).read_text() != before


def test_another_master_key_is_written_whole(paths: EnvironmentPaths) -> None:
    ensure_key_folders(paths)
    before, file = read_gateway_key(paths.secrets), master_key_file(paths).stat().st_ino
    made = renew_master_key(paths)
    assert read_gateway_key(paths.secrets) == made != before
    assert made.startswith("sk-")
    assert master_key_file(paths).stat().st_ino != file
