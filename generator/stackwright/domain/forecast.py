"""What the memory planner is asked and what it answers. Sizes in bytes per GPU. Pure."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from stackwright.domain.plan import Memory
from stackwright.domain.shape import Shape

# A request of this length, or of the model's own, is of use: room for it comes before more requests at once, and a
# group of GPUs that has it is preferred to a larger one.
COMFORTABLE_TOKENS = 8192


class Verdict(StrEnum):
    """Will it start: `uncertain` is what lies within the planner's own error, or what nobody can know."""

    FITS = "fits"
    DOES_NOT_FIT = "does-not-fit"
    UNCERTAIN = "uncertain"


class EngineSettings(Struct, frozen=True, kw_only=True):
    """The engine's settings that decide on memory; None is the engine's own default for that release and GPU.

    `version` is the release (`0.32.0`), None where it is not known. `speculative_tokens` counts drafted tokens per
    step with the model's own prediction layers. `language_only`: the encoder is neither loaded nor profiled.
    `whole_encoder`: each rank keeps all of it.
    `expert_parallel`: each rank has whole experts, and not a part of each.
    `kv_cache_dtype`: `auto`, `fp8`, `nvfp4` and so on. `legacy_engine`: the first engine of a family (V0), which
    profiled without chunks. `cache_formats`: what may be chosen where `kv_cache_dtype` is `auto`, the best first.
    `kv_cache_bytes`: the cache of each rank, where a person gives it. `data_parallel` ranks have a copy of everything
    but experts. `speculative_method` and `draft_model` as the engine is told them, `draft` that model's shape, None
    unread. `quantization`: made of the weights while they are loaded. `state_dtype` and `recurrent_dtype`: of all that
    recurrent layers keep, and of their recurrent state alone. `lora_slots`: adapters at once, where there is `lora`;
    `media_limits`: items of one request by kind. `offload_bytes`: weights that stay with the processor.
    """

    version: str | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    decode_context_parallel: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str = "auto"
    cache_formats: tuple[str, ...] = ("auto",)
    block_tokens: int | None = None
    enforce_eager: bool = False
    prefix_caching: bool | None = None
    speculative_tokens: int = 0
    language_only: bool = False
    whole_encoder: bool = False
    expert_parallel: bool = False
    legacy_engine: bool = False
    kv_cache_bytes: int | None = None
    data_parallel: int = 1
    speculative_method: str | None = None
    draft_model: str | None = None
    draft: Shape | None = None
    quantization: str | None = None
    dtype: str = "auto"
    state_dtype: str = "auto"
    recurrent_dtype: str = "auto"
    capture_sizes: tuple[int, ...] | None = None
    max_capture_size: int | None = None
    lora: bool = False
    lora_slots: int = 1
    lora_rank: int = 16
    media_limits: tuple[tuple[str, int], ...] = ()
    offload_bytes: int = 0

    @property
    def tp(self) -> int:
        """The ranks that share each layer."""
        return self.tensor_parallel or 1

    @property
    def pp(self) -> int:
        """The pipeline stages."""
        return self.pipeline_parallel or 1

    @property
    def ranks(self) -> int:
        """The GPUs that share one copy of the model."""
        return self.tp * self.pp

    @property
    def gpus(self) -> int:
        """The GPUs of one server: `data_parallel` copies."""
        return self.ranks * self.data_parallel


class Measured(Struct, frozen=True, kw_only=True):
    """What an engine's log says that one start took, in bytes of the fullest rank; None where it does not say.

    `overhead_bytes`: outside PyTorch. `graph_estimate_bytes`: what was charged for CUDA graphs before they were
    captured. `budget_bytes`: what the engine was to take; `free_bytes` of `total_bytes` when it looked.
    """

    weights_bytes: int | None = None
    activation_bytes: int | None = None
    overhead_bytes: int | None = None
    cuda_graph_bytes: int | None = None
    graph_estimate_bytes: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_tokens: int | None = None
    blocks: int | None = None
    max_concurrency: float | None = None
    budget_bytes: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None


CAME_UP = "fit"
"""The outcome of a start that came up, in the words of benchmarks/cases/."""


class ObservedStart(Struct, frozen=True, kw_only=True):
    """One start of an engine as its log tells of it.

    `model`: as the engine was given it. `settings` hold what the log names, the length in force among them; `flags` are
    the same as it writes them. `outcome`: `fit`, or why it ended. `cold`: it compiled anew; None where it does not say.
    """

    engine: str
    model: str | None
    settings: EngineSettings
    measured: Measured
    outcome: str
    on_processor: bool = False
    cold: bool | None = None
    flags: tuple[tuple[str, str], ...] = ()


class RememberedStart(Struct, frozen=True, kw_only=True):
    """A start that is remembered. `host`: what told its machine from others; `gpu`: its GPUs' name, empty without one.

    `date`: the day of the start, `YYYY-MM-DD`.
    """

    host: str
    date: str
    gpu: str
    start: ObservedStart


class GpuMemory(Struct, frozen=True, kw_only=True):
    """The memory of one GPU of the group: `total_bytes` as CUDA reports it, `used_bytes` by others before the start.

    `unified`: the processor's memory is the GPU's. `wsl`: under the Windows Subsystem for Linux. `sliced`: a MIG
    slice's. `seen`: what earlier starts of the model in question took of such a GPU of this host, newest first.
    """

    total_bytes: int
    used_bytes: int = 0
    name: str = ""
    compute_capability: tuple[int, int] | None = None
    unified: bool = False
    wsl: bool = False
    sliced: bool = False
    seen: tuple[RememberedStart, ...] = ()


class Term(Struct, frozen=True, kw_only=True):
    """One part of the sum: its expected size and the half-width of what it may be, both in bytes."""

    bytes: int
    error: int = 0


class Forecast(Struct, frozen=True, kw_only=True):
    """The answer: memory of the fullest rank, verdict, and why.

    `needed_kv_bytes` is what one request of `max_model_len` tokens takes; `longest` the greatest length that is
    expected to fit, `surely` the greatest that fits with the margin against it; 0 where none does. `basis`: which of
    its figures this host has shown, and when; empty where none. `refused`: why the engine does not start with the
    settings, however much memory there is. `running`: how many requests the cache surely lets run at once, of a model
    whose requests keep states, and None of others: the engine does not start where it is told far more.
    """

    verdict: Verdict
    memory: Memory
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    max_model_len: int
    longest: int
    surely: int
    basis: str = ""
    refused: tuple[str, ...] = ()
    running: int | None = None


class Solution(Struct, frozen=True, kw_only=True):
    """Settings that fit, with their forecast, and in words what was given up for it.

    `engines_own`: the names of those settings that the engine takes by itself where nobody gives them.
    `fewer_requests`: the cache lets no more run at once than these; more memory is not what they would need.
    """

    settings: EngineSettings
    forecast: Forecast
    given_up: tuple[str, ...] = ()
    engines_own: frozenset[str] = frozenset()
    fewer_requests: bool = False
