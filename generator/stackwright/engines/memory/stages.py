"""Which layers each pipeline stage runs. Pure."""

from __future__ import annotations


def stage_layers(layers: int, stages: int) -> tuple[range, ...]:
    """Split `layers` among `stages`, as the engine does (0.32.0 distributed/utils.py, get_pp_indices).

    Layers that do not divide go to the stages before the last one, last ones first: 27 in two stages are 14 and 13, 62
    in four are 15, 16, 16 and 15.
    """
    sizes = [layers // stages] * stages
    for back in range(2, layers % stages + 2):
        sizes[-back] += 1
    starts = [sum(sizes[:index]) for index in range(stages)]
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))
