"""Plan one model: image, placement, settings, replicas and forecast, each value with its reason and source. Pure.

What only GPUs need, the memory planner above all, is imported where it is used: a plan for a CPU comes in a blink.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import COMFORTABLE_TOKENS, EngineSettings, Forecast, Verdict
from stackwright.domain.image_pins import ImagePins, with_digest
from stackwright.domain.llm import LlmSource
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Memory, Mode, Origin, PlannedEngine, Replica, ServedModel, Setting
from stackwright.domain.role import Role
from stackwright.domain.wishes import Pin
from stackwright.engines import engine_named
from stackwright.engines.protocol import ImageChoice, pinned_fields
from stackwright.errors import NoPlanError
from stackwright.planning.comparison import confirm
from stackwright.planning.emitted import CUDA_DEVICE_ORDER, WORKERS, model_settings
from stackwright.planning.in_use import blame_others, warn_of_others
from stackwright.planning.other_makers import describe_other_gpus, what_would
from stackwright.planning.placement import Heads, most_ranks, placements
from stackwright.planning.request import ModelRequest
from stackwright.planning.utilization import UnifiedMemory, Utilization, choose_utilization
from stackwright.planning.workers import WORKER_BYTES, count_gateway_workers
from stackwright.services import additions_with
from stackwright.settings import declared_settings

if TYPE_CHECKING:
    from stackwright.planning.advice import Reach
    from stackwright.planning.layout import Layout, Unfit


class NoRoomError(NoPlanError):
    """The model needs more memory than there is."""


class DoesNotFitError(NoRoomError):
    """The model is too large for every group of the GPUs."""


class Decision(Struct, frozen=True, kw_only=True):
    """What serves a model, and where. `layout`: the settings that fit there; None on a processor."""

    placement: Placement
    chosen: ImageChoice
    layout: Layout | None


class PlannedModel(Struct, frozen=True, kw_only=True):
    """What was decided for one model.

    `gateway` are the settings that it asks of the gateway, which all models share, `workers` among them.
    """

    served: ServedModel
    placement: Placement
    gateway: dict[str, Setting]
    warnings: tuple[str, ...]

    @property
    def context(self) -> str:
        """The longest context in tokens, or `auto`."""
        return self.served.settings[engine_named(self.served.engine.name).keys.context].value


def plan_model(request: ModelRequest, catalog: Catalog) -> PlannedModel:
    """Plan one model; where other programs on its GPUs are why nothing fits, the refusal says so.

    Raises:
        NoPlanError: no plan fits this host.
    """

    try:
        planned = plan_as_is(request, catalog)
    except NoPlanError as refusal:
        if hint := _without_a_pin(request, catalog, of_memory=isinstance(refusal, DoesNotFitError)):
            raise type(refusal)(refusal.message, hint=hint) from None
        advised = _with_advice(request, refusal, catalog)
        raise blame_others(request, advised, lambda freed: plan_as_is(freed, catalog)) from None
    if not planned.placement.gpus:
        return planned
    from stackwright.planning.advice import warn_of_length

    short = warn_of_length(request, _reach(request, planned), catalog, lambda other: _plan_reach(other, catalog))
    return replace(planned, warnings=(short, *planned.warnings)) if short else planned


def _with_advice(request: ModelRequest, refusal: NoPlanError, catalog: Catalog) -> NoPlanError:
    """Return a refusal for want of memory with what would do: a shorter context, a larger share, else other weights."""
    if not isinstance(refusal, DoesNotFitError):
        return refusal
    hint = _shorter(request, catalog) or _larger_share(request) or _without_share(request, catalog)
    if hint is None:
        from stackwright.planning.advice import advise_instead

        hint = advise_instead(request, catalog, lambda other: _plan_reach(other, catalog))
    return DoesNotFitError(refusal.message, hint=hint)


def _plan_reach(request: ModelRequest, catalog: Catalog) -> Reach:
    return _reach(request, plan_as_is(request, catalog))


def _reach(request: ModelRequest, planned: PlannedModel) -> Reach:
    return reach_of(request, planned.served.forecast, planned.context)


def reach_of(request: ModelRequest, memory: Memory | None, context: str) -> Reach:
    """Return what a plan comes to. `context`: its tokens, or `auto` where the engine is to find them."""
    from stackwright.planning.advice import Reach

    shape = request.facts.config.shape
    if context != "auto":
        tokens = int(context)
    elif shape.is_encoder or memory is None:
        tokens = shape.default_length or COMFORTABLE_TOKENS
    else:
        tokens = min(memory.kv_cache_tokens, shape.default_length or memory.kv_cache_tokens)
    wanted = min(COMFORTABLE_TOKENS, request.wishes.max_model_len or shape.default_length or COMFORTABLE_TOKENS)
    sure = memory is not None and memory.verdict == Verdict.FITS.value
    return Reach(sure=sure, comfortable=tokens >= wanted, tokens=tokens)


def plan_as_is(request: ModelRequest, catalog: Catalog) -> PlannedModel:
    """Plan one model; a refusal does not look at what other programs hold. Raises NoPlanError."""
    return _assemble(request, catalog, decide(request, catalog))


def decide(request: ModelRequest, catalog: Catalog) -> Decision:
    """Choose the image and the GPUs, and there the settings that fit. On a processor nothing is forecast yet.

    Raises:
        NoPlanError: no plan fits this host.
    """
    _, options, chosen = _ways(request, catalog)
    if options[0].mode is Mode.CPU:
        if request.why_processor:
            chosen = replace(chosen, reasons=(f"on the processor, since {request.why_processor}",))
        return Decision(placement=options[0], chosen=chosen, layout=None)
    from stackwright.planning.layout import LayoutOption, Unfit, choose_layout, memory_unknown, smallest_memory
    from stackwright.planning.pace import arrange

    if not any(smallest_memory(option.gpus, request.host, catalog) for option in options):
        raise memory_unknown(options[0].gpus[0])
    layout_options = (
        LayoutOption(
            placement=option,
            settings=wanted_settings(request, option, catalog, chosen.version),
            gpu=smallest_memory(option.gpus, request.host, catalog, request.model.seen),
        )
        for option in arrange(options, request, catalog)
    )
    layout = choose_layout(request.engine, layout_options, request.facts, request.objective)
    if isinstance(layout, Unfit):
        raise _does_not_fit(request, options, layout)
    return Decision(placement=layout.placement, chosen=chosen, layout=layout)


def _ways(request: ModelRequest, catalog: Catalog) -> tuple[Heads, tuple[Placement, ...], ImageChoice]:
    """Return what may be split how far, the placements that do, the preferred one first, and the image for them.

    Raises:
        NoPlanError: the host lacks what was asked for, or no image runs on it.
    """

    def place(heads: Heads) -> tuple[Placement, ...]:
        pins = request.parallel_pins
        return placements(request.host, request.mode, pins, heads, request.objective, request.devices)

    heads = Heads.of(request.facts.config)
    options = place(heads)
    chosen = request.engine.choose_image(request.task, options[0].gpus, catalog, request.whole.needs)
    as_released = Heads.of(
        request.facts.config,
        recut=request.engine.recuts_experts(chosen.version, options[0].gpus),
        copied_encoder=request.engine.may_copy_encoder(request.task, chosen.version, catalog),
        staged=request.engine.has_stages(request.facts.config, chosen.version, catalog),
        whole_experts=request.pins.get(request.engine.keys.expert_parallel or "", "true") == "true"
        and request.engine.keeps_experts_whole(chosen.version, catalog),
    )
    if as_released == heads:
        return heads, options, chosen
    return as_released, place(as_released), chosen


def _assemble(request: ModelRequest, catalog: Catalog, decision: Decision) -> PlannedModel:
    placement, chosen, layout = decision.placement, decision.chosen, decision.layout
    utilization = choose_share(request, placement, catalog) if layout else None
    own, gateway = model_settings(request, catalog, placement, chosen, layout, utilization)
    settings = with_digests(_with_pins(own, request), request.whole.image_pins)
    values = {key: setting.value for key, setting in settings.items()}
    values["CUDA_DEVICE_ORDER"] = request.pins.get("CUDA_DEVICE_ORDER", CUDA_DEVICE_ORDER)
    forecast = layout.forecast if layout else _forecast_on_cpu(request, values, gateway, chosen.version, catalog)
    if forecast and forecast.basis:
        context = settings[request.engine.keys.context]
        noted = replace(context, reason=f"{context.reason}; {forecast.basis}")
        settings = {**settings, request.engine.keys.context: noted}
    of_memory = layout.warnings if layout else _cpu_warnings(forecast)
    arguments = request.engine.arguments(placement.mode, _told(values, settings), request.role, catalog)
    return PlannedModel(
        served=ServedModel(
            name=request.llm.name,
            role=request.role,
            aliases=request.model.aliases,
            source=request.llm.source,
            location=request.llm.location,
            engine=PlannedEngine(
                name=chosen.name, version=chosen.version, image=values[request.engine.keys.image], cuda=chosen.cuda
            ),
            exclusive=request.model.exclusive,
            pinned=request.model.pinned,
            replicas=_replicas(request, placement, values, arguments, env=chosen.env, forecast=forecast),
            settings=settings,
            weight_bytes=request.facts.weight_bytes,
            attached=request.model.attached,
            sees=request.facts.config.sees or request.role is Role.VISION,
        ),
        placement=placement,
        gateway=gateway,
        warnings=_warnings(request, placement, chosen, of_memory),
    )


def _told(values: Mapping[str, str], settings: Mapping[str, Setting]) -> dict[str, str]:
    """Return the values that the engine is told: it is left those that it takes by itself."""
    own = {key for key, setting in settings.items() if setting.origin is Origin.ENGINE}
    return {key: value for key, value in values.items() if key not in own}


def _replicas(
    request: ModelRequest,
    placement: Placement,
    values: Mapping[str, str],
    arguments: tuple[str, ...],
    *,
    env: tuple[tuple[str, str], ...],
    forecast: Forecast | None,
) -> tuple[Replica, ...]:
    engine, keys = request.engine, request.engine.keys
    return tuple(
        Replica(
            name="engine" if position == 1 else f"engine-{position}",
            model=request.llm.name,
            gpu_uuids=tuple(gpu.uuid or "" for gpu in group),
            tensor_parallel=int(values[keys.tensor_parallel]),
            pipeline_parallel=int(values[keys.pipeline_parallel]),
            args=(*arguments, *(engine.communication(request.host, group).arguments if group else ())),
            env=(*engine.environment(placement.mode, values), *env),
            memory=forecast.memory if forecast else None,
        )
        for position, group in enumerate(placement.groups, start=1)
    )


def _forecast_on_cpu(
    request: ModelRequest,
    values: Mapping[str, str],
    gateway: Mapping[str, Setting],
    version: str,
    catalog: Catalog,
) -> Forecast | None:
    """Forecast the plan on the processor; None where the host's memory is not known.

    Raises:
        NoPlanError: the host's memory, or the cache, is too small.
    """
    workers = request.pins.get(WORKERS) or gateway[WORKERS].value
    answer = request.engine.forecast_on_processor(request.task, values, version, int(workers) * WORKER_BYTES)
    if answer is not None and answer.verdict is Verdict.DOES_NOT_FIT:
        why = answer.refused or answer.reasons
        what = "cannot be served with these settings" if answer.refused else "does not fit in this host's memory"
        hint = _shorter(request, catalog)
        hint = hint or f"name a smaller model with --model, or another {_processor_keys(request)} with --set"
        if not request.host.gpus and (others := describe_other_gpus(request.host)):
            hint += f"; this release does not support {others}: {what_would(request.host)}"
        raise NoRoomError(f"{request.llm.name} {what}: {'; '.join(why)}", hint=hint)
    ranks = int(values[request.engine.keys.tensor_parallel]) * int(values[request.engine.keys.pipeline_parallel])
    return answer and confirm(answer, request.model.seen, version, ranks)


def _processor_keys(request: ModelRequest) -> str:
    keys = request.engine.keys
    return " or ".join(key for key in (keys.processor_cache, keys.context) if key is not None)


def _cpu_warnings(forecast: Forecast | None) -> tuple[str, ...]:
    if forecast is None:
        return ("the host's memory is unknown: not checked whether the model fits",)
    return forecast.warnings


def wanted_settings(request: ModelRequest, placement: Placement, catalog: Catalog, version: str) -> EngineSettings:
    """Return what the placement, the person and the environment fixed of an engine's settings.

    Raises:
        NoPlanError: a GPU has next to nothing free.
    """
    engine, keys = request.engine, request.engine.keys
    step = request.pinned_count(keys.step_tokens or "")
    settings = replace(
        EngineSettings(**pinned_fields(engine.memory_settings, request.pins)),
        draft=request.model.draft,
        version=version,
        tensor_parallel=placement.tensor_parallel,
        pipeline_parallel=placement.pipeline_parallel,
        gpu_memory_utilization=choose_share(request, placement, catalog).value,
        max_model_len=request.pinned_count(keys.context) or request.wishes.max_model_len,
        max_num_seqs=request.pinned_count(keys.requests or ""),
        max_num_batched_tokens=step or engine.least_step_tokens(request.facts.config.shape),
        kv_cache_dtype=request.pins.get(keys.cache_format or "", "auto"),
    )
    if placement.whole_experts:
        settings = replace(settings, expert_parallel=True)
    vision = request.facts.config.shape.vision
    if vision is not None and not vision.splits(settings.tp):
        settings = replace(settings, whole_encoder=engine.may_copy_encoder(request.task, version, catalog))
    if keys.cache_format in request.pins:
        return settings
    return replace(settings, cache_formats=engine.cache_formats(request.facts, version, placement.gpus, catalog))


def choose_share(request: ModelRequest, placement: Placement, catalog: Catalog) -> Utilization:
    """Choose the share of the placement's GPUs that the engine takes; a pinned one is taken as it is.

    Raises:
        NoPlanError: a GPU has next to nothing free.
    """
    pin = request.fixed.get(request.engine.keys.memory_share or "")
    if pin is not None:
        return Utilization(value=float(pin.value), reason=pin.reason, source=pin.source)
    if request.utilization is not None:
        return request.utilization
    shared = _shared_memory(request, placement, catalog)
    file = request.whole.file_of("gpu_memory_utilization")
    return choose_utilization(request.wishes.gpu_memory_utilization, file, placement.gpus, shared)


def _shared_memory(request: ModelRequest, placement: Placement, catalog: Catalog) -> UnifiedMemory | None:
    """Return the memory that these GPUs share with the processor; None where they have their own, or it is unknown."""
    from stackwright.engines.memory.unified import shares_memory

    host = request.host
    sharing = any(shares_memory(host, gpu, catalog.find_gpu(gpu.name)) for gpu in placement.gpus)
    if not sharing or not host.memory_bytes:
        return None
    workers, _ = count_gateway_workers(host, placement.mode, len(placement.gpus))
    workers = request.pinned_count("LITELLM_NUM_WORKERS") or workers
    return UnifiedMemory(total_bytes=host.memory_bytes, gateway_bytes=workers * WORKER_BYTES)


def _does_not_fit(request: ModelRequest, options: tuple[Placement, ...], unfit: Unfit) -> DoesNotFitError:
    gpus = max(options, key=lambda option: option.ranks).groups[0]
    what = "cannot be served with these settings" if unfit.refused else "does not fit"
    return DoesNotFitError(f"{request.llm.name} {what} on {len(gpus)}× {gpus[0].name}: {'; '.join(unfit.words)}")


def _shorter(request: ModelRequest, catalog: Catalog) -> str | None:
    """Return the hint to lower the context that was asked for; None where that is not what is in the way."""
    context = request.engine.keys.context
    pinned = request.pinned_count(context) is not None
    asked = request.pinned_count(context) or request.wishes.max_model_len
    if asked is None:
        return None
    where = (
        request.fixed[context].written_at if pinned else f"max_model_len in {request.whole.file_of('max_model_len')}"
    )
    # The model's own longest first: what is planned where nobody asks may be less.
    longest = request.facts.config.shape.max_positions
    fixed = {key: pin for key, pin in request.fixed.items() if key != context}
    for length in [longest, None] if 0 < longest < asked else [None]:
        shorter = replace(request.whole, wishes=replace(request.wishes, max_model_len=length))
        with suppress(NoPlanError):
            found = plan_as_is(replace(request, whole=shorter, fixed=fixed), catalog).context
            return f"lower {where}" + ("" if found == "auto" else f": {found} fits")
    return None


def _without_a_pin(request: ModelRequest, catalog: Catalog, *, of_memory: bool) -> str | None:
    """Return the hint to change a pin that decides on memory and without which the model fits; None where none is."""
    keys = request.engine.keys
    sizes_first = (keys.tensor_parallel, keys.pipeline_parallel, WORKERS)
    apart = {keys.context, keys.memory_share}  # of these other hints tell more
    others = (row.spec.key for row in request.engine.memory_settings if row.spec.key not in apart)
    for key in (keys.expert_parallel or "", *sizes_first, *(others if of_memory else ())):
        if key not in request.fixed:
            continue
        fixed = {other: pin for other, pin in request.fixed.items() if other != key}
        try:
            plan_as_is(replace(request, fixed=fixed), catalog)
        except NoPlanError:
            continue
        splits_layers = key == keys.tensor_parallel
        most = most_ranks(request.host, request.mode)
        sizes = _ways(request, catalog)[0].sizes(most, f"{keys.expert_parallel}=true") if splits_layers else ""
        verb = "lower" if key in sizes_first else "change"
        hint = f"{verb} or remove {request.fixed[key].written_at}"
        return hint + (f"; sizes that split it: {sizes}" if sizes else "")
    return None


def _larger_share(request: ModelRequest) -> str | None:
    """Return the hint to raise a wished share of the GPUs; None where there is none, or nothing is above it."""
    share = request.model.gpu_share
    if share is None or share >= 1:
        return None
    return f"raise its gpu_share in {request.whole.file_of('models')}, or name a smaller model"


def _without_share(request: ModelRequest, catalog: Catalog) -> str | None:
    """Return the hint to change a pinned share of the GPUs' memory without which the model fits; None where none is."""
    share = request.engine.keys.memory_share or ""
    if share not in request.fixed:
        return None
    fixed = {key: pin for key, pin in request.fixed.items() if key != share}
    try:
        plan_as_is(replace(request, fixed=fixed), catalog)
    except NoPlanError:
        return None
    return f"change or remove {request.fixed[share].written_at}"


def _with_pins(computed: dict[str, Setting], request: ModelRequest) -> dict[str, Setting]:
    """Lay the model's own pins over the computed settings.

    One that this mode does not emit is refused: nothing reads it.
    """
    own = {key: pin for key, pin in request.fixed.items() if pin.model is not None}
    refuse_unread(own.values(), computed)
    return {key: pinned_setting(own[key]) if key in own else setting for key, setting in computed.items()}


def refuse_unread(pins: Iterable[Pin], computed: Mapping[str, Setting]) -> None:
    """Refuse a pin of a setting that is not emitted. Raises NoPlanError."""
    for pin in pins:
        if pin.key not in computed:
            if brings := additions_with(pin.key):
                raise NoPlanError(
                    f"{pin.written} is pinned, and {' or '.join(brings)}, whose setting it is, is off",
                    hint=f"switch it on with `--with {brings[0]}`, or remove {pin.written_at}",
                )
            raise NoPlanError(
                f"{pin.written} is pinned, but this mode does not use it", hint=f"remove {pin.written_at}"
            )


def pinned_setting(pin: Pin) -> Setting:
    """Return the setting that a pin makes."""
    return Setting(value=pin.value, reason=pin.reason, source=pin.source, origin=pin.origin)


def with_digests(settings: dict[str, Setting], pins: ImagePins) -> dict[str, Setting]:
    """Name each pinned image by its digest, too, also where the image itself was chosen by the user."""
    return {
        key: _by_digest(setting, pins) if key in declared_settings().images else setting
        for key, setting in settings.items()
    }


def _by_digest(setting: Setting, pins: ImagePins) -> Setting:
    named = with_digest(setting.value, pins)
    if named == setting.value:
        return setting
    day = pins.images[setting.value].date
    return replace(setting, value=named, reason=f"{setting.reason}; pinned to the digest of {day}")


def _warnings(
    request: ModelRequest, placement: Placement, chosen: ImageChoice, of_memory: tuple[str, ...]
) -> tuple[str, ...]:
    found = [*placement.warnings, *chosen.warnings, *of_memory, *warn_of_others(placement.gpus)]
    if placement.gpus:
        found += request.engine.communication(request.host, placement.groups[0]).warnings
    if request.why_processor:
        found.append(f"{request.llm.name} runs on the processor: {request.why_processor}")
    found += request.engine.model_warnings(request.facts.config)
    found += request.engine.argument_warnings(request.pins)
    found += [
        f"the adapter {adapter.name} was made for {adapter.base}, not for {request.llm.location}"
        for adapter in request.model.attached.adapters
        if adapter.base is not None and adapter.base != request.llm.location
    ]
    if request.llm.source is LlmSource.SMOKE:
        found.append("serving `smoke`, a tiny test model that knows one sentence; name a real model with --model")
    return tuple(dict.fromkeys(found))
