"""Rules over the model and its hub, the container engine, releases, the clock, Windows, a database, and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_advisories
from stackwright.domain.finding import Finding
from stackwright.domain.host import Containers, GpuAccess
from stackwright.domain.image_pins import is_moving, release_of
from stackwright.domain.machine import ContainerAnswer, HubAnswer, ModelFiles, Seen, Unseen
from stackwright.rendering.numbered import flat_settings
from stackwright.validation.compose_config import check_refused
from stackwright.validation.containers import check_gpu_access, check_user, check_versions
from stackwright.validation.gpus import used_gpus
from stackwright.validation.images import (
    check_images,
    check_local_images,
    check_traces,
    find_traces,
)
from stackwright.validation.model import check_hub, check_length, check_model
from stackwright.validation.surroundings import (
    check_clock,
    check_connections,
    check_inputs,
    check_wsl,
)

from tests.planning_requests import plan_for, recorded, with_engine

HOST = recorded("2x-rtx3090-nvlink")
PLAN = plan_for(HOST)
ENV = {key: setting.value for key, setting in flat_settings(PLAN).items()}
MODEL = ENV["VLLM_MODEL"]
HUB = HubAnswer(hub="https://hub", status=200, gated=False, ahead_s=1.0)
MALICIOUS = "sha256:1bbcb1443bc962e45f5aad53fe3d2c30600e0379715fb6c664cdd3ac126c339e"
NOT_HERE = ModelFiles(folder=None, complete=False)


def told(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """Return what was found and how bad it is."""
    return [(each.check, each.severity.value, each.found) for each in findings]


@pytest.mark.parametrize(
    ("location", "files", "found"),
    [
        (MODEL, NOT_HERE, []),
        ("/m", ModelFiles(folder="/m", complete=True), []),
        (
            "/m",
            ModelFiles(folder="/m", complete=False, problem="no config.json in /m"),
            [("model-missing", "error", "no config.json in /m")],
        ),
        (
            "/m",
            ModelFiles(folder="/m", complete=False, problem="/m/a.safetensors: cut short"),
            [("model-incomplete", "error", "/m/a.safetensors: cut short")],
        ),
        (
            MODEL,
            ModelFiles(folder="/cache/x", complete=False, problem="/cache/x/a: cut short"),
            [("model-incomplete", "error", "/cache/x/a: cut short")],
        ),
        (
            "/m",
            ModelFiles(folder="/m", complete=True, unreadable="/m/a"),
            [("model-unreadable", "error", "/m/a is not readable for the stack's user")],
        ),
        ("/m", Unseen(why="odd"), [("not-checked", "warning", "the model's files: not checked: odd")]),
    ],
)
def test_the_models_files(location: str, files: Seen[ModelFiles], found: list[tuple[str, str, str]]) -> None:
    assert told(check_model(PLAN, location, files)) == found


@pytest.mark.parametrize(
    ("hub", "asked", "found"),
    [
        (HUB, {}, []),
        (replace(HUB, status=302), {}, []),
        (None, {"offline": True}, ["model-missing"]),
        (None, {"gated": True}, ["model-gated"]),
        (HUB, {"gated": True, "has_token": True}, []),
        (replace(HUB, status=401), {}, ["model-unknown"]),
        (replace(HUB, status=404), {}, ["model-unknown"]),
        (replace(HUB, status=401, gated=True), {}, ["model-gated"]),
        (replace(HUB, status=403), {"has_token": True}, ["model-gated"]),
        (replace(HUB, status=503), {}, ["model-unreachable"]),
        (replace(HUB, ahead_s=-4000.0), {}, ["clock"]),
        (replace(HUB, status=503, ahead_s=4000.0), {}, ["model-unreachable", "clock"]),
        (Unseen(why="https://hub cannot be reached: refused"), {}, ["model-unreachable"]),
    ],
)
def test_the_hub(hub: Seen[HubAnswer] | None, asked: dict[str, bool], found: list[str]) -> None:
    known = {"gated": None, "has_token": False, "offline": False} | asked
    assert [check for check, *_ in told(check_hub(PLAN, MODEL, hub, **known))] == found  # type: ignore[arg-type]


def test_a_clock_is_told_by_its_distance() -> None:
    (finding,) = check_hub(PLAN, MODEL, replace(HUB, ahead_s=4000.0), gated=None, has_token=False, offline=False)
    assert finding.found == "this machine's clock is 4000 s behind https://hub's"


def engine(version: str | None, compose: str | None, name: str = "docker") -> Containers:
    """Return a container engine with a way for GPUs."""
    return Containers(engine=name, version=version, compose=compose, gpu_access=GpuAccess.RUNTIME)


@pytest.mark.parametrize(
    ("containers", "found"),
    [
        (engine("20.10.24+dfsg1", "2.26.1-4"), []),
        (engine("28.2.2", "v2.39.1"), []),
        (engine("20.10.24", "2.17.0"), []),
        (engine("19.03.15", "2.26.1"), ["docker-version"]),
        (engine("28.2.2", "2.16.0"), ["compose-version"]),
        (engine("18.09", "1.29.2"), ["docker-version", "compose-version"]),
        (engine("28.2.2", "dev"), ["not-checked"]),
        (engine(None, None), ["not-checked", "not-checked"]),
        (engine("5.2.1", "2.26.1", "podman"), ["not-checked"]),
    ],
)
def test_versions(containers: Containers, found: list[str]) -> None:
    assert [check for check, *_ in told(check_versions(PLAN, replace(HOST, containers=containers)))] == found


UUIDS = used_gpus(PLAN)
SEES = ContainerAnswer(refusal=None, uuids=UUIDS, has_devices=True, named=True)


@pytest.mark.parametrize(
    ("access", "seen", "found"),
    [
        (GpuAccess.RUNTIME, SEES, []),
        (GpuAccess.CDI, None, []),
        (GpuAccess.CDI, replace(SEES, uuids=(), named=False), []),
        (GpuAccess.NONE, None, ["gpu-access"]),
        (None, SEES, []),
        (GpuAccess.NONE, replace(SEES, refusal="could not select device driver"), ["gpu-container"]),
        (GpuAccess.CDI, replace(SEES, uuids=UUIDS[:1]), ["gpu-container"]),
        (GpuAccess.CDI, replace(SEES, uuids=(), named=False, has_devices=False), ["gpu-container"]),
        (GpuAccess.CDI, replace(SEES, refusal="could not select device driver"), ["gpu-container"]),
        (GpuAccess.CDI, Unseen(why="no answer in 60 seconds"), ["not-checked"]),
    ],
)
def test_gpus_in_containers(access: GpuAccess | None, seen: Seen[ContainerAnswer] | None, found: list[str]) -> None:
    host = replace(HOST, containers=replace(engine("28.2.2", "2.39.1"), gpu_access=access))
    assert [check for check, *_ in told(check_gpu_access(PLAN, host, seen))] == found
    cpu = plan_for(recorded("cpu-small"))
    assert told(check_gpu_access(cpu, host, seen)) == []


@pytest.mark.parametrize(
    ("image", "release", "moves"),
    [
        ("vllm/vllm-openai:v0.33.0", "0.33.0", False),
        ("vllm/vllm-openai:v0.32.0-cu129@sha256:" + "a" * 64, "0.32.0", False),
        ("localhost:5000/vllm/vllm-openai:v0.8.5.post1", "0.8.5.post1", False),
        ("localhost:5000/vllm", None, True),
        ("ghcr.io/berriai/litellm:main-stable", None, True),
        ("ghcr.io/berriai/litellm:main-v1.80.0-stable", "1.80.0", False),
        ("vllm/vllm-openai:latest", None, True),
        ("vllm/vllm-openai@sha256:" + "a" * 64, None, False),
        ("stackwright-test/engine-cpu:cedc20ed0a5e", None, False),
        ("redis:7-alpine", None, False),
    ],
)
def test_a_release_is_read_from_its_tag(image: str, release: str | None, moves: bool) -> None:
    assert (release_of(image), is_moving(image)) == (release, moves)


@pytest.mark.parametrize(
    ("changes", "pulled", "found"),
    [
        ({}, True, []),
        ({"VLLM_IMAGE": "my/own:abc"}, True, []),
        ({"VLLM_IMAGE": "vllm/vllm-openai:v0.17.1"}, True, [("image-holes", "error"), ("image-holes", "warning")]),
        ({"VLLM_IMAGE": "vllm/vllm-openai:v0.29.0"}, True, [("image-holes", "warning")]),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm:v1.83.2"}, True, [("image-holes", "error")]),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm:v1.83.2"}, False, []),
        ({"REDIS_IMAGE": "redis:latest"}, True, [("image-moves", "warning")]),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm:main-stable"}, True, [("image-moves", "error")]),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm-database:main-latest"}, True, [("image-moves", "error")]),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm:main-stable"}, False, []),
        ({"LITELLM_IMAGE": "ghcr.io/berriai/litellm:v1.107.0"}, True, [("image-holes", "error")]),
        ({"LITELLM_IMAGE": f"mirror.example/gateway@{MALICIOUS}"}, True, [("image-malicious", "error")]),
    ],
)
def test_holes_and_moving_names(changes: dict[str, str], pulled: bool, found: list[tuple[str, str]]) -> None:
    findings = told(check_images(PLAN, {**ENV, **changes}, load_advisories(), pulled=pulled))
    assert [(check, bad) for check, bad, _ in findings] == found


def test_a_malicious_image_is_found_under_an_innocent_name() -> None:
    env = {**ENV, "LITELLM_IMAGE": "mirror.example/gateway:ours"}
    for digests, found in (((MALICIOUS,), ["image-malicious"]), (("sha256:" + "a" * 64,), []), ((), [])):
        findings = told(check_local_images(PLAN, env, {env["LITELLM_IMAGE"]: digests}, load_advisories()))
        assert [check for check, *_ in findings] == found


def test_what_a_malicious_release_left_is_found(tmp_path: Path) -> None:
    names = [name for hole in load_advisories() for name in hole.files]
    (tmp_path / "distutils-precedence.pth").touch()
    assert find_traces([tmp_path, tmp_path / "missing"], names) == ()
    (tmp_path / "cook.pth").touch()
    (found,) = told(check_traces(find_traces([tmp_path], names), load_advisories()))
    assert found[:2] == ("malicious-file", "error")
    assert f"{tmp_path}/cook.pth, a file of litellm 1.107.0: PYPI-2026-10-21" in found[2]


def test_a_release_that_was_consented_to_is_a_warning() -> None:
    old = "vllm/vllm-openai:v0.17.1"
    plan = with_engine(PLAN, version="0.17.1", image=old)
    findings = told(check_images(plan, {**ENV, "VLLM_IMAGE": old}, load_advisories(), pulled=True))
    assert {bad for _, bad, _ in findings} == {"warning"}
    assert "CVE-2026-48746" in findings[0][2]


@pytest.mark.parametrize(("newest_s", "found"), [(None, []), (990.0, []), (1050.0, []), (5000.0, ["clock"])])
def test_a_clock_that_was_set_back(newest_s: float | None, found: list[str]) -> None:
    assert [check for check, *_ in told(check_clock(PLAN, 1000.0, newest_s))] == found


def test_windows_is_no_matter_elsewhere() -> None:
    assert told(check_wsl(PLAN, {**ENV, "HF_HOME": "/mnt/c/hf"}, HOST, frozenset())) == []


def test_windows_drives_and_pinning_are_told() -> None:
    host = recorded("wsl2-rtx5080")
    plan = plan_for(host)
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    (drive,) = check_wsl(plan, {**env, "HF_HOME": "/mnt/c/hf"}, host, frozenset())
    assert (drive.check, drive.found) == ("wsl-drive", "HF_HOME=/mnt/c/hf is on a Windows drive")
    older = {name: with_engine(plan, version=name) for name in ("0.23.0", "0.24.0", "0.30.0")}
    found = {name: told(check_wsl(older[name], env, host, frozenset())) for name in older}
    assert {name: [check for check, *_ in each] for name, each in found.items()} == {
        "0.23.0": [],
        "0.24.0": ["wsl-pinning"],
        "0.30.0": [],
    }
    assert told(check_wsl(older["0.24.0"], env, host, frozenset({"VLLM_WSL2_ENABLE_PIN_MEMORY"}))) == []


@pytest.mark.parametrize(
    ("wanted", "longest", "variables", "found"),
    [
        ("40960", 40960, (), []),
        ("40961", 40960, (), ["model-length"]),
        ("auto", 40960, (), []),
        ("99999", None, (), []),
        ("99999", 40960, ("VLLM_ALLOW_LONG_MAX_MODEL_LEN",), []),
    ],
)
def test_a_context_beyond_the_models_own(
    wanted: str, longest: int | None, variables: tuple[str, ...], found: list[str]
) -> None:
    findings = tuple(check_length(PLAN, {**ENV, "VLLM_MAX_MODEL_LEN": wanted}, longest, frozenset(variables)))
    assert [each.check for each in findings] == found
    assert all("--set VLLM_MAX_MODEL_LEN=40960" in each.fix for each in findings)


@pytest.mark.parametrize(("uid", "found"), [("0", ["container-root"]), ("1000", [])])
def test_containers_of_root(uid: str, found: list[str]) -> None:
    assert [check for check, *_ in told(check_user(PLAN, {**ENV, "STACKWRIGHT_UID": uid}, PLAN.host))] == found


@pytest.mark.parametrize(
    ("address", "workers", "found"),
    [
        (None, "8", []),
        ("postgresql://db/litellm", "8", []),
        ("postgresql://db/litellm", "10", ["10 workers × 10 connections = 100"]),
        ("postgresql://db/litellm?connection_limit=5", "16", ["16 workers × 10 connections = 160"]),
    ],
)
def test_the_connection_budget(address: str | None, workers: str, found: list[str]) -> None:
    findings = check_connections(PLAN, {**ENV, "LITELLM_NUM_WORKERS": workers}, {"DATABASE_URL": address})
    assert [each for _, _, each in told(findings)] == found


@pytest.mark.parametrize(
    ("changed", "found"), [((), []), (None, ["inputs-unknown"]), (("the catalog",), ["inputs-changed"])]
)
def test_inputs(changed: tuple[str, ...] | None, found: list[str]) -> None:
    assert [check for check, *_ in told(check_inputs(PLAN, changed))] == found


def test_what_compose_refuses_is_in_its_words() -> None:
    assert told(check_refused(PLAN, "Docker refused: no such file")) == [
        ("compose-refused", "error", "Docker refused: no such file")
    ]
