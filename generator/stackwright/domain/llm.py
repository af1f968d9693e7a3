"""The model to be served, as far as is known without loading it."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class LlmSource(StrEnum):
    """Where the weights come from."""

    SMOKE = "smoke"
    DIRECTORY = "directory"
    HUB = "hub"


class Llm(Struct, frozen=True, kw_only=True):
    """One model.

    `name` is what clients ask for; `location` what the engine is given: a Hugging Face id or an absolute folder.
    `attention_heads` and `kv_heads` are None where nothing on this host tells.
    """

    name: str
    source: LlmSource
    location: str
    attention_heads: int | None
    kv_heads: int | None
