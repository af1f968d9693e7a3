"""Read which architectures one vLLM release serves, by role, from its model registry and its model classes.

Touches only files below the tree that it is given; nothing of it is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

MODELS = "vllm/model_executor/models"
# The tables of vllm/model_executor/models/registry.py (0.6.3 to 0.33.0). A name that stands in several has the role of
# the first: what writes can also be asked for vectors. The Transformers backend's own classes are no architectures.
_SECTIONS = (
    ("_MULTIMODAL_MODELS", "vision"),
    ("_TEXT_GENERATION_MODELS", "chat"),
    ("_TRANSFORMERS_SUPPORTED_MODELS", "chat"),
    ("_SEQUENCE_CLASSIFICATION_MODELS", "rerank"),
    ("_CROSS_ENCODER_MODELS", "rerank"),
    ("_TOKEN_CLASSIFICATION_MODELS", "classification"),
    ("_REWARD_MODELS", "classification"),
    ("_LATE_INTERACTION_MODELS", "embedding"),
    ("_EMBEDDING_MODELS", "embedding"),
    ("_SPECULATIVE_DECODING_MODELS", "draft"),
)
# What a file takes from another one of the models: `from .llava import (…)`.
_IMPORT = re.compile(
    r"^from (?:\.|vllm\.model_executor\.models\.|(?=vllm\.models\.))([\w.]+) import (\([^)]*\)|.*)", re.MULTILINE
)
_SIGHT = re.compile(r"[\"'](image|video)[\"']|image_input|pixel_values")


def served_architectures(tree: Path) -> dict[str, frozenset[str]]:
    """Return the architectures of each role; nothing where the release has no such registry (before 0.6.3).

    `draft` are models that write ahead for another one. Of the registry's multimodal models those that see are
    `vision`, those that only write down speech `transcription`, the others `chat`.
    """
    registry = tree / MODELS / "registry.py"
    found: dict[str, str] = {}
    if registry.is_file():
        tables = dict(_tables(registry))
        for section, role in _SECTIONS:
            for name, (module, class_name) in tables.get(section, {}).items():
                if name not in found:
                    found[name] = _multimodal_role(tree, module, class_name) if role == "vision" else role
    return {role: frozenset(name for name in found if found[name] == role) for role in sorted(set(found.values()))}


def copied_encoders(tree: Path) -> frozenset[str]:
    """Return the architectures whose encoder each rank can keep whole (`--mm-encoder-tp-mode data`)."""
    registry = tree / MODELS / "registry.py"
    tables = dict(_tables(registry)) if registry.is_file() else {}
    return frozenset(
        name
        for name, (module, class_name) in tables.get("_MULTIMODAL_MODELS", {}).items()
        if _says(tree, module, class_name, r"supports_encoder_tp_data\b.*= True")
    )


def unstaged_architectures(tree: Path) -> frozenset[str]:
    """Return the architectures that no pipeline stages can share: of whose classes none is a `SupportsPP`."""
    registry = tree / MODELS / "registry.py"
    tables = dict(_tables(registry)) if registry.is_file() else {}
    served = {**tables.get("_TEXT_GENERATION_MODELS", {}), **tables.get("_MULTIMODAL_MODELS", {})}
    return frozenset(
        name
        for name, (module, class_name) in served.items()
        # A class that is not found in its module may be made elsewhere.
        if _says(tree, module, class_name, "^class ") and not _says(tree, module, class_name, r"\bSupportsPP\b")
    )


def architectures_of(tree: Path, package: str) -> tuple[str, ...]:
    """Return the architectures that a package of models serves (`vllm.models.…`), drafts aside."""
    tables = dict(_tables(tree / MODELS / "registry.py"))
    served = (tables.get(section, {}) for section, role in _SECTIONS if role != "draft")
    found = {
        name
        for table in served
        for name, (module, _) in table.items()
        if module.startswith(package + ".") or module == package
    }
    return tuple(sorted(found))


def _tables(registry: Path) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Yield each table: module and class of each architecture. What a table takes from another one is left out."""
    for node in ast.parse(registry.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys, values=values))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys, values=values))
            ):
                yield name, dict(_entries(keys, values))


def _entries(keys: list[ast.expr | None], values: list[ast.expr]) -> Iterator[tuple[str, tuple[str, str]]]:
    for pair in zip(keys, values, strict=True):
        match pair:
            case (
                ast.Constant(value=str(name)),
                ast.Tuple(elts=[ast.Constant(value=str(module)), ast.Constant(value=str(class_name))]),
            ):
                yield name, (module, class_name)


def _says(tree: Path, module: str, class_name: str, words: str) -> bool:
    return any(re.search(words, body) for _, body in _lineage(tree, module, class_name, frozenset()))


def _multimodal_role(tree: Path, module: str, class_name: str) -> str:
    if _says(tree, module, class_name, r"supports_transcription_only\b.*= True"):
        return "transcription"
    sees = any(_SIGHT.search(text) for text, _ in _lineage(tree, module, class_name, frozenset()))
    return "vision" if sees else "chat"


def _lineage(tree: Path, module: str, class_name: str, known: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield for a class and those it is made from, as far as they are models: its file's text, and its own."""
    if class_name in known or module.startswith("interfaces"):
        return
    for text in _texts(tree, module):
        declared = re.search(rf"^class {class_name}\b(?:\(([^)]*)\))?:.*\n(?:(?:[ #].*)?\n)*", text, re.MULTILINE)
        if declared is not None:
            yield text, declared[0]
            neighbours = {name: own for own, names in _IMPORT.findall(text) for name in re.findall(r"\w+", names)}
            for base in re.findall(r"\w+", declared[1] or ""):
                yield from _lineage(tree, neighbours.get(base, module), base, known | {class_name})


@lru_cache(maxsize=512)
def _texts(tree: Path, module: str) -> tuple[str, ...]:
    """Read a module's file, or all files of its package."""
    path = tree / (module.replace(".", "/") if module.startswith("vllm.") else f"{MODELS}/{module}")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_name(path.name + ".py")]
    return tuple(file.read_text(encoding="utf-8") for file in files if file.is_file())
