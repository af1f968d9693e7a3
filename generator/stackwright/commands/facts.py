"""`stackwright facts`: which rows of the catalog are old or unsure, and which pins are outdated or known bad."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.catalog.age import OLD_DAYS, FactRow, read_rows
from stackwright.catalog.load import FOLDER, load_catalog
from stackwright.catalog.upstream import PYPI, Indexes, PublishedHole
from stackwright.commands.options import add_json, record_of
from stackwright.domain.catalog import Catalog, holes_of, order_release

AT_ONCE = 8
ENGINES = "catalog/engines.yaml"
# By what name PyPI has a service of catalog/services.yaml.
_PACKAGES = {"gateway": "litellm"}


class FactsArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `facts`. `locked`: every package of the locks is asked for, not the pinned programs alone."""

    offline: bool = False
    locked: bool = False
    json: bool = False


class PinnedProgram(Struct, frozen=True, kw_only=True):
    """A program at the version that is pinned, pulled or locked, and what is known of it; None unknown.

    `where`: the file that pins it. `image`: it is pulled by tag, of which Docker Hub knows newer ones. `behind`: one
    is newer than this.
    """

    name: str
    version: str
    where: str
    image: bool = False
    newest: str | None = None
    behind: bool | None = None
    withdrawn: bool | None = None
    holes: tuple[PublishedHole, ...] = ()
    holes_asked: bool = False


class Facts(Struct, frozen=True, kw_only=True):
    """What `facts` finds: `old` and `recalled` rows of `rows` in the catalog, and the programs."""

    date: str
    rows: int
    old: tuple[FactRow, ...]
    recalled: tuple[FactRow, ...]
    programs: tuple[PinnedProgram, ...]
    notes: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--offline", action="store_true", help="ask no index; what is newer stays unknown")
    parser.add_argument("--locked", action="store_true", help="ask for every package of the locks, too")
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> FactsArguments:
    """Turn the parsed words into the record."""
    return record_of(FactsArguments, given)


def run(arguments: FactsArguments) -> None:
    """Read the catalog, ask the indexes, and print what was found."""
    today = datetime.now(UTC).date()
    found = find_facts(arguments, today, None if arguments.offline else indexes(os.environ))
    if arguments.json:
        report.print_json(found)
        return
    report.print_text(describe(found))
    report.warn_all(found.notes)


def indexes(environ: Mapping[str, str]) -> Indexes:
    """Return where a person has told pip to look; PyPI where they have told it nothing."""
    from stackwright.runtime.pip_settings import read_options

    options = read_options(environ)
    return Indexes(pypi=options.get("index-url", PYPI), certificates=options.get("cert"))


def find_facts(arguments: FactsArguments, today: date, where: Indexes | None) -> Facts:
    """Judge the catalog's rows and the pinned programs; `where` None: no index is asked.

    Raises:
        StackError: a file of the catalog is damaged.
    """
    rows = read_rows(FOLDER, today)
    programs = pinned_programs(load_catalog(), locked=arguments.locked)
    asked = programs if where is None else _ask(programs, where)
    return Facts(
        date=today.isoformat(),
        rows=len(rows),
        old=tuple(row for row in rows if row.days > OLD_DAYS),
        recalled=tuple(row for row in rows if row.recalled),
        programs=asked,
        notes=_notes(asked, where),
    )


def pinned_programs(catalog: Catalog, *, locked: bool) -> tuple[PinnedProgram, ...]:
    """Return the engine's newest release, the services, and with `locked` every package of the locks."""
    newest = catalog.engines[0]
    programs = [PinnedProgram(name=newest.name, version=newest.version, where=ENGINES)]
    repository, _, tag = newest.images[0].image.rpartition(":")
    programs.append(PinnedProgram(name=repository, version=tag, where=ENGINES, image=True))
    for service in catalog.services():
        package = _PACKAGES.get(service.name)
        version = service.version if package else service.image.rpartition(":")[2]
        programs.append(
            PinnedProgram(
                name=package or service.name, version=version, where="catalog/services.yaml", image=not package
            )
        )
    if locked:
        programs += _locked()
    return tuple(replace(program, holes=_known_holes(program.name, program.version, catalog)) for program in programs)


def _locked() -> list[PinnedProgram]:
    from stackwright.domain.recipe import all_locks

    files = [*all_locks(), Path(__file__).parents[3] / "requirements" / "run.txt"]
    rows = [
        PinnedProgram(name=name, version=version, where=file.name)
        for file in files
        if file.is_file()
        for name, version in re.findall(
            r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.!+]+)", file.read_text("utf-8"), re.MULTILINE
        )
    ]
    return list({(row.name, row.version): row for row in rows}.values())


def _known_holes(name: str, version: str, catalog: Catalog) -> tuple[PublishedHole, ...]:
    # A tag of one number moves with its series, so it is as new as that is.
    moving = re.match(r"(\d+)(?:-|$)", version)
    version = f"{moving[1]}.999" if moving else version
    return tuple(
        PublishedHole(
            id=hole.id,
            summary=f"{hole.kind.value}: {hole.summary}",
            fixed=(hole.fixed,) if hole.fixed else (),
            source=f"{hole.source}, {hole.date}",
        )
        for hole in holes_of(name, version, catalog.advisories())
    )


def _ask(programs: tuple[PinnedProgram, ...], where: Indexes) -> tuple[PinnedProgram, ...]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(lambda program: _asked(program, where), programs))


def _asked(program: PinnedProgram, where: Indexes) -> PinnedProgram:
    if program.image:
        newest = where.newest_tag(program.name, program.version)
        return replace(program, newest=newest, behind=_behind(program.version, newest))
    found = where.ask_package(program.name, program.version)
    known = {hole.id for hole in program.holes}
    further = tuple(hole for hole in found.holes or () if hole.id not in known)
    return replace(
        program,
        newest=found.newest,
        behind=_behind(program.version, found.newest),
        withdrawn=found.withdrawn,
        holes=(*program.holes, *further),
        holes_asked=found.holes is not None,
    )


def _behind(version: str, newest: str | None) -> bool | None:
    return None if newest is None else order_release(newest.lstrip("v")) > order_release(version.lstrip("v"))


def _notes(programs: tuple[PinnedProgram, ...], where: Indexes | None) -> tuple[str, ...]:
    if where is None:
        return ("no index was asked (--offline): what is newer is unknown",)
    notes = []
    packages = [program for program in programs if not program.image]
    if all(program.newest is None for program in packages):
        notes.append(f"{where.pypi} was not reached: newer packages are unknown")
    elif not any(program.holes_asked for program in packages):
        notes.append(f"{where.pypi} serves no advisories: holes are those of catalog/advisories.yaml alone")
    if any(program.newest is None for program in programs if program.image):
        notes.append(f"{where.hub} was not reached: newer image tags are unknown")
    return tuple(notes)


def describe(found: Facts) -> str:
    """Write what was found as text: rows first, then the programs."""
    lines = [f"catalog: {found.rows} rows; {len(found.old) or 'none'} older than {OLD_DAYS} days"]
    lines += [f"  {row.file}: {row.row}: looked up on {row.date}, {row.days} days ago" for row in found.old]
    lines.append(f"from memory, or not looked up again: {len(found.recalled) or 'none'}")
    lines += [f"  {row.file}: {row.row}: {', '.join(row.recalled)}" for row in found.recalled]
    lines.append("pinned:")
    for program in found.programs:
        newest = {None: "newest unknown", True: f"{program.newest} is newer", False: "newest"}[program.behind]
        withdrawn = "; WITHDRAWN from the index" if program.withdrawn else ""
        lines.append(f"  {program.name} {program.version}: {newest}{withdrawn}")
        for hole in program.holes:
            fixed = f"; fixed in {', '.join(hole.fixed)}" if hole.fixed else "; no fixed release known"
            lines.append(f"    {hole.id}: {hole.summary}{fixed}")
    return "\n".join(lines)
