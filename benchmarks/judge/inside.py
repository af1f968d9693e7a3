"""The judge's half inside vLLM's own Python: asks for configurations, and builds the model of each on no device.

Runs by its path, with an unpacked CUDA wheel of vLLM first on the path (benchmarks/engine_judge.py). Standard input:
the path of `ask_engine.py`, and questions as it takes them. Standard output: its answers, a line each, with `backends`
(attention layers by the backend that takes them) and `model` (why one rank's model could not be built; null) among the
values.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import json
import os
import runpy
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class Group:
    """A process group of `size` in which this process is the first."""

    def __init__(self, size: int) -> None:
        self.world_size = size
        self.ranks = list(range(size))
        self.rank = self.rank_in_group = self.local_rank = self.first_rank = 0
        self.is_first_rank = True
        self.is_last_rank = size == 1
        self.device = torch.device("meta")
        self.device_group = self.cpu_group = SimpleNamespace(size=lambda: size, rank=lambda: 0)
        self.unique_name = f"judge:{size}"
        self.use_device_communicator = False
        self.device_communicator = self.mq_broadcaster = None


def part(name: str) -> type[Nothing]:
    """Return what stands in for a part of a package."""
    if name.startswith("__"):
        raise AttributeError(name)
    return Nothing


class _Parts(type):
    def __getattr__(cls, name: str) -> type[Nothing]:
        return part(name)

    def __getitem__(cls, _: object) -> type[Nothing]:
        return Nothing


class Nothing(metaclass=_Parts):
    """A stream or an event that nothing runs on, or a part of a package of which nothing is called here."""

    __path__: tuple[str, ...] = ()

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what a real one takes."""

    def __call__(self, *_: Any, **__: Any) -> Nothing:
        """Stand in for what a decorator makes of a function."""
        return Nothing()

    def __iter__(self) -> Iterator[Nothing]:
        """Hold nothing."""
        return iter(())

    def __index__(self) -> int:
        """Serve as a size, such as that of a workspace."""
        return 1

    def __gt__(self, other: object) -> bool:
        """Be no more than any size."""
        return False


class NoDevice(TorchFunctionMode):  # type: ignore[misc]
    """Puts every tensor on the `meta` device, those that ask for a GPU, too."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = dict(keywords or {})
        if function in _device_constructors():
            keywords["device"] = "meta"
        elif function in (torch.Tensor.to, torch._C._nn._parse_to):
            keywords.pop("device", None)
            arguments = tuple("meta" if isinstance(each, torch.device | str) else each for each in arguments)
        return function(*arguments, **keywords)


def build(config: Any) -> dict[str, int]:
    """Build one rank's model without memory; return how many of its layers each attention backend takes."""
    from vllm.distributed import parallel_state
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    tensor, stages = config.parallel_config.tensor_parallel_size, config.parallel_config.pipeline_parallel_size
    sizes = {"_TP": tensor, "_EP": tensor, "_PP": stages, "_WORLD": tensor * stages, "_INNER_DP_WORLD": tensor * stages}
    for name in [name for name in vars(parallel_state) if name.isupper() and name.startswith("_") and len(name) < 16]:
        if getattr(parallel_state, name) is None or isinstance(getattr(parallel_state, name), Group):
            setattr(parallel_state, name, Group(sizes.get(name, 1)))
    config.compilation_config.static_forward_context.clear()
    # The rebuilt configurations name what is not quantized by a part of its name, published files by the whole one.
    if hasattr(config.quant_config, "ignored_layers_match_mode"):
        config.quant_config.ignored_layers_match_mode = "substring"
    with set_default_torch_dtype(config.model_config.dtype), NoDevice():
        initialize_model(config)
    layers = config.compilation_config.static_forward_context.values()
    return dict(Counter(_backend(layer) for layer in layers if hasattr(layer, "attn_backend")))


def _backend(layer: Any) -> str:
    backend = layer.attn_backend
    return str(backend.get_name())


def main() -> None:
    """Answer all questions in turn."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    ask_engine = runpy.run_path(asked["ask_engine"])
    sys.meta_path.append(Stub())
    pretend_gpus()
    from vllm.v1.worker import workspace

    inspect_here()
    skip_reloading()
    # Models are large and full of cycles, and the collector would look through each of them many times.
    gc.set_threshold(200_000)
    workspace.init_workspace_manager(torch.device("meta"))

    built: dict[tuple[Any, ...], dict[str, Any]] = {}

    def read(config: Any) -> dict[str, Any]:
        values = dict(ask_engine["values_of"](config))
        split = (config.parallel_config.tensor_parallel_size, config.parallel_config.pipeline_parallel_size)
        encoder = getattr(config.model_config.multimodal_config, "mm_encoder_tp_mode", None)
        key = (config.model_config.model, *split, values["dtype"], values["kv_cache_dtype"], values["runner"], encoder)
        if key not in built:
            built[key] = try_to_build(config)
        return {**values, **built[key]}

    with answers:
        for question in asked["questions"]:
            print(json.dumps(ask_engine["answer"](question, read)), file=answers, flush=True)


def try_to_build(config: Any) -> dict[str, Any]:
    """Return the attention backends of one rank's model, or why it could not be built."""
    try:
        return {"backends": build(config), "model": None}
    except Exception as refusal:  # noqa: BLE001  # whatever stops the engine is the answer
        traceback.print_exc(file=sys.__stderr__)
        return {"backends": {}, "model": f"{type(refusal).__name__}: {refusal}", "where": where(refusal)}


def where(refusal: Exception) -> str:
    """Return the innermost place of a failure, as file and line below the engine's or PyTorch's package."""
    last = traceback.extract_tb(refusal.__traceback__)[-1]
    return f"{'/'.join(last.filename.split('/')[-3:])}:{last.lineno}"


def pretend_triton(capability: int) -> None:
    """Let Triton's own CUDA driver count as there: vLLM takes Triton for missing where none is."""
    from triton.backends import backends
    from triton.runtime import driver

    backends["nvidia"].driver.is_active = staticmethod(lambda: True)
    target = SimpleNamespace(backend="cuda", arch=capability, warp_size=32)
    driver.set_active(SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0))


class Stub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of kernels that every official image has: their parts are there and do nothing.

    Which layers they take is said by vLLM's own classes (0.33.0 v1/attention/backends/flashinfer.py and beside it).
    """

    packages = frozenset({"flashinfer", "flashinfer_cubin", "tilelang", "cutlass", "quack"})

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        """Return how any module of these packages is made."""
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: Any) -> None:
        """Let a module have whatever is asked of it."""
        module.__getattr__ = part


def pretend_gpus() -> None:
    """Take from NVML what the CPU build of PyTorch cannot tell of the GPUs."""
    from vllm.utils.import_utils import import_pynvml

    nvml = import_pynvml()
    nvml.nvmlInit()
    first = nvml.nvmlDeviceGetHandleByIndex(0)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(first)
    pretend_triton(10 * major + minor)
    properties = SimpleNamespace(
        name=nvml.nvmlDeviceGetName(first),
        major=major,
        minor=minor,
        total_memory=nvml.nvmlDeviceGetMemoryInfo(first).total,
        # Unknown to NVML; it sizes workspaces that are never allocated here.
        multi_processor_count=100,
    )
    sys.modules.update(dict.fromkeys(("cuda", "cuda.bindings", "cuda.bindings.driver"), Nothing))  # type: ignore[arg-type]
    torch.cuda._lazy_init = lambda: None
    torch.cuda.device_count = count_gpus
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda *_: properties
    torch.cuda.get_device_capability = lambda *_: (major, minor)
    torch.cuda.Stream = torch.cuda.Event = Nothing
    torch.cuda.current_stream = Nothing
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.empty_cache = lambda: None
    from vllm.platforms import cuda

    cuda._cuda_device_count_stateless = count_gpus


def count_gpus(*_: Any) -> int:
    """Return how many GPUs the question's replica sees."""
    return len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))


def inspect_here() -> None:
    """Look at model classes in this process: vLLM starts one for each, which would take most of the time."""
    from vllm.model_executor.models import registry

    def inspect_model_cls(self: Any) -> Any:
        return registry._ModelInfo.from_model_cls(self.load_model_cls())

    registry._LazyRegisteredModel.inspect_model_cls = inspect_model_cls


def skip_reloading() -> None:
    """Leave out what vLLM writes down of every layer so that weights can be loaded anew: a fourth of the time."""
    from vllm.model_executor.model_loader import utils

    utils.record_metadata_for_reloading = lambda *_: None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
