"""`stackwright pin-images`: write down the digests of an environment's images, so that every host runs the same."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_out, record_of
from stackwright.commands.paths import find_paths, working_folder
from stackwright.commands.stack import load_stack
from stackwright.domain.environment import Environment
from stackwright.domain.image_pins import ImagePin, ImagePins, without_digest
from stackwright.errors import RuntimeRefusedError, ValidationError
from stackwright.project import digests
from stackwright.project.location import name_command
from stackwright.rendering.numbered import keys_of
from stackwright.settings import declared_settings


class PinImagesArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `pin-images`."""

    environment: Environment
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    add_out(parser)


def read_arguments(given: argparse.Namespace) -> PinImagesArguments:
    """Turn the parsed words into the record."""
    return record_of(PinImagesArguments, given)


def run(arguments: PinImagesArguments) -> None:
    """Pull each image by its tag, and write the digest that the tag has now to envs/digests.yaml."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    before = digests.read_image_pins(stack.root)
    today = datetime.now(UTC).date().isoformat()
    images = {
        without_digest(stack.env[written]): written
        for key in declared_settings().images
        for written in keys_of(stack.env, key)
    }
    try:
        found = _pull_all(images)
    except RuntimeRefusedError as refusal:
        from stackwright.runtime.docker import OR_WITHOUT

        raise RuntimeRefusedError(refusal.message, hint=(refusal.hint or "").removesuffix(OR_WITHOUT) or None) from None
    if not found:
        raise ValidationError(
            f"{stack.plan.environment}: no image could be pinned",
            hint="push your own images to a registry, and set them with --set",
        )
    pinned = {image: ImagePin(digest=digest, date=today) for image, digest in found.items()}
    _tell_changes(before.images, pinned)
    digests.write_image_pins(stack.root, ImagePins(images={**before.images, **pinned}))
    report.tell(f"wrote {digests.FILE}; commit it, so that every host runs these images")
    configure = name_command(
        "configure-gpu", "--env", stack.plan.environment.value, root=stack.root, working=working_folder()
    )
    report.tell(f"next: {configure}")


def _pull_all(images: Mapping[str, str]) -> dict[str, str]:
    """Return the digest of each image that a registry gave; one that only this machine has is a warning.

    `images`: each with the setting that names it.
    """
    from stackwright.runtime.docker import is_here, open_client, pull

    docker, found = open_client(), {}
    with report.Progress() as progress:
        for image, key in images.items():
            try:
                digest = pull(docker, image, "pin-images", progress.say, key)
            except RuntimeRefusedError as refusal:
                if not is_here(docker, image):
                    raise
                report.warn(f"{image} is not pinned: it is on this machine, but {refusal.message.partition(': ')[2]}")
                continue
            if digest is not None:
                found[image] = digest
    return found


def _tell_changes(before: Mapping[str, ImagePin], now: Mapping[str, ImagePin]) -> None:
    for image, pin in now.items():
        old = before.get(image)
        if old is None:
            report.tell(f"{image}: {pin.digest}")
        elif old.digest == pin.digest:
            report.tell(f"{image}: unchanged since {old.date}")
        else:
            report.tell(f"{image}: {pin.digest}, was {old.digest} on {old.date}")
