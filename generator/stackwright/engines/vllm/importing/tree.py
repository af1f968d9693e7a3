"""A YAML file as a tree in which each value knows its file and line. Pure.

Anchors, aliases and merge keys are resolved; tags are kept, since Compose gives two of them a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from stackwright.errors import UsageError
from stackwright.reading import name_character

MOST_CHARACTERS = 2**19
"""Of one file: the longest real one that was seen has some twenty thousand (tests/importing/README.md)."""
MOST_VALUES = 100_000
"""Of one file, with every alias written out: anchors of anchors grow without end."""
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class Spot(Struct, frozen=True, order=True):
    """A line of a file, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        """Write it as compilers do."""
        return f"{self.file}:{self.line}"


class Node(Struct, frozen=True, kw_only=True):
    """One value: a text, None for YAML's null, a list, or a mapping whose keys are texts.

    `at` is the line of its key where it is a list or a mapping below one, else its own. `tag` is what a person wrote,
    such as `!reset`. `lines` are those of a text over several lines, as they stand in the file, with their numbers.
    """

    at: Spot
    value: str | tuple[Node, ...] | Mapping[str, Node] | None = None
    tag: str | None = None
    lines: tuple[tuple[int, str], ...] = ()

    @property
    def text(self) -> str | None:
        """The text, None for anything else."""
        return self.value if isinstance(self.value, str) else None

    @property
    def items(self) -> tuple[Node, ...]:
        """The values of a list; of anything else none."""
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def fields(self) -> Mapping[str, Node]:
        """The values of a mapping by their keys; of anything else none."""
        return self.value if isinstance(self.value, Mapping) else {}

    def get(self, *path: str) -> Node | None:
        """Return what stands below these keys, None where nothing does."""
        found: Node | None = self
        for key in path:
            found = found.fields.get(key) if found is not None else None
        return found

    def walk(self) -> Iterator[Node]:
        """Yield this value and all below it."""
        yield self
        for child in (*self.items, *self.fields.values()):
            yield from child.walk()


def parse_tree(text: str, file: str) -> Node:
    """Parse one YAML document; an empty one is null.

    Raises:
        UsageError: it is no YAML, too long, has a key twice, an anchor within itself, or aliases that grow too large.
    """
    import yaml

    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"{file}: larger than {MOST_CHARACTERS // 1024} KiB, which no setup written by hand is",
            hint="name the Compose file itself",
        )
    text = text.removeprefix("\ufeff")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return Node(at=Spot(file, 1))
        _check_size(root, file)
        return _Reader(file, text).read(root)
    except yaml.YAMLError as failure:
        raise _not_yaml(failure, text, file) from None
    except RecursionError:
        raise UsageError(f"{file}: not valid YAML: nested too deeply", hint="name the Compose file itself") from None


def _not_yaml(failure: Any, text: str, file: str) -> UsageError:
    mark = getattr(failure, "problem_mark", None)
    place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
    problem = getattr(failure, "problem", None) or "not valid YAML"
    if "but found another document" in problem:
        problem = "a second document begins, expected one"
    problem, hint = name_character(problem, text[mark.index : mark.index + 1] if mark is not None else "")
    return UsageError(f"{file}{place}: not valid YAML: {problem}", hint=hint or "correct that line, and import again")


def _check_size(root: Any, file: str) -> None:
    """Refuse a graph that would be too large as a tree, before it becomes one."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in open_nodes:
            raise UsageError(f"{file}:{node.start_mark.line + 1}: an anchor that contains itself", hint="remove it")
        open_nodes.add(id(node))
        children = node.value if isinstance(node.value, list) else []
        flat = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        sizes[id(node)] = total = 1 + sum(size(child) for child in flat)
        open_nodes.discard(id(node))
        if total > MOST_VALUES:
            raise UsageError(
                f"{file}:{node.start_mark.line + 1}: its anchors write out to more than {MOST_VALUES} values",
                hint="name a setup that was written by hand",
            )
        return total

    size(root)


class _Reader:
    """Turns PyYAML's nodes into ours; a node that several aliases share stays one."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines = text.split("\n")
        self._made: dict[int, Node] = {}

    def read(self, node: Any, key: Any = None) -> Node:
        import yaml

        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key)
        place = Spot(self._file, (key or node).start_mark.line + 1)
        if id(node) not in self._made:
            value: Any = (
                self._mapping(node) if isinstance(node, yaml.MappingNode) else tuple(map(self.read, node.value))
            )
            self._made[id(node)] = Node(at=place, value=value, tag=self._own_tag(node))
        made = self._made[id(node)]
        return made if made.at == place else Node(at=place, value=made.value, tag=made.tag)

    def _scalar(self, node: Any, key: Any) -> Node:
        first, last = node.start_mark.line, node.end_mark.line
        block = node.style in ("|", ">")
        lines = tuple((n + 1, self._lines[n]) for n in range(first + block, min(last + 1, len(self._lines))))
        # `KEY: !reset` has an empty text, as null has.
        empty = node.tag == _NULL or (node.tag == "!reset" and not node.value)
        place = (key or node).start_mark.line + 1 if last == first or block else first + 1
        return Node(
            at=Spot(self._file, place),
            value=None if empty else node.value,
            tag=self._own_tag(node),
            lines=lines if last > first else (),
        )

    def _own_tag(self, node: Any) -> str | None:
        return node.tag if node.tag in ("!reset", "!override") else None

    def _mapping(self, node: Any) -> dict[str, Node]:
        """Read a mapping; its own keys beat those that `<<` brings, and of those the first beat the later."""
        import yaml

        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            spot = f"{self._file}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"{spot}: a key that is no text", hint="put a value in front of it")
            if key.tag == _MERGE:
                parts = [value] if isinstance(value, yaml.MappingNode) else value.value
                for part in parts:
                    if not isinstance(part, yaml.MappingNode):
                        raise UsageError(f"{spot}: `<<` takes a mapping", hint="write `<<: *NAME` of an anchor")
                    merged = {**self._mapping(part), **merged}
            elif key.value in own:
                raise UsageError(f"{spot}: the key `{key.value[:60]}` stands twice", hint="remove one of them")
            else:
                own[key.value] = self.read(value, key)
        return {**merged, **own}
