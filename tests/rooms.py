"""The import rooms of the package (docs/architecture.md) as one table, and the check of one module against it.

Reads nothing but the source text that it is given.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the modules of one room may import.

    `inside`: rooms of this package beside itself. `libraries`: third-party packages, inside functions only, since
    each costs start-up time. `pure`: no clock, environment, disk, network or program.
    """

    inside: frozenset[str]
    libraries: frozenset[str] = frozenset()
    pure: bool = False


def room(inside: str = "", *, libraries: str = "", pure: bool = False) -> Room:
    """Write one row of the table with names separated by blanks."""
    return Room(inside=frozenset(inside.split()), libraries=frozenset(libraries.split()), pure=pure)


# The longest name that fits a module is its room. `stackwright` itself (the version) is open to all.
ROOMS: Mapping[str, Room] = {
    "stackwright": room(pure=True),
    "errors": room(pure=True),
    "units": room(pure=True),
    "domain": room("units errors", pure=True),
    "settings": room("engines services domain units errors", pure=True),
    "models.shape": room("models domain", pure=True),
    "models.layers": room("models domain", pure=True),
    "models.config": room("models domain", pure=True),
    "models.keys": room(pure=True),
    "models.quantization": room("models domain", pure=True),
    "models.checkpoint": room("domain", pure=True),
    "models.cache": room("domain"),
    "models.stored": room("models domain", pure=True),
    "engines": room("models domain units errors", pure=True),
    # Runs by its path in the engine's own Python, which has nothing of this package.
    "engines.vllm.ask_engine": room(libraries="vllm"),
    "planning": room("engines services models domain settings units errors", pure=True),
    "watching.health": room("watching domain units errors", pure=True),
    "watching.steps": room("domain engines", pure=True),
    "watching.limits": room("watching domain", pure=True),
    "watching.course": room("watching domain", pure=True),
    "watching.metrics": room("domain engines", pure=True),
    "diagnosis.rules": room("domain units errors", pure=True),
    "diagnosis.pasted": room("diagnosis", pure=True),
    "diagnosis.redaction": room(pure=True),
    "atomic": room(),
    "reading": room("errors", libraries="yaml"),
    "catalog": room("domain reading errors", libraries="elftools"),
    "services": room("engines domain units errors", pure=True),
    "rendering.numbered": room("engines domain settings", pure=True),
    "rendering": room("services engines domain settings reading units errors", libraries="jinja2 yaml", pure=True),
    "detect": room("domain reading units errors"),
    "detect.nvml": room("detect domain units errors", libraries="pynvml"),
    "detect.gpu_state": room("detect domain units errors", libraries="pynvml"),
    "detect.snapshot": room("detect domain reading atomic units errors", libraries="yaml"),
    "models": room("domain reading units errors"),
    "models.smoke_model": room("errors"),
    "models.hub": room("models domain units errors", libraries="huggingface_hub httpx2"),
    "runtime": room("services rendering.numbered engines domain settings units errors"),
    "runtime.process_groups": room("errors", libraries="psutil"),
    "runtime.activity": room("runtime domain", libraries="psutil"),
    "runtime.compose": room(
        "runtime services rendering.numbered engines domain settings units errors", libraries="python_on_whales"
    ),
    "runtime.docker": room("runtime errors", libraries="python_on_whales"),
    "runtime.processes": room(
        "runtime services rendering.numbered models.smoke_model atomic engines domain settings units errors"
    ),
    # Also read alone, before anything is installed (scripts/virtual_environment.py).
    "runtime.pip_settings": room(),
    "runtime.provision": room("runtime domain units errors", libraries="uv"),
    "runtime.supervisord": room("errors", libraries="psutil supervisor"),
    # `runtime` for the Stack that is checked, `project` for what was rendered; neither is asked to do anything.
    "validation": room(
        (
            "services rendering catalog detect models engines planning domain settings reading runtime project "
            "diagnosis atomic units errors"
        ),
        libraries="python_on_whales",
    ),
    # Known failures are told by their rules, which are read once.
    "watching": room("models.cache services engines runtime diagnosis domain reading atomic units errors"),
    "diagnosis": room("services engines domain reading runtime errors"),
    # Prompts are drawn by a seeded generator.
    "load": room("runtime domain reading atomic errors"),
    "project": room("services engines settings interrupts rendering atomic reading domain units errors"),
    "project.digests": room("project domain reading atomic errors", libraries="yaml"),
    "project.inputs": room("project catalog domain reading rendering errors"),
    # The project folder joins what stands on the disk to the words of three stages; it calls none of them.
    "project.folder": room(
        "project services engines domain settings planning reading rendering runtime units errors", libraries="dotenv"
    ),
    # What stands in a hand-written setup is told as wishes; nothing of the engine asks for it.
    "engines.vllm.importing": room(
        "engines services planning settings domain reading units errors", libraries="yaml", pure=True
    ),
    # python-dotenv takes a stream.
    "engines.vllm.importing.variables": room("engines errors", libraries="dotenv"),
    "interrupts": room(),
    "report": room(
        "rendering diagnosis.rules diagnosis.pasted diagnosis.redaction domain settings reading project units errors",
        libraries="rich",
    ),
    "commands": room(
        "domain settings planning services engines watching validation reading catalog rendering models detect runtime "
        "project interrupts report diagnosis atomic load units errors"
    ),
    # Completion is made from the parsers of all commands, which `cli` puts together.
    "commands.completion": room(
        "load commands cli domain settings engines services catalog report errors", libraries="shtab"
    ),
    "cli": room("commands interrupts report errors"),
    "__main__": room("cli"),
}

UNTOUCHABLE = frozenset(
    "os subprocess socket ssl select selectors time datetime random secrets uuid shutil tempfile glob fcntl signal "
    "threading multiprocessing asyncio concurrent urllib.request http io sys logging getpass platform".split()
)
UNTOUCHABLE_CALLS = frozenset(
    "open input print exec eval read_text write_text read_bytes write_bytes unlink mkdir rmdir touch exists is_file "
    "is_dir iterdir rglob resolve expanduser cwd home stat chmod".split()
)


def room_of(module: str) -> str | None:
    """Return the room of a module named from below the package (`runtime.compose`), or None where none is declared."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in ROOMS:
            return name
    return None


def violations(module: str, source: str) -> Iterator[str]:
    """Yield one sentence for each rule that a module's source breaks."""
    name = room_of(module)
    if name is None:
        yield f"{module}: no room declares it; add a row to ROOMS in tests/rooms.py"
        return
    tree = ast.parse(source)
    late = {id(node) for node in _inside_functions(tree)}
    for node in ast.walk(tree):
        for imported in _imports(node):
            problem = _import_problem(name, imported, late=id(node) in late)
            if problem:
                yield f"{module}:{getattr(node, 'lineno', 0)}: {problem}"
        called = _called(node)
        if called in ("__import__", "import_module") and not (name == "cli" and _loads_command(node)):
            yield f"{module}:{getattr(node, 'lineno', 0)}: {called}: write an import statement"
        if ROOMS[name].pure and called in UNTOUCHABLE_CALLS:
            yield f"{module}:{getattr(node, 'lineno', 0)}: {called}(): room {name} is pure"


def _inside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs only when a function is called, and what only a type checker reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from ast.walk(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ast.walk(node)


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level:
        yield "." * node.level + (node.module or "")
    elif isinstance(node, ast.ImportFrom) and node.module == "stackwright":
        yield from (f"stackwright.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module


def _called(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    called = node.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else None


def _loads_command(node: ast.AST) -> bool:
    """Say whether this is the one import by a computed name: a module of the commands, named by the command line."""
    match node:
        case ast.Call(args=[ast.JoinedStr(values=[ast.Constant(value="stackwright.commands."), *_])]):
            return True
    return False


def _import_problem(name: str, imported: str, *, late: bool) -> str | None:
    top = imported.partition(".")[0]
    if imported.startswith("."):
        return f"{imported}: write the whole name"
    if top == "stackwright":
        return _room_problem(name, imported.removeprefix("stackwright").removeprefix("."))
    if top in sys.stdlib_module_names:
        banned = imported in UNTOUCHABLE or top in UNTOUCHABLE
        return f"{imported}: room {name} is pure" if ROOMS[name].pure and banned else None
    if top == "msgspec":
        return None  # every record is a Struct
    if top not in ROOMS[name].libraries:
        return f"{imported}: not a library of room {name}"
    return None if late else f"{imported}: import it inside the function that needs it"


def _room_problem(name: str, target: str) -> str | None:
    other = room_of(target)
    if other is None:
        return None if target in ("", "__version__") else f"stackwright.{target}: no room declares it"
    allowed = ROOMS[name].inside
    if other == name or other in allowed or other.partition(".")[0] in allowed:
        return None
    # A room of its own for one module's library is still part of its package.
    return None if other.partition(".")[0] == name.partition(".")[0] else f"room {name} may not import {other}"
