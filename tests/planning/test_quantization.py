"""Which formats a GPU runs, and which published checkpoint is advised where a model does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from stackwright.catalog.load import load_catalog, load_llms
from stackwright.domain.model_facts import CatalogLlm, Checkpoint, WeightFormat
from stackwright.engines.vllm.engine import VLLM
from stackwright.planning.quantization import Kernel, advise_checkpoint, find_kernel, order_by_loss

F = WeightFormat
RULES = VLLM.format_rules(load_catalog(), "0.33.0")


def row(name: str) -> CatalogLlm:
    """Return one row of the real catalog."""
    return next(each for each in load_llms() if each.name == name)


@pytest.mark.parametrize(
    ("weight_format", "kernels"),
    [
        # compute capability: 7.0 V100, 7.5 T4, 8.0 A100, 8.6 3090, 8.9 4090, 9.0 H100, 10.0 B200, 12.0 5090
        (F.BF16, "native native native native native native native native"),
        (F.FP8, "- weight-only weight-only weight-only native native native native"),
        (F.INT8, "- native native native native native native native"),
        (F.NVFP4, "- weight-only weight-only weight-only weight-only weight-only native native"),
        (F.MXFP4, "- - weight-only weight-only weight-only weight-only native native"),
        (F.AWQ, "- weight-only weight-only weight-only weight-only weight-only weight-only weight-only"),
        (F.GPTQ, "older weight-only weight-only weight-only weight-only weight-only weight-only weight-only"),
        (F.GPTQ8, "older weight-only weight-only weight-only weight-only weight-only weight-only weight-only"),
        (F.INT4, "- weight-only weight-only weight-only weight-only weight-only weight-only weight-only"),
        (F.GGUF, "- - - - - - - -"),
    ],
)
def test_kernels_by_capability(weight_format: WeightFormat, kernels: str) -> None:
    capabilities = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
    found = [find_kernel(RULES, weight_format, capability) for capability in capabilities]
    assert " ".join(kernel or "-" for kernel in found) == kernels


@pytest.mark.parametrize(
    ("version", "kernels"),
    [
        ("0.8.5", "- older - -"),  # Marlin begins with Ampere
        ("0.12.0", "- weight-only - weight-only"),  # integers from Turing on
        ("0.14.0", "weight-only weight-only weight-only weight-only"),
        ("0.14.9", "weight-only weight-only weight-only weight-only"),  # nobody read it: as the one before
        (None, "weight-only weight-only weight-only weight-only"),
        ("0.5.0", "- older - -"),
    ],
)
def test_kernels_of_a_t4_by_release(version: str | None, kernels: str) -> None:
    rules = VLLM.format_rules(load_catalog(), version)
    found = [find_kernel(rules, weight_format, "7.5") for weight_format in (F.FP8, F.AWQ, F.NVFP4, F.INT4)]
    assert " ".join(kernel or "-" for kernel in found) == kernels


@pytest.mark.parametrize(("version", "least"), [("0.26.0", "8.9"), ("0.33.0", "8.0")])
def test_modelopt_asks_for_more_than_other_fp8(version: str, least: str) -> None:
    rules = VLLM.format_rules(load_catalog(), version)
    capabilities = ("7.5", "8.0", "8.6", "8.9", "9.0")
    assert next(each for each in capabilities if find_kernel(rules, F.FP8, each, "modelopt")) == least
    assert next(each for each in capabilities if find_kernel(rules, F.FP8, each)) == "7.5"


def test_a_cpu_runs_plain_formats_only() -> None:
    assert [each for each in F if find_kernel(RULES, each, None)] == [F.FP32, F.BF16, F.FP16]


def test_a_gpu_that_vllm_refuses_runs_nothing() -> None:
    assert [each for each in F if find_kernel(RULES, each, "6.1")] == []


def test_blackwell_takes_nvfp4_before_int4_and_ampere_the_other_way() -> None:
    formats = {
        capability: [each.format for each in order_by_loss(RULES, row("llama-3.1-8b"), capability)]
        for capability in ("12.0", "8.6")
    }
    assert formats["12.0"] == [F.BF16, F.FP8, F.INT8, F.NVFP4, F.AWQ, F.GPTQ]
    assert formats["8.6"] == [F.BF16, F.INT8, F.FP8, F.NVFP4, F.AWQ, F.GPTQ]


def test_the_publishers_own_checkpoint_comes_before_others_of_its_size() -> None:
    four_bits = [each.hub_id for each in order_by_loss(RULES, row("qwen3.5-35b-a3b"), "9.0")]
    assert four_bits == ["Qwen/Qwen3.5-35B-A3B", "Qwen/Qwen3.5-35B-A3B-FP8", "Qwen/Qwen3.5-35B-A3B-GPTQ-Int4"]


def within(limit: int) -> Callable[[Checkpoint], bool | None]:
    """Return a judge of what fits into so many GiB."""

    def fits(checkpoint: Checkpoint) -> bool | None:
        return None if checkpoint.weight_bytes is None else checkpoint.weight_bytes <= limit * 2**30

    return fits


@pytest.mark.parametrize(
    ("name", "capability", "limit", "hub_id"),
    [
        ("qwen3-32b", "8.9", 80, "Qwen/Qwen3-32B"),
        ("qwen3-32b", "8.9", 40, "Qwen/Qwen3-32B-FP8"),
        ("qwen3-32b", "8.9", 20, "Qwen/Qwen3-32B-AWQ"),
        ("qwen3-32b", "7.5", 40, "Qwen/Qwen3-32B-FP8"),
        ("llama-3.3-70b", "12.0", 45, "nvidia/Llama-3.3-70B-Instruct-NVFP4"),
        ("qwen2.5-72b", "8.6", 16, None),
    ],
)
def test_the_least_loss_that_fits(name: str, capability: str, limit: int, hub_id: str | None) -> None:
    advice = advise_checkpoint(RULES, row(name), capability, within(limit))
    assert (advice.checkpoint.hub_id if advice.checkpoint else None) == hub_id


def test_advice_says_what_it_is_and_what_was_refused() -> None:
    advice = advise_checkpoint(RULES, row("qwen3-32b"), "8.6", within(40), instead_of="Qwen/Qwen3-32B")
    assert advice.sentence == "FP8, 32.0 GiB, decompressed at run time"
    assert advice.kernel is Kernel.WEIGHT_ONLY
    assert advice.refused == ()


def test_nothing_that_fits_is_said_with_every_reason() -> None:
    advice = advise_checkpoint(
        RULES, row("qwen2.5-72b"), "8.6", lambda _: False, instead_of="Qwen/Qwen2.5-72B-Instruct"
    )
    assert advice.checkpoint is None
    assert advice.sentence == (
        "no catalog checkpoint of qwen2.5-72b fits (Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8: does not fit; "
        "Qwen/Qwen2.5-72B-Instruct-AWQ: does not fit; Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4: does not fit)"
    )


def test_what_nobody_can_know_is_not_advised() -> None:
    advice = advise_checkpoint(RULES, row("qwen3-8b"), "8.9", lambda _: None)
    assert advice.checkpoint is None
    assert {each.reason for each in advice.refused} == {"may not fit"}


def test_without_a_token_nothing_that_may_be_gated() -> None:
    advice = advise_checkpoint(RULES, row("llama-3.1-8b"), "8.9", lambda _: True, has_token=False)
    assert advice.checkpoint is not None
    assert advice.checkpoint.gated is False
    assert "meta-llama/Llama-3.1-8B-Instruct" in {each.checkpoint.hub_id for each in advice.refused}


def test_a_model_with_one_checkpoint_has_no_other() -> None:
    advice = advise_checkpoint(RULES, row("gemma-3-1b"), "8.9", lambda _: True, instead_of="google/gemma-3-1b-it")
    assert advice.sentence == "the catalog has no other checkpoint of gemma-3-1b"
