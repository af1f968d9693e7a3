"""GPUs that are cut into MIG slices: every question of their dashboard, put to a real Prometheus.

The exporter is real, and reads the fake NVML library, which tells of a partitioned GPU what a driver does: no
utilization (NVML's reference, nvmlDeviceGetUtilizationRates). Touches the test's folder and loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from stackwright.domain.plan import Plan
from stackwright.rendering.monitoring import monitoring_files
from stackwright.runtime.provision import ensure
from stackwright.services.gateway import RECIPE

from tests.fakes.nvml import build_fake_nvml, environment
from tests.integration.monitoring.questions import Prometheus, questions_of
from tests.integration.project import CHECKOUT, free_port, wait_until
from tests.services.test_additions import plan_with

OF_GPUS = "stackwright_gpu_"
FIGURES = """\
gpu {all} temperature 51
gpu {all} power 98500 250000
gpu {all} clock 1410
gpu {all} slowed 0
gpu {all} ecc 0
gpu {all} rows_broken 0
"""
# Name of a recorded host, its GPUs in the fake library's form, what only a whole one tells, and the panel that goes
# with it: of the first, the plan uses the GPU that is whole.
HOSTS = [("a100-mig", "0-1", "gpu 1 busy 97\n", "Busy"), ("a100-seven-slices", "0", "", "MIG slices")]


@contextlib.contextmanager
def running(command: Sequence[str | Path], folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Run a program as long as the block does."""
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def watched(plan: Plan, folder: Path, answers: str, python: Path) -> Iterator[Prometheus]:
    """Start the exporter, and the Prometheus that the plan configures, with no other target."""
    exporter, port = free_port(), free_port()
    (folder / "nvml.txt").write_text(answers, encoding="utf-8")
    (folder / "targets").mkdir()
    every = {"__scrape_interval__": "1s", "__scrape_timeout__": "1s"}
    target = {"targets": [f"127.0.0.1:{exporter}"], "labels": {"service": "gpu-exporter", **every}}
    (folder / "targets" / "gpu_1.json").write_text(json.dumps([target]))
    for name, text in monitoring_files(plan).items():
        (folder / name).write_text(text, encoding="utf-8")
    nvml = {**os.environ, **environment(build_fake_nvml(folder), folder / "nvml.txt")}
    script = CHECKOUT / "compose" / "monitoring" / "gpu_exporter.py"
    prometheus = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (
        running([python, "-B", script, "127.0.0.1", str(exporter)], folder, nvml),
        running([*prometheus, f"--web.listen-address=127.0.0.1:{port}"], folder, dict(os.environ)),
    ):
        yield Prometheus(port=port, password="")


@pytest.mark.parametrize(("name", "gpus", "whole", "panel"), HOSTS)
def test_every_question_about_slices_is_answered(
    name: str, gpus: str, whole: str, panel: str, state_folder: Path, tmp_path: Path
) -> None:
    python = ensure(state_folder, RECIPE, lambda *_: None) / "bin" / "python"
    plan = plan_with(name, "monitoring")
    answers = (CHECKOUT / "tests" / "hosts" / name / "nvml.txt").read_text() + FIGURES.format(all=gpus) + whole
    with watched(plan, tmp_path, answers, python) as prometheus:
        asked = questions_of(tmp_path)
        open_ones = sorted(question for question in asked if OF_GPUS in question)
        titles = {asked[question] for question in open_ones}
        assert titles & {"GPUs / Busy", "GPUs / MIG slices"} == {f"GPUs / {panel}"}

        def rest() -> bool:
            nonlocal open_ones
            with contextlib.suppress(OSError):  # it has not begun to listen
                open_ones = prometheus.unanswered(open_ones)
            return not open_ones

        wait_until(rest, lambda: f"without an answer: {open_ones}\n{(tmp_path / 'log').read_text()[-3000:]}")
