"""A program in the place of a service, which need not run: so an engine is asked, and a container looks around.

Touches the container engine, and a file of variables that is removed again. The container has what the service's would
have (image, variables, folders, user); what it is given of GPUs, secrets and networks is its caller's to say.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from stackwright.domain.service import Part, SettingRef, VisibleGpus, Word
from stackwright.runtime import ClientAnswer, Stack
from stackwright.runtime.docker import TELLS_WITHIN_S, ask
from stackwright.services.words import word_text


def text_in_container(stack: Stack, word: Word) -> str:
    """Return the text of a word that names nothing but settings and GPUs, as a container has it."""

    def name(part: Part) -> str:
        setting = part.setting if isinstance(part, VisibleGpus) else part
        return stack.value(setting) if isinstance(setting, SettingRef) else str(setting)

    return word_text(word, name)


def variables_in_container(service: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a service of the merged file, in which Compose doubles each `$`."""
    return {
        name: str(value).replace("$$", "$")
        for name, value in (service.get("environment") or {}).items()
        if value is not None
    }


def container_words(service: Mapping[str, Any]) -> list[str]:
    """Return the options of `docker run` that confine a container as a service of the merged file is, with its folders.

    Secrets, ports, GPUs and networks are left out.
    """
    words = ["--init", *(["--read-only"] if service.get("read_only") else [])]
    words += [f"--user={service['user']}"] if service.get("user") else []
    words += [f"--shm-size={service['shm_size']}"] if service.get("shm_size") else []
    for option, key in (("--cap-drop", "cap_drop"), ("--security-opt", "security_opt"), ("--tmpfs", "tmpfs")):
        words += [f"{option}={value}" for value in service.get(key) or ()]
    bound = (volume for volume in service.get("volumes") or () if volume["type"] == "bind")
    return [
        *words,
        *(mount_word(one["source"], one["target"], read_only=bool(one.get("read_only"))) for one in bound),
    ]


def gpu_words(uuids: Sequence[str]) -> list[str]:
    """Return the option that gives these GPUs to a container."""
    return [f'--gpus="device={",".join(uuids)}"'] if uuids else []


def mount_word(source: str, target: str, *, read_only: bool) -> str:
    """Write the option of a mount, which the client reads as a line of CSV."""
    line = io.StringIO()
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    csv.writer(line, lineterminator="").writerow(fields)
    return f"--mount={line.getvalue()}"


def run_in_container(
    docker: Sequence[str], name: str, words: Sequence[str], variables: Mapping[str, str], given: str, limit_s: float
) -> ClientAnswer:
    """Run a container to its end, `words` being its options, image and command; nothing of it is left.

    Variables stand in a file of this user's, since everybody may read a client's arguments.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="stackwright-") as file:
        file.writelines(f"{key}={value}\n" for key, value in variables.items() if "\n" not in value)
        file.flush()
        named = f"{name}-{os.getpid()}"
        command = [*docker, "run", "--rm", "--interactive", f"--name={named}", "--pull=never"]
        try:
            answer = ask([*command, f"--env-file={file.name}", *words], limit_s, given=given)
        except KeyboardInterrupt:  # a client may die of it and leave the container
            ask([*docker, "rm", "--force", named], TELLS_WITHIN_S)
            raise
    if answer.code is None:
        ask([*docker, "rm", "--force", named], TELLS_WITHIN_S)
    return answer
