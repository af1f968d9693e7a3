"""HTML pages from the packaged templates, of which they are the only users. Pure but for reading those."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from stackwright.units import GIB

if TYPE_CHECKING:
    from jinja2 import Environment


def fill_page(template: str, **values: object) -> str:
    """Return a page of `rendering/templates`; every value in it is escaped."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("stackwright.rendering"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
    )
    jinja.filters["gib"] = lambda count: f"{count / GIB:.1f}"
    return jinja
