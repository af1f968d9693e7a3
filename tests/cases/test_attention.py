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
from stackwright.engines.vllm.attention import cache_formats, check_attention, has_kernel
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.solve import _candidates
from stackwright.engines.vllm.settings import CACHE_FORMATS
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
PLAIN = {**CONFIG, "head_dim": 128}
# Heads of 256 in windows, of 512 over everything.
MIXED = {
    **CONFIG,
    "architectures": ["Gemma4ForCausalLM"],
    "model_type": "gemma4_text",
    "head_dim": 256,
    "global_head_dim": 512,
    "num_hidden_layers": 2,
    "sliding_window": 512,
    "layer_types": ["sliding_attention", "full_attention"],
}
CACHE_ONLY = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
# A checkpoint that wants its cache in FP8.
OWN_LATENT = {
    **LATENT,
    "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
}
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
        (LATENT, "0.33.0", "10.0", "fp8", True),
        (LATENT, "0.33.0", "8.0", "fp8", False),  # Triton's refusal below 8.9
        (LATENT, "0.33.0", "12.1", "fp8", False),  # Triton's block of 102,400 bytes
        (LATENT, "0.33.0", "12.1", "auto", True),
        ({**LATENT, "kv_lora_rank": 256}, "0.33.0", "12.1", "fp8", True),
        (LATENT, "0.33.0", "7.5", "auto", False),  # there 102,400 bytes in any format
        ({**LATENT, "kv_lora_rank": 256}, "0.33.0", "7.5", "bfloat16", False),
        ({**LATENT, "kv_lora_rank": 256}, "0.33.0", "7.5", "float16", True),
        (OWN_LATENT, "0.33.0", "12.0", "auto", False),
        (OWN_LATENT, "0.33.0", "12.0", "bfloat16", True),
        (OWN_LATENT, "0.33.0", "10.0", "auto", True),
        (OWN_LATENT, "0.12.0", "12.0", "auto", True),  # older releases do not read what the checkpoint wants
        (PLAIN, "0.33.0", "7.5", "fp8", False),
        (PLAIN, "0.33.0", "8.6", "fp8", True),  # FlashInfer
        ({**PLAIN, "head_dim": 96}, "0.33.0", "8.6", "fp8", False),
        ({**PLAIN, "head_dim": 96}, "0.33.0", "8.9", "fp8", True),
        ({**PLAIN, "architectures": ["GptOssForCausalLM"]}, "0.33.0", "8.6", "fp8", False),
        (MIXED, "0.33.0", "7.5", "auto", False),  # Triton's block of 98,304 bytes
        (MIXED, "0.33.0", "8.6", "auto", True),
        (MIXED, "0.33.0", "8.6", "fp8", False),
        (MIXED, "0.33.0", "8.9", "fp8", True),
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
        # Every kind of FP8 becomes DeepSeek's own layout there (0.32.0 models/deepseek_v4/attention.py:106-120).
        (COMPRESSED, "0.33.0", "9.0", "fp8_e4m3", True),
        (COMPRESSED, "0.33.0", "9.0", "fp8_e5m2", True),
        (COMPRESSED, "0.33.0", "12.0", "auto", True),
        (COMPRESSED, "0.23.0", "12.0", "auto", False),
        ({**COMPRESSED, "architectures": ["DeepseekV4ForConditionalGeneration"]}, "0.33.0", "8.6", "auto", False),
        ({**COMPRESSED, "architectures": ["DeepseekV41ForCausalLM"]}, "0.33.0", "8.0", "auto", False),
        ({**PLAIN, "architectures": ["Step5ForCausalLM"]}, "0.33.0", "8.9", "auto", False),
        ({**PLAIN, "architectures": ["MiniMaxM3SparseForCausalLM"]}, "0.33.0", "9.0", "auto", True),
        (PLAIN, "0.33.0", "7.5", "auto", True),
        (PLAIN, "0.33.0", "9.0", "nvfp4", True),
        (PLAIN, "0.33.0", "7.5", "nvfp4", False),
        (PLAIN, "0.33.0", "12.0", "nvfp4", True),
        (PLAIN, "0.29.0", "12.0", "nvfp4", False),
        (PLAIN, "0.33.0", "12.0", "nvfp4_4over6", False),
        ({**PLAIN, "head_dim": 64}, "0.33.0", "12.0", "nvfp4", False),
        (PLAIN, "0.33.0", "8.6", "int8_per_token_head", True),
        (PLAIN, "0.33.0", "8.6", "fp8_per_token_head", False),
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


@pytest.mark.parametrize(
    ("config", "version", "capability", "formats"),
    [
        (PLAIN, "0.33.0", "8.6", ("auto", "fp8")),
        (PLAIN, "0.33.0", "7.5", ("auto",)),
        (PLAIN, "0.10.2", "9.0", ("auto",)),  # nobody read that release's kernels
        (LATENT, "0.14.1", "8.9", ("auto",)),
        (LATENT, "0.33.0", "12.0", ("auto",)),
        (LATENT, "0.33.0", "10.0", ("auto", "fp8")),
        (OWN_LATENT, "0.33.0", "10.0", ("auto",)),
        (OWN_LATENT, "0.33.0", "12.0", ("bfloat16",)),
        ({**OWN_LATENT, "kv_lora_rank": 256}, "0.33.0", "7.5", ("float16",)),
    ],
)
def test_only_formats_with_a_kernel_are_chosen(
    config: dict[str, object], version: str, capability: str, formats: tuple[str, ...]
) -> None:
    shape = parse_config(config).shape
    gpus = tuple(replace(gpu, compute_capability=capability) for gpu in recorded("l40s-busy").gpus)
    assert cache_formats(shape, version, gpus, CATALOG) == formats
    gpu = GpuMemory(total_bytes=48 * GIB, compute_capability=(8, 9))
    settings = EngineSettings(version=version, cache_formats=formats)
    tried = _candidates(shape, settings, gpu, Objective.THROUGHPUT)
    assert tuple(dict.fromkeys(candidate.cache_format for candidate in tried)) == formats


def _on(capability: str) -> Host:
    """Return a host with one GPU of a compute capability, and memory enough."""
    host = recorded("1x-h200")
    return replace(host, gpus=(replace(host.gpus[0], compute_capability=capability),))


def test_a_checkpoints_own_cache_without_a_kernel_is_replaced(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "own", OWN_LATENT, {"model.safetensors": [WEIGHT]})
    plan = make_plan(request(_on("12.0"), model=str(folder)), CATALOG)
    setting = plan.models[0].settings["VLLM_KV_CACHE_DTYPE"]
    assert (setting.value, setting.reason) == ("bfloat16", "the checkpoint's own format has no kernel on these GPUs")
    with pytest.raises(NoPlanError) as refused:
        make_plan(request(_on("12.0"), model=str(folder), pins={"VLLM_KV_CACHE_DTYPE": "auto"}), CATALOG)
    assert "with a KV cache in fp8_e4m3 on GPU 0" in refused.value.message
    assert refused.value.hint == "set VLLM_KV_CACHE_DTYPE to bfloat16"


@pytest.mark.parametrize("host", ["wsl2-rtx5080", "gb10"])
def test_where_no_forecast_is_sure_it_is_replaced_too(tmp_path: Path, host: str) -> None:
    folder = write_model(tmp_path / "own", OWN_LATENT, {"model.safetensors": [WEIGHT]})
    plan = make_plan(request(recorded(host), model=str(folder)), CATALOG)
    assert plan.models[0].settings["VLLM_KV_CACHE_DTYPE"].value == "bfloat16"


@pytest.mark.parametrize(("pins", "told"), [({}, True), ({"VLLM_KV_CACHE_DTYPE": "fp8"}, False)])
def test_a_smaller_cache_that_nobody_asked_for_is_told(pins: dict[str, str], told: bool) -> None:
    host, model = recorded("2x-rtx3090-nvlink"), "Qwen/Qwen3.8-27B-FP8"
    plan = make_plan(replace(request(host, model=model, pins=pins), objective=Objective.CONTEXT), CATALOG)
    assert plan.models[0].settings["VLLM_KV_CACHE_DTYPE"].value == "fp8"
    said = [warning for warning in plan.warnings if warning.startswith("the KV cache is kept in fp8")]
    assert bool(said) is told


def test_a_checkpoints_own_cache_is_forecast_in_its_format() -> None:
    plain, own = (parse_config(config).shape for config in (PLAIN, {**PLAIN, "quantization_config": CACHE_ONLY}))
    gpu = GpuMemory(total_bytes=48 * GIB, compute_capability=(9, 0))
    settings = EngineSettings(version="0.33.0", max_model_len=2048)
    of_plain, of_own = (forecast(shape, settings, gpu).memory.kv_bytes_per_token for shape in (plain, own))
    assert (of_plain or 0) == 2 * (of_own or 0) > 0


def test_limits_name_what_the_table_has() -> None:
    table = CATALOG.attention()
    assert {name for limit in table.limits for name in limit.backends} <= {row.name for row in table.backends}
    assert {name for limit in table.limits for name in limit.cache_formats} <= {
        name for row in table.backends for name in row.cache_formats
    }
    capabilities = {one for row in table.backends for one in row.capabilities}
    assert set(table.shared_memory) == capabilities
    assert all(set(limit.capabilities) <= capabilities for limit in table.limits)


def test_every_format_that_can_be_counted_can_be_asked_for() -> None:
    of_releases = {name for row in CATALOG.attention().backends for name in row.cache_formats}
    uncounted = {name for name in of_releases if name.startswith("turboquant_") or name.endswith("_ds_mla")}
    assert set(CACHE_FORMATS) == of_releases - uncounted


@pytest.mark.parametrize(
    ("cache", "bytes_per_number"), [("int8_per_token_head", 1), ("int4_per_token_head", 0.5), ("nvfp4", 9 / 16)]
)
def test_a_pinned_format_of_the_release_is_planned_and_counted(
    tmp_path: Path, cache: str, bytes_per_number: float
) -> None:
    folder = write_model(tmp_path / "mine", PLAIN, {"model.safetensors": [WEIGHT]})
    host = recorded("1x-rtx3090")
    plan = make_plan(request(host, model=str(folder), pins={"VLLM_KV_CACHE_DTYPE": cache}), CATALOG)
    assert plan.models[0].settings["VLLM_KV_CACHE_DTYPE"].value == cache
    memory = plan.models[0].forecast
    layers, heads = parse_config(PLAIN).shape.layers, 2 * parse_config(PLAIN).shape.layers[0].kv_heads
    scales = 4 if cache.endswith("per_token_head") else 0
    assert memory is not None
    assert memory.kv_bytes_per_token == len(layers) * heads * (128 * bytes_per_number + scales)


def test_a_format_that_a_release_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine", PLAIN, {"model.safetensors": [WEIGHT]})
    asked = FitArguments(
        model=str(folder),
        settings=EngineSettings(kv_cache_dtype="int8_per_token_head"),
        host=None,
        engine="vllm==0.19.1",
        json=False,
    )
    with pytest.raises(NoPlanError, match=r"0\.19\.1 has no kernel for .* with a KV cache in int8_per_token_head"):
        answer_fit(asked, recorded("1x-rtx3090"))
