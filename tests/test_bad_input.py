"""Wrong input of every kind: one `error:` line, a hint, the documented exit code, and no file changed."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest
from stackwright.cli import main

from tests.cli.commands import named_alone
from tests.integration.project import free_port
from tests.planning_requests import HOSTS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a project folder, with state and caches beside it and no container engine to be asked."""
    for name in ("STACKWRIGHT_STATE", "HF_HOME", "VLLM_CACHE_ROOT", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "around" / name.lower()))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    project = tmp_path / "project"
    project.mkdir()
    return project


def run(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str, list[str]]:
    """Run one command; return its exit code, standard output, and the lines of standard error."""
    code = main([*words, f"--out={folder}"])
    captured = capsys.readouterr()
    return code, captured.out, named_alone(captured.err, folder).splitlines()


def tree(folder: Path) -> dict[str, str]:
    """Return every file below a folder with a hash of mode and content."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CPU_HOST = f"--host={HOSTS / 'cpu-small' / 'host.yaml'}"

WRONG_WORDS = [
    (["start-environment", "prodution"], 2, "unknown environment `prodution`", "did you mean `production`?"),
    (["configure-gpu", "mutli"], 2, "unknown mode or environment `mutli`", "did you mean `multi`?"),
    (["configure-gpu", "--modle", "x"], 2, "unknown flag `--modle`", "did you mean `--model`?"),
    (["confgure-gpu"], 2, "unknown command `confgure-gpu`", "did you mean `configure-gpu`?"),
    (["start-environment", "dev", "--runtime", "compos"], 2, "unknown runtime `compos`", "did you mean `compose`?"),
    (
        ["configure-gpu", "cpu", "--set", "GATEWAY_PROT=1"],
        2,
        "GATEWAY_PROT: unknown setting",
        "did you mean `GATEWAY_PORT`?",
    ),
    (["configure-gpu", "cpu", "--set", "GATEWAY_PORT=0"], 2, "GATEWAY_PORT: found `0`, allowed: a whole number", None),
    (["configure-gpu", "cpu", "--set", "VLLM_IMAGE=a\nX=1"], 2, "VLLM_IMAGE: found", None),
    (["configure-gpu", "cpu", "--set", "GPU_COUNT=2"], 2, "GPU_COUNT is derived from other settings", "it is:"),
    (
        ["configure-gpu", "cpu", "--model", "qwen3-0.6"],
        2,
        "--model qwen3-0.6: not a Hugging Face id",
        "did you mean `qwen3-0.6b`?",
    ),
    (["configure-gpu", "cpu", "--model", "/nowhere/at/all"], 2, "--model /nowhere/at/all: no such folder", None),
    (["configure-gpu", "--host", "/nowhere.yaml"], 3, "/nowhere.yaml: cannot be read", None),
    (["configure-gpu", "multi", CPU_HOST], 4, "no usable GPU: found none", "use `configure-gpu cpu`"),
    (["configure-gpu", "single", CPU_HOST], 4, "no usable GPU: found none", "use `configure-gpu cpu`"),
    (["validate-environment", "dev"], 5, "dev is not configured", "run `configure-gpu dev`"),
    (["stop-environment", "dev"], 5, "dev is not configured", "run `configure-gpu dev`"),
    (["key", "dev"], 2, "no key yet", "`configure-gpu dev` creates one"),
]


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("words", "code", "message", "hint"), WRONG_WORDS, ids=[" ".join(row[0])[:60] for row in WRONG_WORDS]
)
def test_wrong_words_change_nothing(
    words: list[str], code: int, message: str, hint: str | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message stands on one line, the hint on the next, nothing on stdout, nothing on the disk."""
    found, out, lines = run(capsys, folder, *words)
    errors = [line for line in lines if line.startswith("error: ")]
    assert (found, out, len(errors)) == (code, "", 1)
    assert message in errors[0]
    if hint is not None:
        assert any(line.startswith("hint: ") and hint in line for line in lines)
    assert tree(folder.parent) == {}


@pytest.mark.parametrize(
    ("line", "wrong", "code", "message"),
    [
        ("gpu_memory_utilization: 0.80", "gpu_memory_utilisation: 0.80", 2, "gpu_memory_utilisation: unknown key"),
        ("gpu_memory_utilization: 0.80", "gpu_memory_utilization: 1.5", 2, "gpu_memory_utilization: found `1.5`"),
        ("gpu_memory_utilization: 0.80", "gpu_memory_utilization: .nan", 2, "gpu_memory_utilization: found `nan`"),
        ("port: 4000", "port: http", 2, "gateway.port: expected a whole number"),
        ("port: 4000", "port: 99999", 2, "gateway.port: found `99999`"),
        ("bind: 127.0.0.1", "bind: example.com", 2, "gateway.bind: found `example.com`"),
        ("settings: {}", "settings: {VLLM_SHM: 1gb}", 2, "VLLM_SHM: unknown setting"),
        ("settings: {}", "settings: {", 2, "envs/dev.yaml"),
        ("schema: 1", "schema: 99", 2, "schema 99 is newer than this release reads"),
        ("schema: 1", "schema: 1\nschema: 1", 2, "duplicate key 'schema'"),
    ],
)
@pytest.mark.subprocess
def test_a_wrong_wish_is_named_with_its_place(
    line: str, wrong: str, code: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, the key, what was found; and no other file is written."""
    assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev")[0] == 0
    wishes = folder / "envs" / "dev.yaml"
    text = wishes.read_text(encoding="utf-8")
    assert line in text
    wishes.write_text(text.replace(line, wrong), encoding="utf-8")
    before = tree(folder.parent)
    found, out, lines = run(capsys, folder, "configure-gpu", "cpu", "--env=dev")
    assert (found, out) == (code, "")
    assert message in next(line for line in lines if line.startswith("error: "))
    assert tree(folder.parent) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 2\nsomething: new\n", "newer than this Stackwright reads"),
        ("{", "did not find expected"),
        ("[]", "not a host snapshot"),
        ("\x00", "not valid YAML"),
        ("schema: 1", "is missing"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_snapshot_is_exit_3(
    text: str | None, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newer schema is told apart from damage; each has a next step."""
    snapshot = folder.parent / "host.yaml"
    if text is not None:
        snapshot.write_text(text, encoding="utf-8")
    found, out, lines = run(capsys, folder, "plan", f"--host={snapshot}")
    assert (found, out) == (3, "")
    assert message in " ".join(lines)
    assert lines[-1].startswith("hint: ")
    assert tree(folder) == {}


@pytest.mark.subprocess
def test_an_unwritable_folder_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root may write anywhere, so a file stands where a folder should."""
    (folder / "compose").write_text("mine", encoding="utf-8")
    found, _, lines = run(capsys, folder, "configure-gpu", "cpu")
    assert found == 2
    assert "cannot be written" in next(line for line in lines if line.startswith("error: "))
    assert (folder / "compose").read_text(encoding="utf-8") == "mine"


@pytest.mark.subprocess
def test_a_port_in_use_is_exit_5_before_anything_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The finding names the address and the setting that moves it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev", f"--set=GATEWAY_PORT={port}")[0] == 0
        found, _, lines = run(capsys, folder, "start-environment", "dev", "--runtime=processes")
    assert found == 5
    assert any(f"port-taken: 127.0.0.1:{port}" in line for line in lines)
    assert any("GATEWAY_PORT" in line and line.startswith("  fix: ") for line in lines)


@pytest.mark.subprocess
def test_compose_without_an_engine_is_exit_6(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the way without one is named."""
    assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev")[0] == 0
    found, _, lines = run(capsys, folder, "start-environment", "dev", "--runtime=compose")
    assert (found, lines[-2]) == (6, "error: no container engine answers")
    assert "--runtime processes" in lines[-1]


@pytest.mark.subprocess
def test_configuring_twice_changes_no_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run says so."""
    assert run(capsys, folder, "configure-gpu", "cpu")[0] == 0
    before = tree(folder.parent)
    code, out, lines = run(capsys, folder, "configure-gpu", "cpu")
    assert (code, out) == (0, "")
    assert "nothing to change" in lines
    assert tree(folder.parent) == before


@pytest.mark.subprocess
def test_a_dry_run_touches_nothing_and_shows_the_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even the state folder."""
    code, out, lines = run(capsys, folder, "configure-gpu", "cpu", "--dry-run", "--diff")
    assert code == 0
    assert "+++ envs/.env.dev" in out
    assert "would write envs/{.env.dev,.env.staging,.env.prod}" in lines
    assert tree(folder.parent) == {}


@pytest.mark.subprocess
def test_what_a_person_wrote_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The local file is never touched; an edited generated file is kept aside under another name."""
    assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev")[0] == 0
    local, generated = folder / "envs" / ".env.dev.local", folder / "envs" / ".env.dev"
    local.write_text("LITELLM_NUM_WORKERS=1\n", encoding="utf-8")
    generated.write_text(generated.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    code, _, lines = run(capsys, folder, "configure-gpu", "cpu", "--env=dev", "--set=GATEWAY_PORT=4444")
    assert code == 0
    assert local.read_text(encoding="utf-8") == "LITELLM_NUM_WORKERS=1\n"
    assert (folder / "envs" / ".env.dev.edited-1").read_text(encoding="utf-8").endswith("# mine\n")
    assert any("kept as envs/.env.dev.edited-1" in line for line in lines)
    assert "# mine" not in generated.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LITELM_NUM_WORKERS=1\n", "env-unknown-key: LITELM_NUM_WORKERS"),
        ("LITELLM_NUM_WORKERS=many\n", "env-value: LITELLM_NUM_WORKERS=many"),
    ],
)
@pytest.mark.subprocess
def test_a_typo_in_the_local_file_stops_a_start(
    text: str, found: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not pass silently."""
    assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev")[0] == 0
    (folder / "envs" / ".env.dev.local").write_text(text, encoding="utf-8")
    code, _, lines = run(capsys, folder, "validate-environment", "dev", "--runtime=processes")
    assert code == 5
    assert any(found in line for line in lines)


@pytest.mark.parametrize("content", [b"A='hidden\n", b"\xff\xfehidden", b"hidden, no equals sign\n"])
@pytest.mark.subprocess
def test_a_damaged_local_file_is_named_without_its_content(
    content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may hold a secret."""
    assert run(capsys, folder, "configure-gpu", "cpu", "--env=dev")[0] == 0
    (folder / "envs" / ".env.dev.local").write_bytes(content)
    code, out, lines = run(capsys, folder, "validate-environment", "dev", "--runtime=processes")
    assert (code, out) == (5, "")
    error, hint = lines[-2:]
    assert ".env.dev.local" in error
    assert hint == "hint: correct or remove it"
    assert "hidden" not in error + hint


@pytest.mark.subprocess
def test_secrets_are_private_and_shown_only_when_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In no rendered file, in no output but that of `key`; made once."""
    code, out, lines = run(capsys, folder, "configure-gpu", "cpu", "--json")
    assert code == 0
    secrets = folder / "envs" / ".secrets" / "dev"
    assert secrets.stat().st_mode & 0o777 == 0o700
    files = [path for path in secrets.rglob("*") if path.is_file()]
    values = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert [values.pop(name) for name in ("hf_token", "tls_certificate", "tls_key")] == ["", "", ""]
    rendered = "".join(
        path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and secrets.parent not in path.parents
    )
    assert not [name for name, value in values.items() if value in rendered + out + "\n".join(lines)]
    code, out, _ = run(capsys, folder, "key", "development")
    assert (code, out) == (0, values["litellm_master_key"] + "\n")
    assert run(capsys, folder, "configure-gpu", "cpu")[0] == 0
    assert (secrets / "litellm_master_key").read_text(encoding="utf-8") == values["litellm_master_key"]


@pytest.mark.subprocess
def test_json_is_one_document_of_the_promised_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other programs read it."""
    _, out, _ = run(capsys, folder, "configure-gpu", "cpu", "--json")
    document = json.loads(out)
    assert list(document) == ["plans", "files", "findings"]
    assert list(document["plans"]) == ["dev", "staging", "prod"]
    _, out, _ = run(capsys, folder, "plan", "cpu", "--json", "--env=prod")
    plan = json.loads(out)
    parts = "schema environment mode host engine replicas gateway workers settings warnings models additions"
    assert list(plan) == parts.split()
    assert list(plan["engine"]) == ["name", "version", "image", "cuda"]
    assert list(plan["replicas"][0]) == (
        ["name", "model", "gpu_uuids", "tensor_parallel", "pipeline_parallel", "args", "env", "memory"]
    )
    assert list(plan["workers"]) == ["litellm", "multimodal", "retrieval"]
    assert list(plan["settings"]["GATEWAY_PORT"]) == ["value", "reason", "source", "origin"]
    assert run(capsys, folder, "configure-gpu", "cpu", f"--set=GATEWAY_PORT={free_port()}")[0] == 0
    _, out, _ = run(capsys, folder, "validate-environment", "dev", "--runtime=processes", "--json")
    assert [finding["severity"] for finding in json.loads(out)["findings"]] == ["note"]  # vLLM is not installed here


@pytest.mark.subprocess
def test_explain_gives_every_setting_a_reason_and_a_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No value without one."""
    _, out, _ = run(capsys, folder, "plan", "cpu", "--explain")
    _, plain, _ = run(capsys, folder, "plan", "cpu", "--json")
    settings = json.loads(plain)["settings"]
    text = " ".join(out.split())
    assert all(f" {key}=" in text and " ".join(setting["reason"].split()) in text for key, setting in settings.items())
    assert all(setting["reason"] and setting["source"] for setting in settings.values())
