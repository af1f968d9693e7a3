"""What an environment wishes for: each key of envs/<env>.yaml read, or refused with its place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stackwright.domain.role import Role
from stackwright.errors import UsageError
from stackwright.project.folder import read_wishes

from tests.planning_requests import HOSTS, paths_of
from tests.test_layers import PACKAGE

WISHES = (
    "schema: 1\nmodel: null\ngpu_memory_utilization: 0.8\nmax_model_len: null\ngateway: {bind: 127.0.0.1, port: 1}\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema: 2\n", "schema 2 is newer than this release reads (1)"),
        ("schema: one\n", "schema: expected a whole number, got text"),
        (WISHES.replace("0.8", "1"), "gpu_memory_utilization: found `1`, allowed: a number from 0.05 to 0.99"),
        (WISHES.replace("0.8", ".inf"), "gpu_memory_utilization: found `inf`, allowed: a number from 0.05 to 0.99"),
        (
            WISHES.replace("len: null", "len: 0"),
            "max_model_len: found `0`, allowed: a whole number from 1 to 2147483647",
        ),
        (WISHES.replace("port: 1", "prot: 1"), "gateway.prot: unknown key"),
        (WISHES.replace("port: 1", "port: -1"), "gateway.port: found `-1`, allowed: a whole number from 1 to 65535"),
        (
            WISHES.replace("127.0.0.1", "'::1'"),
            "gateway.bind: found `::1`, allowed: an IPv4 address of this host, such as 127.0.0.1",
        ),
        (WISHES + "settings: {GPU_COUNT: '1'}\n", "settings: GPU_COUNT is derived from other settings"),
        (WISHES.replace("127.0.0.1", "x" * 5000), f"gateway.bind: found `{'x' * 80}`, allowed: "),
        (WISHES + "settings: {GATEWAY_PORT: 70000}\n", "settings: GATEWAY_PORT: found `70000`, allowed: "),
        (
            WISHES + "settings: {GATEWAY_PORT: -1}\n",
            "settings: GATEWAY_PORT: found `-1`, allowed: a whole number from 1 to 65535",
        ),
        (
            WISHES + "settings: {GATEWAY_PORT: [1]}\n",
            "settings.GATEWAY_PORT: expected a whole number or a number or text, got a list",
        ),
        (WISHES + f"settings: {{GATEWAY_PORT: {hex(10**5000)}}}\n", "settings.GATEWAY_PORT: found a number beyond"),
        ("# nothing yet\n", "empty"),
    ],
)
def test_wrong_wishes_are_named_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "envs" / "dev.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as failure:
        read_wishes(paths_of(tmp_path))
    assert failure.value.message.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "number", ["0x" + "f" * 5000, "-0x" + "f" * 5000, "9" * 5000, "1e400"], ids=lambda text: text[:6]
)
@pytest.mark.parametrize("key", ["schema", "gpu_memory_utilization", "max_model_len", "port"])
def test_an_absurd_number_is_refused_like_any_other(number: str, key: str, tmp_path: Path) -> None:
    lines = {"schema": "schema: 1", "gpu_memory_utilization": "0.8", "max_model_len": "len: null", "port": "port: 1"}
    found = lines[key]
    path = tmp_path / "envs" / "dev.yaml"
    path.parent.mkdir()
    path.write_text(WISHES.replace(found, f"{found.partition(':')[0]}: {number}" if ":" in found else number, 1))
    with pytest.raises(UsageError) as failure:
        read_wishes(paths_of(tmp_path))
    assert len(failure.value.message) < 300


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ("[{name: smoke, gpu_share: 2}]", "models[0].gpu_share: found `2`, allowed: a number from 0.01 to 1"),
        (
            "[{name: a/b, gpu_share: 0.75}, {name: c/d, gpu_share: 0.75}]",
            "models: found a sum of gpu_share of 1.5, allowed: at most 1",
        ),
        ("[{name: smoke, role: poet}]", "models[0].role: unknown value 'poet'"),
        ("[{name: smoke}, {name: ''}]", "models[1].name: found ``, allowed: a non-empty text"),
        ("[{name: smoke, aliases: ['']}]", "models[0].aliases: found ``, allowed: a non-empty text"),
        ("[{name: smoke, aliases: ['gpt-*']}]", "models[0].aliases: found `gpt-*`, allowed: a name without `*`"),
        ("[{name: smoke, exclusive: ''}]", "models[0].exclusive: found ``, allowed: a non-empty text"),
        ("[{name: smoke, pinned: true}]", "models[0].pinned: found true without `exclusive`"),
        ("[{name: smoke, exclusive: a, gpu_share: 0.5}]", "models[0].gpu_share: found 0.5 beside `exclusive`"),
        (
            "[{name: a/b, exclusive: a, pinned: true}, {name: c/d, exclusive: a, pinned: true}]",
            "models: 2 of the exclusive group a are pinned, allowed: one",
        ),
    ],
)
def test_a_wrong_list_of_models_is_named(models: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        read_wishes(paths_of(with_models(tmp_path, models)))
    assert problem in refusal.value.message


def test_a_model_may_be_its_name_alone(tmp_path: Path) -> None:
    models = read_wishes(paths_of(with_models(tmp_path, "[openai/gpt-oss-20b, {name: a/b, aliases: [x]}]"))).models
    assert [(model.name, model.aliases) for model in models] == [("openai/gpt-oss-20b", ()), ("a/b", ("x",))]


def test_shares_that_make_one_are_taken(tmp_path: Path) -> None:
    """In floating point, these make a little more."""
    shares = (0.2, 0.4, 0.3, 0.1)
    assert sum(shares) > 1
    models = ", ".join(f"{{name: a/{share}, gpu_share: {share}}}" for share in shares)
    assert len(read_wishes(paths_of(with_models(tmp_path, f"[{models}]"))).models) == len(shares)


@pytest.mark.parametrize(
    ("models", "position", "hint"),
    [
        ("[{name: a/b, exclusive: chat}]", 0, "give another model the same name, or remove it"),
        (
            "[{name: a/b, exclusive: chat}, {name: c/d, exclusive: chat}, {name: e/f, exclusive: chta, pinned: true}]",
            2,
            "did you mean `chat`?",
        ),
    ],
)
def test_a_group_of_one_takes_turns_with_nobody(models: str, position: int, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        read_wishes(paths_of(with_models(tmp_path, models)))
    assert f"models[{position}].exclusive: found `" in refusal.value.message
    assert refusal.value.message.endswith("which no other model has")
    assert refusal.value.hint == hint


def test_several_models_are_read(tmp_path: Path) -> None:
    models = (
        "[{name: a/b, aliases: [gpt-4o], exclusive: x, pinned: true}, {name: c/d, role: rerank},"
        " {name: e/f, exclusive: x}]"
    )
    wishes = read_wishes(paths_of(with_models(tmp_path, models)))
    assert [(model.exclusive, model.pinned) for model in wishes.models] == [("x", True), (None, False), ("x", False)]
    assert [(model.name, model.aliases, model.role) for model in wishes.models] == [
        ("a/b", ("gpt-4o",), None),
        ("c/d", (), Role.RERANK),
        ("e/f", (), None),
    ]


def with_models(root: Path, models: str) -> Path:
    """Write the wishes of the development environment with these models and return the project folder."""
    text = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    (root / "envs").mkdir()
    (root / "envs" / "dev.yaml").write_text(f"{text}models: {models}\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "image", ["http://user:sk-a1b2c3d4e5@reg/x", "user:pw@reg/x", "reg//x", "re g/x", "a@sha256:1"]
)
def test_an_image_has_no_scheme_and_no_password(image: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"models\[0\]\.image: found .* an image's name"):
        read_wishes(paths_of(with_models(tmp_path, f"[{{name: smoke, image: '{image}'}}]")))


@pytest.mark.parametrize("image", ["vllm/vllm-openai:v0.32.0", "[::1]:5000/a/b_c", f"reg:5000/x:v1@sha256:{'0' * 64}"])
def test_an_image_of_any_registry(image: str, tmp_path: Path) -> None:
    wishes = read_wishes(paths_of(with_models(tmp_path, f"[{{name: smoke, image: '{image}'}}]")))
    assert wishes.models[0].image == image


@pytest.mark.subprocess
def test_a_clone_that_lost_the_wishes_of_one_environment_gets_the_shipped_ones_again(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    unwanted = shutil.ignore_patterns("__pycache__", "generated", ".*")
    for name in ("generator", "compose", "envs"):
        shutil.copytree(PACKAGE.parents[1] / name, clone / name, ignore=unwanted)
    wishes = clone / "envs" / "dev.yaml"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "stackwright", *words, f"--host={HOSTS / 'cpu-small' / 'host.yaml'}"]
        variables = os.environ | {"PYTHONPATH": str(clone / "generator")}
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    wishes.write_text("", encoding="utf-8")
    again = f"configure-gpu --host {HOSTS / 'cpu-small' / 'host.yaml'}"
    hint = f"hint: remove it: `{again}` then copies the default one"
    ended = run("plan")
    assert (ended.returncode, ended.stderr.splitlines()[-2:]) == (2, [f"error: {wishes}: empty", hint])
    wishes.unlink()
    ended = run("plan")
    assert (ended.returncode, wishes.exists()) == (0, False), ended.stderr
    ended = run("configure-gpu", "--env=dev")
    shipped = (PACKAGE.parents[1] / "envs" / "dev.yaml").read_text(encoding="utf-8")
    assert (ended.returncode, wishes.read_text(encoding="utf-8")) == (0, shipped), ended.stderr
