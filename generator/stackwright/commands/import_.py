"""`stackwright import`: from a hand-written vLLM and LiteLLM setup to an environment's wishes, line by line."""

from __future__ import annotations

import argparse
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from stackwright import report
from stackwright.commands.host import get_host
from stackwright.commands.options import (
    ENVIRONMENTS,
    PlanOptions,
    add_json,
    add_out,
    parse_environment,
    record_of,
)
from stackwright.commands.paths import ProjectPaths, find_paths, working_folder
from stackwright.domain.environment import Environment
from stackwright.domain.host import Host
from stackwright.domain.model_facts import ModelFacts
from stackwright.engines import default_engine
from stackwright.engines.vllm.importing.compose import ComposeSetup, ContainerService, is_compose, on_host, read_compose
from stackwright.engines.vllm.importing.gateway_file import GatewayFile, is_gateway_file, read_gateway_file
from stackwright.engines.vllm.importing.notes import Fate, Note, Taken, build_document
from stackwright.engines.vllm.importing.recognise import ServiceKind, kind_of
from stackwright.engines.vllm.importing.scripts import is_script, read_script
from stackwright.engines.vllm.importing.tree import MOST_CHARACTERS, Node, Spot, parse_tree
from stackwright.errors import StackError, UsageError, did_you_mean


class ImportArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `import`: the files, Compose files in the order in which they lie over each other."""

    files: tuple[str, ...]
    environment: Environment = Environment.DEV
    profiles: tuple[str, ...] = ()
    host: Path | None = None
    out: Path | None = None
    replace: bool = False
    dry_run: bool = False
    json: bool = False


class Judged(Struct, frozen=True, kw_only=True):
    """What is left of the wishes on a host, and what was said of the others.

    `host`: what was judged against, None where nothing was, for the reason in `unjudged`. `refusal`: why even the
    models alone do not fit.
    """

    taken: tuple[Taken, ...]
    notes: tuple[Note, ...] = ()
    host: str | None = None
    unjudged: str | None = None
    refusal: StackError | None = None


class ImportResult(Struct, frozen=True, kw_only=True):
    """What `import --json` prints. `wishes` is the text of `file`, `written` whether it stands there now."""

    environment: Environment
    file: str
    written: bool
    wishes: str
    notes: tuple[Note, ...]
    host: str | None
    unjudged: str | None
    refusal: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a Compose file, further ones that lie over it, LiteLLM's configuration, or a script with `docker run`; "
        f"then the environment to write: {', '.join(ENVIRONMENTS)} (default: dev)",
    )
    parser.add_argument(
        "--profile",
        dest="profiles",
        metavar="NAME",
        action="append",
        help="read the services of this profile too; repeatable",
    )
    parser.add_argument("--host", metavar="FILE", type=Path, help="judge for this snapshot instead of this machine")
    parser.add_argument(
        "--replace", action="store_true", help="write over wishes that are not the shipped ones; the old file is kept"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the wishes; write nothing")
    add_out(parser)
    add_json(parser)


def read_arguments(given: argparse.Namespace) -> ImportArguments:
    """Turn the parsed words into the record."""
    words = list(given.files)
    named = [word for word in words if word in ENVIRONMENTS and not Path(word).is_file()]
    if len(named) > 1:
        raise UsageError(f"found two environments: {named[0]} and {named[1]}", hint="name one")
    environment = parse_environment(named[0]) if named else Environment.DEV
    words = [word for word in words if word not in named]
    if not words:
        raise UsageError("no file to import", hint="for example `stackwright import docker-compose.yml prod`")
    return record_of(
        ImportArguments, given, files=tuple(words), environment=environment, profiles=tuple(given.profiles or ())
    )


def run(arguments: ImportArguments) -> None:
    """Read the files, judge them on a host, and write or print the environment's wishes."""
    from stackwright.engines.vllm.importing.translation import translate

    paths = find_paths(arguments.out)
    sources = _read_sources(arguments)
    target = paths.of(arguments.environment).wishes
    if not (arguments.dry_run or arguments.replace):
        _refuse_to_overwrite(paths, arguments.environment)
    translation = translate(sources.services, sources.gateway, sources.setup.networks, _surroundings(paths))
    host = get_host(arguments.host)
    judged = _Judge(arguments, paths, host, translation.number).judge(translation.taken, translation.engines)
    text = _text_of(judged.taken, arguments, translation.number)
    notes = tuple(sorted((*translation.notes, *judged.notes), key=lambda note: note.at))
    result = ImportResult(
        environment=arguments.environment,
        file=str(target),
        written=not arguments.dry_run,
        wishes=text,
        notes=tuple(_hide(note, arguments) for note in _with_taken(notes, judged.taken, translation.number)),
        host=judged.host,
        unjudged=judged.unjudged,
        refusal=judged.refusal.message if judged.refusal else None,
    )
    if not arguments.dry_run:
        _write(paths, arguments, text)
    _show(arguments, result, paths, judged.refusal)


class _Sources(Struct, frozen=True, kw_only=True):
    """What the files say, and which they are."""

    services: tuple[ContainerService, ...]
    setup: ComposeSetup
    gateway: GatewayFile | None


def read_file(path: str) -> str | None:
    """Return the text of a file, None where there is none.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    from stackwright.reading import read_text

    try:
        return read_text(Path(path).expanduser(), most=2 * MOST_CHARACTERS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as failure:
        raise UsageError(f"{path}: not UTF-8 text (byte {failure.start})", hint="save it as UTF-8") from None
    except OSError as failure:
        hint = _in_folder(path) if Path(path).is_dir() else "name a Compose file"
        raise UsageError(f"{path}: cannot be read: {failure.strerror}", hint=hint) from None


_USUAL = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")


def _in_folder(path: str) -> str:
    there = next((name for name in _USUAL if (Path(path) / name).is_file()), None)
    return f"it is a folder: name {posixpath.join(path, there)}" if there else "it is a folder: name a file in it"


def _read_sources(arguments: ImportArguments) -> _Sources:
    composes: list[str] = []
    services: list[ContainerService] = []
    configuration: Node | None = None
    for path in arguments.files:
        text = read_file(path)
        if text is None:
            raise _no_file(path, arguments)
        if not text.strip():
            raise UsageError(f"{path}: empty", hint="name a Compose file, LiteLLM's configuration, or a script")
        if path.endswith((".sh", ".bash")) or (is_script(text) and not re.search(r"^services:", text, re.MULTILINE)):
            services += read_script(text, path, os.environ, _absolute)
            continue
        tree = parse_tree(text, path)
        if is_compose(tree):
            composes.append(path)
        elif is_gateway_file(tree):
            configuration = tree
        else:
            kinds = (
                "a Compose file (`services:`), LiteLLM's configuration (`model_list:`), or a script with `docker run`"
            )
            raise UsageError(f"{path}: found neither `services` nor `model_list`", hint=f"name {kinds}")
    _tell_overrides(composes)
    setup = read_compose(tuple(composes), read_file, os.environ) if composes else ComposeSetup(services=())
    enabled = _enabled(setup, arguments.profiles)
    services += enabled
    configuration = configuration or _mounted_configuration(enabled, setup)
    gateway = read_gateway_file(configuration, _gateway_variables(services)) if configuration is not None else None
    return _Sources(services=tuple(services), setup=setup, gateway=gateway)


def _no_file(path: str, arguments: ImportArguments) -> UsageError:
    """Return the refusal of a word that is no file; the last one may have been meant as an environment."""
    kinds = "name a Compose file, LiteLLM's configuration, or a script"
    if path != arguments.files[-1] or not re.fullmatch(r"[A-Za-z0-9_-]+", path):
        return UsageError(f"{path}: no such file", hint=kinds)
    close = did_you_mean(path, ENVIRONMENTS)
    return UsageError(f"{path}: no such file or environment", hint=close or f"environments: {', '.join(ENVIRONMENTS)}")


def _tell_overrides(composes: list[str]) -> None:
    """Say which file Compose would lay over the one that was named, had nobody named any."""
    for path in composes if len(composes) == 1 else ():
        base, ending = posixpath.splitext(path)
        override = f"{base}.override{ending}"
        if posixpath.basename(path) in _USUAL and Path(override).is_file():
            report.warn(f"{override} is not read; name it behind {path} to lay it over")


def _gateway_variables(services: list[ContainerService]) -> dict[str, str]:
    doors = [service for service in services if kind_of(service) is ServiceKind.GATEWAY]
    return {name: value.text for service in doors for name, value in service.variables.items()}


def _enabled(setup: ComposeSetup, asked: tuple[str, ...]) -> tuple[ContainerService, ...]:
    """Return the services that Compose would start with these profiles.

    Raises:
        UsageError: an asked profile is in no file, or every engine is in a profile and none is asked for.
    """
    known = {item.text: None for service in setup.services for item in _profiles(service) if item.text}
    for name in asked:
        if name not in known:
            there = f"profiles: {', '.join(known)}" if known else "the files have none"
            raise UsageError(f"--profile: no service has the profile `{name[:60]}`", hint=there)
    names = {*asked, *filter(None, os.environ.get("COMPOSE_PROFILES", "").split(","))}
    on = tuple(
        service
        for service in setup.services
        if not _profiles(service) or names & {item.text for item in _profiles(service)} or "*" in names
    )
    engines = [service for service in setup.services if kind_of(service) is ServiceKind.ENGINE]
    if engines and not any(service in on for service in engines):
        first = engines[0]
        raise UsageError(
            f"{first.at}: each vLLM service is in a profile, so that none starts by itself",
            hint=f"name one: --profile {_profiles(first)[0].text}; the files have {', '.join(map(str, known))}",
        )
    return on


def _profiles(service: ContainerService) -> tuple[Any, ...]:
    told = service.other.get("profiles")
    return told.items if told is not None else ()


def _mounted_configuration(services: tuple[ContainerService, ...], setup: ComposeSetup) -> Node | None:
    """Return the configuration that LiteLLM's service is given by a mount, or by the Compose file itself."""
    for service in services:
        if kind_of(service) is not ServiceKind.GATEWAY:
            continue
        for path in _configuration_paths(service):
            text = None if Path(path).is_dir() else read_file(path)
            if text is not None and is_gateway_file(tree := parse_tree(text, path)):
                return tree
        for config in setup.configs.values():
            content = config.get("content")
            if (
                content is not None
                and content.text
                and is_gateway_file(tree := parse_tree(content.text, content.at.file))
            ):
                return tree
    return None


def _configuration_paths(service: ContainerService) -> Iterator[str]:
    """Yield where on the host LiteLLM's configuration may be: what `--config` names, then every mounted YAML file."""
    words = [word.text for word in service.words]
    told = [words[n + 1] for n, word in enumerate(words[:-1]) if word in ("--config", "-c")]
    told += [word.partition("=")[2] for word in words if word.startswith("--config=")]
    yield from (found for path in told if (found := on_host(path, service.mounts)) is not None)
    yield from (mount.source for mount in service.mounts if mount.source and mount.target.endswith((".yaml", ".yml")))


def _absolute(path: str) -> str:
    return str(Path(os.path.normpath(working_folder() / Path(path).expanduser())))


def _surroundings(paths: ProjectPaths) -> Any:
    from stackwright.catalog.load import load_catalog
    from stackwright.engines.vllm.importing.engine_wishes import Surroundings

    return Surroundings(
        catalog=load_catalog(), absolute=_absolute, role_of=lambda name: _role_of(name, paths), secret=_looks_secret
    )


def _looks_secret(text: str) -> bool:
    """Return whether a text, or an assignment, holds a secret by its name or its form."""
    from stackwright.diagnosis.redaction import Redaction

    return Redaction(values=(), names=()).apply(text) != text


def _facts_of(name: str, paths: ProjectPaths) -> ModelFacts | None:
    """Return what is known of a model without asking the hub."""
    from stackwright.catalog.load import load_catalog
    from stackwright.models.read import HubAccess, read_model

    try:
        return read_model(name, load_catalog().llms(), None, HubAccess(home=Path(paths.folders.hf_home), online=False))
    except (StackError, OSError, RuntimeError):
        return None


def _role_of(name: str, paths: ProjectPaths) -> str | None:
    from stackwright.catalog.load import load_catalog

    facts, catalog = _facts_of(name, paths), load_catalog()
    return None if facts is None else str(facts.role or default_engine().role_of(facts.config, catalog))


class _Judge:
    """Plans what was taken on a host, and finds what of it no plan takes."""

    def __init__(self, arguments: ImportArguments, paths: ProjectPaths, host: Host, number: Mapping[int, str]) -> None:
        self.arguments = arguments
        self.paths = paths
        self.host = host
        self.number = number
        self.name = str(arguments.host) if arguments.host is not None else "this machine"
        # Of a file or an adapter that is not here nothing can be said: it is kept, and no plan is made with it.
        self.unread: tuple[Taken, ...] = ()

    def judge(self, taken: tuple[Taken, ...], engines: tuple[Any, ...]) -> Judged:
        """Return what a plan takes; where nothing can be judged, everything."""
        if not self.host.gpus:
            why = f"{self.name} has no GPU; --host FILE judges for another (`stackwright detect -o FILE` there)"
            return self._unjudged(taken, why)
        formats = tuple(note for wish in taken if (note := self._number_format(wish, taken)) is not None)
        taken = tuple(wish for wish in taken if not any(note.subject == wish.subject for note in formats))
        unread = tuple(self._find_unread(taken))
        judged = self._fitting(taken)
        return self._released(replace(judged, notes=(*formats, *unread, *judged.notes)), engines)

    def _unjudged(self, taken: tuple[Taken, ...], why: str) -> Judged:
        """Keep what no plan could be made with, but flags that the newest release lacks: a plan takes that one.

        A model with an image of its own has the image's release.
        """
        from stackwright.catalog.load import load_catalog
        from stackwright.engines.vllm.importing.engine_wishes import why_lacking

        catalog = load_catalog()
        own = {wish.path[1] for wish in taken if wish.path[0] == "models" and wish.path[2] == "image"}
        kept, notes = [], []
        for wish in taken:
            given = wish.path[0] == "models" and wish.path[2] == "args" and wish.path[1] not in own
            told = why_lacking(f"--{wish.path[3]}", catalog.engines[0].version, catalog) if given else None
            if told is None:
                kept.append(wish)
            else:
                notes.append(Note(at=wish.at, fate=Fate.BROKEN, subject=wish.subject, why=f"{told}; left to the plan"))
        return Judged(taken=tuple(kept), notes=tuple(notes), unjudged=why)

    def _find_unread(self, taken: tuple[Taken, ...]) -> Iterator[Note]:
        """Set aside what names a file or an adapter that cannot be read here."""
        fixed = tuple(wish for wish in taken if not _is_free(wish))
        named = [wish for wish in taken if wish.path[0] == "models" and wish.path[2] in _OF_FILES]
        if not named or isinstance(self.plan(fixed), UsageError):
            return
        for wish in named:
            refusal = self.plan((*fixed, wish))
            if isinstance(refusal, UsageError):
                self.unread = (*self.unread, wish)
                why = refusal.message.partition(f"{wish.place_text(self.number)}: ")[2] or refusal.message
                yield Note(at=wish.at, fate=Fate.UNKNOWN, subject=wish.subject, why=f"kept, not judged: {why}")

    def _number_format(self, wish: Taken, taken: tuple[Taken, ...]) -> Note | None:
        """Return what is to be said of a number format that the GPUs do not have, or the model is not run in."""
        from stackwright.catalog.load import load_catalog
        from stackwright.engines.vllm.settings import DTYPE, first_without_bfloat16

        if wish.path[:2] != ("settings", DTYPE):
            return None
        old = first_without_bfloat16(self.host.gpus)
        if wish.value == "bfloat16" and old is not None:
            why = f"GPU {old.index} ({old.name}) has no bfloat16; left to the plan"
            return Note(at=wish.at, fate=Fate.BROKEN, subject=wish.subject, why=why)
        name = next(each.value for each in taken if each.path == ("models", wish.path[2], "name"))
        facts = _facts_of(name, self.paths)
        catalog = load_catalog()
        kinds = facts.config.model_types if facts is not None else ()
        refused = next(
            (kind for kind in kinds if catalog.formats().refuses_float16(kind, catalog.engines[0].version)), None
        )
        if wish.value == "float16" and refused is not None:
            why = f"vLLM does not run {refused} models in float16; left to the plan"
            return Note(at=wish.at, fate=Fate.BROKEN, subject=wish.subject, why=why)
        return None

    def _fitting(self, taken: tuple[Taken, ...]) -> Judged:
        """Keep what a plan takes."""
        from stackwright.planning.model_plan import NoRoomError

        if self.plan(taken) is None:
            return Judged(taken=taken, host=self.name)
        free = tuple(sorted((wish for wish in taken if _is_free(wish)), key=_turn))
        kept = [wish for wish in taken if not _is_free(wish)]
        alone = self.plan(tuple(kept))
        if isinstance(alone, UsageError):
            return self._unjudged(taken, f"{alone.message}{f'; {alone.hint}' if alone.hint else ''}")
        notes: list[Note] = []
        if alone is not None:
            # Room and image may be what the models need.
            refused = self._elsewhere(kept, free, alone)
            notes = [self._refused(wish, taken, refusal) for wish, refusal in refused]
            taken, free = (tuple(w for w in some if all(w != wish for wish, _ in refused)) for some in (taken, free))
            kept += [wish for wish in free if _turn(wish) == 0]
            whole = self.plan(tuple(kept))
            if whole is not None:
                why = whole if isinstance(whole, NoRoomError) else alone
                named = [wish for wish in taken if wish.path[0] == "models" and wish.path[2] == "name"]
                model = next((wish for wish in named if str(wish.value) in why.message), named[0])
                note = Note(at=model.at, fate=Fate.BROKEN, subject=model.subject, why=_first_part(why))
                return Judged(taken=taken, notes=(note, *notes), host=self.name, refusal=why)
        for wish in free:
            refusal = None if wish in kept else self.plan((*kept, wish))
            if refusal is not None:
                notes.append(self._refused(wish, taken, refusal))
            elif wish not in kept:
                kept.append(wish)
        in_order = tuple(wish for wish in taken if wish in kept)
        return Judged(taken=in_order, notes=tuple(notes), host=self.name)

    def _elsewhere(
        self, fixed: list[Taken], free: tuple[Taken, ...], alone: StackError
    ) -> list[tuple[Taken, StackError]]:
        """Return what asks this host for what it does not have, such as more GPUs, whatever the models' size."""
        from stackwright.planning.model_plan import NoRoomError

        tried = [(wish, self.plan((*fixed, wish))) for wish in free if _turn(wish) == 0]
        return [
            (wish, refusal)
            for wish, refusal in tried
            if refusal is not None and not isinstance(refusal, NoRoomError) and refusal.message != alone.message
        ]

    def _refused(self, wish: Taken, taken: tuple[Taken, ...], refusal: StackError) -> Note:
        """Say why a wish is not kept: a plan for its model alone refuses it too, or only one for all models."""
        alone = _of_model(wish, taken)
        if alone is not None and self.plan(alone) is None:
            why = f"{_first_part(refusal)}; left to the plan"
            return Note(at=wish.at, fate=Fate.DROPPED, subject=wish.subject, why=why)
        why = f"{_first_part(refusal)}; left to the plan"
        return Note(at=wish.at, fate=Fate.BROKEN, subject=wish.subject, why=why)

    def _released(self, judged: Judged, engines: tuple[Any, ...]) -> Judged:
        """Add what is to be said of the releases of the file's images, which the plan need not take."""
        from stackwright.catalog.load import load_catalog

        if judged.host is None or judged.refusal is not None:
            return judged
        engines_known = load_catalog().engines
        known = {image.image: row.version for row in engines_known for image in row.images}
        known[engines_known[0].images[0].image.partition(":")[0] + ":latest"] = engines_known[0].version
        notes, taken = list(judged.notes), judged.taken
        without = tuple(wish for wish in taken if wish.path[-1] != "image")
        for image in dict.fromkeys(engine.setup.service.image for engine in engines if engine.setup.service.image):
            name, digest, _ = image.text.partition("@")
            release = known.get(name if digest or ":" in name else f"{name}:latest")
            refusal = self.plan(without, release) if release is not None else None
            if refusal is not None:
                is_now = f"it is {release}: " if name.endswith("latest") else ""
                why = f"{is_now}{_first_part(refusal)}; left to the plan"
                notes.append(Note(at=image.at, fate=Fate.BROKEN, subject=image.text, why=why))
                taken = tuple(wish for wish in taken if (wish.path[-1], wish.value) != ("image", image.text))
        refused = self.plan(taken) if taken != judged.taken else None
        return replace(judged, notes=tuple(dict.fromkeys(notes)), taken=taken, refusal=refused)

    def plan(self, taken: tuple[Taken, ...], release: str | None = None) -> StackError | None:
        """Plan the wishes; return why no plan takes them, None where one does."""
        from stackwright.commands.configure import plan_wishes
        from stackwright.project.folder import check_wishes, read_common
        from stackwright.project.joining import join_wishes

        options = PlanOptions(host=self.arguments.host, engine_version=release, allow_vulnerable=release is not None)
        environment = self.arguments.environment
        seen = tuple(wish for wish in taken if wish not in self.unread)
        document = build_document(_base(environment), seen, self.number)
        try:
            joined = join_wishes(read_common(self.paths.of(environment)), document)
            wishes = check_wishes(joined, f"envs/{environment.value}.yaml")
            plan_wishes(options, self.paths, self.host, environment, wishes)
        except StackError as failure:
            return failure
        return None


def _of_model(wish: Taken, taken: tuple[Taken, ...]) -> tuple[Taken, ...] | None:
    """Return a wish of one of several models with the model's name and role, as if there were no other; else None."""
    position = wish.path[1] if wish.path[0] == "models" else wish.path[-1] if len(wish.path) == 3 else None
    names = [each for each in taken if each.path[0] == "models" and each.path[2] in ("name", "role")]
    if position is None or len({each.path[1] for each in names}) < 2:
        return None
    moved = tuple(replace(each, path=("models", 0, *each.path[2:])) for each in names if each.path[1] == position)
    own = ("models", 0, *wish.path[2:]) if wish.path[0] == "models" else (*wish.path[:2], 0)
    return (*moved, replace(wish, path=own))


def _first_part(refusal: StackError) -> str:
    """Return a refusal without the place in the file that is not written yet, and the figures behind its statement."""
    return re.sub(r"^.*envs/\w+\.yaml: models\[\d+\]\.args: ", "", refusal.message).partition("; ")[0]


def _turn(wish: Taken) -> int:
    """Return when a wish is tried: what gives room before what takes it, the context last."""
    keys = default_engine().keys
    name = str(wish.path[1] if wish.path[0] == "settings" else wish.path[-1])
    first = ("gpu_memory_utilization", keys.memory_share, "NVIDIA_VISIBLE_DEVICES", keys.tensor_parallel)
    return (
        0 if name in (*first, keys.pipeline_parallel, "image") else 2 if name in ("max_model_len", keys.context) else 1
    )


_OF_FILES = ("chat_template", "lora", "volumes")


def _is_free(wish: Taken) -> bool:
    """Return whether a plan may do without a wish: what is served, and under which names, stays."""
    if wish.path[0] == "models":
        return wish.path[2] in ("args", "image", *_OF_FILES)
    return wish.path[0] != "gateway"


def _base(environment: Environment) -> dict[str, Any]:
    """Return the shipped wishes of an environment, in whose place the imported ones come."""
    from stackwright.project.folder import shipped_text
    from stackwright.reading import parse_yaml

    name = f"envs/{environment.value}.yaml"
    shipped = parse_yaml(shipped_text(name), name, UsageError)
    return shipped if isinstance(shipped, dict) else {}


def _text_of(taken: tuple[Taken, ...], arguments: ImportArguments, number: Mapping[int, str]) -> str:
    from stackwright.engines.vllm.importing.wish_text import write_wishes

    document = build_document(_base(arguments.environment), taken, number)
    origins: dict[tuple[str, ...], Spot] = {}
    for wish in taken:
        origins.setdefault(tuple(str(key) for key in wish.place(number)), wish.at)
    return write_wishes(document, origins, arguments.environment.value, arguments.files)


def _with_taken(notes: tuple[Note, ...], taken: tuple[Taken, ...], number: Mapping[int, str]) -> tuple[Note, ...]:
    """Return all notes by line, those of what was taken among them."""
    told = [
        Note(at=wish.at, fate=Fate.TAKEN, subject=wish.subject, why=f"{wish.place_text(number)}: {_short(wish.value)}")
        for wish in taken
    ]
    return tuple(sorted((*notes, *told), key=lambda note: note.at))


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{value[0]['name']}, {value[0]['model']}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _hide(note: Note, arguments: ImportArguments) -> Note:
    """Return a note with the environment's name in its commands, and without anything that looks like a secret."""
    from stackwright.diagnosis.redaction import Redaction

    redaction = Redaction(values=(), names=())
    why = (
        note.why.replace("envs/<env>.yaml", f"envs/{arguments.environment.value}.yaml")
        .replace("/ENV/", f"/{arguments.environment.value}/")
        .replace("key ENV`", f"key {arguments.environment.value}`")
    )
    return replace(note, subject=redaction.apply(note.subject), why=redaction.apply(why))


def _refuse_to_overwrite(paths: ProjectPaths, environment: Environment) -> None:
    from stackwright.project.folder import shipped_text

    target = paths.of(environment).wishes
    text = read_file(str(target))
    if text is not None and text != shipped_text(f"envs/{environment.value}.yaml"):
        raise UsageError(
            f"{target}: holds wishes of yours, which are not written over",
            hint="--dry-run prints what would be written; --replace keeps the old file beside it",
        )


def _write(paths: ProjectPaths, arguments: ImportArguments, text: str) -> None:
    from stackwright.atomic import replace_file
    from stackwright.errors import unwritable
    from stackwright.project.folder import lay_out, shipped_text

    target = paths.of(arguments.environment).wishes
    try:
        lay_out(paths.root)
        old = read_file(str(target))
        if old is not None and old not in (text, shipped_text(f"envs/{arguments.environment.value}.yaml")):
            kept = _free_name(target)
            kept.write_text(old, encoding="utf-8")
            report.tell(f"kept the old file as {kept}")
        replace_file(target, text, mode=None)
    except OSError as failure:
        raise unwritable(target, failure) from None


def _free_name(target: Path) -> Path:
    number = 1
    while (kept := target.with_name(f"{target.name}.{number}.old")).exists():
        number += 1
    return kept


def _show(arguments: ImportArguments, result: ImportResult, paths: ProjectPaths, refusal: StackError | None) -> None:
    if arguments.json:
        report.print_json(result)
        return
    report.show_notes(
        (str(note.at), str(note.fate), f"{note.subject}{' →' if note.fate is Fate.TAKEN else ':'} {note.why}")
        for note in result.notes
    )
    counts = Counter(note.fate for note in result.notes)
    report.tell(", ".join(f"{counts[fate]} {fate}" for fate in Fate if counts[fate]))
    if result.host is not None:
        report.tell(f"judged for {result.host}")
    if result.unjudged is not None:
        report.warn(f"not judged on a host: {result.unjudged}")
    if refusal is not None:
        report.warn(f"no plan for {result.host} has these models: {refusal.message}")
        report.tell(f"hint: {refusal.hint}")
    if arguments.dry_run:
        report.print_text(result.wishes)
        return
    from stackwright.project.location import name_command

    report.tell(f"wrote {result.file}")
    words = (arguments.environment.value, *(("--host", str(arguments.host)) if arguments.host else ()))
    report.tell(f"next: {name_command('configure-gpu', *words, root=paths.root, working=working_folder())}")
