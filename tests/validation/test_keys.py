"""What is found about the keys of people: nothing of sound ones, and each fault with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.validation.files import SeenFile
from stackwright.validation.keys import SeenKeys, check_keys

from tests.planning_requests import plan_for, recorded

SOUND = SeenKeys(
    file=SeenFile(path=Path("keys.json"), readable=True, mode=0o600),
    problem=None,
    models=(("anna", ("smoke",)), ("ci", ())),
    unwritable=None,
    replaced=False,
)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SOUND, {}),
        (replace(SOUND, file=None, models=()), {}),
        (
            replace(SOUND, problem="keys.json: damaged: not JSON"),
            {"keys-damaged": "keys.json: damaged: not JSON: the gateway accepts the master key only"},
        ),
        (
            replace(SOUND, file=SeenFile(path=Path("k"), readable=True, mode=0o640, owner=7, user=8)),
            {"keys-mode": "k is readable by others", "keys-owner": "k is owned by user 7"},
        ),
        (replace(SOUND, models=(("anna", ("gone", "smoke")),)), {}),
        (replace(SOUND, models=(("anna", ("gone", "far")),)), {"keys-model": "`anna` may ask gone, far"}),
        (replace(SOUND, unwritable=Path("/usage")), {"keys-usage": "/usage takes no counts"}),
        (
            replace(SOUND, replaced=True),
            {"keys-master": "/p/envs/.secrets/dev/litellm_master_key was replaced, which a container does not see"},
        ),
    ],
    ids=["sound", "none", "damaged", "open", "one model of two", "no model", "no counts", "replaced"],
)
def test_each_fault_of_the_keys(seen: SeenKeys, expected: dict[str, str]) -> None:
    plan = plan_for(recorded("cpu-small"))
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    stack = Stack(root=Path("/p"), state=Path("/s"), plan=plan, env=env | {"STACKWRIGHT_UID": "0"})
    findings = list(check_keys(stack, seen))
    assert {finding.check: finding.found for finding in findings} == {
        name: found.replace("/dev/", f"/{plan.environment.value}/") for name, found in expected.items()
    }
    assert all(finding.fix for finding in findings)
