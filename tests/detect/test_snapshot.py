"""Snapshots: exact round trip, and one sentence for every damaged file."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stackwright.detect.snapshot import check_host, format_snapshot, read_snapshot, write_snapshot
from stackwright.domain.host import Host
from stackwright.errors import HostError, StackError, UsageError

from tests.strategies import hosts

RECORDED = Path(__file__).parents[1] / "hosts" / "2x-rtx3090-nvlink" / "host.yaml"
TEXT = RECORDED.read_text()

# The folder is the test's own and each example overwrites its file whole.
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_FOLDER
@given(host=hosts())
def test_round_trip_is_exact(tmp_path: Path, host: Host) -> None:
    """What was written reads back equal, and formats to the same text."""
    path = tmp_path / "host.yaml"
    text = format_snapshot(host)
    path.write_text(text, encoding="utf-8")
    again = read_snapshot(path)
    assert again == host
    assert format_snapshot(again) == text


@SHARED_FOLDER
@given(text=st.text(max_size=300) | st.binary(max_size=300))
def test_any_content_is_a_host_or_one_error(tmp_path: Path, text: str | bytes) -> None:
    """Whatever a file holds, reading it raises nothing but our own error."""
    path = tmp_path / "host.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    read_or_refuse(path)


FRAGMENTS = ["null", "[]", "{}", "-1", "1e400", "''", '"\\0"', "9" * 30, "!!bool x", "!!int ''", "&a [*a]", "?", "0.5"]


@SHARED_FOLDER
@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 40), put=st.sampled_from(FRAGMENTS) | st.text(max_size=8))
def test_damaged_snapshot_is_a_valid_host_or_one_error(tmp_path: Path, start: int, length: int, put: str) -> None:
    """A snapshot with a part replaced is refused in one line, or is a host that passes every check."""
    path = tmp_path / "host.yaml"
    damaged = TEXT[:start] + put + TEXT[start + length :]
    path.write_bytes(damaged.encode("utf-8", "surrogatepass"))
    host = read_or_refuse(path)
    assert host is None or not list(check_host(host))


def read_or_refuse(path: Path) -> Host | None:
    """Read a snapshot; where it is refused, check that the error is one for people."""
    try:
        return read_snapshot(path)
    except StackError as error:
        refused = error
    assert refused.exit_code == 3
    assert refused.message.startswith(str(path))
    assert "\n" not in refused.message
    assert not refused.message.endswith(".")
    return None


DAMAGES = [
    ("schema: 1", "schema: 2", "schema 2 is newer than this Stackwright reads (1)"),
    ("schema: 1", "schema: 2\nfuture: {}", "schema 2 is newer than this Stackwright reads (1)"),
    ("schema: 1", "schema: 0", "schema: found 0; known is 1"),
    ("schema: 1", "schema: true", "schema: expected a whole number, got true or false"),
    ("schema: 1\n", "", "`schema` is missing"),
    ("threads: 32", "thread: 32", "cpu.thread: unknown key"),
    ("cores: 16", "cores: 0", "cpu.cores: found 0; a machine has at least 1 (null where it is unknown)"),
    ("cores: 16", "cores: -4", f"cpu.cores: found -4; allowed is 0 to {2**63 - 1}"),
    ("memory_bytes: 134", "memory_bytes: -134", f"memory_bytes: found -134237724672; allowed is 0 to {2**63 - 1}"),
    ("{kernel: 6.8.0-79-generic", "{kernel: 6.8", "os.kernel: expected text or nothing, got a number"),
    ("kernel: 6.8.0-79-generic", 'kernel: "a\\nb"', TEXT_PROBLEM := "os.kernel: empty, longer than 200 characters, "),
    ("kernel: 6.8.0-79-generic", f"kernel: {'x' * 201}", TEXT_PROBLEM),
    ("kernel: 6.8.0-79-generic", 'kernel: ""', TEXT_PROBLEM),
    ("cuda: '13.0'", "cuda: twelve", """driver.cuda: found 'twelve'; allowed is digits.digits, as "13.0\""""),
    ("avx2,", "'a b ',", "cpu.flags[4]: empty, longer than 200 characters, or not one printable line"),
    ("index: 1,", "index: 0,", "gpus: two rows have the same index: 0"),
    (
        "GPU-3090bbbb-0002-4d1e-9f00-bbbbbbbbbbbb",
        "GPU-3090aaaa-0001-4d1e-9f00-aaaaaaaaaaaa",
        "gpus: two rows have the ",
    ),
    (
        "GPU-3090bbbb-0002-4d1e-9f00-bbbbbbbbbbbb",
        "'0'",
        "gpus[1].uuid: found '0'; allowed is GPU-… of letters, digits ",
    ),
    ("'8.6'", "'86'", "gpus[0].compute_capability: found '86'; allowed is digits.digits, as \"8.6\""),
    ("00000000:02:00.0", "../../etc", "gpus[1].pci_bus_id: found '../../etc'; allowed is domain:bus:device.function, "),
    ("00000000:02:00.0", "00000000:01:00.0", "gpus: two rows have the same pci_bus_id: 00000000:01:00.0"),
    ("b: 1, kind", "b: 2, kind", "links[0].b: there is no whole GPU with index 2"),
    ("a: 0, b: 1, kind", "a: 1, b: 0, kind", "links[0]: found a: 1 and b: 0; a must be the smaller index"),
    ("a: 0, b: 1, kind", "a: 0, b: 0, kind", "links[0]: found a: 0 and b: 0; a must be the smaller index"),
    ("kind: nvlink", "kind: pcie-host", "links[0]: a link of kind pcie-host has neither lanes nor version"),
    ("kind: nvlink", "kind: nvlonk", "links[0].kind: unknown value 'nvlonk'"),
    ("lanes: 4", "lanes: 0", "links[0].lanes: found 0; a link has at least 1"),
    ("  - [true, true]\n  - [true, true]", "  - [true, true]", "p2p: found 1 rows for 2 GPUs"),
    ("  - [true, true]\n  - [true, true]", "  - [true, true]\n  - [true]", "p2p[1]: found 1 values for 2 GPUs"),
    (TEXT, "[]", "not a host snapshot: its top level is not a mapping"),
    (TEXT, "", "not a host snapshot: its top level is not a mapping"),
    ("wsl: false", "wsl: !!bool maybe", "not valid YAML: a value does not match its tag"),
]

SLICED = (RECORDED.parents[1] / "a100-mig" / "host.yaml").read_text()
SLICE_DAMAGES = [
    (
        "uuid: MIG-a100aaaa-0300",
        "uuid: GPU-a100aaaa-0300",
        "gpus[2].uuid: found 'GPU-a100aaaa-0300-5d1e-9f00-000000000000",
    ),
    (
        "uuid: GPU-a100bbbb",
        "uuid: MIG-a100bbbb",
        "gpus[1].uuid: found 'MIG-a100bbbb-0002-4d1e-9f00-bbbbbbbbbbbb'; allowed ",
    ),
    (
        "{gpu: 0, gpu_instance: 2}",
        "{gpu: 1, gpu_instance: 2}",
        "gpus[2].mig_slice.gpu: there is no GPU with index 1 whose mig ",
    ),
    (
        "{gpu: 0, gpu_instance: 2}",
        "{gpu: 3, gpu_instance: 2}",
        "gpus[2].mig_slice.gpu: there is no GPU with index 3 whose mig ",
    ),
    ("a: 0, b: 1", "a: 0, b: 2", "links[0].b: there is no whole GPU with index 2"),
]


def test_a_snapshot_from_before_slices_reads_to_the_same_host(tmp_path: Path) -> None:
    """`mig_slice` may be left out, or null."""
    path = tmp_path / "host.yaml"
    path.write_text(TEXT.replace("mig: false}", "mig: false, mig_slice: null}"))
    assert read_snapshot(path) == read_snapshot(RECORDED)
    assert all(gpu.mig_slice is None for gpu in read_snapshot(RECORDED).gpus)


def test_a_slice_of_an_old_driver_keeps_its_long_name(tmp_path: Path) -> None:
    """Before driver 470 a MIG device's UUID named its GPU and both instances."""
    path = tmp_path / "host.yaml"
    path.write_text(SLICED.replace("MIG-a100aaaa-0300-5d1e-9f00-000000000000", "MIG-GPU-a100aaaa-0001/2/0"))
    assert read_snapshot(path).gpus[2].uuid == "MIG-GPU-a100aaaa-0001/2/0"


@pytest.mark.parametrize(
    ("text", "old", "new", "problem"),
    [*((TEXT, *damage) for damage in DAMAGES), *((SLICED, *damage) for damage in SLICE_DAMAGES)],
)
def test_each_damage_has_its_sentence(tmp_path: Path, text: str, old: str, new: str, problem: str) -> None:
    """The message names the file, the key and what was found; a slice has a MIG UUID, a GPU with MIG on, no link."""
    path = tmp_path / "host.yaml"
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(HostError) as caught:
        read_snapshot(path)
    assert caught.value.message.startswith(f"{path}: {problem}")


def test_unknown_key_names_the_close_one(tmp_path: Path) -> None:
    """A slip of the keyboard is answered with the word that was meant."""
    path = tmp_path / "host.yaml"
    path.write_text(TEXT.replace("threads: 32", "thread: 32"))
    with pytest.raises(HostError) as caught:
        read_snapshot(path)
    assert caught.value.hint == "did you mean `threads`?"


def test_missing_file_is_one_error(tmp_path: Path) -> None:
    """A wrong path is the person's to mend: exit code 3."""
    with pytest.raises(HostError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        read_snapshot(tmp_path / "absent.yaml")


def test_writing_replaces_in_one_step_and_leaves_nothing_else(tmp_path: Path) -> None:
    """The file that stood there is another file afterwards, readable to others as the umask allows."""
    host = read_snapshot(RECORDED)
    path = tmp_path / "host.yaml"
    path.write_text("what stood there")
    with path.open() as before:
        write_snapshot(host, path)
        assert before.read() == "what stood there"
    assert path.read_text() == TEXT
    assert os.listdir(tmp_path) == ["host.yaml"]  # noqa: PTH208 names alone
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    """A symbolic link stays one; its target gets the text."""
    (tmp_path / "target.yaml").write_text("")
    (tmp_path / "link.yaml").symlink_to("target.yaml")
    write_snapshot(read_snapshot(RECORDED), tmp_path / "link.yaml")
    assert (tmp_path / "link.yaml").is_symlink()
    assert (tmp_path / "target.yaml").read_text() == TEXT


def test_full_disk_leaves_what_stood_there(tmp_path: Path) -> None:
    """Half a snapshot is none: the old file stays, and the new one's beginnings go."""
    path = tmp_path / "host.yaml"
    path.write_text("what stood there")
    host = read_snapshot(RECORDED)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as good as full: every file of this process ends there
    try:
        with pytest.raises(UsageError, match=r"cannot be written: File too large$"):
            write_snapshot(host, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["host.yaml"]  # noqa: PTH208 names alone
    assert path.read_text() == "what stood there"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nowhere/host.yaml", "No such file or directory"), ("", "Is a directory"), ("file/host.yaml", "Not a directory")],
)
def test_unwritable_place_is_one_error(tmp_path: Path, name: str, reason: str) -> None:
    """Where nothing can be written the person reads why, and no part of a file is left."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=rf"cannot be written: {reason}$"):
        write_snapshot(read_snapshot(RECORDED), tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 names alone
