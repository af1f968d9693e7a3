"""Read which attention backends one vLLM release takes on which GPUs, from its selector and its backend classes.

Touches only files below the tree that it is given. Nothing of it is run: of the classes' methods only those that
compare a compute capability with numbers are worked out here; what they decide otherwise counts as possible.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from stackwright.catalog.release_models import architectures_of
from stackwright.domain.catalog import AttentionBackend

CAPABILITIES = ("7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")
SELECTOR = "vllm/platforms/cuda.py"
_REGISTRIES = ("vllm/v1/attention/backends/registry.py", "vllm/attention/backends/registry.py")
_FOLDERS = ("vllm/v1/attention", "vllm/attention", "vllm/model_executor/layers/attention")
# A model's package has classes for other platforms beside those for CUDA.
_ELSEWHERE = frozenset({"amd", "cpu", "xpu"})
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
Names = Mapping[str, object]
Classes = Mapping[str, ast.ClassDef]


class _UnknownError(Exception):
    """An expression hangs on more than the names that are given."""


def attention_backends(tree: Path) -> tuple[AttentionBackend, ...]:
    """Return the backends that the release's selector tries, each with the capabilities on which it may be chosen.

    Empty before 0.11.1, whose selectors are not a list of classes.
    """
    selector = _function(tree / SELECTOR, "_get_backend_priorities")
    registry = next((tree / name for name in _REGISTRIES if (tree / name).is_file()), None)
    if selector is None or registry is None:
        return ()
    classes = _classes(tree)
    paths = _paths(registry)
    tried = {
        mla: {text: dict.fromkeys(_tried(selector.body, mla, text)) for text in CAPABILITIES} for mla in (False, True)
    }
    found = []
    for mla, by_capability in tried.items():
        for name in dict.fromkeys(name for names in by_capability.values() for name in names):
            on = tuple(text for text in CAPABILITIES if name in by_capability[text])
            backend = _backend(name, paths.get(name, "").rpartition(".")[2], classes, on)
            if backend is not None and backend.mla is mla:
                found.append(backend)
    found += _models_own(tree, paths, classes)
    return tuple(sorted(found, key=lambda backend: backend.name))


def _models_own(tree: Path, paths: Mapping[str, str], classes: Classes) -> Iterator[AttentionBackend]:
    """Yield the backends that stand in the package of a model, whose own code chooses among them (0.24.0 and later)."""
    for name, path in paths.items():
        parts = path.split(".")
        package = ".".join(parts[:3])
        architectures = architectures_of(tree, package) if parts[:2] == ["vllm", "models"] else ()
        if not architectures or _ELSEWHERE & set(parts):
            continue
        # Two packages may have a class of the same name.
        beside = {**classes, **_classes(tree, ("/".join(parts[:3]),))}
        backend = _backend(name, parts[-1], beside, CAPABILITIES)
        if backend is not None:
            yield structs.replace(backend, architectures=architectures)


def _backend(name: str, class_name: str, classes: Classes, tried_on: tuple[str, ...]) -> AttentionBackend | None:
    """Return a backend with the capabilities that its class takes of those on which it is tried; None without one."""
    if class_name not in classes:
        return None
    takes = _method(class_name, "supports_compute_capability", classes)
    sizes = _method(class_name, "get_supported_head_sizes", classes)
    return AttentionBackend(
        name=name,
        mla=_is_true(_method(class_name, "is_mla", classes)),
        sparse=_is_true(_method(class_name, "is_sparse", classes)),
        cache_formats=_cache_formats(class_name, classes),
        capabilities=tuple(text for text in tried_on if takes is None or _may_be_true(takes.body, _named(text))),
        head_sizes=_numbers(sizes),
        releases=(),
    )


def _tried(statements: list[ast.stmt], mla: bool, capability: str) -> Iterator[str]:
    """Yield the backends named in what the selector reaches; a test that hangs on more counts both ways."""
    names: Names = {"use_mla": mla, **_named(capability)}
    for statement in statements:
        if isinstance(statement, ast.If):
            taken = _truth(statement.test, names)
            yield from () if taken is False else _tried(statement.body, mla, capability)
            yield from () if taken is True else _tried(statement.orelse, mla, capability)
        else:
            for part in ast.walk(statement):
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "AttentionBackendEnum":
                    yield part.attr


def _may_be_true(statements: list[ast.stmt], names: Names) -> bool:
    """Return whether a method may return true: the first return that is surely reached decides."""
    for statement in statements:
        if isinstance(statement, ast.Return):
            return statement.value is None or _truth(statement.value, names) is not False
        if isinstance(statement, ast.If):
            taken = _truth(statement.test, names)
            if taken is None:
                return True
            if taken:
                return _may_be_true(statement.body, names)
    return True


def _named(capability: str) -> Names:
    pair = tuple(int(part) for part in capability.split("."))
    return {"capability": pair, "device_capability": pair}


def _truth(expression: ast.expr, names: Names) -> bool | None:
    try:
        return bool(_value(expression, names))
    except _UnknownError:
        return None


def _value(node: ast.expr, names: Names) -> Any:
    """Work out an expression of numbers, comparisons and the given names; a capability is a pair."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Attribute(value=ast.Name(id=name), attr="major" | "minor" as part) if name in names:
            pair: Any = names[name]
            return pair[0 if part == "major" else 1]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.Call(func=ast.Name(id="DeviceCapability"), args=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, names)
        case ast.BoolOp(op=joined, values=parts):
            return _joined(isinstance(joined, ast.And), [_truth(part, names) for part in parts])
        case ast.Compare(left=left, ops=operators, comparators=others):
            values = [_value(part, names) for part in (left, *others)]
            pairs = zip(operators, values, values[1:], strict=False)
            return all(_COMPARISONS[type(sign)](one, other) for sign, one, other in pairs if type(sign) in _COMPARISONS)
    raise _UnknownError


def _joined(every: bool, truths: list[bool | None]) -> bool:
    """Join by `and` or `or`: one that decides does so whatever the unknown ones are."""
    if (not every) in truths:
        return not every
    if None in truths:
        raise _UnknownError
    return every


def _paths(registry: Path) -> dict[str, str]:
    """Return each backend's class, as the registry's enumeration names it."""
    found = {}
    for node in ast.parse(registry.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "AttentionBackendEnum":
            for member in node.body:
                match member:
                    case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(path))):
                        found[name] = path
    return found


def _classes(tree: Path, folders: Sequence[str] = _FOLDERS) -> dict[str, ast.ClassDef]:
    found = (file for folder in folders for file in sorted((tree / folder).rglob("*.py")))
    files = (file for file in found if not _ELSEWHERE & set(file.parts))
    parsed = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    return {node.name: node for module in parsed for node in module.body if isinstance(node, ast.ClassDef)}


def _lineage(class_name: str, classes: Classes) -> Iterator[ast.ClassDef]:
    node = classes.get(class_name)
    if node is not None:
        yield node
        for base in node.bases:
            yield from _lineage(ast.unparse(base).partition("[")[0].rpartition(".")[2], classes)


def _method(class_name: str, name: str, classes: Classes) -> ast.FunctionDef | None:
    members = (member for node in _lineage(class_name, classes) for member in node.body)
    return next((member for member in members if isinstance(member, ast.FunctionDef) and member.name == name), None)


def _cache_formats(class_name: str, classes: Classes) -> tuple[str, ...]:
    for node in _lineage(class_name, classes):
        for member in node.body:
            match member:
                case (
                    ast.AnnAssign(target=ast.Name(id="supported_kv_cache_dtypes"), value=ast.List(elts=parts))
                    | ast.Assign(targets=[ast.Name(id="supported_kv_cache_dtypes")], value=ast.List(elts=parts))
                ):
                    return tuple(str(part.value) for part in parts if isinstance(part, ast.Constant))
    return ()


def _is_true(method: ast.FunctionDef | None) -> bool:
    return method is not None and any(
        isinstance(part, ast.Return) and isinstance(part.value, ast.Constant) and part.value.value is True
        for part in method.body
    )


def _numbers(method: ast.FunctionDef | None) -> tuple[int, ...]:
    """Return the numbers of a list that a method returns as it is written; empty where it does not, or takes any."""
    for part in method.body if method is not None else ():
        if isinstance(part, ast.Return) and isinstance(part.value, ast.List):
            written = (item.value for item in part.value.elts if isinstance(item, ast.Constant))
            return tuple(value for value in written if isinstance(value, int))
    return ()


def _function(file: Path, name: str) -> ast.FunctionDef | None:
    nodes = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
    return next((node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name), None)
