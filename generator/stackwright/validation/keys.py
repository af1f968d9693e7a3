"""The keys of people and programs: a file that the gateway can use, models that are served, and room for the counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from stackwright.domain.environment import USAGE_FOLDER
from stackwright.domain.finding import Finding, error, warning
from stackwright.errors import UsageError
from stackwright.project.access_keys import keys_file, master_key_file, read_keys
from stackwright.project.credentials import gateway_key
from stackwright.runtime import Stack
from stackwright.validation.check import Check, Observation
from stackwright.validation.files import SeenFile, check_privacy, inspect_file, text_of


class SeenKeys(Struct, frozen=True, kw_only=True):
    """The file of the keys, None where there is none, and what is wrong with it, None where nothing is.

    `models` are those that each key may ask, by its name. `unwritable`: the folder of the counts, where that is there
    and takes none. `replaced`: the link to the master key is a file of its own, which a container does not see.
    """

    file: SeenFile | None
    problem: str | None
    models: tuple[tuple[str, tuple[str, ...]], ...]
    unwritable: Path | None
    replaced: bool


def inspect_keys(stack: Stack) -> SeenKeys:
    """Look at the keys and at the folder of their counts."""
    path, usage = keys_file(stack.paths), stack.paths.folder(USAGE_FOLDER)
    problem: str | None = None
    models: tuple[tuple[str, tuple[str, ...]], ...] = ()
    try:
        models = tuple((key.name, key.rights.models) for key in read_keys(stack.paths).keys)
    except UsageError as failure:
        problem = failure.message
    return SeenKeys(
        file=inspect_file(path, readable=text_of(path) is not None) if path.exists() else None,
        problem=problem,
        models=models,
        replaced=master_key_file(stack.paths).exists() and not gateway_key(stack.secrets).is_symlink(),
        unwritable=usage if usage.exists() and not os.access(usage, os.W_OK | os.X_OK) else None,
    )


def check_keys(stack: Stack, seen: SeenKeys) -> Iterator[Finding]:
    """Check that the gateway can use every key as it was made."""
    name = stack.plan.environment.value
    if seen.problem is not None:
        fix = f"put a sound file back, or `rm {keys_file(stack.paths)}` and make the keys anew with `stackwright keys`"
        yield error(
            "keys-damaged", found=f"{seen.problem}: the gateway accepts the master key only", expected="keys", fix=fix
        )
    if seen.file is not None and seen.file.readable:
        yield from check_privacy(seen.file, str(seen.file.path), stack, "keys")
    served = {*(model.name for model in stack.plan.models), *(model.name for model in stack.plan.gateway.cloud)}
    for key, models in seen.models:
        if models and not served & {*models}:
            fix = f"`stackwright keys revoke {key} {name}`, then `stackwright keys add {key} {name} --model …`"
            yield warning(
                "keys-model", found=f"`{key}` may ask {', '.join(models)}", expected="a served model", fix=fix
            )
    if seen.replaced:
        found = f"{gateway_key(stack.secrets)} was replaced, which a container does not see"
        fix = f"put it in force: `start-environment {name}`"
        yield warning("keys-master", found=found, expected=f"a link to {master_key_file(stack.paths)}", fix=fix)
    if seen.unwritable is not None:
        fix = f"`chmod 700 {seen.unwritable}`"
        yield warning("keys-usage", found=f"{seen.unwritable} takes no counts", expected="your own folder", fix=fix)


KEYS_OF_STACK = Check(
    name="keys",
    about="the keys of people and programs: a sound file, mode 0600, owned by you; served models; a folder for counts",
    findings=tuple("keys-damaged keys-mode keys-owner keys-model keys-master keys-usage".split()),
    rule=lambda on, seen: check_keys(on.stack, seen),
    observations=(Observation(take=lambda machine: inspect_keys(machine.stack)),),
)
