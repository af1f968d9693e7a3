"""What changed between vLLM releases that decides on memory. Pure.

Each boundary names where it comes from. A release that is not known counts as the newest one, and widens the margin.
"""

from __future__ import annotations

import re

_NEWEST = (0, 32, 0)
# The last line of releases that the first engine was usual in.
_NEWEST_LEGACY = (0, 8, 0)
# vllm-project/vllm#50991 (merged 2026-08): prefix caching, hence Mamba's `align` mode, by default for hybrid models.
_HYBRID_PREFIX_CACHING = (0, 27, 0)
# vLLM 0.32.0 v1/worker/gpu_worker.py: "CUDA graph memory profiling is enabled (default since v0.21.0)".
_GRAPHS_COUNTED = (0, 21, 0)
# docs.vllm.ai: 0.9 up to 0.16; 0.92 in 0.32.0 config/cache.py. Taken to have come with the counting of graphs.
_UTILIZATION_092 = (0, 21, 0)
# Observed: 0.20.2rc1.dev129 prints concurrency × length, 0.20.1rc1.dev16 blocks ÷ groups × block.
_TOKENS_BY_CONCURRENCY = (0, 20, 2)
# vllm-project/vllm#33538 (2026-02): Triton top-k and top-p instead of sorting.
_NO_SORTING_SAMPLER = (0, 17, 0)
# vllm-project/vllm#44443 (merged 2026-07-02) for dense models, #53183 for all others; the release is inferred.
_RUNNER_TWO_DENSE, _RUNNER_TWO = (0, 26, 0), (0, 30, 0)
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
# vllm-project/vllm: asynchronous scheduling by default since 0.14 (two batches in flight).
_TWO_BATCHES = (0, 14, 0)
# Block tables reserve a null block in the check since 0.32.0 (v1/core/kv_cache_utils.py, get_kv_cache_configs).
_NULL_BLOCK = (0, 32, 0)


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

    def second_runner(self, *, plain: bool) -> bool:
        """Tell whether Model Runner V2 profiles, whose sampler skips top-k and top-p; `plain`: a dense attention model."""
        return not self._legacy and self._version >= (_RUNNER_TWO_DENSE if plain else _RUNNER_TWO)

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
    def batches_in_flight(self) -> int:
        """Return how many batches can hold blocks at once with one pipeline stage."""
        return 2 if self._version >= _TWO_BATCHES else 1

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
