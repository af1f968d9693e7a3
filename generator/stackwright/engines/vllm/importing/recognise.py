"""Which services of a setup are engines, which the gateway, and what each engine is started with. Pure."""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec import Struct

from stackwright.domain.image_pins import release_of
from stackwright.engines.vllm.importing.compose import ContainerService
from stackwright.engines.vllm.importing.words import Located, shell_commands
from stackwright.engines.vllm.launch_words import IMAGE, NO_ENGINE, WrittenLaunch, read_launch, server_begins

_OTHER_ENGINE = re.compile(
    r"sglang|llama[._-]?cpp|llama-server|ollama|text-generation-inference|text-embeddings-inference|lmdeploy|aphrodite"
    r"|tensorrt|triton|localai|koboldcpp|tabby|xinference|gpustack|mlc-llm|infinity|exllama|llama-swap"
)
_TELLING = re.compile(r"--(model|served-model-name|max-model-len|tensor-parallel-size|gpu-memory-utilization)\b")


class ServiceKind(StrEnum):
    """What a service of a hand-written setup is."""

    ENGINE = "engine"
    GATEWAY = "gateway"
    OTHER_ENGINE = "another engine"
    OTHER = "another service"


class EngineSetup(Struct, frozen=True, kw_only=True):
    """An engine of the setup: its launch, and the words that the launch's flags stand in.

    `release` is that of its image's tag, None where that tells none. `twice`: the image starts the server itself, and
    the words start it once more. `beside`: commands of its script that run beside the server. `launches`: how many the
    script has; the first is read.
    """

    service: ContainerService
    launch: WrittenLaunch
    words: tuple[Located, ...]
    release: str | None = None
    twice: bool = False
    beside: tuple[Located, ...] = ()
    launches: int = 1


def image_name(service: ContainerService) -> str:
    """Return the image's name without tag and digest; empty where the service has none."""
    name = service.image.text.partition("@")[0] if service.image else ""
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def kind_of(service: ContainerService) -> ServiceKind:
    """Return what a service is, by its image, its words, and, where it is built, its name and flags."""
    name = image_name(service).lower()
    commands = list(shell_commands(service.words))
    begins = [[word.text for word in command.words] for command in commands]
    if "litellm" in name or any(words and words[0].rpartition("/")[2] == "litellm" for words in begins):
        return ServiceKind.GATEWAY
    if any(server_begins(words) is not None for words in begins):
        return ServiceKind.ENGINE
    if IMAGE.search(name) and not NO_ENGINE.search(name):
        return ServiceKind.ENGINE
    if _OTHER_ENGINE.search(name):
        return ServiceKind.OTHER_ENGINE
    told = {match[1] for words in begins for word in words if (match := _TELLING.match(word.replace("_", "-")))}
    if len(told) >= 2 and (service.gpus is not None or service.build is not None):
        return ServiceKind.ENGINE
    # A build whose flags stand in variables that have no value here.
    named = service.build is not None and IMAGE.search(service.name) and service.gpus is not None
    return ServiceKind.ENGINE if named and service.words else ServiceKind.OTHER


def read_engine(service: ContainerService) -> EngineSetup:
    """Read what an engine's service starts."""
    commands = list(shell_commands(service.words))
    release = release_of(service.image.text) if service.image else None
    starts = [
        (command.words, begin)
        for command in commands
        if (begin := server_begins([w.text for w in command.words])) is not None
    ]
    if not starts:
        words = service.words[service.entry :] if len(commands) == 1 else commands[-1].words if commands else ()
        serve = bool(words) and words[0].text == "serve"
        words = words[1:] if serve else words
        return EngineSetup(
            service=service,
            launch=read_launch([word.text for word in words]),
            words=words,
            release=release,
            twice=serve,
        )
    words, begin = starts[0]
    beside = tuple(
        command.words[0]
        for command in commands
        if command.words[0].text not in _OF_SHELLS and server_begins([word.text for word in command.words]) is None
    )
    return EngineSetup(
        service=service,
        launch=read_launch([word.text for word in words[begin:]]),
        words=words[begin:],
        release=release,
        twice=not service.entry
        and "vllm/vllm-openai" in image_name(service)
        and len(commands) == 1
        and not _is_shell(service),
        beside=beside,
        launches=len(starts),
    )


_OF_SHELLS = frozenset(
    "if elif fi else then for while do done case esac set true echo [ [[ : exit trap shopt printf".split()
)


def _is_shell(service: ContainerService) -> bool:
    return bool(service.words) and service.words[0].text.rpartition("/")[2] in ("sh", "bash")
