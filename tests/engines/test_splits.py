"""How thin tensor parallelism may cut a quantized model, and what is said of a size that cuts thinner."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Mode
from stackwright.engines.memory.splits import (
    LEAST_EXPERT_GROUP,
    LEAST_RECUT_BLOCK,
    RECUT_METHOD,
    Width,
    split_widths,
)
from stackwright.engines.protocol import EngineNeeds
from stackwright.engines.vllm.memory.releases import recuts_experts
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config
from stackwright.planning.planner import make_plan
from stackwright.planning.request import PlanRequest

from tests.planning_requests import recorded, request

SIZES = (1, 2, 4, 8, 16)
MIXED_WIDTHS = {
    "self_attn.k_proj",
    "self_attn.o_proj",
    "mlp.experts.0.down_proj",
    "mlp.shared_experts.down_proj",
}


def mixed(skipped: list[str]) -> tuple[Width, ...]:
    """Return the widths of a model of one layer with routed and shared experts, in blocks of FP8."""
    text = {
        "hidden_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 640,
        "shared_expert_intermediate_size": 640,
        "vocab_size": 1024,
    }
    own = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": skipped}
    return split_widths(parse_config({"text_config": text, "quantization_config": own}).shape)


@pytest.mark.parametrize(("size", "widths"), [(16, {12_296}), (0, set())])
def test_each_part_of_a_mixed_checkpoint_is_cut_in_its_own_blocks(size: int, widths: set[int]) -> None:
    text = {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 12_296,
        "num_hidden_layers": 1,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 1024,
    }
    row = {"quant_algo": "NVFP4", "group_size": 16} if size else {"quant_algo": "FP8"}
    layers = {f"model.layers.0.mlp.{name}_proj": row for name in ("gate", "up", "down")}
    own = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    found = split_widths(parse_config({**text, "quantization_config": own}).shape)
    assert {width.size for width in found} == widths
    assert {width.block for width in found} == ({size} if widths else set())


def thin(**pins: str) -> PlanRequest:
    """Ask for a model whose experts four ranks cannot split."""
    return request(recorded("8x-h100-nvswitch"), mode=Mode.MULTI, model="Qwen/Qwen3-30B-A3B-FP8", pins=pins)


def allowed(model: str) -> list[int]:
    """Return the sizes that every width of a catalog model allows."""
    facts = request(recorded("8x-h100-nvswitch"), model=model).models[0].facts
    widths = split_widths(facts.config.shape)
    return [size for size in SIZES if all(width.splits(size) for width in widths)]


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("Qwen/Qwen3.6-35B-A3B-FP8", [1, 2, 4]),  # experts are 512 wide, blocks 128
        ("Qwen/Qwen3-4B-FP8", [1, 2, 4]),  # 9728 / 8 = 9.5 blocks
        ("Qwen/Qwen3-8B-AWQ", [1, 2, 4, 8, 16]),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", [1, 2, 4, 8]),  # 768 / 8 = 96: kernels with groups of 32 take over
        ("Qwen/Qwen3-8B", [1, 2, 4, 8, 16]),  # nothing shares a scale
        ("RedHatAI/gemma-4-26B-A4B-it-FP8-dynamic", [1, 2, 4, 8, 16]),  # one scale a channel
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", [1, 2, 4, 8, 16]),  # one scale a matrix
    ],
)
def test_every_rank_keeps_whole_blocks(model: str, sizes: list[int]) -> None:
    assert allowed(model) == sizes


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("Qwen/Qwen3-30B-A3B-FP8", [1, 2, 4, 8]),  # 768 / 8 = 96: three blocks of 32
        ("Qwen/Qwen3.6-35B-A3B-FP8", [1, 2, 4]),  # the shared expert is no routed one
        ("Qwen/Qwen3-4B-FP8", [1, 2, 4]),
    ],
)
def test_fp8_experts_are_cut_finer_by_releases_that_do_so(model: str, sizes: list[int]) -> None:
    config = request(recorded("8x-h100-nvswitch"), model=model).models[0].facts.config
    widths = split_widths(config.shape, recut=True)
    assert [size for size in SIZES if all(width.splits(size) for width in widths)] == sizes


def test_only_the_engines_own_fp8_method_cuts_experts_finer() -> None:
    shape = request(recorded("8x-h100-nvswitch"), model="Qwen/Qwen3-30B-A3B-FP8").models[0].facts.config.shape
    other = replace(shape, quantization=replace(shape.quantization, method="compressed-tensors"))
    assert not any(width.splits(8) for width in split_widths(other, recut=True) if width.expert)
    odd = replace(shape, hidden=shape.hidden + 16)
    assert not any(width.splits(8) for width in split_widths(odd, recut=True) if width.expert)


@pytest.mark.parametrize(
    ("version", "capability", "able"),
    [("0.33.0", (9, 0), True), ("0.29.0", (8, 9), True), ("0.28.0", (9, 0), False), ("0.33.0", (8, 6), False)],
)
def test_experts_are_cut_finer_from_a_release_on_where_triton_has_fp8(
    version: str, capability: tuple[int, int], able: bool
) -> None:
    assert recuts_experts(version, capability) is able


def test_the_least_blocks_are_those_of_the_releases() -> None:
    least = load_catalog().formats().least_blocks
    assert {method: set(bounds) for method, bounds in least.items()} == {"fp8": {"32"}, "moe_wna16": {"32"}}
    assert (RECUT_METHOD, LEAST_RECUT_BLOCK, LEAST_EXPERT_GROUP) == ("fp8", 32, 32)
    (first, last) = least["fp8"]["32"]
    assert recuts_experts(first, (9, 0))
    assert last is None


@pytest.mark.parametrize(("release", "ranks"), [("0.28.0", 4), ("0.33.0", 8)])
def test_a_plan_splits_experts_as_its_release_does(release: str, ranks: int) -> None:
    asked = request(recorded("8x-h100-nvswitch"), mode=Mode.MULTI, model="Qwen/Qwen3-235B-A22B-Instruct-2507-FP8")
    plan = make_plan(replace(asked, needs=EngineNeeds(exact=release)), load_catalog())
    assert {replica.tensor_parallel for replica in plan.replicas} == {ranks}


def test_key_heads_that_are_copied_stay_whole() -> None:
    width = Width(matrix="self_attn.k_proj", size=512, block=128, least=128)
    assert [width.splits(size) for size in SIZES] == [True] * 5
    assert not Width(matrix="self_attn.k_proj", size=512, block=128, least=64).splits(8)


def test_a_pinned_size_is_refused_with_the_arithmetic() -> None:
    asked = request(
        recorded("8x-h100-nvswitch"),
        mode=Mode.MULTI,
        model="Qwen/Qwen3.6-35B-A3B-FP8",
        pins={"VLLM_TENSOR_PARALLEL_SIZE": "8"},
    )
    with pytest.raises(NoPlanError) as refused:
        make_plan(asked, load_catalog())
    arithmetic = "512 numbers of mlp.shared_experts.down_proj over 8 ranks are 64 each, not whole blocks of the 128 "
    assert arithmetic in refused.value.message
    assert "sizes that split it: 1, 2, 4" in (refused.value.hint or "")


@pytest.mark.parametrize("name", ["shared_expert", "shared_experts"])
@pytest.mark.parametrize("place", ["model.language_model", "language_model.model", "model"])
def test_a_shared_expert_is_left_out_of_a_quantization_by_its_name(place: str, name: str) -> None:
    """Under the name that the model's files have for it, wherever the language model lies in them."""
    parts = [f"{place}.layers.0.mlp.{name}.{part}_proj" for part in ("gate", "up", "down")]
    assert MIXED_WIDTHS - {width.matrix for width in mixed(parts)} == {"mlp.shared_experts.down_proj"}
    assert {width.matrix for width in mixed([f"mlp.{name}_gate"])} == MIXED_WIDTHS


@pytest.mark.parametrize(
    ("pins", "replicas"),
    [({}, [(2, False)] * 4), ({"VLLM_TENSOR_PARALLEL_SIZE": "4"}, [(4, True)] * 2)],
)
def test_experts_stay_whole_where_parts_of_them_are_too_thin(
    pins: dict[str, str], replicas: list[tuple[int, bool]]
) -> None:
    """768 / 4 = 192, no whole blocks of 128: vLLM's own way there is expert parallelism (recipes of Qwen3.8)."""
    plan = make_plan(replace(thin(**pins), needs=EngineNeeds(exact="0.28.0")), load_catalog())
    told = [(made.tensor_parallel, "--enable-expert-parallel" in made.args) for made in plan.replicas]
    assert told == replicas


def test_experts_that_are_pinned_to_be_split_are_refused_with_what_helps() -> None:
    pins = {"VLLM_TENSOR_PARALLEL_SIZE": "4", "VLLM_ENABLE_EXPERT_PARALLEL": "false"}
    with pytest.raises(NoPlanError, match=r"768 numbers of mlp\.experts\.0\.down_proj over 4 ranks") as refused:
        make_plan(replace(thin(**pins), needs=EngineNeeds(exact="0.28.0")), load_catalog())
    assert refused.value.hint == "change or remove `--set VLLM_ENABLE_EXPERT_PARALLEL=…`"


def test_sizes_that_need_whole_experts_are_named_with_the_setting() -> None:
    with pytest.raises(NoPlanError) as refused:
        make_plan(replace(thin(VLLM_TENSOR_PARALLEL_SIZE="3"), needs=EngineNeeds(exact="0.28.0")), load_catalog())
    assert "sizes that split it: 1, 2; with VLLM_ENABLE_EXPERT_PARALLEL=true also 4, 8" in (refused.value.hint or "")


def test_the_widest_split_that_keeps_blocks_is_taken() -> None:
    host = recorded("8x-h100-nvswitch")
    plan = make_plan(request(host, mode=Mode.MULTI, model="Qwen/Qwen3.6-35B-A3B-FP8"), load_catalog())
    assert [(replica.tensor_parallel, len(replica.gpu_uuids)) for replica in plan.replicas] == [(4, 4), (4, 4)]


def test_for_latency_the_widest_split_is_taken_only_where_a_token_comes_sooner() -> None:
    """Four ranks wait longer for each other than they save (docs/decisions/0015-objectives.md)."""
    host = recorded("8x-h100-nvswitch")
    asked = request(host, model="Qwen/Qwen3.6-35B-A3B-FP8")
    plan = make_plan(replace(asked, objective=Objective.LATENCY), load_catalog())
    assert [replica.tensor_parallel for replica in plan.replicas] == [1] * 8
    dense = request(host, model="Qwen/Qwen3-4B-FP8")
    assert {
        replica.tensor_parallel
        for replica in make_plan(replace(dense, objective=Objective.LATENCY), load_catalog()).replicas
    } == {4}
