"""A service that is none of the package's, as a part of every stack and as an addition: nothing else names services."""

from __future__ import annotations

from msgspec.structs import replace
from stackwright.domain.plan import Setting
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    Health,
    HostOf,
    HttpProbe,
    Joined,
    ListenAddress,
    Page,
    Port,
    PortOf,
    Service,
    SettingRef,
    Smoke,
    VolumeRef,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.services import ServiceRow
from stackwright.services.additions import BIND, Addition, port_setting
from stackwright.units import GIB

TOY_SERVICE = Service(
    name="toybox",
    kind="toybox",
    image=SettingRef(key="TOYBOX_IMAGE"),
    script=None,
    command=("python3", "-m", "http.server", "--bind", ListenAddress(), PortOf(service="toybox")),
    environment={"GATEWAY": Joined(parts=("http://", HostOf(service="gateway"), ":", PortOf(service="gateway")))},
    secrets=("toy_key",),
    port=Port(number=8080),
    health=Health(probe=HttpProbe(path="/")),
    after=(Dependency(service="gateway"),),
    as_process=AsProcess(program="python3"),
)
ROW = ServiceRow(
    make=lambda _: (TOY_SERVICE,),
    settings=(SettingSpec(key="TOYBOX_IMAGE", section="Images", kind=Kind.TEXT, meaning="Toy image"),),
    values=lambda _: {"TOYBOX_IMAGE": Setting(value="toybox:1", reason="the only one", source="tests/toy_service.py")},
    secrets={"toy_key": "toy-"},
)


def addition(name: str, gib: float) -> Addition:
    """Return an addition that takes so much memory."""
    return Addition(
        name=name,
        title=f"the toy {name}",
        decide=lambda planned, _: {"TOYBOX_PORT": port_setting(7000, planned.environment)},
        memory_bytes=lambda _: int(gib * GIB),
        has_key=True,
    )


ADDED_SERVICE = replace(
    TOY_SERVICE,
    command=(*TOY_SERVICE.command, "--directory", VolumeRef(name="toys")),
    volumes=("toys",),
    port=Port(number=8080, published=(BIND, SettingRef(key="TOYBOX_PORT"))),
    secrets=("toy_key", "toybox_gateway_key"),
    smoke=Smoke(what="for its toys", path="/", holds="Directory listing"),
    page=Page(title="Toys"),
)
ADDED = replace(
    ROW,
    make=lambda _: (ADDED_SERVICE,),
    settings=(*ROW.settings, whole_number("TOYBOX_PORT", "Additions", (1, 65535), "Port of the toys")),
    addition=addition("toybox", 1 / 16),
)
