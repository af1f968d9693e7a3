"""The GPU exporter with the fake NVML library, through its own binding, against what `status` reads through pynvml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.detect.conftest import PACKAGES
from tests.fakes.nvml import build_fake_nvml, environment

pytestmark = pytest.mark.subprocess
FOLDER = Path(__file__).resolve().parents[2] / "compose" / "monitoring"
BOTH = """\
gpu 0-1 name NVIDIA GeForce RTX 3090
gpu 0 uuid GPU-a
gpu 1 uuid GPU-b
gpu 0-1 memory 25769803776 325058560
gpu 0 lane 0-3 gpu 1 3
gpu 1 lane 0-3 gpu 0 3
gpu 0 busy 97
gpu 0 temperature 71
gpu 0 power 312500 350000
gpu 0 clock 1695
gpu 0 slowed 36
gpu 1 slowed 0
gpu 0-1 ecc 2
gpu 0-1 rows_broken 0
gpu 0 traffic 1000 2000
gpu 0 lane_errors 1 0 3 4
"""
# prometheus-client is the gateway's: this prints what a scrape would, without its server.
SCRAPES = """
import json, sys, types
sys.path.insert(0, sys.argv[1])
class Family:
    def __init__(self, name, says, labels=()):
        self.name, self.labels, self.rows = name, tuple(labels), []
    def add_metric(self, labels, value):
        assert len(labels) == len(self.labels), self.name
        self.rows.append((dict(zip(self.labels, labels)), value))
class Counted(Family):
    def __init__(self, name, says, labels=()):
        super().__init__(name + "_total", says, labels)
core = types.ModuleType("prometheus_client.core")
core.GaugeMetricFamily, core.CounterMetricFamily, core.Metric = Family, Counted, Family
client = types.ModuleType("prometheus_client")
client.CollectorRegistry = client.start_http_server = None
sys.modules |= {"prometheus_client": client, "prometheus_client.core": core}
from gpu_exporter import Gpus
gpus = Gpus()
print(json.dumps([{family.name: family.rows for family in gpus.collect()} for _ in range(int(sys.argv[2]))]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the fake library."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def scrape(library: Path, answers: Path, times: int = 1) -> list[dict[str, Any]]:
    """Return what so many scrapes of one exporter show."""
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", SCRAPES, str(FOLDER), str(times)],
        env=environment(library, answers),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def rows(told: dict[str, Any], name: str) -> dict[str, float]:
    """Return a family's values by the labels that are not the UUID's."""
    return {
        " ".join(value for label, value in labels.items() if label != "uuid"): number
        for labels, number in told[f"stackwright_gpu_{name}"]
    }


def write(folder: Path, text: str) -> Path:
    file = folder / "nvml.txt"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_scrape_shows_what_nvml_tells(library: Path, tmp_path: Path) -> None:
    (told,) = scrape(library, write(tmp_path, BOTH))
    assert told["stackwright_gpu_driver_answers"] == [[{}, 1.0]]
    assert rows(told, "memory_bytes") == {"0": 25769803776.0, "1": 25769803776.0}
    assert rows(told, "memory_used_bytes") == {"0": 325058560.0, "1": 325058560.0}
    assert (rows(told, "busy_ratio"), rows(told, "temperature_celsius")) == ({"0": 0.97}, {"0": 71.0})
    assert (rows(told, "power_watts"), rows(told, "power_limit_watts")) == ({"0": 312.5}, {"0": 350.0})
    assert {key for key, value in rows(told, "slowed").items() if value} == {"0 power limit", "0 heat"}
    assert "1 heat" in rows(told, "slowed")
    assert rows(told, "nvlinks_up") == {"0": 4.0, "1": 4.0}
    # Four lanes of 1000 KiB and 2000 KiB.
    assert rows(told, "nvlink_bytes_total") == {"0 sent": 4 * 1000 * 1024.0, "0 received": 4 * 2000 * 1024.0}
    counted = {"0 replay": 4.0, "0 recovery": 0.0, "0 crc flit": 12.0, "0 crc data": 16.0}
    assert rows(told, "nvlink_errors_total") == counted
    assert rows(told, "ecc_errors_total") == {"0": 2.0, "1": 2.0}


def test_a_fault_that_has_not_come_is_zero_and_one_that_has_is_counted(library: Path, tmp_path: Path) -> None:
    (quiet,) = scrape(library, write(tmp_path, BOTH))
    assert (rows(quiet, "xid_errors_total"), rows(quiet, "last_xid")) == ({"0": 0.0, "1": 0.0}, {"0": 0.0, "1": 0.0})
    told = scrape(library, write(tmp_path, f"{BOTH}gpu 1 xid 79\ngpu 1 xid 13\n"), times=3)[-1]
    assert (rows(told, "xid_errors_total"), rows(told, "last_xid")) == ({"0": 0.0, "1": 2.0}, {"0": 0.0, "1": 79.0})


@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo"])
def test_a_lost_gpu_is_told(function: str, library: Path, tmp_path: Path) -> None:
    (told,) = scrape(library, write(tmp_path, f"{BOTH}fail {function} 15 gpu 1\n"))
    assert rows(told, "answers") == {"0": 1.0, "1": 0.0}


def test_slices_are_shown(library: Path, tmp_path: Path) -> None:
    text = "gpu 0 mig 1\nslice 0 1 uuid MIG-a\nslice 0 1 name A100 MIG 3g.20gb\nslice 0 1 memory 2000 700\n"
    (told,) = scrape(library, write(tmp_path, BOTH + text))
    assert rows(told, "slice_memory_bytes") == {"0 MIG-a A100 MIG 3g.20gb": 2000.0}
    assert rows(told, "slice_memory_used_bytes") == {"0 MIG-a A100 MIG 3g.20gb": 700.0}


def test_what_a_gpu_does_not_tell_has_no_series(library: Path, tmp_path: Path) -> None:
    (told,) = scrape(library, write(tmp_path, "gpu 0 uuid GPU-a\ngpu 0 memory 1000 10\n"))
    for name in ("busy_ratio", "power_watts", "slowed", "ecc_errors_total", "nvlink_bytes_total", "slice_memory_bytes"):
        assert rows(told, name) == {}, name
    assert (rows(told, "nvlinks"), rows(told, "answers")) == ({"0": 0.0}, {"0": 1.0})


def test_a_driver_that_does_not_answer_is_told_and_asked_again(library: Path, tmp_path: Path) -> None:
    told = scrape(library, write(tmp_path, f"{BOTH}fail nvmlInitWithFlags 18\n"), times=2)
    assert told == [{"stackwright_gpu_driver_answers": [[{}, 0.0]]}] * 2


def test_status_and_the_exporter_read_the_same(library: Path, tmp_path: Path) -> None:
    """One through pynvml, the other through its own binding."""
    ask = """
import json
from stackwright.detect.gpu_state import read_gpu_states
from stackwright.reading import to_plain
print(json.dumps(to_plain(read_gpu_states())))
"""
    file = write(tmp_path, BOTH)
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=PACKAGES, env=environment(library, file), capture_output=True, check=True
    )
    (told,) = scrape(library, file)
    first = json.loads(done.stdout)[0]
    reading = first["reading"]
    pairs = {
        "memory_bytes": reading["memory_bytes"],
        "memory_used_bytes": reading["memory_used_bytes"],
        "busy_ratio": reading["busy_percent"] / 100,
        "power_watts": reading["power_w"],
        "temperature_celsius": reading["temperature_c"],
        "clock_hertz": reading["clock_mhz"] * 1e6,
        "nvlinks_up": first["lanes_up"],
        "ecc_errors_total": first["ecc_errors"],
    }
    assert {name: rows(told, name)["0"] for name in pairs} == pairs
    assert [key[2:] for key, value in rows(told, "slowed").items() if value] == reading["slowed"]


def test_the_exporter_reads_by_the_file_of_the_package() -> None:
    """A link in a clone, a copy where there is none: Docker mounts either."""
    assert (FOLDER / "gpu_reading.py").read_text() == (PACKAGES / "stackwright/detect/gpu_reading.py").read_text()
    imported = re.findall(r"^(?:from|import) (\w+)", (FOLDER / "gpu_reading.py").read_text(), re.MULTILINE)
    assert set(imported) <= {"__future__", *sys.stdlib_module_names}
