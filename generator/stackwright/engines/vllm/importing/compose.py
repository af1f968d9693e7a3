"""Compose files as the services that they describe, each value with its line. Pure: files come by a function.

As `docker compose config` reads them: several files are merged, `extends`, `include`, `.env`, `env_file` and variables
are resolved (github.com/compose-spec/compose-spec, read 2026-11-29).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright.engines.vllm.importing.tree import Node, Spot, parse_tree
from stackwright.engines.vllm.importing.variables import parse_env_file, replace_variables
from stackwright.engines.vllm.importing.words import Located, locate_words, split_words
from stackwright.errors import UsageError

ReadFile = Callable[[str], str | None]
"""Returns the text of a file by its path, None where there is none. Raises UsageError where it cannot be read."""
_MOST_FILES = 40
_REPLACED = ("command", "entrypoint", "test")
_ASSIGNED = ("environment", "labels", "args", "extra_hosts", "sysctls")


class GpuClaim(Struct, frozen=True, kw_only=True):
    """The GPUs that a service asks for: by name, by number, or all of them where both are None.

    `foreign`: they are not NVIDIA's.
    """

    at: Spot
    devices: tuple[str, ...] | None = None
    count: int | None = None
    foreign: bool = False


class Mount(Struct, frozen=True, kw_only=True):
    """What a service sees of the host at `target`: a folder or file `source`, None where it is a volume of Docker's."""

    at: Spot
    target: str
    source: str | None
    volume: str | None = None


class Publication(Struct, frozen=True, kw_only=True):
    """A port of the host that leads to one of a container; `address` None: every address of the host."""

    at: Spot
    container: int
    host: int | None
    address: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only programs of the host reach it."""
        return self.address in ("127.0.0.1", "::1")

    @property
    def reach(self) -> str:
        """On which address it answers, in words."""
        return self.address if self.address not in (None, "", "0.0.0.0", "::") else "every address"


class ContainerService(Struct, frozen=True, kw_only=True):
    """One service of a hand-written setup.

    `words` are entrypoint and command in one line, `entry` of them the entrypoint's own. `variables`: its environment.
    `other`: its further keys. `unset`: variables of the file that have no value, `required` of them without which
    Compose refuses to start.
    """

    name: str
    at: Spot
    image: Located | None = None
    build: Located | None = None
    words: tuple[Located, ...] = ()
    entry: int = 0
    variables: Mapping[str, Located] = field(default_factory=dict)
    gpus: GpuClaim | None = None
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Publication, ...] = ()
    other: Mapping[str, Node] = field(default_factory=dict)
    unset: tuple[Located, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """What others in its network call it."""
        own = self.other.get("container_name")
        networks = self.other["networks"].fields.values() if "networks" in self.other else ()
        aliases = [alias.text for net in networks if (given := net.get("aliases")) for alias in given.items]
        told = [own.text if own else None, _text(self.other.get("hostname")), *aliases]
        return frozenset((self.name, *(name for name in told if name)))


class ComposeSetup(Struct, frozen=True, kw_only=True):
    """What some Compose files describe together: services, networks, and texts that they hold themselves, by name."""

    services: tuple[ContainerService, ...]
    configs: Mapping[str, Node] = field(default_factory=dict)
    networks: Mapping[str, Node] = field(default_factory=dict)


def read_compose(paths: tuple[str, ...], read: ReadFile, environ: Mapping[str, str]) -> ComposeSetup:
    """Read Compose files, each later one over the earlier.

    Args:
        paths: of the files; the folder of the first is where relative paths begin.
        read: reads a file.
        environ: the shell's variables, which beat those of `.env`.

    Raises:
        UsageError: a file cannot be read or is no Compose file; the message names file and line.
    """
    folder = posixpath.dirname(paths[0])
    values = {**_dot_env(posixpath.join(folder, ".env"), read, environ), **environ}
    files = _Files(read=read, values=values, folder=folder)
    whole: Node | None = None
    for path in paths:
        tree = files.load(path)
        whole = tree if whole is None else _merge(whole, tree, "")
    services = (whole.get("services") if whole is not None else None) or Node(at=Spot(paths[0], 1))
    made = tuple(
        _ServiceReader(name, node, files).read() for name, node in services.fields.items() if node.tag != "!reset"
    )
    further = {key: node.fields for key in ("configs", "networks") if whole is not None and (node := whole.get(key))}
    return ComposeSetup(services=made, **further)


def is_compose(tree: Node) -> bool:
    """Return whether a file is a Compose file: it has services, or files of some."""
    return tree.get("services") is not None or tree.get("include") is not None


def _dot_env(path: str, read: ReadFile, environ: Mapping[str, str]) -> dict[str, str]:
    text = read(path)
    return {} if text is None else {row.name: row.value for row in parse_env_file(text, environ, path)}


class _Files:
    """The Compose files that were read, and for each the variables that it may use and where its paths begin.

    Files that lie over each other share those of the first. A file that is included has its own folder and `.env`,
    behind the variables of the including one; one that is extended its own folder (compose-spec, 14-include.md and
    05-services.md, `extends`, read 2026-11-29).
    """

    def __init__(self, *, read: ReadFile, values: Mapping[str, str], folder: str) -> None:
        self.read = read
        self._values = values
        self._folder = folder
        self._values_of: dict[str, Mapping[str, str]] = {}
        self._folders: dict[str, str] = {}
        self._trees: dict[str, Node] = {}

    def values_at(self, at: Spot) -> Mapping[str, str]:
        """Return the variables that a line may use."""
        return self._values_of.get(at.file, self._values)

    def path_at(self, at: Spot, path: str) -> str:
        """Return a path that a line names, as from the working folder."""
        return posixpath.normpath(posixpath.join(self._folders.get(at.file, self._folder) or ".", path))

    def _enter(self, entry: Node, paths: tuple[str, ...]) -> None:
        """Note what holds for files that an entry of `include` names."""
        told, env_files = entry.get("project_directory"), _items(entry, "env_file")
        folder = self.path_at(entry.at, self.filled(told)) if told else posixpath.dirname(paths[0])
        outer = self.values_at(entry.at)
        named = [self.path_at(entry.at, self.filled(item)) for item in env_files if item.text]
        own: dict[str, str] = {}
        for path in named or [posixpath.join(folder, ".env")]:
            own |= _dot_env(path, self.read, outer)
        for path in paths:
            self._folders.setdefault(path, folder)
            self._values_of.setdefault(path, {**own, **outer})

    def load(self, path: str, at: Spot | None = None) -> Node:
        """Return a Compose file with what it includes and extends."""
        if path in self._trees:
            return self._trees[path]
        if len(self._trees) >= _MOST_FILES:
            raise UsageError(f"{path}: more than {_MOST_FILES} files", hint="name the Compose file itself")
        text = self.read(path)
        if text is None:
            raise UsageError(f"{at or path}: no such file{f': {path}' if at else ''}", hint="name a file that is there")
        tree = parse_tree(text, path)
        if not is_compose(tree):
            raise UsageError(f"{path}: not a Compose file: it has no `services`", hint="name the file with `services:`")
        self._trees[path] = tree
        told = tree.get("include")
        for entry in told.items if told else ():
            included = (entry,) if entry.text else _items(entry, "path")
            names = tuple(self.path_at(tree.at, self.filled(each)) for each in included)
            if names:
                self._enter(entry, names)
            for name, each in zip(names, included, strict=True):
                tree = _merge(self.load(name, each.at), tree, "")
        services = tree.get("services")
        if services is not None:
            made = {name: self._extended(service, services, path, ()) for name, service in services.fields.items()}
            tree = replace(tree, value={**tree.fields, "services": replace(services, value=made)})
        self._trees[path] = tree
        return tree

    def filled(self, node: Node) -> str:
        """Return a text with its variables."""
        return replace_variables(node.text or "", self.values_at(node.at), str(node.at)).text

    def _extended(self, service: Node, siblings: Node, path: str, through: tuple[str, ...]) -> Node:
        told = service.get("extends")
        if told is None or told.tag == "!reset":
            return service
        name_node = told if told.text else told.get("service")
        name = self.filled(name_node) if name_node else ""
        file = told.get("file")
        where = self.path_at(told.at, self.filled(file)) if file else path
        if where not in self._trees:
            self._folders.setdefault(where, posixpath.dirname(where))
            self._values_of.setdefault(where, self.values_at(told.at))
        if f"{where}#{name}" in through or len(through) > _MOST_FILES:
            raise UsageError(f"{told.at}: `extends` goes in a circle", hint="remove one of them")
        all_services = self._raw_services(where, told.at) if file else siblings
        base = all_services.get(name)
        if base is None:
            raise UsageError(f"{told.at}: no service `{name[:60]}` in {where}", hint="correct its name")
        base = self._extended(base, all_services, where, (*through, f"{where}#{name}"))
        own = {key: value for key, value in service.fields.items() if key != "extends"}
        return _merge(base, replace(service, value=own), "services")

    def _raw_services(self, path: str, at: Spot) -> Node:
        text = self.read(path)
        if text is None:
            raise UsageError(f"{at}: no such file: {path}", hint="name a file that is there")
        return parse_tree(text, path).get("services") or Node(at=at)


def _merge(base: Node, over: Node, key: str) -> Node:
    """Lay a value over another one as Compose does."""
    if over.tag == "!override" or key in _REPLACED:
        return over
    if key in _ASSIGNED:
        base, over = _assigned(base), _assigned(over)
    if base.fields and over.fields:
        merged = dict(base.fields)
        for name, value in over.fields.items():
            merged[name] = _merge(merged[name], value, name) if name in merged else value
        return replace(over, value={name: value for name, value in merged.items() if value.tag != "!reset"})
    if base.items and over.items:
        kept = [item for item in base.items if not any(_same(item, other, key) for other in over.items)]
        return replace(over, value=(*kept, *over.items))
    return base if over.value is None and over.tag is None else over


def _same(one: Node, other: Node, key: str) -> bool:
    """Return whether an item takes the place of another one: a volume of the same target, or the same text."""
    if key == "volumes":
        return _target(one) == _target(other)
    return one.text is not None and one.text == other.text


def _target(volume: Node) -> str | None:
    if volume.text is None:
        return _text(volume.get("target"))
    parts = _volume_parts(volume.text)
    return parts[1] if len(parts) > 1 else parts[0]


def _assigned(node: Node) -> Node:
    """Return assignments in the form of a list as a mapping; null is what the shell gives."""
    if not node.items:
        return node
    made: dict[str, Node] = {}
    for item in node.items:
        if item.text is not None:
            name, equals, value = item.text.partition("=")
            made[name] = replace(item, value=value if equals else None)
    return replace(node, value=made)


def _text(node: Node | None) -> str | None:
    return node.text if node is not None else None


def _volume_parts(text: str) -> list[str]:
    """Split SOURCE:TARGET:MODE; a colon within `${…:-…}` divides nothing."""
    parts, depth = [""], 0
    for position, sign in enumerate(text):
        depth += text.startswith("${", position)
        depth -= sign == "}" and depth > 0
        if sign == ":" and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


class _ServiceReader:
    """Reads one service; collects the variables that have no value."""

    def __init__(self, name: str, node: Node, files: _Files) -> None:
        self._name = name
        self._files = files
        self._unset: list[Located] = []
        self._node = self._fill(node)

    def _fill(self, node: Node) -> Node:
        """Replace the variables of all texts below a node."""
        if node.text is not None:
            replaced = replace_variables(node.text, self._files.values_at(node.at), str(node.at))
            self._unset += [Located(text=name, at=node.at) for name in replaced.unset]
            self._unset += [Located(text=f"{name}?", at=node.at) for name in replaced.required]
            return node if replaced.text == node.text else replace(node, value=replaced.text)
        if node.items:
            return replace(node, value=tuple(map(self._fill, node.items)))
        if node.fields:
            return replace(node, value={key: self._fill(value) for key, value in node.fields.items()})
        return node

    def read(self) -> ContainerService:
        node = self._node
        entry, command = self._words("entrypoint"), self._words("command")
        build, image = node.get("build"), node.get("image")
        taken = ("image", "build", "entrypoint", "command", "environment", "env_file", "volumes", "ports", "gpus")
        context = build if build is None or build.text is not None else build.get("context") or build
        return ContainerService(
            name=self._name,
            at=node.at,
            image=Located(text=image.text, at=image.at) if image and image.text else None,
            build=Located(text=context.text or ".", at=context.at) if context else None,
            words=(*entry, *command),
            entry=len(entry),
            variables=self._variables(),
            gpus=self._gpus(),
            mounts=tuple(mount for item in _items(node, "volumes") if (mount := self._mount(item))),
            ports=tuple(port for item in _items(node, "ports") for port in read_ports(item)),
            other={key: value for key, value in node.fields.items() if key not in taken},
            unset=tuple(dict.fromkeys(self._unset)),
        )

    def _words(self, key: str) -> tuple[Located, ...]:
        told = self._node.get(key)
        if told is None:
            return ()
        if told.text is None:
            return tuple(
                Located(text=item.text, at=item.at, lines=item.lines) for item in told.items if item.text is not None
            )
        return locate_words(split_words(told.text, str(told.at)), told.at, told.lines)

    def _variables(self) -> dict[str, Located]:
        found: dict[str, Located] = {}
        for file in _items(self._node, "env_file"):
            found |= self._env_file(file)
        told = self._node.get("environment")
        for name, value in _assigned(told).fields.items() if told else ():
            given = value.text if value.text is not None else self._files.values_at(value.at).get(name)
            if given is not None:
                found[name] = Located(text=given, at=value.at)
        return found

    def _env_file(self, told: Node) -> dict[str, Located]:
        node = told if told.text else told.get("path")
        if node is None or not node.text:
            return {}
        path = self._files.path_at(node.at, node.text)
        text = self._files.read(path)
        if text is None:
            if _text(told.get("required")) != "false":
                self._unset.append(Located(text=f"{node.text}!", at=node.at))
            return {}
        rows = parse_env_file(text, self._files.values_at(node.at), path)
        return {row.name: Located(text=row.value, at=Spot(path, row.line)) for row in rows}

    def _gpus(self) -> GpuClaim | None:
        node = self._node
        short = node.get("gpus")
        if short is not None:
            if short.text is not None:
                return GpuClaim(at=short.at, count=_number(short.text))
            return next((claim_of(item) for item in short.items), GpuClaim(at=short.at))
        devices = node.get("deploy", "resources", "reservations", "devices")
        for device in devices.items if devices else ():
            kinds = [kind.text for kind in _items(device, "capabilities")]
            if "gpu" in kinds or _text(device.get("driver")) == "nvidia":
                return claim_of(device)
        raw = [item for item in _items(node, "devices") if item.text]
        of_amd = next(
            (item for item in raw if "/dev/kfd" in (item.text or "") or "/dev/dri" in (item.text or "")), None
        )
        if of_amd is not None:
            return GpuClaim(at=of_amd.at, foreign=True)
        named = [item for item in raw if (item.text or "").startswith("nvidia.com/gpu=")]
        if named:
            ids = tuple((item.text or "").partition("=")[2] for item in named)
            return GpuClaim(at=named[0].at, devices=None if "all" in ids else ids)
        runtime = node.get("runtime")
        return GpuClaim(at=runtime.at) if runtime is not None and runtime.text == "nvidia" else None

    def _mount(self, item: Node) -> Mount | None:
        if item.text is not None:
            parts = _volume_parts(item.text)
            source, target = (parts[0], parts[1]) if len(parts) > 1 else (None, parts[0])
        else:
            source, target = _text(item.get("source")), _text(item.get("target")) or ""
            if _text(item.get("type")) not in (None, "bind", "volume"):
                return None
        return self._mounted(item, source, target)

    def _mounted(self, item: Node, source: str | None, target: str) -> Mount:
        if source is None or not source.startswith(("/", ".", "~")):
            return Mount(at=item.at, target=target, source=None, volume=source)
        path = source if source.startswith(("/", "~")) else self._files.path_at(item.at, source)
        return Mount(at=item.at, target=target, source=path)


def on_host(path: str, mounts: tuple[Mount, ...]) -> str | None:
    """Return where a path of a container is on the host, as its mounts write that; None where only it has it."""
    mount = mount_of(path, mounts)
    if mount is None or mount.source is None:
        return None
    rest = path[len(mount.target.rstrip("/")) :].lstrip("/")
    return posixpath.join(mount.source, rest) if rest else mount.source


def mount_of(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """Return the mount of a folder or file of the host that a path of a container lies in."""
    around = [mount for mount in mounts if mount.source is not None and _below(path, mount.target)]
    return max(around, key=lambda each: len(each.target), default=None)


def _below(path: str, folder: str) -> bool:
    return path == folder.rstrip("/") or path.startswith(folder.rstrip("/") + "/")


def _items(node: Node, key: str) -> tuple[Node, ...]:
    """Return the values of a key that takes one or a list."""
    told = node.get(key)
    if told is None or told.value is None:
        return ()
    return told.items or ((told,) if told.text is not None else ())


def claim_of(device: Node) -> GpuClaim:
    """Read one entry of a reservation of devices."""
    ids = tuple(item.text for item in _items(device, "device_ids") if item.text)
    driver = _text(device.get("driver"))
    return GpuClaim(
        at=device.at,
        devices=ids or None,
        count=None if ids else _number(_text(device.get("count")) or ""),
        foreign=driver not in (None, "nvidia", "cdi"),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 5 and int(text) > 0 else None


def read_ports(item: Node) -> Iterator[Publication]:
    """Read `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`, or its long form; a range yields nothing."""
    if item.text is None:
        inner, outer = _number5(_text(item.get("target"))), _number5(_text(item.get("published")))
        address = _text(item.get("host_ip"))
    else:
        head, _, inner_text = item.text.partition("/")[0].rpartition(":")
        address_text, _, outer_text = head.rpartition(":")
        inner, outer, address = _number5(inner_text), _number5(outer_text), address_text.strip("[]") or None
    if inner is not None:
        yield Publication(at=item.at, container=inner, host=outer, address=address)


def _number5(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536 else None
