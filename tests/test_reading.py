"""Reading YAML strictly: a value, or one sentence that names the place; never any other failure."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from stackwright.domain.host import Host
from stackwright.domain.plan import Plan
from stackwright.domain.wishes import Wishes
from stackwright.errors import HostError, UsageError
from stackwright.reading import MOST_BYTES, convert, load_yaml, read_yaml, to_plain


class Colour(StrEnum):
    """A closed set."""

    RED = "red"


class Leaf(Struct, frozen=True, kw_only=True):
    """What lies inside."""

    size: int
    colour: Colour | None = None


class Tree(Struct, frozen=True, kw_only=True):
    """What is read."""

    name: str
    leaves: tuple[Leaf, ...]
    one: Leaf | None
    notes: dict[str, str]


PLAIN = {
    "name": "oak",
    "leaves": [{"size": 1}, {"size": 2, "colour": "red"}],
    "one": None,
    "notes": {"a": "b"},
}

# Everything that PyYAML's safe loader can make, keys included.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**70)
    | st.floats()
    | st.text()
    | st.binary(max_size=20)
    | st.dates()
    | st.datetimes()
)
KEYS = st.sampled_from(["name", "leaves", "one", "notes", "size", "colour", "schema", "gateway", "host"]) | SCALARS
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.sets(SCALARS, max_size=3)
        | st.lists(st.tuples(KEYS, inner), max_size=3)
    ),
    max_leaves=12,
)


def test_plain_values_become_a_dataclass_and_go_back() -> None:
    tree = convert(PLAIN, Tree, where="file", error=UsageError)
    assert tree.leaves == (Leaf(size=1), Leaf(size=2, colour=Colour.RED))
    whole = Tree(name="oak", leaves=(Leaf(size=2, colour=Colour.RED),), one=Leaf(size=3), notes={"a": "b"})
    assert convert(to_plain(whole), Tree, where="file", error=UsageError) == whole


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"nmae": "x"}, "file: nmae: unknown key", "did you mean `name`?"),
        ({"zzz": "x"}, "file: zzz: unknown key", "known keys: name, leaves, one, notes"),
        ({"name": 1}, "file: name: expected text, got a whole number", None),
        ({"leaves": [{"size": 1}, {"sise": 1}]}, "file: leaves[1].sise: unknown key", "did you mean `size`?"),
        ({"leaves": [{"size": True}]}, "file: leaves[0].size: expected a whole number, got true or false", None),
        ({"leaves": [{"size": "1"}]}, "file: leaves[0].size: expected a whole number, got text", None),
        ({"leaves": [{}]}, "file: leaves[0]: `size` is missing", None),
        ({"one": {"sise": 1}}, "file: one.sise: unknown key", "did you mean `size`?"),
        ({"one": {"size": 1, "colour": "blue"}}, "file: one.colour: unknown value 'blue'", "allowed: red"),
        ({"leaves": None}, "file: leaves: expected a list, got nothing", "write an empty one as `[]`"),
        ({"notes": None}, "file: notes: expected a mapping, got nothing", "write an empty one as `{}`"),
        ({"one": 1.5}, "file: one: expected a mapping or nothing, got a number", None),
        (
            {"one": {"size": 1, "colour": "blue" * 50}},
            f"file: one.colour: unknown value '{'blue' * 20}'",
            "allowed: red",
        ),
        ({"x" * 5000: 1}, f"file: {'x' * 80}: unknown key", None),
        ({"notes": {"a": 1}}, "file: notes.a: expected text, got a whole number", None),
        ({"a\nb\x1b": 1}, "file: 'a\\nb\\x1b': unknown key", None),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, object], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as failure:
        convert(PLAIN | change, Tree, where="file", error=UsageError)
    assert failure.value.message == message
    if hint is not None:
        assert failure.value.hint == hint


@settings(deadline=None)
@given(VALUES)
@example({"schema": 2**70})
@example({1: 2})
@example({None: {}})
def test_any_value_becomes_the_kind_or_is_refused(value: object) -> None:
    """Whatever stands in a file; of the four kinds that are read from files."""
    for kind in (Tree, Wishes, Host, Plan):
        try:
            found = convert(value, kind, where="file", error=HostError)
        except HostError as failure:
            assert failure.message.startswith("file")
            assert len(failure.message.splitlines()) == 1
        else:
            assert isinstance(found, kind)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(PLAIN)), VALUES))
def test_any_value_in_the_place_of_one_is_taken_or_refused(change: dict[str, object]) -> None:
    """As above, but deep: everything beside the changed keys is right."""
    try:
        assert isinstance(convert(PLAIN | change, Tree, where="file", error=UsageError), Tree)
    except UsageError as failure:
        assert failure.message.startswith("file: ")


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
@example("? [a]: b\n: c")
@example("!!set {a, b}")
@example("a: &x [*x]")
@example("a: 2024-13-45")
@example("!!timestamp x")
@example("0001-01-01 00:00:00 +14:00")
@example("!!bool maybe")
@example("!!int x")
@example("!!float x")
@example("!!binary x")
@example("!!python/name:os.system")
@example("0x" + "f" * 5000)
@example("9" * 5000)
@example("\ufeffa: 1")
@example("<<: 1")
@example("<<: [1]")
@example("[" * 9000)
@example("%YAML 9.9\n---\na")
@example("a\n---\nb")
@example("1:30:" + "1" * 400 + ".0")
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    """Damaged YAML, wrong tags, absurd nesting: one sentence with the file's name."""
    path = FOLDER / "any.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        read_yaml(path, Wishes, UsageError)
    except UsageError as failure:
        assert failure.message.startswith(str(path))
        assert len(failure.message.splitlines()) == 1


FOLDER = Path()


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the property a folder of its own: Hypothesis gives none to each of its examples."""
    global FOLDER  # noqa: PLW0603  # set once, before the first test of this module
    FOLDER = tmp_path_factory.mktemp("reading")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{path}: cannot be read: No such file or directory"),
        (b"\xff", "{path}: not UTF-8 text (byte 0)"),
        (b"a: 1\nb: [1\n", "{path}:2: did not find expected ',' or ']'"),
        (b"a: 1\na: 2\n", "{path}:2:1: duplicate key 'a'"),
        (b"a:\n\tb: 1\n", "{path}:2:1: a tab instead of spaces"),
        (b"a:\n  b: 1\n\tc: 1\n", "{path}:3:1: a tab instead of spaces"),
        (b"\xef\xbb\xbfa: @b", "{path}:1:4: found '@', which cannot begin a value"),
        (b"a: `b`\n" + b"#" * 20000, "{path}:1:4: found '`', which cannot begin a value"),
        (b"a: !!bool maybe", "{path}: not valid YAML: a value does not match its tag"),
        (b"a: " + b"[" * 20000, "{path}: not valid YAML: nested too deeply"),
    ],
)
def test_a_damaged_file_is_told_with_line_and_column(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HostError) as failure:
        load_yaml(path, HostError)
    assert failure.value.message == message.format(path=path)


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path, HostError)


def test_a_path_that_no_file_can_have_is_told() -> None:
    with pytest.raises(HostError, match="cannot be read: File name too long"):
        load_yaml(Path("x" * 5000), HostError)


def test_a_file_that_would_never_end_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="/dev/zero: cannot be read: not a regular file"):
        load_yaml(Path("/dev/zero"), HostError)
    pipe = tmp_path / "dev.yaml"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match=r"dev.yaml: cannot be read: not a regular file"):
        load_yaml(pipe, UsageError)


def test_a_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dev.yaml"
    with file.open("wb") as hollow:
        hollow.truncate(MOST_BYTES + 1)
    with pytest.raises(UsageError, match="cannot be read: larger than 16 MiB"):
        load_yaml(file, UsageError)


def test_a_pipe_that_the_shell_names_is_read() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(b"a: 1\r\n")
    try:
        assert load_yaml(Path(f"/dev/fd/{reader}"), HostError) == {"a": 1}
    finally:
        os.close(reader)
