"""Refresh what the catalog says of vLLM (engines, architectures, formats …) from a release's source and wheel.

`python -m stackwright.catalog.refresh FOLDER [--wheel FILE]` reads folder, wheel and catalog, and writes its files.
It asks no network: whoever refreshes unpacks the release's sdist, or checks out its tag, fetches its wheel,
and reviews the diff before committing it.
GPUs, drivers and advisories come from pages that people must read: their files are edited by hand.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from stackwright.catalog.compare import compare_releases, describe
from stackwright.catalog.load import FOLDER
from stackwright.catalog.machine_code import read_wheel
from stackwright.catalog.release_formats import Names
from stackwright.catalog.release_source import ReleaseSource, read_release
from stackwright.catalog.text import render_json, render_rows
from stackwright.domain.catalog import (
    ArchitectureTable,
    AttentionBackend,
    AttentionTable,
    CpuImage,
    DefaultTable,
    EngineImage,
    EngineRelease,
    FlagTable,
    FormatTable,
    KernelGroup,
    KernelTable,
    ParserTable,
    Range,
    order_release,
)
from stackwright.errors import StackError
from stackwright.reading import read_yaml, to_plain

ENGINES, FLAGS, PARSERS = "engines.yaml", "flags.yaml", "parsers.yaml"
KERNELS, FORMATS, ARCHITECTURES = "kernels.yaml", "formats.yaml", "architectures.yaml"
ATTENTION, DEFAULTS = "attention.yaml", "defaults.yaml"
Group = TypeVar("Group", AttentionBackend, KernelGroup)
Table = TypeVar("Table", ArchitectureTable, DefaultTable, FlagTable, FormatTable, ParserTable)


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Run the command on the catalog in `folder`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stackwright.catalog.refresh", description="Refresh the engine catalog."
    )
    parser.add_argument(
        "source", type=Path, nargs="?", help="folder of an unpacked vLLM sdist, or a checkout at a release's tag"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("OLD", "NEW"), help="print what two releases of the catalog differ in; no more"
    )
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the release's wheel for CUDA, for its kernels")
    parser.add_argument("--release", metavar="X", help="the release, where the folder has no PKG-INFO")
    parser.add_argument(
        "--date", default=datetime.now(UTC).date().isoformat(), help="the day of looking up (default: today)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the diff, write nothing")
    asked = parser.parse_args(arguments)
    if (asked.source is None) is (asked.compare is None):
        parser.error("name the release's folder, or --compare OLD NEW")
    try:
        if asked.compare:
            print(describe(compare_releases(folder, *asked.compare), *asked.compare))
            return 0
        source = read_release(asked.source, asked.release, asked.date)
        changes = refresh(source, read_wheel(asked.wheel) if asked.wheel else None, folder)
    except StackError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    for name, (before, after) in changes.items():
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"old {name}", f"new {name}", lineterm="", n=1
        )
        print("\n".join(lines))
        if not asked.dry_run:
            (folder / name).write_text(after, encoding="utf-8")
    return 0


def refresh(source: ReleaseSource, kernels: Sequence[KernelGroup] | None, folder: Path) -> dict[str, tuple[str, str]]:
    """Return the files that change, each with its text before and after; `kernels` None: nobody read a wheel.

    Raises:
        StackError: a file of the catalog is damaged.
    """
    engines = read_yaml(folder / ENGINES, tuple[EngineRelease, ...], StackError)
    flags = read_yaml(folder / FLAGS, FlagTable, StackError)
    parsers = read_yaml(folder / PARSERS, ParserTable, StackError)
    formats = read_yaml(folder / FORMATS, FormatTable, StackError)
    architectures = read_yaml(folder / ARCHITECTURES, ArchitectureTable, StackError, packaged=True)
    attention = read_yaml(folder / ATTENTION, AttentionTable, StackError, packaged=True)
    defaults = read_yaml(folder / DEFAULTS, DefaultTable, StackError)
    texts = {
        ENGINES: render_engines(with_release(engines, source.release)),
        FLAGS: render_table(with_flags(flags, source)),
        PARSERS: render_table(with_parsers(parsers, source)),
        FORMATS: render_table(with_formats(formats, source)),
        ARCHITECTURES: render_table(with_architectures(architectures, source)),
        ATTENTION: render_table(with_attention(attention, source)),
        DEFAULTS: render_table(_sampled(defaults, source, values=source.defaults)),
    }
    if kernels is not None:
        table = read_yaml(folder / KERNELS, KernelTable, StackError)
        texts[KERNELS] = render_table(with_kernels(table, kernels, source.release))
    changes = {}
    for name, text in texts.items():
        before = (folder / name).read_text(encoding="utf-8")
        after = _header(before) + text
        if before != after:
            changes[name] = (before, after)
    return changes


def with_release(engines: tuple[EngineRelease, ...], release: EngineRelease) -> tuple[EngineRelease, ...]:
    """Add or replace a release. Notes that people wrote stay, and so does the date where nothing else has changed."""
    old = next((row for row in engines if row.version == release.version), None)
    if old is not None:
        notes = {image.image: image.note for image in old.images}
        images = tuple(structs.replace(image, note=notes.get(image.image)) for image in release.images)
        release = structs.replace(release, images=images)
        if structs.replace(release, date=old.date, source=old.source) == old:
            release = old
    others = [row for row in engines if row.version != release.version]
    return tuple(sorted([*others, release], key=lambda row: order_release(row.version), reverse=True))


def with_flags(table: FlagTable, source: ReleaseSource) -> FlagTable:
    """Add a release's flags and variables to the table; a release that was sampled before changes nothing."""
    return _sampled(table, source, flags=source.flags, variables=source.variables)


def with_parsers(table: ParserTable, source: ReleaseSource) -> ParserTable:
    """Add a release's parsers to the table; a release that was sampled before changes nothing."""
    return _sampled(table, source, tool_call=source.tool_call_parsers, reasoning=source.reasoning_parsers)


def with_formats(table: FormatTable, source: ReleaseSource) -> FormatTable:
    """Add a release's number formats to the table; one that was sampled before changes nothing."""
    return _sampled(table, source, **source.formats)


def with_architectures(table: ArchitectureTable, source: ReleaseSource) -> ArchitectureTable:
    """Add a release's architectures to the table; one that was sampled before changes nothing."""
    roles = {role: source.architectures.get(role, frozenset()) for role in table.roles()}
    return _sampled(table, source, **roles, splits=source.splits)


def _sampled(table: Table, source: ReleaseSource, **names: Names) -> Table:
    """Return a table whose ranges reach over one more release; `names`: by the field that holds their ranges.

    A mapping: the field has ranges for each of several keys.
    """
    version, newest = source.release.version, table.sampled[-1]
    if version in table.sampled:
        return table
    ranges: dict[str, Any] = {}
    for field, own in names.items():
        old: dict[str, Any] = getattr(table, field)
        if isinstance(own, frozenset):
            ranges[field] = _extend(old, own, version, newest)
            continue
        keyed: dict[str, frozenset[str]] = {**dict.fromkeys(old, frozenset()), **own}
        ranges[field] = {
            key: _extend(old.get(key, {}), of_key, version, newest) for key, of_key in sorted(keyed.items())
        }
    return structs.replace(table, sampled=_in_order(*table.sampled, version), date=source.release.date, **ranges)


def _in_order(*versions: str) -> tuple[str, ...]:
    return tuple(sorted(versions, key=order_release))


def with_kernels(table: KernelTable, found: Sequence[KernelGroup], release: EngineRelease) -> KernelTable:
    """Add a release's kernels to the table; a release that was sampled before changes nothing."""
    if release.version in table.sampled:
        return table
    groups = _with_groups(table.groups, found, release.version)
    return structs.replace(
        table,
        sampled=_in_order(*table.sampled, release.version),
        groups=tuple(sorted(groups, key=lambda group: (group.library, group.machine_code, group.ptx, group.kernels))),
        date=release.date,
    )


def with_attention(table: AttentionTable, source: ReleaseSource) -> AttentionTable:
    """Add a release's attention backends to the table; one that was sampled before, or has none, changes nothing."""
    version = source.release.version
    if version in table.sampled or not source.attention_backends:
        return table
    rows = _with_groups(table.backends, source.attention_backends, version)
    return structs.replace(
        table,
        sampled=_in_order(*table.sampled, version),
        backends=tuple(sorted(rows, key=lambda row: (row.name, order_release(row.releases[0])))),
        date=source.release.date,
    )


def _with_groups(groups: Sequence[Group], found: Sequence[Group], version: str) -> list[Group]:
    """Add a release to the rows that are its own, and the rows that are new with it."""
    releases = {structs.replace(group, releases=()): group.releases for group in groups}
    for group in found:
        releases[group] = _in_order(*releases.get(group, ()), version)
    return [structs.replace(group, releases=own) for group, own in releases.items()]


def render_engines(engines: tuple[EngineRelease, ...]) -> str:
    """Write the releases as rows, defaults left out."""
    rows = []
    for release in engines:
        row = structs.asdict(release)
        row["images"] = [_without_defaults(image) for image in release.images]
        row["cpu_images"] = [_without_defaults(image) for image in release.cpu_images]
        rows.append(row)
    return render_rows(rows)


def render_table(table: Struct) -> str:
    """Write a table, an entry to the line."""
    return render_json(to_plain(table)) + "\n"


def _extend(ranges: dict[str, Range], names: frozenset[str], version: str, newest: str) -> dict[str, Range]:
    """Add the names of release `version` to ranges that reach up to `newest`; one that comes back begins anew."""
    is_newest = order_release(version) > order_release(newest)
    extended: dict[str, Range] = {}
    for name in sorted({*ranges, *names}):
        first, last = ranges.get(name, (version, None if is_newest else version))
        if name in names:
            first = version if is_newest and last is not None else min(first, version, key=order_release)
            last = None if last is None or is_newest else max(last, version, key=order_release)
        elif is_newest and last is None:
            last = newest
        extended[name] = (first, last)
    return extended


def _without_defaults(row: EngineImage | CpuImage) -> dict[str, object]:
    defaults = {field.name: field.default for field in structs.fields(row)}
    return {key: value for key, value in structs.asdict(row).items() if value != defaults[key]}


def _header(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[: next((position for position, line in enumerate(lines) if not line.startswith("#")), 0)])


if __name__ == "__main__":
    raise SystemExit(main())
