"""Redis: the router state that the gateway's workers share. Worth nothing after a restart, so nothing is saved.

Pure.
"""

from __future__ import annotations

from stackwright.domain.catalog import Catalog
from stackwright.domain.plan import Plan, Setting
from stackwright.domain.service import (
    AsProcess,
    Health,
    InContainer,
    ListenAddress,
    MountedFile,
    Port,
    PortOf,
    Service,
    SettingRef,
    SocketProbe,
)
from stackwright.domain.setting_spec import Kind, SettingSpec

_NAME = "redis"
SETTINGS = (SettingSpec(key="REDIS_IMAGE", section="Images", kind=Kind.IMAGE, meaning="Redis image"),)

REDIS = Service(
    name=_NAME,
    kind=_NAME,
    image=SettingRef(key="REDIS_IMAGE"),
    script="redis.sh",
    secrets=("redis_password",),
    files=(MountedFile(source="redis/start.sh", name="redis.sh"),),
    port=Port(number=6379),
    health=Health(
        probe=SocketProbe(
            sent="AUTH {secret}\r\nPING\r\n",
            expected="+OK\r\n+PONG\r\n",
            secret="redis_password",
            command='REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli ping | grep -q PONG',
        )
    ),
    in_container=InContainer(tmpfs=("/tmp", "/data")),
    as_process=AsProcess(
        environment={"REDIS_BIND": ListenAddress(), "REDIS_PORT": PortOf(service=_NAME)},
        program="redis-server",
        missing="no redis-server on PATH: each gateway worker keeps its own router state",
    ),
)


def redis_services(_: Plan) -> tuple[Service, ...]:
    """Return Redis, which follows from no plan."""
    return (REDIS,)


def catalog_values(catalog: Catalog) -> dict[str, Setting]:
    """Return the setting that follows from the catalog alone."""
    return {"REDIS_IMAGE": catalog.service(_NAME).setting("router state of the gateway")}
