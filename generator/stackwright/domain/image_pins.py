"""Images by digest: what a tag was when somebody looked, so that every host runs the same bytes (envs/digests.yaml)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct, field

PINS_SCHEMA = 1
# Names under which publishers push one release after another (Docker Hub, GitHub's registry; LiteLLM docs, deploy
# page). LiteLLM's `main-v1.81.0-stable` is one release: `main-` is the branch that it was built from.
_MOVING = re.compile(r"latest|nightly|main|master|edge|stable|main-(?!v?[0-9]+\.).*|latest-.*|.*-latest|.*-nightly")
_RELEASE = re.compile(r"(?:main-)?v?([0-9]+(?:\.[0-9]+){1,3}(?:\.?post[0-9]+)?)(?:[-.+].*)?")


class ImagePin(Struct, frozen=True, kw_only=True):
    """The digest that a registry gave for a tag, as `sha256:` and 64 hex digits, and the day (YYYY-MM-DD)."""

    digest: str
    date: str


class ImagePins(Struct, frozen=True, kw_only=True):
    """The pinned images by their names as the plan writes them, tag included."""

    schema: int = PINS_SCHEMA
    images: Mapping[str, ImagePin] = field(default_factory=dict)


def without_digest(image: str) -> str:
    """Return an image's name as it was before it was pinned."""
    return image.partition("@")[0]


def with_digest(image: str, pins: ImagePins) -> str:
    """Return `name:tag@sha256:…` where the image is pinned, else its name as it is.

    An engine that reads both fetches by the digest and ignores the tag, which is kept for people (reference grammar
    of the distribution project).
    """
    pin = pins.images.get(image)
    return image if pin is None or "@" in image else f"{image}@{pin.digest}"


def release_of(image: str) -> str | None:
    """Return the release that an image's tag names: `v0.32.0-cu129@sha256:…` is 0.32.0."""
    found = _RELEASE.fullmatch(_tag(image) or "")
    return found[1] if found else None


def is_moving(image: str) -> bool:
    """Return whether the name means whatever was pushed last."""
    tag = _tag(image)
    return "@sha256:" not in image and (tag is None or _MOVING.fullmatch(tag) is not None)


def _tag(image: str) -> str | None:
    name = image.partition("@")[0]
    last = name.rpartition("/")[2]
    return last.partition(":")[2] or None
