"""Say why no engine image fits: the part in the way, and the smallest change that helps. Pure."""

from __future__ import annotations

from msgspec import Struct

from stackwright.domain.catalog import REFUSED_HOLES, Advisory, Catalog, HoleKind, holes_of, order_release
from stackwright.domain.host import Gpu, newer_driver
from stackwright.domain.model_facts import ModelFacts, WeightFormat
from stackwright.engines.protocol import DriverTooOldError, EngineNeeds, NoImageError
from stackwright.engines.vllm.image_candidates import Candidate, Situation, carries, refused_holes
from stackwright.engines.vllm.settings import BFLOAT16_CAPABILITY, DTYPE, first_without_bfloat16
from stackwright.errors import NoPlanError
from stackwright.units import version_parts

# Of compressed-tensors; where a GPU is too old for the first, the engine unpacks the weights (0.33.0
# compressed_tensors/compressed_tensors.py, _get_scheme_from_parts; read 2026-11-29).
_SCHEMES = {
    WeightFormat.FP8: ("w8a8_fp8", "w8a16_fp8"),
    WeightFormat.INT8: ("w8a8_int8",),
    WeightFormat.INT4: ("wNa16",),
    WeightFormat.NVFP4: ("w4a4_nvfp4", "w4a16_nvfp4"),
    WeightFormat.MXFP4: ("w4a4_mxfp4", "w4a16_mxfp4"),
}


class Search(Struct, frozen=True, kw_only=True):
    """The search for an image, narrowed step by step; each tuple is newest first.

    `wanted`: releases that the model and the person ask for; `carried`: those of them that carry the GPUs; `sound`:
    those without refused holes. `carried_by_any`: whatever the model needs. `with_consent`: what would be chosen with
    consent to known holes; `with_another_model`: what would be chosen if no release were needed.
    """

    situation: Situation
    catalog: Catalog
    needs: EngineNeeds
    wanted: tuple[Candidate, ...]
    carried: tuple[Candidate, ...]
    sound: tuple[Candidate, ...]
    carried_by_any: tuple[Candidate, ...]
    with_consent: Candidate | None
    with_another_model: Candidate | None


# The engine's names of half precision.
_HALF = frozenset({"float16", "half"})


def refuse(search: Search) -> NoImageError:
    """Make the error for a search that found nothing."""
    if not search.wanted:
        kind = f"CUDA image for {search.situation.processor or 'x86_64'}"
        return no_release(search.catalog, search.needs, kind)
    if not search.carried:
        return _not_carried(search)
    return _driver_too_old(search) if search.sound else _only_with_holes(search)


def no_release(catalog: Catalog, needs: EngineNeeds, kind: str) -> NoImageError:
    """Make the error for a release that nobody has: unknown, none that serves the model, or without such an image."""
    newest, minimum, maximum, exact = catalog.engines[0], needs.minimum, needs.maximum, needs.exact
    model = needs.model or "the model"
    known = [release.version for release in catalog.engines]
    if exact is not None and exact not in known:
        hint = f"the newest known are {', '.join(known[:3])}; docs/reference/catalog.md lists all"
        return NoImageError(f"{newest.name} {exact} is not in the catalog", hint=hint)
    if minimum is not None and exact is not None and order_release(exact) < order_release(minimum):
        return NoImageError(
            f"{model} needs {newest.name} {minimum} or newer, but {exact} was requested",
            hint=f"use --engine {newest.name}=={newest.version}, or another model",
        )
    if maximum is not None and exact is not None and order_release(maximum) < order_release(exact):
        return NoImageError(
            f"{newest.name} {exact} no longer serves the architecture of {model}; the last release that does is "
            f"{maximum}",
            hint=f"use --engine {newest.name}=={maximum}, or another model",
        )
    if minimum is not None and order_release(newest.version) < order_release(minimum):
        return NoImageError(
            f"{model} needs {newest.name} {minimum} or newer; the newest in the catalog is {newest.version}",
            hint="use another model, or a newer Stackwright release with a newer catalog",
        )
    return NoImageError(
        f"{newest.name} {exact or minimum or maximum or ''} has no {kind}", hint="request another release"
    )


def _bounds(needs: EngineNeeds) -> str:
    """Say which releases serve the model."""
    model = needs.model or "the model"
    if needs.maximum is not None:
        return f"{model} needs {needs.maximum} or older, the last release with its architecture"
    return f"{model} needs {needs.minimum} or newer"


def unlisted_architecture(facts: ModelFacts, name: str) -> tuple[str, ...]:
    """Return the warning for an architecture that no release has in its registry."""
    if not facts.config.architecture:
        return ()
    lists = f"no known {name} release lists the architecture {facts.config.architecture}"
    return (f"{lists}: it starts only where Transformers has a class for it that the engine can use",)


def list_holes(holes: tuple[Advisory, ...]) -> str:
    """Name holes with their kind: `CVE-2026-48746 (key-bypass)`; of some nobody here knows the kind."""
    return ", ".join(hole.id if hole.kind is HoleKind.UNKNOWN else f"{hole.id} ({hole.kind.value})" for hole in holes)


def check_architecture(facts: ModelFacts, version: str, catalog: Catalog) -> None:
    """Refuse a model whose architecture a release does not have, not yet or no longer. Raises NoPlanError."""
    span = catalog.architectures().releases(facts.config.architecture)
    if span is not None and catalog.architectures().serves(facts.config.architecture, version) is False:
        raise no_release(
            catalog, EngineNeeds(minimum=span[0], maximum=span[1], exact=version, model=facts.name), "image"
        )


def check_formats(facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog) -> None:
    """Refuse weights that a release does not read, or not on one of these GPUs.

    Raises:
        NoPlanError: the message names the format, and the last release that reads it or the GPU that it needs.
    """
    method = _method_of(facts)
    if method is None:
        return
    if catalog.formats().reads(method, version) is False:
        raise NoPlanError(
            f"{facts.name} has its weights as {method}, {_readers(method, version, catalog)}",
            hint="name a copy of the model in AWQ, GPTQ, FP8 or NVFP4, or the unquantized one",
        )
    least = catalog.formats().runs_from(_schemes_of(method, facts.format), version)
    older = (gpu for gpu in gpus if gpu.compute_capability and least)
    if gpu := next((gpu for gpu in older if version_parts(gpu.compute_capability) < version_parts(least)), None):
        raise NoPlanError(
            f"{catalog.formats().engine} {version} runs {method} weights such as those of {facts.name} from compute "
            f"capability {least} on, and GPU {gpu.index} ({gpu.name}) has {gpu.compute_capability}",
            hint="name a copy of the model in a format for older GPUs, such as GPTQ, or the unquantized one",
        )


def check_dtype(
    facts: ModelFacts, version: str, gpus: tuple[Gpu, ...], catalog: Catalog, wanted: str | None = None
) -> None:
    """Refuse a number format that the GPUs or the release do not have for a model; `wanted`: what a person asks for.

    Raises:
        NoPlanError: the release runs the model in bfloat16 alone, which a GPU lacks; or `wanted` cannot be had.
    """
    old, name, method = first_without_bfloat16(gpus), catalog.formats().engine, _method_of(facts)
    if wanted is not None:
        _check_wanted(facts, version, old, catalog, wanted)
    if wanted is not None or old is None:
        return
    formats = catalog.formats().computes_in(method, version) if method else frozenset()
    if formats and "float16" not in formats:
        raise NoPlanError(
            f"{name} {version} computes with {method} weights such as those of {facts.name} in "
            f"{' or '.join(sorted(formats))} alone, which GPU {old.index} ({old.name}, compute capability "
            f"{old.compute_capability}) does not have",
            hint=f"name a copy of the model in another format, or GPUs of {BFLOAT16_CAPABILITY} or newer",
        )
    if kind := _kind_without_float16(facts, version, catalog):
        raise NoPlanError(
            f"{name} {version} does not run {kind} models such as {facts.name} in float16, and GPU "
            f"{old.index} ({old.name}, compute capability {old.compute_capability}) has no bfloat16",
            hint=f"use another model, or GPUs of compute capability {BFLOAT16_CAPABILITY} or newer",
        )


def _check_wanted(facts: ModelFacts, version: str, old: Gpu | None, catalog: Catalog, wanted: str) -> None:
    leave = f"leave {DTYPE} out, for a format that fits"
    if wanted in _HALF and (kind := _kind_without_float16(facts, version, catalog)):
        raise NoPlanError(
            f"{catalog.formats().engine} {version} does not run {kind} models such as {facts.name} in float16",
            hint=leave,
        )
    if wanted == "bfloat16" and old is not None:
        raise NoPlanError(
            f"GPU {old.index} ({old.name}, compute capability {old.compute_capability}) has no bfloat16, as is asked "
            f"for {facts.name}",
            hint=leave,
        )


def _kind_without_float16(facts: ModelFacts, version: str, catalog: Catalog) -> str | None:
    kinds = (kind for kind in facts.config.model_types if catalog.formats().refuses_float16(kind, version))
    return next(kinds, None)


def _method_of(facts: ModelFacts) -> str | None:
    by_tensors = {WeightFormat.GGUF: "gguf", WeightFormat.BITSANDBYTES: "bitsandbytes"}
    return by_tensors.get(facts.format or WeightFormat.OTHER, facts.config.quant_method)


def _schemes_of(method: str, weight_format: WeightFormat | None) -> tuple[str, ...]:
    """Return what may run a method's weights in a format, as catalog/formats.yaml has it; the engine takes any."""
    if method == "modelopt" and weight_format is not WeightFormat.FP8:
        return ()
    if method != "compressed-tensors":
        return (method,)
    return tuple(f"{method}/{scheme}" for scheme in _SCHEMES.get(weight_format or WeightFormat.OTHER, ()))


def _readers(method: str, version: str, catalog: Catalog) -> str:
    name = catalog.formats().engine
    last = catalog.formats().last_reader(method)
    if last is None:
        return f"which no known release of {name} reads"
    first = catalog.formats().methods[method][0]
    if order_release(version) < order_release(first):
        return f"which {name} {version} does not read yet; the first that does is {first}"
    holes = holes_of(name, last, catalog.advisories())
    grave = list_holes(tuple(hole for hole in holes if hole.kind in REFUSED_HOLES))
    vulnerable = f" (it has known vulnerabilities: {grave})" if grave else ""
    return f"which {name} {version} does not read; the last that does is {last}{vulnerable}"


def _not_carried(search: Search) -> NoImageError:
    situation = search.situation
    gpu, capability = next(
        (gpu, capability)
        for gpu, capability in situation.capabilities()
        if not all(carries(c.architectures, c.cuda, capability) for c in search.wanted)
    )
    who = f"GPU {gpu.index} ({gpu.name or 'unknown model'}, compute capability {capability})"
    if search.carried_by_any:
        last = search.carried_by_any[0].release
        asked = f"{search.needs.exact} was requested" if search.needs.exact else _bounds(search.needs)
        return NoImageError(
            f"only {last.name} images up to {last.version} support {who}, but {asked}",
            hint="use another model, or another GPU"
            if not search.needs.exact
            else f"use --engine {last.name}=={last.version}",
        )
    least = min((c.release.minimum_compute_capability for c in search.wanted), key=version_parts)
    old = version_parts(capability) < version_parts(least)
    why = f"; compute capability {least} or newer is needed" if old else ""
    return NoImageError(
        f"no {search.wanted[0].release.name} image for {situation.processor or 'x86_64'} supports {who}{why}",
        hint="use `configure-gpu cpu`, or another GPU",
    )


def _only_with_holes(search: Search) -> NoImageError:
    last, situation = search.carried[0], search.situation
    name, holes = last.release.name, list_holes(refused_holes(last, search.catalog))
    if search.needs.exact:
        message = f"{name} {search.needs.exact} has known vulnerabilities: {holes}"
        other = search.with_another_model
        instead = f"request {other.release.version}" if other else "request a newer release, with a newer driver"
    else:
        gpu, capability = situation.capabilities()[0] if situation.capabilities() else (situation.gpus[0], "unknown")
        message = (
            f"GPU {gpu.index} ({gpu.name or 'unknown model'}, compute capability {capability}) is supported by "
            f"{name} images "
            f"up to {last.release.version} only, which has known vulnerabilities: {holes}"
        )
        instead = "use a newer GPU, or `configure-gpu cpu`"
    if search.with_consent is None:
        message += (
            f"; driver {situation.driver or 'of unknown version'} is too old for it: "
            f"{_driver_for(search, search.carried)}"
        )
        driver = newer_driver(situation.system, _least_demanding(search.carried).cuda)
        instead += f"; or {driver} and add --allow-vulnerable"
    return NoImageError(f"{message}; it is refused without --allow-vulnerable", hint=instead)


def _driver_too_old(search: Search) -> NoImageError:
    situation = search.situation
    running = f"driver {situation.driver or 'of unknown version'} supports CUDA up to {situation.cuda}"
    sound = "" if search.sound == search.carried else " without known vulnerabilities"
    message = (
        f"{running}, too little for any {search.sound[0].release.name} image{sound} that supports "
        f"{_names(situation)}: {_driver_for(search, search.sound)}"
    )
    first = "" if situation.system.container else " first"
    hints = [newer_driver(situation.system, _least_demanding(search.sound).cuda) + first]
    forward = _forward_branches(search)
    if forward:
        hints[0] += f" (or to {forward}, with forward compatibility on data-centre GPUs)"
    other = search.with_another_model
    if other is not None and search.needs.exact:
        hints.append(f"this driver runs {other.tag}")
    elif other is not None:
        hints.append(f"use another model: {_bounds(search.needs)}, and this driver runs {other.tag}")
    return DriverTooOldError(message, hint="; or ".join(hints))


def _driver_for(search: Search, candidates: tuple[Candidate, ...]) -> str:
    """Return which driver the least demanding and the newest image need.

    `driver ≥ A for 0.32.0-cu129, ≥ B for the newest`.
    """
    newest, least = candidates[0], _least_demanding(candidates)
    what = "a driver that reports CUDA" if search.situation.wsl else "driver"
    text = f"{what} ≥ {_needed(search, least)} for {least.tag}"
    if version_parts(least.cuda) < version_parts(newest.cuda):
        text += f", ≥ {_needed(search, newest)} for the newest ({newest.tag})"
    return text


def _least_demanding(candidates: tuple[Candidate, ...]) -> Candidate:
    """Return the newest of the images with the oldest CUDA."""
    return min(
        candidates, key=lambda c: (version_parts(c.cuda), [-part for part in order_release(c.release.version)[0]])
    )


def _needed(search: Search, candidate: Candidate) -> str:
    """Return the driver for an image, or under WSL, whose driver numbers are Windows's, the CUDA version."""
    if search.situation.wsl:
        return candidate.cuda
    toolkits = [row.driver for row in search.catalog.drivers().toolkits if row.cuda == candidate.cuda]
    floors = [model.minimum_driver for model in search.situation.models if model and model.minimum_driver]
    return max((*toolkits, *floors), key=version_parts, default=f"one with CUDA {candidate.cuda}")


def _forward_branches(search: Search) -> str | None:
    """Name the older branches on which the newest image would run, where these GPUs may use them."""
    from stackwright.domain.hardware import GpuClass

    if search.situation.wsl or not search.situation.every_gpu_is(GpuClass.DATACENTER):
        return None
    major = version_parts(search.sound[0].cuda)[0]
    rule = next((row for row in search.catalog.drivers().forward_compatibility if row.cuda_major == major), None)
    return " or ".join(f"R{branch}" for branch in rule.branches) if rule else None


def _names(situation: Situation) -> str:
    names = dict.fromkeys(gpu.name or f"GPU {gpu.index}" for gpu in situation.gpus)
    return " and ".join(names)
