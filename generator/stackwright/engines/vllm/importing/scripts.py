"""`docker run` in a shell script as services, as if they stood in a Compose file. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from msgspec.structs import replace

from stackwright.engines.vllm.importing.compose import ContainerService, GpuClaim, Mount, Publication, read_ports
from stackwright.engines.vllm.importing.tree import Node, Spot
from stackwright.engines.vllm.importing.variables import replace_variables
from stackwright.engines.vllm.importing.words import Located, locate_words, split_words
from stackwright.errors import UsageError

_CAPTURED = re.compile(r"^\s*(?:local\s+)?[A-Za-z_][A-Za-z0-9_]*=\"?\$\((?=\s*(?:sudo\s+)?(?:docker|podman|nerdctl)\b)")
_ARRAY = re.compile(r"^\s*(?:declare\s+-a\s+|local\s+)?([A-Za-z_][A-Za-z0-9_]*)(\+?)=\(")
_ARRAY_END = re.compile(r"\)\s*(?:#.*)?$")
_WHOLE_ARRAY = re.compile(r"\"?\$\{([A-Za-z_][A-Za-z0-9_]*)\[[@*]\]\}\"?")
_PROGRAM = re.compile(r"^\s*(?:sudo\s+|exec\s+|nohup\s+)*(?:docker|podman|nerdctl)\s+(?:container\s+)?run\b")
_ASSIGNED = re.compile(
    r"^\s*(?:export\s+|readonly\s+|local\s+)?([A-Za-z_][A-Za-z0-9_]*)=(\S*|\"[^\"]*\"|'[^']*')\s*(?:#.*)?$"
)
# Of `docker run` (docs.docker.com/reference/cli/docker/container/run, read 2026-11-29): those without a value.
_SWITCHES = frozenset(
    "-d --detach -i --interactive -t --tty -it -ti -dit -itd -tid -td --rm --init --privileged -P --publish-all "
    "--read-only --no-healthcheck --oom-kill-disable -q --quiet --sig-proxy".split()
)
_GPU_LIST = re.compile(r"\"?'?\"?device=([^\"']+)\"?'?\"?")


def is_script(text: str) -> bool:
    """Return whether a text has a `docker run` in it."""
    return any(_PROGRAM.match(_CAPTURED.sub("", line)) for line in text.splitlines())


def read_script(
    text: str, file: str, environ: Mapping[str, str], absolute: Callable[[str], str]
) -> tuple[ContainerService, ...]:
    """Read each `docker run` of a script, with the variables that the script or the shell sets.

    Raises:
        UsageError: one of them has no image, or a quote without its end.
    """
    values = dict(environ)
    arrays: dict[str, str] = {}
    services: list[ContainerService] = []
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        begin, whole = position, lines[position]
        while whole.endswith("\\") and position + 1 < len(lines):
            position += 1
            whole = whole[:-1] + " " + lines[position]
        position += 1
        array = _ARRAY.match(whole)
        if array:
            while not _ARRAY_END.search(whole) and position < len(lines):
                whole, position = whole + f" {lines[position]}".partition(" #")[0], position + 1
            arrays[array[1]] = (
                f"{arrays.get(array[1], '') if array[2] else ''} {_ARRAY_END.sub('', whole[array.end() :])}"
            )
            continue
        if captured := _CAPTURED.match(whole):
            whole = _ARRAY_END.sub("", whole[captured.end() :].rstrip('"'))
        assigned = _ASSIGNED.match(whole)
        if assigned:
            bare = assigned[2].strip("\"'")
            known = replace_variables(bare, values, f"{file}:{begin + 1}").text if "$(" not in bare else bare
            values[assigned[1]] = environ.get(assigned[1], known)
        elif _PROGRAM.match(whole):
            numbered = tuple((begin + 1 + offset, line) for offset, line in enumerate(lines[begin:position]))
            whole = _WHOLE_ARRAY.sub(lambda found: arrays.get(found[1], ""), whole)
            services.append(_read_run(whole, Spot(file, begin + 1), numbered, values, absolute))
    return tuple(_named_apart(services))


def _named_apart(services: list[ContainerService]) -> Iterator[ContainerService]:
    """Yield the containers; one without a name of its own is numbered where its image is that of an earlier one."""
    seen: Counter[str] = Counter()
    for service in services:
        seen[service.name] += 1
        number = seen[service.name]
        yield service if number == 1 else replace(service, name=f"{service.name}-{number}")


def _read_run(
    line: str, at: Spot, lines: tuple[tuple[int, str], ...], values: Mapping[str, str], absolute: Callable[[str], str]
) -> ContainerService:
    raw = locate_words(split_words(line, str(at)), at, lines)
    replaced = [replace_variables(word.text, values, str(word.at)) for word in raw]
    words = [replace(word, text=new.text) for word, new in zip(raw, replaced, strict=True)]
    unset = tuple(Located(text=name, at=word.at) for word, new in zip(raw, replaced, strict=True) for name in new.unset)
    begin = next(position for position, word in enumerate(words) if word.text == "run") + 1
    options: list[tuple[str, Located]] = []
    position = begin
    while position < len(words) and words[position].text.startswith("-"):
        word = words[position]
        name, equals, value = word.text.partition("=")
        if name in _SWITCHES and not equals:
            options.append((name, word))
        elif equals:
            options.append((name, replace(word, text=value)))
        elif not name.startswith("--") and len(name) > 2 and name[:2] in ("-p", "-v", "-e", "-w", "-u"):
            options.append((name[:2], replace(word, text=name[2:])))
        else:
            position += 1
            options.append((name, words[position] if position < len(words) else word))
        position += 1
    if position >= len(words):
        raise UsageError(f"{at}: `docker run` without an image", hint="correct that command line")
    return _service(options, words[position], tuple(words[position + 1 :]), unset, absolute)


def _service(
    options: list[tuple[str, Located]],
    image: Located,
    words: tuple[Located, ...],
    unset: tuple[Located, ...],
    absolute: Callable[[str], str],
) -> ContainerService:
    def given(*names: str) -> list[Located]:
        return [value for name, value in options if name in names]

    named = given("--name")
    entry = given("--entrypoint")
    variables = {}
    for told in given("-e", "--env"):
        name, equals, value = told.text.partition("=")
        if equals:
            variables[name] = replace(told, text=value)
    known = ("--name", "--entrypoint", "-e", "--env", "-v", "--volume", "-p", "--publish", "--gpus", *_SWITCHES)
    keys = {
        "--shm-size": "shm_size",
        "--ipc": "ipc",
        "--network": "network_mode",
        "--net": "network_mode",
        "--runtime": "runtime",
    }
    other = {keys.get(name, name): Node(at=value.at, value=value.text) for name, value in options if name not in known}
    if given("--privileged"):
        other["privileged"] = Node(at=given("--privileged")[0].at, value="true")
    return ContainerService(
        name=named[0].text if named else image.text.partition("@")[0].rpartition("/")[2].partition(":")[0],
        at=image.at,
        image=image,
        words=(*(entry[:1]), *words),
        entry=len(entry[:1]),
        variables=variables,
        gpus=_gpus(given("--gpus", "--device"), given("--runtime")),
        mounts=tuple(_mount(told, absolute) for told in given("-v", "--volume")),
        ports=tuple(_ports(given("-p", "--publish"))),
        other=other,
        unset=unset,
    )


def _gpus(claims: list[Located], runtime: list[Located]) -> GpuClaim | None:
    for told in claims:
        listed = _GPU_LIST.fullmatch(told.text)
        if listed:
            return GpuClaim(at=told.at, devices=tuple(listed[1].split(",")))
        if told.text.startswith("nvidia.com/gpu="):
            name = told.text.partition("=")[2]
            return GpuClaim(at=told.at, devices=None if name == "all" else (name,))
        if told.text.startswith(("/dev/kfd", "/dev/dri")):
            return GpuClaim(at=told.at, foreign=True)
        return GpuClaim(at=told.at, count=int(told.text) if told.text.isdecimal() else None)
    return GpuClaim(at=runtime[0].at) if runtime and runtime[0].text == "nvidia" else None


def _mount(told: Located, absolute: Callable[[str], str]) -> Mount:
    source, _, rest = told.text.partition(":")
    if re.match(r"\$\(pwd\)|\$PWD|`pwd`", source):
        source = absolute("." + re.sub(r"^(\$\(pwd\)|\$PWD|`pwd`)", "", source))
    target = rest.partition(":")[0] or source
    is_path = source.startswith(("/", ".", "~"))
    return Mount(at=told.at, target=target, source=source if is_path else None, volume=None if is_path else source)


def _ports(told: list[Located]) -> list[Publication]:
    return [port for value in told for port in read_ports(Node(at=value.at, value=value.text))]
