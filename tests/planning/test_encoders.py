"""Encoders on a GPU and on the processor: no cache is forecast, and no text is longer than a step."""

from __future__ import annotations

import pytest
from stackwright.domain.plan import Mode
from stackwright.domain.role import Role
from stackwright.errors import NoPlanError
from stackwright.models.shape import parse_shape
from stackwright.rendering.numbered import flat_settings

from tests.planning.several import Asked, plan_of
from tests.planning_requests import recorded

ENCODERS = [
    ("BAAI/bge-m3", Role.EMBEDDING, 8194),
    ("BAAI/bge-large-en-v1.5", Role.EMBEDDING, 2048),
    ("BAAI/bge-reranker-v2-m3", Role.RERANK, 8194),
]


@pytest.mark.parametrize(("name", "role", "step"), ENCODERS)
def test_a_whole_text_fits_in_a_step(name: str, role: Role, step: int) -> None:
    """The engine itself finds the length, which files beside the configuration may shorten."""
    plan = plan_of(recorded("1x-rtx5090"), Asked(name=name, role=role))
    values = {key: setting.value for key, setting in flat_settings(plan).items()}
    assert (values["VLLM_MAX_MODEL_LEN"], values["VLLM_MAX_NUM_BATCHED_TOKENS"]) == ("auto", str(step))
    assert plan.replicas[0].args[-2:] == ("--runner", "pooling")


@pytest.mark.parametrize("mode", [Mode.CPU, Mode.SINGLE])
@pytest.mark.parametrize(("name", "role"), [each[:2] for each in ENCODERS])
def test_no_cache_is_forecast(name: str, role: Role, mode: Mode) -> None:
    plan = plan_of(recorded("1x-rtx5090"), Asked(name=name, role=role), mode=mode)
    memory = plan.replicas[0].memory
    assert memory is not None
    assert (memory.verdict, memory.kv_cache_bytes, memory.kv_bytes_per_token, memory.kv_cache_tokens) == (
        "fits",
        0,
        0,
        0,
    )


@pytest.mark.parametrize(
    ("config", "encoder"), [({"is_causal": False}, True), ({"is_causal": True}, False), ({}, False)]
)
def test_a_decoder_that_looks_both_ways_is_an_encoder(config: dict[str, object], encoder: bool) -> None:
    shape = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
    assert parse_shape({**shape, **config}).is_encoder is encoder


def test_a_step_shorter_than_a_text_is_refused() -> None:
    with pytest.raises(NoPlanError, match="a text of 8,194 tokens cannot be split into steps of 2,048"):
        plan_of(
            recorded("1x-rtx5090"),
            Asked(name="BAAI/bge-m3", role=Role.EMBEDDING),
            pins={"VLLM_MAX_NUM_BATCHED_TOKENS": "2048", "VLLM_MAX_MODEL_LEN": "8194"},
        )


def test_a_pinned_length_and_step_are_kept() -> None:
    pins = {"VLLM_MAX_MODEL_LEN": "512", "VLLM_MAX_NUM_BATCHED_TOKENS": "4096"}
    plan = plan_of(recorded("1x-rtx5090"), Asked(name="BAAI/bge-m3", role=Role.EMBEDDING), pins=pins)
    assert {key: flat_settings(plan)[key].value for key in pins} == pins
