"""Which settings a search for better ones may change, to which values, and which of them a plan rules out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from msgspec import Struct

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import Verdict
from stackwright.domain.host import Gpu
from stackwright.domain.load import Workload
from stackwright.domain.model_facts import ModelFacts
from stackwright.domain.plan import Origin, Plan, ServedModel, Setting
from stackwright.domain.tuning import Axis, Goal
from stackwright.engines import engine_named
from stackwright.planning.emitted import WORKERS
from stackwright.planning.utilization import free_share
from stackwright.planning.workers import MEMORY_SHARE, WORKER_BYTES
from stackwright.settings import is_per_model

# Judgement, 2026-11-30: steps of a ladder, and the ends of the ladders of requests and of tokens in a step.
STEPS = 3
FEWEST_REQUESTS, LEAST_STEP, LARGEST_STEP = 4, 512, 32768
MOST_DRAFTED = 3
# Judgement, 2026-11-30: enough at once to fill an engine, few enough that a round takes a minute at most.
MOST_AT_ONCE, MOST_ON_PROCESSOR, AT_ONCE_FOR_LATENCY = 64, 16, 4
_FIXED = (Origin.WISHED, Origin.PINNED, Origin.REMEMBERED, Origin.LOCAL)


class TuneRequest(Struct, frozen=True, kw_only=True, dict=True):
    """What the axes of a search are made from. `at_once`: requests of all replicas together.

    `local`: keys that a person's own file sets. `most_share`: the largest share of a GPU's memory that the
    environment's file allows.
    """

    plan: Plan
    model: ServedModel
    facts: ModelFacts
    catalog: Catalog
    goal: Goal
    at_once: int
    workload: Workload
    most_share: float
    local: frozenset[str] = frozenset()

    @property
    def alone(self) -> bool:
        """Whether the host serves this model alone."""
        return len(self.plan.models) == 1

    @property
    def each(self) -> int:
        """Requests at once that reach one replica."""
        return max(1, math.ceil(self.at_once / len(self.model.replicas)))

    @property
    def asked_tokens(self) -> int:
        """Tokens of one prompt; where a file has them, of a usual one."""
        return self.workload.input_tokens or 512

    def key(self, plain: str) -> str:
        """Return the key under which the model's value is written."""
        number = self.plan.models.index(self.model) + 1
        return f"{plain}_{number}" if number > 1 and is_per_model(plain) else plain

    def setting(self, plain: str | None) -> Setting | None:
        """Return a setting of the model, or of the stack."""
        return None if plain is None else self.model.settings.get(plain) or self.plan.settings.get(plain)

    def is_free(self, plain: str) -> bool:
        """Return whether no person has decided on a setting."""
        setting = self.setting(plain)
        fixed = setting is not None and setting.origin in _FIXED
        return not fixed and not {plain, self.key(plain)} & self.local


def choose_at_once(model: ServedModel, goal: Goal, workload: Workload) -> int:
    """Return how many requests at once fill a model: twice what its engines take, as far as their cache has room."""
    engine = engine_named(model.engine.name)
    told = model.settings.get(engine.keys.requests or "")
    limit = int(told.value) if told is not None and told.value.isdecimal() else engine.processor_requests
    if goal is Goal.LATENCY:
        return min(AT_ONCE_FOR_LATENCY, limit)
    most = MOST_AT_ONCE if model.replicas[0].gpu_uuids else MOST_ON_PROCESSOR
    tokens = (workload.input_tokens or 512) + workload.output_tokens
    memory = model.forecast
    room = memory.kv_cache_tokens // tokens if memory is not None and memory.kv_cache_tokens else most
    return max(FEWEST_REQUESTS, min(most, len(model.replicas) * min(2 * limit, room)))


def axes_of(request: TuneRequest) -> tuple[Axis, ...]:
    """Return the settings to search, the one that changes most first; none that a person decided on."""
    found = (
        *_parallelism(request),
        *_cache_format(request),
        *_share(request),
        *_requests(request),
        *_step_tokens(request),
        *_drafting(request),
        *_workers(request),
    )
    return tuple(axis for axis in found if any(axis.ladders))


def _axis(
    request: TuneRequest, name: str, plain: str, now: str, ladders: tuple[list[int] | list[str], ...], why: str
) -> Axis:
    kept = tuple(tuple(map(str, ladder[:STEPS])) for ladder in ladders if ladder)
    return Axis(name=name, key=request.key(plain), now=now, ladders=kept, why=why)


def _number(request: TuneRequest, plain: str | None) -> int | None:
    setting = request.setting(plain)
    return int(setting.value) if setting is not None and setting.value.isdecimal() else None


def _up(value: int, most: int) -> list[int]:
    """Return twice a value, four times, and so on, up to the most."""
    return [value << step for step in range(1, 16) if value << step <= most]


def _down(value: int, least: int) -> list[int]:
    return [value >> step for step in range(1, 16) if value >> step >= least]


def _parallelism(request: TuneRequest) -> Iterator[Axis]:
    """Yield the ranks of a replica: GPUs that share a model, or have a copy each."""
    keys, replica = engine_named(request.model.engine.name).keys, request.model.replicas[0]
    now = replica.tensor_parallel
    gpus = len({uuid for one in request.model.replicas for uuid in one.gpu_uuids})
    if not request.alone or replica.pipeline_parallel > 1 or not request.is_free(keys.tensor_parallel):
        return
    if not replica.gpu_uuids:
        nodes = request.plan.host.cpu.numa_nodes or 1
        ladders: tuple[list[int], ...] = ([nodes] if nodes > now else [],)
        why = "a rank on each memory node reads its own memory"
    else:
        fewer, more = _down(now, 1), _up(now, gpus)
        ladders = (fewer, more) if request.goal is Goal.THROUGHPUT else (more, fewer)
        why = "fewer GPUs for each replica make more replicas; more make each answer quicker"
    yield _axis(request, "tensor parallel", keys.tensor_parallel, str(now), ladders, why)


def _cache_format(request: TuneRequest) -> Iterator[Axis]:
    engine = engine_named(request.model.engine.name)
    key, gpus = engine.keys.cache_format, _gpus(request)
    setting = request.setting(key)
    if key is None or setting is None or not gpus or not request.is_free(key):
        return
    formats = engine.cache_formats(request.facts, request.model.engine.version, gpus, request.catalog)
    ladder = [name for name in formats[1:] if name != setting.value]
    why = "half the memory for each token of the cache; answers may differ slightly"
    yield _axis(request, "KV cache", key, setting.value, (ladder,), why)


def _gpus(request: TuneRequest) -> tuple[Gpu, ...]:
    uuids = {uuid for one in request.model.replicas for uuid in one.gpu_uuids}
    return tuple(gpu for gpu in request.plan.host.gpus if gpu.uuid in uuids)


def _share(request: TuneRequest) -> Iterator[Axis]:
    """Yield the share of each GPU, up to what the environment's file allows and is free."""
    key, gpus = engine_named(request.model.engine.name).keys.memory_share, _gpus(request)
    setting = request.setting(key)
    if key is None or setting is None or not gpus or not request.alone or not request.is_free(key):
        return
    now = float(setting.value)
    most = min(request.most_share, *map(free_share, gpus))
    ladder = [f"{most:.2f}"] if most >= now + 0.01 else []
    why = "a larger cache; no more than the environment's file allows and other programs leave"
    yield _axis(request, "share of memory", key, setting.value, (ladder,), why)


def _requests(request: TuneRequest) -> Iterator[Axis]:
    engine = engine_named(request.model.engine.name)
    key = engine.keys.requests
    if key is None or not request.is_free(key):
        return
    now = _number(request, key) or engine.processor_requests * request.model.replicas[0].ranks
    # A limit that the load never reaches is as good as any other.
    more = _up(now, 16 * now) if now < request.each else []
    more = [value for position, value in enumerate(more) if position == 0 or more[position - 1] < request.each]
    fewer = [value for value in _down(now, FEWEST_REQUESTS) if value < request.each]
    ladders = (more, fewer) if request.goal is Goal.THROUGHPUT else (fewer, more)
    why = "more at once fill the device; fewer make each of them quicker"
    yield _axis(request, "requests at once", key, str(now), ladders, why)


def _step_tokens(request: TuneRequest) -> Iterator[Axis]:
    engine = engine_named(request.model.engine.name)
    key = engine.keys.step_tokens
    if key is None or not request.is_free(key):
        return
    ranks = request.model.replicas[0].ranks
    now = _number(request, key) or engine.processor_step_tokens * ranks
    seqs = _number(request, engine.keys.requests) or engine.processor_requests * ranks
    # All prompts that can be there at once are the most that a step can have to read.
    waiting = request.each * request.asked_tokens
    more = [value for value in _up(now, LARGEST_STEP) if value // 2 < waiting]
    fewer = [value for value in _down(now, max(LEAST_STEP, seqs)) if value < waiting]
    ladders = (more, fewer) if request.goal is Goal.THROUGHPUT else (fewer, more)
    why = "a larger step reads prompts sooner; a smaller one lets answers go on between"
    yield _axis(request, "tokens in a step", key, str(now), ladders, why)


def _drafting(request: TuneRequest) -> Iterator[Axis]:
    """Yield speculative decoding with layers that the model itself has for it."""
    engine = engine_named(request.model.engine.name)
    drafted = [engine.drafting_settings(request.facts.config.shape, count) for count in range(1, MOST_DRAFTED + 1)]
    keys = {key for one in drafted for key in one}
    if len(keys) != 1 or not request.is_free(min(keys)):
        return
    key = min(keys)
    setting = request.setting(key)
    now = setting.value if setting is not None else "none"
    ladder = [one[key] for one in drafted if one[key] != now]
    why = "the model's own layers propose tokens that it then checks together"
    yield _axis(request, "speculative decoding", key, now, (ladder,), why)


def _workers(request: TuneRequest) -> Iterator[Axis]:
    now, host = _number(request, WORKERS), request.plan.host
    if now is None or not request.is_free(WORKERS):
        return
    bounds = [host.cpu.cores or now]
    bounds += [] if host.memory_bytes is None else [host.memory_bytes // MEMORY_SHARE // WORKER_BYTES]
    why = "gateway processes: more pass on more events, fewer leave cores to the engine"
    yield _axis(request, "gateway workers", WORKERS, str(now), (_up(now, min(bounds)), _down(now, 1)), why)


def objection_to(before: Plan, after: Plan, name: str) -> str | None:
    """Return why the plan of a change is not to be tried, in words; None where it is.

    It changes nothing, surely or possibly does not fit, or serves shorter requests than before.
    """
    if [model.name for model in after.models] != [model.name for model in before.models]:
        return "the model does not fit with it"  # one that nobody named gives way to another
    if _values(before) == _values(after):
        return "changes nothing here"
    old, new = before.model(name), after.model(name)
    if old.forecast is not None and new.forecast is not None:
        sure = Verdict.FITS.value
        if old.forecast.verdict == sure and new.forecast.verdict != sure:
            return "may not fit in memory"
    key = engine_named(new.engine.name).keys.context
    was, is_now = (model.settings[key].value for model in (old, new))
    if was.isdecimal() and (not is_now.isdecimal() or int(is_now) < int(was)):
        return f"would shorten the context from {int(was):,} to {_counted(is_now)}"
    return None


def _counted(context: str) -> str:
    return f"{int(context):,} tokens" if context.isdecimal() else context


def _values(plan: Plan) -> object:
    shared = {key: setting.value for key, setting in plan.settings.items()}
    return shared, [(one.name, one.args, one.env, one.gpu_uuids) for one in plan.replicas]
