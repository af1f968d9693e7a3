"""From NVML's answers to GPUs, links and P2P: whatever NVML says, a valid host comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.detect.fact import Fact, Missing, Unread, describe, is_plain
from stackwright.detect.mig import add_without_peers, make_slices
from stackwright.detect.nvml import GpuAnswers, LaneAnswers, NvmlAnswers, PairAnswers, SliceAnswers
from stackwright.detect.snapshot import check_host
from stackwright.detect.topology import (
    decode_version,
    make_driver,
    make_gpus,
    make_links,
    make_p2p,
    parse_module_version,
)
from stackwright.domain.host import HOST_SCHEMA, Containers, Cpu, Driver, Host, Link, LinkKind, OperatingSystem

ABSENT = Unread(words="/proc/driver/nvidia/version: No such file or directory")
LOST = Unread(words="GPU is lost", code=15)

unread = st.builds(Unread, words=st.text(max_size=300), code=st.none() | st.integers(1, 30) | st.just(999))
numbers = st.integers(0, 60) | st.integers(-(2**31), 2**32 - 1)
addresses = st.integers(0, 3).map(lambda bus: f"0000000{bus}:01:00.0")
lanes = st.builds(
    LaneAnswers,
    state=st.sampled_from([0, 1]) | numbers | unread,
    remote_type=st.none() | st.sampled_from([0, 1, 2, 255]) | unread,
    remote_bus_id=st.none() | addresses | unread,
    version=st.none() | numbers | unread,
)


def slices(gpu: int) -> st.SearchStrategy[Fact[tuple[SliceAnswers | Unread, ...]]]:
    """Answers about the MIG devices of a GPU; what names one is its own."""

    def slice_of(number: int) -> st.SearchStrategy[SliceAnswers | Unread]:
        known = st.builds(
            SliceAnswers,
            number=st.just(number),
            name=st.text(max_size=300) | unread,
            uuid=st.just(f"MIG-{gpu}-{number}") | st.text(max_size=5) | unread,
            memory=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)) | unread,
            gpu_instance=st.integers(0, 14) | unread,
        )
        return known | unread

    return st.integers(0, 3).flatmap(lambda count: st.tuples(*map(slice_of, range(count)))) | unread


@st.composite
def nvml_answers(draw: st.DrawFn) -> NvmlAnswers:
    """Answers that keep only the form: any number, any text, any failure, anywhere."""
    count = draw(st.integers(0, 4))
    sizes = st.integers(0, 2**63 - 1)
    rows: list[GpuAnswers | Unread] = []
    for index in range(count):
        mig = draw(st.sampled_from([0, 1]) | numbers | unread)
        gpu = st.builds(
            GpuAnswers,
            index=st.just(index),
            name=st.text(max_size=300) | unread,
            uuid=st.just(f"GPU-{index}") | st.text(max_size=5) | unread,
            memory=st.tuples(sizes, sizes) | unread,
            capability=st.tuples(numbers, numbers) | unread,
            pci_bus_id=st.just(f"0000000{index}:01:00.0") | unread,
            numa_node=st.integers(-1, 8).map(str) | st.text(max_size=5) | unread,
            mig=st.just(mig),
            lanes=st.lists(lanes, max_size=4).map(tuple),
            slices=slices(index) if mig == 1 else st.just(()),
        )
        rows.append(draw(gpu | unread))
    known = [index for index, row in enumerate(rows) if isinstance(row, GpuAnswers)]
    status = numbers | unread
    pairs = tuple(
        PairAnswers(a=a, b=b, ancestor=draw(status), a_reads_b=draw(status), b_reads_a=draw(status))
        for a in known
        for b in known
        if a < b
    )
    return NvmlAnswers(
        driver_version=draw(st.text(max_size=20) | unread),
        cuda_version=draw(st.integers(0, 2**31 - 1) | unread),
        gpus=tuple(rows),
        pairs=pairs,
    )


@given(answers=nvml_answers() | unread, module=st.text() | unread)
def test_any_answers_make_a_valid_host(answers: Fact[NvmlAnswers], module: Fact[str]) -> None:
    """The host passes every check that a snapshot must, and every null of a GPU has a warning."""
    missing: list[Missing] = []
    known = (
        NvmlAnswers(driver_version="1", cuda_version=0, gpus=(), pairs=()) if isinstance(answers, Unread) else answers
    )
    driver = make_driver(answers, module, missing)
    gpus = make_gpus(known, missing)
    cut = make_slices(known, gpus, missing)
    host = Host(
        schema=HOST_SCHEMA,
        cpu=Cpu(model=None, cores=None, threads=None, numa_nodes=None, flags=()),
        memory_bytes=None,
        os=OperatingSystem(kernel=None, wsl=None),
        driver=driver,
        gpus=(*gpus, *cut),
        links=make_links(known, gpus, missing),
        p2p=add_without_peers(make_p2p(known, missing), len(cut)),
        containers=Containers(engine=None, version=None, compose=None, gpu_access=None),
    )
    assert list(check_host(host)) == []
    warned = {row.subject for row in missing}
    for gpu in gpus:
        # A NUMA node of -1 is a null that was read: the kernel ties the device to none.
        facts = (gpu.uuid, gpu.name, gpu.memory_bytes, gpu.compute_capability, gpu.pci_bus_id, gpu.mig)
        assert None not in facts or f"GPU {gpu.index}" in warned
    for each in cut:
        assert each.mig_slice is not None
        whole = f"GPU {each.mig_slice.gpu}"
        known_facts = (each.uuid, each.name, each.memory_bytes, each.mig_slice.gpu_instance)
        assert None not in known_facts or any(who.endswith(f" of {whole}") for who in warned)
    for i, row in enumerate(host.p2p):
        for j, access in enumerate(row):
            assert access is not None or f"GPU {i}" in warned or f"GPU {j}" in warned


@pytest.mark.parametrize(
    ("number", "capability", "expected"),
    [
        (1, "6.0", 1),
        (2, "7.0", 2),
        (3, "7.5", 2),
        (4, "8.0", 3),  # nvml.h: 3.0; the driver's own 4 is 2.2, which no Ampere has
        (4, "7.5", 2),  # the same number, the driver's own
        (5, "8.6", 3),
        (5, None, 3),  # both encodings agree
        (6, "8.6", 3),
        (6, "9.0", 4),
        (7, "9.0", 4),  # what an H100 says
        (7, "10.0", 5),
        (8, "10.0", 5),
        (7, None, "version number 7 is ambiguous"),
        (7, "8.6", "version number 7 is unknown"),
        (0, "9.0", "version number 0 is unknown"),
        (255, "9.0", "version number 255 is unknown"),
    ],
)
def test_lane_version_of_both_encodings(number: int, capability: str | None, expected: int | str) -> None:
    """The GPU's generation decides where nvml.h and the driver number versions differently."""
    assert decode_version(number, capability) == (Unread(words=expected) if isinstance(expected, str) else expected)


def gpu(index: int, *lanes: LaneAnswers, capability: tuple[int, int] = (8, 6)) -> GpuAnswers:
    """Write a device of which only the lanes matter."""
    return GpuAnswers(
        index=index,
        name=f"GPU {index}",
        uuid=f"GPU-{index}",
        memory=(2**30, 0),
        capability=capability,
        pci_bus_id=f"0000000{index}:01:00.0",
        numa_node="0",
        mig=0,
        lanes=lanes,
        slices=(),
    )


def lane(
    remote: int | None = None,
    *,
    kind: Fact[int] = 0,
    version: int = 5,
    state: Fact[int] = 1,
    address: Unread | None = None,
) -> LaneAnswers:
    """Write an active lane to a device, or to what `kind` says."""
    bus_id = address or (f"0000000{remote}:01:00.0" if remote is not None else "FFFFFFFF:FF:1F.7")
    return LaneAnswers(state=state, remote_type=kind, remote_bus_id=bus_id, version=version)


def pair(a: int, b: int, ancestor: Fact[int] = 30, status: Fact[int] = 0) -> PairAnswers:
    """Write two devices alike in both directions."""
    return PairAnswers(a=a, b=b, ancestor=ancestor, a_reads_b=status, b_reads_a=status)


def link(a: int, b: int, kind: LinkKind, lanes: int | None = None, version: int | None = None) -> Link:
    """Write an expected row."""
    return Link(a=a, b=b, kind=kind, lanes=lanes, version=version)


SWITCH = lane(kind=2, version=7)
NO_TYPE = Unread(words="Function Not Found", code=13)


@pytest.mark.parametrize(
    ("first", "second", "expected", "warnings"),
    [
        ([lane(1)] * 4, [lane(0)] * 4, [link(0, 1, LinkKind.NVLINK, 4, 3)], ()),
        # The ends disagree: a lane that one of them names is there, and the lower version is the safe one.
        ([lane(1)] * 4, [lane(0, version=2)] * 3, [link(0, 1, LinkKind.NVLINK, 4, 2)], ()),
        # One end cannot be read: the other one's lanes are there all the same.
        (
            [LaneAnswers(state=LOST)],
            [lane(0)] * 4,
            [link(0, 1, LinkKind.NVLINK, 4, 3)],
            ("GPU 0: NVLink state cannot be read: GPU is lost",),
        ),
        ([LaneAnswers(state=0)] * 4, [LaneAnswers(state=0)] * 4, [link(0, 1, LinkKind.PCIE_HOST)], ()),
        ([], [], [link(0, 1, LinkKind.PCIE_HOST)], ()),
        # An old driver does not say what is at the other end, but its address is one of ours.
        ([lane(1, kind=NO_TYPE)], [lane(0, kind=NO_TYPE)], [link(0, 1, LinkKind.NVLINK, 1, 3)], ()),
        # Nor is it one of ours: then nobody knows.
        (
            [lane(kind=NO_TYPE)],
            [],
            [link(0, 1, LinkKind.PCIE_HOST)],
            ("GPU 0: NVLink peer cannot be read: Function Not Found",),
        ),
        (
            [lane(address=LOST)],
            [],
            [link(0, 1, LinkKind.PCIE_HOST)],
            ("GPU 0: NVLink peer cannot be read: GPU is lost",),
        ),
        # A lane to a GPU that this container does not see, and one to an IBM processor.
        ([lane(7), lane(kind=1)], [], [link(0, 1, LinkKind.PCIE_HOST)], ()),
        # Only one of two is on the switch.
        ([SWITCH] * 18, [], [link(0, 1, LinkKind.PCIE_HOST)], ("GPU 0: NVLink version cannot be read: ",)),
    ],
    ids=[
        "bridge",
        "uneven",
        "one-end",
        "down",
        "none",
        "untyped",
        "unknown-end",
        "no-address",
        "elsewhere",
        "half-switch",
    ],
)
def test_two_gpus(
    first: list[LaneAnswers], second: list[LaneAnswers], expected: list[Link], warnings: tuple[str, ...]
) -> None:
    """The best connection of a pair."""
    answers = NvmlAnswers(
        driver_version="1", cuda_version=0, gpus=(gpu(0, *first), gpu(1, *second)), pairs=(pair(0, 1),)
    )
    missing: list[Missing] = []
    assert list(make_links(answers, make_gpus(answers, missing), missing)) == expected
    said = describe(missing)
    assert len(said) == len(warnings)
    assert all(sentence.startswith(start) for sentence, start in zip(said, warnings, strict=True))


def test_switch_joins_every_pair_by_the_fewer_lanes() -> None:
    """A GPU with lanes down is linked by those that are up."""
    hopper = (9, 0)
    rows = (
        gpu(0, *[SWITCH] * 18, capability=hopper),
        gpu(1, *[SWITCH] * 16, LaneAnswers(state=0), capability=hopper),
        gpu(2, *[SWITCH] * 18, capability=hopper),
    )
    answers = NvmlAnswers(driver_version="1", cuda_version=0, gpus=rows, pairs=(pair(0, 1), pair(0, 2), pair(1, 2)))
    assert make_links(answers, make_gpus(answers, []), []) == (
        link(0, 1, LinkKind.NVSWITCH, 16, 4),
        link(0, 2, LinkKind.NVSWITCH, 18, 4),
        link(1, 2, LinkKind.NVSWITCH, 16, 4),
    )


@pytest.mark.parametrize(
    ("ancestor", "kind"),
    [
        (0, LinkKind.PCIE_SWITCH),
        (10, LinkKind.PCIE_SWITCH),
        (20, LinkKind.PCIE_SWITCH),
        (30, LinkKind.PCIE_HOST),
        (40, LinkKind.NUMA),
        (50, LinkKind.SYSTEM),
        (60, None),
        (Unread(words="Not Supported", code=3), None),
    ],
)
def test_common_ancestor(ancestor: Fact[int], kind: LinkKind | None) -> None:
    """nvmlGpuTopologyLevel_t by name; a pair of unknown connection has no row and a warning."""
    answers = NvmlAnswers(driver_version="1", cuda_version=0, gpus=(gpu(0), gpu(1)), pairs=(pair(0, 1, ancestor),))
    missing: list[Missing] = []
    found = make_links(answers, make_gpus(answers, []), missing)
    assert [row.kind for row in found] == ([] if kind is None else [kind])
    assert [(row.subject, row.fact) for row in missing] == ([("GPU 0", "connection to GPU 1")] if kind is None else [])


@pytest.mark.parametrize(("status", "access"), [(0, True), (1, False), (2, False), (5, False), (6, None), (LOST, None)])
def test_p2p_status(status: Fact[int], access: bool | None) -> None:
    """Only OK is access; the status `unknown` is unknown."""
    answers = NvmlAnswers(driver_version="1", cuda_version=0, gpus=(gpu(0), gpu(1)), pairs=(pair(0, 1, status=status),))
    assert make_p2p(answers, []) == ((True, access), (access, True))


def test_p2p_keeps_its_direction() -> None:
    """Row reads column."""
    one_way = PairAnswers(a=0, b=1, ancestor=30, a_reads_b=0, b_reads_a=5)
    answers = NvmlAnswers(driver_version="1", cuda_version=0, gpus=(gpu(0), gpu(1)), pairs=(one_way,))
    assert make_p2p(answers, []) == ((True, True), (False, True))


MODULE = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 13.2.0\n"
)
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs@U22)\n"


@pytest.mark.parametrize(
    ("text", "version"),
    [(MODULE, "550.54.14"), (OPEN_MODULE, "580.95.05"), ("GCC version: 13.2.0\n", None), ("", None), (ABSENT, None)],
)
def test_module_version(text: Fact[str], version: str | None) -> None:
    """The closed and the open kernel module name their version alike."""
    assert parse_module_version(text) == version


@given(text=st.text() | st.text(st.sampled_from("NVRM version:0123456789. \n")))
def test_module_version_takes_any_text(text: str) -> None:
    """Any text is a version or none."""
    version = parse_module_version(text)
    assert version is None or is_plain(version)


ANSWERS = NvmlAnswers(driver_version="580.95.05", cuda_version=13000, gpus=(), pairs=())
NOT_FOUND = "NVML Shared Library Not Found"


@pytest.mark.parametrize(
    ("answers", "module", "driver", "warnings"),
    [
        (None, ABSENT, None, ()),
        # The kernel module is loaded, but a container was not given the library.
        (
            None,
            MODULE,
            Driver(version="550.54.14", cuda=None, error=NOT_FOUND),
            (f"NVIDIA driver: NVML cannot be read: {NOT_FOUND}",),
        ),
        (
            Unread(words="Driver Not Loaded", code=9),
            ABSENT,
            Driver(version=None, cuda=None, error="Driver Not Loaded"),
            ("NVIDIA driver: NVML cannot be read: Driver Not Loaded",),
        ),
        (ANSWERS, MODULE, Driver(version="580.95.05", cuda="13.0"), ()),
        (
            NvmlAnswers(driver_version=LOST, cuda_version=LOST, gpus=LOST, pairs=()),
            MODULE,
            Driver(version="550.54.14", cuda=None, error="GPU is lost"),
            ("NVIDIA driver: version, CUDA version and number of GPUs cannot be read: GPU is lost",),
        ),
        (
            NvmlAnswers(driver_version="470.256.02", cuda_version=11040, gpus=(), pairs=()),
            ABSENT,
            Driver(version="470.256.02", cuda="11.4"),
            (),
        ),
    ],
    ids=["none", "library-hidden", "not-loaded", "well", "all-fails", "old"],
)
def test_driver(
    answers: Fact[NvmlAnswers] | None, module: Fact[str], driver: Driver | None, warnings: tuple[str, ...]
) -> None:
    """A machine without a driver is not one with a broken driver."""
    missing: list[Missing] = []
    assert make_driver(answers, module, missing) == driver
    assert describe(missing) == warnings
