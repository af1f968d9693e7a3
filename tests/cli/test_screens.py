"""What the screens say is what is in force: the address, the command that comes next, what would change, and hints."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.commands.chat import _read_lines
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.forecast import CAME_UP, EngineSettings, Measured, ObservedStart
from stackwright.watching.remembered import keep_observed

from tests.cli.commands import CPU, Run
from tests.planning_requests import HOSTS

HOST = "cpu-small"


@pytest.fixture
def configured(run: Run, project: Path) -> Path:
    """Give a project folder with dev configured for the processor."""
    assert run(*CPU, host=HOST).code == 0
    return project


def test_the_address_shown_is_the_one_in_force(run: Run, configured: Path) -> None:
    """A person's own file beats the rendered one; a damaged one is what the checks tell of."""
    local = configured / "envs/.env.dev.local"
    local.write_text("GATEWAY_PORT=4148\n", encoding="utf-8")
    for ran in (run("plan", "dev", host=HOST), run(*CPU, host=HOST)):
        shown = ran.out + ran.err
        assert "http://127.0.0.1:4148" in shown
        assert "envs/.env.dev.local overrides GATEWAY_PORT\n" in shown
    local.write_text("not a line\n", encoding="utf-8")
    assert "http://127.0.0.1:4000" in run("plan", "dev", host=HOST).out


def test_what_comes_next_is_what_is_still_to_be_done(run: Run, project: Path) -> None:
    assert "next: " in (first := run("plan", "dev", host=HOST).out)
    assert "configure-gpu dev" in first
    assert run(*CPU, host=HOST).code == 0
    assert "start-environment dev" in run("plan", "dev", host=HOST).out
    assert "configure-gpu dev" in run("plan", "dev", "--set=GATEWAY_PORT=4999", host=HOST).out
    number = json.loads((project / "compose/generated/dev/generations/1/generation.json").read_text())["number"]
    running = {"number": number, "stack": "stackwright-dev", "runtime": "processes", "reads": {}}
    (project / "compose/generated/dev/generations/running.json").write_text(json.dumps(running))
    assert "next: " not in run("plan", "dev", host=HOST).out


def test_what_a_start_has_shown_changes_no_file(run: Run, configured: Path, around: Path) -> None:
    """The forecast of the next plan is a better one, and no setting follows from it."""
    plan = json.loads((configured / "compose/generated/dev/plan.json").read_text())
    (replica,) = plan["replicas"]
    host = read_snapshot(HOSTS / HOST / "host.yaml")
    settings = EngineSettings(version=plan["engine"]["version"], tensor_parallel=1, max_model_len=2048)
    measured = Measured(kv_cache_bytes=replica["memory"]["kv_cache_bytes"], kv_cache_tokens=4096, max_concurrency=2.0)
    start = ObservedStart(
        engine="vllm",
        model=plan["models"][0]["location"],
        settings=settings,
        measured=measured,
        outcome=CAME_UP,
        on_processor=True,
    )
    keep_observed(around / "home/.local/share/stackwright", host, "", "2026-11-30", start)
    assert run("plan", "dev", "--json", host=HOST).json["replicas"][0]["memory"]["kv_cache_tokens"] == 4096
    ran = run(*CPU, "--dry-run", host=HOST)
    assert ran.err.endswith("nothing to change\n"), ran.err
    changed = replace(start, settings=replace(settings, max_model_len=4096))
    assert changed != start
    assert "would change" in run(*CPU, "--dry-run", "--set=VLLM_MAX_MODEL_LEN=4096", host=HOST).err


def test_a_file_that_is_gone_is_drift(run: Run, configured: Path) -> None:
    (configured / "compose/generated/dev/override.yaml").unlink()
    drift = run("status", "dev", "--runtime=processes", "--json").json["drift"]
    assert [row["what"] for row in drift] == [
        "missing: compose/generated/dev/override.yaml; `configure-gpu dev` writes it again"
    ]


def test_a_bad_value_is_corrected_where_it_is_written(run: Run, configured: Path) -> None:
    (configured / "envs/.env.dev.local").write_text("GATEWAY_PORT=http\n", encoding="utf-8")
    assert run("open", "dev").told[1] == "correct or remove it in envs/.env.dev.local"
    (configured / "envs/.env.dev.local").unlink()
    rendered = configured / "envs/.env.dev"
    rendered.write_text(rendered.read_text().replace("GATEWAY_PORT=4000", "GATEWAY_PORT=http"))
    assert run("open", "dev").told[1] == "render the file again: `configure-gpu dev`"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (("plan", "--without=monitorin"), "--without: unknown addition `monitorin`", "did you mean"),
        (("models", ""), "stackwright models: found an empty word", "leave it out"),
        (("models", "qwen3-32x"), "models: the catalog has no model `qwen3-32x`", "did you mean `qwen3-32b`?"),
        (
            ("plan", "--set=VLLM_TENSOR_PARALLEL_SIZE=3"),
            "smoke cannot be served with these settings: 4 attention heads cannot be split over 3 ranks",
            "lower or remove `--set VLLM_TENSOR_PARALLEL_SIZE=…`; sizes that split it: 1, 2, 4",
        ),
        (
            ("plan", "--set=VLLM_MAX_MODEL_LEN=99999999"),
            "smoke cannot be served with these settings: a context of 99,999,999 tokens exceeds",
            "lower `--set VLLM_MAX_MODEL_LEN=…`: 32768 fits",
        ),
    ],
)
def test_a_hint_is_for_what_was_written(words: tuple[str, ...], error: str, hint: str | None, run: Run) -> None:
    ran = run(*words, host="cpu-large")
    assert ran.told[0].startswith(error), ran.err
    assert "are available" not in ran.told[0]
    assert hint is None or ran.told[1].startswith(hint), ran.err


def test_a_file_beside_no_model_names_no_folder(run: Run, around: Path) -> None:
    (around / "README.md").write_text("x", encoding="utf-8")
    ran = run("plan", f"--model={around / 'README.md'}", host=HOST)
    assert ran.told[1] == "name a folder with config.json"
    (around / "config.json").write_text("{}", encoding="utf-8")
    assert run("plan", f"--model={around / 'README.md'}", host=HOST).told[1] == f"`--model {around}`"


def test_a_folder_that_holds_a_snapshot_offers_it(run: Run) -> None:
    ran = run("plan", f"--host={HOSTS / HOST}")
    assert ran.told[1] == f"name the file in it: {HOSTS / HOST / 'host.yaml'}"


def test_slices_have_the_numbers_that_warnings_use(run_plain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # on one line: a broken one has no dot at its end
    shown = " ".join(run_plain("gpus", host="a100-mig").out.split())
    assert "1× 3g.20gb (GPU 2) · 1× 2g.10gb (GPU 3) · 1× 1g.5gb (GPU 4)" in shown


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("schema: 1\n", "`gpu_memory_utilization` is missing", "add `gpu_memory_utilization: 0.9`"),
        ("gpu_memory_utilization: 0.9\n", "`schema` is missing", "add `schema: 1`"),
        (
            "schema: 1\ngpu_memory_utilization: 0.9\ngateway: {port: 1}\n",
            "gateway: `bind` is missing",
            "add `bind: 127.0.0.1`",
        ),
        ("schema: 1\nmodels: [{aliases: [a]}]\n", "models[0]: `name` is missing", "add `name: smoke`"),
        (
            "schema: 1\nservices: [webui]\n",
            "services: expected a mapping, got a list",
            "write `services: {webui: true}`",
        ),
        ("master_key: x\n", "master_key: unknown key", "secrets belong in envs/.secrets/dev/"),
        ("gateway: {hf_token: x}\n", "gateway.hf_token: unknown key", "secrets belong in envs/.secrets/dev/"),
    ],
)
def test_a_file_of_wishes_is_told_with_a_way_out(text: str, error: str, hint: str, run: Run, project: Path) -> None:
    (project / "envs").mkdir(parents=True)
    (project / "envs/dev.yaml").write_text(text, encoding="utf-8")
    told, way = run("plan", "dev", host=HOST).told
    assert told == f"{project}/envs/dev.yaml: {error}"
    assert way.startswith(hint)


def test_a_line_behind_the_last_is_not_named(run: Run, project: Path) -> None:
    (project / "envs").mkdir(parents=True)
    (project / "envs/dev.yaml").write_text("schema: 1\nmodels: [\n", encoding="utf-8")
    told, way = run("plan", "dev", host=HOST).told
    assert told.startswith(f"{project}/envs/dev.yaml:2: ")
    assert way.startswith("correct it there, or remove it")


@pytest.mark.parametrize("word", ["--model=qwen3-32bb", "--model=./nowhere", "multi", "--model=Qwen/Qwen3-32B"])
def test_a_kept_choice_is_not_named_where_it_cannot_be_why(word: str, run: Run) -> None:
    assert run(*CPU, "--set=GATEWAY_PORT=4147", host=HOST).code == 0
    ran = run(*CPU, word, host=HOST)
    assert ran.code in (2, 4), ran.err
    assert "kept from before" not in ran.err


def test_a_kept_setting_of_the_memory_is_named_where_it_does_not_fit(run: Run) -> None:
    assert run(*CPU, "--set=VLLM_CPU_KVCACHE_SPACE=2", host=HOST).code == 0
    ran = run(*CPU, "--model=Qwen/Qwen3-32B", host=HOST)
    assert "kept from before: `--set VLLM_CPU_KVCACHE_SPACE=2`" in ran.told[1]


def test_a_key_that_was_never_kept_is_told(run: Run) -> None:
    assert "dev: --unset VLLM_MAX_MODEL_LEN: it was not kept" in run(*CPU, "--unset=VLLM_MAX_MODEL_LEN", host=HOST).err
    assert run(*CPU, "--set=VLLM_MAX_MODEL_LEN=512", host=HOST).code == 0
    assert "was not kept" not in run(*CPU, "--unset=VLLM_MAX_MODEL_LEN", "--unset=mode", host=HOST).err


def test_a_hint_has_the_name_that_is_known(run: Run) -> None:
    assert run("rollback", "dev", "--to=abc").told[1] == "`stackwright status dev` lists them"


def test_typed_bytes_that_are_no_text_end_no_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\xff\xfe\n")
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        assert list(_read_lines()) == []
