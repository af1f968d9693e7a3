"""The releases that will run: none with a hole that lets strangers in, none that moves under its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from stackwright.domain.catalog import REFUSED_HOLES, Advisory, HoleKind, holes_of, order_release
from stackwright.domain.finding import Finding, error, warning
from stackwright.domain.plan import Plan
from stackwright.domain.service import ProgramRelease
from stackwright.services import services_of
from stackwright.validation.check import Check

# Names under which publishers push one release after another (Docker Hub, GitHub's registry; LiteLLM docs, deploy
# page).
MOVING = re.compile(r"latest|nightly|main|master|edge|stable|main-.*|.*-latest|.*-nightly")
_RELEASE = re.compile(r"v?([0-9]+(?:\.[0-9]+){1,3}(?:\.?post[0-9]+)?)(?:[-.+].*)?")


def check_images(
    plan: Plan, env: Mapping[str, str], advisories: tuple[Advisory, ...], *, pulled: bool
) -> Iterator[Finding]:
    """Find known holes in the releases that will run, and images whose name means another release tomorrow.

    Args:
        pulled: images are what runs; else the packages of the plan's releases do.
    """
    for key, service in {service.image.key: service for service in reversed(services_of(plan))}.items():
        image, release = env[key], service.release
        if pulled and is_moving(image):
            yield warning(
                "image-moves",
                found=f"{key}={image[:120]}",
                expected="a release tag or a digest, since this tag moves",
                fix=f"`configure-gpu --env {plan.environment.value} --set {key}=NAME:RELEASE`",
            )
        version = None if release is None else (release_of(image) if pulled else None) or release.version
        if release is not None and version is not None:
            # The planner takes a release with such holes only with consent, told by a warning of the plan.
            planned = ProgramRelease(program=plan.engine.name, version=version) == release
            consent = planned and (not pulled or image == plan.engine.image)
            yield from _holes(plan, key, release.program, version, advisories, consent=consent)


def _holes(
    plan: Plan, key: str, program: str, version: str, advisories: tuple[Advisory, ...], *, consent: bool
) -> Iterator[Finding]:
    holes = holes_of(program, version, advisories)
    grave = [hole for hole in holes if hole.kind in REFUSED_HOLES]
    lesser = [hole for hole in holes if hole.kind is HoleKind.DENIAL_OF_SERVICE]
    for found, make in ((grave, warning if consent else error), (lesser, warning)):
        if found:
            fixed = [hole.fixed for hole in found]
            newer = (
                "a release without known vulnerabilities" if None in fixed else f"{program} {_newest(fixed)} or newer"
            )
            words = "; ".join(f"{hole.id}: {hole.summary}" for hole in found[:4])
            fix = f"`configure-gpu --env {plan.environment.value} --set {key}=…` with {newer}, or without that pin"
            yield make("image-holes", found=f"{program} {version}: {words}", expected=newer, fix=fix)


def _newest(versions: list[str | None]) -> str:
    return max((version for version in versions if version), key=order_release)


def release_of(image: str) -> str | None:
    """Return the release that an image's tag names: `v0.32.0-cu129@sha256:…` is 0.32.0."""
    found = _RELEASE.fullmatch(_tag(image) or "")
    return found[1] if found else None


def is_moving(image: str) -> bool:
    """Return whether the name means whatever was pushed last."""
    tag = _tag(image)
    return "@sha256:" not in image and (tag is None or MOVING.fullmatch(tag) is not None)


def _tag(image: str) -> str | None:
    name = image.partition("@")[0]
    last = name.rpartition("/")[2]
    return last.partition(":")[2] or None


RELEASES = Check(
    name="releases",
    about="known vulnerabilities (catalog/advisories.yaml) of engine and gateway, and images with a moving tag",
    findings=tuple("image-holes image-moves".split()),
    rule=lambda on: check_images(on.plan, on.env, on.catalog.advisories, pulled=on.compose),
)
