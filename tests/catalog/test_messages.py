"""The shapes of a program's messages, taken out of its sources, and the table over releases."""

from __future__ import annotations

from pathlib import Path

from stackwright.catalog.messages import SCOPES, main, read_messages, read_table

PYTHON = """
import logging
logger = logging.getLogger()

def start(size, name):
    message = f"the engine {name} has no room for {size:,d} " "blocks"
    if size:
        raise ValueError(message)
    raise errors.Refused("kernel %s cannot take %d heads" % (name, size))

def more(kind):
    logger.error("cannot load the adapter %s: 100%% taken", kind)
    logger.info("this is said of every start")
    raise RuntimeError("short")

def handle_request(kind):
    raise TypeError("this request of {} is refused".format(kind))
"""
GO = """
func create() error {
	return fmt.Errorf("failed to find device %d of \\"%s\\": %w", id, name, err)
}
"""


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return folder


def test_python(tmp_path: Path) -> None:
    found = {m.shape: m for m in read_messages("vllm", "1.0", put(tmp_path, "vllm/config/parallel.py", PYTHON))}
    assert set(found) == {
        "ValueError: the engine {} has no room for {#} blocks",
        "Refused: kernel {} cannot take {#} heads",
        "cannot load the adapter {}: 100% taken",
        "TypeError: this request of {} is refused",
    }
    assert {shape for shape, message in found.items() if message.start} == {
        "ValueError: the engine {} has no room for {#} blocks",
        "Refused: kernel {} cannot take {#} heads",
    }
    assert found["Refused: kernel {} cannot take {#} heads"].where == "vllm/config/parallel.py:9"


def test_go(tmp_path: Path) -> None:
    put(tmp_path, "internal/info/device.go", GO)
    put(tmp_path, "internal/info/device_test.go", GO.replace("failed", "did not expect"))
    found = read_messages("nvidia-container-toolkit", "1.0", tmp_path)
    assert [message.shape for message in found] == ['failed to find device {#} of "{}": {}']


def test_table_over_releases(tmp_path: Path) -> None:
    """A shape keeps its first release, its line is that of the newest, and one that left names the first without it."""
    old = put(tmp_path / "old", "vllm/config/model.py", PYTHON)
    new = put(tmp_path / "new", "vllm/config/model.py", "\n\n" + PYTHON.replace("no room", "no place"))
    table = tmp_path / "table.tsv"
    assert main([str(table), "vllm", f"1.0={old}", f"1.1={new}"]) == 0
    rows = {row.shape: row for row in read_table(table)}
    left = rows["ValueError: the engine {} has no room for {#} blocks"]
    kept = rows["Refused: kernel {} cannot take {#} heads"]
    came = rows["ValueError: the engine {} has no place for {#} blocks"]
    assert (left.first, left.last) == ("1.0", "<1.1")
    assert (kept.first, kept.last, kept.where) == ("1.0", None, "vllm/config/model.py:11")
    assert (came.first, came.last) == ("1.1", None)


def test_committed_table() -> None:
    table = read_table(Path(__file__).parents[2] / "benchmarks" / "cases" / "messages.tsv")
    assert {row.program for row in table} == set(SCOPES)
    assert all(row.where and row.shape for row in table)
