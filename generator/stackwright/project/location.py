"""Where a project, its state and the caches stand. Light: every command asks. Looks for folders, makes none."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from stackwright.domain.environment import Folders
from stackwright.engines import ENGINES
from stackwright.project.pasting import CHECKOUT, program_of


def find_root(out: Path | None, working: Path) -> Path:
    """Return the project folder: `--out`, else the checkout that this package lies in, else the working folder.

    Raises:
        RuntimeError, OSError: there can be no folder of that name, or its parent may not be looked into.
    """
    if out is not None:
        root = out.expanduser().absolute()
        (root / "envs").exists()  # raises here, once, what each later look would
        return root
    return CHECKOUT if (CHECKOUT / "compose" / "compose.yaml").is_file() else working.absolute()


def name_command(command: str, *words: str, root: Path, working: Path) -> str:
    """Write a command so that it works as pasted in the folder `working`; `--out` is there where needed."""
    out = () if find_root(None, working) == root else ("--out", str(root))
    return shlex.join((program_of(command, working), *words, *out))


def choose_folders(variables: Mapping[str, str], home: Path) -> tuple[Path, Folders]:
    """Return the state folder and the caches, from the variables that each tool documents, else below `home`."""

    def folder(name: str, otherwise: Path) -> Path:
        return Path(variables.get(name) or otherwise).expanduser().absolute()

    data = folder("XDG_DATA_HOME", home / ".local" / "share")
    cache = folder("XDG_CACHE_HOME", home / ".cache")
    state = folder("STACKWRIGHT_STATE", data / "stackwright")
    folders = Folders(
        hf_home=str(folder("HF_HOME", cache / "huggingface")),
        engine_caches={
            engine.name: str(folder(engine.keys.cache_folder, cache / engine.name)) for engine in ENGINES.values()
        },
        data=str(state / "data"),
    )
    return state, folders
