"""`models` and `recommend` as typed: tables, JSON, refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stackwright.catalog.load import load_llms

from tests.cli.commands import Run
from tests.planning_requests import HOSTS

NAMES = {row.name for row in load_llms()}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(params=[60, 120])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def test_the_list_has_every_model_and_the_default_first(run: Run) -> None:
    ran = run("models", host="2x-rtx3090-nvlink")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "2× NVIDIA GeForce RTX 3090, driver 580.95.05 · dev: 80% of each GPU's memory"
    assert lines[1].split() == "MODEL WEIGHTS SIZE CONTEXT AT ONCE GPUS REPLICAS SPLIT NOTES".split()
    plan = run("plan", "--json", host="2x-rtx3090-nvlink").json
    (best,) = [one for one in run("models", "--json", host="2x-rtx3090-nvlink").json["models"] if one["default"]]
    assert lines[2].split()[:2] == [best["name"], "*"]
    assert best["checkpoint"] == plan["settings"]["VLLM_MODEL"]["value"]
    assert str(best["context_tokens"]) == plan["settings"]["VLLM_MAX_MODEL_LEN"]["value"]
    assert {line.split()[0] for line in lines if line and line.split()[0] in NAMES} == NAMES


def test_the_document_is_the_promised_one(run: Run) -> None:
    printed = run("models", "prod", "--json", "--fits", host="1x-rtx3060-12gb").json
    assert list(printed) == ["host", "environment", "models"]
    assert printed["environment"] == "prod"
    assert printed["host"]["gpus"] == [{"name": "NVIDIA GeForce RTX 3060", "memory_bytes": 12884901888}]
    assert list(printed["models"][0]) == [
        *("name", "role", "parameters", "released", "default", "checkpoint", "format", "weight_bytes", "gated"),
        *("verdict", "context_tokens", "requests_at_once", "gpus", "replicas", "tensor_parallel"),
        *("pipeline_parallel", "engine", "memory", "lacks", "reason"),
    ]
    assert {one["verdict"] for one in printed["models"]} <= {"fits", "uncertain"}


@pytest.mark.parametrize("host", ["wsl2-rtx5080", "a100-mig"])
def test_no_line_is_wider_than_the_terminal(run: Run, width: int, host: str) -> None:
    """A command to paste is not broken."""
    for words in (("models", "qwen"), ("models", "qwen3-8b")):
        lines = run(*words, host=host).out.splitlines()
        assert [line for line in lines if len(line) > width and "stackwright" not in line] == []


def test_no_line_of_a_matrix_and_a_recommendation_is_wider_either(run: Run, width: int) -> None:
    for words in (("models", "--matrix", "llama-3.2"), ("recommend", "--model", "llama-3.2-1b", "--all")):
        assert [line for line in run(*words).out.splitlines() if len(line) > width] == []


def test_a_share_and_a_pin_count_as_in_the_plan(run: Run) -> None:
    host = "1x-rtx3090"
    more = run("models", "qwen3-14b", "--gpu-memory-utilization=0.95", "--json", host=host).json["checkpoints"]
    pinned = run("models", "qwen3-14b", "--set", "VLLM_GPU_MEMORY_UTILIZATION=0.95", "--json", host=host).json
    assert more == pinned["checkpoints"]
    (best,) = [one for one in more if one["best"]]
    plan = run(
        *("plan", "--model", best["checkpoint"], "--set", "VLLM_GPU_MEMORY_UTILIZATION=0.95", "--json"), host=host
    ).json
    assert plan["settings"]["VLLM_MAX_MODEL_LEN"]["value"] == str(best["context_tokens"])
    assert plan["replicas"][0]["memory"] == best["memory"]


def test_a_name_compares_its_checkpoints(run: Run) -> None:
    ran = run("models", "Qwen3-32B", host="2x-rtx3090-nvlink")
    lines = ran.out.splitlines()
    assert lines[1].startswith("qwen3-32b · chat · 32.8B parameters · up to 40,960 tokens · ")
    (row,) = [row for row in load_llms() if row.name == "qwen3-32b"]
    assert {line.split()[0] for line in lines[3:-1]} == {checkpoint.hub_id for checkpoint in row.checkpoints}
    assert sum("best" in line for line in lines) == 1
    program, *command = lines[-1].removeprefix("next: ").split()
    assert program.endswith("stackwright")
    assert run(*command[: command.index("--out")], host=None).code == 0


def test_the_processor_of_a_host_with_gpus_by_its_mode(run: Run) -> None:
    ran = run("models", "cpu", "qwen3-0.6b", host="2x-rtx3090-nvlink")
    assert ran.out.startswith("processor ")
    assert run("models", "cpu", "single").told == ("found two modes: cpu and single", "name one")


def test_words_of_several_names_list_those(run: Run) -> None:
    out = run("models", "distill", host="2x-rtx3090-nvlink").out
    assert "deepseek-r1-distill-qwen-14b" in out
    assert "qwen3-32b" not in out


def test_a_role_leaves_out_the_others(run: Run) -> None:
    models = run("models", "--role", "embedding", "--json", host="1x-rtx3090").json["models"]
    assert {one["role"] for one in models} == {"embedding"}
    assert {one["role"] for one in run("models", "--role", "chat", "--json", host="1x-rtx3090").json["models"]} == {
        *("chat", "vision")
    }


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (("models", "qwen3-23b"), "models: the catalog has no model `qwen3-23b`", "did you mean `qwen3-32b`?"),
        (("models", "xyzzy"), "models: the catalog has no model `xyzzy`", "`stackwright models` lists them"),
        (
            ("models", "--role", "chatt"),
            "--role: found `chatt`, allowed: chat, vision, embedding, rerank, transcription",
            "did you mean `chat`?",
        ),
        (("models", "--gpu", "h100"), "--gpu is for the matrix", "add --matrix, or name a host with --host FILE"),
        (
            ("models", "--matrix", "--gpu", "rtx3091"),
            "--gpu: the catalog has no GPU `rtx3091`",
            "did you mean `rtx3090`?",
        ),
        (
            ("models", "--matrix", "--driver", "new"),
            "--driver: found `new`, allowed: numbers such as 550.54",
            "as nvidia-smi says",
        ),
        (
            ("models", "--gpu-memory-utilization", "2"),
            "--gpu-memory-utilization: found `2`, allowed: a share above 0, up to 1",
            "for example 0.9",
        ),
        (("models", "dev", "--env", "prod"), "found two environments: dev and prod", "name one"),
        (("recommend",), "--model is missing", "name one: `stackwright recommend --model qwen3-32b`"),
        (
            ("recommend", "--model", "qwen3-32b", "--requests", "0"),
            "--requests: found `0`, allowed: a whole number from 1 to 100000",
            "for example `--requests 8`",
        ),
        (
            ("recommend", "--model", "qwen3-32b", "--context=-5"),
            "--context: found `-5`, allowed: a whole number from 1 to 100000000",
            "for example `--context 32768`",
        ),
        (
            ("recommend", "--model", "qwen3-32b", "--context", "9999999"),
            "--context: found 9999999, but qwen3-32b takes requests of 40,960 tokens at most",
            "lower it: `--context 40960`, or name another model",
        ),
        (
            ("recommend", "--model", "distill"),
            "--model distill: several models are of that name",
            "name one of deepseek-r1-distill-qwen-14b, deepseek-r1-distill-llama-8b",
        ),
        (
            ("recommend", "--model", "qwen3-23b"),
            "--model: the catalog has no model `qwen3-23b`",
            "did you mean `qwen3-32b`?",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_a_next_step(run: Run, words: tuple[str, ...], error: str, hint: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.told) == (2, (error, hint))


def test_a_host_that_serves_nothing_says_why_once(run: Run) -> None:
    for words in (("models",), ("models", "qwen3-8b")):
        ran = run(*words, host="4x-t4-driver470")
        assert ran.code == 4
        assert ran.out == ""
        assert ran.told[0].startswith("driver 470.256.02 supports CUDA up to 11.4, too little for any vllm image")
        assert "update the NVIDIA driver" in ran.told[1]
    assert run("models", "--json", "--fits", host="4x-t4-driver470").json["models"] == []


def test_a_model_that_fits_in_no_format_ends_with_the_hardware(run: Run) -> None:
    ran = run("models", "deepseek-v3", host="1x-rtx3090")
    assert ran.code == 4
    assert ran.told == (
        "deepseek-v3 does not fit here, in any format that the catalog knows",
        ran.told[1],
    )
    assert "stackwright recommend --model deepseek-v3" in ran.told[1]


def test_a_recommendation_has_prices_with_their_day(run: Run) -> None:
    ran = run("recommend", "--model", "qwen3-32b", "--context", "32768", "--requests", "4")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "qwen3-32b · requests of 32,768 tokens, 4 at once · prod: 90% of each GPU's memory"
    assert "not today's" in ran.out
    printed = run("recommend", "--model", "qwen3-32b", "--context", "32768", "--requests", "4", "--json").json
    for one in printed["recommendations"]:
        assert one["verdict"] == "fits"
        assert one["context_tokens"] >= 32768
        assert one["requests_at_once"] >= 4
        assert (one["price"] is None) == (one["usd_per_hour"] is None)
        assert one["price"] is None or (one["price"]["date"] and one["price"]["source"])
    shown = [line for line in lines if line[:1].isdigit()]
    assert len(shown) == 12
    assert lines[14] == f"and {len(printed['recommendations']) - 12} more: --all"


def test_the_name_of_a_checkpoint_means_it_alone(run: Run) -> None:
    printed = run("recommend", "--model", "Qwen/Qwen3-32B-AWQ", "--json").json
    assert {one["checkpoint"] for one in printed["recommendations"]} == {"Qwen/Qwen3-32B-AWQ"}


def test_what_no_gpu_serves_exits_4(run: Run) -> None:
    ran = run("recommend", "--model", "kimi-k2.5", "--context", "262144", "--requests", "5000")
    assert ran.code == 4
    assert ran.told[0] == "no GPU of the catalog serves kimi-k2.5 so, not even 8 of one kind"


def test_a_model_may_stand_without_its_flag_and_a_gpu_by_the_beginning_of_its_name(run: Run) -> None:
    words = ("--json", "--context", "4096")
    assert run("recommend", "llama-3.2-1b", *words).out == run("recommend", "--model", "llama-3.2-1b", *words).out
    (model,) = run("models", "--matrix", "llama-3.2-1b", "--gpu", "a100", "--json").json["models"]
    assert len(model["gpus"]) == 4
    assert all(each["gpu"].startswith("a100") for each in model["gpus"])


def test_the_matrix_as_json_has_a_reason_for_every_refusal(run: Run) -> None:
    words = ("models", "--matrix", "gemma-3-1b", "--gpu", "T4", "--gpu", "NVIDIA GeForce RTX 3090", "--json")
    (model,) = run(*words).json["models"]
    refused, good = model["gpus"]
    assert (refused["gpu"], refused["fit"], good["gpu"], good["fit"]) == (
        "t4",
        "not-supported",
        "rtx3090",
        "compatible",
    )
    assert "float16" in refused["reason"]
    assert (good["count"], good["reason"]) == (1, None)


def test_where_no_model_of_a_name_fits_the_nearest_leads_to_the_gpus_that_hold_it(run: Run) -> None:
    ran = run("models", "llama 70b", host="1x-rtx3060-12gb")
    assert ran.code == 4
    error, hint = ran.told
    assert error == "no such model of the catalog fits this host"
    assert hint.startswith("`stackwright recommend --model llama-3.")
    assert "--host" not in hint


def test_a_folder_is_not_the_model_that_it_is_called_after(run: Run) -> None:
    for words, host in ((("models", "./qwen3-0.6b"), "1x-rtx3090"), (("recommend", "--model", "~/qwen3-0.6b"), None)):
        ran = run(*words, host=host)
        assert (ran.code, "no such folder" in ran.err) == (2, True)


def test_a_name_longer_than_a_path_is_refused(run: Run) -> None:
    for words in (("models", "x" * 5000), ("recommend", "--model", "x" * 5000)):
        ran = run(*words)
        assert (ran.code, "the catalog has no model `xxx" in ran.err) == (2, True)


def test_the_next_command_plans_what_the_table_shows(run: Run) -> None:
    words = ("--objective=latency", "--set=VLLM_KV_CACHE_DTYPE=fp8", "--gpu-memory-utilization=0.5")
    ran = run("models", "qwen3-8b", "prod", *words, host="2x-rtx3090-nvlink")
    following = next(line for line in ran.out.splitlines() if line.startswith("next: "))
    assert "plan prod --model Qwen/Qwen3-8B" in following
    for word in ("--objective latency", "VLLM_KV_CACHE_DTYPE=fp8", "VLLM_GPU_MEMORY_UTILIZATION=0.5"):
        assert word in following


@pytest.mark.parametrize("words", [("models",), ("models", "qwen3-0.6b"), ("plan",), ("plan", "--model=qwen3-0.6b")])
def test_memory_that_nobody_knows_is_no_want_of_memory(run: Run, around: Path, words: tuple[str, ...]) -> None:
    host = around / "host.yaml"
    text = (HOSTS / "1x-rtx3090" / "host.yaml").read_text()
    host.write_text(re.sub(r"(?m)^(\s.*)memory_bytes: \d+, memory_used", r"\1memory_bytes: null, memory_used", text))
    ran = run(*words, f"--host={host}")
    assert ran.code == 4
    assert ran.told[0] == "the memory of GPU 0 (NVIDIA GeForce RTX 3090) is unknown: the driver does not tell it"


def test_what_takes_no_flag_says_so(run: Run) -> None:
    assert run("models", "qwen3-8b", "--role=embedding").told[0] == "--role is for the list"
    assert run("models", "--matrix", host="cpu-small").told[0].startswith("--host is not for the matrix")
