"""Rules take values and touch nothing: only the looks beside them do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.validation import checks
from stackwright.validation.check import Check

from tests.rooms import UNTOUCHABLE, UNTOUCHABLE_CALLS

FOLDER = Path(checks.__file__).parent
TREES = [
    ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.py"))
    if path.name not in ("check.py", "checks.py")
]
# What the rules of all modules call by name: functions of the folder, whichever module they stand in.
FUNCTIONS = {node.name: node for tree in TREES for node in tree.body if isinstance(node, ast.FunctionDef)}
# What each function could touch by the names that its module imports.
REACHABLE = {
    node.name: UNTOUCHABLE & {name.name for other in tree.body if isinstance(other, ast.Import) for name in other.names}
    for tree in TREES
    for node in tree.body
    if isinstance(node, ast.FunctionDef)
}
RULES = sorted(name for name in FUNCTIONS if name.lstrip("_").startswith("check_"))


def reached(name: str) -> Iterator[str]:
    """Yield a function and all that it calls of this folder."""
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        waiting += [
            node.id for node in ast.walk(FUNCTIONS[current]) if isinstance(node, ast.Name) and node.id in FUNCTIONS
        ]


def touches(function: ast.FunctionDef, imported: frozenset[str]) -> Iterator[str]:
    """Yield what a function touches beside its arguments, as far as its text shows it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in imported:
            yield node.id
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            called = node.func
            word = (
                called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            )
            if word in UNTOUCHABLE_CALLS:
                yield word


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_touches_nothing(rule: str) -> None:
    found = {name: set(touches(FUNCTIONS[name], REACHABLE[name])) for name in reached(rule)}
    assert {name: words for name, words in found.items() if words} == {}


def test_a_rule_that_touched_something_would_be_seen() -> None:
    (function,) = ast.parse("def f(path):\n    import ssl\n    os.getuid()\n    return path.read_text()").body
    assert isinstance(function, ast.FunctionDef)
    assert set(touches(function, frozenset({"os"}))) == {"import ssl", "os", "read_text"}


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.name)
def test_a_check_calls_a_rule(check: Check) -> None:
    """A lambda that spreads the looks over a rule, or the rule itself."""
    assert set(check.rule.__code__.co_names) & set(RULES) or check.rule.__name__ in RULES
