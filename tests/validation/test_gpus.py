"""Rules over GPUs: drift since the plan was made, health, memory and who holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.finding import Finding
from stackwright.domain.host import Driver, Host, LinkKind
from stackwright.domain.machine import GpuProcess, GpuState, MemoryState, Unseen
from stackwright.rendering.numbered import flat_settings
from stackwright.validation.gpu_memory import check_gpu_memory
from stackwright.validation.gpus import check_health, check_host, used_gpus

from tests.planning_requests import gpu, plan_for, recorded
from tests.strategies import hosts

GIB = 2**30
HOST = recorded("2x-rtx3090-nvlink")
PLAN = plan_for(HOST)
FIRST, SECOND = used_gpus(PLAN)
ENV = {key: setting.value for key, setting in flat_settings(PLAN).items()}
MEMORY = MemoryState(available_bytes=64 * GIB, swap_bytes=0, swap_free_bytes=0)


def told(findings: object) -> list[tuple[str, str, str]]:
    """Return what was found and how bad it is."""
    assert not isinstance(findings, str)
    return [(each.check, each.severity.value, each.found) for each in findings]  # type: ignore[attr-defined]


def state(index: int, uuid: str, **facts: object) -> GpuState:
    """Return a GPU in good health, with its four lanes up."""
    return GpuState(**({"index": index, "uuid": uuid, "lanes": 4, "lanes_up": 4} | facts))  # type: ignore[arg-type]


WELL = (state(0, FIRST), state(1, SECOND))


def test_a_gpu_that_is_gone_is_named() -> None:
    host = recorded("2x-rtx3090-nvlink")
    fewer = replace(host, gpus=host.gpus[:1], links=(), p2p=((True,),))
    found = f"1 of the plan's 2 GPUs is missing: {SECOND} (for engine); this machine has 1× NVIDIA GeForce RTX 3090"
    assert told(check_host(PLAN, fewer)) == [("gpu-missing", "error", found)]


def test_a_plan_for_another_machine_is_told_once() -> None:
    (finding,) = check_host(PLAN, recorded("cpu-small"))
    assert finding.found == (
        f"2 of the plan's 2 GPUs are missing: {FIRST} (for engine), {SECOND} (for engine); this machine has none"
    )


def test_a_driver_whose_module_is_older_is_told_alone() -> None:
    """NVML then lists no GPU: that they are missing is no news beside it."""
    (finding,) = check_host(PLAN, recorded("nvml-mismatch"))
    assert (finding.check, finding.severity.value) == ("driver-fault", "error")
    assert "version mismatch (the loaded kernel module is 550.54.14)" in finding.found
    assert finding.fix.endswith("`sudo reboot`")


@pytest.mark.parametrize(
    ("driver", "found"),
    [
        (Driver(version="535.1", cuda="12.2"), [("driver-too-old", "error", "driver runs CUDA 12.2")]),
        (Driver(version="590.1", cuda="13.9"), []),
        (Driver(version="590.1", cuda=None), []),
        (None, []),
    ],
)
def test_a_driver_that_is_too_old_for_the_image_is_named(
    driver: Driver | None, found: list[tuple[str, str, str]]
) -> None:
    assert told(check_host(PLAN, replace(recorded("2x-rtx3090-nvlink"), driver=driver))) == found


def test_a_bridge_that_was_taken_away_is_a_warning() -> None:
    host = recorded("2x-rtx3090-nvlink")
    loose = tuple(replace(link, kind=LinkKind.PCIE_HOST, lanes=None, version=None) for link in host.links)
    (finding,) = check_host(PLAN, replace(host, links=loose))
    assert told([finding]) == [("links-changed", "warning", f"{FIRST} and {SECOND}: pcie-host")]
    assert finding.expected == "nvlink, 4 lanes"


def test_gpus_that_changed_places_are_told_and_their_links_are_not() -> None:
    swapped = tuple(replace(each, index=1 - each.index) for each in reversed(HOST.gpus))
    (finding,) = check_host(PLAN, replace(HOST, gpus=swapped))
    assert told([finding]) == [
        ("gpu-order", "warning", f"{SECOND} was GPU 1 and is GPU 0; {FIRST} was GPU 0 and is GPU 1")
    ]


def test_a_gpu_that_is_another_size_or_cut_into_slices_is_an_error() -> None:
    cut = (replace(HOST.gpus[0], mig=True), replace(HOST.gpus[1], memory_bytes=12 * GIB))
    assert told(check_host(PLAN, replace(HOST, gpus=cut))) == [
        ("gpu-changed", "error", "GPU 0: MIG mode is on, and was off"),
        ("gpu-changed", "error", "GPU 1: 24.0 GiB of memory before, 12.0 GiB now"),
    ]


def test_a_new_gpu_is_told() -> None:
    more = replace(HOST, gpus=(*HOST.gpus, gpu(2)))
    assert told(check_host(PLAN, more)) == [
        ("gpu-added", "warning", "GPU 2 (NVIDIA GeForce RTX 3090): not in the plan")
    ]


@given(host=hosts())
def test_any_host_can_be_compared(host: Host) -> None:
    for finding in check_host(PLAN, host):
        assert isinstance(finding, Finding)
        assert finding.fix


def test_gpus_in_good_health_have_no_finding() -> None:
    assert told(check_health(PLAN, WELL)) == []


@pytest.mark.parametrize(
    ("states", "found"),
    [
        (
            (WELL[0], GpuState(index=1, uuid=None, failure="GPU is lost", code=15)),
            ("gpu-lost", "error", "GPU 1: GPU is lost (NVML error 15)"),
        ),
        (
            (*WELL, GpuState(index=2, uuid=None, failure="Unknown Error", code=999)),
            ("gpu-lost", "warning", "GPU 2: Unknown Error (NVML error 999)"),
        ),
        (
            (WELL[0], state(1, SECOND, lanes_up=3)),
            ("nvlink-lanes", "warning", "GPU 1: 3 of 4 NVLink lanes are up"),
        ),
        (
            (WELL[0], state(1, SECOND, ecc_errors=2)),
            ("gpu-memory-errors", "warning", "GPU 1: 2 uncorrected memory errors since the driver was loaded"),
        ),
        (
            (WELL[0], state(1, SECOND, rows_broken=True)),
            ("gpu-memory-errors", "warning", "GPU 1: broken memory rows could not be remapped"),
        ),
        (
            Unseen(why="Driver Not Loaded"),
            ("not-checked", "warning", "the GPUs' health: not checked: Driver Not Loaded"),
        ),
    ],
    ids=["lost", "other-lost", "lane", "ecc", "rows", "unseen"],
)
def test_bad_health_is_told(states: tuple[GpuState, ...] | Unseen, found: tuple[str, str, str]) -> None:
    assert told(check_health(PLAN, states)) == [found]


def test_the_board_of_a_slice_is_looked_at() -> None:
    host = recorded("a100-seven-slices")
    plan = plan_for(host)
    board = host.gpus[0].uuid or ""
    assert used_gpus(plan)[0].startswith("MIG-")
    assert told(check_health(plan, (state(0, board, lanes=12, lanes_up=0),))) == []
    assert told(check_health(plan, (state(0, board, ecc_errors=1),)))[0][0] == "gpu-memory-errors"
    ((check, severity, _),) = told(check_health(plan, (GpuState(index=0, uuid=None, failure="GPU is lost", code=15),)))
    assert (check, severity) == ("gpu-lost", "error")


def test_lanes_without_a_bridge_are_no_fault() -> None:
    """A GeForce has its lanes, bridge or not; only what the plan joined by them counts."""
    plan = plan_for(recorded("2x-rtx3090-pcie"))
    assert told(check_health(plan, tuple(state(i, uuid, lanes_up=0) for i, uuid in enumerate(used_gpus(plan))))) == []


def held(used_gib: float) -> Host:
    """Return the host with so much of its first GPU in use."""
    return replace(HOST, gpus=(replace(HOST.gpus[0], memory_used_bytes=int(used_gib * GIB)), HOST.gpus[1]))


def test_free_memory_is_compared_and_its_holders_named() -> None:
    assert told(check_gpu_memory(PLAN, ENV, held(0.3), WELL, MEMORY, None)) == []
    holders = (GpuProcess(pid=7, name="python3", memory_bytes=6 * GIB), GpuProcess(pid=8, name=None, memory_bytes=None))
    states = (state(0, FIRST, processes=holders), WELL[1])
    (finding,) = check_gpu_memory(PLAN, ENV, held(6.5), states, MEMORY, None)
    assert told([finding]) == [
        ("gpu-memory", "error", "GPU 0: 17.5 GiB of 24.0 GiB free; used by python3 (pid 7, 6.0 GiB), a process (pid 8)")
    ]
    assert finding.expected == "21.6 GiB free (VLLM_GPU_MEMORY_UTILIZATION=0.9)"
    assert finding.fix.startswith("stop it (`kill 7 8`), or plan for the free memory: `configure-gpu prod`")


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (Unseen(why="no"), "the programs that use the rest are unknown"),
        ((state(0, FIRST, processes=()), WELL[1]), "used by no process that NVML lists"),
    ],
    ids=["untold", "nobody"],
)
def test_memory_whose_holder_is_unknown_is_told_so(states: tuple[GpuState, ...] | Unseen, words: str) -> None:
    (finding,) = check_gpu_memory(PLAN, ENV, held(6.5), states, MEMORY, None)
    assert finding.found.endswith(words)


def test_what_this_stack_holds_itself_does_not_count() -> None:
    own = GpuProcess(pid=7, name="VLLM", memory_bytes=21 * GIB)
    other = GpuProcess(pid=8, name="game", memory_bytes=4 * GIB)
    serving = (state(0, FIRST, processes=(own,)), WELL[1])
    assert told(check_gpu_memory(PLAN, ENV, held(21), serving, MEMORY, frozenset({7}))) == []
    crowded = (state(0, FIRST, processes=(own, other)), WELL[1])
    (finding,) = check_gpu_memory(PLAN, ENV, held(23.9), crowded, MEMORY, frozenset({7}))
    assert finding.found == "GPU 0: 20.0 GiB of 24.0 GiB free; used by game (pid 8, 4.0 GiB)"


def test_with_unified_memory_the_processors_counts() -> None:
    host = recorded("gb10")
    plan = plan_for(host)
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    much = MemoryState(available_bytes=host.memory_bytes or 0, swap_bytes=0, swap_free_bytes=0)
    assert told(check_gpu_memory(plan, env, host, (), much, None)) == []
    little = replace(much, available_bytes=GIB)
    assert [check for check, *_ in told(check_gpu_memory(plan, env, host, (), little, None))] == ["gpu-memory"]
    unseen = Unseen(why="/proc/meminfo: gone")
    assert [check for check, *_ in told(check_gpu_memory(plan, env, host, (), unseen, None))] == ["not-checked"]


@given(
    states=st.lists(
        st.builds(
            GpuState,
            index=st.integers(0, 40),
            uuid=st.none() | st.sampled_from([FIRST, SECOND, "GPU-other"]),
            failure=st.none() | st.text(max_size=20),
            code=st.none() | st.integers(),
            processes=st.none()
            | st.lists(
                st.builds(
                    GpuProcess,
                    pid=st.integers(0, 2**22),
                    name=st.none() | st.text(max_size=9),
                    memory_bytes=st.none() | st.integers(0, 2**40),
                ),
                max_size=3,
            ).map(tuple),
            lanes=st.integers(0, 18),
            lanes_up=st.integers(0, 18),
            ecc_errors=st.none() | st.integers(0, 9),
            rows_broken=st.none() | st.booleans(),
        ),
        max_size=4,
    ).map(tuple)
    | st.builds(Unseen, why=st.text(max_size=20)),
    used=st.none() | st.integers(0, 24 * GIB),
    own=st.none() | st.frozensets(st.integers(0, 9)),
)
def test_any_state_can_be_judged(
    states: tuple[GpuState, ...] | Unseen, used: int | None, own: frozenset[int] | None
) -> None:
    host = replace(HOST, gpus=tuple(replace(each, memory_used_bytes=used) for each in HOST.gpus))
    for finding in (*check_health(PLAN, states), *check_gpu_memory(PLAN, ENV, host, states, MEMORY, own)):
        assert finding.fix
