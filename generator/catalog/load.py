"""Load the packaged catalog. Touches only the YAML files beside this module."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from generator.domain.catalog import Catalog, CatalogLlm, EngineRelease, ServiceImage
from generator.errors import StackError
from generator.reading import read_yaml

FOLDER = Path(__file__).parent


@cache
def load_catalog() -> Catalog:
    """Read every catalog file; a damaged one is a fault of the installation, not of the user."""
    return Catalog(
        engines=read_yaml(FOLDER / "engines.yaml", tuple[EngineRelease, ...], StackError),
        services=read_yaml(FOLDER / "services.yaml", tuple[ServiceImage, ...], StackError),
        llms=read_yaml(FOLDER / "llms.yaml", tuple[CatalogLlm, ...], StackError),
    )
