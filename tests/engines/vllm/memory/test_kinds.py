"""Layers of one kind are counted once and multiplied: that must change no byte."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.shape import Shape
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.weights import stage_weights
from stackwright.models.quantization import is_skipped, names_layers
from stackwright.models.stored import stored_facts
from stackwright.units import GIB

GPU = GpuMemory(total_bytes=80 * GIB, compute_capability=(9, 0))
# A number makes a pattern one that may hold for a single layer; this one holds for none.
HOLDS_FOR_NONE = "no.such.module.0"
SHAPES = {
    checkpoint.hub_id: stored_facts(row, checkpoint).config.shape
    for row in load_catalog().llms()
    for checkpoint in row.checkpoints
}


def without_grouping(shape: Shape) -> Shape:
    """Return the same model, whose layers are counted one by one."""
    quantization = shape.quantization
    return replace(shape, quantization=replace(quantization, skipped=(*quantization.skipped, HOLDS_FOR_NONE)))


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 3)])
def test_grouped_layers_weigh_what_they_weigh_one_by_one(tensor: int, pipeline: int) -> None:
    """For every checkpoint of the catalog, with and without drafting."""
    for name, shape in SHAPES.items():
        for drafted in (0, 1):
            settings = EngineSettings(tensor_parallel=tensor, pipeline_parallel=pipeline, speculative_tokens=drafted)
            one_by_one = stage_weights(without_grouping(shape), settings, GPU, Release("0.32.0"))
            assert stage_weights(shape, settings, GPU, Release("0.32.0")) == one_by_one, name


def test_a_pattern_for_one_layer_leaves_that_layer_alone_as_it_was() -> None:
    """One MLP of an FP8 model in bfloat16 takes about its size again."""
    shape = SHAPES["Qwen/Qwen3-8B-FP8"]
    unlike = replace(
        shape,
        quantization=replace(shape.quantization, skipped=(*shape.quantization.skipped, r"re:.*layers\.(3)\.mlp\..*")),
    )
    settings = EngineSettings()
    more = (
        stage_weights(unlike, settings, GPU, Release("0.32.0"))[0].bytes
        - stage_weights(shape, settings, GPU, Release("0.32.0"))[0].bytes
    )
    assert more == pytest.approx(3 * shape.hidden * shape.layers[3].inner, rel=0.01)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("lm_head", False),
        ("model.layers.*.mlp.gate", False),
        (r"re:.*\.mlp\.(gate|up)_proj$", False),
        ("re:.*mlp.gate", False),
        ("model.layers.3.mlp", True),
        ("model.layers.?.mlp", True),
        ("model.layers.[ab].mlp", True),
        ("re:model.layers...mlp", True),
        (r"re:.*layers\.\d\.mlp", True),
    ],
)
def test_a_pattern_that_may_name_a_layer_counts_as_one(pattern: str, expected: bool) -> None:
    """What could hold for one layer and not for its equals."""
    quantization = SHAPES["Qwen/Qwen3-8B-FP8"].quantization
    assert names_layers(replace(quantization, skipped=(pattern,))) is expected


PARTS = st.sampled_from(["model", "layers", "0", "1", "mlp", "gate", "q_proj", "proj", ""])
NAMES = st.lists(PARTS.filter(bool), min_size=1, max_size=5).map(".".join)
ENTRIES = st.one_of(st.lists(PARTS, min_size=1, max_size=4).map(".".join), NAMES.map("*.{}".format))


@given(names=st.lists(NAMES, min_size=1, max_size=3), entries=st.lists(ENTRIES, max_size=6))
def test_namesakes_alone_decide_as_all_entries_would(names: list[str], entries: list[str]) -> None:
    """A name against every entry, as vLLM compares them, and against those that share a part."""
    quantization = replace(SHAPES["Qwen/Qwen3-8B-FP8"].quantization, skipped=tuple(entries))
    every = [
        fnmatch.fnmatchcase(name, entry) or fnmatch.fnmatchcase(name, f"*{entry}")
        if "*" in entry
        else f"{entry}." in f"{name}."
        for name in names
        for entry in entries
    ]
    assert is_skipped(quantization, tuple(names)) is any(every)


def test_layers_of_a_kind_are_one() -> None:
    """A hundred layers, a few kinds; each layer's number finds its own."""
    for name, shape in SHAPES.items():
        assert tuple(shape.kinds[number] for number in shape.kind_numbers) == shape.layers, name
        assert len(set(shape.kinds)) == len(shape.kinds) <= 8, name
