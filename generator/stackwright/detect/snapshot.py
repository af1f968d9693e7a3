"""Reads and writes host snapshots: the YAML of docs/reference/host.md.

Touches only the file that it is asked for. Text that `format_snapshot` made reads back to an equal Host, and that Host
formats to the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, structs

from stackwright.atomic import replace_file
from stackwright.detect.fact import PCI_ADDRESS, SLICE_UUID, UUID, is_plain
from stackwright.domain.host import HOST_SCHEMA, Containers, Driver, Gpu, Host, Link, Network, OperatingSystem
from stackwright.domain.topology import NVLINK_KINDS
from stackwright.errors import HostError, UsageError
from stackwright.reading import convert, load_yaml, to_plain

LARGEST_NUMBER = 2**63 - 1
LINE_LENGTH = 118
ROWS = ("gpus", "links", "p2p", "other_gpus")
OPTIONAL: dict[str, type[Struct]] = {
    "driver": Driver,
    "os": OperatingSystem,
    "containers": Containers,
    "network": Network,
}
"""The parts with keys that are left out where there is nothing to say."""
CUDA_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}")
COMPUTE_CAPABILITY = re.compile(r"[0-9]{1,3}\.[0-9]{1,2}")
DETECT = "name a file that `stackwright detect -o FILE` wrote on that machine"
DETECT_AGAIN = "create it again on that machine: `stackwright detect -o FILE`"


def read_snapshot(path: Path) -> Host:
    """Read a snapshot, checked whole: what it says of GPUs, links and P2P must agree.

    Raises:
        HostError: the file cannot be read, is not a snapshot, is newer than this Stackwright, or contradicts itself;
            the message names the key.
    """
    try:
        return _read(path)
    except HostError as failure:
        inside = path / "host.yaml"
        otherwise = DETECT_AGAIN if path.is_file() else f"name the file in it: {inside}" if inside.is_file() else DETECT
        raise HostError(failure.message, hint=failure.hint or otherwise) from None


def _read(path: Path) -> Host:
    data = load_yaml(path, HostError)
    if not isinstance(data, dict):
        raise HostError(f"{path}: not a host snapshot: its top level is not a mapping", hint=DETECT_AGAIN)
    schema = data.get("schema")
    if isinstance(schema, int) and schema > HOST_SCHEMA:
        raise HostError(
            f"{path}: schema {_shorten(schema)} is newer than this Stackwright reads ({HOST_SCHEMA})",
            hint="update Stackwright, or " + DETECT_AGAIN,
        )
    host = convert(data, Host, where=str(path), error=HostError)
    for where, problem in check_host(host):
        raise HostError(f"{path}: {where}: {problem}", hint=DETECT_AGAIN)
    return host


def write_snapshot(host: Host, path: Path) -> None:
    """Write a snapshot, whole or not at all: a file that stands there is replaced in one step.

    Raises:
        UsageError: the file cannot be written there.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():  # a pipe or /dev/stdout is written to, never replaced
            target.write_text(format_snapshot(host), encoding="utf-8")
        else:
            replace_file(target, format_snapshot(host), mode=None)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise UsageError(f"{path}: cannot be written: {reason}", hint="name another file after `-o`") from None


def format_snapshot(host: Host) -> str:
    """Write a host as YAML: a line for each part, a row for each GPU, link and line of the P2P matrix."""
    data = to_plain(host)
    _leave_out(Host, data)
    for name, kind in OPTIONAL.items():
        _leave_out(kind, data.get(name))
    for gpu in data["gpus"]:
        _leave_out(Gpu, gpu)
    return "".join(_format_part(key, value) for key, value in data.items())


def _leave_out(kind: type[Struct], row: dict[str, object] | None) -> None:
    """Take out of a row what is as empty as its default."""
    for field in structs.fields(kind) if row else ():
        if row and field.default in (None, False, ()) and not row.get(field.name):
            row.pop(field.name, None)


def check_host(host: Host) -> Iterator[tuple[str, str]]:
    """Yield (place, problem) for everything in a host that no machine can be; nothing for what detection makes."""
    if host.schema != HOST_SCHEMA:
        yield "schema", f"found {host.schema}; known is {HOST_SCHEMA}"
    yield from _check_values(host, "")
    yield from _check_cpu(host)
    if host.driver is not None and host.driver.cuda is not None and not CUDA_VERSION.fullmatch(host.driver.cuda):
        yield "driver.cuda", f'found {host.driver.cuda!r}; allowed is digits.digits, as "13.0"'
    whole = [gpu for gpu in host.gpus if gpu.mig_slice is None]
    for position, gpu in enumerate(host.gpus):
        yield from _check_gpu(gpu, f"gpus[{position}]", {board.index for board in whole if board.mig})
    for key, rows in (("index", host.gpus), ("uuid", host.gpus), ("pci_bus_id", whole)):
        yield from _check_unique((getattr(gpu, key) for gpu in rows), "gpus", key)
    for position, link in enumerate(host.links):
        yield from _check_link(link, f"links[{position}]", {gpu.index for gpu in whole})
    yield from _check_unique(((link.a, link.b) for link in host.links), "links", "pair of GPUs")
    yield from _check_p2p(host)


def _check_values(value: object, where: str) -> Iterator[tuple[str, str]]:
    """Check every number and text: both are bounded, and a text is one printable line, since it enters files."""
    if isinstance(value, Struct):
        for field, own in structs.asdict(value).items():
            yield from _check_values(own, f"{where}.{field}" if where else field)
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _check_values(item, f"{where}[{position}]")
    elif isinstance(value, str) and not is_plain(value):
        yield where, "empty, longer than 200 characters, or not one printable line"
    elif isinstance(value, int) and not 0 <= value <= LARGEST_NUMBER:
        yield where, f"found {_shorten(value)}; allowed is 0 to {LARGEST_NUMBER}"


def _check_cpu(host: Host) -> Iterator[tuple[str, str]]:
    for key in ("cores", "threads", "numa_nodes"):
        if getattr(host.cpu, key) == 0:
            yield f"cpu.{key}", "found 0; a machine has at least 1 (null where it is unknown)"


def _check_gpu(gpu: Gpu, where: str, partitioned: set[int]) -> Iterator[tuple[str, str]]:
    prefix, uuid = ("GPU", UUID) if gpu.mig_slice is None else ("MIG", SLICE_UUID)
    forms = (
        ("uuid", gpu.uuid, uuid, f"{prefix}-… of letters, digits and dashes"),
        ("compute_capability", gpu.compute_capability, COMPUTE_CAPABILITY, 'digits.digits, as "8.6"'),
        ("pci_bus_id", gpu.pci_bus_id, PCI_ADDRESS, 'domain:bus:device.function, as "00000000:01:00.0"'),
    )
    for key, value, form, allowed in forms:
        if value is not None and not form.fullmatch(value):
            yield f"{where}.{key}", f"found {value!r}; allowed is {allowed}"
    if gpu.mig_slice is not None and gpu.mig_slice.gpu not in partitioned:
        yield f"{where}.mig_slice.gpu", f"there is no GPU with index {gpu.mig_slice.gpu} whose mig is true"


def _check_link(link: Link, where: str, known: set[int]) -> Iterator[tuple[str, str]]:
    for key, index in (("a", link.a), ("b", link.b)):
        if index not in known:
            yield f"{where}.{key}", f"there is no whole GPU with index {index}"
    if link.a >= link.b:
        yield where, f"found a: {link.a} and b: {link.b}; a must be the smaller index"
    if link.kind not in NVLINK_KINDS and (link.lanes is not None or link.version is not None):
        yield where, f"a link of kind {link.kind.value} has neither lanes nor version"
    if link.lanes == 0:
        yield f"{where}.lanes", "found 0; a link has at least 1"


def _check_p2p(host: Host) -> Iterator[tuple[str, str]]:
    size = len(host.gpus)
    if len(host.p2p) != size:
        yield "p2p", f"found {len(host.p2p)} rows for {size} GPUs"
    for position, row in enumerate(host.p2p):
        if len(row) != size:
            yield f"p2p[{position}]", f"found {len(row)} values for {size} GPUs"


def _check_unique(values: Iterable[object], where: str, what: str) -> Iterator[tuple[str, str]]:
    seen: set[object] = set()
    for value in values:
        if value is not None and value in seen:
            yield where, f"two rows have the same {what}: {value}"
        seen.add(value)


def _format_part(key: str, value: object) -> str:
    """Write one key of the top level."""
    if key in ROWS and isinstance(value, Sequence) and value:
        return f"{key}:\n" + "".join(f"  - {_format_row(row, indent=5)}\n" for row in value)
    return f"{key}: {_format_row(value, indent=len(key) + 3)}\n"


def _format_row(value: object, indent: int) -> str:
    """Write a mapping in flow style, broken between its items; anything else on one line."""
    if not isinstance(value, dict):
        return _format_value(value)
    lines = [""]
    for position, (key, item) in enumerate(value.items()):
        text = f"{key}: {_format_value(item)}" + ("}" if position == len(value) - 1 else ",")
        if lines[-1] and indent + len(lines[-1]) + 1 + len(text) > LINE_LENGTH:
            lines.append("")
        lines[-1] += f" {text}" if lines[-1] else text
    return "{" + ("\n" + " " * indent).join(lines)


def _format_value(value: object) -> str:
    """Write one value as it may stand inside a flow mapping, on one line."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump([value], Dumper=dumper, default_flow_style=True, width=2**31 - 1, allow_unicode=True)
    return text.strip()[1:-1]


def _shorten(number: int) -> str:
    """Write a number that may be absurdly long."""
    return str(number) if abs(number) <= 2**64 else "a number beyond 64 bits"
