"""Services: a plan in, a description of each thing that runs out. Pure. One module and one row each.

A row is all that the rest of the package knows of a service: the renderers write it for Compose and for processes, and
the runtimes, the watcher, the diagnosis and the checks take what they ask it for from its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from msgspec import Struct, field

from stackwright.domain.catalog import Catalog
from stackwright.domain.monitoring import Monitored
from stackwright.domain.plan import Plan, Setting
from stackwright.domain.service import Front, MountedFile, Service
from stackwright.domain.setting_spec import SettingSpec
from stackwright.engines import engine_named
from stackwright.services import engine, gateway, monitoring, multimodal, outside, redis, retrieval, webui
from stackwright.services.additions import SETTINGS as SHARED_BY_ADDITIONS
from stackwright.services.additions import Addition
from stackwright.services.engine import ENGINE, engine_services
from stackwright.services.gateway import GATEWAY, KEYS, gateway_services
from stackwright.services.monitoring import board_file, generated_file, monitoring_services
from stackwright.services.multimodal import multimodal_services
from stackwright.services.redis import REDIS, redis_services
from stackwright.services.retrieval import retrieval_services
from stackwright.services.webui import webui_services


class DerivedSecret(Struct, frozen=True, kw_only=True, eq=False):
    """A secret whose text follows from that of the secret `of`; `#` begins a comment in it.

    `make` may take a second: it is called again only where that one has changed.
    """

    name: str
    of: str
    make: Callable[[str], str]


class ServiceRow(Struct, frozen=True, kw_only=True, eq=False):
    """How the services of one kind follow from a plan.

    `settings` are those that it declares; `values` returns those whose value follows from the catalog alone.
    `base` is what the base files say of it before there is a plan; a service without it stands in the override alone.
    `secrets` are those that are made for it, each with what its text has to begin with. A row with an `addition` makes
    nothing unless a plan has it. `files` are all that its services may read, of a row without `base`. `derived` are
    secrets whose text follows from another's; `brought` returns those that a person puts there for a plan.
    `monitored`: what an addition tells Prometheus of itself, beside that it is up.
    """

    make: Callable[[Plan], tuple[Service, ...]]
    settings: tuple[SettingSpec, ...] = ()
    values: Callable[[Catalog], Mapping[str, Setting]] = lambda _: {}
    base: Service | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    addition: Addition | None = None
    files: tuple[MountedFile, ...] = ()
    derived: tuple[DerivedSecret, ...] = ()
    brought: Callable[[Plan], tuple[str, ...]] = lambda _: ()
    monitored: Monitored | None = None

    def is_in(self, additions: Collection[str]) -> bool:
        """Return whether a plan with these additions has what this row makes."""
        return self.addition is None or self.addition.name in additions


SERVICES: list[ServiceRow] = [
    ServiceRow(make=engine_services, settings=engine.SETTINGS, base=ENGINE, secrets={"engine_key": ""}),
    ServiceRow(
        make=redis_services,
        settings=redis.SETTINGS,
        values=redis.catalog_values,
        base=REDIS,
        secrets={"redis_password": ""},
    ),
    ServiceRow(
        make=gateway_services,
        settings=gateway.SETTINGS,
        values=gateway.catalog_values,
        base=GATEWAY,
        secrets=KEYS,
        brought=lambda plan: plan.gateway.cloud_secrets,
    ),
    ServiceRow(
        make=monitoring_services,
        settings=monitoring.SETTINGS,
        secrets={monitoring.PASSWORD: "", monitoring.GRAFANA_PASSWORD: ""},
        derived=(DerivedSecret(name=monitoring.WEB, of=monitoring.PASSWORD, make=monitoring.web_configuration),),
        addition=monitoring.ADDITION,
        files=monitoring.FILES,
    ),
    ServiceRow(
        make=webui_services,
        settings=webui.SETTINGS,
        secrets={webui.SECRET_KEY: ""},
        addition=webui.ADDITION,
        files=webui.FILES,
    ),
    ServiceRow(
        make=retrieval_services,
        settings=retrieval.SETTINGS,
        secrets={retrieval.DATABASE_PASSWORD: ""},
        addition=retrieval.ADDITION,
        files=retrieval.FILES,
        brought=retrieval.brought_secrets,
        monitored=retrieval.MONITORED,
    ),
    ServiceRow(
        make=multimodal_services,
        settings=multimodal.SETTINGS,
        addition=multimodal.ADDITION,
        files=multimodal.FILES,
        monitored=multimodal.MONITORED,
    ),
]
"""What runs, what others wait for first."""


def services_of(plan: Plan) -> tuple[Service, ...]:
    """Return everything that a plan runs, what others wait for first."""
    made = tuple(service for row in SERVICES if row.is_in(plan.additions) for service in row.make(plan))
    boards = tuple(board_file(addition.name) for addition in monitored_of(plan.additions))
    services = tuple(monitoring.watching(service, made, boards) for service in made)
    if not outside.KEYS & plan.settings.keys():
        return services
    names = tuple(service.name for service in services)
    return tuple(outside.with_way_out(service, names, plan.settings.keys()) for service in services)


BASE, BESIDE_ENGINES = "compose.yaml", "services.yaml"
"""The base files of compose/: the second has no engine, for the plans whose engine the first does not have."""


def base_of(plan: Plan) -> str:
    """Return the base file that a plan's override is laid over."""
    return BASE if engine_named(plan.engine.name).launch.in_base else BESIDE_ENGINES


def base_services(base: str = BASE) -> tuple[Service, ...]:
    """Return what every plan over this base file runs, as far as it can be told without one."""
    bases = (row.base for row in SERVICES if row.base is not None)
    return tuple(service for service in bases if base == BASE or service is not ENGINE)


def additions() -> dict[str, Addition]:
    """Return everything that may be wished for beside the models, by name."""
    return {row.addition.name: row.addition for row in SERVICES if row.addition is not None}


def monitored_of(names: Collection[str] | None = None) -> dict[Addition, Monitored]:
    """Return what additions tell Prometheus, of those with these names; None: of all."""
    rows = (row for row in SERVICES if names is None or row.is_in(names))
    return {row.addition: row.monitored for row in rows if row.addition is not None and row.monitored is not None}


def additions_with(key: str) -> tuple[str, ...]:
    """Return the additions that bring a setting: one, all for what they share, none for what every stack has."""
    if any(spec.key == key for spec in SHARED_BY_ADDITIONS):
        return tuple(additions())
    rows = (row for row in SERVICES if row.addition is not None and any(spec.key == key for spec in row.settings))
    return tuple(row.addition.name for row in rows if row.addition is not None)


def made_secrets(wished: Collection[str]) -> dict[str, str]:
    """Return the secrets that are made for the services, each with what its text begins with.

    Args:
        wished: the additions that run beside the others.
    """
    return {name: begin for row in SERVICES if row.is_in(wished) for name, begin in row.secrets.items()}


def derived_secrets(wished: Collection[str]) -> tuple[DerivedSecret, ...]:
    """Return the secrets whose text follows from another's, of the additions that are wished for and the others."""
    return tuple(secret for row in SERVICES if row.is_in(wished) for secret in row.derived)


def brought_secrets(plan: Plan) -> tuple[str, ...]:
    """Return the secrets that a person puts there for a plan."""
    return tuple(name for row in SERVICES if row.is_in(plan.additions) for name in row.brought(plan))


def front_of(services: tuple[Service, ...]) -> Service:
    """Return the service that clients ask."""
    return next(service for service in services if service.front is not None)


def stop_order(services: tuple[Service, ...]) -> tuple[tuple[Service, ...], ...]:
    """Return the services in the groups in which they end: what clients ask, what works for it, what that relies on.

    The last are those that others wait to be healthy before they start: the reverse of the start's order.
    """
    relied_on = {dependency.service for service in services for dependency in service.after if dependency.healthy}
    ranks = [0 if service.front is not None else 2 if service.name in relied_on else 1 for service in services]
    groups = (tuple(service for service, own in zip(services, ranks, strict=True) if own == rank) for rank in range(3))
    return tuple(group for group in groups if group)


def access_to(services: tuple[Service, ...]) -> Front:
    """Return what there is to know of the service that clients ask."""
    return next(service.front for service in services if service.front is not None)


def generated_files() -> tuple[str, ...]:
    """Return the names of the rendered files that services read."""
    return tuple(file.source for file in _read_files() if file.generated)


def base_files() -> Iterator[str]:
    """Yield the files below compose/ that every project has: both base files, and what services read."""
    yield from (BASE, BESIDE_ENGINES)
    for file in _read_files():
        if not file.generated:
            yield from (f"{file.source}/{held}" for held in file.holds) if file.holds else (file.source,)


def _read_files() -> Iterator[MountedFile]:
    """Yield every file that any service may read."""
    yield from (file for service in base_services() for file in service.files)
    yield from (file for row in SERVICES for file in row.files)
    yield from (generated_file(board_file(addition.name)) for addition in monitored_of())
