"""Kernels that an engine compiles at its first start, where it runs without a container."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.catalog.load import load_catalog, load_llms
from stackwright.domain.machine import Unseen
from stackwright.models.read import read_model
from stackwright.planning.planner import make_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.validation.check import Machine, Subject
from stackwright.validation.kernels import COMPILER, check_compiler, find_nvcc

from tests.planning_requests import recorded, request


def subject(root: Path, host: str, model: str, **pins: str) -> Subject:
    """Return prod of a model on a host, as processes."""
    plan = make_plan(request(recorded(host), model=model, pins=pins), load_catalog())
    env = {key: setting.value for key, setting in flat_settings(plan).items()} | {"HF_HOME": str(root / "hf")}
    stack = Stack(root=root, state=root / "state", plan=plan, env=env)
    return Subject(stack=stack, host=recorded(host), catalog=load_catalog(), compose=False, runs=False)


@pytest.mark.parametrize(
    ("host", "model", "cache_format", "compiled"),
    [
        ("1x-rtx3090", "Qwen/Qwen3-4B", "auto", False),
        ("1x-rtx3090", "Qwen/Qwen3-4B", "fp8", True),
        ("2x-rtx4090", "Qwen/Qwen3-4B", "fp8", True),
        ("1x-h200", "Qwen/Qwen3-4B", "fp8", False),
        ("8x-b200-nvswitch", "Qwen/Qwen3-4B", "auto", True),
        ("8x-b200-nvswitch", "deepseek-ai/DeepSeek-V3", "auto", True),
        ("8x-h100-nvswitch", "Qwen/Qwen3-4B", "auto", False),
    ],
)
def test_kernels_without_a_compiler_are_found_before_the_weights_are_loaded(
    tmp_path: Path, host: str, model: str, cache_format: str, *, compiled: bool
) -> None:
    on = subject(tmp_path, host, model, **({} if cache_format == "auto" else {"VLLM_KV_CACHE_DTYPE": cache_format}))
    facts = (read_model(model, load_llms()),)
    findings = tuple(check_compiler(on, facts, ""))
    assert [finding.check for finding in findings] == ["no-nvcc"] * compiled
    assert [("--set VLLM_KV_CACHE_DTYPE=auto" in finding.fix) for finding in findings] == [
        cache_format != "auto"
    ] * compiled
    assert tuple(check_compiler(on, facts, "/usr/local/cuda/bin/nvcc")) == ()
    assert tuple(check_compiler(on, (None,), "")) == ()
    assert COMPILER.when.holds(on)


def test_the_compiler_is_looked_for_where_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "cuda" / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert find_nvcc() == ""
    program = tmp_path / "cuda" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_nvcc() == str(program)
    monkeypatch.delenv("CUDA_HOME")
    assert find_nvcc() == str(program)


def test_the_models_are_read_without_the_hub(tmp_path: Path) -> None:
    on = subject(tmp_path, "1x-rtx3090", "Qwen/Qwen3-4B")
    seen = Machine(on.stack, on.host, ProcessesRuntime(on.stack), compose=False).see(COMPILER.observations[0])
    assert not isinstance(seen, Unseen)
    assert [facts.name for facts in seen] == ["Qwen/Qwen3-4B"]
