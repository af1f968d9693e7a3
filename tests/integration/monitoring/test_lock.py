"""Two stacks may have one DATA_HOME: the second real Prometheus on it has to end, and the doctor to say why."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import diagnose_log

from tests.integration.project import CHECKOUT, free_port, wait_until

SCRIPT = CHECKOUT / "compose" / "monitoring" / "prometheus.sh"


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    """Start Prometheus by its script, as a stack of a name would; its log is in `name.log`."""
    (folder / "secrets").mkdir(exist_ok=True)
    files = {"secrets/prometheus_web": "", "prometheus.yml": "", "prometheus-rules.yml": "groups: []"}
    for file, text in files.items():
        (folder / file).write_text(text)
    own = {
        "SECRETS_DIRECTORY": str(folder / "secrets"),
        "PROMETHEUS_HOME": str(folder / name),
        "PROMETHEUS_CONFIGURATION": str(folder / "prometheus.yml"),
        "PROMETHEUS_RULES": str(folder / "prometheus-rules.yml"),
    }
    options = [f"--web.listen-address=127.0.0.1:{free_port()}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(["sh", SCRIPT, *options], env={**os.environ, **own}, stdout=log, stderr=log, text=True)


def test_a_second_one_on_the_same_folder_ends_and_the_doctor_says_why(tmp_path: Path) -> None:
    first = start(tmp_path, "first")
    try:
        wait_until(lambda: "Server is ready" in (tmp_path / "first.log").read_text())
        second = start(tmp_path, "second")
        try:
            assert second.wait(timeout=60) != 0
        finally:
            second.kill()
            second.wait()
        assert first.poll() is None
    finally:
        first.terminate()
        first.wait(timeout=60)
    said = (tmp_path / "second.log").read_text()
    named = diagnose_log(said, load_rules(), kind="prometheus", values={"environment": "dev"})
    assert [diagnosis.rule for diagnosis in named][:1] == ["prometheus-locked"]
