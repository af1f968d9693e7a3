"""An engine image that the person pinned: taken as it is, with what nobody checked said. Pure."""

from __future__ import annotations

import re

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog, order_release
from stackwright.domain.host import Gpu, Host
from stackwright.engines.protocol import EngineNeeds, ImageChoice
from stackwright.engines.vllm.image import choose_image, hole_warnings
from stackwright.errors import NoPlanError

# vLLM's own tags begin with the release: v0.32.0, v0.32.0-cu129, v0.19.1-aarch64.
_RELEASE = re.compile(r"v?(\d+\.\d+\.\d+(?:\.post\d+)?)(?:-[\w.-]+)?")


def pinned_image(image: str, host: Host, gpus: tuple[Gpu, ...], catalog: Catalog, needs: EngineNeeds) -> ImageChoice:
    """Return the choice that a pinned image makes.

    Its release is the one that was asked for, else its tag's, else the one that would be chosen here. Nothing is
    refused: an image of one's own may carry what no published one does.
    """
    tagged = _RELEASE.fullmatch(image.partition("@")[0].rpartition(":")[2])
    named = needs.exact or (tagged[1] if tagged else None)
    asked = replace(
        needs, minimum=None, maximum=None, exact=named, allow_vulnerable=needs.allow_vulnerable or named is not None
    )
    refused = ""
    try:
        chosen = choose_image(host, gpus, catalog, asked)
    except NoPlanError as refusal:
        chosen = _unchecked(named or catalog.engines[0].version, catalog)
        refused = f"; a published image would be refused: {refusal.message}"
    unfit = _unfit(chosen, needs)
    if chosen.image == image:
        return replace(chosen, warnings=(*chosen.warnings, *unfit))
    other = "" if tagged else f"; set another release with `--engine {chosen.name}==…`"
    unknown = (
        f"VLLM_IMAGE is pinned to {image}, assumed to be {chosen.name} {chosen.version}: not checked against "
        "this model, "
        f"hardware and driver{other}{refused}"
    )
    warnings = (unknown, *chosen.warnings, *unfit)
    return replace(chosen, image=image, reasons=("pinned by the user",), warnings=warnings, source="--set")


def _unchecked(version: str, catalog: Catalog) -> ImageChoice:
    """Return a choice where no published image would do: what the container holds is for the person to know."""
    name = catalog.engines[0].name
    return ImageChoice(
        name=name,
        version=version,
        image="",
        cuda=None,
        env=(),
        reasons=("pinned by the user",),
        warnings=hole_warnings(name, version, catalog),
        source="--set",
    )


def _unfit(chosen: ImageChoice, needs: EngineNeeds) -> tuple[str, ...]:
    own, model = order_release(chosen.version), needs.model or "the model"
    pinned = f"the pinned image is {chosen.version}"
    if needs.minimum is not None and own < order_release(needs.minimum):
        return (f"{model} needs {chosen.name} {needs.minimum} or newer; {pinned}",)
    if needs.maximum is not None and own > order_release(needs.maximum):
        return (f"{chosen.name} dropped the architecture of {model} after {needs.maximum}; {pinned}",)
    return ()
