"""Additions: what a person may have beside the models, off until wished for. Pure.

Monitoring, a front end and the like: each is one service row with an `Addition`, and this module has what all share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from stackwright.domain.access_key import Rights
from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode, Setting
from stackwright.domain.role import Role
from stackwright.domain.service import SettingRef
from stackwright.domain.setting_spec import Kind, SettingSpec
from stackwright.units import format_bytes

SECTION = "Additions"
DATA_HOME, SERVICES_BIND = "DATA_HOME", "SERVICES_BIND"
SETTINGS = (
    SettingSpec(
        key=DATA_HOME,
        section=SECTION,
        kind=Kind.PATH,
        meaning="Folder of what additions keep: databases, documents, figures",
    ),
    SettingSpec(
        key=SERVICES_BIND,
        section=SECTION,
        kind=Kind.ADDRESS,
        meaning="Address that additions publish their ports on",
    ),
)
BIND = SettingRef(key=SERVICES_BIND)
DECISION = "docs/decisions/0081-additions.md"


class PlannedStack(Struct, frozen=True, kw_only=True):
    """What an addition is planned for. `gpus`: how many are in use, `roles`: what the models can do."""

    environment: Environment
    host: Host
    mode: Mode
    gpus: int
    roles: frozenset[Role]


class Addition(Struct, frozen=True, kw_only=True, eq=False):
    """One thing that a person may wish for: `name` in `services:` and `--with`, and what it is, for a person.

    `decide` returns its settings; `memory_bytes` what its services take of the machine's memory with values in force.
    `warn` returns what a person should know of it on this machine.
    `has_key`: it asks the gateway by an access key of its own, whose text is in the secret `NAME_gateway_key`; `rights`
    are that key's.
    """

    name: str
    title: str
    decide: Callable[[PlannedStack, Catalog], Mapping[str, Setting]]
    memory_bytes: Callable[[Mapping[str, str]], int]
    warn: Callable[[PlannedStack], tuple[str, ...]] = lambda _: ()
    has_key: bool = False
    rights: Rights = Rights()

    @property
    def key_secret(self) -> str:
        """The secret that holds the text of its access key."""
        return f"{self.name}_gateway_key"


def port_setting(first: int, environment: Environment) -> Setting:
    """Return the setting of an addition's port: `first` in dev, and the numbers behind it in the others."""
    port = first + list(Environment).index(environment)
    return Setting(value=str(port), reason="each environment has a port of its own", source=DECISION)


def count_workers(planned: PlannedStack, most: Mapping[Mode, int], bytes_each: int) -> Setting:
    """Return how many worker processes an addition gets.

    Bounded by the mode, by half of the cores that engines leave, and by an eighth of the memory; at least one.

    Args:
        most: by mode.
        bytes_each: the measured memory of one.
    """
    host, mode = planned.host, planned.mode
    cores, memory = host.cpu.cores, host.memory_bytes
    if cores is None or memory is None:
        return Setting(value="1", reason="the host's cores or memory are unknown", source=DECISION)
    left = cores // 4 if mode is Mode.CPU else (cores - planned.gpus) // 2
    bounds = {
        f"at most {most[mode]} in {mode} mode": most[mode],
        f"{left or 'no'} of {cores} cores free for it": left,
        f"an eighth of the memory, at {format_bytes(bytes_each)} each": memory // 8 // bytes_each,
    }
    why, count = min(bounds.items(), key=lambda bound: bound[1])
    return Setting(value=str(max(1, count)), reason=why, source=DECISION)
