"""Releases that will run: none with a hole to let strangers in, none malicious, none that moves under its name."""

from __future__ import annotations

import site
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stackwright.catalog.load import load_advisories
from stackwright.domain.catalog import REFUSED_HOLES, Advisory, HoleKind, holes_of, order_release
from stackwright.domain.finding import Finding, error, warning
from stackwright.domain.image_pins import is_moving, release_of
from stackwright.domain.plan import Plan
from stackwright.domain.service import ProgramRelease
from stackwright.runtime import Stack
from stackwright.runtime.docker import ask
from stackwright.services import services_of
from stackwright.validation.check import IN_CONTAINERS, Check, Observation

_TELLS_WITHIN_S = 10.0


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
            program = None if release is None else release.program
            bad = next((row for row in advisories if row.floating and row.program == program), None)
            make, why = (warning, "") if bad is None else (error, f", and has carried a malicious release ({bad.id})")
            yield make(
                "image-moves",
                found=f"{key}={image[:120]}",
                expected=f"a release tag or a digest, since this tag moves{why}",
                fix=f"`configure-gpu {plan.environment.value} --set {key}=NAME:RELEASE`",
            )
        if pulled:
            yield from _malicious_image(plan, key, image, (image.partition("@")[2],), advisories)
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
            fix = f"`configure-gpu {plan.environment.value} --set {key}=…` with {newer}, or without that pin"
            yield make("image-holes", found=f"{program} {version}: {words}", expected=newer, fix=fix)


def check_local_images(
    plan: Plan, env: Mapping[str, str], digests: Mapping[str, tuple[str, ...]], advisories: tuple[Advisory, ...]
) -> Iterator[Finding]:
    """Find a malicious image that the engine has under an innocent name. `digests`: of each image that is here."""
    for key in dict.fromkeys(service.image.key for service in services_of(plan)):
        if "@" not in env[key]:
            yield from _malicious_image(plan, key, env[key], digests.get(env[key], ()), advisories)


def _malicious_image(
    plan: Plan, key: str, image: str, digests: Iterable[str], advisories: tuple[Advisory, ...]
) -> Iterator[Finding]:
    for hole in advisories:
        if not set(hole.digests).isdisjoint(digests):
            yield error(
                "image-malicious",
                found=f"{key}={image[:120]} is {hole.program} {hole.introduced}: {hole.id}: {hole.summary}",
                expected=f"{hole.program} {hole.fixed} or newer",
                fix=(
                    f"`configure-gpu {plan.environment.value} --set {key}=NAME:RELEASE`, or without that pin; "
                    "remove the image, and change every key that it could read"
                ),
            )


def check_traces(paths: tuple[Path, ...], advisories: tuple[Advisory, ...]) -> Iterator[Finding]:
    """Find what a malicious release has left on this machine."""
    for path in paths:
        for hole in (hole for hole in advisories if path.name in hole.files):
            yield error(
                "malicious-file",
                found=f"{path}, a file of {hole.program} {hole.introduced}: {hole.id}: {hole.summary}",
                expected="no such file",
                fix="remove that Python environment, change every key and password that this user could read, and "
                "look for what else it started",
            )


def find_traces(folders: Iterable[Path], names: Iterable[str]) -> tuple[Path, ...]:
    """Return the files with these names that lie in these folders."""
    wanted = tuple(names)
    return tuple(path for folder in folders for name in wanted if (path := folder / name).exists())


def _package_folders(stack: Stack) -> list[Path]:
    """Return where packages of this Python and of the stack's virtual environments lie, and where programs scratch."""
    own = [Path(folder) for folder in (*site.getsitepackages(), *sys.path) if folder.endswith("-packages")]
    made = sorted((stack.state / "venvs").glob("*/lib/python*/site-packages"))
    return [*dict.fromkeys([*own, *made, Path(tempfile.gettempdir())])]


def _inspect_images(images: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the digests under which registries know each image; none of one that the engine does not have."""
    found = {}
    for image in images:
        answer = ask(["docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', image], _TELLS_WITHIN_S)
        found[image] = tuple(name.partition("@")[2] for name in answer.out.split()) if answer.code == 0 else ()
    return found


def _newest(versions: list[str | None]) -> str:
    return max((version for version in versions if version), key=order_release)


RELEASES = Check(
    name="releases",
    about="known vulnerabilities (catalog/advisories.yaml) of engine and gateway, malicious images, moving tags",
    findings=tuple("image-holes image-moves image-malicious".split()),
    rule=lambda on: check_images(on.plan, on.env, on.catalog.advisories(), pulled=on.compose),
)


DIGESTS = Observation(
    take=lambda machine: _inspect_images(
        dict.fromkeys(machine.stack.env[service.image.key] for service in machine.stack.services)
        if machine.compose
        else ()
    ),
    waits=True,
)
LEFT_FILES = Observation(
    take=lambda machine: find_traces(
        _package_folders(machine.stack), [name for hole in load_advisories() for name in hole.files]
    )
)


LOCAL_IMAGES = Check(
    name="local images",
    about="digests of the images on this machine that are known to be malicious",
    findings=("image-malicious",),
    rule=lambda on, digests: check_local_images(on.plan, on.env, digests, on.catalog.advisories()),
    observations=(DIGESTS,),
    when=IN_CONTAINERS,
)


TRACES = Check(
    name="traces",
    about="files that malicious releases leave beside Python packages",
    findings=("malicious-file",),
    rule=lambda on, paths: check_traces(paths, on.catalog.advisories()),
    observations=(LEFT_FILES,),
)
