"""From where an engine may fetch the pictures, films and sounds that a request names by address. Pure.

Left to itself vLLM fetches whatever address a client names, and follows redirects (0.32.0
multimodal/media/connector.py). The engine stands inside the network, beside services that ask for no key. So it fetches
nothing, unless a person names a host: clients send `data:` URLs.
"""

from __future__ import annotations

from stackwright.domain.catalog import Catalog
from stackwright.domain.plan import Setting
from stackwright.engines.protocol import EngineTask
from stackwright.engines.vllm.settings import ENCODER_SPLIT, WHOLE_ENCODER

# No list of hosts means every host to vLLM, so the list holds one that never is: RFC 2606, 2, reserves `.invalid`.
NOWHERE = "nowhere.invalid"
_ENCODERS = "generator/stackwright/catalog/architectures.yaml; vLLM 0.33.0 model_executor/models/vision.py"
# The first with `--allowed-media-domains` (catalog/flags.yaml).
MEDIA_RELEASE = "0.11.0"


def media_settings(task: EngineTask, ranks: int, version: str, catalog: Catalog) -> dict[str, Setting]:
    """Return from where the engine may fetch, and that each rank keeps the whole encoder where its heads need that.

    Nothing for a model that only reads text. `ranks`: those that share a layer.
    """
    if not task.facts.config.takes_media:
        return {}
    why = "image URLs are not fetched; send `data:` URLs or allow a host"
    found = {"VLLM_ALLOWED_MEDIA_DOMAINS": Setting(value=NOWHERE, reason=why, source="docs/decisions/0037-pictures.md")}
    vision = task.facts.config.shape.vision
    if vision is not None and not vision.splits(ranks) and may_copy_encoder(task, version, catalog):
        why = f"{ranks} ranks cannot share {vision.heads} heads of the encoder: each keeps all of it"
        found[ENCODER_SPLIT] = Setting(value=WHOLE_ENCODER, reason=why, source=_ENCODERS)
    return found


def may_copy_encoder(task: EngineTask, version: str, catalog: Catalog) -> bool:
    """Return whether a release can keep the whole encoder on each rank, unless the person pinned otherwise.

    Left to itself it splits the heads, and does not start where they are no multiple of the ranks (0.33.0
    distributed/utils.py, divide); some classes then keep all of it by themselves (models/intern_vit.py).
    """
    architecture = task.facts.config.architecture
    able = catalog.architectures().copies_encoder(architecture, version)
    return able and task.pins.get(ENCODER_SPLIT, WHOLE_ENCODER) == WHOLE_ENCODER
