"""Models that write down speech: the one that the multimodal worker runs on the processor, and what an engine needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stackwright.domain.finding import Finding, error, warning
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.engines import engine_named
from stackwright.runtime import Stack
from stackwright.services.multimodal import OFF, SPEECH
from stackwright.validation.check import Check, Condition, Observation, Subject

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


def check_image(plan: Plan, image: str) -> Iterator[Finding]:
    """Find an engine's own image that is to read sound: it comes without the libraries for it."""
    name = plan.environment.value
    hears = next((model.name for model in plan.models if model.role is Role.TRANSCRIPTION), None)
    if hears is not None and image == plan.engine.image:
        mine = f"stackwright/engine-audio:{plan.engine.version}"
        recipe = "compose/images/engine-audio/Dockerfile"
        yield warning(
            "no-audio",
            found=f"{hears[:80]} takes sound, and {image} has nothing that reads it",
            expected="an image with the libraries that read sound",
            fix=f"`docker build -f {recipe} --build-arg BASE={image} -t {mine} .`, then "
            f"`configure-gpu {name} --set {engine_named(plan.engine.name).keys.image}={mine}`",
        )


def _has_speech_in_container(on: Subject) -> bool:
    return on.compose and any(model.role is Role.TRANSCRIPTION for model in on.plan.models)


SPEECH_IMAGE = Check(
    name="image for speech",
    about="whether the engine's image reads sound, where a model takes it",
    findings=("no-audio",),
    rule=lambda on: check_image(on.plan, on.env[engine_named(on.plan.engine.name).keys.image]),
    when=Condition(words="Compose, with a model of the role transcription", holds=_has_speech_in_container),
)
