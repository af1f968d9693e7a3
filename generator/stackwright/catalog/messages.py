"""Take the shapes of a program's messages out of its sources: what it may print when it does not start.

`python -m stackwright.catalog.messages TABLE PROGRAM RELEASE=FOLDER…` adds releases' messages to the table of the bench
(benchmarks/cases/messages.tsv).
A shape is the words of a message with a gap for each value: `{#}` for a number, `{}` for anything else.
Touches the folder, read-only, and the table. Nothing of the folder is run.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

from msgspec import Struct
from msgspec.structs import replace

GAP, NUMBER = "{}", "{#}"
# Fewer words than these are found in too many messages to tell one.
_FEWEST_WORDS = 3
_LOGGED = frozenset({"error", "critical", "exception", "fatal", "warning_once", "error_once"})
# Printf verbs of Python, C and Go.
_VERB = re.compile(r"%(?:\(\w+\))?[-+ #0]*[0-9*]*(?:\.[0-9*]+)?(?:hh|h|ll|l|z|j)?([a-zA-Z])")
_FIELD = re.compile(r"\{[^{}]*\}")
_NUMERIC = re.compile(
    r"(?:^|_|\b)(?:n|num|max|min|len|size|count|rank|port|bytes|gib?|capability|world_size|tp|pp)(?:_|\b|$)"
)
# What is raised while a request is served, or weights are exchanged, ends no start.
_SERVING = re.compile(
    r"request|weight_update|scale_elastic|elastic|receive|send|_put|_get|prompt|generate|render|stream|sampl|forward|execute|_step\b|preprocess|logprobs|pooling_params"
)
_GO = re.compile(
    r"\b(?:fmt\.Errorf|errors\.(?:New|Errorf|Wrapf?|WithMessagef?)|\w+\.(?:Errorf?|Fatalf?|Panicf?|Panicln))\("
    r"(?:[\w.()]+, )?(?P<text>\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`)"
)


class Message(Struct, frozen=True, kw_only=True):
    """One shape: `kind` is `raise` or `log`; `first` release that was read with it; `last`: None where the newest
    has it, else `<X` for the first without it; `where`: file:line in the newest that has it; `start`: it can end one.
    """

    program: str
    first: str
    last: str | None
    kind: str
    start: bool
    where: str
    shape: str


class Scope(Struct, frozen=True, kw_only=True):
    """The files of a program that run before it serves: `paths` are prefixes; `skip` a pattern of those left out."""

    paths: tuple[str, ...]
    skip: str = r"(?:^|/)(?:tests?|testdata|vendor|examples?)/|_test\.go$"


# What host, checkpoint and settings decide is judged there; kernels and layers alone check their own callers.
SCOPES = {
    "vllm": Scope(
        paths=(
            *("vllm/config", "vllm/engine", "vllm/platforms", "vllm/plugins", "vllm/lora/peft", "vllm/lora/worker"),
            *("vllm/lora/lora_model", "vllm/lora/utils", "vllm/envs.py", "vllm/env_override.py", "vllm/compilation"),
            *("vllm/v1/engine/core", "vllm/v1/engine/utils", "vllm/v1/engine/async_llm", "vllm/v1/engine/llm_engine"),
            *("vllm/v1/worker", "vllm/v1/executor", "vllm/v1/core/kv_cache", "vllm/v1/core/encoder_cache"),
            *("vllm/v1/kv_cache_interface.py", "vllm/v1/attention/backends", "vllm/v1/attention/selector.py"),
            *("vllm/attention/backends", "vllm/attention/selector.py", "vllm/worker", "vllm/executor"),
            *("vllm/model_executor/model_loader", "vllm/model_executor/layers/quantization"),
            *("vllm/model_executor/layers/attention", "vllm/model_executor/layers/linear.py"),
            *("vllm/model_executor/layers/fused_moe/oracle", "vllm/model_executor/layers/rotary_embedding"),
            *("vllm/model_executor/models/registry.py", "vllm/model_executor/models/config.py"),
            *("vllm/model_executor/models/utils.py", "vllm/model_executor/models/transformers"),
            *("vllm/distributed/parallel_state.py", "vllm/distributed/utils.py"),
            *("vllm/distributed/device_communicators", "vllm/tokenizers", "vllm/transformers_utils/config.py"),
            *("vllm/transformers_utils/tokenizer", "vllm/transformers_utils/repo_utils.py"),
            *("vllm/entrypoints/cli", "vllm/entrypoints/launch", "vllm/entrypoints/openai/api_server.py"),
            *("vllm/entrypoints/openai/cli_args.py", "vllm/entrypoints/serve/utils", "vllm/entrypoints/chat_utils.py"),
            *("vllm/multimodal/registry.py", "vllm/multimodal/profiling.py", "vllm/multimodal/budget.py"),
            *("vllm/tool_parsers/abstract", "vllm/reasoning/abs", "vllm/utils", "vllm/ray"),
        ),
        skip=(
            r"/(?:tests|benchmark|third_party|weight_cache|passes|fusers|configs|processors|ops)/|tensor_schema|run_batch"
            r"|cli/(?:preload|snapshot)|dp_supervisor|shm_object|fx_utils|/(?:xpu|rocm|tpu|hpu|neuron)[\w.]*"
        ),
    ),
    "litellm": Scope(
        paths=(
            *("litellm/proxy/proxy_cli.py", "litellm/proxy/proxy_server.py", "litellm/proxy/db/", "litellm/_redis.py"),
            *("litellm/proxy/common_utils/load_config", "litellm/proxy/common_utils/callback", "litellm/router.py"),
            *(
                "litellm/proxy/types_utils",
                "litellm/proxy/utils.py",
                "litellm/secret_managers",
                "litellm/caching/redis",
            ),
            *("litellm/proxy/health_check.py", "litellm/caching/caching.py", "litellm/proxy/prisma_migration.py"),
        ),
    ),
    "nvidia-container-toolkit": Scope(
        paths=("cmd/nvidia-container", "cmd/nvidia-ctk/cdi", "cmd/nvidia-cdi-hook", "internal/", "pkg/nvcdi")
    ),
    "moby": Scope(
        paths=(
            *("daemon/container", "daemon/create", "daemon/daemon", "daemon/errors", "daemon/images", "daemon/monitor"),
            *("daemon/names", "daemon/network", "daemon/nvidia", "daemon/oci", "daemon/runtime", "daemon/start"),
            *("daemon/devices", "daemon/cdi", "daemon/graphdriver/overlay2", "daemon/volume/mounts", "volume/mounts"),
            *("daemon/server/middleware/version", "api/server/middleware/version", "libnetwork/drivers/bridge"),
            *("libnetwork/iptables", "libnetwork/port", "libnetwork/error", "libnetwork/types", "libnetwork/sandbox"),
            *("daemon/libnetwork/drivers/bridge", "daemon/libnetwork/iptables", "daemon/libnetwork/port"),
            *("daemon/libnetwork/error", "daemon/libnetwork/types", "daemon/libnetwork/sandbox"),
        ),
        skip=r"(?:^|/)(?:tests?|testdata|cluster|logger|builder)/|(?:_test|_windows|_unsupported|_freebsd)\.go$",
    ),
    "runc": Scope(paths=("libcontainer/", "create.go", "start.go", "run.go", "utils", "rootless")),
}


def read_messages(program: str, release: str, folder: Path) -> tuple[Message, ...]:
    """Return the messages of a release whose source lies in `folder`, each shape once."""
    scope = SCOPES[program]
    found: dict[str, Message] = {}
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")):
        if not name.startswith(scope.paths) or re.search(scope.skip, name) or not name.endswith((".py", ".go")):
            continue
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        for kind, function, line, shape in _python(text) if name.endswith(".py") else _go(text):
            start = kind == "raise" and not _SERVING.search(function)
            message = Message(
                program=program, first=release, last=None, kind=kind, start=start, where=f"{name}:{line}", shape=shape
            )
            if shape not in found or (start and not found[shape].start):
                found[shape] = message
    return tuple(found.values())


def _python(text: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield kind, function, line and shape of each message that is raised or logged."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a template of a file
        return
    yield from _of_block(tree, "", {})


def _of_block(node: ast.AST, function: str, known: dict[str, ast.expr]) -> Iterator[tuple[str, str, int, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_block(child, child.name, {})
            continue
        if isinstance(child, ast.Assign) and len(child.targets) == 1 and isinstance(child.targets[0], ast.Name):
            known[child.targets[0].id] = child.value
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and child.exc.args:
            shape = _shape(child.exc.args[0], known)
            if _tells(shape):
                yield "raise", function, child.lineno, f"{ast.unparse(child.exc.func).rpartition('.')[2]}: {shape}"
        if _is_logged(child) and _tells(shape := _shape(child.args[0], known)):
            yield "log", function, child.lineno, shape
        yield from _of_block(child, function, known)


def _is_logged(node: ast.AST) -> TypeGuard[ast.Call]:
    match node:
        case ast.Call(func=ast.Attribute(value=logger, attr=attribute), args=[_, *_]):
            return attribute in _LOGGED and "log" in ast.unparse(logger).lower()
    return False


def _shape(node: ast.expr, known: dict[str, ast.expr]) -> str:
    """Write the words of an expression that makes a text; a gap for what only its run tells."""
    match node:
        case ast.Constant(value=str(text)):
            return _with_gaps(text)
        case ast.JoinedStr(values=parts):
            return _joined("".join(str(part.value) if isinstance(part, ast.Constant) else _gap(part) for part in parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _joined(_shape(left, known) + _shape(right, known))
        case ast.BinOp(left=left, op=ast.Mod()):
            return _shape(left, known)
        case ast.Call(func=ast.Attribute(value=value, attr="format")):
            return _joined(_FIELD.sub(GAP, _shape(value, known)))
        case ast.IfExp(body=body):
            return _shape(body, known)
        case ast.Name(id=name) if name in known:
            return _shape(known[name], {key: value for key, value in known.items() if key != name})
    return GAP


def _gap(part: ast.expr) -> str:
    written = ast.unparse(part)
    return NUMBER if _NUMERIC.search(written.lower()) or re.search(r":[,.0-9]*[dfg]\b", written) else GAP


def _with_gaps(text: str) -> str:
    return _joined(
        _VERB.sub(lambda verb: NUMBER if verb[1] in "dufgxi" else GAP, text.replace("%%", "\0")).replace("\0", "%")
    )


def _joined(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _tells(shape: str) -> bool:
    return len(re.findall(r"[A-Za-z]{2,}", _FIELD.sub(" ", shape))) >= _FEWEST_WORDS


def _go(text: str) -> Iterator[tuple[str, str, int, str]]:
    """Yield the messages of a file in Go: what is made an error, or ends the program."""
    for found in _GO.finditer(text):
        words = found["text"][1:-1].replace('\\"', '"').replace("\\n", " ").replace("\\t", " ")
        if _tells(shape := _with_gaps(words)):
            yield "raise", "", text.count("\n", 0, found.start()) + 1, shape


def with_messages(table: Iterable[Message], found: Iterable[Message]) -> tuple[Message, ...]:
    """Add a release's messages to a table. Releases of one program are added oldest first."""
    news = {message.shape: message for message in found}
    first = next(iter(news.values()))
    merged: list[Message] = []
    for old in table:
        if old.program != first.program:
            merged.append(old)
        elif new := news.pop(old.shape, None):
            merged.append(replace(new, first=old.first))
        else:
            merged.append(replace(old, last=old.last or f"<{first.first}"))
    return tuple(sorted((*merged, *news.values()), key=_order))


def _order(message: Message) -> tuple[str, str, str]:
    return message.program, message.where.rpartition(":")[0], message.shape


_COLUMNS = ("program", "first", "last", "kind", "start", "where", "shape")


def read_table(path: Path) -> tuple[Message, ...]:
    """Read a table, a message to the line; empty where there is none yet."""
    if not path.exists():
        return ()
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:])
    return tuple(
        Message(
            program=program, first=first, last=last or None, kind=kind, start=start == "!", where=where, shape=shape
        )
        for program, first, last, kind, start, where, shape in rows
    )


def write_table(path: Path, messages: Iterable[Message]) -> None:
    """Write a table, a message to the line."""
    rows = (
        (row.program, row.first, row.last or "", row.kind, "!" if row.start else "", row.where, row.shape)
        for row in messages
    )
    path.write_text("".join("\t".join(row) + "\n" for row in (_COLUMNS, *rows)), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stackwright.catalog.messages", description=__doc__)
    parser.add_argument("table", type=Path, help="the table to add to")
    parser.add_argument("program", choices=SCOPES)
    parser.add_argument(
        "releases", nargs="+", metavar="RELEASE=FOLDER", help="releases with their source, oldest first"
    )
    asked = parser.parse_args(arguments)
    table = read_table(asked.table)
    for given in asked.releases:
        release, _, folder = given.partition("=")
        table = with_messages(table, read_messages(asked.program, release, Path(folder)))
    write_table(asked.table, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
