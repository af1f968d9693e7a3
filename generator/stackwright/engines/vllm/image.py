"""Choose the engine image: the newest that the driver runs, that carries the GPUs, and that the model needs. Pure.

docs/decisions/0010-image-planner.md gives the rules and their sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from msgspec.structs import replace

from stackwright.domain.catalog import (
    REFUSED_HOLES,
    Catalog,
    CpuImage,
    EngineRelease,
    HoleKind,
    holes_of,
    order_release,
)
from stackwright.domain.host import Cpu, Gpu, Host, newer_driver
from stackwright.engines.protocol import EngineNeeds, ImageChoice, NoImageError
from stackwright.engines.vllm.image_candidates import (
    AARCH64,
    X86_64,
    Candidate,
    Situation,
    Way,
    describe_situation,
    find_way,
    forward_rule,
    gate_of,
    list_candidates,
    processor_of,
    refused_holes,
    that_carry,
    that_run,
)
from stackwright.engines.vllm.image_refusal import Search, list_holes, no_release, refuse
from stackwright.units import version_parts

ALLOW_VULNERABLE = "--allow-vulnerable"
DISABLE_GATE = "NVIDIA_DISABLE_REQUIRE"
DEEP_GEMM, DEEP_GEMM_BROKEN = "VLLM_USE_DEEP_GEMM", "0.24.0"
PINNED_MEMORY, PINNED_MEMORY_SINCE, PINNED_MEMORY_BEFORE = "VLLM_WSL2_ENABLE_PIN_MEMORY", "0.24.0", "0.30.0"


def choose_image(host: Host, gpus: tuple[Gpu, ...], catalog: Catalog, needs: EngineNeeds | None = None) -> ImageChoice:
    """Choose the image for these GPUs of the host; the CPU image where there are none.

    Raises:
        NoImageError: nothing fits; the message names the part in the way, the hint the smallest change that helps.
    """
    needs = needs or EngineNeeds()
    if not gpus:
        return _choose_cpu_image(host.cpu, catalog, needs)
    situation = describe_situation(host, gpus, catalog)
    if situation.cuda is None:
        raise NoImageError(
            "the driver does not report its CUDA version, so no engine image can be chosen",
            hint="check the driver with `nvidia-smi`, or use `configure-gpu cpu`",
        )
    chosen = _first_sound(situation, catalog, needs)
    if chosen is None:
        raise refuse(replace(_search(situation, catalog, replace(needs, model=None)), needs=needs))
    plain = _describe(*chosen, situation, catalog)
    return replace(plain, reasons=(*plain.reasons, *_needs_in_words(chosen[0], needs)))


@lru_cache(maxsize=1024)
def _describe(found: Candidate, way: Way, situation: Situation, catalog: Catalog) -> ImageChoice:
    """Return an image with what is to be said of it on a host, whatever the model."""
    return ImageChoice(
        name=found.release.name,
        version=found.release.version,
        image=found.image.image,
        cuda=found.cuda,
        env=_environment(found, way, situation, catalog),
        reasons=_reasons(found, way, situation),
        warnings=(
            *hole_warnings(found.release.name, found.release.version, catalog),
            *_warnings(found, way, situation, catalog),
        ),
        source=found.release.source,
    )


def _first_sound(situation: Situation, catalog: Catalog, needs: EngineNeeds) -> tuple[Candidate, Way] | None:
    """Return the newest image that runs, and how; None where none does."""
    return next(
        (
            (candidate, way)
            for candidate, way in that_run(situation, catalog)
            if _is_wanted(candidate.release, needs)
            and (needs.allow_vulnerable or not refused_holes(candidate, catalog))
        ),
        None,
    )


@lru_cache(maxsize=256)  # which driver is the least is asked of many models, and each time the last one is refused
def _search(situation: Situation, catalog: Catalog, needs: EngineNeeds) -> Search:
    wanted = tuple(c for c in list_candidates(catalog, situation.processor) if _is_wanted(c.release, needs))
    carried_by_any = that_carry(situation, catalog)
    carried = tuple(candidate for candidate in carried_by_any if _is_wanted(candidate.release, needs))
    without_holes = tuple(candidate for candidate in carried_by_any if not refused_holes(candidate, catalog))
    return Search(
        situation=situation,
        catalog=catalog,
        needs=needs,
        wanted=wanted,
        carried=carried,
        sound=carried if needs.allow_vulnerable else tuple(c for c in without_holes if _is_wanted(c.release, needs)),
        carried_by_any=carried_by_any,
        with_consent=_first_that_runs(carried, situation, catalog),
        with_another_model=_first_that_runs(without_holes, situation, catalog),
    )


def _is_wanted(release: EngineRelease, needs: EngineNeeds) -> bool:
    own = order_release(release.version)
    if needs.minimum is not None and own < order_release(needs.minimum):
        return False
    if needs.maximum is not None and own > order_release(needs.maximum):
        return False
    return needs.exact is None or own == order_release(needs.exact)


def _first_that_runs(candidates: Iterable[Candidate], situation: Situation, catalog: Catalog) -> Candidate | None:
    return next((c for c in candidates if find_way(c, situation, catalog) is not None), None)


def wants_pinned_memory(release: str) -> bool:
    """Return whether a release ends under WSL unless it is told to use pinned memory (`RuntimeError: UVA is not
    available`).

    vLLM takes it for missing there (platforms/cuda.py, is_pin_memory_available). From 0.24.0 on its model runner cannot
    do without, and the variable says otherwise; from 0.30.0 on it copies instead (v1/worker/gpu/buffer_utils.py,
    NonUvaBuffer), and the variable, which costs a little speed, is left alone. Read in the sources of 0.23.0 to 0.32.0
    (2026-11-21).
    """
    return order_release(PINNED_MEMORY_SINCE) <= order_release(release) < order_release(PINNED_MEMORY_BEFORE)


def _environment(found: Candidate, way: Way, situation: Situation, catalog: Catalog) -> tuple[tuple[str, str], ...]:
    release = found.release.version
    pinned = ((PINNED_MEMORY, "1"),) if situation.wsl and wants_pinned_memory(release) else ()
    without = ((DEEP_GEMM, "0"),) if _lacks_deep_gemm(release, situation) else ()
    return (*_compatibility(found, way, situation, catalog), *pinned, *without)


def _lacks_deep_gemm(release: str, situation: Situation) -> bool:
    """Return whether a release takes DeepGEMM's FP8 kernels on 12.x, which the DeepGEMM that it brings does not have.

    It ends with `Unknown recipe` when it warms up (vllm-project/vllm#47130, 2026-06-30). From 0.24.0 on 12.x counts as
    supported (platforms/cuda.py, support_deep_gemm); from 0.25.0 on the DeepGEMM is one with kernels for it
    (cmake/external_projects/deepgemm.cmake, read 2026-11-30).
    """
    on_12 = any(version_parts(capability)[0] == 12 for _, capability in situation.capabilities())
    return release == DEEP_GEMM_BROKEN and on_12


def _compatibility(found: Candidate, way: Way, situation: Situation, catalog: Catalog) -> tuple[tuple[str, str], ...]:
    if way is Way.FORWARD:
        rule = forward_rule(found, situation, catalog.drivers())
        return ((rule.variable, "1"),) if rule else ()
    if way is Way.MINOR_VERSION and not _passes_gate(found, situation, catalog):
        return ((DISABLE_GATE, "1"),)
    return ()


def _passes_gate(found: Candidate, situation: Situation, catalog: Catalog) -> bool:
    """Say whether the container runtime lets the image start: it asks for branches, and never admits GeForce or TITAN.

    It lists the branches that were supported when the base image was made; those between them run as well.
    """
    from stackwright.domain.hardware import GpuClass

    gate = gate_of(found, catalog.drivers())
    professional = situation.every_gpu_is(GpuClass.DATACENTER, GpuClass.WORKSTATION)
    return gate is not None and professional and situation.branch in gate.branches


def _reasons(found: Candidate, way: Way, situation: Situation) -> tuple[str, ...]:
    driver = f"driver {situation.driver or 'of unknown version'}"
    ways = {
        Way.NATIVE: f"{driver} supports CUDA {situation.cuda}, the image needs {found.cuda}",
        Way.MINOR_VERSION: f"{driver} (CUDA {situation.cuda}) runs CUDA {found.cuda} by minor-version compatibility",
        Way.FORWARD: f"{driver} (CUDA {situation.cuda}) runs CUDA {found.cuda} with the image's forward compatibility "
        "libraries",
    }
    capabilities = sorted({capability for _, capability in situation.capabilities()}, key=version_parts)
    reasons = [f"the newest release that fits: {ways[way]}"]
    if capabilities:
        reasons.append(
            f"its kernels ({' '.join(found.architectures)}) support compute capability {', '.join(capabilities)}"
        )
    if situation.wsl and wants_pinned_memory(found.release.version):
        reasons.append(f"{PINNED_MEMORY}=1 is set, since this release needs pinned memory under WSL")
    return tuple(reasons)


def _needs_in_words(found: Candidate, needs: EngineNeeds) -> tuple[str, ...]:
    name, reasons = found.release.name, []
    if needs.minimum is not None:
        reasons.append(f"{needs.model or 'the model'} needs {name} {needs.minimum} or newer")
    if needs.maximum is not None:
        reasons.append(f"{name} dropped the architecture of {needs.model} after {needs.maximum}")
    if needs.exact is not None:
        reasons.append(f"{name} {needs.exact} was requested")
    return tuple(reasons)


def _warnings(found: Candidate, way: Way, situation: Situation, catalog: Catalog) -> tuple[str, ...]:
    warnings = []
    if way is Way.MINOR_VERSION:
        gate = "" if _passes_gate(found, situation, catalog) else f" with {DISABLE_GATE}=1 (the image's check is off)"
        warnings.append(
            f"driver {situation.driver} is older than CUDA {found.cuda}, which it runs by minor-version "
            f"compatibility{gate}: {newer_driver(situation.system, found.cuda)} when you can"
        )
    if situation.cuda != situation.reported_cuda and situation.reported_cuda is not None:
        warnings.append(
            f"the driver's branch runs CUDA {situation.cuda}, but {situation.reported_cuda} was reported: "
            "was the host detected inside a container with compatibility libraries?"
        )
    known = {gpu.index for gpu, _ in situation.capabilities()}
    warnings += [
        f"the compute capability of GPU {gpu.index} is unknown: not checked whether the image supports it"
        for gpu in situation.gpus
        if gpu.index not in known
    ]
    return tuple(warnings)


def hole_warnings(name: str, version: str, catalog: Catalog) -> tuple[str, ...]:
    """Return which known holes a release has, the grave ones first; those of unknown severity the doctor tells."""
    holes = holes_of(name, version, catalog.advisories())
    grave = tuple(hole for hole in holes if hole.kind in REFUSED_HOLES)
    lesser = tuple(hole for hole in holes if hole.kind not in REFUSED_HOLES | {HoleKind.UNKNOWN})
    warnings = []
    if grave:
        warnings.append(
            f"{name} {version} has known vulnerabilities, allowed by {ALLOW_VULNERABLE} or a pin: {list_holes(grave)}"
        )
    if lesser:
        warnings.append(
            f"{name} {version} has known vulnerabilities, but no remote code execution or key bypass: "
            f"{list_holes(lesser)}"
        )
    return tuple(warnings)


def _choose_cpu_image(cpu: Cpu, catalog: Catalog, needs: EngineNeeds) -> ImageChoice:
    processor = processor_of(cpu, ())
    wanted = (
        (release, image)
        for release in catalog.engines
        for image in release.cpu_images
        if (processor or X86_64) in image.processors and _is_wanted(release, needs)
    )
    # The newest alone is looked at: each further release takes time to read.
    found = next(wanted, None)
    if found is None:
        raise no_release(catalog, needs, "CPU image")
    release, image = found
    holes = tuple(
        hole for hole in holes_of(release.name, release.version, catalog.advisories()) if hole.kind in REFUSED_HOLES
    )
    if holes and not needs.allow_vulnerable:
        raise NoImageError(
            f"{release.name} {release.version} has known vulnerabilities: {list_holes(holes)}",
            hint=f"request a newer release, or allow it with {ALLOW_VULNERABLE}",
        )
    return ImageChoice(
        name=release.name,
        version=release.version,
        image=image.image,
        cuda=None,
        env=(),
        reasons=_cpu_reasons(release, needs),
        warnings=(
            *hole_warnings(release.name, release.version, catalog),
            *_check_processor(cpu, processor, release, image),
        ),
        source=release.source,
    )


def _cpu_reasons(release: EngineRelease, needs: EngineNeeds) -> tuple[str, ...]:
    if needs.exact is not None:
        return (f"no GPU in use; {release.name} {needs.exact} was requested",)
    return ("no GPU in use: the newest CPU image",)


def _check_processor(cpu: Cpu, processor: str | None, release: EngineRelease, image: CpuImage) -> tuple[str, ...]:
    """Refuse a processor on which the image's kernels are illegal instructions (vLLM docs, CPU installation)."""
    if processor is None:
        return ("the processor's instruction sets are unknown: not checked whether the CPU image runs here",)
    needed = image.x86_64_flags if processor == X86_64 else ()
    lacking = [flag for flag in needed if flag not in cpu.flags]
    if processor == AARCH64 and not {"asimd", "neon"} & set(cpu.flags):
        lacking = ["neon"]
    if lacking:
        raise NoImageError(
            f"the processor ({cpu.model or 'of unknown model'}) lacks {', '.join(lacking)}, which the CPU image of "
            f"{release.name} {release.version} needs",
            hint="use another machine, or one with an NVIDIA GPU",
        )
    if processor == X86_64 and "avx512f" not in cpu.flags:
        return ("no AVX512: vLLM's CPU kernels run on AVX2 with limited features",)
    return ()
