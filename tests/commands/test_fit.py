"""`fit`: flags, what it prints, and its exit codes, on recorded hosts with models of the catalog."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.commands.fit import FitArguments, add_arguments, fit, read_arguments
from stackwright.commands.host import choose_gpus
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.forecast import Verdict
from stackwright.domain.host import Host
from stackwright.errors import HostError, NoPlanError, UsageError
from stackwright.units import GIB

from tests.cases.test_architectures import folder_of

HOSTS = Path(__file__).parents[1] / "hosts"


def host(name: str) -> Host:
    return read_snapshot(HOSTS / name / "host.yaml")


def asked(*argv: str) -> FitArguments:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_arguments(parser.parse_args(argv))


def test_json_is_the_promised_document(capsys: pytest.CaptureFixture[str]) -> None:
    answer = fit(asked("--model", "smoke", "--engine", "vllm==0.32.0", "--json"), host("1x-rtx3090"))
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["verdict", "memory", "reasons", "warnings", "lacking_bytes"]
    assert list(printed["memory"]) == [
        *("total_bytes", "budget_bytes", "weights_bytes", "activation_bytes", "cuda_graph_bytes", "overhead_bytes"),
        *("kv_cache_bytes", "kv_bytes_per_token", "kv_cache_tokens", "max_concurrency", "uncertainty_bytes"),
        *("later_kv_cache_bytes", "verdict"),
    ]
    assert (printed["verdict"], answer.verdict) == ("fits", Verdict.FITS)


def test_what_does_not_fit_is_printed_and_exits_4(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoPlanError, match=r"^smoke cannot be served with these settings$") as caught:
        fit(asked("--model", "smoke", "--max-model-len", "40000"), host("1x-rtx3090"))
    assert caught.value.exit_code == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["smoke: does not fit", "  a context of 40,000 tokens exceeds the model's limit of 32,768"]


def test_no_given_setting_is_changed() -> None:
    given = asked(
        "--model", "smoke", "--gpu-memory-utilization", "0.5", "--max-model-len", "4096", "--max-num-seqs", "7"
    )
    answer = fit(given, host("1x-rtx3090"))
    assert answer.max_model_len == 4096
    assert answer.memory.budget_bytes == pytest.approx(answer.memory.total_bytes / 2, abs=1)


def test_flags_of_the_engine_are_taken_by_its_names_and_a_drafter_is_read() -> None:
    words = ("--model", "Qwen/Qwen3-8B", "--max-model-len", "4096", "--engine", "vllm==0.32.0")
    drafter = ("--speculative-config", '{"method": "draft_model", "model": "Qwen/Qwen3-0.6B"}')
    plain, drafted = fit(asked(*words), host("1x-rtx3090")), fit(asked(*words, *drafter), host("1x-rtx3090"))
    eager = fit(asked(*words, "--enforce-eager", "--tensor-parallel-size", "1"), host("1x-rtx3090"))
    assert drafted.memory.weights_bytes - plain.memory.weights_bytes > GIB
    assert (eager.memory.cuda_graph_bytes, drafted.verdict) == (0, Verdict.FITS)


def test_no_size_is_below_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What is lacking is a size of its own."""
    with pytest.raises(NoPlanError):
        fit(asked("--model", "Qwen/Qwen3-32B", "--json"), host("1x-rtx3090"))
    printed = json.loads(capsys.readouterr().out)
    assert min(value for value in printed["memory"].values() if isinstance(value, int | float)) >= 0
    assert printed["memory"]["kv_cache_bytes"] == 0
    assert printed["lacking_bytes"] > 40 * GIB
    # What a later start would have more, or how many blocks nothing has, is no matter then.
    assert len(printed["reasons"]) == 2
    with pytest.raises(NoPlanError):
        fit(asked("--model", "Qwen/Qwen3-Next-80B-A3B-Instruct", "--json"), host("1x-rtx3090"))
    assert len(json.loads(capsys.readouterr().out)["reasons"]) == 2


def test_sizes_of_several_ranks_are_said_to_be_those_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    eight = ("--tensor-parallel", "8")
    fit(asked("--model", "Qwen/Qwen3-32B", *eight), host("8x-h100-nvswitch"))
    several = capsys.readouterr().out
    assert "  per GPU weights 7.7 GiB" in several
    assert "  per GPU 60" in several
    fit(asked("--model", "BAAI/bge-m3"), host("8x-h100-nvswitch"))
    one = capsys.readouterr().out
    assert "per GPU" not in one
    assert "left; the model has no KV cache" in one
    assert "0 B" not in one
    assert "at once" not in one


def test_the_smallest_gpu_of_a_group_decides() -> None:
    mixed = host("mixed-3090-3060")
    assert choose_gpus(mixed, 1).total_bytes > 23 * GIB
    assert choose_gpus(mixed, 2).total_bytes < 12 * GIB


def test_a_gpu_with_mig_on_serves_by_its_slices_alone() -> None:
    sliced = host("a100-seven-slices")
    assert choose_gpus(sliced, 1).total_bytes == 4864 * 2**20
    with pytest.raises(NoPlanError) as caught:
        choose_gpus(sliced, 2)
    assert caught.value.message == "2 GPUs requested, 0 present beside 7 MIG slice(s), which a model cannot span"
    assert choose_gpus(host("a100-mig"), 1).total_bytes > 39 * GIB


def test_wsl_is_seen() -> None:
    assert choose_gpus(host("wsl2-rtx5080"), 1).wsl


def test_too_few_gpus_are_no_plan_and_none_is_a_matter_of_the_host() -> None:
    with pytest.raises(HostError):
        choose_gpus(host("cpu-small"), 1)
    with pytest.raises(NoPlanError, match="2 GPUs requested, 1 present"):
        choose_gpus(host("1x-rtx3090"), 2)


def test_a_release_that_the_catalog_lacks_is_refused_as_plan_does() -> None:
    with pytest.raises(NoPlanError, match=r"vllm 9\.9 is not in the catalog") as caught:
        fit(asked("--model", "smoke", "--engine", "vllm==9.9"), host("1x-rtx3090"))
    assert str(caught.value.hint).endswith("docs/reference/catalog.md lists all")


@pytest.mark.parametrize("text", ["99999999999999999999", "1" * 5000, "0", "many"])
def test_a_wrong_number_is_told_with_its_option_and_both_bounds(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked("--model", "smoke", "--max-model-len", text)
    assert caught.value.message == (
        f"--max-model-len: found `{text[:40]}`, allowed: a whole number from 1 to 2147483647"
    )


@pytest.mark.parametrize("text", ["0", "99999999"])
def test_one_bound_is_told_whatever_is_wrong(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked("--model", "smoke", "--tensor-parallel", text)
    assert caught.value.message == f"--tensor-parallel: found `{text}`, allowed: a whole number from 1 to 1024"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--engine", "tgi"),
        ("--engine", "vllm==newest"),
        ("--max-model-len", "0"),
        ("--max-num-seqs", "many"),
        ("--gpu-memory-utilization", "1.2"),
        ("--gpu-memory-utilization", "nan"),
        # As `--set` refuses them: the bounds are those of the settings.
        ("--gpu-memory-utilization", "1"),
        ("--kv-cache-dtype", "fp6"),
        ("--speculative-config", "ngram"),
        ("--max-lora-rank", "65"),
        ("--dtype", "int8"),
    ],
)
def test_a_wrong_value_is_a_usage_error(flag: str, value: str) -> None:
    with pytest.raises(UsageError):
        fit(asked("--model", "smoke", flag, value), host("1x-rtx3090"))


def test_a_host_without_a_gpu_is_asked_for_its_own_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The same document; the cache is the one that a plan would have, the release the one that a CPU gets."""
    small = host("cpu-small")
    answer = fit(asked("--model", "Qwen/Qwen3-0.6B", "--max-model-len", "4096", "--json"), small)
    printed = json.loads(capsys.readouterr().out)
    assert printed["memory"]["total_bytes"] == small.memory_bytes
    assert (printed["verdict"], answer.max_model_len) == ("fits", 4096)


@pytest.mark.parametrize("more", [["--max-num-seqs", "1024"], []])
def test_more_requests_than_states_have_room_lead_to_fewer(more: list[str]) -> None:
    """The engine's own default is 1024 on this GPU."""
    words = ("--model", "qwen3.6-27b", "--tensor-parallel", "1", "--engine", "vllm==0.32.0")
    with pytest.raises(NoPlanError) as caught:
        fit(asked(*words, *more), host("8x-h100-nvswitch"))
    said = re.fullmatch(r"(\d+) requests at once fit: `--max-num-seqs (\d+)`", str(caught.value.hint))
    assert said
    assert said[1] == said[2]
    assert fit(asked(*words, "--max-num-seqs", said[1]), host("8x-h100-nvswitch")).verdict is not Verdict.DOES_NOT_FIT


def test_fewer_requests_and_a_shorter_length_are_named_together() -> None:
    words = ("--model", "Qwen/Qwen3.5-9B")
    with pytest.raises(NoPlanError) as caught:
        fit(asked(*words), host("1x-rtx3090"))
    said = re.search("`(--max-num-seqs .*)`", str(caught.value.hint))
    assert said
    assert fit(asked(*words, *said[1].split()), host("1x-rtx3090")).verdict is not Verdict.DOES_NOT_FIT


def test_a_host_without_a_gpu_says_which_length_its_cache_holds() -> None:
    with pytest.raises(NoPlanError) as caught:
        fit(asked("--model", "Qwen/Qwen3-0.6B"), host("cpu-small"))
    assert caught.value.hint == "18,560 tokens fit: `--max-model-len 18560`"
    longest = fit(asked("--model", "Qwen/Qwen3-0.6B", "--max-model-len", "18560"), host("cpu-small"))
    assert longest.verdict is Verdict.FITS


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        (
            "cpu-small",
            ("Qwen/Qwen3-32B", "--tensor-parallel", "2"),
            "no context length fits: use a smaller or quantized model, or a host with more memory",
        ),
        (
            "8x-h100-nvswitch",
            ("Qwen/Qwen3-32B", "--tensor-parallel", "3"),
            "--tensor-parallel: sizes that split it: 1, 2, 4, 8",
        ),
        (
            "8x-h100-nvswitch",
            ("Qwen/Qwen3-30B-A3B-FP8", "--tensor-parallel", "4", "--engine", "vllm==0.28.0"),
            "--tensor-parallel: sizes that split it: 1, 2; with --enable-expert-parallel also 4, 8",
        ),
    ],
)
def test_a_hint_is_tried_before_it_is_given(name: str, words: tuple[str, ...], hint: str) -> None:
    with pytest.raises(NoPlanError) as caught:
        fit(asked("--model", *words), host(name))
    assert caught.value.hint == hint


def test_a_share_of_gpu_memory_is_read_by_nobody_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    fit(asked("--model", "smoke", "--gpu-memory-utilization", "0.5"), host("cpu-small"))
    assert "--gpu-memory-utilization has no effect on a processor" in capsys.readouterr().err


def test_a_failing_driver_is_no_host_without_gpus() -> None:
    with pytest.raises(HostError, match="no GPU whose memory is known"):
        fit(asked("--model", "smoke"), host("nvml-mismatch"))


def test_unknown_memory_of_a_host_is_a_matter_of_the_host() -> None:
    with pytest.raises(HostError, match="the host's memory is unknown"):
        fit(asked("--model", "smoke"), replace(host("cpu-small"), memory_bytes=None))


def test_stages_that_a_plan_would_refuse_are_refused(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "Phi4MMForCausalLM")
    with pytest.raises(NoPlanError, match="cannot split this model into pipeline stages"):
        fit(asked("--model", str(model), "--pipeline-parallel", "2"), host("2x-rtx4090"))


def test_a_drafter_that_a_plan_would_refuse_is_refused() -> None:
    words = ("--model", "qwen3-32b", "--engine", "vllm==0.29.0", "--speculative-config", '{"method": "eagle3"}')
    with pytest.raises(NoPlanError, match=r"eagle3, which vLLM 0\.29\.0 refuses with 2 pipeline stages"):
        fit(asked(*words, "--pipeline-parallel", "2"), host("2x-rtx4090"))
