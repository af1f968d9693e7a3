"""Which number formats an engine runs on a GPU, and which published checkpoint loses least where a model does not fit.
Pure.

A checkpoint in fewer bits loses accuracy, so it is never taken silently: what comes out here is advice with its
reasons, and the caller names it to the user. Nothing here knows how well a checkpoint answers; the order of loss is the
number of bits kept per weight, which is a fact, and no benchmark is quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from msgspec import Struct

from stackwright.domain.model_facts import CatalogLlm, Checkpoint, WeightFormat
from stackwright.engines.protocol import FormatRule
from stackwright.units import version_parts

# Bits that are left of each weight of a linear layer, scales not counted (docs/reference/models.md).
BITS = {
    WeightFormat.FP32: 32,
    WeightFormat.BF16: 16,
    WeightFormat.FP16: 16,
    WeightFormat.FP8: 8,
    WeightFormat.INT8: 8,
    WeightFormat.GPTQ8: 8,
    WeightFormat.NVFP4: 4,
    WeightFormat.MXFP4: 4,
    WeightFormat.AWQ: 4,
    WeightFormat.GPTQ: 4,
    WeightFormat.INT4: 4,
}
PLAIN = frozenset({WeightFormat.FP32, WeightFormat.BF16, WeightFormat.FP16})


class Kernel(StrEnum):
    """How a GPU computes with a format, best first.

    `native`: the tensor cores take it. `weight-only`: weights are unpacked on the way, which saves memory and, at small
    batches, time. `older`: a slower kernel from before Marlin.
    """

    NATIVE = "native"
    WEIGHT_ONLY = "weight-only"
    OLDER = "older"


class Refused(Struct, frozen=True, kw_only=True):
    """A checkpoint that was looked at and not chosen, with the reason in a few words."""

    checkpoint: Checkpoint
    reason: str


class Advice(Struct, frozen=True, kw_only=True):
    """The checkpoint that loses least and fits, None where none does.

    `sentence` tells a user of its format, else why there is none; `refused` are the others, in the order tried.
    """

    checkpoint: Checkpoint | None
    kernel: Kernel | None
    sentence: str
    refused: tuple[Refused, ...]


Rules = Mapping[WeightFormat, FormatRule]


def find_kernel(
    rules: Rules, weight_format: WeightFormat, compute_capability: str | None, method: str | None = None
) -> Kernel | None:
    """Return how an engine with these rules runs a format on a GPU, None where it does not; None of a GPU is a CPU.

    On the CPU only plain formats are advised: what it runs of the others depends on the instruction set.
    """
    if compute_capability is None:
        return Kernel.NATIVE if weight_format in PLAIN else None
    rule = rules.get(weight_format)
    if rule is None:
        return None
    bounds = ((Kernel.NATIVE, rule.native), (Kernel.WEIGHT_ONLY, rule.weight_only), (Kernel.OLDER, rule.older))
    own = version_parts(compute_capability)
    if own < version_parts(rule.methods.get(method or "", "0")):
        return None
    return next((kernel for kernel, least in bounds if least and own >= version_parts(least)), None)


def order_by_loss(rules: Rules, row: CatalogLlm, compute_capability: str | None) -> tuple[Checkpoint, ...]:
    """Return the checkpoints of a model that lose least first.

    Most bits first; among equal bits the better kernel, then the model's own publisher, then the catalog's order.
    """
    kernels = list(Kernel)
    publisher = row.hub_id.partition("/")[0]

    def loss(checkpoint: Checkpoint) -> tuple[int, int, bool]:
        kernel = find_kernel(rules, checkpoint.format, compute_capability, checkpoint.method)
        return (
            -BITS.get(checkpoint.format, 0),
            kernels.index(kernel) if kernel else len(kernels),
            checkpoint.hub_id.partition("/")[0] != publisher,
        )

    return tuple(sorted(row.checkpoints, key=loss))


def advise_checkpoint(
    rules: Rules,
    row: CatalogLlm,
    compute_capability: str | None,
    fits: Callable[[Checkpoint], bool | None],
    *,
    instead_of: str | None = None,
    has_token: bool = True,
) -> Advice:
    """Return the published checkpoint of a model that loses least and fits.

    Args:
        rules: which kernels the engine's release has (Engine.format_rules).
        compute_capability: of the least capable GPU that would serve; None on a CPU.
        fits: says of a checkpoint whether it fits; None where nobody can know, which counts as no.
        instead_of: the hub id that did not fit; it is not tried again.
        has_token: False leaves out checkpoints that may ask for access.
    """
    refused: list[Refused] = []
    for checkpoint in order_by_loss(rules, row, compute_capability):
        if checkpoint.hub_id == instead_of:
            continue
        kernel = find_kernel(rules, checkpoint.format, compute_capability, checkpoint.method)
        reason = _refusal(checkpoint, kernel, compute_capability, has_token) or _misfit(checkpoint, fits(checkpoint))
        if reason is None:
            return Advice(
                checkpoint=checkpoint, kernel=kernel, sentence=_praise(checkpoint, kernel), refused=tuple(refused)
            )
        refused.append(Refused(checkpoint=checkpoint, reason=reason))
    looked = "; ".join(f"{refusal.checkpoint.hub_id}: {refusal.reason}" for refusal in refused)
    sentence = (
        f"no catalog checkpoint of {row.name} fits ({looked})"
        if looked
        else f"the catalog has no other checkpoint of {row.name}"
    )
    return Advice(checkpoint=None, kernel=None, sentence=sentence, refused=tuple(refused))


def _refusal(
    checkpoint: Checkpoint, kernel: Kernel | None, compute_capability: str | None, has_token: bool
) -> str | None:
    if kernel is None:
        return (
            f"{checkpoint.format.upper()} does not run on "
            f"{f'compute capability {compute_capability}' if compute_capability else 'a CPU'}"
        )
    if checkpoint.gated is not False and not has_token:
        return "may be gated, and no token is set"
    return None


def _misfit(checkpoint: Checkpoint, fits: bool | None) -> str | None:
    if fits:
        return None
    if fits is False:
        return "does not fit"
    known = checkpoint.weight_bytes is not None and not checkpoint.computed
    return "may not fit" if known else f"{checkpoint.size}, may not fit"


def _praise(checkpoint: Checkpoint, kernel: Kernel | None) -> str:
    how = {Kernel.WEIGHT_ONLY: ", decompressed at run time", Kernel.OLDER: ", with an older, slower kernel"}
    return f"{checkpoint.format.upper()}, {checkpoint.size}{how.get(kernel or Kernel.NATIVE, '')}"
