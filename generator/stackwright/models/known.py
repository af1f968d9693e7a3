"""Which models of the catalog a person may mean by a name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from stackwright.domain.model_facts import CatalogLlm
from stackwright.models.naming import plain_name


def find_named(name: str, llms: Iterable[CatalogLlm], origin: str = "") -> tuple[CatalogLlm, ...]:
    """Return the models that a name means: the one of that name or of a checkpoint's, else all that have its words.

    OWNER/NAME is that repository alone: another one of a like name may be another model. Capitals, an owner that is
    left out, and dashes, dots and blanks between words do not matter; an address of the hub is taken as the model that
    it names.

    Raises:
        UsageError: it is another program's name of a model; `origin` is where it stands.
    """
    rows = tuple(llms)
    plain = plain_name(name.strip(), [row.name for row in rows], origin).strip().strip("/")
    if not plain:
        return ()
    for same in (_exactly, _squeezed):
        found = tuple(row for row in rows if same(plain) in {same(own) for own in _names(row)})
        if found:
            return found
    if "/" in plain:
        return ()
    words = [word for word in re.split(r"[^a-z0-9.]+", plain.lower()) if word]
    found = tuple(row for row in rows if words and all(any(word in own for own in _searched(row)) for word in words))
    squeezed = _squeezed(plain)
    return found or tuple(row for row in rows if squeezed and any(squeezed in _squeezed(own) for own in _searched(row)))


def known_names(llms: Iterable[CatalogLlm]) -> list[str]:
    """Return every name that `find_named` takes for one model."""
    return list(dict.fromkeys(own for row in llms for own in _names(row)))


def _names(row: CatalogLlm) -> Iterator[str]:
    yield row.name
    for checkpoint in row.checkpoints:
        yield checkpoint.hub_id
        yield checkpoint.hub_id.partition("/")[2]


def _searched(row: CatalogLlm) -> tuple[str, ...]:
    return (row.name.lower(), row.family.lower(), row.hub_id.lower())


def _exactly(name: str) -> str:
    return name.lower()


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())
