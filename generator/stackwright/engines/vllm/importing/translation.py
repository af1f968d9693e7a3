"""A hand-written setup as an environment's wishes, with a note on every line that matters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from stackwright.engines import default_engine
from stackwright.engines.vllm.importing.compose import ContainerService
from stackwright.engines.vllm.importing.engine_wishes import EngineWishes, Surroundings, engine_wishes
from stackwright.engines.vllm.importing.gateway_file import GatewayFile
from stackwright.engines.vllm.importing.gateway_wishes import GatewayReader, inner_port
from stackwright.engines.vllm.importing.notes import Fate, Note, Taken
from stackwright.engines.vllm.importing.recognise import ServiceKind, image_name, kind_of, read_engine
from stackwright.engines.vllm.importing.tree import Node, Spot
from stackwright.errors import UsageError

_SIDE_ROLES = ("embedding", "rerank")
_OWN_KEYS: Mapping[str, str] = {
    "healthcheck": "the stack checks its services itself",
    "restart": "the stack restarts its services itself",
    "depends_on": "the stack starts its services in order",
    "container_name": "containers are named by project and service",
    "hostname": "containers are named by project and service",
    "ipc": "engines get shared memory of their own (VLLM_SHM_SIZE)",
    "ulimits": "the stack sets what its services need",
    "runtime": "the stack asks for GPUs as the host's container engine takes it (CDI or the NVIDIA runtime)",
    "devices": "the stack asks for GPUs as the host's container engine takes it (CDI or the NVIDIA runtime)",
    "expose": "services of the stack reach each other anyway",
    "logging": "logs are rotated by the stack",
    "user": "containers run as you (STACKWRIGHT_UID)",
    "networks": "the stack has networks of its own",
    "network_mode": "the stack has networks of its own",
    "profiles": "all models of the file are in one environment",
}
_UNSAFE_KEYS: Mapping[str, str] = {
    "privileged": "the container could do anything to the host; no service of the stack is",
    "cap_add": "more rights than an engine needs; the stack's services drop them all",
    "security_opt": "the stack's services run with no new privileges",
    "pid": "the stack's services see only their own processes",
}
_QUIET = (
    "extends",
    "labels",
    "--rm",
    "-d",
    "--detach",
    "-it",
    "--restart",
    "stdin_open",
    "tty",
    "pull_policy",
    "platform",
)


class Translation(Struct, frozen=True, kw_only=True):
    """What an import comes to: the wishes in order, the notes, and the engines whose launches can be judged.

    `number`: what ends the key of a setting of each model.
    """

    taken: tuple[Taken, ...]
    notes: tuple[Note, ...]
    engines: tuple[EngineWishes, ...]
    number: Mapping[int, str]


def translate(
    services: tuple[ContainerService, ...],
    gateway: GatewayFile | None,
    networks: Mapping[str, Node],
    around: Surroundings,
) -> Translation:
    """Translate the services of a setup, and LiteLLM's configuration where there is one.

    Raises:
        UsageError: there is no engine that could be taken.
    """
    kinds = {service.name: kind_of(service) for service in services}
    read = tuple(
        engine_wishes(read_engine(service), around) for service in services if kinds[service.name] is ServiceKind.ENGINE
    )
    if not read:
        raise _nothing(services, kinds)
    if all(engine.model is None for engine in read):
        first = next(note for engine in read for note in engine.notes if note.fate in (Fate.BROKEN, Fate.DROPPED))
        why, _, step = first.why.partition(": ")
        raise UsageError(f"{first.at}: {first.subject}: {why}", hint=step or None)
    reader = GatewayReader(read, services, around)
    doors = [service for service in services if kinds[service.name] is ServiceKind.GATEWAY]
    for service in doors:
        reader.read_service(service, gateway)
    if gateway is not None:
        reader.read_file(gateway)
    whole = _Whole(read, reader)
    whole.join(doors, networks)
    whole.notes += [note for service in services for note in _say_service(service, kinds[service.name], around.secret)]
    whole.notes += _collisions(services)
    whole.notes += _crowded(read, around.catalog.engines[0].utilization_default)
    # The last door: whatever it was taken as, what looks like a secret is in no file.
    hidden = [wish for wish in whole.taken if any(around.secret(text) for text in _texts(wish))]
    secrets = [Note(at=wish.at, fate=Fate.SECRET, subject=str(wish.path[-1]), why=_LOOKS) for wish in hidden]
    notes = [*(note for engine in read for note in engine.notes), *reader.notes, *whole.notes, *secrets]
    return Translation(
        taken=tuple(wish for wish in whole.taken if wish not in hidden),
        notes=tuple(sorted(dict.fromkeys(notes), key=lambda note: note.at)),
        engines=tuple(engine for engine in read if engine.model is not None),
        number={position: f"_{position + 1}" if position else "" for position in range(len(read))},
    )


_LOOKS = "its value looks like a secret, and is not copied"


def _texts(wish: Taken) -> Iterator[str]:
    yield from (
        value for value in (wish.value if isinstance(wish.value, list) else [wish.value]) if isinstance(value, str)
    )


def _nothing(services: tuple[ContainerService, ...], kinds: Mapping[str, ServiceKind]) -> UsageError:
    others = [service for service in services if kinds[service.name] is ServiceKind.OTHER_ENGINE]
    if others:
        names = ", ".join(f"{service.name} ({image_name(service) or 'built'})" for service in others[:4])
        return UsageError(
            f"{others[0].at}: no vLLM service; found another engine: {names}",
            hint="docs/how-to/import.md says how to come from Ollama or another engine",
        )
    found = f"found {', '.join(service.name for service in services[:6])}" if services else "found no service"
    return UsageError(
        f"no service starts vLLM; {found}", hint="name the Compose file that starts it, then LiteLLM's configuration"
    )


class _Whole:
    """Joins engines and gateway to one environment."""

    def __init__(self, read: tuple[EngineWishes, ...], reader: GatewayReader) -> None:
        self.read = read
        self.reader = reader
        self.taken: list[Taken] = []
        self.notes: list[Note] = []

    def say(self, note_at: Taken, fate: Fate, why: str) -> None:
        self.notes.append(Note(at=note_at.at, fate=fate, subject=note_at.subject, why=why))

    def join(self, doors: list[ContainerService], networks: Mapping[str, Node]) -> None:
        """Take each model once, those that write first: so are the settings of several models numbered."""
        models: dict[str, list[EngineWishes]] = {}
        for engine in sorted(self.read, key=lambda each: each.role in _SIDE_ROLES):
            if engine.model is not None:
                models.setdefault(engine.model.text, []).append(engine)
        names: set[str] = set()
        for position, (model, engines) in enumerate(models.items()):
            self._model(position, model, engines, names, alone=len(models) == 1)
        self._devices([engine for engines in models.values() for engine in engines])
        self._ports(doors, [engine for engines in models.values() for engine in engines])
        self._networks(doors, networks)
        shared = {wish.path: wish for engine in self.read if engine.model is not None for wish in engine.shared}
        self.taken += [*shared.values(), *self.reader.taken]

    def _model(self, position: int, model: str, engines: list[EngineWishes], names: set[str], *, alone: bool) -> None:
        first = engines[0]
        assert first.model is not None
        said = f"model {first.model.text}"
        self.taken.append(Taken(path=("models", position, "name"), value=model, at=first.model.at, subject=said))
        if (
            first.role is not None
            and not any(wish.path == ("role",) for wish in first.own)
            and first.role in _SIDE_ROLES
        ):
            told = Taken(
                path=("models", position, "role"), value=first.role, at=first.model.at, subject=f"{said}: its role"
            )
            self.taken.append(told)
        served = next((wish.value for wish in first.own if wish.path == ("served_name",)), model)
        names.add(served)
        for wish in first.own:
            self.taken.append(replace(wish, path=("models", position, *wish.path)))
            names |= set(wish.value) if wish.path == ("aliases",) else set()
        for alias in self.reader.aliases.get(model, ()):
            if alias.text not in names:
                path = ("models", position, "aliases")
                self.taken.append(Taken(path=path, value=[alias.text], at=alias.at, subject=alias.lines[0][1]))
                names.add(alias.text)
        self.taken += [self._placed(wish, position, alone=alone) for wish in first.settings]
        for other in engines[1:]:
            self._another(other, first)

    def _placed(self, wish: Taken, position: int, *, alone: bool) -> Taken:
        keys = default_engine().keys
        own = {keys.context: "max_model_len", keys.memory_share: "gpu_memory_utilization"}
        if alone and wish.path[1] in own:
            value = float(wish.value) if wish.path[1] == keys.memory_share else wish.value
            return replace(wish, path=(own[str(wish.path[1])],), value=value)
        return replace(wish, path=(*wish.path, position))

    def _another(self, other: EngineWishes, first: EngineWishes) -> None:
        """Say that a further engine of the same model is a replica, and where it differs."""
        service = other.setup.service
        why = f"the same model as {first.setup.service.name}: the plan makes a replica for each group of GPUs"
        self.notes.append(Note(at=service.at, fate=Fate.DROPPED, subject=service.name, why=why))
        known = {(wish.path, str(wish.value)) for wish in (*first.own, *first.settings)}
        for wish in (*other.own, *other.settings):
            if (wish.path, str(wish.value)) not in known:
                self.say(wish, Fate.DROPPED, "replicas of one model are alike")

    def _devices(self, engines: list[EngineWishes]) -> None:
        """Take the GPUs, where every engine names its own."""
        for engine in engines:
            claim = engine.setup.service.gpus
            if claim is not None and engine.devices is None and not claim.foreign:
                said = f"GPUs: {claim.count or 'all'}"
                self.notes.append(
                    Note(at=claim.at, fate=Fate.DROPPED, subject=said, why="the plan chooses among all of the host")
                )
        if not engines or any(engine.devices is None for engine in engines):
            return
        named = list(dict.fromkeys(device for engine in engines for device in engine.devices or ()))
        service = engines[0].setup.service
        told = [service.variables.get(name) for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")]
        at = next((value.at for value in told if value is not None), service.gpus.at if service.gpus else service.at)
        value = ",".join(named)
        subject = f"GPUs {value}"
        if len(engines) > 1:
            subject += " of all engines together; which model gets which is planned"
        self.taken.append(Taken(path=("settings", "NVIDIA_VISIBLE_DEVICES"), value=value, at=at, subject=subject))

    def _ports(self, doors: list[ContainerService], engines: list[EngineWishes]) -> None:
        published = [
            (engine, port) for engine in engines for port in engine.setup.service.ports if port.host is not None
        ]
        for engine, port in published:
            said = f"port {port.host}:{port.container}"
            own = port.container == inner_port(engine)
            if not doors and len(published) == 1 and own:
                self.taken.append(Taken(path=("gateway", "port"), value=port.host, at=port.at, subject=said))
            else:
                why = "engines publish no port; clients reach every model through the gateway"
                self.notes.append(Note(at=port.at, fate=Fate.DROPPED, subject=said, why=why))
            keyed = any(flag.name == "--api-key" for flag in engine.setup.launch.flags)
            if own and not keyed and "VLLM_API_KEY" not in engine.setup.service.variables and not port.is_local:
                why = "the engine answers everybody who reaches this machine, without a key; here: 127.0.0.1, and a key"
                self.notes.append(Note(at=port.at, fate=Fate.UNSAFE, subject=f"{said} on {port.reach}", why=why))

    def _networks(self, doors: list[ContainerService], networks: Mapping[str, Node]) -> None:
        """Take one network of the host's that clients are in."""
        outside = {
            name: node for name, node in networks.items() if (told := node.get("external")) and told.text != "false"
        }
        joined = [
            service
            for service in (*doors, *(engine.setup.service for engine in self.read))
            if "networks" in service.other
        ]
        for service in joined:
            told = service.other["networks"]
            for name in (*(item.text for item in told.items if item.text), *told.fields):
                if name in outside:
                    real = outside[name].get("name")
                    value = real.text if real is not None and real.text else name
                    taken = Taken(path=("gateway", "network"), value=value, at=told.at, subject=f"network {value}")
                    self.taken.append(taken)
                    return


def _say_service(service: ContainerService, kind: ServiceKind, secret: Callable[[str], bool]) -> Iterator[Note]:
    """Yield what is said of a service beside its command."""
    name = image_name(service)
    if kind is ServiceKind.OTHER_ENGINE:
        why = "another engine than vLLM: its model is not taken"
        yield Note(at=service.at, fate=Fate.DROPPED, subject=f"{service.name} ({name})", why=why)
        return
    if kind is ServiceKind.OTHER:
        redis = "redis" in name or "valkey" in name
        why = (
            "the stack brings its own Redis" if redis else "no part of the stack: keep it in a Compose file of its own"
        )
        yield Note(at=service.at, fate=Fate.DROPPED, subject=service.name, why=why)
        return
    for unset in service.unset:
        if not unset.text.isupper() or not secret(f"{unset.text}=0123456789"):
            yield _say_unset(unset.text, unset.at)
    for key, node in service.other.items():
        yield from _say_key(key, node)


def _say_unset(name: str, at: Spot) -> Note:
    if name.endswith("?"):
        why = "Compose refuses to start without it: give it a value in .env"
        return Note(at=at, fate=Fate.BROKEN, subject=f"${{{name[:-1]}}}", why=why)
    if name.endswith("!"):
        return Note(at=at, fate=Fate.BROKEN, subject=name[:-1], why="this env_file is not there")
    return Note(at=at, fate=Fate.UNKNOWN, subject=f"${{{name}}}", why="has no value here: nothing stands in its place")


def _say_key(key: str, node: Node) -> Iterator[Note]:
    told = f"{key}: {node.text[:60]}" if node.text else key
    if key in _QUIET or key.startswith(("x-", "--name")):
        return
    if key == "deploy":
        for name, child in _limits_of(node):
            yield Note(at=child.at, fate=Fate.DROPPED, subject=name, why="the plan chooses replicas and limits")
    elif key == "shm_size":
        why = "the plan sizes it by the ranks (VLLM_SHM_SIZE)"
        yield Note(at=node.at, fate=Fate.DROPPED, subject=told, why=why)
    elif key in _UNSAFE_KEYS and not (
        key == "security_opt" and any("no-new-privileges" in (i.text or "") for i in node.items)
    ):
        yield Note(at=node.at, fate=Fate.UNSAFE, subject=told, why=_UNSAFE_KEYS[key])
    else:
        yield Note(at=node.at, fate=Fate.DROPPED, subject=told, why=_OWN_KEYS.get(key, "no wish carries it"))


def _limits_of(deploy: Node) -> Iterator[tuple[str, Node]]:
    """Yield what a service's `deploy` says beside its GPUs."""
    for key, node in deploy.fields.items():
        if key != "resources":
            yield f"deploy.{key}", node
    limits = deploy.get("resources", "limits")
    if limits is not None:
        yield "deploy.resources.limits", limits


def _collisions(services: tuple[ContainerService, ...]) -> Iterator[Note]:
    """Yield each port of the host that two services want."""
    first: dict[int, str] = {}
    for service in services:
        for port in service.ports:
            if port.host is None:
                continue
            owner = first.setdefault(port.host, service.name)
            if owner != service.name:
                why = f"{owner} publishes this port too"
                yield Note(at=port.at, fate=Fate.BROKEN, subject=f"port {port.host} of {service.name}", why=why)


def _crowded(engines: tuple[EngineWishes, ...], otherwise: float) -> Iterator[Note]:
    """Yield each engine that asks for more of a GPU than the engines before it leave; `otherwise`: without a flag."""
    keys = default_engine().keys
    taken: dict[str, float] = {}
    for engine in engines:
        if engine.setup.service.gpus is not None and engine.setup.service.gpus.foreign:
            continue
        values = {wish.path[1]: wish for wish in engine.settings}
        told = values.get(str(keys.memory_share))
        share = float(told.value) if told is not None else otherwise
        sizes = [values.get(str(key)) for key in (keys.tensor_parallel, keys.pipeline_parallel)]
        ranks = 1
        for size in sizes:
            ranks *= int(size.value) if size is not None else 1
        devices = (engine.devices or tuple(str(number) for number in range(ranks)))[:ranks]
        over = [device for device in devices if taken.get(device, 0) + share > 1]
        if over:
            left = max(0.0, round(1 - taken[over[0]], 2))
            why = f"asks for {share:g} of GPU {over[0]}, of which the engines before it leave {left:g}"
            at = told.at if told is not None else engine.setup.service.at
            yield Note(at=at, fate=Fate.BROKEN, subject=engine.setup.service.name, why=why)
        for device in devices:
            taken[device] = taken.get(device, 0) + share
