"""What changed between vLLM releases that decides on memory. Pure.

Each boundary names where it comes from. A release that is not known counts as the newest one, and widens the margin.
"""

from __future__ import annotations

import re
from functools import lru_cache

from stackwright.domain.forecast import EngineSettings, GpuMemory

_NEWEST = (0, 33, 0)
# The last line of releases that the first engine was usual in.
_NEWEST_LEGACY = (0, 8, 0)
# The first engine (V0) was the default up to 0.8.0 and could still run models that the second could not until 0.11.
_SECOND_ENGINE = (0, 8, 0)
# Up to 0.10.1 the first engine runs on GPUs below 8.0, and with a cache of another format than the model's but for
# FP8 on Hopper (engine/arg_utils.py, _is_v1_supported_oracle; read in 0.8.5, 0.9.2, 0.10.0, 0.10.1.1 and 0.10.2).
_FALLBACK_BEFORE, _FALLBACK_CAPABILITY, _FP8_CACHE_MAJOR = (0, 10, 2), (8, 0), 9
# config/vllm.py, use_v2_model_runner: a few dense architectures unquantized, the same and some experts in any format,
# everything without experts and states, everything.
_RUNNER_TWO_FIRST, _RUNNER_TWO_NAMED, _RUNNER_TWO_DENSE, _RUNNER_TWO = (0, 22, 0), (0, 24, 0), (0, 25, 0), (0, 29, 0)
# Tensor cores take FP8 from Ada on (platforms/cuda.py, supports_fp8).
_FP8_CAPABILITY = (8, 9)
_RUNNER_TWO_LLAMA = (0, 23, 0)
_RUNNER_TWO_PLAIN = frozenset(("LlamaForCausalLM", "MistralForCausalLM"))
_RUNNER_TWO_EXPERTS = frozenset(("DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"))


class _Since:
    """A rule that holds from a release on; with `second_engine` not where the first engine (V0) runs."""

    def __init__(self, *first: int, second_engine: bool = False) -> None:
        self._first, self._second_engine = first, second_engine

    def __set_name__(self, _: type[Release], name: str) -> None:
        self._name = name

    def __get__(self, release: Release, _: type[Release]) -> bool:
        holds = release.version >= self._first and not (self._second_engine and release.first_engine)
        release.__dict__[self._name] = holds  # asked thousands of times, and it stays so
        return holds


class Release:
    """The rules of one release, asked by name.

    `known`: the release is. `first_engine`: V0 runs, which profiles a whole prompt and keeps no windows apart.
    Unless another source is named, a boundary is the first published release whose source has the rule, read on
    2026-11-21 and 2026-11-29 in the source packages of the releases 0.8.0 to 0.33.0.
    """

    # The first engine cuts prompts beyond 32,768 tokens into chunks by default (vllm-project/vllm v0.6.0).
    chunks_long_prompts = _Since(0, 6, 0)
    # Its profile run with chunks ends in the sampler, and takes 2,048 tokens; before, 512 without it (0.06 GiB of
    # activations in one log of 0.6).
    samples_chunks = _Since(0, 7, 0)
    # bitsandbytes' maxima are unpacked on loading, four bytes instead of one (vLLM 0.9.2
    # model_loader/bitsandbytes_loader.py, _dequantize_dq).
    unpacks_scales = _Since(0, 9, 2)
    # Latent attention keeps its compressed vector; DeepSeek models kept whole heads before (vllm-project/vllm MLA
    # support).
    latent_cache = _Since(0, 7, 0)
    # Graphs are captured up to twice the requests; up to 512 tokens whatever they are before (config/scheduler.py,
    # cuda_graph_sizes; config.py in 0.8 and 0.9).
    captures_by_requests = _Since(0, 10, 0)
    # A step is at most as many tokens as all requests may have (engine/arg_utils.py).
    caps_steps = _Since(0, 11, 1)
    # While the profile run compiles, kernels are compared on copies of their arguments (config/compilation.py,
    # benchmark_combo_kernel).
    compares_kernels = _Since(0, 11, 1, second_engine=True)
    # The attention backend is the first that can, of a list for each GPU; FlashInfer's buffer is 394 MiB
    # (platforms/cuda.py, _get_backend_priorities; envs.py, VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE).
    ranks_attention = _Since(0, 11, 1, second_engine=True)
    # Hopper runs MXFP4 experts with Triton's kernels rather than with Marlin (vllm-project/vllm#23278: 0.10.1 had none
    # at hand, 65.97 GiB; 0.11.0 has 64.38 GiB).
    triton_on_hopper = _Since(0, 11, 0)
    # Whole decode steps are captured beside the pieces of longer ones, for every model; for hybrid ones before
    # (config/__init__.py).
    whole_graphs = _Since(0, 11, 0, second_engine=True)
    # Graphs beyond 256 tokens are captured in steps of 16; of 8 up to 0.11.0 (config/vllm.py, _set_cudagraph_sizes).
    sparser_graphs = _Since(0, 11, 1)
    # A checkpoint's own format of the cache is what `auto` means (vllm-project/vllm#30785, merged in December 2025;
    # 0.32.0 utils/torch_utils.py, resolve_kv_cache_dtype_string; read on 2026-11-30).
    reads_cache_format = _Since(0, 14, 0)
    # The profiled sampler does not sort the vocabulary (v1/sample/ops/topk_topp_triton.py).
    samples_unsorted = _Since(0, 17, 0, second_engine=True)
    # Sparse attention's backend decides on the format of its cache; the model did before (models/config.py,
    # DeepseekV32ForCausalLM).
    formats_by_backend = _Since(0, 18, 0)
    # The first runner captures some graphs with a small cache, to estimate them all (v1/worker/gpu_model_runner.py,
    # profile_cudagraph_memory and _init_minimal_kv_cache_for_profiling).
    profiles_graphs = _Since(0, 18, 0, second_engine=True)
    # An estimate of the CUDA graphs is taken from the budget (envs.py, VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS is "1";
    # the log's own words say 0.21).
    counts_graphs = _Since(0, 20, 0, second_engine=True)
    # The log's `GPU KV cache size` is concurrency × length; in 0.20.0 blocks ÷ groups × block
    # (v1/core/kv_cache_utils.py, _report_kv_cache_config).
    tokens_by_concurrency = _Since(0, 20, 2, second_engine=True)
    # Models that look both ways at their pictures are told by their configuration, and no item of theirs is cut
    # (transformers_utils/model_arch_config_convertor.py, is_mm_prefix_lm; platforms/cuda.py).
    keeps_items_whole = _Since(0, 20, 0)
    # A step is at least as long as the longest item that must not be cut (engine/arg_utils.py,
    # _get_min_mm_batched_tokens).
    takes_whole_items = _Since(0, 22, 0)
    # A window keeps the tokens of all steps that are under way at once, one step's before (v1/kv_cache_interface.py,
    # max_in_flight_tokens).
    overlaps_steps = _Since(0, 26, 0)
    # That small cache has a block for each request; for each token of the largest graph before (same function).
    profiles_graphs_by_requests = _Since(0, 26, 0)
    # FlashInfer's buffer grows with a step's queries (v1/attention/backends/flashinfer.py, _get_workspace_buffer).
    grows_attention_buffer = _Since(0, 26, 0)
    # The budget is charged all that is gone from the free memory, unused parts of segments too
    # (utils/mem_utils.py, memory_profiling).
    counts_consumed = _Since(0, 27, 0, second_engine=True)
    # The second runner profiles the encoder (v1/worker/gpu/model_runner.py, profile_run).
    second_runner_profiles_encoder = _Since(0, 27, 0)
    # It copies logits to single precision only where a request wants them changed, of which the profile run has none
    # (v1/worker/gpu/sample/sampler.py, needs_logits_processing).
    second_runner_copies_on_demand = _Since(0, 28, 0)
    # It estimates its graphs; it returns 0 before (v1/worker/gpu/model_runner.py, profile_cudagraph_memory).
    second_runner_profiles_graphs = _Since(0, 29, 0)
    # Its pipeline stages hand on what drafters read of the layers; it refuses such drafters before
    # (v1/worker/gpu/model_runner.py, __init__).
    hands_states_on = _Since(0, 30, 0)
    # Its profile run samples a second time, with every parameter set (v1/worker/gpu/model_runner.py,
    # _dummy_sampler_run).
    second_runner_samples_fully = _Since(0, 33, 0)
    # MXFP4 experts on data-centre Blackwell are rounded to 128 inner numbers, not to 256 (fused_moe/oracle/mxfp4.py,
    # the TRT-LLM kernels).
    narrow_blackwell_experts = _Since(0, 27, 0)
    # Experts take LoRA adapters, and graphs are captured with and without one (lora/layers/fused_moe.py;
    # config/compilation.py, cudagraph_specialize_lora).
    adapts_experts = _Since(0, 11, 1)
    # An encoder whose media are all limited to 0 is not loaded (model_executor/models/interfaces.py; not in 0.14.1).
    drops_idle_encoders = _Since(0, 16, 0)
    # Prefix caching of hybrid models is on without a flag (engine/arg_utils.py).
    hybrid_prefix_caching = _Since(0, 28, 0)
    # GPUs with larger defaults are told by their memory, by the names H100 and H200 before; the A100 is not one of them
    # (vLLM PR #17885), nor, last, is GB10, which has the memory alone. Other GPUs work on fewer requests, on 1,024
    # before (engine/arg_utils.py, get_batch_defaults).
    sizes_gpus = _Since(0, 8, 5)
    asks_fewer = _Since(0, 8, 4)
    leaves_a100_out = _Since(0, 9, 0)
    leaves_gb10_out = _Since(0, 33, 0)
    # GPUs of 160 GiB have larger defaults than the others (engine/arg_utils.py, get_batch_defaults), and data-centre
    # Blackwell graphs up to 1,024 tokens (config/vllm.py).
    huge_gpus_apart = _Since(0, 28, 0)
    # Experts in FP8 take finer blocks than the checkpoint's where a split needs it (fused_moe/oracle/fp8.py,
    # refine_fp8_moe_block_shape).
    recuts_experts = _Since(0, 29, 0)
    # The check leaves the null block out (v1/core/kv_cache_utils.py, check_enough_kv_cache_memory).
    reserves_null_block = _Since(0, 29, 0)

    def __init__(self, version: str | None, *, legacy_engine: bool = False) -> None:
        self.known = version is not None and re.match(r"v?\d+\.\d+", version) is not None
        unknown = _NEWEST_LEGACY if legacy_engine else _NEWEST
        self.version = _parse(version) if version is not None and self.known else unknown
        self.newer = self.version > _NEWEST
        self.first_engine = legacy_engine or self.version < _SECOND_ENGINE

    @property
    def default_utilization(self) -> float:
        """The engine's own `--gpu-memory-utilization` (config/cache.py)."""
        return 0.92 if self.version >= (0, 20, 0) else 0.90

    def second_runner(self, architecture: str, *, experts: bool, states: bool, quantized: bool) -> bool:
        """Return whether Model Runner V2 profiles, whose sampler skips top-k and top-p."""
        if self.first_engine or self.version < _RUNNER_TWO_FIRST or self.version >= _RUNNER_TWO:
            return not self.first_engine and self.version >= _RUNNER_TWO
        if self.version >= _RUNNER_TWO_DENSE:
            return not states and (not experts or architecture in _RUNNER_TWO_EXPERTS)
        named = architecture == "Qwen3ForCausalLM"
        named = named or (self.version >= _RUNNER_TWO_LLAMA and architecture in _RUNNER_TWO_PLAIN)
        if self.version >= _RUNNER_TWO_NAMED:
            return named or architecture in _RUNNER_TWO_EXPERTS
        return named and not quantized


@lru_cache(maxsize=256)
def rules_of(version: str | None, *, legacy_engine: bool = False) -> Release:
    """Return the rules of a release: one object for all who ask, so that what is counted by them can be kept."""
    return Release(version, legacy_engine=legacy_engine)


def release_of(settings: EngineSettings, gpu: GpuMemory) -> Release:
    """Return the rules of the settings' release on a GPU, which may be the first engine's."""
    release = rules_of(settings.version, legacy_engine=settings.legacy_engine)
    if not release.known or release.first_engine or release.version >= _FALLBACK_BEFORE:
        return release
    capability, cache = gpu.compute_capability, settings.kv_cache_dtype
    old = capability is not None and capability < _FALLBACK_CAPABILITY
    other_cache = cache != "auto" and not (cache.startswith("fp8") and capability and capability[0] == _FP8_CACHE_MAJOR)
    return rules_of(settings.version, legacy_engine=True) if old or other_cache else release


def recuts_experts(version: str | None, capability: tuple[int, int] | None) -> bool:
    """Return whether experts in FP8 take finer blocks than their checkpoint's: Triton's kernels do, where it has FP8.

    0.33.0 fused_moe/experts/triton_moe.py, TritonExperts._supports_quant_scheme; platforms/cuda.py, supports_fp8.
    """
    return rules_of(version).recuts_experts and capability is not None and capability >= _FP8_CAPABILITY


def _parse(version: str) -> tuple[int, int, int]:
    """Return the numbers of a version; a development build of the next release counts as that release."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        return _NEWEST
    return int(found[1]), int(found[2]), int(found[3] or 0)
