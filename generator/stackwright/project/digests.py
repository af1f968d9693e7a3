"""The images that a project has pinned by digest: envs/digests.yaml, read and written whole.

Touches that file alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from stackwright.atomic import replace_file
from stackwright.domain.image_pins import PINS_SCHEMA, ImagePins
from stackwright.errors import UsageError
from stackwright.reading import convert, load_yaml

FILE = "envs/digests.yaml"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HEAD = "# The digest of each image tag. Written by `stackwright pin-images ENV`; commit this file.\n"


def read_image_pins(root: Path) -> ImagePins:
    """Read a project folder's pins; without the file no image is pinned.

    Raises:
        UsageError: it cannot be read, holds what is no digest, or is of a newer schema.
    """
    path = root / FILE
    if not path.exists():
        return ImagePins()
    again = f"delete {path}, then `stackwright pin-images ENV` writes it again"
    try:
        pins = convert(load_yaml(path, UsageError), ImagePins, where=str(path), error=UsageError)
    except UsageError as failure:
        raise UsageError(failure.message, hint=failure.hint or again) from None
    if pins.schema != PINS_SCHEMA:
        raise UsageError(f"{path}: schema: found another than {PINS_SCHEMA}, which this release reads", hint=again)
    for image, pin in pins.images.items():
        if not _DIGEST.fullmatch(pin.digest):
            found = f"{image[:80]}: found `{pin.digest[:80]}`"
            raise UsageError(f"{path}: {found}, allowed: sha256: and 64 hex digits", hint=again)
    return pins


def write_image_pins(root: Path, pins: ImagePins) -> None:
    """Write a project folder's pins, sorted by image.

    Raises:
        UsageError: the file cannot be written.
    """
    import yaml

    rows = {image: {"digest": pin.digest, "date": pin.date} for image, pin in sorted(pins.images.items())}
    path = root / FILE
    try:
        replace_file(path, _HEAD + yaml.safe_dump({"schema": pins.schema, "images": rows}, sort_keys=False), 0o644)
    except OSError as failure:
        raise UsageError(f"{path}: cannot be written: {failure.strerror}", hint="envs/ must be writable") from None
