"""Attention kernels by GPU, release and cache format, as the engine's own selector has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_llms
from stackwright.commands.fit import FitArguments, answer_fit
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.host import Host
from stackwright.domain.objective import Objective
from stackwright.engines.vllm.attention import check_attention, has_kernel
from stackwright.engines.vllm.engine import VLLM
from stackwright.engines.vllm.memory.solve import _candidates
from stackwright.errors import NoPlanError
from stackwright.models.config import parse_config
from stackwright.models.read import read_model
from stackwright.planning.planner import make_plan
from stackwright.units import GIB

from tests.cases.test_formats import CONFIG, WEIGHT
from tests.models.checkpoints import write_model
from tests.planning_requests import recorded, request

LATENT = {
    **CONFIG,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "q_lora_rank": 64,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
SPARSE = {
    **LATENT,
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "index_n_heads": 4,
    "index_head_dim": 32,
    "index_topk": 64,
}
# No kv_lora_rank: that the cache is compressed stands in `compress_ratios`, and the architecture's own code chooses.
COMPRESSED = {
    **CONFIG,
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "head_dim": 512,
    "index_n_heads": 4,
    "compress_ratios": [0, 4],
}
PLAIN = CONFIG
CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("config", "version", "capability", "cache", "able"),
    [
        (SPARSE, "0.33.0", "8.0", "auto", False),
        (SPARSE, "0.33.0", "8.9", "auto", False),
        (SPARSE, "0.33.0", "9.0", "auto", True),
        (SPARSE, "0.33.0", "10.3", "fp8", True),
        (SPARSE, "0.33.0", "12.0", "auto", True),
        (SPARSE, "0.23.0", "12.0", "auto", False),  # FLASHINFER_MLA_SPARSE_SM120 came with 0.24.0
        (LATENT, "0.33.0", "8.0", "fp8", True),
        (LATENT, "0.14.1", "8.9", "fp8", False),  # TRITON_MLA took `auto` alone
        (LATENT, "0.14.1", "8.9", "auto", True),
        ({**LATENT, "kv_lora_rank": 64}, "0.14.1", "8.9", "auto", False),  # of a vector of 576 alone
        ({**LATENT, "kv_lora_rank": 64}, "0.33.0", "8.9", "auto", True),  # TRITON_MLA takes any from 0.18.0 on
        ({**SPARSE, "kv_lora_rank": 64}, "0.33.0", "10.0", "auto", False),
        ({**PLAIN, "head_dim": 96}, "0.33.0", "9.0", "nvfp4", False),
        ({**PLAIN, "head_dim": 96}, "0.33.0", "9.0", "fp8", True),
        (COMPRESSED, "0.33.0", "8.0", "auto", False),
        (COMPRESSED, "0.33.0", "8.9", "fp8", False),
        (COMPRESSED, "0.33.0", "9.0", "auto", True),
        (COMPRESSED, "0.33.0", "9.0", "fp8_e5m2", False),
        (COMPRESSED, "0.33.0", "12.0", "auto", True),
        (COMPRESSED, "0.23.0", "12.0", "auto", False),
        ({**COMPRESSED, "architectures": ["DeepseekV4ForConditionalGeneration"]}, "0.33.0", "8.6", "auto", False),
        ({**COMPRESSED, "architectures": ["DeepseekV41ForCausalLM"]}, "0.33.0", "8.0", "auto", False),
        ({**PLAIN, "architectures": ["Step5ForCausalLM"]}, "0.33.0", "8.9", "auto", False),
        ({**PLAIN, "architectures": ["MiniMaxM3SparseForCausalLM"]}, "0.33.0", "9.0", "auto", True),
        (PLAIN, "0.33.0", "7.5", "auto", True),
        (PLAIN, "0.33.0", "9.0", "nvfp4", True),
        (PLAIN, "0.33.0", "7.5", "nvfp4", False),
        (PLAIN, "0.10.2", "9.0", "auto", None),
        (PLAIN, "0.33.0", "6.1", "auto", None),
        (PLAIN, "0.33.0", None, "auto", None),
    ],
)
def test_kernels_hang_on_capability_release_and_cache(
    config: dict[str, object], version: str, capability: str | None, cache: str, able: bool | None
) -> None:
    assert has_kernel(parse_config(config).shape, version, capability, CATALOG, cache) is able


def test_sparse_attention_is_refused_on_an_a100(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "v32", SPARSE, {"model.safetensors": [WEIGHT]})
    host = recorded("4x-a100-two-nvlink-pairs")
    with pytest.raises(NoPlanError) as refused:
        make_plan(request(host, model=str(folder)), CATALOG)
    assert "no kernel for the sparse latent attention of v32 on GPU 0" in refused.value.message
    assert refused.value.message.endswith("compute capability 9.0, 10.0, 10.3, 12.0, 12.1 has one")
    asked = FitArguments(model=str(folder), settings=EngineSettings(), host=None, engine=None, json=False)
    with pytest.raises(NoPlanError, match="no kernel for the sparse latent attention"):
        answer_fit(asked, host)


@pytest.mark.parametrize("host", ["1x-h200", "8x-b200-nvswitch"])
def test_sparse_attention_is_planned_where_it_has_a_kernel(tmp_path: Path, host: str) -> None:
    folder = write_model(tmp_path / "v32", SPARSE, {"model.safetensors": [WEIGHT]})
    assert make_plan(request(recorded(host), model=str(folder)), CATALOG).engine.name == "vllm"


def test_a_size_of_heads_without_a_kernel_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "narrow", {**PLAIN, "head_dim": 96}, {"model.safetensors": [WEIGHT]})
    facts = read_model(str(folder), load_llms())
    with pytest.raises(NoPlanError) as refused:
        check_attention(facts, "0.33.0", recorded("1x-h200").gpus, CATALOG, "nvfp4")
    assert refused.value.message.endswith("no GPU has one for heads of 96")


def test_a_pinned_cache_without_a_kernel_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine", PLAIN, {"model.safetensors": [WEIGHT]})
    facts = read_model(str(folder), load_llms())
    host: Host = recorded("4x-t4-driver470")
    with pytest.raises(NoPlanError) as refused:
        check_attention(facts, "0.33.0", host.gpus, CATALOG, "nvfp4")
    assert "full attention of mine with a KV cache in nvfp4 on GPU 0 (Tesla T4" in refused.value.message
    assert refused.value.hint == "leave VLLM_KV_CACHE_DTYPE out, for the model's own format"


def test_no_smaller_cache_is_chosen_that_has_no_kernel(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "v3", LATENT, {"model.safetensors": [WEIGHT]})
    facts, gpus = read_model(str(folder), load_llms()), recorded("l40s-busy").gpus
    old, new = (EngineSettings(version=version) for version in ("0.14.1", "0.33.0"))
    assert not VLLM.has_cache(facts, old, gpus, CATALOG)
    assert VLLM.has_cache(facts, new, gpus, CATALOG)
    gpu = GpuMemory(total_bytes=48 * GIB, compute_capability=(8, 9))
    for settings, formats in ((replace(old, smaller_cache=False), {"auto"}), (new, {"auto", "fp8"})):
        tried = _candidates(facts.config.shape, settings, gpu, Objective.THROUGHPUT)
        assert {candidate.cache_format for candidate in tried} == formats
