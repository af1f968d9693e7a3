"""What is written where: never over wishes that a person wrote, and nothing at all where it is only shown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.importing.conftest import Importer, host_file

ROOT = Path(__file__).resolve().parents[2]
SETUP = """\
services:
  v:
    image: vllm/vllm-openai:latest
    command: --model Qwen/Qwen3-0.6B --max-num-seqs 4
"""


@pytest.fixture
def setup(importer: Importer) -> Importer:
    """Write a small setup."""
    (importer.folder / "compose.yml").write_text(SETUP, encoding="utf-8")
    return importer


def files(folder: Path) -> list[str]:
    """Name everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_shown(setup: Importer) -> None:
    ran = setup.run("compose.yml", "prod", "--dry-run")
    assert ran.code == 0
    assert "VLLM_MAX_NUM_SEQS: 4  # compose.yml:4" in ran.out
    assert not setup.project.exists()


def test_the_shipped_file_is_written_over_and_no_other(setup: Importer) -> None:
    ran = setup.run("compose.yml", "prod", environment="prod")
    assert (ran.code, "models:" in ran.wishes) == (0, True)
    shipped = (setup.project / "envs" / "dev.yaml").read_text("utf-8")
    assert "models:" not in shipped.replace("#", "")


def test_wishes_of_a_person_are_in_the_way(setup: Importer) -> None:
    assert setup.run("compose.yml").code == 0
    target = setup.project / "envs" / "dev.yaml"
    target.write_text(target.read_text("utf-8") + "# mine\n", encoding="utf-8")
    before = files(setup.project)

    ran = setup.run("compose.yml")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        f"error: {target}: holds wishes of yours, which are not written over",
        "hint: --dry-run prints what would be written; --replace keeps the old file beside it",
    ]
    assert target.read_text("utf-8").endswith("# mine\n")
    assert files(setup.project) == before


def test_replacing_keeps_every_old_file(setup: Importer) -> None:
    target = setup.project / "envs" / "dev.yaml"
    assert setup.run("compose.yml").code == 0
    for number in (1, 2):
        target.write_text(f"# mine {number}\n", encoding="utf-8")
        assert setup.run("compose.yml", "--replace").code == 0
    old = [target.with_name(f"dev.yaml.{number}.old").read_text("utf-8") for number in (1, 2)]
    assert old == ["# mine 1\n", "# mine 2\n"]
    assert "models:" in target.read_text("utf-8")


def test_a_second_import_of_the_same_changes_nothing(setup: Importer) -> None:
    first = setup.run("compose.yml")
    target = setup.project / "envs" / "dev.yaml"
    assert setup.run("compose.yml", "--replace").code == 0
    assert target.read_text("utf-8") == first.wishes
    assert not target.with_name("dev.yaml.1.old").exists()


def test_the_document(setup: Importer) -> None:
    document = json.loads(setup.run("compose.yml", "--json", "--host", host_file("1x-rtx3090")).out)
    assert set(document) == {"environment", "file", "written", "wishes", "notes", "host", "unjudged", "refusal"}
    assert document["written"] is True
    assert document["refusal"] is None
    assert {note["fate"] for note in document["notes"]} <= {
        *("taken", "dropped", "secret", "unsafe", "would not start", "unknown")
    }
    assert {"at": {"file": "compose.yml", "line": 4}, "fate": "taken"}.items() <= document["notes"][-1].items()


def test_a_host_without_gpus_judges_nothing(setup: Importer) -> None:
    ran = setup.run("compose.yml", "--dry-run", "--host", host_file("cpu-small"))
    assert ran.code == 0
    assert "warning: not judged on a host:" in ran.err
    assert "VLLM_MAX_NUM_SEQS: 4" in ran.out


def test_a_floating_image_is_judged_as_what_it_is_now(setup: Importer) -> None:
    ran = setup.run("compose.yml", "--dry-run", "--host", host_file("1x-rtx3090"))
    assert "would not start  vllm/vllm-openai:latest: it is 0.3" in ran.err
    assert "driver 550.54.15" in ran.err


def test_an_override_that_compose_would_read_is_named(setup: Importer) -> None:
    (setup.folder / "compose.override.yml").write_text("services: {}\n", encoding="utf-8")
    assert (
        "warning: compose.override.yml is not read; name it behind compose.yml"
        in setup.run("compose.yml", "--dry-run").err
    )
    assert "is not read" not in setup.run("compose.yml", "compose.override.yml", "--dry-run").err


def test_what_the_shell_sets_beats_the_file(setup: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    (setup.folder / ".env").write_text("SEQS=8\nMODEL=Qwen/Qwen3-1.7B\n", encoding="utf-8")
    text = SETUP.replace("Qwen/Qwen3-0.6B", "$MODEL").replace("seqs 4", "seqs ${SEQS}")
    (setup.folder / "compose.yml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("SEQS", "16")
    out = setup.run("compose.yml", "--dry-run").out
    assert "VLLM_MAX_NUM_SEQS: 16" in out
    assert "name: Qwen/Qwen3-1.7B" in out


def test_what_all_environments_wish_for_counts(setup: Importer) -> None:
    """A pin in envs/common.yaml may stand against what the file asks for."""
    assert setup.run("compose.yml", "prod", environment="prod").code == 0
    common = setup.project / "envs" / "common.yaml"
    common.write_text("schema: 1\nsettings: {VLLM_TENSOR_PARALLEL_SIZE: 2}\n", encoding="utf-8")
    ran = setup.run("compose.yml", "--dry-run", "--host", host_file("1x-h200"))
    assert "no plan for" in ran.err
    assert "tensor parallel 2" in ran.err


@pytest.mark.subprocess
def test_in_a_clone_too_edited_wishes_are_in_the_way(tmp_path: Path) -> None:
    """What lies in the clone is not what was shipped, once a person has edited it."""
    clone = tmp_path / "clone"
    unwanted = shutil.ignore_patterns("__pycache__", "generated", ".*")
    for name in ("generator", "compose", "envs"):
        shutil.copytree(ROOT / name, clone / name, ignore=unwanted)
    (tmp_path / "compose.yml").write_text(SETUP, encoding="utf-8")
    target = clone / "envs" / "prod.yaml"
    mine = target.read_text(encoding="utf-8").replace("port: 4002", "port: 4333")
    target.write_text(mine, encoding="utf-8")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "stackwright", "import", "compose.yml", "prod", *words]
        command.append(f"--host={host_file('cpu-small')}")
        variables = os.environ | {"PYTHONPATH": str(clone / "generator"), "HF_HUB_OFFLINE": "1"}
        host = f"--host={host_file('cpu-small')}"
        return subprocess.run(
            [*command, host], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )

    ended = run()
    assert (ended.returncode, target.read_text(encoding="utf-8")) == (2, mine), ended.stderr
    assert f"error: {target}: holds wishes of yours, which are not written over" in ended.stderr
    ended = run("--replace")
    assert (ended.returncode, target.with_name("prod.yaml.1.old").read_text(encoding="utf-8")) == (0, mine)
    assert "port: 4002" in target.read_text(encoding="utf-8")
