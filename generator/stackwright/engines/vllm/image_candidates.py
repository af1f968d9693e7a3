"""Which engine images there are for a host, and by which way its driver runs each. Pure.

An image runs where three parts agree: its kernels carry the GPU's architecture, the driver speaks its CUDA, and the
container runtime's gate lets it start. docs/decisions/0010-image-planner.md gives the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import (
    REFUSED_HOLES,
    Advisory,
    Catalog,
    EngineImage,
    EngineRelease,
    holes_of,
    order_release,
)
from stackwright.domain.host import Cpu, Driver, Gpu, Host, OperatingSystem
from stackwright.units import version_parts

if TYPE_CHECKING:
    from stackwright.domain.hardware import ContainerGate, Drivers, ForwardCompatibility, GpuClass, GpuModel

T = TypeVar("T")

X86_64, AARCH64 = "x86_64", "aarch64"
_X86_FLAGS = frozenset("sse4_2 avx f16c fma avx2 avx_vnni avx512f avx512bw".split())
_ARM_FLAGS = frozenset("neon asimd asimdhp asimddp i8mm sve sve2 sme".split())
# Family-specific kernels, which one build for X.0 shares over X.y, exist from CUDA 13 on; before, kernels of 10.x and
# later are made for one exact architecture (vLLM 0.32.0 CMakeLists.txt: `12.0f` from CUDA 13, else `12.0a;12.1a`).
_FAMILY_CUDA_MAJOR = 13
_FIRST_EXACT_MAJOR = 10


class Way(StrEnum):
    """How a driver comes to run an image's CUDA."""

    NATIVE = "native"
    MINOR_VERSION = "minor-version compatibility"
    FORWARD = "forward compatibility"


class Candidate(Struct, frozen=True, kw_only=True, cache_hash=True):
    """One image of one release for the host's processor. `cuda` is major.minor."""

    release: EngineRelease
    image: EngineImage
    architectures: tuple[str, ...]
    cuda: str

    @property
    def tag(self) -> str:
        """Return the tag without its `v`, as people say it: `0.32.0-cu129`."""
        return self.image.image.rpartition(":")[2].removeprefix("v")


class Situation(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What of the host decides on an image.

    `cuda`: the newest that the driver runs by itself. `branch`: of the Linux driver, None under WSL and where unknown.
    `models` runs beside `gpus`, None for a model that the catalog does not know. `processor` None: unknown.
    """

    gpus: tuple[Gpu, ...]
    models: tuple[GpuModel | None, ...]
    driver: str | None
    branch: int | None
    cuda: str | None
    reported_cuda: str | None
    system: OperatingSystem
    processor: str | None

    @property
    def wsl(self) -> bool:
        """Whether the host is the Windows Subsystem for Linux."""
        return bool(self.system.wsl)

    def every_gpu_is(self, *classes: GpuClass) -> bool:
        """Return whether every GPU is known to be of one of these classes."""
        return all(model is not None and model.gpu_class in classes for model in self.models)

    def capabilities(self) -> tuple[tuple[Gpu, str], ...]:
        """Return each GPU with its compute capability, where NVML or the catalog tells it."""
        pairs = zip(self.gpus, self.models, strict=True)
        found = [(gpu, gpu.compute_capability or (model.compute_capability if model else None)) for gpu, model in pairs]
        return tuple((gpu, capability) for gpu, capability in found if capability)


@lru_cache(maxsize=1024)
def describe_situation(host: Host, gpus: tuple[Gpu, ...], catalog: Catalog) -> Situation:
    """Gather what decides on an image from the host and the catalog."""
    models = tuple(catalog.find_gpu(gpu.name) for gpu in gpus)
    wsl = bool(host.os.wsl)
    driver = host.driver or Driver(version=None, cuda=None)
    branch = None if wsl else _branch(driver.version)
    return Situation(
        gpus=gpus,
        models=models,
        driver=driver.version,
        branch=branch,
        cuda=_own_cuda(driver.cuda, branch, catalog.drivers()),
        reported_cuda=driver.cuda,
        system=host.os,
        processor=processor_of(host.cpu, models),
    )


def processor_of(cpu: Cpu, models: tuple[GpuModel | None, ...]) -> str | None:
    """Return x86_64 or aarch64 by the processor's instruction sets, else by a GPU that comes with its own.

    None where neither tells.
    """
    flags = frozenset(cpu.flags)
    if flags & _X86_FLAGS:
        return X86_64
    if flags & _ARM_FLAGS:
        return AARCH64
    return next((model.processor for model in models if model is not None and model.processor), None)


def list_candidates(catalog: Catalog, processor: str | None) -> Iterator[Candidate]:
    """Yield every image known to be published for the processor (x86_64 where unknown), newest release first."""
    yield from (
        Candidate(release=release, image=image, architectures=architectures, cuda=major_minor(cuda))
        for release in catalog.engines
        for image in release.images
        if image.published
        for architectures, cuda in [_build(image, processor)]
        if architectures is not None
    )


def carries(architectures: tuple[str, ...], cuda: str, capability: str) -> bool:
    """Return whether kernels built for `architectures` with toolkit `cuda` run on a GPU of `capability`.

    A plain kernel for X.y runs on X.z with z ≥ y (CUDA programming guide, binary compatibility): 8.0 serves an RTX 3090
    (8.6). `9.0a` runs on 9.0 alone, `10.0f` on its family. PTX does not count: vLLM's build strips it from the
    top-level list (0.33.0 release-pipeline.yaml), so most kernels have none.
    """
    return any(_entry_carries(entry, version_parts(cuda)[0], version_parts(capability)) for entry in architectures)


def find_way(candidate: Candidate, situation: Situation, catalog: Catalog) -> Way | None:
    """Return how the driver runs the image, or None where it does not."""
    if situation.cuda is not None and version_parts(situation.cuda) >= version_parts(candidate.cuda):
        return Way.NATIVE
    if _runs_by_minor_version(candidate, situation, catalog):
        return Way.MINOR_VERSION
    return Way.FORWARD if forward_rule(candidate, situation, catalog.drivers()) is not None else None


@lru_cache(maxsize=1024)
def that_run(situation: Situation, catalog: Catalog) -> Iterable[tuple[Candidate, Way]]:
    """Return the images that carry the GPUs and that the driver runs, each with how, newest release first.

    Each is looked at when it is first asked for, since a release takes time to read, and kept for the next model.
    """
    one_of_each = _one_of_each(situation)
    carrying = _that_carry(situation.processor, _capabilities(situation), catalog)
    ways = ((candidate, find_way(candidate, one_of_each, catalog)) for candidate in carrying)
    return _Kept((candidate, way) for candidate, way in ways if way is not None)


def that_carry(situation: Situation, catalog: Catalog) -> tuple[Candidate, ...]:
    """Return the images that carry the GPUs, whatever the driver, newest release first."""
    return tuple(_that_carry(situation.processor, _capabilities(situation), catalog))


def _one_of_each(situation: Situation) -> Situation:
    """Return a situation without equal GPUs, which ask for the same."""
    pairs = zip(situation.gpus, situation.models, strict=True)
    kinds = {(gpu.compute_capability, model): gpu for gpu, model in pairs}
    return replace(situation, gpus=tuple(kinds.values()), models=tuple(model for _, model in kinds))


def _capabilities(situation: Situation) -> frozenset[str]:
    return frozenset(capability for _, capability in situation.capabilities())


@lru_cache(maxsize=256)
def _that_carry(processor: str | None, capabilities: frozenset[str], catalog: Catalog) -> _Kept[Candidate]:
    """Return the images that carry every GPU whose compute capability is known."""
    return _Kept(
        candidate
        for candidate in list_candidates(catalog, processor)
        if all(carries(candidate.architectures, candidate.cuda, capability) for capability in capabilities)
    )


class _Kept(Generic[T]):
    """What an iterator yields, as often as it is asked for."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source, self._kept = source, list[T]()

    def __iter__(self) -> Iterator[T]:
        position = 0
        while position < len(self._kept) or self._look_further():
            yield self._kept[position]
            position += 1

    def _look_further(self) -> bool:
        before = len(self._kept)
        self._kept.extend(islice(self._source, 1))
        return len(self._kept) > before


def forward_rule(candidate: Candidate, situation: Situation, drivers: Drivers) -> ForwardCompatibility | None:
    """Return the rule by which the image's compatibility libraries run on an older data-centre driver, or None."""
    from stackwright.domain.hardware import GpuClass

    if not situation.every_gpu_is(GpuClass.DATACENTER):
        return None
    return next(
        (
            rule
            for rule in drivers.forward_compatibility
            if rule.cuda_major == version_parts(candidate.cuda)[0]
            and situation.branch in rule.branches
            and order_release(candidate.release.version) >= order_release(rule.since)
        ),
        None,
    )


def gate_of(candidate: Candidate, drivers: Drivers) -> ContainerGate | None:
    """Return what is known of the container runtime's gate in the image's base."""
    return next((gate for gate in drivers.gates if gate.cuda == candidate.cuda), None)


def refused_holes(candidate: Candidate, catalog: Catalog) -> tuple[Advisory, ...]:
    """Return the holes for which the release is refused without consent."""
    holes = holes_of(candidate.release.name, candidate.release.version, catalog.advisories())
    return tuple(hole for hole in holes if hole.kind in REFUSED_HOLES)


def major_minor(cuda: str) -> str:
    """Shorten a toolkit's version: `12.9.1` to `12.9`, which is what drivers and gates compare."""
    return ".".join(cuda.split(".")[:2])


@lru_cache(maxsize=4096)
def _build(image: EngineImage, processor: str | None) -> tuple[tuple[str, ...] | None, str]:
    if processor == AARCH64:
        return image.aarch64, image.aarch64_cuda or image.cuda
    return image.x86_64, image.cuda


def _entry_carries(entry: str, cuda_major: int, capability: tuple[int, ...]) -> bool:
    plain = entry.removesuffix("+PTX")
    built = version_parts(plain.rstrip("af"))
    if plain.endswith("a"):
        return built == capability
    if built[0] != capability[0] or built > capability:
        return False
    family = plain.endswith("f") or built[0] < _FIRST_EXACT_MAJOR or cuda_major >= _FAMILY_CUDA_MAJOR
    return family or built == capability


def kernels_by_ptx(candidate: Candidate, situation: Situation, catalog: Catalog) -> tuple[str, ...] | None:
    """Return the libraries of which some GPU runs a kernel by PTX alone; None where that is not known of every GPU."""
    known = situation.capabilities()
    if len(known) < len(situation.gpus):
        return None
    libraries = [catalog.kernels().libraries_by_ptx(candidate.release.version, capability) for _, capability in known]
    if None in libraries:
        return None
    return tuple(dict.fromkeys(library for found in libraries for library in found or ()))


def _runs_by_minor_version(candidate: Candidate, situation: Situation, catalog: Catalog) -> bool:
    """Any toolkit of a major release runs from that release's floor on, where nothing has to be compiled from PTX.

    That hangs on machine code alone, whatever the GPU is sold as (docs.nvidia.com/deploy/cuda-compatibility,
    minor-version compatibility).
    """
    major = version_parts(candidate.cuda)[0]
    floor = next((row.driver for row in catalog.drivers().minor_version_floors if row.cuda_major == major), None)
    if situation.branch is None or situation.driver is None or situation.cuda is None or floor is None:
        return False
    if version_parts(situation.cuda)[0] != major or version_parts(situation.driver) < version_parts(floor):
        return False
    return kernels_by_ptx(candidate, situation, catalog) == ()


def _branch(version: str | None) -> int | None:
    return (version_parts(version)[0] or None) if version else None


def _own_cuda(reported: str | None, branch: int | None, drivers: Drivers) -> str | None:
    """Return what the driver itself runs: inside a container with compatibility libraries, NVML reports theirs."""
    known = next((row.cuda for row in drivers.branches if row.branch == branch), None)
    if reported is None or known is None:
        return reported or known
    return min(reported, known, key=version_parts)
