"""Which build serves a GPU of another maker: none that is planned for. Pure."""

from __future__ import annotations

from stackwright.domain.host import Maker, OtherGpu

# What vLLM's ROCm builds run on (docs.vllm.ai, getting_started/installation/gpu, AMD ROCm, read 2026-11-28).
_ROCM = frozenset("gfx90a gfx942 gfx950 gfx1100 gfx1101 gfx1150 gfx1151 gfx1200 gfx1201".split())
# The same page, Intel XPU, read 2026-11-30: "Supported Hardware: Intel Data Center GPU, Intel ARC GPU".
_INSTALLATION = "https://docs.vllm.ai/en/stable/getting_started/installation/gpu"
_LLAMA = "https://github.com/ggml-org/llama.cpp"


def build_for(gpu: OtherGpu) -> str | None:
    """Return what serves it, as the rest of a hint; None for a processor's own graphics that vLLM does not list."""
    if gpu.integrated and gpu.architecture not in _ROCM:
        return None
    if gpu.maker is Maker.HABANA:
        return "vLLM's plugin for Gaudi (https://github.com/vllm-project/vllm-gaudi)"
    if gpu.maker is Maker.INTEL:
        return f"vLLM's image for Intel's Arc and Data Center GPUs `vllm/vllm-openai-xpu` ({_INSTALLATION})"
    if gpu.architecture is None:
        return f"vLLM's ROCm image `vllm/vllm-openai-rocm`, where it lists the GPU ({_INSTALLATION})"
    if gpu.architecture in _ROCM:
        return f"vLLM's ROCm image `vllm/vllm-openai-rocm`, which lists {gpu.architecture} ({_INSTALLATION})"
    return f"llama.cpp's server for ROCm or Vulkan ({_LLAMA}): vLLM's ROCm builds do not list {gpu.architecture}"
