"""The ports and addresses that services publish, and who listens there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from stackwright.detect.listener import find_listener
from stackwright.domain.finding import Finding, error, not_checked, warning
from stackwright.domain.machine import Seen, Unseen
from stackwright.domain.plan import Origin, Setting
from stackwright.domain.service import Service, SettingRef
from stackwright.runtime.ports import why_taken
from stackwright.validation.check import DOWN, Check, Observation, Subject, safely
from stackwright.validation.neighbours import NEIGHBOURS, Neighbour, stop_words


class SeenPort(Struct, frozen=True, kw_only=True):
    """A service's port for the outside. `refusal` is the kernel's to listen there, None where the port is free.

    `listener` names who listens there, None where nobody is seen. `port_key` is the setting that chooses another port.
    `bind_key` is that of the address.
    """

    service: Service
    address: str
    port_key: str
    bind_key: str
    refusal: OSError | None
    listener: str | None = None


def probe_ports(services: Iterable[Service], value: Callable[[SettingRef], str]) -> tuple[SeenPort, ...]:
    """Look at every port that one of the services publishes; `value` gives a setting's value in force."""
    published = ((service, service.published) for service in services)
    return tuple(_probe(service, settings, value) for service, settings in published if settings is not None)


def _probe(service: Service, settings: tuple[SettingRef, SettingRef], value: Callable[[SettingRef], str]) -> SeenPort:
    bind, port = map(value, settings)
    refusal = why_taken(bind, int(port))
    found = None if refusal is None else safely(lambda: find_listener(int(port)))
    listener = None if isinstance(found, Unseen) else found
    return SeenPort(
        service=service,
        address=f"{bind}:{port}",
        port_key=settings[1].key,
        bind_key=settings[0].key,
        refusal=refusal,
        listener=listener,
    )


def check_ports(
    ports: Iterable[SeenPort],
    environment: str,
    planned: Mapping[str, Setting],
    holders: Mapping[int, str] | None = None,
) -> Iterator[Finding]:
    """Check that each port is free, and one service's. To be asked only while the stack itself is down.

    Args:
        ports: as the kernel answered.
        environment: its name.
        planned: the plan's settings.
        holders: the ports that stacks of other environments publish, and what a person calls those.
    """
    taken: dict[str, SeenPort] = {}
    for port in ports:
        other = taken.setdefault(port.address.rpartition(":")[2], port)
        if other is not port:
            yield error(
                "port-taken",
                found=f"{port.port_key} and {other.port_key} are one port, {port.address}",
                expected="a port for each service",
                fix=f"choose another port: `configure-gpu {environment} --set {port.port_key}=…`",
            )
        elif port.refusal is not None:
            holder = (holders or {}).get(int(port.address.rpartition(":")[2]))
            if holder is not None and port.refusal.errno == errno.EADDRINUSE:
                yield _held(port, holder, environment)
            else:
                yield _why_not_free(port, port.refusal, environment, planned)


def _held(port: SeenPort, holder: str, environment: str) -> Finding:
    another = f"`configure-gpu {environment} --set {port.port_key}=…`"
    return error(
        "port-taken",
        found=f"{port.address}: {holder} runs and listens there",
        expected="a free port",
        fix=f"choose another port: {another}, or {stop_words((holder,), environment)}",
    )


def _check_ports(on: Subject, ports: Iterable[SeenPort], neighbours: Seen[tuple[Neighbour, ...]]) -> Iterator[Finding]:
    """Check the ports; one that an environment holds which the start replaces is free by then."""
    if isinstance(neighbours, Unseen):
        yield not_checked("other environments", neighbours.why, on.environment)
    beside = () if isinstance(neighbours, Unseen) else neighbours
    leaving = {one.port for one in beside if one.here and one.stack.environment in on.leaving}
    left = (port for port in ports if int(port.address.rpartition(":")[2]) not in leaving)
    holders = {one.port: one.name for one in beside if one.port is not None}
    yield from check_ports(left, on.environment, on.plan.settings, holders)


def _why_not_free(port: SeenPort, refusal: OSError, environment: str, planned: Mapping[str, Setting]) -> Finding:
    address = port.address
    if refusal.errno == errno.EADDRNOTAVAIL:
        found = f"{address.partition(':')[0]} is not an address of this machine"
        fix = _correct_address(port, environment, planned.get(port.bind_key))
        return error("address-unknown", found=found, expected="127.0.0.1, or an address of this machine", fix=fix)
    another = f"`configure-gpu {environment} --set {port.port_key}=…`"
    if refusal.errno == errno.EACCES:  # ports below 1024; a daemon that runs as root may still publish them
        found = f"{address}: not for this user"
        return warning("port-privileged", found=found, expected="a port from 1024 on", fix=f"choose one with {another}")
    fix = f"stop the program that listens there, or choose another port: {another}"
    holder = f", by {port.listener}" if port.listener else ""
    return error("port-taken", found=f"{address}: {refusal.strerror}{holder}", expected="a free port", fix=fix)


def _correct_address(port: SeenPort, environment: str, planned: Setting | None) -> str:
    """Return where a wrong address is corrected: where it was written."""
    if planned is not None and planned.value != port.address.partition(":")[0]:
        return f"correct {port.bind_key} in envs/.env.{environment}.local"
    again, file = f"`configure-gpu {environment}`", f"envs/{environment}.yaml"
    if planned is not None and planned.origin is Origin.PINNED:
        return f"plan without `--set {port.bind_key}=…`, or with another address: {again}"
    if port.service.front is None or (planned is not None and planned.source != file):
        return f"correct {port.bind_key} in {file}, then {again}"
    return f"correct {port.service.front.wishes}.bind in {file}, then {again}"


PORTS = Observation(take=lambda machine: probe_ports(machine.stack.services, machine.stack.value))


PORT = Check(
    name="port",
    about="each published port and address, and the program that listens there",
    findings=tuple("port-taken port-privileged address-unknown".split()),
    rule=_check_ports,
    observations=(PORTS, NEIGHBOURS),
    when=DOWN,
)
