"""`stackwright tune`: what it refuses, and what it lists; the search itself runs in tests/integration/test_tune.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.domain.tuning import TuneState
from stackwright.project.searches import keep_search, search_file

from tests.cli.commands import CPU, Run, image
from tests.load.test_search import state as begun

GPUS = "2x-rtx4090"
TUNE = ("tune", "prod", "--dry-run")


@pytest.fixture
def configured(run: Run, project: Path) -> Path:
    """Give a project whose prod is for two GPUs."""
    assert run("configure-gpu", "prod", host=GPUS).code == 0
    return project


def listed(run: Run, *words: str, host: str = GPUS) -> dict[str, list[dict[str, Any]]]:
    """Return what a search would try, by key."""
    done = run(*TUNE, *words, "--json", host=host)
    assert done.code == 0, done.err
    found: dict[str, list[dict[str, Any]]] = {}
    for row in done.json["candidates"]:
        found.setdefault(row["key"], []).append(row)
    return found


def test_a_dry_run_lists_what_would_be_tried_and_why_and_writes_nothing(
    run: Run, configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    before = image(configured)
    done = run(*TUNE, host=GPUS)
    assert done.code == 0, done.err
    assert image(configured) == before
    said = done.err.splitlines()
    assert said[0].startswith("prod: most tokens per second; chat, 64 at once, 256 requests a round, to Qwen/")
    assert said[1] == "10 values of 5 settings to try, within 30 minutes; 3 left out by the forecast"
    assert said[2].startswith("each change restarts the engine, for an unknown time; the load slows other clients")
    assert done.out.splitlines()[0].split() == ["setting", "now", "try", "context", "why,", "or", "why", "not"]
    assert "VLLM_TENSOR_PARALLEL_SIZE       1      2" in done.out
    assert "left out: would shorten the context from " in done.out


def test_what_does_not_fit_is_never_tried(run: Run, configured: Path) -> None:  # noqa: ARG001
    rows = [row for group in listed(run).values() for row in group]
    kept = int(run("plan", "prod", "--json", host=GPUS).json["settings"]["VLLM_MAX_MODEL_LEN"]["value"])
    for row in rows:
        assert (row["objection"] is None) == (row["context"] is not None and int(row["context"]) >= kept)


def test_what_a_person_pinned_or_wrote_is_left_alone(run: Run, configured: Path) -> None:
    every = {
        "VLLM_TENSOR_PARALLEL_SIZE",
        "VLLM_KV_CACHE_DTYPE",
        "VLLM_MAX_NUM_SEQS",
        "VLLM_MAX_NUM_BATCHED_TOKENS",
        "LITELLM_NUM_WORKERS",
    }
    assert set(listed(run)) == every
    assert run("configure-gpu", "prod", "--set=VLLM_MAX_NUM_SEQS=256", host=GPUS).code == 0
    (configured / "envs/.env.prod.local").write_text("LITELLM_NUM_WORKERS=1\n", encoding="utf-8")
    wishes = configured / "envs/prod.yaml"
    text = wishes.read_text(encoding="utf-8").replace("settings: {}", "settings: {VLLM_KV_CACHE_DTYPE: auto}")
    wishes.write_text(text, encoding="utf-8")
    assert run("configure-gpu", "prod", host=GPUS).code == 0
    assert set(listed(run)) == {"VLLM_TENSOR_PARALLEL_SIZE", "VLLM_MAX_NUM_BATCHED_TOKENS"}


def test_the_load_is_as_asked_for(run: Run, configured: Path, tmp_path: Path) -> None:  # noqa: ARG001
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "one"}\n', encoding="utf-8")
    done = run(*TUNE, f"--file={file}", "--concurrency=3", "--requests=7", "--ttft-ms=250", "--json", host=GPUS)
    load = done.json["load"]
    assert (load["at_once"], load["requests"], load["prompts"][:10]) == (3, 7, "mine.jsonl")
    assert done.json["aim"] == {"goal": "throughput", "first_token_ms": 250.0}
    assert "first token within 250 ms (p99)" in run(*TUNE, "--ttft-ms=250", host=GPUS).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dev", "--goal=speed"), "--goal: found `speed`, allowed: throughput, latency"),
        (("dev", "--ttft-ms=0"), "--ttft-ms: found `0`, allowed: milliseconds, 1 to 3600000"),
        (("dev", "--ttft-ms=nan"), "--ttft-ms: found `nan`, allowed: milliseconds, 1 to 3600000"),
        (("dev", "--minutes=0"), "--minutes: found `0`, allowed: a whole number, 1 to 100000"),
        (("dev", "--minutes=1.5"), "--minutes: found `1.5`, allowed: a whole number, 1 to 100000"),
        (("dev", "--concurrency=1,2"), "--concurrency: found `1,2`, allowed: a whole number, 1 to 100000"),
        (("dev", "--preset=chats"), "--preset: found `chats`, allowed: chat, long, batch, agents"),
        (("dev", "--host=h.yaml"), "--host: a search measures this machine"),
        (("devv",), "unknown environment `devv`, allowed: dev, staging, prod, development, production"),
    ],
)
def test_words_that_say_nothing_are_refused(run: Run, words: tuple[str, ...], said: str) -> None:
    done = run("tune", *words)
    assert (done.code, done.told[0]) == (2, said)


def test_an_unknown_model_or_file_is_refused(run: Run, configured: Path, tmp_path: Path) -> None:  # noqa: ARG001
    assert run(*TUNE, "--model=nothing", host=GPUS).told[0] == "prod serves no model `nothing`"
    assert run(*TUNE, f"--file={tmp_path / 'none'}", host=GPUS).told[0].endswith("none: No such file or directory")


@pytest.mark.subprocess
def test_an_environment_that_is_not_there_or_does_not_run_names_the_next_command(run: Run, project: Path) -> None:
    done = run("tune", "dev")
    assert (done.code, done.told) == (5, (f"dev is not configured in {project}", "run `configure-gpu dev`"))
    assert run(*CPU, host="cpu-small").code == 0
    done = run("tune", "dev", "--runtime=processes")
    assert (done.code, done.told) == (6, ("dev: nothing runs", "start it: `start-environment dev`"))


@pytest.fixture
def own(run: Run, project: Path) -> EnvironmentPaths:
    """Give the paths of dev, which is configured."""
    assert run(*CPU, host="cpu-small").code == 0
    return EnvironmentPaths(root=project, state=project, environment=Environment.DEV)


@pytest.mark.subprocess
def test_a_search_that_cannot_be_read_names_the_way_on(run: Run, own: EnvironmentPaths) -> None:
    for text, said in (
        ("{", "cannot be read"),
        ('{"schema": 99}', "not a search of this release"),
        ("[]", "not a search"),
    ):
        search_file(own).write_text(text, encoding="utf-8")
        done = run("tune", "dev", "--runtime=processes")
        assert done.code == 2
        assert said in done.told[0]
        assert done.told[1] == "`stackwright tune dev --restart` begins anew"
    assert run("tune", "dev", "--restart", "--runtime=processes").told[0] == "dev: nothing runs"


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--goal=latency", "--goal: found `latency`, but the search under way has `throughput`"),
        ("--ttft-ms=9", "--ttft-ms: found `9.0`, but the search under way has none"),
        ("--concurrency=5", "--concurrency: found `5`, but the search under way has `4`"),
    ],
)
def test_a_search_under_way_has_its_own_aim_and_load(run: Run, own: EnvironmentPaths, word: str, said: str) -> None:
    keep_search(own, begun())
    done = run("tune", "dev", word, "--runtime=processes")
    assert (done.code, done.told[0]) == (2, said)
    keep_search(own, replace(begun(), ended="done"))
    assert run("tune", "dev", word, "--runtime=processes").told[0] == "dev: nothing runs"


def test_a_stored_search_is_read_as_it_was_written(own: EnvironmentPaths) -> None:
    from stackwright.project.searches import read_search

    keep_search(own, begun())
    found = read_search(own)
    assert isinstance(found, TuneState)
    assert found == begun()
    assert json.loads(search_file(own).read_text(encoding="utf-8"))["schema"] == 1
