"""What comes from outside stays a value: no name, path or text may become a key, a comment's end, a command or a
file.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.cloud import CloudModel
from stackwright.domain.host import Host
from stackwright.domain.plan import Fallback
from stackwright.domain.setting_spec import problem_with
from stackwright.project.folder import read_env_file
from stackwright.rendering import RenderedFile, render_plan
from stackwright.rendering.numbered import flat_settings
from stackwright.settings import declared_settings

from tests.planning_requests import HOSTS, plan_for, recorded, with_replicas, with_setting

# What a service of an override may say; anything else was put there by a value.
SERVICE_KEYS = {"extends", "command", "environment", "volumes", "deploy", "depends_on"}
# Texts that mean something to one of the readers: YAML, dotenv, Compose, Jinja, a shell.
ATTACKS = (
    "x\nVLLM_IMAGE=evil",
    "x\r\nprivileged: true",
    'x"\n    privileged: true\n#',
    "x' \nLITELLM_IMAGE='evil",
    "${HOME}",
    "$(touch /tmp/evil)",
    "`touch /tmp/evil`",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "x # y",
    "- x: y",
    "&a *a !!python/object/apply:os.system [id]",
    "x\u2028VLLM_IMAGE=evil",
    "x\x85VLLM_IMAGE=evil",
    "../../../etc/passwd",
    "\x1b]0;evil\x07",
    "--enable-prompt-tokens-details",
)


def hostile_texts() -> st.SearchStrategy[str]:
    """The attacks alone and amid any other text."""
    any_text = st.text(st.characters(codec="utf-8"), max_size=12)
    return st.builds(
        lambda before, attack, after: before + attack + after, any_text, st.sampled_from(ATTACKS), any_text
    )


def with_names(host: Host, text: str) -> Host:
    """Return the host with `text` wherever a name is free, worse than any snapshot that can be read."""
    return replace(host, cpu=replace(host.cpu, model=text), gpus=tuple(replace(gpu, name=text) for gpu in host.gpus))


def keys_of(file: RenderedFile) -> object:
    """Return the shape of a YAML file: its keys without the values."""
    return _shape(yaml.safe_load(file.text))


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    return [_shape(inner) for inner in value] if isinstance(value, list) else None


@given(hostile_texts())
def test_no_name_of_a_host_changes_what_the_files_say(text: str) -> None:
    """GPU and processor names come from drivers and from snapshots; they stand in comments and in plan.json alone."""
    honest = plan_for(recorded("cpu-small"))
    plan = replace(honest, host=with_names(honest.host, text))
    for clean, file in zip(render_plan(honest), render_plan(plan), strict=True):
        assert file.path == clean.path
        if file.path.suffix == ".yaml":
            assert yaml.safe_load(file.text) == yaml.safe_load(clean.text)
        elif file.path.suffix == ".json":
            assert json.loads(file.text)["host"]["cpu"]["model"] == text
        else:
            assert set_lines(file.text) == set_lines(clean.text)


def set_lines(text: str) -> list[str]:
    """Return the lines of an env file that set something, however its readers break lines."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@given(hostile_texts())
def test_no_name_of_a_model_becomes_more_than_a_value(text: str) -> None:
    """The name goes to the gateway's file, to the environment file and to the engine's argument list."""
    honest = plan_for(recorded("2x-rtx3090-nvlink"))
    renamed = tuple(replace(replica, model=text) for replica in honest.replicas)
    plan = replace(honest, models=(replace(honest.models[0], name=text, replicas=renamed),))
    clean, file = (
        next(each for each in render_plan(one) if each.path.name == "gateway.yaml") for one in (honest, plan)
    )
    assert keys_of(file) == keys_of(clean)
    (entry,) = yaml.safe_load(file.text)["model_list"]
    assert entry["model_name"] == text
    assert entry["litellm_params"]["model"] == f"hosted_vllm/{text}"
    assert entry["litellm_params"]["api_key"] == "os.environ/ENGINE_KEY"


@given(hostile_texts())
def test_no_name_of_a_cloud_becomes_more_than_a_value(text: str) -> None:
    """Nor does an address."""
    plan = plan_for(recorded("cpu-small"))
    cloud = CloudModel(name=text, model="openai/big", key="mine", address=text)
    chain = Fallback(model="smoke", to=(text,), longer=())
    files = render_plan(replace(plan, gateway=replace(plan.gateway, cloud=(cloud,), fallbacks=(chain,))))
    gateway = yaml.safe_load(next(file.text for file in files if file.path.name == "gateway.yaml"))
    assert gateway["model_list"][-1]["model_name"] == gateway["model_list"][-1]["litellm_params"]["api_base"] == text
    assert gateway["router_settings"]["fallbacks"] == [{"smoke": [text]}]


@given(hostile_texts())
def test_no_device_or_argument_adds_to_a_service(text: str) -> None:
    """Device names come from the snapshot, arguments from pins; the override says each of them as one word."""
    honest = plan_for(recorded("2x-rtx3090-nvlink"))
    first = honest.replicas[0]
    odd = replace(
        first, gpu_uuids=(text, first.gpu_uuids[1]), args=(*first.args, text), env=(*first.env, ("NCCL_X", text))
    )
    plan = with_replicas(honest, odd)
    file = next(each for each in render_plan(plan) if each.path.name == "override.yaml")
    services = yaml.safe_load(file.text)["services"]
    assert set(services) == {"engine", "gateway"}
    assert set(services["engine"]) <= SERVICE_KEYS
    assert services["engine"]["command"][-1] == text.replace("$", "$$")
    assert services["engine"]["environment"]["NCCL_X"] == text.replace("$", "$$")
    (device,) = services["engine"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"][0] == text


@given(hostile_texts(), st.sampled_from(sorted(declared_settings().by_key)))
def test_a_value_is_refused_or_read_back_as_it_was(text: str, key: str) -> None:
    """Where a value passes the check that every pin, wish and folder goes through, both readers of the file agree on
    it.
    """
    if problem_with(declared_settings().by_key[key], text) is not None:
        return
    plan = plan_for(recorded("cpu-small"))
    setting = replace(flat_settings(plan)["VLLM_MODEL"], value=text)
    plan = with_setting(plan, key, setting)
    env = next(each for each in render_plan(plan) if each.path.name == ".env.prod")
    assert _read(env)[key] == text
    assert set(_read(env)) == set(flat_settings(plan))


def _read(file: RenderedFile) -> dict[str, str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "env"
        path.write_text(file.text, encoding="utf-8")
        return read_env_file(path)


@pytest.mark.parametrize("name", ATTACKS)
def test_rendered_files_have_fixed_paths(name: str) -> None:
    """No text chooses where a file goes: paths come from the environment's name, which is one of three."""
    plan = plan_for(recorded("cpu-small"))
    renamed = tuple(replace(replica, model=name) for replica in plan.replicas)
    models = (replace(plan.models[0], name=name, replicas=renamed),)
    odd = replace(plan, host=with_names(plan.host, name), models=models)
    assert [each.path for each in render_plan(odd)] == [each.path for each in render_plan(plan)]
    assert all(".." not in each.path.parts and not each.path.is_absolute() for each in render_plan(odd))


@pytest.mark.subprocess
@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.isprintable()])
def test_a_model_s_folder_reaches_the_engine_as_one_word(attack: str, tmp_path: Path) -> None:
    """By way of the real start script: a stand-in for Python prints its arguments."""
    checkout = HOSTS.parent.parent
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "engine_key").write_text("k")
    shown = tmp_path / "python"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", checkout / "compose/engine/start.sh", "--model", attack],
        env={"PATH": "/usr/bin:/bin", "SECRETS_DIRECTORY": str(secrets), "PYTHON": str(shown)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == attack
