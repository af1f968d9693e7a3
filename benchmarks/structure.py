"""How the package is built: who names vLLM, what is said twice, which imports go in circles, what is long.

    python benchmarks/structure.py [PACKAGE] [--as NAME]

Reads the sources of PACKAGE (generator/stackwright by default; any other checkout's folder will do) and prints what it
counts as JSON. With `--as NAME` the numbers are also kept under that name in benchmarks/results/structure.json, beside
those of other trees. Counted are:

- files, of any kind, that name vLLM in code, text or comments, outside engines/vllm/ and catalog/;
- uses of what knows that a further model's keys end in `_2`, outside rendering/ and project/;
- class names that are declared twice or more;
- circles of imports, those inside functions and those for type checkers included, each as its modules;
- lines of code (without blank lines, comments and docstrings), and the share of them that is longer than 100
  characters;
- functions with more than 6 parameters, `self` and `cls` not counted; dataclasses with more than 12 fields.

Touches nothing but that one file.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "structure.json"
MAY_NAME_VLLM = ("engines/vllm/", "catalog/")
MAY_NAME_SLOTS = ("rendering/", "project/")
SLOT_HELPERS = frozenset({"slot_key", "split_slot", "value_in_slot", "slot_of", "written_key", "split_key"})
LONG_LINE, MANY_PARAMETERS, MANY_FIELDS = 100, 6, 12


class Structure(Struct, frozen=True, kw_only=True):
    """What is counted of one package; names stand for what can be named."""

    files_naming_vllm: tuple[str, ...]
    slot_helper_uses: Mapping[str, int]
    class_names_used_twice: Mapping[str, int]
    import_circles: tuple[tuple[str, ...], ...]
    code_lines: int
    long_line_percent: float
    functions_with_many_parameters: tuple[str, ...]
    records_with_many_fields: tuple[str, ...]


def measure(package: Path) -> Structure:
    """Count everything in the package below a folder."""
    sources = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    code = [line for name, source in sources.items() for line in code_lines(source, trees[name])]
    classes = Counter(node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    slots = {name: slot_uses(tree) for name, tree in trees.items() if not name.startswith(MAY_NAME_SLOTS)}
    return Structure(
        files_naming_vllm=tuple(files_naming(package, "vllm")),
        slot_helper_uses={name: uses for name, uses in slots.items() if uses},
        class_names_used_twice={name: times for name, times in sorted(classes.items()) if times > 1},
        import_circles=circles({module_of(name): imports(package, tree) for name, tree in trees.items()}),
        code_lines=len(code),
        long_line_percent=round(100 * sum(len(line) > LONG_LINE for line in code) / max(1, len(code)), 1),
        functions_with_many_parameters=tuple(
            f"{name}: {found}" for name, tree in trees.items() for found in wide_functions(tree)
        ),
        records_with_many_fields=tuple(
            f"{name}: {found}" for name, tree in trees.items() for found in wide_records(tree)
        ),
    )


def files_naming(package: Path, word: str) -> Iterator[str]:
    """Yield the files that hold a word, in capitals or not, outside the folders that may."""
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package).as_posix()
        if path.is_dir() or path.suffix == ".pyc" or name.startswith(MAY_NAME_VLLM):
            continue
        if word in path.read_text(encoding="utf-8", errors="replace").lower():
            yield name


def slot_uses(tree: ast.Module) -> int:
    """Count where a helper of the keys' endings is named; its own definition and its import do not count."""
    named = (
        node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        for node in ast.walk(tree)
    )
    return sum(name in SLOT_HELPERS for name in named)


def code_lines(source: str, tree: ast.Module) -> Iterator[str]:
    """Yield the lines that hold code: no blank ones, no comments, no docstrings."""
    told: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            told.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(source.splitlines(), start=1):
        if number not in told and line.strip() and not line.lstrip().startswith("#"):
            yield line


def module_of(name: str) -> str:
    """Return a file's module below the package: `runtime` for `runtime/__init__.py`."""
    return name.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


def imports(package: Path, tree: ast.Module) -> frozenset[str]:
    """Return the modules of the package that a module imports, wherever in it."""
    prefix = f"{package.name}."

    def below(name: str) -> str | None:
        path = package / name.removeprefix(prefix).replace(".", "/")
        known = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
        return name.removeprefix(prefix) if name.startswith(prefix) and known else None

    targets: set[str | None] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {below(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            targets |= {below(f"{node.module}.{alias.name}") or below(node.module) for alias in node.names}
    return frozenset(target for target in targets if target is not None)


def circles(graph: Mapping[str, frozenset[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of modules that reach each other, each sorted: what a change in one may bring to all."""
    reached = {module: _reach(graph, module) for module in graph}
    groups = {
        tuple(sorted(other for other in reached[module] if module in reached.get(other, frozenset())))
        for module in graph
        if module in reached[module]
    }
    return tuple(sorted(groups))


def _reach(graph: Mapping[str, frozenset[str]], start: str) -> frozenset[str]:
    """Return every module that a module's imports lead to; itself where they lead back."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph.get(module, ())
    return frozenset(seen)


def wide_functions(tree: ast.Module) -> Iterator[str]:
    """Yield each function with more parameters than a reader can keep apart, with their number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in every)
            if count > MANY_PARAMETERS:
                yield f"{node.name} ({count})"


def wide_records(tree: ast.Module) -> Iterator[str]:
    """Yield each record with more fields than one thing has, with their number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and is_record(node):
            count = sum(isinstance(field, ast.AnnAssign) for field in node.body)
            if count > MANY_FIELDS:
                yield f"{node.name} ({count})"


def is_record(node: ast.ClassDef) -> bool:
    """Tell whether a class is a dataclass, or is made frozen as a Struct is."""
    decorated = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    return decorated or any(keyword.arg == "frozen" for keyword in node.keywords)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the numbers, and keep them where a name is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path, default=ROOT / "generator" / "stackwright")
    parser.add_argument("--as", dest="name", help="the name to keep the numbers under")
    asked = parser.parse_args(argv)
    found = asdict(measure(asked.package.resolve()))
    print(json.dumps(found, indent=2))
    if asked.name:
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(kept | {asked.name: found}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
