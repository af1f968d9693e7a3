"""Which GPUs serve, in which groups."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.domain.forecast import EngineSettings
from stackwright.domain.host import Driver, Gpu, Host, Link, LinkKind, MigSlice
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Mode
from stackwright.engines.memory.splits import Width
from stackwright.errors import NoPlanError
from stackwright.planning.placement import Heads, placements

from tests.planning_requests import gpu, recorded


def host_of(*gpus: Gpu, nvlinks: tuple[tuple[int, int], ...] = ()) -> Host:
    """Compose a host with these GPUs, joined by NVLink where named."""
    links = tuple(Link(a=a, b=b, kind=LinkKind.NVLINK, lanes=4, version=3) for a, b in nvlinks)
    driver = Driver(version="580.95.05", cuda="13.0")
    return replace(recorded("cpu-large"), driver=driver, gpus=gpus, links=links, p2p=())


def indices(placement: Placement) -> list[list[int]]:
    """Return the GPU indices of each replica."""
    return [[gpu.index for gpu in group] for group in placement.groups]


def place(
    host: Host, mode: Mode | None, pins: EngineSettings, heads: Heads, *, devices: tuple[str, ...] = ()
) -> Placement:
    """Return the preferred placement."""
    return placements(host, mode, pins, heads, devices=devices)[0]


MESH_OF_FOUR = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@pytest.mark.parametrize(
    ("nvlinks", "expected"),
    [
        pytest.param((), [[0], [1], [2], [3]], id="PCIe only: a replica each"),
        pytest.param(((0, 1), (2, 3)), [[0, 1], [2, 3]], id="two pairs are two islands"),
        pytest.param(((0, 2), (1, 3)), [[0, 2], [1, 3]], id="pairs need not be neighbours"),
        pytest.param(MESH_OF_FOUR, [[0, 1, 2, 3]], id="a full mesh is one island"),
        pytest.param(((0, 1), (1, 2), (2, 3)), [[0, 1], [2, 3]], id="a chain is not one island"),
    ],
)
def test_multi_stays_inside_nvlink_islands(nvlinks: tuple[tuple[int, int], ...], expected: list[list[int]]) -> None:
    """Tensor parallelism never crosses PCIe."""
    placement = place(
        host_of(*(gpu(index) for index in range(4)), nvlinks=nvlinks), Mode.MULTI, EngineSettings(), Heads()
    )
    assert indices(placement) == expected
    assert placement.tensor_parallel == len(expected[0])


def test_an_island_of_three_uses_two_and_says_so() -> None:
    """Sizes are powers of two; the third is named as idle."""
    placement = place(
        host_of(gpu(0), gpu(1), gpu(2), nvlinks=((0, 1), (0, 2), (1, 2))), None, EngineSettings(), Heads()
    )
    assert indices(placement) == [[0, 1]]
    assert placement.warnings == ("GPU 2 (NVIDIA GeForce RTX 3090) is left idle",)


@pytest.mark.parametrize(("heads", "size"), [(None, 4), (32, 4), (14, 2), (7, 1)])
def test_tensor_parallelism_divides_the_attention_heads(heads: int | None, size: int) -> None:
    """An engine with 14 heads does not start at tensor parallel 4."""
    host = host_of(*(gpu(index) for index in range(4)), nvlinks=MESH_OF_FOUR)
    assert place(host, Mode.MULTI, EngineSettings(), Heads(attention=heads)).tensor_parallel == size


def test_single_takes_the_emptiest_gpu_and_ignores_noise() -> None:
    """A desktop's few hundred MiB do not move the plan; a busy GPU does."""
    assert indices(place(host_of(gpu(0, used_gib=0.3), gpu(1)), Mode.SINGLE, EngineSettings(), Heads())) == [[0]]
    assert indices(place(host_of(gpu(0, used_gib=8), gpu(1)), Mode.SINGLE, EngineSettings(), Heads())) == [[1]]


def test_auto_on_mixed_gpus_takes_the_larger_one() -> None:
    """A 3090 and a 3060 are no pair."""
    placement = place(host_of(gpu(0, name="NVIDIA GeForce RTX 3060", gib=12), gpu(1)), None, EngineSettings(), Heads())
    assert (placement.mode, indices(placement)) == (Mode.SINGLE, [[1]])
    assert placement.warnings == ("GPU 0 (NVIDIA GeForce RTX 3060) is left idle",)


def test_memory_that_the_gpu_shares_with_the_processor_is_no_reason_to_refuse() -> None:
    """NVML tells no total for a GB10; beside a GPU whose memory is known, the unknown one waits."""
    assert indices(place(recorded("gb10"), None, EngineSettings(), Heads())) == [[0]]
    unknown = replace(gpu(0), memory_bytes=None, memory_used_bytes=None)
    other = replace(gpu(1, gib=12, name="NVIDIA GeForce RTX 3060"), memory_used_bytes=None)
    assert indices(
        place(host_of(unknown, replace(unknown, uuid="GPU-2", index=2), other), None, EngineSettings(), Heads())
    ) == [[1]]


def test_auto_prefers_a_pair_to_a_larger_loner() -> None:
    """Two equal GPUs hold more than a third, larger one."""
    host = host_of(gpu(0, name="NVIDIA RTX A6000", gib=48), gpu(1), gpu(2), nvlinks=((1, 2),))
    placement = place(host, None, EngineSettings(), Heads())
    assert (placement.mode, indices(placement)) == (Mode.MULTI, [[1, 2]])


def test_a_pin_may_reach_across_islands() -> None:
    """The person asked for it; NCCL falls back to PCIe."""
    host = host_of(*(gpu(index) for index in range(4)), nvlinks=((0, 1), (2, 3)))
    placement = place(host, Mode.MULTI, EngineSettings(tensor_parallel=4), Heads())
    assert indices(placement) == [[0, 1, 2, 3]]


def test_pinned_sizes_multiply() -> None:
    """Tensor × pipeline GPUs make one replica."""
    host = host_of(*(gpu(index) for index in range(4)), nvlinks=((0, 1), (2, 3)))
    placement = place(host, Mode.MULTI, EngineSettings(tensor_parallel=2, pipeline_parallel=2), Heads())
    assert (indices(placement), placement.pipeline_parallel) == ([[0, 1, 2, 3]], 2)


@pytest.mark.parametrize("name", ["1", "GPU-00000001"])
def test_pinned_devices_choose_among_the_gpus(name: str) -> None:
    """By index or by UUID."""
    placement = place(host_of(gpu(0), gpu(1)), None, EngineSettings(), Heads(), devices=(name,))
    assert (placement.mode, indices(placement)) == (Mode.SINGLE, [[1]])


@pytest.mark.parametrize(
    ("host", "mode", "pins", "message"),
    [
        ("cpu-small", Mode.SINGLE, EngineSettings(), "no usable GPU: found none"),
        ("cpu-small", Mode.MULTI, EngineSettings(), "no usable GPU: found none"),
        (
            "1x-rtx3090",
            Mode.MULTI,
            EngineSettings(),
            "multi needs two or more equal GPUs, found 1× NVIDIA GeForce RTX 3090",
        ),
        (
            "mixed-3090-3060",
            Mode.MULTI,
            EngineSettings(),
            "multi needs two or more equal GPUs, found 1× NVIDIA GeForce RTX 3090, 1× NVIDIA GeForce RTX 3060",
        ),
        (
            "gpu-lost",
            Mode.MULTI,
            EngineSettings(),
            "multi needs two or more equal GPUs, found 1× NVIDIA GeForce RTX 3090, 1× GPU 1 (does not answer)",
        ),
        (
            "2x-rtx3090-nvlink",
            Mode.MULTI,
            EngineSettings(tensor_parallel=4),
            "tensor parallel 4 × pipeline parallel 1 needs 4 equal GPUs, found 2× NVIDIA GeForce RTX 3090",
        ),
        (
            "2x-rtx3090-nvlink",
            Mode.SINGLE,
            EngineSettings(tensor_parallel=2),
            "single uses one GPU, but tensor parallel 2 × pipeline parallel 1 is pinned",
        ),
        (
            "nvml-mismatch",
            None,
            EngineSettings(),
            "no usable GPU: found NVML failing (RM has detected an NVML/RM version mismatch)",
        ),
    ],
)
def test_what_the_host_lacks_is_named(host: str, mode: Mode | None, pins: EngineSettings, message: str) -> None:
    """Each refusal says what was found, and has a next step."""
    with pytest.raises(NoPlanError) as refusal:
        place(recorded(host), mode, pins, Heads())
    assert refusal.value.message == message
    assert refusal.value.hint


def test_a_pinned_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(NoPlanError) as refusal:
        place(recorded("2x-rtx3090-nvlink"), None, EngineSettings(), Heads(), devices=("7",))
    assert refusal.value.message == "NVIDIA_VISIBLE_DEVICES names GPU 7, found 2× NVIDIA GeForce RTX 3090"
    assert refusal.value.hint == "`stackwright gpus` shows the GPUs that are there"


def cut(index: int, gpu_instance: int | None = None, *, gib: int = 20, whole: int = 0) -> Gpu:
    """Return a MIG slice of the GPU with index `whole`, of an instance of its own unless told."""
    return replace(
        gpu(index, name=f"NVIDIA A100-SXM4-40GB MIG {gib}gb", gib=gib, capability="8.0"),
        uuid=f"MIG-{index:08d}",
        mig_slice=MigSlice(gpu=whole, gpu_instance=index if gpu_instance is None else gpu_instance),
    )


A100 = gpu(0, name="NVIDIA A100-SXM4-40GB", gib=40, capability="8.0")
PARTITIONED = replace(A100, mig=True)


@pytest.mark.parametrize("objective", [None, *Objective])
def test_equal_slices_get_a_replica_each_and_never_share_one(objective: Objective | None) -> None:
    """Whatever the objective: there is no other way, so that nothing is left to choose."""
    found = placements(host_of(PARTITIONED, cut(1), cut(2)), None, EngineSettings(), Heads(), objective)
    assert [(indices(each), each.tensor_parallel, each.pipeline_parallel) for each in found] == [([[1], [2]], 1, 1)]
    assert found[0].reason == "a model cannot span MIG slices: one replica on each, 2 replicas"
    assert found[0].warnings == ()


@pytest.mark.parametrize("pins", [EngineSettings(tensor_parallel=2), EngineSettings(pipeline_parallel=2)])
def test_a_pin_across_slices_is_refused(pins: EngineSettings) -> None:
    with pytest.raises(NoPlanError, match="is pinned, but a model cannot span MIG slices") as refusal:
        place(host_of(PARTITIONED, cut(1), cut(2)), Mode.MULTI, pins, Heads())
    assert "-mig 0" in (refusal.value.hint or "")


def test_slices_that_share_memory_serve_once() -> None:
    """Compute instances of one GPU instance: each engine would take the whole of the same memory."""
    host = host_of(PARTITIONED, cut(1, 7), cut(2, 7), cut(3, 9))
    placement = place(host, None, EngineSettings(), Heads())
    assert indices(placement) == [[1], [3]]
    assert placement.warnings == ("GPU 2 (NVIDIA A100-SXM4-40GB MIG 20gb) is left idle: it shares the memory of GPU 1",)
    pinned = place(host, None, EngineSettings(), Heads(), devices=("MIG-00000002",))
    assert indices(pinned) == [[2]]


def test_slices_of_an_unknown_instance_may_share_and_serve_once() -> None:
    """NVML did not tell: two engines could meet in one memory."""
    unknown = [replace(cut(index), mig_slice=MigSlice(gpu=0, gpu_instance=None)) for index in (1, 2)]
    placement = place(host_of(PARTITIONED, *unknown), None, EngineSettings(), Heads())
    assert indices(placement) == [[1]]
    assert placement.warnings[0].endswith("is left idle: perhaps it shares the memory of GPU 1")


def test_a_slice_whose_memory_is_unknown_is_not_used() -> None:
    """Other GPUs without a total share the processor's memory; a slice never does."""
    blind = replace(cut(2), memory_bytes=None, memory_used_bytes=None)
    placement = place(host_of(PARTITIONED, cut(1), blind), None, EngineSettings(), Heads())
    assert indices(placement) == [[1]]
    assert placement.warnings == ("GPU 2 (NVIDIA A100-SXM4-40GB MIG 20gb) is left idle: does not answer",)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        pytest.param(
            (replace(A100, index=5, uuid="GPU-5"), cut(1), cut(2)), [[5]], id="a whole GPU holds more than a slice"
        ),
        pytest.param((gpu(5), gpu(6), cut(1), cut(2)), [[5], [6]], id="a pair of whole GPUs comes first"),
        pytest.param((gpu(5, gib=12), cut(1), cut(2)), [[1], [2]], id="slices come before a smaller GPU"),
        pytest.param((cut(1), cut(2, gib=10), cut(3, gib=10)), [[1]], id="one large slice before two small ones"),
    ],
)
def test_auto_on_a_mixed_box_takes_what_holds_the_most(gpus: tuple[Gpu, ...], expected: list[list[int]]) -> None:
    placement = place(host_of(PARTITIONED, *gpus), None, EngineSettings(), Heads())
    assert indices(placement) == expected
    idle = {index for gpu in gpus if (index := gpu.index) not in [each.index for each in placement.gpus]}
    assert sorted(idle) == sorted(
        int(word) for text in placement.warnings for word in re.findall(r"\d+", text.split(" (")[0])
    )


def test_multi_takes_the_equal_slices_beside_a_larger_gpu() -> None:
    """What was asked for is there, though auto would take the whole GPU."""
    host = host_of(PARTITIONED, replace(A100, index=5, uuid="GPU-5"), cut(1), cut(2))
    assert indices(place(host, Mode.MULTI, EngineSettings(), Heads())) == [[1], [2]]


def test_equal_idle_slices_are_named_in_one_sentence() -> None:
    placement = place(
        host_of(PARTITIONED, *(cut(index, gib=5) for index in range(1, 5))), Mode.SINGLE, EngineSettings(), Heads()
    )
    assert placement.warnings == ("GPUs 2, 3 and 4 (NVIDIA A100-SXM4-40GB MIG 5gb) are left idle",)


def test_a_gpu_with_mig_on_and_no_slice_is_named_with_the_way_to_one() -> None:
    (warning,) = place(host_of(PARTITIONED, gpu(1)), None, EngineSettings(), Heads()).warnings
    assert warning == (
        "GPU 0 (NVIDIA A100-SXM4-40GB) is left idle: MIG is on, but it has no slice; `nvidia-smi mig -i 0 "
        "-lgip` lists the "
        "profiles, `sudo nvidia-smi mig -i 0 -cgi PROFILE -C` creates a slice"
    )


def test_every_gpu_behind_mig_is_refused_with_the_way_out() -> None:
    """Without a slice there is nothing to serve from; the refusal names both ways."""
    sliced = replace(gpu(0), mig=True)
    with pytest.raises(NoPlanError, match=r"no usable GPU: found 1× NVIDIA GeForce RTX 3090 \(MIG on\)") as refusal:
        place(host_of(sliced), None, EngineSettings(), Heads())
    assert refusal.value.hint is not None
    assert "nvidia-smi -i INDEX -mig 0" in refusal.value.hint
    assert "sudo nvidia-smi mig -i 0 -cgi PROFILE -C" in refusal.value.hint


def sizes(objective: Objective | None, nvlinks: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Return (tensor parallel, pipeline parallel) of each way to place a model on four GPUs, in order."""
    host = host_of(*(gpu(index) for index in range(4)), nvlinks=nvlinks)
    found = placements(host, Mode.MULTI, EngineSettings(), Heads(), objective)
    return [(each.tensor_parallel, each.pipeline_parallel) for each in found]


def test_stages_and_pcie_come_last() -> None:
    """Inside the island first; then pipeline stages across islands; tensor parallelism across PCIe last of all."""
    pairs = ((0, 1), (2, 3))
    assert sizes(None, pairs) == [(2, 1), (1, 1), (2, 2), (4, 1)]
    assert sizes(None, MESH_OF_FOUR) == [(4, 1), (2, 1), (1, 1)]
    assert sizes(None, ()) == [(1, 1), (1, 2), (1, 4), (1, 3), (2, 1), (4, 1)]


@pytest.mark.parametrize(
    ("experts", "more"), [pytest.param(128, [(4, 1)], id="divided"), pytest.param(126, [], id="not divided"), (0, [])]
)
def test_sizes_that_need_whole_experts_come_last(experts: int, more: list[tuple[int, int]]) -> None:
    """Of 768 numbers four ranks would have 192 each, no whole blocks of 128."""
    width = Width(matrix="mlp.experts.0.down_proj", size=768, block=128, expert=True)
    heads = Heads(attention=32, kv=4, widths=(width,), experts=experts)
    host = host_of(*(gpu(index) for index in range(4)), nvlinks=MESH_OF_FOUR)
    found = placements(host, None, EngineSettings(), heads)
    whole = [option for option in found if option.whole_experts]
    assert [(option.tensor_parallel, option.pipeline_parallel) for option in whole] == more
    assert found[len(found) - len(whole) :] == tuple(whole)
    assert all(option.last_resort and "whole experts" in option.reason for option in whole)
    other = replace(heads, widths=(*heads.widths, replace(width, expert=False)))
    assert not other.needs_whole_experts(4)


def test_throughput_prefers_replicas() -> None:
    """The smallest group that holds the model makes the most of them."""
    assert sizes(Objective.THROUGHPUT, MESH_OF_FOUR) == [(1, 1), (2, 1), (4, 1)]


def test_key_value_heads_are_divided_or_copied() -> None:
    """Eight ranks may copy two key-value heads; three heads go into neither two nor four."""
    assert Heads(attention=32, kv=2).allow(8)
    assert not Heads(attention=12, kv=3).allow(4)
    assert Heads(attention=12, kv=3).allow(3)
