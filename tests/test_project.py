"""The project as a whole: sizes, what the docs must name, and that nothing of one machine or person got in."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import stackwright
from stackwright import errors

from tests.test_layers import PACKAGE

ROOT = PACKAGE.parents[1]
PYTHON_FILES = sorted(
    path for folder in ("generator", "scripts", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMANDS = tuple(PROJECT["scripts"])
KINDS: tuple[type[errors.StackError], ...] = (errors.StackError, *errors.StackError.__subclasses__())
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_FUNCTION_LINES = 40


def relative(path: Path) -> str:
    """Name a file from the top of the project."""
    return str(path.relative_to(ROOT))


def function_lengths(source: str) -> Iterator[tuple[str, int]]:
    """Yield each function with its lines from `def` on, docstring, blank lines and comments not counted."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None and first.end_lineno is not None
            skipped = set(range(first.lineno, (first.end_lineno or 0) + 1)) if documented else set()
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            code = [n for n in span if n not in skipped and lines[n - 1].split("#")[0].strip()]
            yield node.name, len(code)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_sizes(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    long = [f"{name}: {length} lines" for name, length in function_lengths(source) if length > MAX_FUNCTION_LINES]
    assert long == []


def test_lines_are_counted() -> None:
    source = 'def f() -> None:\n    """Say."""\n\n    # why\n    g(\n        1,\n    )\n'
    assert list(function_lengths(source)) == [("f", 4)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=relative)
def test_modules_and_public_functions_say_what_they_do(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    silent = [node.name for node in public if ast.get_docstring(node) is None]
    assert ast.get_docstring(tree) is not None
    assert silent == []


def test_every_exit_code_is_documented() -> None:
    reference = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    codes = {errors.EXIT_DONE, errors.EXIT_INTERRUPTED, errors.EXIT_UNREAD} | {kind.exit_code for kind in KINDS}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", reference, re.MULTILINE)} == codes


def test_exit_codes_are_each_of_one_class() -> None:
    assert len({kind.exit_code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_links_between_docs_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_script(name: str) -> None:
    script = ROOT / "scripts" / name
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")


def test_a_wheel_carries_every_hand_written_file_that_runs() -> None:
    """An installed command lays out a project folder from its wheel; Dockerfiles of stand-ins stay in the checkout."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    included = build["targets"]["wheel"]["force-include"]
    files = [
        path
        for path in (ROOT / "compose").rglob("*")
        if path.is_file() and not {"generated", "images", "__pycache__"} & set(path.parts)
    ]
    # A folder is taken with all that is below it.
    left = [
        path
        for path in files
        if not {relative(part) for part in (path, *path.parents) if part.is_relative_to(ROOT)} & set(included)
    ]
    assert [relative(path) for path in left] == []
    assert [target for source, target in included.items() if target != f"stackwright/base/{source}"] == []


@pytest.mark.parametrize("name", ["common", "dev", "staging", "prod"])
def test_the_package_has_the_wishes_of_the_checkout(name: str) -> None:
    """Those of a clone are edited; what lies in the package is what was shipped."""
    shipped = ROOT / "generator" / "stackwright" / "base" / "envs" / f"{name}.yaml"
    assert shipped.read_bytes() == (ROOT / "envs" / f"{name}.yaml").read_bytes()


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_locks_pin_everything_by_hash_and_name_no_index(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text)
    pins = [block for block in blocks if "==" in block]
    assert pins
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
    assert re.search(r"index-url|find-links|https?://|trusted-host|file:", text) is None


def test_the_lock_of_the_tests_holds_the_lock_of_the_commands() -> None:
    """One virtual environment serves both, so the two must agree."""
    pins = [
        set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("run.txt", "dev.txt")
    ]
    assert pins[0] <= pins[1]


def test_every_dependency_is_locked_and_justified() -> None:
    names = [re.split(r"[<>=\[]", text)[0] for text in PROJECT["dependencies"]]
    lock = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    decision = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text(encoding="utf-8").lower()
    assert [name for name in names if f"\n{name}==" not in lock] == []
    assert [name for name in names if f"`{name}`" not in decision] == []


def test_the_changelog_names_this_version() -> None:
    assert f"## {stackwright.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.subprocess
def test_nothing_of_one_machine_is_committed() -> None:
    """Folders that only one person's machine has, and secrets, have no place in a tracked file."""
    private = re.compile(rb"/home/(?!you\b|user\b)[a-z]\w*|/Users/\w|\bsk-[0-9a-f]{64}\b|\bhf_[A-Za-z]{30,}")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    found = {
        relative(path): match.group().decode()
        for path in files
        if path.is_file() and path != Path(__file__) and (match := private.search(path.read_bytes()))
    }
    assert found == {}
