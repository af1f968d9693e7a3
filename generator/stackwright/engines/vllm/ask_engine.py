"""Asks the installed vLLM what it makes of argument lists, before any weights are read.

Runs in the engine's own Python, by its path and never as a module of this package: it needs vLLM and the standard
library alone. Standard input: a JSON list of questions, `{"arguments": [...], "environment": {...}}`, the argument list
of the server and its variables. Standard output: a JSON list with one answer each, `{"refused": words or null,
"values": {...}}`: the engine's own words where it would not start so, else what it would take for what nobody gave.
Everything that vLLM says meanwhile goes to standard error. Touches what vLLM's configuration touches: the model's
folder or the hub, and NVML.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Answer all questions in turn; a question that fails is an answer, too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answers:
        json.dump([answer(question) for question in json.load(sys.stdin)], answers)


def answer(question: dict[str, Any], read: Callable[[Any], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return one answer, of plain JSON values; `read` takes them from the configuration, `values_of` by default."""
    os.environ.update(question["environment"])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return {"refused": None, "values": (read or values_of)(configure(question["arguments"]))}
    except SystemExit:
        # The parser of arguments explains itself on standard error, usage first, and ends the program.
        return {"refused": said.getvalue().strip().splitlines()[-1], "values": {}}
    except Exception as refusal:  # noqa: BLE001  # whatever stops the engine is the answer
        return {"refused": _words(refusal), "values": {}}


def configure(arguments: list[str]) -> Any:
    """Return the engine's configuration, made as its server makes it (0.33.0 entrypoints/launchers/api_server)."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    asked = _parse(arguments)
    # Tokens and requests of a step have other defaults where no server is to run.
    return AsyncEngineArgs.from_cli_args(asked).create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


def values_of(config: Any) -> dict[str, Any]:
    """Return what the engine would take. A field that a release lacks is null; an unusual value is its text."""
    read = {
        "max_model_len": "model_config.max_model_len",
        "max_num_seqs": "scheduler_config.max_num_seqs",
        "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
        "chunked_prefill": "scheduler_config.enable_chunked_prefill",
        "dtype": "model_config.dtype",
        "quantization": "model_config.quantization",
        "runner": "model_config.runner_type",
        "convert": "model_config.convert_type",
        "score": "model_config.score_type",
        "kv_cache_dtype": "cache_config.cache_dtype",
        "block_size": "cache_config.block_size",
        "prefix_caching": "cache_config.enable_prefix_caching",
        "enforce_eager": "model_config.enforce_eager",
        "cudagraph_mode": "compilation_config.cudagraph_mode.name",
        "cudagraph_largest": "compilation_config.max_cudagraph_capture_size",
        "attention_backend": "attention_config.backend.name",
        "executor": "parallel_config.distributed_executor_backend",
    }
    return {name: _plain(_reach(config, path)) for name, path in read.items()}


def _parse(arguments: list[str]) -> Any:
    """Return the arguments as the server checks them."""
    cli_args, parser = _parser()
    asked = parser.parse_args(arguments)
    cli_args.validate_parsed_serve_args(asked)
    return asked


@functools.cache  # half a second
def _parser() -> tuple[Any, Any]:
    """Return the module of the server's arguments and its parser; they have moved twice (0.14.0, 0.30.0, 0.33.0)."""
    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ModuleNotFoundError:
        from vllm.utils import FlexibleArgumentParser
    try:
        from vllm.entrypoints.common import cli_args
    except ImportError:
        try:
            from vllm.entrypoints.launchers import cli_args
        except ImportError:
            from vllm.entrypoints.openai import cli_args
    return cli_args, cli_args.make_arg_parser(FlexibleArgumentParser())


def _words(refusal: Exception) -> str:
    """Return what a log would show first; pydantic wraps the engine's own words in those of its input."""
    if type(refusal).__name__ == "ValidationError":
        return "; ".join(part["msg"] for part in refusal.errors())  # type: ignore[attr-defined]
    return f"{type(refusal).__name__}: {refusal}"


def _reach(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value).removeprefix("torch.")


if __name__ == "__main__":
    main()
