"""Weights that a processor's kernels do not compute with (vllm-project/vllm#55613)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_llms
from stackwright.domain.forecast import EngineSettings
from stackwright.domain.host import Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.engines.vllm.engine import VLLM
from stackwright.errors import NoPlanError
from stackwright.models.read import read_model

from tests.cases.test_formats import CONFIG, WEIGHT
from tests.models.checkpoints import write_model
from tests.planning_requests import plan_for, recorded

AVX2 = recorded("cpu-small")
AVX512 = replace(AVX2, cpu=replace(AVX2.cpu, flags=(*AVX2.cpu.flags, "avx512f")))
AMX = replace(AVX2, cpu=replace(AVX512.cpu, flags=(*AVX512.cpu.flags, "amx_tile")))
ARM = replace(AVX2, cpu=replace(AVX2.cpu, flags=("asimd",)))
UNKNOWN = replace(AVX2, cpu=replace(AVX2.cpu, flags=()))
INT4_GROUPS = {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}}}
INT8_GROUPS = {"group_0": {"weights": {"num_bits": 8, "type": "int", "symmetric": True}}}


def check(facts: ModelFacts, host: Host, version: str = "0.32.0") -> str:
    """Return the refusal of a model by a release on a host's processor; empty where there is none."""
    try:
        VLLM.check_release(facts, EngineSettings(version=version), host, load_catalog())
    except NoPlanError as refused:
        return refused.message
    return ""


@pytest.mark.parametrize(
    ("quantization", "need"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "AVX-512"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "AVX-512"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, None),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128, "packing_format": "auto_round:auto_gptq"},
            "AVX-512",
        ),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": INT4_GROUPS}, "AVX-512"),
        ({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": INT8_GROUPS}, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "AMX"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, None),
    ],
)
def test_weights_are_refused_where_their_instructions_are_missing(
    tmp_path: Path, quantization: Mapping[str, object], need: str | None
) -> None:
    own = {**CONFIG, "quantization_config": quantization}
    facts = read_model(str(write_model(tmp_path / "model", own, {"model.safetensors": [WEIGHT]})), ())
    said = check(facts, AVX2)
    assert (f"by {need} alone" in said) if need else said == ""
    assert [bool(check(facts, host)) for host in (AVX512, ARM)] == [need == "AMX"] * 2
    assert [check(facts, host) for host in (AMX, UNKNOWN)] == ["", ""]


@pytest.mark.parametrize(("version", "refused"), [("0.11.2", False), ("0.12.0", True), ("0.33.0", True)])
def test_4_bit_integers_need_it_since_a_release(version: str, refused: bool) -> None:
    facts = read_model("Qwen/Qwen2.5-0.5B-Instruct-AWQ", load_llms())
    assert bool(check(facts, AVX2, version)) is refused


def test_the_hint_names_the_unquantized_copy() -> None:
    with pytest.raises(NoPlanError) as refused:
        plan_for(AVX2, model="Qwen/Qwen2.5-0.5B-Instruct-AWQ")
    assert refused.value.message.startswith(
        "vllm 0.32.0 computes with 4-bit integer weights such as those of Qwen/Qwen2.5-0.5B-Instruct-AWQ by AVX-512 "
        "alone, which the processor ("
    )
    assert refused.value.hint == "use the unquantized copy: `--model Qwen/Qwen2.5-0.5B-Instruct`"


def test_a_gpu_beside_the_processor_computes_itself() -> None:
    host = recorded("1x-rtx3090")
    beside = replace(host, cpu=replace(host.cpu, flags=("avx2",)))
    assert check(read_model("Qwen/Qwen2.5-0.5B-Instruct-AWQ", load_llms()), beside) == ""
