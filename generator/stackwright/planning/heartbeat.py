"""How long an engine may be silent before it counts as hung. Pure.

The longest step that is no hang is a full one at the end of the longest context. Its time is estimated from below the
slowest hardware that an engine starts on, and trebled: a false alarm costs every open request, a late one a few
minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.host import Gpu
from stackwright.domain.placement import Placement
from stackwright.domain.plan import Setting
from stackwright.domain.shape import Quantization, WeightKind
from stackwright.planning.request import ModelRequest
from stackwright.services.engine import HEARTBEAT

DECISION = "docs/decisions/0052-heartbeat.md"
# No false restart is reported with it (gonka PR 1421, read 2026-11-28): the first steps of a shape compile kernels.
LEAST_S = 120
LONGEST_S = 86400
STEPS = 3
# Judgement, 2026-11-29: a quarter of what the data sheets give for each byte of bandwidth, in 16 bit and dense (T4: 65
# TFLOP/s at 320 GB/s, RTX 3090: 71 at 936, H200: 989 at 4800); that of the slowest where the bandwidth is unknown; and
# half of what a core without matrix instructions does in bfloat16.
FLOPS_PER_BYTE, SLOWEST_FLOPS, CORE_FLOPS = 20, 6e12, 5e9
FLOPS_PER_PARAMETER = 2
# Scores and their sums: two products of as many numbers as a layer is wide, for each token that is looked back at.
FLOPS_PER_POSITION = 4
# The engine's own default (0.32.0 engine/arg_utils.py), for a server on a processor, for each rank; the largest of a
# GPU's defaults is less than what this code takes for it.
STEP_TOKENS = 2048
UNKNOWN_CONTEXT = 32768


def heartbeat_settings(
    request: ModelRequest, placement: Placement, values: Mapping[str, str], catalog: Catalog
) -> dict[str, Setting]:
    """Return for how long an engine may be silent; nothing where no program watches it.

    `values`: the settings that the model has so far; pins beat them.
    """
    if request.engine.launch.script is None:
        return {}
    step_s, of_what = longest_step(request, placement, {**values, **request.pins}, catalog)
    grace_s = min(max(LEAST_S, 10 * math.ceil(STEPS * step_s / 10)), LONGEST_S)
    why = f"{STEPS} times the longest step: {step_s:.0f} s or less for {of_what}"
    if grace_s == LEAST_S:
        why = f"room to compile a kernel; the longest step takes {LEAST_S // STEPS} s or less"
    return {HEARTBEAT: Setting(value=str(grace_s), reason=why, source=DECISION)}


def longest_step(
    request: ModelRequest, placement: Placement, values: Mapping[str, str], catalog: Catalog
) -> tuple[float, str]:
    """Return the most seconds of one step, and the work that it is estimated from."""
    shape, keys, ranks = request.facts.config.shape, request.engine.keys, placement.ranks
    experts = replace(shape.experts, count=shape.experts.per_token) if shape.experts else None
    whole = Quantization(kind=WeightKind.NONE)
    parameters = (
        request.engine.parameter_bytes(replace(shape, experts=experts, quantization=whole)) / shape.element_bytes
    )
    tokens = int(values.get(keys.step_tokens or "") or STEP_TOKENS * ranks)
    context = values[keys.context]
    length = int(context) if context != "auto" else shape.default_length or UNKNOWN_CONTEXT
    flops = tokens * (
        FLOPS_PER_PARAMETER * parameters + FLOPS_PER_POSITION * length * len(shape.layers) * (shape.hidden or 0)
    )
    if placement.gpus:
        speed = ranks * min(_gpu_flops(gpu, catalog) for gpu in placement.gpus)
        where = "1 GPU" if ranks == 1 else f"{ranks} GPUs"
    else:
        cores = request.host.cpu.cores or 1
        speed, where = CORE_FLOPS * cores, "1 core" if cores == 1 else f"{cores} cores"
    return flops / speed, f"{tokens:,} tokens on {where}"


def _gpu_flops(gpu: Gpu, catalog: Catalog) -> float:
    model = catalog.find_gpu(gpu.name)
    bandwidth = model.bandwidth_gb_per_s if model else None
    return SLOWEST_FLOPS if bandwidth is None else bandwidth * 1e9 * FLOPS_PER_BYTE
