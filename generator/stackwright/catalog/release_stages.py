"""Read which models one vLLM release refuses pipeline stages, from the checks of its model configurations.

vllm/model_executor/models/config.py has a table of classes by architecture, whose `verify_and_update_config` may raise
where there are several stages, often only where a field of config.json holds something (0.32.0 lines 939 to 946, read
2026-11-30). Nothing of it is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_FILE, _TABLE, _CHECK = "vllm/model_executor/models/config.py", "MODELS_CONFIG_MAP", "verify_and_update_config"
# What the checks call the fields of config.json; other configurations are settings of the engine.
_OF_MODEL = frozenset({"config", "hf_config", "hf_text_config", "text_config"})

Classes = Mapping[str, ast.ClassDef]
Conditions = tuple[ast.expr, ...]


def stage_refusals(tree: Path) -> frozenset[str]:
    """Return the architectures that a check refuses several stages; `ARCHITECTURE/FIELD` where a field decides.

    What hangs on more than one field, or on a setting of the engine, is left out.
    """
    file = tree / _FILE
    body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    return frozenset(
        "/".join((architecture, *fields))
        for architecture, name in _checked(body)
        for refusal in _of_class(name, classes)
        if (fields := _fields(refusal)) is not None
    )


def _checked(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield each architecture of the table with its class."""
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys, values=values))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys, values=values))
            ) if name == _TABLE:
                for pair in zip(keys, values, strict=True):
                    match pair:
                        case (ast.Constant(value=str(architecture)), ast.Name(id=class_name)):
                            yield architecture, class_name


def _of_class(name: str, classes: Classes) -> Iterator[Conditions]:
    """Yield the conditions of each refusal of a class's check, or of that which it inherits."""
    node = classes.get(name)
    if node is None:
        return
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    own = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == _CHECK), None)
    if own is not None:
        yield from _refusals(own.body, ())
    for called in bases if own is None else _called(own, bases):
        yield from _of_class(called, classes)


def _called(check: ast.FunctionDef, bases: Sequence[str]) -> Iterator[str]:
    """Yield the classes whose check another one calls at its beginning or end, whatever holds."""
    for statement in check.body:
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attribute))):
                yield from [name] if attribute == _CHECK else []
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=attribute))
            ):
                yield from bases if attribute == _CHECK else []


def _refusals(body: Sequence[ast.stmt], held: Conditions) -> Iterator[Conditions]:
    """Yield the conditions below which a body raises; behind a way out that a condition opens nothing is certain."""
    for statement in body:
        if isinstance(statement, ast.Raise):
            yield held
        if isinstance(statement, ast.If):
            test = statement.test
            conditions = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
            yield from _refusals(statement.body, (*held, *conditions))
            if any(isinstance(part, ast.Return) for part in ast.walk(statement)):
                return


def _fields(conditions: Conditions) -> tuple[str, ...] | None:
    """Return the field, if any, that has to hold something where several stages are refused; None of others."""
    read = [_read(condition) for condition in conditions]
    fields = tuple(field for field in read if field)
    return fields if "" in read and None not in read and len(fields) <= 1 else None


def _read(condition: ast.expr) -> str | None:
    """Return the field of config.json that a condition asks for, "" for several stages, None for anything else."""
    match condition:
        case ast.Compare(
            left=ast.Attribute(attr="pipeline_parallel_size"),
            ops=[ast.Gt() | ast.NotEq()],
            comparators=[ast.Constant(value=1)],
        ):
            return ""
        case ast.Call(func=ast.Name(id="bool"), args=[inner]):
            return _read(inner)
        case (
            ast.Attribute(value=owner, attr=field)
            | ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(field)), *_])
        ) if ast.unparse(owner).rsplit(".", 1)[-1] in _OF_MODEL:
            return field
    return None
