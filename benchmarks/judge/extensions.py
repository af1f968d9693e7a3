"""Stands in for vLLM's compiled extensions, so that its Python code can judge a configuration without a GPU.

benchmarks/engine_judge.py copies it over `vllm/_C_stable_libtorch.py` of an unpacked wheel. Operators that are missing
look present and do nothing; fake registrations of missing ones are dropped. Nothing may be computed with it.
"""

from __future__ import annotations

from typing import Any

import torch._ops
import torch.library

_find = torch._ops._OpNamespace.__getattr__
_register_fake = torch.library.register_fake


class _Missing:
    """An operator that is not there: says yes to every question."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *_: Any, **__: Any) -> bool:
        return True

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def _find_or_miss(self: Any, name: str) -> Any:
    try:
        return _find(self, name)
    except AttributeError:
        if name.startswith("__"):
            raise
        return _Missing(name)


def _register_where_there(op: Any, function: Any = None, /, **keywords: Any) -> Any:
    def register(wrapped: Any) -> Any:
        try:
            return _register_fake(op, wrapped, **keywords)
        except RuntimeError:
            return wrapped

    return register if function is None else register(function)


torch._ops._OpNamespace.__getattr__ = _find_or_miss
torch.library.register_fake = _register_where_there
