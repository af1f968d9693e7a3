"""The refresh: a release's source tree in, catalog text out; a small tree in the shape of real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec import structs
from stackwright.catalog.load import FOLDER, load_engines, load_flags, load_parsers
from stackwright.catalog.refresh import (
    ARCHITECTURES,
    ATTENTION,
    DEFAULTS,
    ENGINES,
    FLAGS,
    FORMATS,
    KERNELS,
    PARSERS,
    main,
    with_flags,
    with_parsers,
    with_release,
)
from stackwright.catalog.release_attention import CAPABILITIES
from stackwright.catalog.release_source import read_release
from stackwright.catalog.text import render_rows
from stackwright.domain.catalog import EngineRelease
from stackwright.errors import StackError, UsageError
from stackwright.reading import convert, load_yaml

PIPELINE = r"""
env:
  CUDA_ARCH_X86: "7.0 7.5 8.0 12.0"
steps:
  - group: "Build release Docker images"
    steps:
      - label: "Build release image - x86_64 - CUDA 13.0"
        commands:
          - |
            DOCKER_BUILDKIT=1 docker build \
              --build-arg CUDA_VERSION=13.0.2 \
              --build-arg torch_cuda_arch_list="${CUDA_ARCH_X86}" \
              --target vllm-openai \
              -f docker/Dockerfile .
          - "docker push public.ecr.aws/q9t5s3a7/vllm-release-repo:$BUILDKITE_COMMIT-$(uname -m)"
      - label: "Build release image - aarch64 - CUDA 13.0"
        commands:
          - "docker build --build-arg CUDA_VERSION=13.0.2 --build-arg torch_cuda_arch_list='8.7 12.0+PTX'
            -f docker/Dockerfile ."
          - "docker push public.ecr.aws/q9t5s3a7/vllm-release-repo:$BUILDKITE_COMMIT-$(uname -m)"
      - label: "Build release image - x86_64 - CUDA 12.9"
        commands:
          - "docker build --build-arg CUDA_VERSION=12.9.1 -f docker/Dockerfile ."
          - "docker push public.ecr.aws/q9t5s3a7/vllm-release-repo:$BUILDKITE_COMMIT-$(uname -m)-cu129"
      - label: "Build release image - x86_64 - CUDA 12.8"
        commands:
          - "docker build --build-arg CUDA_VERSION=12.8.1 -f docker/Dockerfile ."
          - "docker push public.ecr.aws/q9t5s3a7/vllm-release-repo:$BUILDKITE_COMMIT-$(uname -m)-cu128"
      - label: "Build release image - x86_64 - Rubin CUDA 13.4"
        if: build.env("NIGHTLY") == "1"
        commands:
          - "docker build --build-arg CUDA_VERSION=13.4 -f docker/Dockerfile ."
          - "docker push public.ecr.aws/q9t5s3a7/vllm-release-repo:$BUILDKITE_COMMIT-$(uname -m)-cu13x"
      - label: "Build release image - x86_64 - CPU"
        commands:
          - "docker build --build-arg VLLM_CPU_X86=true -f docker/Dockerfile.cpu ."
          - "docker push public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:$BUILDKITE_COMMIT-x86_64"
"""
PUBLISH = """
docker push "vllm/vllm-openai:v${RELEASE_VERSION}"
docker push "vllm/vllm-openai:v${RELEASE_VERSION}-x86_64-cu129"
docker push "vllm/vllm-openai-cpu:v${RELEASE_VERSION}"
"""
DOCKERFILE = """
FROM vllm-base AS vllm-openai-base
ARG torch_cuda_arch_list='7.5 8.0 9.0'
FROM vllm-openai-base AS vllm-sagemaker
ENTRYPOINT ["./sagemaker-entrypoint.sh"]
FROM vllm-openai-base AS vllm-openai
ENTRYPOINT ["vllm", "serve"]
"""
CLI_ARGS = """
class FrontendArgs:
    host: str | None = None
    brand_new_field: int = 1
    def method(self) -> None: ...
"""
TREE = {
    "PKG-INFO": "Metadata-Version: 2.4\nName: vllm\nVersion: 0.34.0\n",
    ".buildkite/release-pipeline.yaml": PIPELINE,
    ".buildkite/scripts/publish-release-images.sh": PUBLISH,
    "docker/Dockerfile": DOCKERFILE,
    "requirements/cuda.txt": "-r common.txt\ntorch==2.14.1\n",
    "vllm/config/cache.py": "class CacheConfig:\n    gpu_memory_utilization: float = Field(default=0.93, gt=0, le=1)\n",
    "vllm/engine/arg_utils.py": (
        'group.add_argument("--model", **kwargs)\ngroup.add_argument("--brand-new", "-b")\n'
        "def get_batch_defaults():\n    if device_memory >= 70 * GiB_bytes:\n        default_max_num_seqs = 1024\n"
        "    elif 'x' in device_name:\n"
        "        default_max_num_seqs = {UsageContext.LLM_CLASS: 1, UsageContext.OPENAI_API_SERVER: 2 * world}\n"
        "    else:\n        default_max_num_seqs = 256\n"
        "    if current_platform.is_tpu():\n        default_max_num_seqs = 7\n"
    ),
    "vllm/config/scheduler.py": "class SchedulerConfig:\n    DEFAULT_MAX_NUM_SEQS: ClassVar[int] = 128\n",
    "vllm/entrypoints/common/cli_args.py": CLI_ARGS,
    "vllm/tool_parsers/__init__.py": (
        '_TOOL_PARSERS_TO_REGISTER = {\n    "hermes": (\n        "file",\n    ),\n    "new": (),\n}\n'
    ),
    "vllm/reasoning/__init__.py": (
        '_REASONING_PARSERS_TO_REGISTER: dict[str, str] = {\n    "qwen3": (  # name\n        "x",\n    ),\n}\n'
    ),
    "vllm/model_executor/layers/quantization/__init__.py": (
        'QuantizationMethods = Literal[\n    "awq",\n    "inc",\n    "old",\n]\n'
        'DEPRECATED_QUANTIZATION_METHODS = [\n    "old",\n]\n'
        'def get_quantization_config(name):\n    return {"awq": AwqConfig, "inc": IncConfig, "old": OldConfig}[name]\n'
    ),
    "vllm/model_executor/layers/quantization/inc/inc.py": (
        "class BaseConfig:\n    def get_min_capability(cls): return 75\n"
        "class AwqConfig(BaseConfig):\n    def get_supported_act_dtypes(self): return [torch.half, torch.bfloat16]\n"
        "class OldConfig(BaseConfig):\n    def get_min_capability(cls): return 80 if emulated() else 100\n"
        "class INC:\n    def override_quantization_method(cls, config):\n"
        '        """Take `other` for `inc`."""\n        return cls.name if config["m"] == "auto-round" else None\n'
    ),
    "vllm/model_executor/layers/quantization/inc/schemes/inc_w4.py": (
        "class W4:\n    def get_min_capability(cls): return 120\n"
    ),
    "vllm/model_executor/layers/quantization/moe_wna16.py": (
        "class Method:\n    def create_weights(self, layer, width):\n        while width % group_size:\n"
        "            group_size = group_size // 2\n            assert group_size >= 64\n"
    ),
    "vllm/model_executor/layers/fused_moe/oracle/fp8.py": (
        "def refine_fp8_moe_block_shape(config, size):\n    refine = gcd(size, config.width)\n"
        "    if refine < 32:\n        return None\n    return [refine, refine]\n"
    ),
    "vllm/config/model.py": '_FLOAT16_NOT_SUPPORTED_MODELS = {\n    "gemma9": "Numerical instability.",\n}\n',
    "vllm/model_executor/models/registry.py": (
        '_TEXT_GENERATION_MODELS = {\n    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),\n}\n'
        '_EMBEDDING_MODELS = {\n    "NewModel": ("new", "NewModel"),\n    **{k: v for k, v in _TEXT.items()},\n}\n'
        '_MULTIMODAL_MODELS: dict = {\n    "SeeingForCausalLM": ("vllm.models.seeing", "Seeing"),\n'
        '    "HearingForCausalLM": ("hearing", "Hearing"),\n    "WritingDown": ("hearing", "WritingDown"),\n}\n'
    ),
    "vllm/model_executor/models/hearing.py": (
        "from .interfaces import SupportsMultiModal\n\n\nclass Hearing(SupportsMultiModal):\n    pass\n\n\n"
        "class WritingDown(\n    Hearing\n):\n    supports_transcription_only: bool = True\n"
    ),
    "vllm/model_executor/models/config.py": (
        "class Seen(VerifyAndUpdateConfig):\n    def verify_and_update_config(vllm_config):\n"
        "        text_config = vllm_config.model_config.hf_text_config\n"
        "        if text_config.layers < 2:\n            raise ValueError\n"
        "        if parallel_config.moe_sp and parallel_config.pipeline_parallel_size != 1:\n"
        "            raise ValueError\n"
        "        if bool(text_config.tables) and parallel_config.pipeline_parallel_size > 1:\n"
        "            raise NotImplementedError\n"
        "        if platform.is_cpu():\n            return\n"
        "        if parallel_config.pipeline_parallel_size > 1:\n            raise NotImplementedError\n"
        "class SeenToo(Seen):\n    def verify_and_update_config(vllm_config):\n"
        "        Seen.verify_and_update_config(vllm_config)\n"
        "class Whole(VerifyAndUpdateConfig):\n    def verify_and_update_config(vllm_config):\n"
        "        if vllm_config.parallel_config.pipeline_parallel_size != 1:\n            raise NotImplementedError\n"
        'MODELS_CONFIG_MAP: dict = {\n    "SeeingForCausalLM": Seen,\n    "SeeingToo": (SeenToo),\n'
        '    "Whole": Whole,\n}\n'
    ),
    "vllm/model_executor/models/interfaces.py": 'class SupportsMultiModal:\n    kinds = ("image", "audio")\n',
    "vllm/models/seeing/model.py": (
        "from vllm.model_executor.models.eye import Eye\n\n\nclass Seeing(Eye, SupportsPP): ...\n"
    ),
    "vllm/models/seeing/kernels.py": (
        "class Sparse(Latent):\n    def supports_compute_capability(cls, capability):\n"
        "        return capability.major == 12\n"
    ),
    "vllm/models/seeing/amd/kernels.py": "class Sparse(Latent): ...\n",
    "vllm/model_executor/models/eye.py": 'class Eye:\n    modality = "image"\n    supports_encoder_tp_data = True\n',
    "vllm/platforms/cuda.py": (
        "def _get_backend_priorities(use_mla, device_capability, head_size=None):\n"
        "    if use_mla:\n        more = [AttentionBackendEnum.SPARSE]\n"
        "        return [AttentionBackendEnum.LATENT, *more]\n"
        "    if device_capability.major == 10 and head_size != 64:\n        return [AttentionBackendEnum.TEN]\n"
        "    return [AttentionBackendEnum.PLAIN]\n"
    ),
    "vllm/v1/attention/backends/registry.py": (
        'class AttentionBackendEnum(Enum):\n    PLAIN = "a.Plain"\n    TEN = "a.Ten"\n    LATENT = "a.Latent"\n'
        '    SPARSE = (\n        "a."\n        "Sparse"\n    )\n'
        '    OWN = "vllm.models.seeing.kernels.Sparse"\n    OWN_ROCM = "vllm.models.seeing.amd.kernels.Sparse"\n'
    ),
    "vllm/v1/attention/backends/all.py": (
        "class Base:\n    def is_mla(cls):\n        return False\n"
        "class Plain(Base):\n    supported_kv_cache_dtypes: ClassVar[list[str]] = ['auto', 'fp8']\n"
        "    def supports_compute_capability(cls, capability):\n"
        "        if is_rocm():\n            return False\n        return capability >= DeviceCapability(12, 0)\n"
        "    def get_supported_head_sizes(cls):\n        return [64, 128]\n"
        "class Ten(Plain):\n    def supports_compute_capability(cls, capability):\n"
        "        return capability.major == 10 and capability.minor != 3\n"
        "class Latent(Base[Meta]):\n    supported_kv_cache_dtypes = ['auto']\n"
        "    def is_mla(cls):\n        return True\n"
        "    def supports_compute_capability(cls, capability):\n        return capability.major in [9] or asks()\n"
        "class Sparse(Latent):\n    def is_sparse(cls):\n        return True\n"
        "    def supports_compute_capability(cls, capability):\n        return capability.major in (9, 12)\n"
    ),
    "vllm/envs.py": '    "VLLM_USE_NEW": lambda: 1,\n    # "VLLM_MENTIONED" alone is no key\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Lay out the small source tree."""
    for name, text in TREE.items():
        file = tmp_path / "vllm-0.34.0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path / "vllm-0.34.0"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Copy the packaged catalog, to be rewritten."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    for name in (ARCHITECTURES, ATTENTION, DEFAULTS, ENGINES, FLAGS, FORMATS, KERNELS, PARSERS):
        shutil.copy(FOLDER / name, folder)
    return folder


def test_a_release_is_read_from_its_scripts(tree: Path) -> None:
    found = read_release(tree, None, "2026-12-01").release
    assert (found.version, found.torch, found.utilization_default) == ("0.34.0", "2.14.1", 0.93)
    assert (found.entrypoint, found.minimum_compute_capability) == (("vllm", "serve"), "7.5")
    bare, cu129, cu128 = found.images
    # 7.0 is asked for, but CUDA 13 has no kernels for it.
    assert (bare.image, bare.cuda, bare.x86_64, bare.aarch64) == (
        "vllm/vllm-openai:v0.34.0",
        "13.0.2",
        ("7.5", "8.0", "12.0"),
        ("8.7", "12.0+PTX"),
    )
    assert (cu129.cuda, cu129.x86_64, cu129.aarch64, cu129.published) == ("12.9.1", ("7.5", "8.0", "9.0"), None, True)
    assert (cu128.image, cu128.published) == (
        "vllm/vllm-openai:v0.34.0-cu128",
        None,
    )  # built, but no script publishes it
    assert [(image.image, image.x86_64_flags) for image in found.cpu_images] == [
        ("vllm/vllm-openai-cpu:v0.34.0", ("avx2",))
    ]


def test_flags_stand_written_out_or_as_fields(tree: Path) -> None:
    found = read_release(tree, None, "2026-12-01")
    assert found.flags == {"--model", "--brand-new", "--host", "--brand-new-field"}
    assert found.variables == {"VLLM_USE_NEW"}


def test_formats_are_those_declared_and_those_taken_for_them(tree: Path) -> None:
    found = read_release(tree, None, "2026-12-01")
    expected: dict[str, object] = {
        "methods": {"awq", "inc", "old", "auto-round"},
        "deprecated": {"old"},
        "without_float16": {"gemma9"},
        # What two numbers decide at run time is not known; what reads no number has no row.
        "least_capability": {"awq": {"7.5"}, "inc/w4": {"12.0"}},
        "activations": {"awq": {"float16", "bfloat16"}},
        "least_blocks": {"fp8": {"32"}, "moe_wna16": {"64"}},
    }
    assert found.formats == expected


def test_architectures_have_the_role_of_their_table_and_class(tree: Path) -> None:
    assert read_release(tree, None, "2026-12-01").architectures == {
        "chat": {"LlamaForCausalLM", "HearingForCausalLM"},
        "embedding": {"NewModel"},
        "transcription": {"WritingDown"},
        "vision": {"SeeingForCausalLM"},
    }


def test_encoders_that_may_be_copied_are_marked_in_a_class_or_in_what_it_is_made_from(tree: Path) -> None:
    assert read_release(tree, None, "2026-12-01").splits["copied_encoder"] == {"SeeingForCausalLM"}


def test_what_no_stages_can_share_is_marked_nowhere_or_refused_by_a_check(tree: Path) -> None:
    """A class that is not in its module (here Llama's) says nothing of that. Settings of the engine are no field."""
    assert read_release(tree, None, "2026-12-01").splits["one_stage"] == {
        "HearingForCausalLM",
        "WritingDown",
        "SeeingForCausalLM/tables",
        "SeeingToo/tables",
        "Whole",
    }


def test_attention_backends_are_read_without_running_them(tree: Path) -> None:
    found = {row.name: row for row in read_release(tree, None, "2026-12-01").attention_backends}
    assert {name: row.capabilities for name, row in found.items()} == {
        # What hangs on more than the capability counts as possible.
        "LATENT": CAPABILITIES,
        "OWN": ("12.0", "12.1"),
        "PLAIN": CAPABILITIES,
        "SPARSE": ("9.0", "12.0", "12.1"),
        "TEN": ("10.0",),
    }
    assert {name: row.architectures for name, row in found.items() if row.architectures} == {
        "OWN": ("SeeingForCausalLM",)
    }
    assert [(row.mla, row.sparse) for row in found.values()] == [
        (True, False),
        (True, False),
        (False, False),
        (True, True),
        (False, False),
    ]
    assert found["TEN"].cache_formats == ("auto", "fp8")
    assert (found["PLAIN"].head_sizes, found["SPARSE"].head_sizes) == ((64, 128), ())


def test_defaults_stand_under_their_own_conditions(tree: Path) -> None:
    assert read_release(tree, None, "2026-12-01").defaults == {
        "DEFAULT_MAX_NUM_SEQS": {"128"},
        "max_num_seqs where device_memory >= 70 * GiB_bytes": {"1024"},
        "max_num_seqs where 'x' in device_name": {"2 * world"},
        "max_num_seqs otherwise": {"256"},
    }


def test_the_command_adds_the_release_and_says_what_changed(
    tree: Path, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), "--date", "2026-12-01"], catalog) == 0
    said = capsys.readouterr().out
    assert '+  version: "0.34.0"' in said
    assert '+  "--brand-new": ["0.34.0", null]' in said
    assert '+  "--max-model-len": ["0.6.3.post1", "0.33.0"]' in said
    assert '+  "SeeingForCausalLM": ["0.34.0", null]' in said
    assert '+  "MistralForCausalLM": ["0.6.3.post1", "0.33.0"]' in said
    engines = convert(load_yaml(catalog / ENGINES, StackError), tuple[EngineRelease, ...], where="", error=StackError)
    assert [row.version for row in engines][:2] == ["0.34.0", "0.33.0"]
    assert engines[1:] == load_engines()[:]
    header = (FOLDER / ENGINES).read_text(encoding="utf-8").splitlines()[0]
    assert (catalog / ENGINES).read_text(encoding="utf-8").splitlines()[0] == header
    assert main([str(tree), "--date", "2026-12-02"], catalog) == 0
    assert capsys.readouterr().out == ""  # nothing is left to change, and the date of an unchanged row stays


def test_two_releases_are_compared_as_a_table(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", "0.23.0", "0.24.0"], catalog) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["what", "name", "0.23.0", "0.24.0"]
    assert ["architectures", "chat", "XverseForCausalLM", "yes", "-"] in rows
    assert ["formats", "methods", "gguf", "yes", "-"] in rows
    assert ["formats", "least_capability", "auto_awq", "7.5", "-", "yes"] in rows
    assert "kernels _C machine code 9.0, kernels 10 yes -".split() in rows
    # A release that a table lacks is said, and one that no table has is refused.
    assert main(["--compare", "0.15.1", "0.16.0"], catalog) == 0
    assert ["architectures", "not", "sampled", "-", "yes"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    assert main(["--compare", "0.33.0", "9.9.9"], catalog) == 2
    assert "no table of the catalog has both 0.33.0 and 9.9.9" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([], catalog)


def test_a_dry_run_writes_nothing(tree: Path, catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tree), "--dry-run"], catalog) == 0
    assert '"0.34.0"' in capsys.readouterr().out
    assert (catalog / ENGINES).read_text(encoding="utf-8") == (FOLDER / ENGINES).read_text(encoding="utf-8")


def test_notes_of_people_stay(tree: Path) -> None:
    found = read_release(tree, "0.19.1", "2026-12-01").release
    old = next(row for row in load_engines() if row.version == "0.19.1")
    assert old.images[1].note is not None
    renamed = convert(
        {**structs.asdict(found), "images": [{**structs.asdict(found.images[0]), "image": old.images[1].image}]},
        EngineRelease,
        where="",
        error=StackError,
    )
    kept = next(row for row in with_release(load_engines()[:], renamed) if row.version == "0.19.1")
    assert kept.images[0].note == old.images[1].note
    assert kept.date == "2026-12-01"


def test_a_release_between_two_samples_narrows_the_ranges(tree: Path) -> None:
    found = read_release(tree, "0.18.0", "2026-12-01")
    table = with_flags(load_flags(), found)
    assert load_flags().has("--swap-space", "0.18.0") is None
    assert table.has("--swap-space", "0.18.0") is False
    assert table.has("--brand-new", "0.18.0") is True
    assert table.has("--brand-new", "0.18.1") is False
    assert table.has("--max-model-len", "0.33.0") is True
    assert with_flags(table, found) is table


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PKG-INFO", "PKG-INFO: cannot be read: No such file or directory"),
        ("docker/Dockerfile", "docker/Dockerfile: cannot be read: No such file or directory"),
        ("vllm/config/cache.py", "vllm/config: no default of gpu_memory_utilization is found"),
        (".buildkite/release-pipeline.yaml", "release-pipeline.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_folder_that_is_no_release_is_one_sentence(tree: Path, catalog: Path, name: str, message: str) -> None:
    (tree / name).unlink()
    with pytest.raises(UsageError) as failure:
        read_release(tree, None, "2026-12-01")
    assert failure.value.message.endswith(message)
    assert main([str(tree)], catalog) == 2


def test_a_pipeline_without_images_is_one_sentence(tree: Path) -> None:
    (tree / ".buildkite/release-pipeline.yaml").write_text(
        "steps: [{label: nothing, commands: [ls]}]", encoding="utf-8"
    )
    with pytest.raises(UsageError, match="builds no CUDA image"):
        read_release(tree, None, "2026-12-01")


def test_parsers_gain_the_release_and_lose_what_it_has_not(tree: Path) -> None:
    found = read_release(tree, None, "2026-12-01")
    assert found.tool_call_parsers == {"hermes", "new"}
    assert found.reasoning_parsers == {"qwen3"}
    table = with_parsers(load_parsers(), found)
    newest = load_parsers().sampled[-1]
    assert table.sampled[-1] == "0.34.0"
    assert table.tool_call["hermes"][1] is None
    assert table.tool_call["new"] == ("0.34.0", None)
    assert table.tool_call["mistral"][1] == newest
    assert with_parsers(table, found) is table


@pytest.mark.parametrize(
    "value", ["12.0", "null", "yes", "a: b", "#x", "it's", "", "-", "12:30:00", "v1", "a, b", "~", "é"]
)
def test_written_text_is_read_back_as_the_same_text(value: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(render_rows([{"key": value, "list": [value], "rows": [{"key": value}]}]), encoding="utf-8")
    assert load_yaml(file, StackError) == [{"key": value, "list": [value], "rows": [{"key": value}]}]
