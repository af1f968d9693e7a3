"""Ranks share the heads of an encoder, or each keeps all of it where the release can: what vLLM asserts on otherwise.

GLM-4.1V and 4.5V have twelve heads there: on eight ranks vLLM, left to itself, ends with `AssertionError: 12 is not
divisible by 8` (0.33.0 distributed/utils.py, divide). The models here are Qwen3-VL-32B with another encoder.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.plan import Mode, Replica
from stackwright.engines.protocol import EngineNeeds
from stackwright.errors import NoPlanError
from stackwright.planning.planner import make_plan

from tests.planning_requests import recorded, request, with_model

KEPT_WHOLE = "--mm-encoder-tp-mode data"
COPIED, SPLIT = "Glm4vForConditionalGeneration", "PaliGemmaForConditionalGeneration"


def replica(architecture: str, heads: int, release: str = "0.33.0", **pins: str) -> Replica:
    """Plan on eight ranks that all reach each other."""
    host = recorded("8x-h100-nvswitch")
    asked = request(host, mode=Mode.MULTI, model="Qwen/Qwen3-VL-32B-Instruct", pins=pins)
    facts = asked.models[0].facts
    vision = facts.config.shape.vision
    assert vision is not None
    shape = replace(facts.config.shape, vision=replace(vision, heads=heads))
    facts = replace(facts, config=replace(facts.config, architecture=architecture, shape=shape))
    needs = EngineNeeds(exact=release, allow_vulnerable=True)
    return make_plan(replace(with_model(asked, facts=facts), needs=needs), load_catalog()).replicas[0]


@pytest.mark.parametrize(
    ("architecture", "heads", "ranks", "whole"),
    [
        pytest.param(COPIED, 16, 8, False, id="eight ranks share sixteen heads"),
        pytest.param(COPIED, 12, 8, True, id="each of eight keeps twelve"),
        pytest.param(COPIED, 25, 8, True, id="InternViT 6B: nothing divides twenty-five"),
        pytest.param(SPLIT, 12, 4, False, id="a class that only splits"),
        pytest.param(SPLIT, 0, 8, False, id="unknown heads hinder nothing"),
    ],
)
def test_ranks_share_heads_or_keep_the_encoder(architecture: str, heads: int, ranks: int, whole: bool) -> None:
    made = replica(architecture, heads)
    assert made.tensor_parallel == ranks
    assert (KEPT_WHOLE in " ".join(made.args)) is whole


def test_a_whole_encoder_is_counted_whole() -> None:
    """Its 0.6 billion parameters of two bytes on each rank, and not an eighth of them."""
    shared, whole = (replica(COPIED, heads).memory for heads in (16, 12))
    assert shared is not None
    assert whole is not None
    assert 0.8 * 2**30 < whole.weights_bytes - shared.weights_bytes < 1.2 * 2**30


def test_pinned_not_to_be_copied_ranks_divide_the_heads() -> None:
    assert replica(COPIED, 12, VLLM_MM_ENCODER_TP_MODE="weights").tensor_parallel == 4


@pytest.mark.parametrize(("release", "ranks"), [("0.28.0", 8), ("0.29.0", 4)])
def test_what_may_be_copied_is_the_releases_own(release: str, ranks: int) -> None:
    """HunYuan-VL's class lost its mark with 0.29.0."""
    assert replica("HunYuanVLForConditionalGeneration", 12, release).tensor_parallel == ranks


def test_a_pinned_size_is_refused_with_the_heads() -> None:
    with pytest.raises(NoPlanError, match="12 heads of the encoder cannot be split over 8 ranks") as refused:
        replica(SPLIT, 12, VLLM_TENSOR_PARALLEL_SIZE="8")
    assert "sizes that split it: 1, 2, 4" in (refused.value.hint or "")


def test_without_its_encoder_a_model_has_no_such_heads() -> None:
    pins = {"VLLM_LANGUAGE_MODEL_ONLY": "true", "VLLM_TENSOR_PARALLEL_SIZE": "8"}
    assert replica(SPLIT, 12, **pins).tensor_parallel == 8


def test_a_pinned_whole_encoder_divides_nothing() -> None:
    pins = {"VLLM_MM_ENCODER_TP_MODE": "data", "VLLM_TENSOR_PARALLEL_SIZE": "8"}
    assert KEPT_WHOLE in " ".join(replica(COPIED, 16, **pins).args)
