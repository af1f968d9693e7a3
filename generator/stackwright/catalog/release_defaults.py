"""Read what one vLLM release takes where a flag of a step's size is not given, from its argument classes.

Touches only files below the tree that it is given; nothing of it is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_CONSTANT = re.compile(r"_?([A-Z_]*MAX_NUM_(?:BATCHED_TOKENS|SEQS)[A-Z_]*)")
_SETTING = re.compile(r"default_(max_num_(?:batched_tokens|seqs))")
# Of what an engine is used for (vllm/usage/usage_lib.py): a server, as every plan starts it.
_SERVER = "UsageContext.OPENAI_API_SERVER"


def engine_defaults(tree: Path) -> Mapping[str, frozenset[str]]:
    """Return each default by its condition as the source has it: `max_num_seqs where device_memory >= 70 * GiB_bytes`.

    What hangs on nothing stands by its name, and so do constants. Conditions of other systems than CUDA and processors
    are left out.
    """
    files = [*sorted((tree / "vllm/config").glob("*.py")), tree / "vllm/config.py", tree / "vllm/engine/arg_utils.py"]
    found: dict[str, set[str]] = {}
    for file in files:
        if file.is_file():
            parsed = ast.parse(file.read_text(encoding="utf-8"))
            for name, value in (*_constants(parsed), *_by_condition(parsed)):
                found.setdefault(name, set()).add(value)
    return {name: frozenset(values) for name, values in found.items()}


def _constants(parsed: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(parsed):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int(number)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=int(number)))
            ):
                constant = _CONSTANT.fullmatch(name)
                if constant is not None:
                    yield constant[1], str(number)


def _by_condition(parsed: ast.Module) -> Iterator[tuple[str, str]]:
    chained = {id(part) for node in ast.walk(parsed) if isinstance(node, ast.If) for part in node.orelse}
    for node in ast.walk(parsed):
        if isinstance(node, ast.FunctionDef):
            yield from _assigned(node.body)
        if isinstance(node, ast.If) and not (id(node) in chained and _is_chain(node)):
            yield from _chain(node)


def _is_chain(node: ast.If) -> bool:
    return any(True for _ in _assigned(node.body))


def _chain(node: ast.If) -> Iterator[tuple[str, str]]:
    """Yield what an `if` and its `elif` and `else` assign, each under its own condition."""
    condition = ast.unparse(node.test)
    if re.search(r"\bdevice_(memory|name)\b|is_cpu", condition):
        yield from ((f"{name} where {condition}", value) for name, value in _assigned(node.body))
    for part in node.orelse:
        if isinstance(part, ast.If) and _is_chain(part):
            yield from _chain(part)
            return
    if _is_chain(node):
        yield from ((f"{name} otherwise", value) for name, value in _assigned(node.orelse))


def _assigned(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=given) if setting := _SETTING.fullmatch(name):
                by_use = {ast.unparse(key): value for key, value in _items(given) if key is not None}
                written = by_use.get(_SERVER, given if isinstance(given, ast.Constant) else None)
                if written is not None:
                    yield setting[1], ast.unparse(written)


def _items(node: ast.expr) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    if isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
