"""Secrets: made once, private, whole or not at all, never shown; the hub token from where the hub's own tools look."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from stackwright.errors import UsageError
from stackwright.project.credentials import ensure_secrets, read_gateway_key

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name a secrets folder that is not there yet."""
    return tmp_path / "envs" / ".secrets" / "dev"


def contents(folder: Path) -> dict[str, str]:
    """Return every file with its text, hidden ones too."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def test_secrets_are_strong_private_and_different(folder: Path, tmp_path: Path) -> None:
    ensure_secrets(folder, {}, tmp_path / "hf")
    made = contents(folder)
    assert sorted(made) == [
        "engine_key",
        "hf_token",
        "litellm_master_key",
        "litellm_salt_key",
        "redis_password",
        "tls_certificate",
        "tls_key",
    ]
    # These are a person's own; an empty file says that there is none.
    assert [made.pop(name) for name in ("hf_token", "tls_certificate", "tls_key")] == ["", "", ""]
    assert all(re.fullmatch(r"(sk-)?[0-9a-f]{64}", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_wide_umask_does_not_widen_them(folder: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ensure_secrets(folder, {}, tmp_path / "hf")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_secrets_are_made_once(folder: Path, tmp_path: Path) -> None:
    """Their very files stay: a running container has them mounted."""
    environment = {"HF_TOKEN": TOKEN}
    ensure_secrets(folder, environment, tmp_path / "hf")
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}
    ensure_secrets(folder, environment, tmp_path / "hf")
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_a_secret_that_is_missing_is_made_beside_the_others(folder: Path, tmp_path: Path) -> None:
    ensure_secrets(folder, {}, tmp_path / "hf")
    before = contents(folder)
    (folder / "redis_password").unlink()
    ensure_secrets(folder, {}, tmp_path / "hf")
    after = contents(folder)
    assert after.pop("redis_password") != before.pop("redis_password")
    assert after == before


def test_an_empty_secret_is_made_anew(folder: Path, tmp_path: Path) -> None:
    ensure_secrets(folder, {}, tmp_path / "hf")
    (folder / "litellm_master_key").write_text("", encoding="utf-8")
    ensure_secrets(folder, {}, tmp_path / "hf")
    assert read_gateway_key(folder).startswith("sk-")


def test_a_folder_that_was_open_is_closed(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    ensure_secrets(folder, {}, tmp_path / "hf")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_hub_token_is_taken_where_the_hub_takes_it(folder: Path, tmp_path: Path) -> None:
    """HF_TOKEN, then HF_TOKEN_PATH, then the login's file; without any, the one that is there stays."""
    home, named = tmp_path / "hf", tmp_path / "named"
    home.mkdir()
    (home / "token").write_text("hf_login\n", encoding="utf-8")
    named.write_text("hf_named\n", encoding="utf-8")
    everything = {"HF_TOKEN": " hf_given\n", "HF_TOKEN_PATH": str(named)}
    found = []
    for environment, hub in (
        (everything, home),
        ({"HF_TOKEN_PATH": str(named)}, home),
        ({"HF_TOKEN": ""}, home),
        ({}, tmp_path / "none"),
    ):
        ensure_secrets(folder, environment, hub)
        found.append((folder / "hf_token").read_text(encoding="utf-8"))
    assert found == ["hf_given", "hf_named", "hf_login", "hf_login"]


@pytest.mark.parametrize("token", ["hf_a\nhf_b", "hf_a b", "hf_\u00e9", "hf_\udcff", "hf_\x1b[0m"], ids=ascii)
def test_a_wrong_token_is_refused_without_showing_it(token: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as failure:
        ensure_secrets(folder, {"HF_TOKEN": token}, tmp_path / "hf")
    assert failure.value.message == "HF_TOKEN: not a hub token; a token is one line of letters, digits and signs"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file or directory"), (b"\xff" + TOKEN.encode(), "not UTF-8 text")]
)
def test_a_token_file_that_cannot_be_read_is_named(
    content: bytes | None, reason: str, folder: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named"
    if content is not None:
        named.write_bytes(content)
    with pytest.raises(UsageError) as failure:
        ensure_secrets(folder, {"HF_TOKEN_PATH": str(named)}, tmp_path / "hf")
    assert failure.value.message == f"{named}: the hub token cannot be read: {reason}"
    assert "HF_TOKEN_PATH" in (failure.value.hint or "")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "envs").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError) as failure:
        ensure_secrets(tmp_path / "envs" / ".secrets" / "dev", {}, tmp_path / "hf")
    assert failure.value.message.startswith(str(tmp_path / "envs"))
    assert failure.value.hint == "secrets need a writable envs/ folder"


FILL = """
import resource, signal, sys
from pathlib import Path
from stackwright.project.credentials import ensure_secrets
from stackwright.errors import UsageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    ensure_secrets(Path(sys.argv[1]), {}, Path(sys.argv[1]) / "hf")
except UsageError as failure:
    print(failure.message)
"""


@pytest.mark.subprocess
def test_a_full_disk_leaves_no_part_of_a_secret(folder: Path) -> None:
    """No file may grow beyond ten bytes: the key would be cut, and a cut key is a weak one."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "File too large" in ended.stdout
    assert list(folder.iterdir()) == []


def test_the_key_is_read_back(folder: Path, tmp_path: Path) -> None:
    ensure_secrets(folder, {}, tmp_path / "hf")
    assert read_gateway_key(folder) == (folder / "litellm_master_key").read_text(encoding="ascii")


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b" \n"], ids=ascii)
def test_without_a_key_the_way_to_one_is_told(content: bytes | None, folder: Path) -> None:
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "litellm_master_key").write_bytes(content)
    with pytest.raises(UsageError) as failure:
        read_gateway_key(folder)
    assert failure.value.message == f"{folder / 'litellm_master_key'}: no key yet"
    assert failure.value.hint == "`configure-gpu` creates one"
