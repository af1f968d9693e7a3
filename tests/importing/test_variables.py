"""Variables as Compose replaces them (its specification, 12-interpolation.md)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stackwright.engines.vllm.importing.variables import parse_env_file, replace_variables
from stackwright.errors import UsageError

from tests.importing.conftest import Importer

VALUES = {"A": "one", "B": "two words", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("$A", "one"),
        ("${A}-${B}", "one-two words"),
        ("$$A $${A}", "$A ${A}"),
        ("$A.$A", "one.one"),
        ("${NONE:-x}", "x"),
        ("${NONE-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${A:-x}", "one"),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE+x}", ""),
        ("${A:?no}", "one"),
        ("${EMPTY?no}", ""),
        ("${NONE:-${A}}", "one"),
        ("${NONE:-${NOR:-${A}/b}}", "one/b"),
        ("${NONE:-a:b}", "a:b"),
        ('{"t":${NONE:-1.0}}', '{"t":1.0}'),
        ("5$", "5$"),
        ("$(pwd) $1", "$(pwd) $1"),
    ],
)
def test_every_form(text: str, replaced: str) -> None:
    found = replace_variables(text, VALUES)
    assert (found.text, found.unset, found.required) == (replaced, (), ())


def test_what_has_no_value_is_told() -> None:
    found = replace_variables("$X ${X} ${Y:?say it} ${EMPTY:?say it}", VALUES)
    assert (found.text, found.unset, found.required) == ("   ", ("X",), ("Y", "EMPTY"))


@pytest.mark.parametrize("text", ["${A", "${", "${:-x}", "${A!x}", "${1}", "${" * 30 + "A"])
def test_what_is_no_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        replace_variables(text, VALUES, "f:1")


@given(st.text(alphabet="${}AB:-+?x ", max_size=40))
def test_any_text_is_replaced_or_refused(text: str) -> None:
    try:
        found = replace_variables(text, VALUES, "f:1")
    except UsageError as refusal:
        assert refusal.message.startswith("f:1: ")
    else:
        assert isinstance(found.text, str)


def test_a_file_of_variables() -> None:
    text = "# first\nA=1\n\nexport B=\"two $A\"\nC='$A'\nD=${C:-x}\nnot an assignment\nE\nA=2\n"
    rows = parse_env_file(text, {"E": "from the shell"}, "x.env")
    assert {row.name: row.value for row in rows} == {
        "A": "2",
        "B": "two 1",
        "C": "$A",
        "D": "$A",
        "E": "from the shell",
    }
    assert {row.name: row.line for row in rows} == {"A": 9, "B": 4, "C": 5, "D": 6, "E": 8}


def test_an_included_file_and_an_extended_one_have_a_folder_of_their_own(importer: Importer) -> None:
    sub = importer.folder / "sub"
    sub.mkdir()
    (importer.folder / ".env").write_text("SEQUENCES=4\n", encoding="utf-8")
    (sub / ".env").write_text("SEQUENCES=9\nTAG=v0.33.0\n", encoding="utf-8")
    (sub / "my.env").write_text("HF_HUB_OFFLINE=1\n", encoding="utf-8")
    (sub / "compose.yml").write_text(
        "services:\n  v:\n    image: vllm/vllm-openai:${TAG}\n    env_file: my.env\n    volumes: [./models:/models]\n"
        "    command: --model /models/a --max-num-seqs ${SEQUENCES}\n",
        encoding="utf-8",
    )
    (sub / "base.yml").write_text("services:\n  b:\n    volumes: [./weights:/weights]\n", encoding="utf-8")
    (importer.folder / "compose.yml").write_text(
        "include: [{path: sub/compose.yml}]\nservices:\n  w:\n    extends: {file: sub/base.yml, service: b}\n"
        "    image: vllm/vllm-openai:v0.33.0\n    command: --model /weights/b\n",
        encoding="utf-8",
    )
    ran = importer.run("compose.yml", "--dry-run")
    assert ran.code == 0, ran.err
    assert f"name: {sub}/models/a  # sub/compose.yml:6" in ran.out
    assert f"name: {sub}/weights/b  # compose.yml:6" in ran.out
    assert "image: vllm/vllm-openai:v0.33.0  # sub/compose.yml:3" in ran.out
    assert "HF_HUB_OFFLINE: 1  # sub/my.env:1" in ran.out
    assert "VLLM_MAX_NUM_SEQS: 4  # sub/compose.yml:6" in ran.out
