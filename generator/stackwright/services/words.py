"""The words of a service: what they refer to, and their text once a renderer has named that. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping

from stackwright.domain.service import Document, HostOf, Joined, Node, Part, PortOf, Word


def word_text(word: Word, name: Callable[[Part], str]) -> str:
    """Return a word's text, each of its parts as `name` has it."""
    match word:
        case Joined(parts=parts):
            return "".join(name(part) for part in parts)
        case Document(fields=fields):
            return json.dumps(_node_value(fields, name), ensure_ascii=False)
        case _:
            return name(word)


def _node_value(node: Node, name: Callable[[Part], str]) -> object:
    if isinstance(node, Mapping):
        return {key: _node_value(inner, name) for key, inner in node.items()}
    if isinstance(node, tuple):
        return [_node_value(inner, name) for inner in node]
    return node if isinstance(node, int) else word_text(node, name)


def asked_services(word: Node) -> Iterator[str]:
    """Yield the services whose addresses a word holds."""
    inner: Iterable[Node] = ()
    match word:
        case HostOf(service=service) | PortOf(service=service):
            yield service
        case Joined(parts=parts):
            inner = parts
        case Document(fields=fields):
            inner = fields.values()
        case Mapping():
            inner = word.values()
        case tuple():
            inner = word
    for part in inner:
        yield from asked_services(part)
