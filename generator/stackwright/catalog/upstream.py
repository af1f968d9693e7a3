"""Ask the indexes what is newer than a pin, and which of its holes are published. Touches the network.

PyPI answers by its JSON index (PEP 691, PEP 700) and by `/pypi/NAME/VERSION/json`, whose `vulnerabilities` come from
the Python advisory database; a mirror may have the first alone. Docker Hub lists the tags of an image. What cannot be
asked is None.
"""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from collections.abc import Mapping

from msgspec import Struct

from stackwright.domain.catalog import order_release

PYPI = "https://pypi.org/simple"
HUB = "https://hub.docker.com"
TIMEOUT_S = 10.0
MOST_BYTES = 64 * 2**20
_SIMPLE = "application/vnd.pypi.simple.v1+json"
_FINAL = re.compile(r"\d+(\.\d+)*(\.post\d+)?")


class PublishedHole(Struct, frozen=True, kw_only=True):
    """A hole of one release, as the index has it. `fixed`: the releases without it."""

    id: str
    summary: str
    fixed: tuple[str, ...]
    source: str


class PublishedRelease(Struct, frozen=True, kw_only=True):
    """What an index says of one release: the newest one, whether this one was withdrawn, its holes; None unknown."""

    newest: str | None = None
    withdrawn: bool | None = None
    holes: tuple[PublishedHole, ...] | None = None


class Indexes(Struct, frozen=True, kw_only=True):
    """Where to ask. `certificates`: a file of further authorities, None for those of the system."""

    pypi: str = PYPI
    hub: str = HUB
    certificates: str | None = None

    def ask_package(self, name: str, version: str) -> PublishedRelease:
        """Ask for one release of a Python package."""
        base = self.pypi.rstrip("/")
        index = self._get(f"{base}/{name}/", _SIMPLE)
        release = self._get(f"{base.removesuffix('/simple')}/pypi/{name}/{version}/json", "application/json")
        newest, withdrawn = _standing(index, version) if isinstance(index, Mapping) else (None, None)
        return PublishedRelease(newest=newest, withdrawn=withdrawn, holes=_holes(release))

    def newest_tag(self, image: str, tag: str) -> str | None:
        """Return the newest tag of an image on Docker Hub that differs from `tag` in its numbers alone."""
        repository = image if "/" in image else f"library/{image}"
        pattern = re.compile(re.sub(r"\d+(\\\.\d+)*", r"\\d+(?:\\.\\d+)*", re.escape(tag), count=1))
        found = self._get(f"{self.hub}/v2/repositories/{repository}/tags?page_size=100", "application/json")
        rows = found.get("results") if isinstance(found, Mapping) else None
        names = [str(row.get("name")) for row in rows or () if isinstance(row, Mapping)]
        # A tag of as many numbers moves as this one does.
        alike = [name for name in names if pattern.fullmatch(name) and name.count(".") == tag.count(".")]
        return max(alike, key=lambda name: order_release(name.lstrip("v")), default=None)

    def _get(self, url: str, kind: str) -> object:
        """Return what a JSON address says; None where it cannot be reached, says no, or says something else."""
        if not url.startswith(("https://", "http://")):
            return None
        request = urllib.request.Request(url, headers={"Accept": kind, "User-Agent": "stackwright"})
        try:
            context = ssl.create_default_context(cafile=self.certificates)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
                return json.loads(answer.read(MOST_BYTES))
        except (OSError, ValueError):  # URLError and timeouts are the first; an index of HTML is the second
            return None


def _standing(index: Mapping[str, object], version: str) -> tuple[str | None, bool | None]:
    """Return the newest final release that was not withdrawn, and whether `version` was."""
    files = [row for row in _list(index.get("files")) if isinstance(row, Mapping)]
    given = _list(index.get("versions"))
    by_release: dict[str, list[bool]] = {str(name): [] for name in given}
    for row in files:
        name = str(row.get("filename"))
        found = re.search(r"-(\d[^-]*?)(?:-[^-].*)?(?:\.whl|\.tar\.gz|\.zip)$", name)
        if found is not None:
            by_release.setdefault(found[1], []).append(bool(row.get("yanked")))
    kept = [name for name, yanked in by_release.items() if _FINAL.fullmatch(name) and not (yanked and all(yanked))]
    own = by_release.get(version)
    return max(kept, key=order_release, default=None), all(own) if own else None


def _holes(release: object) -> tuple[PublishedHole, ...] | None:
    rows = release.get("vulnerabilities") if isinstance(release, Mapping) else None
    if not isinstance(rows, list):
        return None
    standing = (row for row in rows if isinstance(row, Mapping) and not row.get("withdrawn"))
    return tuple(
        PublishedHole(
            id=next(
                (str(alias) for alias in _list(row.get("aliases")) if str(alias).startswith("CVE-")), str(row["id"])
            ),
            summary=str(row.get("summary") or row.get("details") or "")[:200],
            fixed=tuple(str(name) for name in _list(row.get("fixed_in"))),
            source=str(row.get("link") or "PyPI"),
        )
        for row in standing
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
