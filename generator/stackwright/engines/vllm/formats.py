"""Which number formats vLLM's kernels run on which GPUs. Pure."""

from __future__ import annotations

from stackwright.domain.model_facts import WeightFormat
from stackwright.engines.protocol import FormatRule

BLACKWELL = "10.0"
_VLLM = "vLLM 0.32.0 model_executor/layers/quantization/"
# Read 2026-11-21. The bounds are those of the engine's own `get_min_capability` and platform checks, except that the
# Marlin kernels are counted from 8.0: 0.32.0 runs them from 7.5, older releases do not.
RULES = {
    # GPUs below are refused (docs/getting_started/installation/gpu, 0.32.0); bfloat16 below 8.0 is run as float16.
    **dict.fromkeys(
        (WeightFormat.FP32, WeightFormat.BF16, WeightFormat.FP16),
        FormatRule(native="7.0", weight_only=None, older=None, source="docs/getting_started/installation/gpu"),
    ),
    WeightFormat.FP8: FormatRule(
        native="8.9", weight_only="8.0", older=None, source=_VLLM + "fp8.py; platforms/cuda.py"
    ),
    WeightFormat.INT8: FormatRule(
        native="7.5", weight_only="8.0", older=None, source=_VLLM + "compressed_tensors/schemes"
    ),
    WeightFormat.NVFP4: FormatRule(
        native=BLACKWELL, weight_only="8.0", older=None, source=_VLLM + "modelopt.py; utils/marlin_utils_fp4.py"
    ),
    WeightFormat.MXFP4: FormatRule(native=BLACKWELL, weight_only="8.0", older=None, source=_VLLM + "mxfp4.py"),
    WeightFormat.GPTQ8: FormatRule(native=None, weight_only="8.0", older="7.0", source=_VLLM + "auto_gptq.py"),
    WeightFormat.AWQ: FormatRule(native=None, weight_only="8.0", older="7.5", source=_VLLM + "auto_awq.py"),
    WeightFormat.GPTQ: FormatRule(native=None, weight_only="8.0", older="7.0", source=_VLLM + "auto_gptq.py"),
    WeightFormat.INT4: FormatRule(
        native=None,
        weight_only="8.0",
        older=None,
        source=_VLLM + "compressed_tensors/schemes/compressed_tensors_wNa16.py",
    ),
}
