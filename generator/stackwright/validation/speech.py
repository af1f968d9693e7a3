"""The speech model that the multimodal worker is to run on the processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.finding import Finding, error
from stackwright.domain.plan import Plan
from stackwright.runtime import Stack
from stackwright.services.multimodal import OFF, SPEECH
from stackwright.validation.check import Check, Condition, Observation

WEIGHTS = "model.bin"
"""What a model in CTranslate2's form has (4.8.5, models/model.cc)."""

_PUBLISHER = "Systran/faster-whisper-"
"""Where faster-whisper finds the models that it knows by short names (1.2.1, utils.py)."""


def find_model(stack: Stack) -> Path | None:
    """Return where the model lies, or None where it is missing: its folder, or its newest place in HF_HOME."""
    name = stack.env[SPEECH]
    if name.startswith("/"):
        return Path(name) if (Path(name) / WEIGHTS).is_file() else None
    repository = name if "/" in name else _PUBLISHER + name
    folder = Path(stack.env["HF_HOME"]) / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots"
    return next((path.parent for path in folder.glob(f"*/{WEIGHTS}")), None)


def check_model(plan: Plan, name: str, found: Path | None) -> Iterator[Finding]:
    """Find a speech model that is not where it is named."""
    if found is None:
        where = name if name.startswith("/") else f"HF_HOME for {name}"
        yield error(
            "speech-model-missing",
            found=f"{SPEECH}={name[:200]}: no {WEIGHTS} in {where[:200]}",
            expected="a Whisper model in CTranslate2's form; nothing is downloaded at a start",
            fix=f"bring it, or go without: `configure-gpu {plan.environment.value} --set {SPEECH}={OFF}`",
        )


SPEECH_MODEL = Check(
    name="speech model",
    about="the speech model that the multimodal worker runs on the processor",
    findings=("speech-model-missing",),
    rule=lambda on, found: check_model(on.plan, on.env[SPEECH], found),
    observations=(Observation(take=lambda machine: find_model(machine.stack)),),
    when=Condition(words="plans with one", holds=lambda on: on.env.get(SPEECH, OFF) != OFF),
)
