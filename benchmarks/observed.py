"""Read observed start-ups: what a log says, as the memory planner's own words. Reads the two files that it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from msgspec import Struct
from msgspec.structs import replace
from stackwright.catalog.load import load_gpus, load_llms
from stackwright.domain.forecast import EngineSettings, GpuMemory
from stackwright.domain.hardware import GpuModel
from stackwright.domain.shape import Mixer, Shape
from stackwright.domain.tensors import WeightFacts
from stackwright.engines.memory.gpu import capability, cuda_memory_bytes
from stackwright.engines.protocol import fields_of
from stackwright.engines.vllm.memory.asked import as_asked
from stackwright.engines.vllm.memory_settings import MEMORY_SETTINGS
from stackwright.models.shape import parse_shape
from stackwright.units import GIB, MIB

Row = Mapping[str, object]
# What a log's words for a number format mean as a `quantization_config`; the first pattern that fits wins.
_FORMATS: tuple[tuple[str, Row], ...] = (
    ("mxfp4", {"quant_method": "mxfp4"}),
    ("nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}),
    ("fp8 block", {"quant_method": "fp8", "weight_block_size": [128, 128], "ignored_layers": ["lm_head"]}),
    ("fp8", {"quant_method": "fp8", "ignored_layers": ["lm_head"]}),
    (
        "w8a8|int8",
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}},
    ),
    (
        "w4a16|compressed",
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
        },
    ),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}),
    ("gptq|auto_?round|int4", {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}),
    ("bitsandbytes|bnb", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("gguf", {"quant_method": "gguf", "gguf_type": "q8_0"}),
)
_FAILURES = ("kv-too-small", "no-kv-memory", "oom", "mamba-blocks", "startup-free", "fit-then-oom")


class Case(Struct, frozen=True, kw_only=True):
    """One start-up. Sizes in bytes per GPU, None where the log does not tell. `failed`: the engine did not come up.

    `modelled` is False with drafters that are models of their own and for layouts that the planner does not know.
    `utilization_known`: the log or the thread names it, so that no default is guessed. `warm`: it found compiled what
    an earlier start had left. `held_out`: it was not looked at while the rules were written.
    """

    id: str
    shape: Shape | None
    settings: EngineSettings
    gpu: GpuMemory | None
    failed: bool
    weights_bytes: float | None
    kv_bytes: float | None
    kv_tokens: float | None
    blocks: int | None
    concurrency: float | None
    activation_bytes: float | None
    modelled: bool
    nvidia: bool
    utilization_known: bool
    parallel_known: bool
    warm: bool
    held_out: bool

    @property
    def mixed(self) -> bool:
        """Tell whether layers of several kinds share the cache."""
        kinds = {layer.mixer for layer in self.shape.layers} if self.shape else set()
        return len(kinds - {Mixer.NONE, Mixer.SHARED}) > 1


def read_cases(cases: Path, configs: Path, readings: Path) -> tuple[Case, ...]:
    """Read every case of a file.

    Models are looked up in `configs`, else composed from the case's own `arch`; `readings` says by id what a case's
    fields leave out.
    """
    rows = yaml.safe_load(cases.read_text(encoding="utf-8"))["cases"]
    known = yaml.safe_load(configs.read_text(encoding="utf-8"))["models"]
    read = {str(row["id"]): row for row in yaml.safe_load(readings.read_text(encoding="utf-8"))}
    return tuple(_with_reading(_case(row, known), read.get(str(row["id"]), {})) for row in rows)


def _with_reading(case: Case, reading: Row) -> Case:
    settings = _part(reading, "settings")
    return replace(
        case,
        modelled=case.modelled and "unmodelled" not in reading,
        settings=replace(
            case.settings,
            kv_cache_dtype=str(settings.get("kv_cache_dtype", case.settings.kv_cache_dtype)),
            speculative_tokens=_whole(settings, "speculative_tokens") or case.settings.speculative_tokens,
        ),
    )


def _case(row: Row, known: list[Row]) -> Case:
    observed, notes = _part(row, "observed"), str(row.get("notes") or "")
    gpu = _gpu(row)
    shape, settings = _shape(row, known), _settings(row, notes, gpu)
    if shape is not None:
        shape, settings, _ = as_asked(shape, settings, WeightFacts())
    return Case(
        id=str(row["id"]),
        shape=shape,
        settings=settings,
        gpu=gpu,
        failed=str(row.get("outcome") or "").startswith(_FAILURES),
        weights_bytes=_gib(observed, "weights_gib_per_gpu"),
        kv_bytes=_gib(observed, "kv_gib_per_gpu"),
        kv_tokens=_number(observed, "kv_tokens"),
        blocks=_whole(observed, "num_gpu_blocks"),
        concurrency=_number(observed, "max_concurrency"),
        activation_bytes=_gib(observed, "activation_peak_gib"),
        modelled=not re.search(r"DFlash|not modelled", notes + str(row.get("arch"))),
        nvidia=not re.search(r"AMD|ROCm|MI3\d\d", str(row.get("gpu"))),
        utilization_known=row.get("gpu_memory_utilization") is not None,
        parallel_known=row.get("tp") is not None or row.get("gpu_count") == 1,
        warm=row.get("start") == "warm",
        held_out=row.get("held_out") is True,
    )


def _settings(row: Row, notes: str, gpu: GpuMemory | None) -> EngineSettings:
    version = re.search(r"\d+\.\d+(\.\d+|\.x)?", str(row.get("vllm_version") or ""))
    number = version[0] if version and version[0] != "0.1" else None
    drafted = re.search(r"MTP (?:k=)?(\d+)|spec tokens (\d+)", notes)
    kv_dtype = str(row.get("kv_cache_dtype") or "auto")
    if kv_dtype == "auto" and re.search(r"say fp8|KV fp8", notes):
        kv_dtype = "fp8"
    block = re.search(r"block_size[= ](\d+)", notes)
    # What `fit --observed --case` wrote down of a log's flags, which the fields below have too or lack.
    flags = {str(name): str(text) for name, text in _part(row, "settings").items()}
    return replace(
        EngineSettings(**fields_of(MEMORY_SETTINGS, flags)),
        version=number,
        tensor_parallel=_whole(row, "tp") or _whole(row, "gpu_count") or 1,
        pipeline_parallel=_whole(row, "pp") or 1,
        gpu_memory_utilization=_number(row, "gpu_memory_utilization") or _budgeted(_part(row, "observed"), gpu),
        max_model_len=_whole(row, "max_model_len"),
        max_num_seqs=_whole(row, "max_num_seqs"),
        max_num_batched_tokens=_whole(row, "max_num_batched_tokens"),
        kv_cache_dtype=kv_dtype,
        block_tokens=int(block[1]) if block else None,
        enforce_eager=row.get("enforce_eager") is True,
        speculative_tokens=int(drafted[1] or drafted[2]) if drafted else 0,
        language_only="language-model-only" in notes,
        expert_parallel="expert-parallel" in notes or "expert parallel" in notes,
        legacy_engine=row.get("engine") == "V0",
        # Cases have no field for it. It matters for models with states only, and every log of such a model that names
        # its flags, but those of releases that could not, turns it on.
        prefix_caching="prefix caching off" not in notes,
    )


def _budgeted(observed: Row, gpu: GpuMemory | None) -> float | None:
    """Return the utilization that a log tells without naming it: all the parts it prints add up to the budget.

    Such a case counts for its verdict, not for its pool, which is one of the parts.
    """
    names = ("weights_gib_per_gpu", "activation_peak_gib", "non_torch_gib", "kv_gib_per_gpu")
    parts = [_gib(observed, name) for name in names]
    if gpu is None or any(part is None for part in parts):
        return None
    return round(sum(part or 0.0 for part in parts) / gpu.total_bytes, 2)


def _shape(row: Row, known: list[Row]) -> Shape | None:
    name = str(row.get("model") or "").lower().rsplit("/", 1)[-1]
    config = next((_part(each, "config") for each in known if name and re.search(str(each["match"]), name)), None)
    config = config or _catalogued(name) or _composed(_part(row, "arch"))
    if config is None:
        return None
    words = str(row.get("quantization") or "").lower()
    found = next((stored for pattern, stored in _FORMATS if re.search(pattern, words)), None)
    return parse_shape({**config, "quantization_config": found} if found else config)


def _catalogued(name: str) -> Row | None:
    """Return the configuration of the catalog's model whose name is the longest part of a case's model name."""
    found = [
        (len(known), row.config)
        for row in load_llms()
        for known in (row.name, row.hub_id.lower().rsplit("/", 1)[-1])
        if name and re.search(rf"(^|[^a-z0-9.]){re.escape(known)}($|[^a-z0-9.])", name)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _composed(arch: Row) -> Row | None:
    """Write a configuration from what a case says of its model; None where that is too little for a cache."""
    if arch.get("kind") not in ("gqa", "mha", "mla", "sw") or not arch.get("layers"):
        return None
    config: dict[str, object] = {
        "model_type": "llama",
        "hidden_size": arch.get("hidden") or 0,
        "intermediate_size": arch.get("inter") or 0,
        "num_hidden_layers": arch["layers"],
        "num_attention_heads": arch.get("heads") or arch.get("kv_heads") or 1,
        "num_key_value_heads": arch.get("kv_heads") or arch.get("heads") or 1,
        "head_dim": arch.get("head_dim") or 0,
        "vocab_size": arch.get("vocab") or 0,
        "tie_word_embeddings": arch.get("tied") is True,
    }
    if arch["kind"] == "mla":
        config |= {"kv_lora_rank": arch.get("kv_lora"), "qk_rope_head_dim": arch.get("rope")}
    if arch["kind"] == "sw" and arch.get("full_layers"):
        kinds = ["full_attention"] * _count(arch, "full_layers") + ["sliding_attention"] * _count(arch, "sw_layers")
        config |= {"sliding_window": arch.get("window"), "layer_types": kinds}
    return config


def _gpu(row: Row) -> GpuMemory | None:
    """Return the GPU with CUDA's total: the log's, else that of the GPU's name."""
    words = str(row.get("gpu") or "")
    model = next((each for each in load_gpus() if _is_named(each, words)), None)
    total = _gib(row, "vram_gib_per_gpu")
    named = re.search(r"\(?(?:total )?(\d+(?:\.\d+)?) (GiB|MiB)", words)
    if total is None and named:
        total = float(named[1]) * GIB if named[2] == "GiB" else cuda_memory_bytes(int(float(named[1])) * MIB)
    if total is None and model is not None and model.nvml_memory_mib is not None:
        total = cuda_memory_bytes(model.nvml_memory_mib * MIB, model.cuda_memory_gib)
    slice_ = re.search(r"\dg\.(\d+)gb", words)
    if slice_ and row.get("vram_gib_per_gpu") is None:
        # A100 1g.5gb has 4,864 MiB, 2g.10gb 9,856, 3g.20gb 19,968 (NVIDIA MIG user guide).
        total = cuda_memory_bytes(int(slice_[1]) * 980 * MIB)
    if total is None:
        return None
    free = re.search(r"\(([\d.]+)/[\d.]+ GiB\) on startup", str(row.get("error") or ""))
    return GpuMemory(
        total_bytes=int(total),
        used_bytes=int(total - float(free[1]) * GIB) if free else 0,
        name=words,
        compute_capability=capability(model.compute_capability) if model else None,
        unified="UMA" in words,
        wsl=any("wsl" in str(text).lower() for text in (words, row.get("notes"), row["id"])),
    )


def _is_named(model: GpuModel, words: str) -> bool:
    """Tell whether a log's words name a GPU model: `RTX 3090`, `H100 80GB`, `A10G 24GB`; sizes must agree."""
    plain = words.lower().replace("nvidia ", "").replace("geforce ", "").replace("tesla ", "")
    size = re.search(r"(\d+) ?gb", plain)
    if size and abs(int(size[1]) - model.memory_gb) > 2:
        return False
    word = re.split(r"[(,]| \d+ ?gb", plain)[0].strip()
    return (
        any(
            re.search(
                rf"(^|[ -]){re.escape(word)}($|[ -])", name.lower().replace("nvidia ", "").replace("geforce ", "")
            )
            for name in model.names
        )
        if word
        else False
    )


def _part(row: Row, key: str) -> Row:
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(row: Row, key: str) -> int | None:
    value = _number(row, key)
    return None if value is None else int(value)


def _count(row: Row, key: str) -> int:
    return _whole(row, key) or 0


def _gib(row: Row, key: str) -> float | None:
    value = _number(row, key)
    return None if value is None else value * GIB
