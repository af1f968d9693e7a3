"""Read one vLLM release from its source tree: images, architectures, defaults, flags. Touches only files below that
tree.

What is read is what the release's own build and publish scripts say; no registry is asked. Nothing of the tree is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from stackwright.catalog.release_attention import attention_backends
from stackwright.catalog.release_defaults import engine_defaults
from stackwright.catalog.release_formats import Names, number_formats
from stackwright.catalog.release_models import copied_encoders, served_architectures, unstaged_architectures
from stackwright.catalog.release_stages import stage_refusals
from stackwright.domain.catalog import (
    COPIED_ENCODER,
    ONE_STAGE,
    AttentionBackend,
    CpuImage,
    EngineImage,
    EngineRelease,
    order_release,
)
from stackwright.errors import UsageError
from stackwright.reading import load_yaml

HUB, CPU_HUB = "vllm/vllm-openai", "vllm/vllm-openai-cpu"
ECR = "public.ecr.aws/q9t5s3a7"
PIPELINE = ".buildkite/release-pipeline.yaml"
# Builds of the same code for other systems, which no plan needs, and those that are not released.
_LEFT_OUT = ("ubuntu2404", "efa", "zstd", "cu134", "rocm", "xpu")
# One binary for AVX512 and AVX2; without the build argument it dies where these are missing (vLLM docs, CPU
# installation).
_AVX512 = ("avx512f", "avx512_vnni", "avx512_bf16")
# CUDA 13 has no kernels before Turing (vLLM CMakeLists.txt, CUDA_SUPPORTED_ARCHS from 13.0 on begins at 7.5).
_CUDA13_LEAST = (7, 5)


class ReleaseSource(Struct, frozen=True, kw_only=True):
    """What one source tree says: the catalog's row, and the names of flags, variables and parsers that stand in it."""

    release: EngineRelease
    flags: frozenset[str]
    variables: frozenset[str]
    tool_call_parsers: frozenset[str]
    reasoning_parsers: frozenset[str]
    formats: Mapping[str, Names]
    architectures: Mapping[str, frozenset[str]]
    splits: Mapping[str, frozenset[str]]
    attention_backends: tuple[AttentionBackend, ...]
    defaults: Mapping[str, frozenset[str]]


def read_release(tree: Path, version: str | None, date: str) -> ReleaseSource:
    """Read the release whose source lies in `tree`: an unpacked sdist, or a checkout at a tag with `version` given.

    Raises:
        UsageError: a file is missing, or says nothing where the others of its kind do.
    """
    name = version or _find(_read(tree, "PKG-INFO"), r"^Version: (\S+)$", "PKG-INFO", "Version")
    images = _cuda_images(tree, name)
    architectures = {entry for image in images for entry in (*(image.x86_64 or ()), *(image.aarch64 or ()))}
    oldest = min((entry.removesuffix("+PTX") for entry in architectures), key=_number)
    release = EngineRelease(
        name="vllm",
        version=name,
        torch=_find(
            _read(tree, "requirements/cuda.txt"), r"^torch==\s*(\S+?)(?:;|\s|$)", "requirements/cuda.txt", "torch"
        ),
        minimum_compute_capability=oldest,
        utilization_default=_utilization_default(tree),
        entrypoint=_entrypoint(tree),
        images=images,
        cpu_images=_cpu_images(tree, name),
        source="PyPI wheel metadata and sdist of this release (docker/, .buildkite/)",
        date=date,
    )
    return ReleaseSource(
        release=release,
        flags=_flags(tree),
        variables=_variables(tree),
        tool_call_parsers=_parsers(tree, "vllm/tool_parsers/__init__.py"),
        reasoning_parsers=_parsers(tree, "vllm/reasoning/__init__.py"),
        formats=number_formats(tree),
        architectures=served_architectures(tree),
        splits={
            COPIED_ENCODER: copied_encoders(tree),
            ONE_STAGE: unstaged_architectures(tree) | stage_refusals(tree),
        },
        attention_backends=attention_backends(tree),
        defaults=engine_defaults(tree),
    )


def _cuda_images(tree: Path, version: str) -> tuple[EngineImage, ...]:
    pipeline = load_yaml(tree / PIPELINE, UsageError)
    variables = pipeline.get("env", {}) if isinstance(pipeline, dict) else {}
    found: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {}
    for step in _steps(pipeline):
        listed = step["commands"]
        commands = "\n".join(str(command) for command in listed) if isinstance(listed, list) else ""
        build = re.search(r"docker (?:buildx )?build.*?-f docker/Dockerfile \.", commands, re.DOTALL)
        pushed = re.search(r"docker push \S+/vllm-release-repo:\$BUILDKITE_COMMIT(-\$\(uname -m\))?(\S*)", commands)
        nightly = "NIGHTLY" in str(step.get("if", "")) and "==" in str(step["if"])
        if build is None or pushed is None or nightly or any(word in pushed[2] for word in _LEFT_OUT):
            continue
        cuda = _find(build[0], r"CUDA_VERSION=([0-9.]+)", PIPELINE, "CUDA_VERSION")
        processor = "aarch64" if "aarch64" in str(step.get("label", "")) else "x86_64"
        found.setdefault(pushed[2], {})[processor] = (cuda, _architectures(tree, build[0], variables, cuda))
    if not found:
        raise UsageError(f"{tree / PIPELINE}: builds no CUDA image", hint="is this the source of a vLLM release?")
    return tuple(
        _image(version, suffix, builds, _is_published(tree, suffix))
        for suffix, builds in sorted(found.items(), key=lambda item: item[0] != "")
    )


def _image(
    version: str, suffix: str, builds: Mapping[str, tuple[str, tuple[str, ...]]], published: bool | None
) -> EngineImage:
    x86_64, aarch64 = builds.get("x86_64"), builds.get("aarch64")
    cuda = (x86_64 or aarch64 or ("", ()))[0]
    return EngineImage(
        image=f"{HUB}:v{version}{suffix}",
        cuda=cuda,
        x86_64=x86_64[1] if x86_64 else None,
        aarch64=aarch64[1] if aarch64 else None,
        published=published,
        aarch64_cuda=aarch64[0] if aarch64 and aarch64[0] != cuda else None,
    )


def _architectures(tree: Path, build: str, variables: Mapping[str, object], cuda: str) -> tuple[str, ...]:
    """Return the list that a build is given, else the Dockerfile's; written out, or by a variable of the pipeline."""
    given = re.search(r"torch_cuda_arch_list=(?:\"\$\{(\w+)\}\"|'([^']*)'|\"([^\"]*)\")", build)
    if given is None:
        text = _find(
            _read(tree, "docker/Dockerfile"),
            r"^ARG torch_cuda_arch_list='([^']*)'",
            "docker/Dockerfile",
            "torch_cuda_arch_list",
        )
    else:
        text = str(variables.get(given[1], "")) if given[1] else given[2] or given[3]
    least = _CUDA13_LEAST if _number(cuda)[0] >= 13 else (0,)
    return tuple(entry for entry in text.split() if _number(entry.removesuffix("+PTX")) >= least)


def _is_published(tree: Path, suffix: str) -> bool | None:
    """Return whether the publish scripts name the tag. Before there were any, the bare tag was pushed by hand."""
    scripts = _publish_scripts(tree)
    if not scripts:
        return True if suffix == "" else None
    named = f'publish_image_family "{suffix}"' in scripts or re.search(
        rf"vllm-openai:v\$\{{RELEASE_VERSION\}}(?:-x86_64)?{re.escape(suffix)}(?=[\s\"$]|$)", scripts, re.MULTILINE
    )
    return True if named else None


def _cpu_images(tree: Path, version: str) -> tuple[CpuImage, ...]:
    pipeline = _read(tree, PIPELINE)
    flags = ("avx2",) if "VLLM_CPU_X86=true" in pipeline else _AVX512
    if CPU_HUB in _publish_scripts(tree):
        return (CpuImage(image=f"{CPU_HUB}:v{version}", processors=("x86_64", "aarch64"), x86_64_flags=flags),)
    images = []
    if "vllm-cpu-release-repo" in pipeline:
        image = f"{ECR}/vllm-cpu-release-repo:v{version}"
        images.append(CpuImage(image=image, processors=("x86_64",), x86_64_flags=flags))
    if "vllm-arm64-cpu-release-repo" in pipeline:
        images.append(CpuImage(image=f"{ECR}/vllm-arm64-cpu-release-repo:v{version}", processors=("aarch64",)))
    return tuple(images)


def _utilization_default(tree: Path) -> float:
    for name in ("vllm/config/cache.py", "vllm/config/__init__.py", "vllm/config.py"):
        if (tree / name).is_file():
            default = re.search(r"gpu_memory_utilization: float = (?:Field\(default=)?([0-9.]+)", _read(tree, name))
            if default is not None:
                return float(default[1])
    raise UsageError(f"{tree}/vllm/config: no default of gpu_memory_utilization is found")


def _entrypoint(tree: Path) -> tuple[str, ...]:
    stage, instruction = "", ""
    for line in _read(tree, "docker/Dockerfile").splitlines():
        opened = re.match(r"FROM \S+ AS (\S+)", line, re.IGNORECASE)
        stage = opened[1] if opened else stage
        if stage == "vllm-openai" and line.startswith("ENTRYPOINT"):
            instruction = line
    words = tuple(re.findall(r'"([^"]+)"', instruction))
    if not words:
        raise UsageError(f"{tree}/docker/Dockerfile: stage vllm-openai has no ENTRYPOINT")
    return words


def _flags(tree: Path) -> frozenset[str]:
    """Return the server's flags: those written out, and those that are made from the fields of the front end's classes.

    For 0.32.0 this is exactly what its real parser takes (compared on 2026-11-21), `--no-…` forms aside.
    """
    frontends = sorted((tree / "vllm/entrypoints").rglob("cli_args*.py"))
    texts = [_text(file) for file in (tree / "vllm/engine/arg_utils.py", *frontends)]
    written = {name for text in texts for name in re.findall(r"[\"'](--[a-z][a-z0-9-]+)[\"']", text)}
    fields = {name for text in texts[1:] for name in _frontend_fields(text)}
    return frozenset(written | {"--" + name.replace("_", "-") for name in fields})


def _frontend_fields(source: str) -> Iterator[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            for member in node.body:
                if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    yield member.target.id


def _variables(tree: Path) -> frozenset[str]:
    return frozenset(re.findall(r"[\"'](VLLM_[A-Z0-9_]+)[\"']\s*:", _read(tree, "vllm/envs.py")))


def _parsers(tree: Path, name: str) -> frozenset[str]:
    """Return the names that a package registers: the keys of its one table (0.14 and later)."""
    table = _find(_read(tree, name), r"^_\w+_PARSERS_TO_REGISTER\b.*= \{\n((?: .*\n)+)\}", name, "table of parsers")
    return frozenset(re.findall(r'^    "([^"]+)":', table, re.MULTILINE))


def _steps(node: object) -> Iterator[dict[str, object]]:
    """Yield every step of a Buildkite pipeline that has commands, groups opened."""
    steps = node.get("steps") if isinstance(node, dict) else None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and isinstance(step.get("commands"), list):
            yield step
        yield from _steps(step)


def _publish_scripts(tree: Path) -> str:
    names = ("publish-release-images.sh", "annotate-release.sh")
    files = [tree / ".buildkite/scripts" / name for name in names]
    return "\n".join(_text(file) for file in files if file.is_file())


def _find(text: str, pattern: str, where: str, what: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise UsageError(f"{where}: no {what} is found", hint="is this the source of a vLLM release?")
    return match[1]


def _read(tree: Path, name: str) -> str:
    return _text(tree / name)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as failure:
        raise UsageError(
            f"{file}: cannot be read: {failure.strerror}", hint="name the folder of an unpacked vLLM sdist"
        ) from None


def _number(text: str) -> tuple[int, ...]:
    return order_release(text)[0][:2]
