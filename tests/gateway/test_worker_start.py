"""What a worker of the gateway does at its start, in a Python of its own: it changes the interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.runtime.test_programs import programs_of

CHECKOUT = Path(__file__).resolve().parents[2]

LOOK = """
import gc, importlib, json, sys
module, _, function = sys.argv[1].partition(":")
before = gc.get_threshold()[0]
getattr(importlib.import_module(module), function)()
after = gc.get_threshold()[0]
print(json.dumps({"frozen": gc.get_freeze_count(), "before": before, "after": after, "on": gc.isenabled()}))
"""


@pytest.mark.subprocess
def test_the_hook_spares_collections_and_keeps_the_collector() -> None:
    gateway = programs_of("cpu-small")["gateway"]
    hook = gateway.environment["LITELLM_WORKER_STARTUP_HOOKS"].split(",")[0]
    beside_the_script = {"PYTHONPATH": str(CHECKOUT / "compose" / "gateway"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, hook], env=beside_the_script, check=True, capture_output=True, text=True
    )
    seen = json.loads(done.stdout)
    assert seen["frozen"] > 0
    assert seen["after"] > seen["before"]
    assert seen["on"]


def test_both_runtimes_name_the_hooks_and_read_their_files() -> None:
    gateway = programs_of("cpu-small")["gateway"]
    hooks = gateway.environment["LITELLM_WORKER_STARTUP_HOOKS"]
    service = yaml.safe_load((CHECKOUT / "compose" / "compose.yaml").read_text())["services"]["gateway"]
    names = [hook.partition(":")[0] + ".py" for hook in hooks.split(",")]
    assert names == ["worker_start.py", "worker_start.py", "health.py"]
    assert service["environment"]["LITELLM_WORKER_STARTUP_HOOKS"] == hooks
    assert {f"/etc/stackwright/{name}" for name in names} <= {volume["target"] for volume in service["volumes"]}
    assert set(names) <= {file.name for file in gateway.files}
