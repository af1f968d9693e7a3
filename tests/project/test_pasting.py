"""Commands in messages: written so that they work as pasted, and every one in the source is one that exists."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from stackwright.cli import COMMANDS, OWN_ENTRY_POINTS, build_parser, leaves
from stackwright.commands.options import ENVIRONMENTS, MODES
from stackwright.project.pasting import CHECKOUT, Pasting

from tests.test_layers import PACKAGE

HINT = "use `configure-gpu cpu`, or `stackwright fit --model x`; see `nvidia-smi`"


def test_at_the_top_of_a_checkout_it_is_the_script() -> None:
    assert Pasting(working=CHECKOUT).in_text(HINT) == (
        "use `./scripts/configure-gpu cpu`, or `./scripts/stackwright fit --model x`; see `nvidia-smi`"
    )


def test_below_it_the_way_to_the_script_and_elsewhere_its_path(tmp_path: Path) -> None:
    assert Pasting(working=CHECKOUT / "docs").in_text("`stackwright key dev`") == "`../scripts/stackwright key dev`"
    assert Pasting(working=tmp_path).in_text("`stackwright key dev`") == f"`{CHECKOUT}/scripts/stackwright key dev`"


@pytest.mark.parametrize(
    ("argv", "text", "pasted"),
    [
        (["plan", "--out", "a b"], "`stackwright key dev`", "`./scripts/stackwright key dev --out 'a b'`"),
        (["plan", "--out=x"], "`start-environment dev --out y`", "`./scripts/start-environment dev --out y`"),
        (["plan", "--host", "h.yaml"], "`configure-gpu cpu`", "`./scripts/configure-gpu cpu --host h.yaml`"),
        (
            ["start-environment", "--host", "h.yaml"],
            "plan for the present hardware: `configure-gpu dev`; `configure-gpu cpu`",
            "plan for the present hardware: `./scripts/configure-gpu dev`; `./scripts/configure-gpu cpu --host h.yaml`",
        ),
        (
            ["plan", "--host", "h.yaml", "--out", "x"],
            "`stackwright gpus` shows them",
            "`./scripts/stackwright gpus --host h.yaml` shows them",
        ),
        (["chat", "dev"], "`echo hi | stackwright chat dev`", "`echo hi | ./scripts/stackwright chat dev`"),
        (["plan", "--host", "h.yaml"], "`stop-environment dev`", "`./scripts/stop-environment dev`"),
        (["plan", "--out", "x"], "`stackwright detect -o FILE`", "`./scripts/stackwright detect -o FILE`"),
        (["plan", "--out", "x"], "`stackwright plan --help`", "`./scripts/stackwright plan --help`"),
        (["plan", "--host", "h.yaml"], "`configure-gpu --help`", "`./scripts/configure-gpu --help`"),
        (["plan", "--out", "x"], "`stackwright-x`, `cpu`", "`stackwright-x`, `cpu`"),
        (["plan", "prod"], "`configure-gpu cpu`", "`./scripts/configure-gpu prod cpu`"),
        (
            ["plan", "prod"],
            "`configure-gpu dev`, `configure-gpu`",
            "`./scripts/configure-gpu dev`, `./scripts/configure-gpu prod`",
        ),
        (["plan", "production", "--host", "h"], "`configure-gpu`", "`./scripts/configure-gpu production --host h`"),
        (["start-environment", "--replace", "dev", "prod"], "`configure-gpu`", "`./scripts/configure-gpu prod`"),
        (["bench", "compare", "dev", "prod"], "`configure-gpu cpu`", "`./scripts/configure-gpu cpu`"),
        (["plan", "--out", "prod"], "`configure-gpu cpu`", "`./scripts/configure-gpu cpu --out prod`"),
        (["plan", "prod"], "`stackwright gpus`", "`./scripts/stackwright gpus`"),
        (
            ["dev", "single", "--dry-run"],
            "`configure-gpu cpu`, `configure-gpu --help`",
            "`./scripts/configure-gpu dev cpu`, `./scripts/configure-gpu --help`",
        ),
    ],
)
def test_where_the_command_was_told_to_look_is_kept(argv: list[str], text: str, pasted: str) -> None:
    """And nothing is said twice, or to a command that does not take it."""
    assert Pasting.of(argv, CHECKOUT).in_text(text) == pasted


def texts() -> Iterator[tuple[str, str]]:
    """Give every text of the package with its place; what a program fills in is `{}`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = {id(text) for node in ast.walk(tree) for text in _docstring(node)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                yield f"{path.name}:{node.lineno}", "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented | inner:
                yield f"{path.name}:{node.lineno}", node.value
    for path in sorted(PACKAGE.rglob("failures.yaml")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.lstrip().startswith(("fix:", "- fix:")):
                yield f"{path.parent.name}/{path.name}:{number}", re.sub(r"\{[^}]*\}", "{}", line)


def _docstring(node: ast.AST) -> Iterator[ast.expr]:
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() if node.body and isinstance(node.body[0], ast.Expr):
            yield node.body[0].value


NAMED = re.compile(r"`((?:configure-gpu|(?:start|stop|validate)-environment|stackwright)\b[^`]*)`")
FOUND = [(place, command) for place, text in texts() for command in NAMED.findall(text)]
LEAVES = {name: leaves(parser) for name, parser in build_parser()[1].items()}


def test_there_are_commands_in_the_source() -> None:
    assert len(FOUND) > 150


@pytest.mark.parametrize(("place", "command"), FOUND, ids=lambda value: value)
def test_every_command_that_a_message_names_is_one(place: str, command: str) -> None:
    """With flags that it has, and environments as words."""
    words = shlex.split(command.replace("…", "x"))
    name = words.pop(0)
    if name == "stackwright" and words and not words[0].startswith(("-", "{")):
        name = words.pop(0)
        assert name in COMMANDS, place
        assert name not in OWN_ENTRY_POINTS
    flags = {flag for leaf in LEAVES.get(name, ()) for action in leaf._actions for flag in action.option_strings}
    for word in words:
        flag = word.partition("=")[0]
        assert not flag.startswith("--") or name not in COMMANDS or flag in flags
        assert flag != "--env"
    if name in ("configure-gpu", "plan") and words and not words[0].startswith("-"):
        assert words[0] in (*ENVIRONMENTS, *MODES, "{}", "ENV", "x")


UNMARKED = re.compile(r"\b(?:run|with|use|then) (?:configure-gpu|\w+-environment|stackwright \w+)\b")


def test_no_message_names_a_command_without_marking_it() -> None:
    """What stands in no backticks is not written as it can be pasted."""
    for place, text in texts():
        bare = re.sub(r"`[^`]*`", "", text)
        assert not re.search(r"\b(?:run|with|use|then) (?:configure-gpu|\w+-environment|stackwright \w+)\b", bare), (
            place
        )
