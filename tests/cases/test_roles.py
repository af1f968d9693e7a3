"""Models that are made for something else than what is served (case 11 of the public reports)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from stackwright.catalog.load import load_catalog
from stackwright.domain.finding import Severity
from stackwright.domain.role import Role
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.vllm.engine import VLLM
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config
from stackwright.models.folder import read_folder
from stackwright.planning.planner import make_plan
from stackwright.rendering import render_plan
from stackwright.services import services_of
from stackwright.validation.speech import check_image

from tests.cases.test_architectures import folder_of
from tests.models.checkpoints import write_model
from tests.planning_requests import recorded, request, with_model

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


def test_a_model_for_translation_is_refused_for_what_it_is(tmp_path: Path) -> None:
    config = {**WHISPER, "architectures": ["BartForConditionalGeneration"], "model_type": "bart"}
    folder = write_model(tmp_path / "bart", config, {"model.safetensors": [WEIGHT]})
    with pytest.raises(NoPlanError) as refused:
        make_plan(request(recorded("1x-rtx5090"), model=str(folder)), load_catalog())
    assert refused.value.message == (
        "bart is an encoder-decoder model (BartForConditionalGeneration), for speech or translation: such models "
        "are not served"
    )


@pytest.mark.parametrize("host", ["1x-rtx5090", "cpu-large"])
def test_a_speech_model_for_english_alone_is_warned_of(tmp_path: Path, host: str) -> None:
    weight = TensorHeader(name="model.decoder.embed_tokens.weight", dtype="F16", shape=(51865, 64))
    warned = []
    for tokens in (51864, 51865):
        folder = write_model(tmp_path / str(tokens), {**WHISPER, "vocab_size": tokens}, {"model.safetensors": [weight]})
        asked = with_model(request(recorded(host), model=str(folder)), role=Role.TRANSCRIPTION)
        warned.append(
            [one for one in make_plan(asked, load_catalog()).warnings if "for English alone gives empty text" in one]
        )
    assert [len(found) for found in warned] == [1, 0]


@pytest.mark.parametrize("host", ["1x-rtx5090", "cpu-large"])
def test_a_speech_model_is_served_for_transcription(tmp_path: Path, host: str) -> None:
    folder = write_model(tmp_path / "whisper", WHISPER, {"model.safetensors": [WEIGHT]})
    asked = with_model(request(recorded(host), model=str(folder)), role=Role.TRANSCRIPTION)
    plan = make_plan(asked, load_catalog())

    (model,) = plan.models
    assert model.role is Role.TRANSCRIPTION
    assert "--runner" not in model.replicas[0].args
    (gateway,) = (file.text for file in render_plan(plan) if file.path.name == "gateway.yaml")
    entry = yaml.safe_load(gateway)["model_list"][0]["model_info"]
    assert (entry["mode"], entry["direct"]) == ("audio_transcription", ["audio/transcriptions", "audio/translations"])


def test_an_engine_is_given_what_reads_sound(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "whisper", WHISPER, {"model.safetensors": [WEIGHT]})
    asked = with_model(request(recorded("1x-rtx5090"), model=str(folder)), role=Role.TRANSCRIPTION)
    plan = make_plan(asked, load_catalog())
    (engine,) = (service for service in services_of(plan) if service.kind == "engine")
    (found,) = check_image(plan, plan.engine.image)

    assert engine.as_process.recipe is not None
    assert engine.as_process.recipe.attempts[-1].arguments[-1].endswith("engine-audio.txt")
    assert (found.check, found.severity) == ("no-audio", Severity.WARNING)
    assert f"--build-arg BASE={plan.engine.image} " in found.fix
    assert not list(check_image(plan, "mine:1"))
    assert not list(check_image(make_plan(request(recorded("1x-rtx5090")), load_catalog()), plan.engine.image))


@pytest.mark.parametrize("role", [Role.CHAT, Role.EMBEDDING, Role.RERANK])
def test_a_speech_model_does_nothing_else(tmp_path: Path, role: Role) -> None:
    folder = write_model(tmp_path / "whisper", WHISPER, {"model.safetensors": [WEIGHT]})
    asked = with_model(request(recorded("1x-rtx5090"), model=str(folder)), role=role)
    with pytest.raises(NoPlanError, match=f"whisper cannot be served for {role}: its architecture is Whisper"):
        make_plan(asked, load_catalog())


def test_the_cache_of_a_speech_model_is_its_decoders() -> None:
    shape = parse_config({**WHISPER, "encoder_layers": 32, "num_hidden_layers": 32}).shape

    assert len(shape.layers) == 2
    assert shape.least_step_tokens == 1500
    assert shape.unknown == ("the cache of what its encoder has read",)


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


@pytest.mark.parametrize(
    ("modules", "role"),
    [
        ("sentence_transformers.models.Pooling", Role.EMBEDDING),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", Role.EMBEDDING),
        ("sentence_transformers.cross_encoder.modules.LogitScore", Role.CHAT),
        (None, Role.CHAT),
    ],
)
def test_what_is_pooled_makes_vectors_whatever_its_architecture(
    tmp_path: Path, modules: str | None, role: Role
) -> None:
    """The engine serves it so by itself, and then answers no chat."""
    folder = folder_of(tmp_path, "Qwen3ForCausalLM")
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps([{"idx": 1, "path": "1_Pooling", "type": modules}]))
    facts = read_folder(folder)
    assert (facts.role or VLLM.role_of(facts.config, load_catalog())) is role
    asked = with_model(request(recorded("1x-rtx3090"), model=str(folder)), role=role)
    (model,) = make_plan(asked, load_catalog()).models
    assert ("--runner" in model.replicas[0].args) is (role is Role.EMBEDDING)
    if role is Role.EMBEDDING:
        with pytest.raises(NoPlanError, match=r"^mine cannot be served for chat: it is made for embedding;"):
            make_plan(with_model(asked, role=Role.CHAT), load_catalog())


def test_a_list_of_modules_that_is_none_tells_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Qwen3ForCausalLM")
    for text in ("{}", "[1]", "[{}]", "not JSON", '[{"type": 7}]'):
        (folder / "modules.json").write_text(text)
        assert read_folder(folder).role is None
