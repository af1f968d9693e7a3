"""Choose the engine image that the driver runs and the GPUs can execute. Pure."""

from __future__ import annotations

from generator.domain.catalog import EngineImage, EngineRelease
from generator.domain.host import Gpu, Host
from generator.domain.plan import Engine
from generator.errors import NoPlanError


def choose_engine(release: EngineRelease, host: Host, gpus: tuple[Gpu, ...]) -> Engine:
    """Return the first image of `release` that this driver and these GPUs run; the CPU image without GPUs.

    The image's CUDA must not exceed what the driver reports: the container runtime's own gate, `cuda>=X`
    (NVIDIA_REQUIRE_CUDA), is the same comparison.

    Raises:
        NoPlanError: the driver is too old, or a GPU below the least compute capability.
    """
    if not gpus:
        return _engine(release, next(image for image in release.images if image.cuda is None))
    candidates = [image for image in release.images if image.cuda is not None]
    for gpu in gpus:
        _check_capability(release, gpu, candidates)
    found = host.driver.cuda if host.driver else None
    if found is None:
        raise NoPlanError(
            "the driver does not tell which CUDA it runs, so no engine image can be chosen",
            hint="`nvidia-smi` shows the driver's state; `configure-gpu cpu` needs none",
        )
    for image in candidates:
        if image.cuda is not None and version(found) >= version(image.cuda):
            return _engine(release, image)
    least = candidates[-1]
    running = host.driver.version if host.driver else None
    raise NoPlanError(
        f"driver {running or 'of unknown version'} runs CUDA up to {found}, "
        f"but {release.name} {release.version} needs CUDA {least.cuda} (driver {least.driver} or newer)",
        hint=f"update the NVIDIA driver to {least.driver} or newer, then configure again",
    )


def _engine(release: EngineRelease, image: EngineImage) -> Engine:
    return Engine(name=release.name, version=release.version, image=image.image, cuda=image.cuda)


def _check_capability(release: EngineRelease, gpu: Gpu, images: list[EngineImage]) -> None:
    least = images[0].minimum_compute_capability
    if least and gpu.compute_capability and version(gpu.compute_capability) < version(least):
        raise NoPlanError(
            f"GPU {gpu.index} ({gpu.name}) has compute capability {gpu.compute_capability}, "
            f"but {release.name} {release.version} needs {least} or newer",
            hint="use `configure-gpu cpu`, or another GPU",
        )


def version(text: str) -> tuple[int, ...]:
    """Read `12.9` as (12, 9), for comparison."""
    return tuple(int(part) for part in text.split("."))
