"""Facts from outside, each row with its source and the date it was looked up. Pure.

The rows stand in `generator/stackwright/catalog/*.yaml`; docs/reference/catalog.md says what each file holds and how it
is refreshed. Unknown is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from stackwright.domain.plan import Origin, Setting
from stackwright.units import version_parts

if TYPE_CHECKING:
    from stackwright.domain.hardware import Drivers, GpuModel
    from stackwright.domain.model_facts import CatalogLlm


class HoleKind(StrEnum):
    """What a known hole lets an attacker do. The first two are refused without consent."""

    REMOTE_CODE = "rce"
    KEY_BYPASS = "key-bypass"
    DENIAL_OF_SERVICE = "dos"
    OTHER = "other"
    UNKNOWN = "unknown"


# The first and last release that has something; a last of None: the newest that was looked into has it.
Range = tuple[str, str | None]
# An engine that has one of these serves the others, with a head of its own (0.33.0 config/model.py,
# _SUFFIX_TO_DEFAULTS; model_executor/models/registry.py, _normalize_arch; read 2026-11-28).
_ENDINGS = (
    "ForCausalLM",
    "ForConditionalGeneration",
    "ChatModel",
    "LMHeadModel",
    "ForTextEncoding",
    "EmbeddingModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "RewardModel",
    "Model",
)
REFUSED_HOLES = frozenset({HoleKind.REMOTE_CODE, HoleKind.KEY_BYPASS})


class EngineImage(Struct, frozen=True, kw_only=True):
    """One published CUDA image of an engine release.

    `x86_64` and `aarch64` are the architectures its kernels were built for (`8.0`, `9.0a`, `12.0+PTX`), None where
    there is no image for that processor. `published` is None where the tag could not be confirmed: such an image is not
    chosen. `aarch64_cuda` where that processor's image has another toolkit under the same tag.
    """

    image: str
    cuda: str
    x86_64: tuple[str, ...] | None
    aarch64: tuple[str, ...] | None
    published: bool | None = True
    aarch64_cuda: str | None = None
    note: str | None = None


class CpuImage(Struct, frozen=True, kw_only=True):
    """The CPU image of an engine release for some processors; `x86_64_flags` are those it dies without."""

    image: str
    processors: tuple[str, ...]
    x86_64_flags: tuple[str, ...] = ()


class EngineRelease(Struct, frozen=True, kw_only=True):
    """One engine release. `images` are its CUDA images, the bare tag first.

    `utilization_default` is what the engine takes of a GPU where nothing is said.
    """

    name: str
    version: str
    torch: str
    minimum_compute_capability: str
    utilization_default: float
    entrypoint: tuple[str, ...]
    images: tuple[EngineImage, ...]
    cpu_images: tuple[CpuImage, ...]
    source: str
    date: str


class FlagTable(Struct, frozen=True, kw_only=True):
    """An engine's flags and variables, each with the first and last sampled release that has it.

    A last of None: it is in the newest sampled release. Outside the range of those named in `uncertain` nobody knows:
    their names stand in no file of some releases, as the engine makes them from its dataclasses.
    """

    engine: str
    sampled: tuple[str, ...]
    flags: dict[str, Range]
    variables: dict[str, Range]
    uncertain: tuple[str, ...]
    source: str
    date: str

    def has(self, name: str, version: str) -> bool | None:
        """Return whether a release has a flag or variable; None where the samples do not tell."""
        own = order_release(version)
        sampled = [order_release(sample) for sample in self.sampled]
        known = self.flags.get(name) or self.variables.get(name)
        if known is None:
            return False if sampled[0] <= own <= sampled[-1] else None
        first = order_release(known[0])
        last = sampled[-1] if known[1] is None else order_release(known[1])
        if first <= own <= last:
            return True
        if name in self.uncertain:
            return None
        # Between two samples, or beyond them all, nobody looked.
        return False if any(own <= sample < first or last < sample <= own for sample in sampled) else None


class ParserTable(Struct, frozen=True, kw_only=True):
    """An engine's parsers of tool calls and of thoughts, each with the first and last sampled release that registers
    it.

    A last of None: it is in the newest sampled release. No name has come back after it was gone, so between
    its samples it is taken to be there; beyond the newest nobody knows.
    """

    engine: str
    sampled: tuple[str, ...]
    tool_call: dict[str, Range]
    reasoning: dict[str, Range]
    source: str
    date: str

    def names(self, kind: str, version: str) -> tuple[str, ...]:
        """Return the names that a release takes of a kind, `tool_call` or `reasoning`.

        None of a release that nobody looked at.
        """
        table = {"tool_call": self.tool_call, "reasoning": self.reasoning}[kind]
        if order_release(version) > order_release(self.sampled[-1]):
            return ()
        return tuple(name for name in table if _holds(table, name, version))

    def has(self, kind: str, name: str, version: str) -> bool:
        """Return whether a release surely takes a name of a kind."""
        return name in self.names(kind, version)


class FormatTable(Struct, frozen=True, kw_only=True, eq=False):
    """Number formats that an engine's releases read or refuse, each with the first and last sampled release.

    `methods`: the names under which it reads quantized weights; `deprecated`: those of them that it refuses without a
    flag. `without_float16`: types of model (`model_type`) that it does not run in half precision. `least_capability`:
    of a GPU, for each method or one of its schemes (`compressed-tensors/wNa16`); `activations`: what it computes in;
    `least_blocks`: the least block or group to which a method's kernels cut those of experts that a split would break.
    A last of None: it is so in the newest sampled release.
    """

    engine: str
    sampled: tuple[str, ...]
    methods: dict[str, Range]
    deprecated: dict[str, Range]
    without_float16: dict[str, Range]
    least_capability: dict[str, dict[str, Range]]
    activations: dict[str, dict[str, Range]]
    least_blocks: dict[str, dict[str, Range]]
    source: str
    date: str

    def reads(self, method: str, version: str) -> bool | None:
        """Return whether a release reads a method's weights without a flag; None of a release that nobody read."""
        if version not in self.sampled:
            return None
        return _holds(self.methods, method, version) and not _holds(self.deprecated, method, version)

    def last_reader(self, method: str) -> str | None:
        """Return the last sampled release that reads a method's weights without a flag; None where none does."""
        return next((version for version in reversed(self.sampled) if self.reads(method, version)), None)

    @lru_cache(maxsize=1024)  # noqa: B019  # there is one table, for good
    def runs_from(self, methods: tuple[str, ...], version: str) -> str | None:
        """Return the least compute capability on which a release runs any of these methods; None where nobody knows."""
        known = [
            capability
            for method in methods
            for capability, span in self.least_capability.get(method, {}).items()
            if version in self.sampled and holds(span, version)
        ]
        return min(known, key=version_parts, default=None)

    def computes_in(self, method: str, version: str) -> frozenset[str]:
        """Return the formats of activations that a method takes in a release; empty where nobody knows."""
        known = self.activations.get(method, {}) if version in self.sampled else {}
        return frozenset(name for name, span in known.items() if holds(span, version))

    def refuses_float16(self, model_type: str, version: str) -> bool:
        """Return whether a release refuses half precision for models of a type, as far as it was sampled."""
        return _holds(self.without_float16, model_type, version)


COPIED_ENCODER, ONE_STAGE = "copied_encoder", "one_stage"


class ArchitectureTable(Struct, frozen=True, kw_only=True, eq=False):
    """Architectures by role, each with the first and last sampled release whose registry has it in that role.

    A last of None: the newest sampled release has it. A name that was gone for a while begins where it came back.
    `draft`: it writes ahead for another model. `splits`: what a class says of them, whatever the role: the encoder may
    be whole on each rank (COPIED_ENCODER), no pipeline stages can share the layers (ONE_STAGE, as `NAME/FIELD` where
    that field of config.json has to hold something). A release may also run what is in no registry, by the classes of
    Transformers.
    """

    engine: str
    sampled: tuple[str, ...]
    chat: dict[str, Range]
    vision: dict[str, Range]
    transcription: dict[str, Range]
    embedding: dict[str, Range]
    rerank: dict[str, Range]
    classification: dict[str, Range]
    draft: dict[str, Range]
    splits: dict[str, dict[str, Range]]
    source: str
    date: str

    def copies_encoder(self, architecture: str, version: str) -> bool:
        """Return whether each rank surely may keep all of a model's encoder."""
        return version in self.sampled and _holds(self.splits[COPIED_ENCODER], architecture, version)

    def has_stages(self, architecture: str, fields: frozenset[str], version: str) -> bool:
        """Return whether pipeline stages may share a model: True where nobody read the release.

        `fields`: those of its config.json that hold something.
        """
        names = (architecture, *(f"{architecture}/{field}" for field in fields))
        return version not in self.sampled or not any(_holds(self.splits[ONE_STAGE], name, version) for name in names)

    def roles(self) -> dict[str, dict[str, Range]]:
        """Return each role's architectures."""
        names = ("chat", "vision", "transcription", "embedding", "rerank", "classification", "draft")
        return {name: getattr(self, name) for name in names}

    def role(self, architecture: str) -> str | None:
        """Return the role of an architecture in the newest release that has it; None of one that no release has."""
        found = {role: table[architecture] for role, table in self.roles().items() if architecture in table}
        return max(found, key=lambda role: self._end(found[role]), default=None)

    @lru_cache(maxsize=1024)  # noqa: B019  # there is one table, for good
    def releases(self, architecture: str) -> Range | None:
        """Return the first and last release that has an architecture, or what it is made from; None where none has."""
        own = self._span(architecture)
        if own is not None and own[1] is None:
            return own
        made = self._made_from(architecture)
        if own is None or made is None:
            return own or made
        # One that left the registry is then made from what is still in it, as Qwen3ForSequenceClassification is.
        return own[0], max(own, made, key=self._end)[1]

    def _made_from(self, architecture: str) -> Range | None:
        """Return the span of the first other one that differs in its ending alone; None where there is none."""
        ending = next((ending for ending in _ENDINGS if architecture.endswith(ending)), None)
        if ending is None or ending == architecture:
            return None
        base = architecture.removesuffix(ending)
        others = (base + other for other in _ENDINGS if other != ending)
        return next((span for other in others if (span := self._span(other)) is not None), None)

    def serves(self, architecture: str, version: str) -> bool | None:
        """Return whether a release has an architecture; None where none has, or nobody looked into one so old."""
        span = self.releases(architecture)
        if span is None or order_release(version) < order_release(self.sampled[0]):
            return None
        return holds(span, version)

    def _span(self, architecture: str) -> Range | None:
        spans = [table[architecture] for table in self.roles().values() if architecture in table]
        if not spans:
            return None
        lasts = [last for _, last in spans]
        first = min((first for first, _ in spans), key=order_release)
        return first, None if None in lasts else max((last for last in lasts if last), key=order_release)

    def _end(self, span: Range) -> tuple[tuple[int, ...], int]:
        return order_release(span[1] or self.sampled[-1] + ".post9")


class KernelGroup(Struct, frozen=True, kw_only=True):
    """Kernels of one compiled library that were made for the same GPUs, by compute capability.

    `ptx` is what a driver compiles itself, and one older than the toolkit refuses. `kernels` counts source files.
    """

    library: str
    machine_code: tuple[str, ...]
    ptx: tuple[str, ...]
    kernels: int
    releases: tuple[str, ...]

    def needs_ptx(self, capability: str) -> bool:
        """Say whether a GPU runs these kernels by PTX alone: machine code runs within a major version, upwards."""
        own = version_parts(capability)
        coded = any(own[0] == built[0] and built <= own for built in map(version_parts, self.machine_code))
        return not coded and any(version_parts(built) <= own for built in self.ptx)


class KernelTable(Struct, frozen=True, kw_only=True, eq=False):
    """What the kernels of an engine's releases were compiled for, as read from the wheels that PyPI serves."""

    engine: str
    sampled: tuple[str, ...]
    groups: tuple[KernelGroup, ...]
    source: str
    date: str

    @lru_cache(maxsize=1024)  # noqa: B019  # there is one table, for good
    def libraries_by_ptx(self, version: str, capability: str) -> tuple[str, ...] | None:
        """Return the libraries of which a GPU runs some kernel by PTX alone; None of a release that nobody read."""
        if version not in self.sampled:
            return None
        of_release = (group for group in self.groups if version in group.releases)
        return tuple(dict.fromkeys(group.library for group in of_release if group.needs_ptx(capability)))


class DefaultTable(Struct, frozen=True, kw_only=True):
    """What an engine's releases take where a flag is not given: by the condition in their source, each value's range.

    Nothing reads it at run time: tests hold the forecast's own rules against it.
    """

    engine: str
    sampled: tuple[str, ...]
    values: dict[str, dict[str, Range]]
    source: str
    date: str


class AttentionBackend(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A kernel for attention that the engine tries: on GPUs of which capability, and which cache formats it takes.

    `mla`: for latent attention (DeepSeek's); `sparse`: of it, that which picks tokens. `head_sizes`: empty where it
    takes any, or nobody could read it. `architectures`: those whose own code chooses it; none of what the engine's
    selector tries for every model.
    """

    name: str
    mla: bool
    sparse: bool
    cache_formats: tuple[str, ...]
    capabilities: tuple[str, ...]
    head_sizes: tuple[int, ...]
    releases: tuple[str, ...]
    architectures: tuple[str, ...] = ()


class AttentionCall(Struct, frozen=True, kw_only=True):
    """What a layer asks a kernel for. `traits`: what the whole model is, in the words of `AttentionLimit`."""

    version: str
    capability: str
    cache_format: str
    head: int
    architecture: str
    traits: frozenset[str]


class AttentionLimit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stops kernels that the engine's selector takes: where they start all the same.

    It holds for the cache formats and heads named (empty, 0 and None: any), up to the release `before`, and, where
    there are `traits` or `architectures`, for models that have one of them. `capabilities`: those on which the kernels
    run, empty: any; `shared_bytes`: what a block of theirs takes of a GPU's shared memory.
    """

    backends: tuple[str, ...]
    source: str
    date: str
    cache_formats: tuple[str, ...] = ()
    least_head: int = 0
    most_head: int | None = None
    traits: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    before: str | None = None
    capabilities: tuple[str, ...] = ()
    shared_bytes: int = 0

    def concerns(self, backend: str, call: AttentionCall) -> bool:
        """Return whether it holds for a kernel and what a layer asks of it."""
        whole = not (self.traits or self.architectures)
        return (
            backend in self.backends
            and (not self.cache_formats or call.cache_format in self.cache_formats)
            and self.least_head <= call.head
            and (self.most_head is None or call.head <= self.most_head)
            and (whole or not call.traits.isdisjoint(self.traits) or call.architecture in self.architectures)
            and (self.before is None or order_release(call.version) < order_release(self.before))
        )


class AttentionTable(Struct, frozen=True, kw_only=True, eq=False):
    """The attention backends of an engine's releases, as their selectors and classes declare them.

    `limits`: what their code stops beyond that. `shared_memory`: the most bytes that a block of threads may have, by
    compute capability.
    """

    engine: str
    sampled: tuple[str, ...]
    backends: tuple[AttentionBackend, ...]
    limits: tuple[AttentionLimit, ...]
    shared_memory: Mapping[str, int]
    source: str
    date: str

    def stops(self, backend: str, call: AttentionCall) -> bool:
        """Return whether a kernel that the selector takes does not start."""
        there = self.shared_memory.get(call.capability)
        return any(
            (limit.capabilities and call.capability not in limit.capabilities)
            or (there is not None and limit.shared_bytes > there)
            for limit in self.limits
            if limit.concerns(backend, call)
        )

    def on(self, version: str, capability: str, *, mla: bool, sparse: bool) -> tuple[AttentionBackend, ...] | None:
        """Return what a release may choose on a GPU for an attention; None of a release or a GPU that nobody read."""
        of_release = [row for row in self.backends if version in row.releases and not row.architectures]
        if not any(capability in row.capabilities for row in of_release):
            return None
        return tuple(
            row for row in of_release if capability in row.capabilities and (row.mla, row.sparse) == (mla, sparse)
        )

    def of(self, version: str, architecture: str) -> tuple[AttentionBackend, ...]:
        """Return those of which an architecture's own code chooses; empty where the engine's selector does, for all."""
        return tuple(row for row in self.backends if architecture in row.architectures and version in row.releases)


class Advisory(Struct, frozen=True, kw_only=True, cache_hash=True):
    """A known hole, in releases from `introduced` (None: the first) to before `fixed` (None: in all later ones).

    Of a malicious release: the `digests` of its images, the names of `files` that it leaves on a machine and nothing
    else has, and whether the publisher's `floating` tags meant it for a while.
    """

    id: str
    program: str
    kind: HoleKind
    introduced: str | None
    fixed: str | None
    summary: str
    source: str
    date: str
    digests: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    floating: bool = False


class Guide(Struct, frozen=True, kw_only=True):
    """What popular guides claim, and the fact that it goes against; `setting` is the key that would change with it.

    The rest says which plans it concerns: `gpus` are ids of GPU models, empty for any; `nvlink` whether NVLink joins
    some of several GPUs, None for whatever; `memory_gb_at_most` is in GiB, of each GPU.
    """

    id: str
    setting: str
    claim: str
    fact: str
    source: str
    date: str
    gpus: tuple[str, ...] = ()
    nvlink: bool | None = None
    memory_gb_at_most: int | None = None


class ServiceImage(Struct, frozen=True, kw_only=True):
    """The image of a service that is not an engine."""

    name: str
    version: str
    image: str
    source: str
    date: str

    def setting(self, reason: str) -> Setting:
        """Return the setting that chooses the image."""
        return Setting(value=self.image, reason=reason, source=self.source, origin=Origin.CATALOG)


class ArgumentKind(Struct, frozen=True, kw_only=True):
    """How a flag's value is read: `switch`, `whole`, `number`, `json` or `text`; `listed`: several words.

    `choices` where it takes no others.
    """

    kind: str
    listed: bool = False
    choices: tuple[str, ...] = ()


class ArgumentTable(Struct, frozen=True, kw_only=True):
    """How an engine's flags are read, in the `sampled` releases; of others nobody looked."""

    engine: str
    sampled: tuple[str, ...]
    kinds: dict[str, ArgumentKind]
    source: str
    date: str


class Catalog(Struct, frozen=True, kw_only=True, eq=False):
    """Everything that the planner knows of the world outside the host. `engines` are the newest first.

    The long tables come by a call, since a plan for a CPU needs none of them and a person waits for it. `find_gpu`
    returns the row of the GPU that NVML calls by a name; None for an unknown model.
    """

    engines: Sequence[EngineRelease]
    services: Callable[[], tuple[ServiceImage, ...]]
    advisories: Callable[[], tuple[Advisory, ...]]
    drivers: Callable[[], Drivers]
    llms: Callable[[], Sequence[CatalogLlm]]
    flags: Callable[[], FlagTable]
    arguments: Callable[[], ArgumentTable]
    parsers: Callable[[], ParserTable]
    kernels: Callable[[], KernelTable]
    formats: Callable[[], FormatTable]
    architectures: Callable[[], ArchitectureTable]
    attention: Callable[[], AttentionTable]
    gpus: Callable[[], Sequence[GpuModel]]
    find_gpu: Callable[[str | None], GpuModel | None]

    def service(self, name: str) -> ServiceImage:
        """Return the row of one service; the names are the Compose services."""
        return next(row for row in self.services() if row.name == name)


@lru_cache(maxsize=4096)
def order_release(version: str) -> tuple[tuple[int, ...], int]:
    """Read a release number for comparison: `0.8.5` < `0.8.5.post1` < `0.9.0`; anything behind digits is dropped."""
    release, _, post = version.partition(".post")
    parts = tuple(_leading_digits(part) for part in release.split("."))
    return parts + (0,) * (4 - len(parts)), _leading_digits(post)


@lru_cache(maxsize=1024)
def holes_of(program: str, version: str, advisories: tuple[Advisory, ...]) -> tuple[Advisory, ...]:
    """Return the known holes of one release, the worst kinds first."""
    own = order_release(version)
    order = list(HoleKind)
    holes = [
        row
        for row in advisories
        if row.program == program
        and (row.fixed is None or own < order_release(row.fixed))
        and (row.introduced is None or order_release(row.introduced) <= own)
    ]
    return tuple(sorted(holes, key=lambda row: order.index(row.kind)))


def _holds(ranges: dict[str, Range], name: str, version: str) -> bool:
    return name in ranges and holds(ranges[name], version)


def holds(span: Range, version: str) -> bool:
    """Return whether a release lies in a range; one that is newer than all samples as the newest of them."""
    first, last = span
    own = order_release(version)
    return order_release(first) <= own and (last is None or own <= order_release(last))


def _leading_digits(text: str) -> int:
    return int((re.match(r"[0-9]*", text) or [""])[0] or 0)
