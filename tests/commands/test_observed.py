"""`fit --observed`: a real start beside its forecast, on recorded hosts; and the case file that comes of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml
from stackwright.commands.fit import add_arguments, read_arguments, run
from stackwright.errors import UsageError

from benchmarks.forecast import score
from benchmarks.observed import read_cases
from tests.engines.vllm.start_logs import FIRST_ENGINE, NEWEST, NO_ROOM, TWO_RANKS

ROOT = Path(__file__).parents[2]
HOST = str(ROOT / "tests/hosts/1x-rtx3090/host.yaml")
CASES = ROOT / "benchmarks/cases"


def observe(log: Path, *words: str) -> None:
    """Run `fit --observed` for a host with a 3090."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(read_arguments(parser.parse_args(["--observed", str(log), "--host", HOST, *words])))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give the log of a start of Qwen3-8B on a 3090."""
    path = tmp_path / "engine.log"
    path.write_text(NEWEST, encoding="utf-8")
    return path


def test_every_line_is_compared(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observe(log, "--json")
    printed = json.loads(capsys.readouterr().out)
    lines = {line["name"]: line for line in printed["lines"]}
    assert printed["observed"]["model"] == "Qwen/Qwen3-8B"
    assert lines["weights"]["difference"] == lines["weights"]["forecast"] - lines["weights"]["measured"]
    assert abs(lines["weights"]["percent"]) < 1
    assert [name for name, line in lines.items() if line["measured"] is None] == []


def test_words_name_release_model_flags_and_outcome(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observe(log)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("vLLM 0.33.0, Qwen/Qwen3-8B: max_model_len 16384, gpu_memory_utilization 0.9")
    assert out[-1] == "the start: fit; the forecast: fits"
    assert any(line.startswith("  weights ") and "15.27 GiB" in line and " %)" in line for line in out)


def test_the_command_line_beats_the_log(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observe(log, "--json", "--gpu-memory-utilization", "0.5", "--model", "Qwen/Qwen3-14B")
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "does-not-fit"


def test_a_log_of_another_gpu_is_compared_with_its_own_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "engine.log"
    path.write_text(NEWEST.replace("23.31/23.58", "78.9/79.19").replace("21.22", "71.27"), encoding="utf-8")
    observe(path, "--json")
    total = next(line for line in json.loads(capsys.readouterr().out)["lines"] if line["name"] == "total")
    assert total["forecast"] == total["measured"]


def test_a_case_can_be_scored_and_tells_of_nobody(log: Path, tmp_path: Path) -> None:
    observe(log, "--case", str(tmp_path / "case.yaml"))
    text = (tmp_path / "case.yaml").read_text(encoding="utf-8")
    assert not any(word in text for word in ("alice", "sk-very", "/home", str(tmp_path)))
    (case,) = read_cases(tmp_path / "case.yaml", CASES / "configs.yaml", CASES / "readings.yaml")
    row = score(case)
    assert (case.failed, case.kv_tokens, case.settings.version) == (False, 34288, "0.33.0")
    assert row.weights_error["ours"] is not None
    assert row.verdict["ours"] == "fits"


def test_a_case_is_written_over_an_earlier_one_and_nothing_else(log: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is there already, and is no case"):
        observe(log, "--case", str(notes))
    assert notes.read_text(encoding="utf-8") == "mine\n"
    for _ in range(2):
        observe(log, "--case", str(tmp_path / "case.yaml"))


def test_a_start_can_be_remembered_for_the_next_forecast(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path / "state"))
    observe(log, "--remember")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["--model", "Qwen/Qwen3-8B", "--host", HOST, "--engine", "vllm==0.33.0", "--max-model-len", "8192"]
    run(read_arguments(parser.parse_args([*words, "--max-num-seqs", "64", "--max-num-batched-tokens", "2048"])))
    assert "all but the KV cache measured on this host on 20" in capsys.readouterr().out


def test_a_log_of_more_gpus_than_this_host_has_is_compared_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "engine.log"
    path.write_text(TWO_RANKS, encoding="utf-8")
    observe(path, "--json")
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)["lines"]}
    assert lines["total"]["forecast"] == lines["total"]["measured"]
    assert abs(lines["weights"]["percent"]) < 1


def test_a_case_keeps_the_flags_that_change_memory_without_places(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    told = (
        """'enable_lora': True, 'max_loras': 2, 'speculative_config': {'method': 'eagle', 'model': '/home/you/d'}, """
    )
    path.write_text(NEWEST.replace("'max_num_seqs': 64, ", "'max_num_seqs': 64, " + told), encoding="utf-8")
    observe(path, "--case", str(tmp_path / "case.yaml"))
    text = (tmp_path / "case.yaml").read_text(encoding="utf-8")
    (case,) = read_cases(tmp_path / "case.yaml", CASES / "configs.yaml", CASES / "readings.yaml")
    assert "eve" not in text
    assert (case.settings.lora, case.settings.lora_slots, case.settings.max_num_seqs) == (True, 2, 64)


def test_a_folder_of_a_person_is_named_by_its_last_part(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text(FIRST_ENGINE, encoding="utf-8")
    observe(path, "--model", "Qwen/Qwen2.5-7B-Instruct", "--case", str(tmp_path / "case.yaml"))
    (case,) = yaml.safe_load((tmp_path / "case.yaml").read_text(encoding="utf-8"))["cases"]
    assert (case["model"], case["engine"], case["observed"]["num_gpu_blocks"]) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "V0",
        6537,
    )
    assert "/srv" not in (tmp_path / "case.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("nothing of an engine\n", "no start of an engine in this log", "docker compose logs engine > engine.log"),
        (NO_ROOM, "the start ends before the engine has sized its KV cache", "doctor --log"),
    ],
)
def test_a_log_without_a_cache_is_one_sentence(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = tmp_path / "engine.log"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        observe(path)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_an_unreadable_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        observe(tmp_path / "absent.log")
    assert caught.value.message.endswith("cannot be read: No such file or directory")


@pytest.mark.parametrize("words", [["--case", "file"], ["--remember"], []])
def test_a_case_needs_a_log_and_a_forecast_a_model(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError):
        read_arguments(parser.parse_args(words))
