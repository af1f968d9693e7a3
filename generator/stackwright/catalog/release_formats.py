"""Read which number formats one vLLM release reads or refuses, and on what, from its quantization classes.

Touches only files below the tree that it is given; nothing of it is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from stackwright.errors import UsageError

_FORMATS = "vllm/model_executor/layers/quantization"
# What the engine calls the formats of activations, by its names in torch.
_ACTIVATIONS = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}
# Where experts' blocks and groups are cut, by method: a file and a function.
_CUTTING = {
    "fp8": ("vllm/model_executor/layers/fused_moe/oracle/fp8.py", "refine_fp8_moe_block_shape"),
    "moe_wna16": (f"{_FORMATS}/moe_wna16.py", "create_weights"),
}
# Names, or those of each of several keys.
Names = frozenset[str] | Mapping[str, frozenset[str]]
Classes = Mapping[str, ast.ClassDef]


def number_formats(tree: Path) -> dict[str, Names]:
    """Return what a release reads or refuses, by the field of FormatTable that holds it."""
    least, activations = method_bounds(tree)
    return {
        "methods": quantization_methods(tree),
        "deprecated": deprecated_methods(tree),
        "without_float16": without_float16(tree),
        "least_capability": least,
        "activations": activations,
        "least_blocks": least_blocks(tree),
    }


def quantization_methods(tree: Path) -> frozenset[str]:
    """Return the names that a release declares, and those that it takes for another one of them.

    They are a mapping's keys, a list, or (since 0.8.3) the words of a type.
    """
    package = tree / _FORMATS
    found = set(_declared(package / "__init__.py", "QuantizationMethods", "QUANTIZATION_METHODS"))
    if not found:
        raise UsageError(f"{package}/__init__.py: no names of quantization methods are found")
    for parsed in _parsed(package).values():
        for node in ast.walk(parsed):
            if isinstance(node, ast.FunctionDef) and node.name == "override_quantization_method":
                compared = (part for part in ast.walk(node) if isinstance(part, ast.Compare))
                found.update(word for part in compared for side in part.comparators for word in _words(side))
    return frozenset(found)


def deprecated_methods(tree: Path) -> frozenset[str]:
    """Return the methods that a release refuses without a flag."""
    return _declared(tree / _FORMATS / "__init__.py", "DEPRECATED_QUANTIZATION_METHODS")


def without_float16(tree: Path) -> frozenset[str]:
    """Return the types of model that a release refuses in half precision; older ones had no table of them."""
    files = (tree / name for name in ("vllm/config/model.py", "vllm/config/__init__.py", "vllm/config.py"))
    text = next(file for file in files if file.is_file()).read_text(encoding="utf-8")
    table = re.search(r"^_FLOAT16_NOT_SUPPORTED_MODELS = \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r'^    "([^"]+)":', table[1], re.MULTILINE)) if table else frozenset()


def method_bounds(tree: Path) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Return each method's least compute capability, and the formats of activations that it takes.

    A method with schemes (`compressed-tensors`) has a row for each: `compressed-tensors/w8a8_fp8`. What is not written
    as a plain number or list of formats is left out.
    """
    package = tree / _FORMATS
    files = _parsed(package)
    classes = {node.name: node for parsed in files.values() for node in parsed.body if isinstance(node, ast.ClassDef)}
    named = {**_classes_of_methods(files[package / "__init__.py"]), **dict(_schemes(files))}
    least = {method: _least_capability(name, classes) for method, name in named.items()}
    takes = {method: _activations(name, classes) for method, name in named.items()}
    return {k: frozenset((v,)) for k, v in least.items() if v}, {k: v for k, v in takes.items() if v}


def least_blocks(tree: Path) -> dict[str, frozenset[str]]:
    """Return the least block or group to which a method's kernels cut those of experts, by the method.

    FP8's oracle returns nothing below it, the kernels for grouped integers assert it.
    """
    found = {}
    for method, (file, function) in _CUTTING.items():
        node = _function(tree / file, function)
        bounds = {_bound(part) for part in ast.walk(node)} - {None} if node is not None else set()
        if len(bounds) == 1:
            found[method] = frozenset(str(bound) for bound in bounds)
    return found


def _bound(node: ast.AST) -> int | None:
    """Return the number of `size < number` or of `assert size >= number`."""
    match node:
        case ast.Compare(left=ast.Name(), ops=[ast.Lt()], comparators=[ast.Constant(value=int(bound))]):
            return bound
        case ast.Assert(test=ast.Compare(ops=[ast.GtE()], comparators=[ast.Constant(value=int(bound))])):
            return bound
    return None


def _function(file: Path, name: str) -> ast.AST | None:
    if not file.is_file():
        return None
    return next(
        (node for node in ast.walk(_parse(file)) if isinstance(node, ast.FunctionDef) and node.name == name), None
    )


def _classes_of_methods(parsed: ast.Module) -> dict[str, str]:
    """Return the class behind each method: the one mapping of names to `…Config`."""
    found = {}
    for node in ast.walk(parsed):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Name) and value.id.endswith("Config"):
                    found[str(key.value)] = value.id
    return found


def _schemes(files: Mapping[Path, ast.Module]) -> Iterator[tuple[str, str]]:
    for file, parsed in files.items():
        method = file.parent.parent.name
        if file.parent.name == "schemes" and file.stem.startswith(f"{method}_"):
            name = f"{method.replace('_', '-')}/{file.stem.removeprefix(f'{method}_')}"
            yield from ((name, node.name) for node in parsed.body if isinstance(node, ast.ClassDef))


def _returned(method: str, name: str, classes: Classes) -> tuple[ast.expr, ...]:
    """Return what a method of a class, or of the first that it is made from, returns."""
    node = classes.get(name)
    if node is None:
        return ()
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == method:
            return tuple(part.value for part in ast.walk(member) if isinstance(part, ast.Return) and part.value)
    bases = (base.id for base in node.bases if isinstance(base, ast.Name))
    return next((found for base in bases if (found := _returned(method, base, classes))), ())


def _least_capability(name: str, classes: Classes) -> str | None:
    values = {ast.unparse(value) for value in _returned("get_min_capability", name, classes)}
    number = int(only) if len(values) == 1 and (only := values.pop()).isdecimal() else 0
    # Below 1.0: kernels for processors.
    return f"{number // 10}.{number % 10}" if number >= 10 else None


def _activations(name: str, classes: Classes) -> frozenset[str]:
    values = _returned("get_supported_act_dtypes", name, classes)
    parts = [part.attr for value in values for part in ast.walk(value) if isinstance(part, ast.Attribute)]
    return frozenset(_ACTIVATIONS[part] for part in parts if part in _ACTIVATIONS)


def _declared(file: Path, *names: str) -> frozenset[str]:
    """Return the words in what a module assigns to any of these names."""
    found: set[str] = set()
    for node in _parse(file).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in names for target in targets):
            found.update(_words(node.value))
    return frozenset(found)


def _words(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _parsed(package: Path) -> dict[Path, ast.Module]:
    return {file: _parse(file) for file in sorted(package.rglob("*.py"))}


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except OSError as failure:
        raise UsageError(
            f"{file}: cannot be read: {failure.strerror}", hint="name the folder of an unpacked vLLM sdist"
        ) from None
