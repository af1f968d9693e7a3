"""Facts from outside, each row with its source and the date it was looked up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineImage:
    """One published image of an engine release. `cuda` is its toolkit (None on CPU)."""

    image: str
    cuda: str | None
    driver: str | None
    minimum_compute_capability: str | None


@dataclass(frozen=True, kw_only=True)
class EngineRelease:
    """One engine release and its images, preferred first."""

    name: str
    version: str
    images: tuple[EngineImage, ...]
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class ServiceImage:
    """The image of a service that is not an engine."""

    name: str
    version: str
    image: str
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class CatalogLlm:
    """A well-known model: its short name, Hugging Face id and head counts."""

    name: str
    hub_id: str
    attention_heads: int
    kv_heads: int
    source: str
    date: str


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that the planner knows of the world outside the host."""

    engines: tuple[EngineRelease, ...]
    services: tuple[ServiceImage, ...]
    llms: tuple[CatalogLlm, ...]

    def service(self, name: str) -> ServiceImage:
        """Return the row of one service; the names are the Compose services."""
        return next(row for row in self.services if row.name == name)
