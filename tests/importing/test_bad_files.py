"""Files that are no setup: one sentence with a next step, exit code 2, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.importing.conftest import Importer

ENGINE = "services:\n  v:\n    image: vllm/vllm-openai:v0.33.0\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.yml", "", "empty.yml: empty"),
        ("blank.yml", " \n\n", "blank.yml: empty"),
        ("comment.yml", "# nothing\n", "comment.yml: found neither `services` nor `model_list`"),
        ("list.yml", "- a\n- b\n", "list.yml: found neither `services` nor `model_list`"),
        ("tab.yml", "services:\n  a:\n\timage: x\n", "tab.yml:3:1: not valid YAML: a tab instead of spaces"),
        ("open.yml", "services:\n  a: [1\n  b: c\n", "open.yml:3:4: not valid YAML: expected ',' or ']', but got ':'"),
        ("twice.yml", "services:\n  v: {image: a, image: b}\n", "twice.yml:2: the key `image` stands twice"),
        (
            "two.yml",
            f"{ENGINE}---\nservices: {{}}\n",
            "two.yml:4:1: not valid YAML: a second document begins, expected one",
        ),
        ("deep.yml", "[" * 20_000, "deep.yml: not valid YAML: nested too deeply"),
        ("self.yml", "services: &s\n  a: *s\n", "self.yml:1: an anchor that contains itself"),
        (
            "bomb.yml",
            f"{BOMB}services: {{v: {{command: *g}}}}\n",
            "bomb.yml:5: its anchors write out to more than 100000 values",
        ),
        ("merge.yml", "services:\n  v:\n    <<: 5\n", "merge.yml:3: `<<` takes a mapping"),
        ("key.yml", "services:\n  ? [a]\n  : b\n", "key.yml:2: a key that is no text"),
        ("tags.yml", "services:\n  v: {image: !!python/name:os.system x}\n", "no service starts vLLM; found v"),
        ("none.yml", "services:\n", "no service starts vLLM; found no service"),
        ("other.yml", "services:\n  db: {image: 'postgres:16'}\n", "no service starts vLLM; found db"),
        ("wrong.yml", "services: [a, b]\n", "no service starts vLLM; found no service"),
        (
            "ollama.yml",
            "services:\n  o: {image: ollama/ollama}\n",
            "ollama.yml:2: no vLLM service; found another engine: o (ollama/ollama)",
        ),
        ("config.yaml", "model_list: hello\n", "no service starts vLLM; found no service"),
        ("odd.yaml", "model_list: [5, {model_name: [x]}]\n", "no service starts vLLM; found no service"),
        ("quote.yml", f"{ENGINE}    command: '--model \"x'\n", "quote.yml:4: a quote without its end"),
        ("brace.yml", f"{ENGINE}    command: --model ${{M\n", "brace.yml:4: a `${` without its `}`"),
        ("name.yml", f"{ENGINE}    command: --model ${{}}\n", "name.yml:4: `${…}` without a variable's name"),
        ("model.yml", f"{ENGINE}    command: --port 1\n", "model.yml:2: v: the command names no model"),
        (
            "types.yml",
            f"{ENGINE}    ports: 1\n    environment: 5\n    volumes: {{a: b}}\n    command: {{a: b}}\n",
            "types.yml:2: v: the command names no model",
        ),
        (
            "gguf.yml",
            f"{ENGINE}    command: --model someone/m-GGUF:Q4_K_M\n",
            "gguf.yml:4: model someone/m-GGUF:Q4_K_M: GGUF weights, which vLLM last read in 0.23.0",
        ),
        (
            "inside.yml",
            f"{ENGINE}    command: --model /models/x\n",
            "inside.yml:4: model /models/x: a path within the container that no folder of the host is mounted at",
        ),
        ("self-extends.yml", f"{ENGINE}    extends: v\n", "self-extends.yml:4: `extends` goes in a circle"),
        (
            "extends.yml",
            "services:\n  v:\n    extends: {file: nope.yml, service: x}\n",
            "extends.yml:3: no such file: nope.yml",
        ),
        ("base.yml", "services:\n  v: {extends: nobody}\n", "base.yml:2: no service `nobody` in base.yml"),
        ("include.yml", "include: [gone.yml]\n", "include.yml:1: no such file: gone.yml"),
        ("run.sh", "docker run --gpus all\n", "run.sh:1: `docker run` without an image"),
        ("none.sh", "echo hello\n", "no service starts vLLM; found no service"),
        (
            "profile.yml",
            f"{ENGINE}    profiles: [big]\n",
            "profile.yml:2: each vLLM service is in a profile, so that none starts by itself",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith((".yml", ".yaml", ".sh")) else "",
)
def test_a_file_that_is_no_setup(name: str, text: str, message: str, importer: Importer) -> None:
    (importer.folder / name).write_text(text, encoding="utf-8")
    ran = importer.run(name)
    error, hint = ran.err.splitlines()[-2:]
    assert (ran.code, error, ran.out) == (2, f"error: {message}", "")
    assert hint.startswith("hint: ")
    assert not importer.project.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"services:\n  v: {image: caf\xe9}\n", "not UTF-8 text (byte 26)"),
        (b"\xff\xfes\x00e\x00", "not UTF-8 text (byte 0)"),
        (b"a" * 10_000_000, "cannot be read: larger than 1 MiB"),
        (b"a" * 700_000, "larger than 512 KiB, which no setup written by hand is"),
    ],
)
def test_what_is_no_text_or_too_long(content: bytes, message: str, importer: Importer) -> None:
    (importer.folder / "compose.yml").write_bytes(content)
    ran = importer.run("compose.yml")
    assert (ran.code, ran.err.splitlines()[-2]) == (2, f"error: compose.yml: {message}")


def test_a_folder_names_the_file_in_it(importer: Importer) -> None:
    (importer.folder / "stack").mkdir()
    (importer.folder / "stack" / "compose.yaml").write_text(ENGINE, encoding="utf-8")
    ran = importer.run("stack")
    assert ran.code == 2
    assert ran.err.splitlines()[-1] == "hint: it is a folder: name stack/compose.yaml"


def test_what_is_no_file(importer: Importer) -> None:
    os.mkfifo(importer.folder / "pipe")
    assert "not a regular file" in importer.run("pipe").err
    assert importer.run("gone.yml").err.startswith("error: gone.yml: no such file")
    assert "did you mean `prod`?" in importer.run("prd").err
    assert importer.run("prod", "gone.yml").err.startswith("error: gone.yml: no such file")
    assert "found two environments: staging and prod" in importer.run("staging", "prod").err
    assert "error: qa: no such file or environment\nhint: environments: dev, " in importer.run("qa").err
    assert importer.run("prod").code == 2


def test_line_ends_and_marks_of_other_systems(importer: Importer) -> None:
    text = ENGINE + "    command: --model Qwen/Qwen3-0.6B --max-num-seqs 4\n"
    for name, content in (
        ("crlf.yml", text.replace("\n", "\r\n").encode()),
        ("bom.yml", b"\xef\xbb\xbf" + text.encode()),
    ):
        Path(importer.folder / name).write_bytes(content)
        ran = importer.run(name, "--dry-run")
        assert ran.code == 0
        assert f"VLLM_MAX_NUM_SEQS: 4  # {name}:4" in ran.out
