"""Whether a release of an engine has a flag, by the catalog's table of them."""

from __future__ import annotations

from stackwright.domain.catalog import FlagTable, order_release


def has_flag(table: FlagTable, name: str, version: str) -> bool | None:
    """Say whether an engine release has a flag or variable; None where the samples do not tell."""
    own = order_release(version)
    sampled = [order_release(sample) for sample in table.sampled]
    known = table.flags.get(name) or table.variables.get(name)
    if known is None:
        return False if sampled[0] <= own <= sampled[-1] else None
    first = order_release(known[0])
    last = sampled[-1] if known[1] is None else order_release(known[1])
    if first <= own <= last:
        return True
    if name in table.uncertain:
        return None
    # Between two samples, or beyond them all, nobody looked.
    return False if any(own <= sample < first or last < sample <= own for sample in sampled) else None
