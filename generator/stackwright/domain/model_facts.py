"""What is known of a model without loading it: the catalog's rows, and what was read of one model. Pure.

`config` is always the model's Hugging Face `config.json` as a plain mapping, under its own key names; the shape that
the memory planner counts with is parsed from it there. What nobody could source is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field

from stackwright.domain.llm import LlmSource
from stackwright.domain.role import Role
from stackwright.domain.shape import Shape
from stackwright.domain.tensors import TensorHeader, WeightFacts
from stackwright.units import format_bytes


class WeightFormat(StrEnum):
    """How a checkpoint stores its weights. `gptq` has 4 bits, `int4` is compressed-tensors' own form.

    `gguf` and `bitsandbytes` are known so that they can be told apart.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"
    INT4 = "int4"
    AWQ = "awq"
    GPTQ = "gptq"
    GPTQ8 = "gptq8"
    BITSANDBYTES = "bitsandbytes"
    GGUF = "gguf"
    OTHER = "other"


class Checkpoint(Struct, frozen=True, kw_only=True):
    """One published set of weights of a model.

    `weight_bytes` is the sum of the tensors' bytes as stored, None where no source gives it; `computed`: what the shape
    comes to where all linear layers have the format, which the quantizer may have kept from some. `gated`: the hub asks
    for a click and a token before it gives the files. `method`: the `quant_method` of its config.json, where that is
    not the usual one of its format (models/checkpoint.py).
    """

    hub_id: str
    format: WeightFormat
    weight_bytes: int | None
    gated: bool | None
    source: str
    date: str
    computed: bool = False
    method: str | None = None

    @property
    def size(self) -> str:
        """The size of the weights for a person to read."""
        if self.weight_bytes is None:
            return "size unknown"
        return f"{'about ' if self.computed else ''}{format_bytes(self.weight_bytes)}"


class CatalogLlm(Struct, frozen=True, kw_only=True):
    """A well-known model: one architecture and the checkpoints published for it, the original one first.

    `hub_id` is the original checkpoint. `parameters` and `active_parameters` (per token) are counts; the latter differs
    in mixtures of experts. `context_tokens` is the longest context that the publisher names without a further setting.
    `released` is `YYYY-MM`. `minimum_engine` is the first engine release with the architecture (`0.8.4`).
    `tool_call_parser` and `reasoning_parser` are the names of the engine's parsers that go with what the model's own
    template makes it write; None where no source names one.
    """

    name: str
    hub_id: str
    family: str
    role: Role
    parameters: int | None
    active_parameters: int | None
    context_tokens: int | None
    released: str | None
    licence: str | None
    gated: bool | None
    minimum_engine: str | None
    config: Mapping[str, object]
    checkpoints: tuple[Checkpoint, ...]
    source: str
    date: str
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def attention_heads(self) -> int:
        """Return the number of attention heads of the text model; 0 where the configuration has none."""
        return _count(self.config, "num_attention_heads")

    @property
    def kv_heads(self) -> int:
        """Return the number of key-value heads of the text model; as many as attention heads where it names none."""
        return _count(self.config, "num_key_value_heads") or self.attention_heads


class ModelConfig(Struct, frozen=True, kw_only=True):
    """What a model's `config.json` tells, read once (`stackwright.models.config.parse_config`).

    `architecture` is the first one named, empty where there is none. Head counts are those of the text model, None
    where it names none. `sees`: it has a vision encoder; `takes_media`: pictures, films or sounds. `scores` is how
    many a classifier gives to one text. `encodes_first`: an encoder reads the input before a decoder writes.
    `longest_tokens` is the longest request, its own `model_max_length` counted; None unknown. `model_types` are its
    own and its text model's. `quant_method` names how its weights are quantized, None where it does not say. `fields`
    are the keys of the file and of its text model that hold something: no null, false, zero or empty list.
    """

    architecture: str
    shape: Shape
    attention_heads: int | None
    kv_heads: int | None
    sees: bool
    takes_media: bool
    scores: int
    longest_tokens: int | None
    encodes_first: bool
    model_types: tuple[str, ...]
    quant_method: str | None
    fields: frozenset[str]


class ModelFacts(Struct, frozen=True, kw_only=True):
    """One model as it was read.

    `name` is what clients ask for; `location` what the engine is given: a hub id or an absolute folder. `tensors` is
    None where no header could be read; `weight_bytes` is then the catalog's figure, `computed` or published, or None.
    `notes` are facts that a user should see, one sentence each. `role` is what the catalog, or a file of the
    checkpoint beside config.json, says that the model is for; the engine's parsers are the catalog's. None where
    nothing tells.
    """

    name: str
    source: LlmSource
    location: str
    config: ModelConfig
    tensors: tuple[TensorHeader, ...] | None
    weight_bytes: int | None
    gated: bool | None
    minimum_engine: str | None
    computed: bool = False
    format: WeightFormat | None = None
    role: Role | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def weights(self) -> WeightFacts:
        """Return what the memory planner needs to know of the weights; it computes them itself, and knows how well."""
        return WeightFacts(tensors=self.tensors, weight_bytes=None if self.computed else self.weight_bytes)


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the part that describes the language model: `text_config` of a multimodal model, else the whole."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _count(config: Mapping[str, object], key: str) -> int:
    value = text_config(config).get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
