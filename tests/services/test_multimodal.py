"""The multimodal worker: told which models of the stack it may ask, bounded by the host, reading the gateway's keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.planning.planner import make_plan
from stackwright.services import additions
from stackwright.services.multimodal import FILES, multimodal_services
from stackwright.units import MIB
from stackwright.validation.speech import check_model, find_model

from tests.planning.several import Asked, embedding
from tests.planning.several import plan_of as plan_several
from tests.planning_requests import recorded, request
from tests.runtime.test_programs import stack_of
from tests.services.either_runtime import containers_of, programs_of
from tests.services.test_additions import plan_with

KEY = "MULTIMODAL_SPEECH_MODEL"
CHECKOUT = Path(__file__).resolve().parents[2]


def pinned(**pins: str) -> Plan:
    """Plan for a host with two GPUs, the worker wished for."""
    asked = request(recorded("2x-rtx3090-nvlink"), pins=pins)
    return make_plan(replace(asked, additions=("multimodal",)), load_catalog())


def test_it_lies_in_both_runtimes_beside_the_keys_of_the_gateway() -> None:
    plan = plan_with("cpu-small", "multimodal")
    container, program = containers_of(plan)["multimodal"], programs_of(plan)["multimodal"]

    assert container["entrypoint"] == ["/bin/sh", "/etc/stackwright/multimodal/start.sh"]
    targets = {volume["target"] for volume in container["volumes"]}
    assert {"/etc/stackwright/multimodal/serve.py", "/etc/stackwright/gateway/keys.py"} <= targets
    assert container["environment"]["GATEWAY_KEYS"] == "/run/stackwright/keys"
    assert container["environment"]["MULTIMODAL_FOLDER"] == "/var/lib/stackwright/multimodal"
    assert container["ports"] == [
        {"target": 8020, "published": "${MULTIMODAL_PORT:?}", "host_ip": "${SERVICES_BIND:?}"}
    ]
    assert program.script is not None
    assert program.script.parts[-3:] == ("compose", "multimodal", "start.sh")
    assert program.arguments == ("127.0.0.1", "8021")


def test_every_file_of_the_program_is_mounted() -> None:
    there = {f"multimodal/{path.name}" for path in (CHECKOUT / "compose" / "multimodal").iterdir() if path.is_file()}
    assert {file.source for file in FILES} == there | {"gateway/keys.py", "gateway/trust.py"}


@pytest.mark.parametrize(
    ("host", "workers"),
    [("cpu-small", "1"), ("1x-rtx3090", "2"), ("2x-rtx3090-nvlink", "4"), ("8x-h100-nvswitch", "4")],
)
def test_workers_are_bounded_by_mode_and_host(host: str, workers: str) -> None:
    plan = plan_with(host, "multimodal")

    assert plan.settings["MULTIMODAL_WORKER_PROCESSES"].value == workers
    assert plan.workers.multimodal == int(workers)


def test_the_memory_of_the_plan_follows_the_settings() -> None:
    memory = additions()["multimodal"].memory_bytes
    values = {name: setting.value for name, setting in plan_with("1x-rtx3090", "multimodal").settings.items()}

    assert memory(values) == 64 * MIB + 2 * (32 + 768) * MIB
    assert memory({**values, "MULTIMODAL_SPEECH_MODEL": "/models/whisper"}) == memory(values) + 2048 * MIB


def test_it_is_told_which_models_look_and_embed() -> None:
    alone = multimodal_services(plan_with("cpu-small", "multimodal"))[0].environment
    host = recorded("2x-rtx3090-nvlink")
    plan = plan_several(host, Asked(name="Qwen/Qwen3-VL-8B-Instruct", role=Role.VISION), embedding())
    settings = {**plan.settings, **plan_with("cpu-small", "multimodal").settings}
    several = multimodal_services(replace(plan, settings=settings))[0].environment

    assert (alone["VISION_MODEL"], alone["EMBEDDING_MODEL"]) == ("", "")
    assert (several["VISION_MODEL"], several["EMBEDDING_MODEL"]) == ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-0.6B")


def test_an_embedding_model_that_sees_is_told_as_one() -> None:
    host, settings = recorded("2x-rtx3090-nvlink"), plan_with("cpu-small", "multimodal").settings
    told = {}
    for name in ("Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen3-0.6B"):
        plan = plan_several(host, Asked(name="Qwen/Qwen3-4B"), embedding(name))
        plan = replace(plan, settings={**plan.settings, **settings})
        (embeds,) = [model for model in plan.models if model.role is Role.EMBEDDING]
        told[embeds.sees] = multimodal_services(plan)[0].environment["EMBEDDING_SEES"]

    assert told == {True: "yes", False: ""}


def test_a_speech_model_is_a_folder_or_lies_in_the_cache_of_models() -> None:
    pins: tuple[dict[str, str], ...] = ({}, {KEY: "/models/whisper"}, {KEY: "small"})
    off, folder, name = (containers_of(pinned(**each))["multimodal"] for each in pins)

    assert KEY not in off["environment"]
    assert {"type": "bind", "source": "/models/whisper", "target": "/models/whisper", "read_only": True} in folder[
        "volumes"
    ]
    assert name["environment"]["HF_HOME"] == "${HF_HOME:?}"
    assert name["environment"]["HF_HUB_OFFLINE"] == "1"
    assert {"type": "bind", "source": "${HF_HOME:?}", "target": "${HF_HOME:?}", "read_only": True} in name["volumes"]


def test_a_speech_model_that_is_not_there_is_found(tmp_path: Path) -> None:
    weights = tmp_path / "hub/models--Systran--faster-whisper-small/snapshots/0a/model.bin"
    for name, where in (("small", f"HF_HOME for {'small'}"), (str(tmp_path / "mine"), str(tmp_path / "mine"))):
        stack = stack_of(pinned(**{KEY: name}))
        stack = replace(stack, env={**stack.env, "HF_HOME": str(tmp_path)})
        (found,) = check_model(stack.plan, name, find_model(stack))
        assert found.found == f"{KEY}={name}: no model.bin in {where}"
        assert found.fix == f"bring it, or go without: `configure-gpu prod --set {KEY}=off`"

    weights.parent.mkdir(parents=True)
    weights.touch()
    stack = stack_of(pinned(**{KEY: "small"}))
    assert find_model(replace(stack, env={**stack.env, "HF_HOME": str(tmp_path)})) == weights.parent
    assert find_model(replace(stack, env={**stack.env, KEY: str(weights.parent)})) == weights.parent
