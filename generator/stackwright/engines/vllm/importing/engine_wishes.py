"""What an engine of a hand-written setup becomes: a model of the wishes, and a note on every line. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, field

from stackwright.domain.catalog import REFUSED_HOLES, Catalog, holes_of, order_release
from stackwright.domain.image_pins import is_moving
from stackwright.domain.setting_spec import Kind, SettingSpec, problem_with
from stackwright.engines import default_engine
from stackwright.engines.vllm.importing.compose import Mount, mount_of, on_host
from stackwright.engines.vllm.importing.notes import Fate, Note, Taken
from stackwright.engines.vllm.importing.recognise import EngineSetup, image_name
from stackwright.engines.vllm.importing.tree import Spot
from stackwright.engines.vllm.importing.words import Located
from stackwright.engines.vllm.launch_words import TASKS, WrittenFlag, whole_number
from stackwright.errors import UsageError, closest

_SECRET_FLAGS = {
    "--api-key": "the stack makes the engine's key itself; clients show the gateway's: `stackwright key ENV`",
    "--hf-token": "export HF_TOKEN, or log in once with `hf auth login`",
}
_FOREIGN_IMAGE = re.compile(r"rocm|xpu|hpu|gaudi|neuron|tpu|habana|ascend|intel")
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_TOKEN")
_NUMBERS = (Kind.INTEGER, Kind.CONTEXT)


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a translation knows beside the files.

    `absolute` makes a path of the file absolute; `role_of` says what a model is for where it can be read, else None;
    `secret` whether a text looks like one.
    """

    catalog: Catalog
    absolute: Callable[[str], str]
    role_of: Callable[[str], str | None]
    secret: Callable[[str], bool]


class EngineWishes(Struct, frozen=True, kw_only=True):
    """What one engine becomes. `model` is the name that the plan takes; `clients`: what clients of the file call it.

    `own` are wishes of its model, by their place in `models[]`, `settings` those that are numbered, `shared` what the
    whole environment has.
    """

    setup: EngineSetup
    model: Located | None
    role: str | None = None
    clients: tuple[Located, ...] = ()
    own: tuple[Taken, ...] = ()
    settings: tuple[Taken, ...] = ()
    shared: tuple[Taken, ...] = ()
    notes: tuple[Note, ...] = ()
    devices: tuple[str, ...] | None = field(default=None)


def engine_wishes(setup: EngineSetup, around: Surroundings) -> EngineWishes:
    """Translate an engine. Its model is None where the file names none, or one that is in no folder of the host."""
    return _EngineReader(setup, around).read()


class _EngineReader:
    """Goes through one engine, and collects what it takes and says."""

    def __init__(self, setup: EngineSetup, around: Surroundings) -> None:
        self.setup = setup
        self.around = around
        self.service = setup.service
        self.notes: list[Note] = []
        self.own: list[Taken] = []
        self.settings: list[Taken] = []
        self.shared: list[Taken] = []
        self.used: set[str] = set()
        self.specs = {spec.flag: spec for spec in default_engine().settings if spec.flag is not None}

    def say(self, at: Spot, fate: Fate, subject: str, why: str) -> None:
        self.notes.append(Note(at=at, fate=fate, subject=subject, why=why))

    def read(self) -> EngineWishes:
        """Translate everything, in the order in which a person reads it."""
        keys = default_engine().keys
        flags = {flag.name: flag for flag in self.setup.launch.flags}
        model = self._model(flags.get(self._flag(keys.model)))
        role = self._role(flags, model)
        self._image()
        clients = self._clients(flags.get(self._flag(keys.served_name)), model)
        for flag in self.setup.launch.flags:
            if flag.name not in (self._flag(keys.model), self._flag(keys.served_name), *_ROLE_FLAGS):
                self._take_flag(flag)
        self._say_script()
        devices = self._devices()
        self._variables()
        self._mounts()
        return EngineWishes(
            setup=self.setup,
            model=model,
            role=role,
            clients=clients,
            own=tuple(self.own),
            settings=tuple(self.settings),
            shared=tuple(self.shared),
            notes=tuple(self.notes),
            devices=devices,
        )

    def _flag(self, key: str) -> str:
        return next(spec.flag or "" for spec in default_engine().settings if spec.key == key)

    def _at(self, flag: WrittenFlag) -> Spot:
        return self.setup.words[flag.word].at

    def _model(self, flag: WrittenFlag | None) -> Located | None:
        launch = self.setup.launch
        if flag is not None and flag.values:
            text, at = flag.values[0], self._at(flag)
        elif launch.model is not None:
            text, at = launch.model, self.setup.words[launch.model_word].at
        else:
            why = "the command names no model: name one there, or give its variable a value in .env"
            self.say(self.service.at, Fate.BROKEN, self.service.name, why)
            return None
        if self.setup.twice and not self.service.entry:
            why = "the image starts the server itself: these two words become arguments of it"
            self.say(self.setup.words[0].at if self.setup.words else at, Fate.BROKEN, "vllm serve", why)
        if text.lower().endswith(".gguf") or re.search(r":[A-Z0-9_]*Q[0-9]", text):
            last = self.around.catalog.formats().last_reader("gguf")
            why = f"GGUF weights, which vLLM last read in {last}: name an AWQ, GPTQ, FP8 or NVFP4 copy of it"
            self.say(at, Fate.BROKEN, f"model {text}", why)
            return None
        if not text.startswith(("/", ".", "~")):
            return Located(text=text, at=at)
        found = self._on_host(text)
        if found is None:
            why = "a path within the container that no folder of the host is mounted at"
            self.say(at, Fate.DROPPED, f"model {text}", f"{why}: write its folder, or its hub id, as models[].name")
            return None
        return Located(text=found, at=at)

    def _on_host(self, path: str) -> str | None:
        """Return where a path of the container is on the host; None where only the container has it."""
        mount, found = mount_of(path, self.service.mounts), on_host(path, self.service.mounts)
        if mount is None or found is None:
            return None
        self.used.add(mount.target)
        return self.around.absolute(found)

    def _role(self, flags: Mapping[str, WrittenFlag], model: Located | None) -> str | None:
        for name in _ROLE_FLAGS:
            flag = flags.get(name)
            if flag is None or not flag.values:
                continue
            role = TASKS.get(flag.values[0])
            subject = f"{name} {flag.values[0]}"
            if role is not None:
                self._own(("role",), role, self._at(flag), subject)
                return role
            if flag.values[0] in ("auto", "generate", "pooling", "none"):
                self.say(self._at(flag), Fate.DROPPED, subject, "follows from the model's role (models[].role)")
            else:
                self.say(
                    self._at(flag),
                    Fate.DROPPED,
                    subject,
                    "no role that is served here: chat, vision, embedding, rerank",
                )
        return self.around.role_of(model.text) if model is not None else None

    def _image(self) -> None:
        image = self.service.image
        if self.service.build is not None:
            why = "built on the spot: push it under a tag, and write that as models[].image"
            self.say(self.service.build.at, Fate.DROPPED, f"build {self.service.build.text}", why)
            return
        if image is None:
            return
        engine = default_engine()
        official = image_name(self.service).removeprefix("docker.io/") == "vllm/vllm-openai"
        release = self.setup.release
        holes = holes_of(engine.name, release, self.around.catalog.advisories()) if release else ()
        grave = [hole for hole in holes if hole.kind in REFUSED_HOLES]
        problem = next(problem_with(spec, image.text) for spec in engine.settings if spec.key == engine.keys.image)
        if problem is not None:
            self.say(image.at, Fate.BROKEN, "image", f"allowed: {problem}; left to the plan")
        elif _FOREIGN_IMAGE.search(image.text.lower()):
            self.say(
                image.at,
                Fate.BROKEN,
                image.text,
                "for another kind of GPU: this release serves NVIDIA's and processors",
            )
        elif is_moving(image.text):
            why = "this tag means another release tomorrow: the plan names one by its number"
            self.say(image.at, Fate.DROPPED, image.text, why)
        elif official and grave:
            why = f"{grave[0].id}: {grave[0].summary}; the plan takes a release without such holes"
            self.say(image.at, Fate.UNSAFE, image.text, why)
        else:
            self._own(("image",), image.text, image.at, image.text)

    def _clients(self, flag: WrittenFlag | None, model: Located | None) -> tuple[Located, ...]:
        if flag is None or not flag.values:
            return (model,) if model is not None else ()
        at = self._at(flag)
        names = tuple(dict.fromkeys(name.strip() for value in flag.values for name in value.split(",") if name.strip()))
        if names:
            self._own(("served_name",), names[0], at, f"{flag.name} {names[0]}")
        if names[1:]:
            self._own(("aliases",), list(names[1:]), at, f"{flag.name} {' '.join(names[1:])}")
        return tuple(Located(text=name, at=at) for name in names)

    def _own(self, path: tuple[str, ...], value: Any, at: Spot, subject: str) -> None:
        self.own.append(Taken(path=path, value=value, at=at, subject=subject))

    def _take_flag(self, flag: WrittenFlag) -> None:
        at, said = self._at(flag), " ".join((flag.name, *flag.values))[:200]
        keys, release = default_engine().keys, self.setup.release
        if flag.name in _SECRET_FLAGS:
            self.say(at, Fate.SECRET, flag.name, _SECRET_FLAGS[flag.name])
            return
        if any(self.around.secret(value) for value in flag.values):
            self.say(at, Fate.SECRET, flag.name, "its value looks like a secret, and is not copied")
            return
        bare = flag.name.partition(".")[0].replace("--no-", "--", 1)
        lacking = release if release is not None else self.around.catalog.engines[0].version
        why = why_lacking(flag.name, lacking, self.around.catalog)
        if why is not None:
            self.say(at, Fate.BROKEN, said, why)
            return
        if bare == "--chat-template":
            self._template(flag, at, said)
        elif bare == "--lora-modules":
            self._adapters(flag, at)
        elif bare in self.specs and self.specs[bare].pinnable:
            self._setting(self.specs[bare], flag, at, said, keys.context)
        else:
            self._argument(flag, at, said)

    def _setting(self, spec: SettingSpec, flag: WrittenFlag, at: Spot, said: str, context: str) -> None:
        value = flag.values[0] if flag.values else "true"
        if spec.kind is Kind.BOOLEAN:
            value = value.lower()
            value = {"true": "false", "false": "true"}.get(value, value) if flag.name.startswith("--no-") else value
        if spec.kind in _NUMBERS:
            value = whole_number(value)
        if spec.kind is Kind.NAME or spec.choices:
            value = _OLDER_VALUES.get(value, value)
        if spec.key == context and value in ("auto", "-1"):
            self.say(at, Fate.DROPPED, said, "the longest context that fits is what the plan looks for")
            return
        problem = problem_with(spec, value)
        if problem is not None:
            self.say(at, Fate.DROPPED, said, f"allowed as {spec.key}: {problem}")
            return
        release = self.setup.release or self.around.catalog.engines[0].version
        problem = default_engine().problem_with_value(spec.key, value, release, self.around.catalog)
        if problem is not None:
            known = problem.rpartition(": ")[2].split(", ")
            close = closest(value, known) if len(known) > 1 else None
            listed = f"vLLM {release} has no `{value[:60]}`" + (f"; did you mean `{close}`?" if close else "")
            self.say(at, Fate.BROKEN, said, listed if len(known) > 1 else f"allowed: {problem}")
            return
        number: Any = int(value) if value.isdecimal() else float(value) if spec.kind is Kind.FRACTION else value
        self.settings.append(Taken(path=("settings", spec.key), value=number, at=at, subject=said))

    def _argument(self, flag: WrittenFlag, at: Spot, said: str) -> None:
        value = self._argument_value(flag)
        name = flag.name.removeprefix("--")
        try:
            routed = default_engine().route_arguments({flag.name: value}, said)
        except UsageError as refusal:
            reason = refusal.message.removeprefix(f"{said}: ").removeprefix(f"{flag.name} cannot be given: ")
            hint = f"; {refusal.hint}" if refusal.hint and refusal.hint != "remove it" else ""
            self.say(at, Fate.DROPPED, said, f"{reason}{hint}")
            return
        self._own(("args", name), value, at, said)
        for warning in default_engine().argument_warnings(routed):
            fate = Fate.UNKNOWN if "the forecast" in warning else Fate.UNSAFE
            self.say(at, fate, flag.name, warning.removeprefix(f"{flag.name} "))

    def _argument_value(self, flag: WrittenFlag) -> Any:
        """Return the value as YAML; a path of the container becomes the host's, and its folder a volume."""
        if not flag.values:
            return True
        values = []
        for value in map(_on_one_line, flag.values):
            found = self._on_host(value) if value.startswith("/") else None
            if found is not None:
                self._own(("volumes",), [posixpath.dirname(found)], self._at(flag), f"{flag.name} {value}")
            values.append(found or value)
        if len(values) == 1 and values[0].lower() in ("true", "false"):
            return values[0].lower() == "true"
        return values[0] if len(values) == 1 else values

    def _template(self, flag: WrittenFlag, at: Spot, said: str) -> None:
        path = flag.values[0] if flag.values else ""
        found = self._on_host(path) if path.startswith(("/", ".")) else None
        if found is None:
            self.say(
                at,
                Fate.DROPPED,
                said,
                "only the image has this file: copy it to the host, and write models[].chat_template",
            )
            return
        self._own(("chat_template",), found, at, said)

    def _adapters(self, flag: WrittenFlag, at: Spot) -> None:
        for value in flag.values:
            name, path = _adapter(value)
            found = self._on_host(path) if path.startswith("/") else path
            if name and found:
                self._own(("lora", name), found, at, f"{flag.name} {name}={path}")
            else:
                self.say(at, Fate.DROPPED, f"{flag.name} {value[:60]}", "its folder is in no mount of the host")

    def _say_script(self) -> None:
        for word in self.setup.beside:
            why = "its script does this before the engine starts: put it into an image, and write models[].image"
            self.say(word.at, Fate.DROPPED, word.text, why)
        if self.setup.launches > 1:
            why = f"its script chooses among {self.setup.launches} launches; the first was read"
            self.say(self.service.at, Fate.UNKNOWN, self.service.name, why)

    def _devices(self) -> tuple[str, ...] | None:
        """Return the GPUs that the engine sees, by index or UUID; None for all, or an unknown one of all."""
        claim = self.service.gpus
        if claim is not None and claim.foreign:
            self.say(
                claim.at, Fate.BROKEN, "GPUs that are not NVIDIA's", "this release serves NVIDIA's, and processors"
            )
            return None
        devices = claim.devices if claim is not None else None
        for name in ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
            told = self.service.variables.get(name)
            if told is None or told.text in ("", "all", "void", "none"):
                continue
            listed = tuple(part.strip() for part in told.text.split(",") if part.strip())
            if name == "CUDA_VISIBLE_DEVICES" and devices and all(part.isdecimal() for part in listed):
                # CUDA numbers what the container sees.
                within = [int(part) for part in listed if int(part) < len(devices)]
                listed = tuple(devices[number] for number in within) or devices
            devices = listed
        return devices

    def _variables(self) -> None:
        table = self.around.catalog.flags()
        for name, value in self.service.variables.items():
            if name in (
                "NVIDIA_VISIBLE_DEVICES",
                "CUDA_VISIBLE_DEVICES",
                "NVIDIA_DRIVER_CAPABILITIES",
                "CUDA_DEVICE_ORDER",
            ):
                continue
            if name in _HUB_TOKENS:
                held = "" if value.text else " (empty here)"
                self.say(value.at, Fate.SECRET, name, f"export HF_TOKEN, or log in once with `hf auth login`{held}")
            elif name.lower() in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
                self.say(value.at, Fate.DROPPED, name, "a proxy is found on the host: docs/how-to/locked-down.md")
            elif self.around.secret(f"{name}=0123456789") or self.around.secret(value.text):
                self.say(value.at, Fate.SECRET, name, "not copied; the stack makes its own keys: `stackwright key ENV`")
            elif name in _AS_SETTINGS:
                self._shared_setting(name, value)
            elif name in _NOT_HERE:
                self.say(value.at, Fate.DROPPED, name, _NOT_HERE[name])
            elif name.startswith("NCCL_"):
                self.say(value.at, Fate.DROPPED, name, "the plan sets what the links of its GPUs need")
            elif name.startswith("VLLM_") and name not in table.variables:
                self.say(value.at, Fate.DROPPED, name, "vLLM reads no such variable")
            else:
                self.say(
                    value.at,
                    Fate.DROPPED,
                    name,
                    "no wish carries a variable of the engine; the plan sets those it needs",
                )

    def _shared_setting(self, name: str, value: Located) -> None:
        spec = next(spec for spec in self._all_specs() if spec.key == name)
        said = f"{name}={value.text}"[:200]
        if value.text in ("", *_AS_SETTINGS[name]):
            self.say(value.at, Fate.DROPPED, said, "what holds anyway")
        elif problem := problem_with(spec, value.text):
            self.say(value.at, Fate.DROPPED, said, f"allowed as {name}: {problem}")
        else:
            taken = int(value.text) if value.text.isdecimal() else value.text
            self.shared.append(Taken(path=("settings", name), value=taken, at=value.at, subject=said))

    def _all_specs(self) -> tuple[SettingSpec, ...]:
        from stackwright.settings import all_settings

        return all_settings()

    def _mounts(self) -> None:
        for mount in self.service.mounts:
            said = f"{mount.source or mount.volume or ''}:{mount.target}"[:200]
            if mount.target in self.used:
                continue
            if mount.target.rstrip("/") in _hub_caches(self.service.variables):
                self._hub_cache(mount, said)
            elif mount.target.startswith(("/root/.cache/vllm", "/root/.triton", "/root/.cache/torch")):
                self.say(mount.at, Fate.DROPPED, said, "the stack keeps what the engine compiles (VLLM_CACHE_ROOT)")
            else:
                self.say(mount.at, Fate.DROPPED, said, "nothing that was taken reads it")

    def _hub_cache(self, mount: Mount, said: str) -> None:
        if mount.source is None:
            why = (
                "models in a volume of Docker's: the stack uses the host's own cache (HF_HOME), and fetches them there"
            )
            self.say(mount.at, Fate.DROPPED, said, why)
        elif mount.source.rstrip("/").endswith("/.cache/huggingface"):
            self.say(mount.at, Fate.DROPPED, said, "the cache that the stack uses anyway, unless HF_HOME says another")
        else:
            self.shared.append(
                Taken(path=("settings", "HF_HOME"), value=self.around.absolute(mount.source), at=mount.at, subject=said)
            )


_ROLE_FLAGS = ("--task", "--runner", "--convert")
_OLDER_VALUES = {"half": "float16", "float": "float32"}
_AS_SETTINGS: Mapping[str, tuple[str, ...]] = {"HF_HUB_OFFLINE": ("0",), "HF_ENDPOINT": ("https://huggingface.co",)}


_NOT_HERE: Mapping[str, str] = {
    "HF_HOME": "a folder within the container; on the host, HF_HOME names the cache",
    "TRANSFORMERS_OFFLINE": "HF_HUB_OFFLINE says it for both",
}


def _hub_caches(variables: Mapping[str, Located]) -> tuple[str, ...]:
    own = variables.get("HF_HOME")
    return ("/root/.cache/huggingface", "/root/.cache/huggingface/hub", *((own.text.rstrip("/"),) if own else ()))


def why_lacking(flag: str, release: str, catalog: Catalog) -> str | None:
    """Say that a release surely has no such flag: by the samples, or by the whole parser of one release; else None."""
    table, parser = catalog.flags(), catalog.arguments()
    name = flag.partition(".")[0]
    names = (name, name.replace("--no-", "--", 1))
    span = table.flags.get(names[1])
    lacks = all(table.has(each, release) is False for each in names)
    if not any(each in parser.kinds for each in names):
        ended = span is not None and span[1] is not None and order_release(release) > order_release(span[1])
        lacks = lacks or ended
    if not lacks:
        return None
    there = "" if span is None else f": releases from {span[0]}" + (f" to {span[1]}" if span[1] else "") + " have it"
    return f"vLLM {release} has no such flag{there}"


def _on_one_line(value: str) -> str:
    """Return JSON that stands on several lines on one; any other text as it is."""
    if "\n" not in value:
        return value
    import json

    try:
        return json.dumps(json.loads(value), ensure_ascii=False)
    except (ValueError, RecursionError):
        return value


def _adapter(value: str) -> tuple[str, str]:
    """Return name and path of `NAME=PATH`, or of a JSON object with both."""
    if value.lstrip().startswith("{"):
        import json

        try:
            told = json.loads(value)
        except ValueError:
            return "", ""
        return str(told.get("name", "")), str(told.get("path", ""))
    name, _, path = value.partition("=")
    return name, path
