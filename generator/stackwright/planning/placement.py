"""Choose the mode and the GPUs of each replica. Pure."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache

from msgspec import Struct

from stackwright.domain.forecast import EngineSettings
from stackwright.domain.host import Gpu, Host
from stackwright.domain.model_facts import ModelConfig
from stackwright.domain.objective import Objective
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Mode
from stackwright.domain.shape import Vision
from stackwright.domain.topology import nvlink_islands
from stackwright.engines.memory.splits import Width, split_widths
from stackwright.errors import NoPlanError
from stackwright.planning.other_makers import describe_other_gpus, serving_gpus, what_would
from stackwright.planning.slices import NO_SPAN, has_slices, how_to_cut, one_per_instance, why_shared
from stackwright.units import GIB, format_bytes, version_parts

# A desktop's use of its GPU comes and goes by this much: less must not move the plan to another GPU.
FREE_NOISE_BYTES = GIB
_MIG_OFF = "turn MIG off with `sudo nvidia-smi -i INDEX -mig 0`"


class Heads(Struct, frozen=True, kw_only=True):
    """What tensor parallelism must divide: attention heads, and key-value heads unless it is divided by them.

    `widths` are those of quantized matrices, which are cut between their scales alone; `vision` is an encoder whose
    heads are split, too. `staged`: the layers may lie on several pipeline stages. `experts`: how many there are where
    each rank may have whole ones; 0 where they are split.
    """

    attention: int | None = None
    kv: int | None = None
    widths: tuple[Width, ...] = ()
    vision: Vision | None = None
    staged: bool = True
    experts: int = 0

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        *,
        recut: bool = False,
        copied_encoder: bool = True,
        staged: bool = True,
        whole_experts: bool = False,
    ) -> Heads:
        """Return those of a model.

        `recut`: the engine cuts blocks of FP8 experts finer where a split needs it. `copied_encoder`, `whole_experts`:
        it keeps an encoder whole on each rank, or gives each rank whole experts, where a split needs that.
        """
        widths = split_widths(config.shape, recut=recut)
        vision = None if copied_encoder else config.shape.vision
        attention, kv = config.attention_heads, config.kv_heads
        experts = config.shape.experts.count if whole_experts and config.shape.experts else 0
        return cls(attention=attention, kv=kv, widths=widths, vision=vision, staged=staged, experts=experts)

    def allow(self, ranks: int, *, whole_experts: bool = False) -> bool:
        """Return whether `ranks` can share a layer (0.32.0 config/model.py, verify_with_parallel_config).

        `whole_experts`: each rank has some of the experts, and not a part of each.
        """
        divided = self.attention is None or self.attention % ranks == 0
        divided = divided and all(width.splits(ranks) for width in self.widths if not (width.expert and whole_experts))
        divided = divided and (self.vision is None or self.vision.splits(ranks))
        return divided and (self.kv is None or self.kv % ranks == 0 or ranks % self.kv == 0)

    def needs_whole_experts(self, ranks: int) -> bool:
        """Return whether `ranks` can share a layer, but only where each has whole experts, as many as the others."""
        if not self.experts or self.experts % ranks or self.allow(ranks):
            return False
        return self.allow(ranks, whole_experts=True)

    def sizes(self, most: int, with_whole_experts: str | None = None) -> str:
        """Return the sizes up to `most` that split a layer, in words; those that need whole experts with what to give.

        `with_whole_experts`: the setting, or the flag, that gives each rank whole experts.
        """
        plain = ", ".join(str(size) for size in range(1, most + 1) if self.allow(size))
        more = ", ".join(str(size) for size in range(1, most + 1) if self.needs_whole_experts(size))
        return f"{plain}; with {with_whole_experts} also {more}" if more and with_whole_experts else plain


def most_ranks(host: Host, mode: Mode | None) -> int:
    """Return over how many ranks a host could split a layer: its GPUs, on a processor its cores."""
    return max(len(host.gpus) if host.gpus and mode is not Mode.CPU else host.cpu.cores or 1, 1)


@lru_cache(maxsize=256)
def placements(
    host: Host,
    asked: Mode | None,
    pins: EngineSettings,
    heads: Heads,
    objective: Objective | None = None,
    devices: tuple[str, ...] = (),
) -> tuple[Placement, ...]:
    """List the ways to place a model on the host, the preferred one first.

    Tensor parallelism stays inside an NVLink island: `throughput` prefers the smallest group, hence the most replicas;
    every other objective the whole island. Behind these come pipeline stages across islands, then tensor parallelism
    across PCIe, last sizes that need whole experts on each rank: only where the model fits in no other way. MIG slices
    have no such choice: a replica each.

    Args:
        asked: the mode, or None to choose: cpu without any GPU, multi with two or more equal ones, else single.
        pins: what the person has fixed: the parallel sizes, of which None is free to choose.
        devices: the GPUs to choose among, by UUID or index; empty for all.

    Raises:
        NoPlanError: the host lacks what was asked for; the message says what was found.
    """
    if asked is Mode.CPU or (asked is None and not host.gpus and not _driver_failed(host)):
        return (_on_cpu(),)
    gpus = usable_gpus(host, devices)
    groups = equal_groups(gpus)
    mode = asked or (Mode.MULTI if len(groups[0]) > 1 else Mode.SINGLE)
    if mode is Mode.SINGLE:
        return (_on_single(host, gpus, pins),)
    equal = next((group for group in groups if len(group) > 1), groups[0])
    return _on_multi(host, equal, pins, heads, objective)


def _on_cpu() -> Placement:
    return Placement(
        mode=Mode.CPU, groups=((),), tensor_parallel=1, pipeline_parallel=1, reason="the engine runs on the processor"
    )


def _on_single(host: Host, gpus: tuple[Gpu, ...], pins: EngineSettings) -> Placement:
    if pins.ranks != 1:
        raise NoPlanError(
            f"single uses one GPU, but {_pinned_sizes(pins)} is pinned",
            hint="use `configure-gpu multi`, or remove the pin",
        )
    most = max(_free_bytes(gpu) for gpu in gpus)
    roomy = [gpu for gpu in gpus if _free_bytes(gpu) > most - FREE_NOISE_BYTES]
    best = min(roomy, key=lambda gpu: ([-part for part in version_parts(gpu.compute_capability or "0.0")], gpu.index))
    return Placement(
        mode=Mode.SINGLE,
        groups=((best,),),
        tensor_parallel=1,
        pipeline_parallel=1,
        reason=_single_reason(best),
        warnings=idle_warnings(host, (best,)),
    )


def _single_reason(best: Gpu) -> str:
    who = f"GPU {best.index} ({best.name})"
    if best.memory_bytes is None:
        return f"{who} is used; NVML does not report its memory"
    return f"{who} has the most free memory: {format_bytes(_free_bytes(best))}"


def _on_multi(
    host: Host, equal: tuple[Gpu, ...], pins: EngineSettings, heads: Heads, objective: Objective | None
) -> tuple[Placement, ...]:
    if len(equal) < 2:
        raise NoPlanError(
            f"multi needs two or more equal GPUs, found {describe_gpus(host)}",
            hint="use `configure-gpu single` for the best one",
        )
    if equal[0].mig_slice is not None and pins.ranks > 1:
        raise NoPlanError(f"{_pinned_sizes(pins)} is pinned, but {NO_SPAN}", hint=f"remove the pin, or {_MIG_OFF}")
    islands = nvlink_islands(equal, host.links)
    sliced = equal[0].mig_slice is not None
    shapes = [(1, 1)] if sliced else _shapes(len(equal), len(islands[0]), pins, heads, objective)
    made = [_cut(host, equal, islands, (tensor, pipeline), pins, heads) for tensor, pipeline in shapes]
    found = tuple(placement for placement in made if placement is not None)
    if not found:
        raise NoPlanError(
            f"{_pinned_sizes(pins)} needs {pins.ranks} equal GPUs, found {describe_gpus(host)}",
            hint="lower the pinned size",
        )
    return found


def check_stages(stages: int, asked: str, *, staged: bool) -> None:
    """Refuse pipeline stages where the engine's release cannot split the model into any. Raises NoPlanError.

    `asked`: who asks for them, as the refusal tells it.
    """
    if stages > 1 and not staged:
        raise NoPlanError(
            f"the release cannot split this model into pipeline stages, but {asked}",
            hint="leave it at 1: tensor parallel splits each layer instead",
        )


def _shapes(
    gpus: int, island: int, pins: EngineSettings, heads: Heads, objective: Objective | None
) -> list[tuple[int, int]]:
    """List (tensor parallel, pipeline parallel) sizes, preferred first; a pin leaves only its own."""
    check_stages(pins.pp, f"pipeline parallel {pins.pp} is pinned", staged=heads.staged)
    if pins.tensor_parallel is not None:
        return [(pins.tensor_parallel, pins.pipeline_parallel or 1)]
    sizes = [2**power for power in range(gpus.bit_length())]
    powers = [size for size in sizes if heads.allow(size)] or [1]
    with_whole_experts = [(size, pins.pp) for size in sizes if heads.needs_whole_experts(size)]
    inside = [size for size in powers if size <= island]
    if objective is not Objective.THROUGHPUT:
        inside.reverse()
    if pins.pipeline_parallel is not None:
        return [*((size, pins.pipeline_parallel) for size in inside), *with_whole_experts]
    largest = max(inside)
    # Fewest stages first, but those that leave a GPU idle last: a further stage costs less than a GPU that does
    # nothing.
    most = gpus // largest if heads.staged else 1
    counts = sorted(range(2, most + 1), key=lambda stages: (gpus % (largest * stages) != 0, stages))
    staged = [(largest, stages) for stages in counts]
    across = [(size, 1) for size in powers if size > island]
    return [*((size, 1) for size in inside), *staged, *across, *with_whole_experts]


def _cut(
    host: Host,
    equal: tuple[Gpu, ...],
    islands: tuple[tuple[Gpu, ...], ...],
    sizes: tuple[int, int],
    pins: EngineSettings,
    heads: Heads,
) -> Placement | None:
    """Cut equal GPUs into groups, inside islands where one is large enough; None where there are too few.

    `sizes`: of tensor and of pipeline parallelism.
    """
    tensor_parallel, pipeline_parallel = sizes
    size = tensor_parallel * pipeline_parallel
    # What no island holds reaches across them: NCCL falls back to PCIe between the stages.
    pools = [island for island in islands if len(island) >= size] or [tuple(gpu for isle in islands for gpu in isle)]
    groups = tuple(
        pool[start : start + size]
        for pool in pools
        for start in range(0, len(pool) - size + 1, size)
        if size <= len(equal)
    )
    if not groups:
        return None
    whole_experts = heads.needs_whole_experts(tensor_parallel)
    why = _multi_reason(islands, groups, tensor_parallel, pipeline_parallel, pinned=pins.tensor_parallel is not None)
    return Placement(
        mode=Mode.MULTI,
        groups=groups,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        reason=f"{why}; each rank has whole experts" if whole_experts else why,
        warnings=idle_warnings(host, tuple(gpu for group in groups for gpu in group)),
        inside_island=size <= len(islands[0]),
        whole_experts=whole_experts,
    )


def _multi_reason(
    islands: tuple[tuple[Gpu, ...], ...],
    groups: tuple[tuple[Gpu, ...], ...],
    tensor_parallel: int,
    pipeline_parallel: int,
    *,
    pinned: bool,
) -> str:
    largest = len(islands[0])
    replicas = f", {len(groups)} replicas" if len(groups) > 1 else ""
    if pinned:
        return f"pinned by the user{replicas}"
    if pipeline_parallel > 1:
        return (
            f"no smaller group holds the model with long requests: {pipeline_parallel} pipeline stages of "
            f"{tensor_parallel}{replicas}"
        )
    if groups[0][0].mig_slice is not None:
        return f"{NO_SPAN}: one replica on each{replicas}"
    if tensor_parallel > largest:
        return f"no smaller group holds the model with long requests: {tensor_parallel} ranks across PCIe{replicas}"
    if largest == 1:
        return f"no NVLink between these GPUs: one replica on each, since tensor parallel over PCIe is slow{replicas}"
    if tensor_parallel == 1:
        return f"the model fits on one GPU: one replica on each{replicas}"
    return f"tensor parallel inside an NVLink island of {largest}{replicas}"


def usable_gpus(host: Host, devices: tuple[str, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that can serve; of these only `devices` (indices or UUIDs) where some are named.

    Raises:
        NoPlanError: a named one is not among them.
    """
    usable = tuple(gpu for gpu in host.gpus if _why_unusable(gpu) is None)
    if devices:
        known = {name: gpu for gpu in usable for name in (str(gpu.index), gpu.uuid)}
        missing = [name for name in devices if name not in known]
        if missing:
            raise NoPlanError(
                f"NVIDIA_VISIBLE_DEVICES names GPU {missing[0]}, found {describe_gpus(host)}",
                hint="`stackwright gpus` shows the GPUs that are there",
            )
        usable = tuple({known[name].index: known[name] for name in devices}.values())
    if not usable:
        others = describe_other_gpus(host)
        found = ", ".join(words for words in (others, "" if others and not host.gpus else describe_gpus(host)) if words)
        raise NoPlanError(f"no usable GPU: found {found}", hint=_what_to_do(host))
    return one_per_instance(usable)


def _why_unusable(gpu: Gpu) -> str | None:
    if gpu.mig:
        return "MIG on"
    # One that answers, but not for its memory, shares the processor's: NVML calls that Not Supported. No slice does.
    known = gpu.memory_bytes is not None or (gpu.compute_capability is not None and gpu.mig_slice is None)
    if gpu.uuid is None or not known:
        return "does not answer"
    return None


def _what_to_do(host: Host) -> str:
    sliced = next((gpu for gpu in host.gpus if gpu.mig), None)
    if sliced is not None:
        return f"{how_to_cut(sliced)}; or {_MIG_OFF}, or use `configure-gpu cpu`"
    if _driver_failed(host):
        return "reboot, or reload the kernel module, so that library and driver match; until then `configure-gpu cpu`"
    if host.gpus:
        return "check `nvidia-smi` and `dmesg | grep -i xid`; until then `configure-gpu cpu`"
    if serving_gpus(host):
        return f"this release supports NVIDIA GPUs only: use `configure-gpu cpu`; {what_would(host)}"
    return "use `configure-gpu cpu`, or install the NVIDIA driver"


def describe_gpus(host: Host) -> str:
    """Return what GPUs there are in a few words: `2× NVIDIA GeForce RTX 3090`, `NVML failing (…)`, `none`."""
    if _driver_failed(host) and host.driver is not None:
        return f"NVML failing ({host.driver.error})"
    counts: dict[str, int] = defaultdict(int)
    for gpu in host.gpus:
        why = _why_unusable(gpu)
        counts[(gpu.name or f"GPU {gpu.index}") + (f" ({why})" if why else "")] += 1
    return ", ".join(f"{count}× {name}" for name, count in counts.items()) or "none"


def _driver_failed(host: Host) -> bool:
    return host.driver is not None and host.driver.error is not None and not host.gpus


def equal_groups(gpus: tuple[Gpu, ...]) -> list[tuple[Gpu, ...]]:
    """Group GPUs of one model, those first that hold the most for one replica, those of unknown memory last.

    Whole GPUs of a kind add up, hence two of them come before any other; slices do not.
    """
    groups: dict[tuple[str | None, int | None, str | None], list[Gpu]] = defaultdict(list)
    for gpu in gpus:
        groups[gpu.name, gpu.memory_bytes, gpu.compute_capability].append(gpu)
    order = sorted(
        groups.values(),
        key=lambda group: (
            group[0].memory_bytes is None,
            len(group) < 2 or group[0].mig_slice is not None,
            -sum(_total_bytes(g) for g in (group if group[0].mig_slice is None else group[:1])),
            group[0].index,
        ),
    )
    return [tuple(group) for group in order]


def idle_warnings(host: Host, used: tuple[Gpu, ...]) -> tuple[str, ...]:
    """Name what is left idle and why, equal GPUs in one sentence: a sliced box may have dozens."""
    alike: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for gpu in host.gpus:
        if gpu not in used and not (gpu.mig and has_slices(host, gpu)):
            alike[gpu.name or "unknown model", _why_idle(gpu, used)].append(str(gpu.index))
    return tuple(
        (f"GPU {who[0]} ({name}) is" if len(who) == 1 else f"GPUs {', '.join(who[:-1])} and {who[-1]} ({name}) are")
        + (f" left idle: {why}" if why else " left idle")
        for (name, why), who in alike.items()
    )


def _why_idle(gpu: Gpu, used: tuple[Gpu, ...]) -> str | None:
    if gpu.mig:
        return f"MIG is on, but it has no slice; {how_to_cut(gpu)}"
    return _why_unusable(gpu) or why_shared(gpu, used)


def _pinned_sizes(pins: EngineSettings) -> str:
    return f"tensor parallel {pins.tp} × pipeline parallel {pins.pp}"


def _total_bytes(gpu: Gpu) -> int:
    return gpu.memory_bytes or 0


def _free_bytes(gpu: Gpu) -> int:
    return _total_bytes(gpu) - (gpu.memory_used_bytes or 0)
