"""Models that are made for something else than what is served (case 11 of the public reports)."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.domain.tensors import TensorHeader
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config
from stackwright.planning.planner import make_plan

from tests.models.checkpoints import write_model
from tests.planning_requests import recorded, request

WHISPER = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "num_mel_bins": 80,
    "vocab_size": 1024,
    "is_encoder_decoder": True,
    "torch_dtype": "float16",
}
WEIGHT = TensorHeader(name="model.decoder.embed_tokens.weight", dtype="F16", shape=(1024, 64))


def test_a_speech_model_is_refused_for_what_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "whisper", WHISPER, {"model.safetensors": [WEIGHT]})
    with pytest.raises(NoPlanError) as refused:
        make_plan(request(recorded("1x-rtx5090"), model=str(folder)), load_catalog())
    assert refused.value.message == (
        "whisper is an encoder-decoder model (WhisperForConditionalGeneration), for speech or translation: such models "
        "are not served"
    )


@pytest.mark.parametrize(
    ("lengths", "longest"),
    [
        ({"max_target_positions": 448}, 448),
        ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
        ({"max_position_embeddings": 4096}, 4096),
        ({}, 0),
    ],
)
def test_the_smallest_length_that_a_configuration_names_counts(lengths: dict[str, int], longest: int) -> None:
    assert parse_config({**lengths, "num_hidden_layers": 1, "hidden_size": 8}).shape.max_positions == longest
