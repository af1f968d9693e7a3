"""Weights and number formats that the engine does not take (cases 02 and 05 of the public reports)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_formats, load_llms
from stackwright.detect.snapshot import read_snapshot
from stackwright.domain.plan import Plan
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.protocol import EngineNeeds
from stackwright.engines.vllm.image_refusal import check_dtype, check_formats
from stackwright.errors import NoPlanError
from stackwright.models.read import read_model
from stackwright.planning.planner import make_plan

from tests.models.checkpoints import write_model
from tests.planning_requests import plan_for, recorded, request

T4S = read_snapshot(Path(__file__).with_name("t4.yaml"))
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
WEIGHT = TensorHeader(name="model.embed_tokens.weight", dtype="BF16", shape=(1024, 256))


def plan_of(folder: Path, quantization: Mapping[str, object], needs: EngineNeeds | None = None) -> Plan:
    """Plan a toy model with this quantization_config on two RTX 3090."""
    write_model(folder, {**CONFIG, "quantization_config": quantization}, {"model.safetensors": [WEIGHT]})
    asked = request(recorded("2x-rtx3090-nvlink"), model=str(folder))
    return make_plan(replace(asked, needs=needs or EngineNeeds()), load_catalog())


@pytest.mark.parametrize(
    ("method", "last"),
    [("bitsandbytes", "0.27.1"), ("hqq", "0.13.0"), ("rtn", "0.13.0"), ("fbgemm_fp8", "0.13.0")],
)
def test_a_format_that_left_the_engine_is_named_with_its_last_release(tmp_path: Path, method: str, last: str) -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_of(tmp_path / "model", {"quant_method": method, "load_in_4bit": True})
    assert f"has its weights as {method}, which vllm 0.33.0 does not read; the last that does is {last}" in (
        refused.value.message
    )
    assert (refused.value.hint or "").startswith("name a copy of the model in AWQ, GPTQ, FP8 or NVFP4")


def test_a_format_that_no_release_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPlanError, match="as eetq, which no known release of vllm reads"):
        plan_of(tmp_path / "model", {"quant_method": "eetq"})


def test_a_gguf_file_beside_a_configuration_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", CONFIG, {})
    (folder / "toy-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(4092))
    with pytest.raises(
        NoPlanError, match=r"as gguf, which vllm 0\.33\.0 does not read; the last that does is 0\.23\.0"
    ):
        make_plan(request(recorded("2x-rtx3090-nvlink"), model=str(folder)), load_catalog())


@pytest.mark.parametrize("method", ["awq", "gptq", "auto-round", "compressed_tensors"])
def test_a_format_that_is_read_is_planned(tmp_path: Path, method: str) -> None:
    quantization = {"quant_method": method, "bits": 4, "group_size": 128}
    assert plan_of(tmp_path / "model", quantization).engine.version == "0.33.0"


def test_the_release_that_reads_it_is_planned_where_it_is_asked_for(tmp_path: Path) -> None:
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    needs = EngineNeeds(exact="0.27.1", allow_vulnerable=True)
    assert plan_of(tmp_path / "model", quantization, needs).engine.version == "0.27.1"


@pytest.mark.parametrize("model", ["google/gemma-3-4b-it", "google/gemma-3-12b-it"])
def test_a_model_that_bears_no_float16_is_refused_where_there_is_no_bfloat16(model: str) -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_for(T4S, model=model)
    assert "does not run gemma3 models" in refused.value.message
    assert "Tesla T4, compute capability 7.5) has no bfloat16" in refused.value.message


def test_any_other_model_runs_in_float16_there() -> None:
    plan = plan_for(T4S, model="Qwen/Qwen3-4B")
    assert plan.models[0].settings["VLLM_DTYPE"].value == "float16"


@pytest.mark.parametrize(
    ("quantization", "refused"),
    [
        ({"quant_method": "mxfp4"}, True),
        ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, True),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, False),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, False),
        ({"quant_method": "inc", "bits": 4}, False),
    ],
)
def test_weights_need_the_capability_that_their_method_declares(
    tmp_path: Path, quantization: Mapping[str, object], refused: bool
) -> None:
    own = {**CONFIG, "quantization_config": quantization}
    folder = write_model(tmp_path / "model", own, {"model.safetensors": [WEIGHT]})
    if not refused:
        assert plan_for(T4S, model=str(folder)).engine.version == "0.33.0"
        return
    with pytest.raises(NoPlanError) as failure:
        plan_for(T4S, model=str(folder))
    assert failure.value.message == (
        f"vllm 0.33.0 runs {quantization['quant_method']} weights such as those of model from compute "
        "capability 8.0 on, and GPU 0 (Tesla T4) has 7.5"
    )


def test_a_catalog_checkpoint_has_the_needs_of_its_method() -> None:
    with pytest.raises(NoPlanError, match=r"runs modelopt weights such as those of nvidia/Llama-3.1-8B-Instruct-FP8"):
        plan_for(T4S, model="nvidia/Llama-3.1-8B-Instruct-FP8")


def test_what_a_method_needs_changed_with_the_releases() -> None:
    table = load_formats()
    assert [table.runs_from(("fp8",), version) for version in ("0.13.0", "0.14.0", "0.34.0")] == ["8.0", "7.5", None]
    assert table.runs_from(("compressed-tensors/w8a8_fp8", "compressed-tensors/w8a16_fp8"), "0.33.0") == "7.5"
    assert table.runs_from(("eetq",), "0.33.0") is None
    assert table.computes_in("modelopt_mxfp8", "0.33.0") == {"bfloat16"}
    assert table.computes_in("awq", "0.23.0") == {"float16"}


def test_a_method_of_bfloat16_alone_is_refused_without_it() -> None:
    facts = read_model("openai/gpt-oss-20b", load_llms())
    with pytest.raises(NoPlanError, match=r"computes with mxfp4 weights .* in bfloat16 alone, which GPU 0 \(Tesla T4"):
        check_dtype(facts, "0.33.0", T4S.gpus, load_catalog())


@pytest.mark.parametrize(
    ("host", "model", "pin", "words"),
    [
        ("1x-h200", "google/gemma-3-4b-it", "float16", "does not run gemma3 models such as google/gemma-3-4b-it in"),
        ("t4", "Qwen/Qwen3-4B-AWQ", "bfloat16", "compute capability 7.5) has no bfloat16, as is asked for"),
    ],
)
def test_a_pinned_format_that_cannot_be_had_is_refused(host: str, model: str, pin: str, words: str) -> None:
    on = T4S if host == "t4" else recorded(host)
    with pytest.raises(NoPlanError) as refused:
        make_plan(request(on, model=model, pins={"VLLM_DTYPE": pin}), load_catalog())
    assert words in refused.value.message
    assert refused.value.hint == "leave VLLM_DTYPE out, for a format that fits"


MIXED = {
    "quant_method": "modelopt",
    "quant_algo": "MIXED_PRECISION",
    "quantized_layers": {"model.layers.0.mlp.gate_proj": {"quant_algo": "NVFP4", "group_size": 16}},
}


@pytest.mark.parametrize(
    ("quantization", "version", "capability", "refusal"),
    [
        (MIXED, "0.23.0", "8.6", "runs modelopt_mixed weights such as those of model from compute capability 8.9 on"),
        (MIXED, "0.23.0", "8.9", None),
        (MIXED, "0.24.0", "8.6", None),
        ({"quant_method": "modelopt", "quantization": dict(MIXED)}, "0.23.0", "8.6", "runs modelopt_mixed weights"),
        (
            MIXED,
            "0.16.0",
            "8.9",
            "as modelopt_mixed, which vllm 0.16.0 does not read yet; the first that does is 0.17.0",
        ),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "0.19.1", "9.0", "runs modelopt_mxfp8 weights"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "0.20.0", "9.0", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "0.13.0", "7.5", "runs modelopt_fp4 weights"),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, "0.26.0", "8.6", "runs modelopt weights"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "0.26.0", "8.6", None),
    ],
)
def test_the_needs_of_modelopts_weights_follow_from_their_algorithm(
    tmp_path: Path, quantization: Mapping[str, object], version: str, capability: str, refusal: str | None
) -> None:
    own = {**CONFIG, "quantization_config": quantization}
    facts = read_model(str(write_model(tmp_path / "model", own, {"model.safetensors": [WEIGHT]})), ())
    gpus = tuple(replace(gpu, compute_capability=capability) for gpu in recorded("2x-rtx3090-nvlink").gpus)
    if refusal is None:
        check_formats(facts, version, gpus, load_catalog())
        return
    with pytest.raises(NoPlanError) as refused:
        check_formats(facts, version, gpus, load_catalog())
    assert refusal in refused.value.message


def test_a_catalog_checkpoint_of_mixed_formats_has_the_needs_of_its_method() -> None:
    facts = read_model("nvidia/Qwen3.6-27B-NVFP4", load_llms())
    with pytest.raises(NoPlanError, match=r"vllm 0\.23\.0 runs modelopt_mixed weights"):
        check_formats(facts, "0.23.0", recorded("2x-rtx3090-nvlink").gpus, load_catalog())
