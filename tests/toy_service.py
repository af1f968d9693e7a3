"""A service that is none of the package's: one value and one row, to show that nothing else names services."""

from __future__ import annotations

from stackwright.domain.plan import Setting
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    Health,
    HostOf,
    HttpProbe,
    Joined,
    ListenAddress,
    Port,
    PortOf,
    Service,
    SettingRef,
)
from stackwright.domain.setting_spec import Kind, SettingSpec
from stackwright.services import ServiceRow

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
