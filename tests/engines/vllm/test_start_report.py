"""What is read out of the log of a start: in four releases' words, and on a processor from recorded logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.domain.forecast import Measured, ObservedStart
from stackwright.engines.vllm.start_report import read_start
from stackwright.units import GIB

from tests.engines.vllm.start_logs import FIRST_ENGINE, NEWEST, NO_ROOM, TWO_RANKS

RECORDED = Path(__file__).parents[2] / "watching/logs"


def read(log: str) -> ObservedStart:
    """Read a log that has a start."""
    found = read_start(log)
    assert found is not None
    return found


def gib(size: float) -> int:
    return round(size * GIB)


def test_the_newest_release_prints_every_term() -> None:
    assert read(NEWEST).measured == Measured(
        weights_bytes=gib(15.27),
        # The peak that the last line prints holds the estimate of the graphs.
        activation_bytes=gib(1.05) - gib(0.45),
        overhead_bytes=gib(15.46) - gib(15.27),
        cuda_graph_bytes=gib(0.51),
        graph_estimate_bytes=gib(0.45),
        kv_cache_bytes=gib(4.71),
        kv_cache_tokens=34288,
        max_concurrency=2.09,
        budget_bytes=gib(21.22),
        total_bytes=gib(23.58),
        free_bytes=gib(23.31),
    )


def test_settings_come_from_arguments_and_from_the_configuration() -> None:
    start = read(NEWEST)
    settings = start.settings
    assert (start.model, start.outcome, start.cold, start.on_processor) == ("Qwen/Qwen3-8B", "fit", True, False)
    assert (settings.version, settings.max_model_len, settings.max_num_seqs) == ("0.33.0", 16384, 64)
    assert (settings.gpu_memory_utilization, settings.prefix_caching) == (0.9, True)
    assert dict(start.flags)["max_num_batched_tokens"] == "2048"


def test_nothing_but_what_changes_memory_is_taken_along() -> None:
    assert "very-secret" not in repr(read(NEWEST))
    assert "alice" not in repr(read(NEWEST))


def test_the_smallest_pool_and_the_fullest_rank_count() -> None:
    start = read(TWO_RANKS)
    assert (start.measured.weights_bytes, start.measured.kv_cache_bytes) == (gib(30.5849), gib(36.27))
    assert (start.measured.activation_bytes, start.measured.overhead_bytes) == (gib(3.85), gib(0.55))
    settings = start.settings
    assert (settings.tp, settings.kv_cache_dtype, settings.speculative_tokens) == (2, "fp8", 2)
    assert (settings.max_num_batched_tokens, settings.max_model_len, start.cold) == (8192, 40960, False)


def test_the_first_engine_has_words_of_its_own() -> None:
    start = read(FIRST_ENGINE)
    assert start.settings.legacy_engine
    assert (start.settings.version, start.settings.block_tokens, start.settings.max_model_len) == ("0.8.5", 16, 8192)
    assert (start.measured.blocks, start.measured.total_bytes) == (6537, gib(23.68))
    assert (start.measured.activation_bytes, start.measured.kv_cache_bytes) == (gib(1.42), gib(5.59))


def test_the_last_start_of_a_log_counts() -> None:
    start = read(FIRST_ENGINE + NEWEST)
    assert start.settings.version == "0.33.0"
    assert start.measured.blocks is None


def test_an_estimate_that_is_told_as_a_share_is_of_the_whole_gpu() -> None:
    """Model Runner V2 prints no other (0.33.0 v1/worker/gpu/model_runner.py)."""
    told = "The current --gpu-memory-utilization=0.9000 is equivalent to --gpu-memory-utilization=0.8809 without"
    start = read(NEWEST.replace("Estimated CUDA graph memory: 0.45 GiB total", told))
    assert start.measured.graph_estimate_bytes == pytest.approx(0.0191 * 23.58 * GIB, abs=2)


def test_a_build_without_a_number_and_the_early_second_engine_are_read() -> None:
    early = FIRST_ENGINE.replace("# cuda blocks: 6537, # CPU blocks: 4681", "# GPU blocks: 1381")
    assert read(early).measured.blocks == 1381
    unnumbered = read(FIRST_ENGINE.replace("API server version 0.8.5", "API server").replace("(v0.8.5)", "(vdev)"))
    assert (unnumbered.settings.version, unnumbered.measured.kv_cache_bytes) == (None, gib(5.59))


def test_colours_of_a_terminal_do_not_matter() -> None:
    coloured = NEWEST.replace("version 0.33.0", "version \x1b[1m0.33.0\x1b[0m").replace("INFO", "\x1b[32mINFO\x1b[0m")
    assert read(coloured) == read(NEWEST)


def test_flags_that_change_memory_are_read_by_the_rows_that_declare_them() -> None:
    told = """'enable_lora': True, 'max_lora_rank': 32, 'limit_mm_per_prompt': {'image': 0}, 'cpu_offload_gb': 2.5, """
    settings = read(NEWEST.replace("'max_num_seqs': 64, ", told)).settings
    assert (settings.lora, settings.lora_rank, settings.lora_slots) == (True, 32, 1)
    assert (settings.media_limits, settings.offload_bytes) == ((("image", 0),), gib(2.5))


def test_a_start_that_ended_early_says_why() -> None:
    start = read(NO_ROOM)
    assert (start.outcome, start.measured.kv_cache_bytes) == ("startup-free-memory-check", None)


@pytest.mark.parametrize(("name", "eager"), [("eager.log", True), ("compiled.log", False)])
def test_a_processor_prints_its_cache_alone(name: str, eager: bool) -> None:
    start = read((RECORDED / name).read_text(encoding="utf-8"))
    assert (start.on_processor, start.settings.enforce_eager, start.settings.kv_cache_bytes) == (True, eager, GIB)
    assert (start.measured.kv_cache_tokens, start.measured.weights_bytes) == (2_097_152, None)


def test_another_programs_log_has_no_start() -> None:
    assert read_start("INFO: redis 7 ready to accept connections\n") is None
