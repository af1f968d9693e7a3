"""What the packaged rows say: sources and dates, the rules that rows must agree with, and the errors of popular
guides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import pytest
from stackwright.catalog.load import (
    FOLDER,
    find_gpu,
    load_advisories,
    load_architectures,
    load_attention,
    load_defaults,
    load_drivers,
    load_engines,
    load_flags,
    load_formats,
    load_gpus,
    load_kernels,
    load_llms,
    load_parsers,
)
from stackwright.catalog.refresh import (
    ARCHITECTURES,
    ATTENTION,
    DEFAULTS,
    ENGINES,
    FLAGS,
    FORMATS,
    KERNELS,
    PARSERS,
    render_engines,
    render_table,
)
from stackwright.domain.catalog import (
    REFUSED_HOLES,
    ServiceImage,
    holes_of,
    order_release,
)
from stackwright.domain.hardware import FactStatus, GpuClass, GpuModel, plain_gpu_name
from stackwright.domain.model_facts import WeightFormat
from stackwright.errors import StackError
from stackwright.reading import load_yaml, read_yaml

FILES = sorted(path for path in FOLDER.glob("*.yaml"))
CATALOG_FILES = (
    "advisories architectures arguments attention defaults drivers engines flags formats gpus guides kernels llms "
    "parsers prices services"
).split()


def rows(node: object) -> Iterator[Mapping[str, object]]:
    """Yield every row of a file: entries of a list of mappings, at the top or below a key of it."""
    if isinstance(node, list):
        yield from (row for row in node if isinstance(row, dict))
    elif isinstance(node, dict) and "date" in node:
        yield node
    elif isinstance(node, dict):
        for part in node.values():
            yield from rows(part)


def test_every_file_is_here() -> None:
    assert [path.stem for path in FILES] == CATALOG_FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_has_a_source_and_a_date(path: Path) -> None:
    found = list(rows(load_yaml(path, StackError)))
    assert found
    for row in found:
        assert len(str(row.get("source") or "")) >= 10, row
        assert date.fromisoformat(str(row.get("date"))) <= date(2099, 1, 1), row


def test_a_misspelt_key_is_named_with_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    text = (FOLDER / "gpus.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("  gpu_class: datacenter", "  gpu_clas: datacenter", 1), encoding="utf-8")
    with pytest.raises(StackError) as failure:
        read_yaml(file, tuple[GpuModel, ...], StackError)
    assert failure.value.message == f"{file}: [0].gpu_clas: unknown key"
    assert failure.value.hint == "did you mean `gpu_class`?"


def test_a_wrong_value_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    text = (FOLDER / "gpus.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("memory_status: measured", "memory_status: guessed", 1), encoding="utf-8")
    with pytest.raises(StackError) as failure:
        read_yaml(file, tuple[GpuModel, ...], StackError)
    assert failure.value.message == f"{file}: [0].memory_status: unknown value 'guessed'"


def test_what_is_written_is_what_a_refresh_would_write() -> None:
    tables = (
        load_flags(),
        load_parsers(),
        load_formats(),
        load_architectures(),
        load_attention(),
        load_defaults(),
        load_kernels(),
    )
    names = (FLAGS, PARSERS, FORMATS, ARCHITECTURES, ATTENTION, DEFAULTS, KERNELS)
    written = dict(zip(names, map(render_table, tables), strict=True))
    for name, text in {ENGINES: render_engines(load_engines()[:]), **written}.items():
        lines = (FOLDER / name).read_text(encoding="utf-8").splitlines(keepends=True)
        assert "".join(line for line in lines if not line.startswith("#")) == text


def test_gpus_are_many_and_named_once() -> None:
    names = [name for row in load_gpus() for name in {plain_gpu_name(name) for name in row.names}]
    assert len(load_gpus()) >= 60
    assert len(set(names)) == len(names)
    assert len({row.id for row in load_gpus()}) == len(load_gpus())


@pytest.mark.parametrize("row", load_gpus(), ids=lambda row: row.id)
def test_gpu_agrees_with_the_rules_of_its_capability(row: GpuModel) -> None:
    major, minor = (int(part) for part in row.compute_capability.split("."))
    formats = ["fp16"]
    formats += ["bf16"] if major >= 8 else []
    formats += ["fp8"] if (major, minor) >= (8, 9) else []
    formats += ["fp4"] if major >= 10 else []
    assert list(row.formats) == formats
    architectures = {6: "Pascal", 9: "Hopper", 10: "Blackwell", 11: "Blackwell", 12: "Blackwell"}
    expected = architectures.get(major) or {(7, 0): "Volta", (7, 5): "Turing", (8, 9): "Ada"}.get(
        (major, minor), "Ampere"
    )
    assert row.architecture.removesuffix(" Ultra") == expected
    assert (row.nvml_memory_mib is None) == (row.memory_status is FactStatus.UNKNOWN)
    assert "memory: recalled" not in row.source
    if row.nvml_memory_mib is not None:
        assert 0.9 < row.nvml_memory_mib / 1000 / row.memory_gb < 1.1
    if row.nvlink is not None and row.nvlink.kind == "bridge":
        assert row.nvlink.peers is not None
    if row.gpu_class is GpuClass.CONSUMER:
        assert row.mig_instances == 0


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA GeForce RTX 5090", "12.0"),
        ("NVIDIA GeForce RTX 5080", "12.0"),
        ("NVIDIA GB10", "12.1"),
        ("NVIDIA B300 SXM6 AC", "10.3"),
    ],
)
def test_blackwell_is_not_ada(name: str, capability: str) -> None:
    row = find_gpu(name)
    assert row is not None
    assert row.compute_capability == capability


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090",
        "NVIDIA RTX 6000 Ada Generation",
        "NVIDIA L40S",
        "NVIDIA RTX A4000",
        "NVIDIA RTX A2000",
    ],
)
def test_gpus_that_guides_give_an_nvlink_have_none(name: str) -> None:
    row = find_gpu(name)
    assert row is not None
    assert row.nvlink is None


def test_a_3090_bridge_moves_112_gb_per_s() -> None:
    row = find_gpu("NVIDIA GeForce RTX 3090")
    assert row is not None
    assert row.nvlink is not None
    assert (row.nvlink.gb_per_s, row.nvlink.peers) == (112.5, 2)


def test_unified_memory_has_no_total_by_nvml() -> None:
    unified = [row for row in load_gpus() if row.unified_memory]
    assert {row.id for row in unified} == {"gb10", "jetson-thor", "jetson-orin-agx"}
    assert [row.nvml_memory_mib for row in unified] == [None] * 3


@pytest.mark.parametrize(
    "name",
    ["NVIDIA GeForce RTX 3090", "GeForce RTX 3090", "nvidia  geforce rtx 3090", "NVIDIA GeForce RTX 3090 MIG 1g.5gb"],
)
def test_a_gpu_is_found_by_any_form_of_its_name(name: str) -> None:
    row = find_gpu(name)
    assert row is not None
    assert row.id == "rtx3090"


@pytest.mark.parametrize("name", [None, "", "NVIDIA", "NVIDIA GeForce RTX 30", "AMD Instinct MI300X"])
def test_an_unknown_gpu_is_none(name: str | None) -> None:
    assert find_gpu(name) is None


def test_drivers_rise_with_their_cuda() -> None:
    drivers = load_drivers()
    branches = [(row.branch, tuple(int(part) for part in row.cuda.split("."))) for row in drivers.branches]
    assert branches == sorted(branches)
    assert [cuda for _, cuda in branches] == sorted(cuda for _, cuda in branches)
    toolkits = {row.cuda: row.driver for row in drivers.toolkits}
    assert (toolkits["12.9"], toolkits["13.0"]) == ("575.51.03", "580.65.06")
    for row in drivers.toolkits:
        branch = int(row.driver.split(".")[0])
        assert any(known.branch == branch and known.cuda == row.cuda for known in drivers.branches), row.cuda


def test_engines_are_newest_first_and_the_bare_tag_turned_cuda_13_at_0_20() -> None:
    versions = [order_release(row.version) for row in load_engines()]
    assert versions == sorted(versions, reverse=True)
    for row in load_engines():
        bare = row.images[0]
        assert bare.image == f"vllm/vllm-openai:v{row.version}"
        assert bare.cuda.startswith("13.") == (order_release(row.version) >= order_release("0.20.0"))


def test_no_release_since_0_22_has_a_refused_hole_and_every_older_one_has() -> None:
    for row in load_engines():
        grave = [hole for hole in holes_of("vllm", row.version, load_advisories()) if hole.kind in REFUSED_HOLES]
        assert bool(grave) == (order_release(row.version) < order_release("0.22.0")), row.version
    assert holes_of("vllm", "0.33.0", load_advisories()) == ()


def test_the_pinned_gateway_has_no_known_hole() -> None:
    rows = read_yaml(FOLDER / "services.yaml", tuple[ServiceImage, ...], StackError)
    gateway = next(row for row in rows if row.name == "gateway")
    assert gateway.image.endswith(f":v{gateway.version}")
    assert holes_of("litellm", gateway.version, load_advisories()) == ()


@pytest.mark.parametrize(
    ("program", "version", "hole", "is_open"),
    [
        ("vllm", "0.13.0", "CVE-2026-22778", True),
        ("vllm", "0.21.0", "CVE-2026-48746", True),
        ("litellm", "1.82.8", "PYPI-2026-03-24", True),
        ("litellm", "1.107.0", "PYPI-2026-10-21", True),
        ("litellm", "1.83.10", "CVE-2026-49468", True),
        ("sglang", "0.5.9", "CVE-2026-3059", True),
        ("sglang", "9.9", "CVE-2026-5760", True),
        ("vllm", "0.14.1", "CVE-2026-22778", False),
        ("vllm", "0.8.2", "CVE-2026-22778", False),
        ("vllm", "0.10.0", "CVE-2026-22807", False),
        ("litellm", "1.82.9", "PYPI-2026-03-24", False),
        ("litellm", "1.105.3", "CVE-2026-49468", False),
        ("litellm", "1.106.12", "PYPI-2026-10-21", False),
        ("litellm", "1.108.0", "PYPI-2026-10-21", False),
    ],
)
def test_a_hole_is_found_by_its_range(program: str, version: str, hole: str, is_open: bool) -> None:
    assert (hole in [found.id for found in holes_of(program, version, load_advisories())]) is is_open


def test_releases_order_by_number() -> None:
    names = ["0.8.5", "0.8.5.post1", "0.9.0", "0.9.0.1", "0.10.1", "0.10.1.1", "0.33.0"]
    assert sorted(set(names), key=order_release) == names


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("--swap-space", "0.17.1", True),
        ("--swap-space", "0.18.1", False),
        ("--swap-space", "0.18.0", None),  # between two samples
        ("--kv-cache-memory-bytes", "0.10.2", True),
        ("--kv-cache-memory-bytes", "0.9.2", False),
        ("--host", "0.33.0", True),
        ("--max-model-len", "0.33.0", True),
        ("--max-model-len", "0.34.0", None),
        ("--no-such-flag", "0.33.0", False),
        ("--no-such-flag", "0.99.0", None),
        ("--uds", "0.18.1", None),  # first looked up at 0.19.1, though it may be older
        ("VLLM_USE_V1", "0.11.0", True),
        ("VLLM_USE_V1", "0.33.0", False),
    ],
)
def test_a_flag_is_known_by_release(name: str, version: str, expected: bool | None) -> None:
    assert load_flags().has(name, version) is expected


def test_the_reference_page_names_every_file() -> None:
    page = (FOLDER.parents[2] / "docs" / "reference" / "catalog.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)\.yaml` \|", page, re.MULTILINE) == CATALOG_FILES


def test_scales_that_a_source_tells_are_those_that_the_method_makes() -> None:
    """FP8 in the usual form has blocks, so that a split has to keep them whole; one scale a channel needs a method."""
    fp8 = [point for row in load_llms() for point in row.checkpoints if point.format is WeightFormat.FP8]
    for point in fp8:
        assert ("one scale a" in point.source) <= (point.method is not None), point.hub_id
        assert ("blocks" in point.source) <= (point.method is None), point.hub_id
