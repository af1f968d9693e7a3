"""LiteLLM's configuration as its deployments, aliases, fallbacks and settings, each with its line. Pure.

Keys as LiteLLM 1.108.0 reads them (proxy/proxy_server.py, router.py; docs.litellm.ai/docs/proxy/config_settings, read
2026-11-29).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from msgspec import Struct, field

from stackwright.engines.vllm.importing.tree import Node, Spot
from stackwright.engines.vllm.importing.words import Located

ENVIRONMENT = "os.environ/"
SECTIONS = ("router_settings", "litellm_settings", "general_settings")


class Deployment(Struct, frozen=True, kw_only=True):
    """One entry of `model_list`: what clients ask, LiteLLM's provider and model, and where it is asked.

    `host` and `port` are those of `api_base`, None without one. `key` is the variable that holds the key, None where
    there is none or the key itself stands there. `other`: further parameters.
    """

    name: str
    at: Spot
    provider: str
    model: str
    host: str | None = None
    port: int | None = None
    base: Located | None = None
    key: str | None = None
    key_at: Spot | None = None
    bare_key: bool = False
    other: tuple[Located, ...] = ()


class GatewayFile(Struct, frozen=True, kw_only=True):
    """A configuration of LiteLLM's. `settings`: of the router, of LiteLLM and of the server, by their plain keys."""

    deployments: tuple[Deployment, ...]
    aliases: Mapping[str, Located] = field(default_factory=dict)
    fallbacks: tuple[tuple[Located, tuple[str, ...]], ...] = ()
    settings: Mapping[str, Node] = field(default_factory=dict)
    unread: tuple[Located, ...] = ()


def is_gateway_file(tree: Node) -> bool:
    """Return whether a file configures LiteLLM."""
    return any(key in tree.fields for key in ("model_list", *SECTIONS))


def read_gateway_file(tree: Node, values: Mapping[str, str]) -> GatewayFile:
    """Read a configuration; what has another form than LiteLLM takes is in `unread`.

    `values` are those that `os.environ/NAME` has in names and addresses; keys are never looked up.
    """
    settings = {key: node for section in SECTIONS for key, node in _fields(tree, section)}
    listed = tree.get("model_list")
    entries = listed.items if listed is not None else ()
    made = [(entry, _deployment(entry, values)) for entry in entries]
    aliases = settings.pop("model_group_alias", None)
    chains = [node for key in ("fallbacks", "default_fallbacks") if (node := settings.pop(key, None)) is not None]
    unread = [
        Located(text="model_list entry without model_name or model", at=entry.at)
        for entry, made_of in made
        if not made_of
    ]
    unread += [
        Located(text=key, at=node.at) for key, node in tree.fields.items() if key not in ("model_list", *SECTIONS)
    ]
    return GatewayFile(
        deployments=tuple(deployment for _, deployment in made if deployment is not None),
        aliases={name: Located(text=to, at=node.at) for name, node in _pairs(aliases) if (to := _alias(node))},
        fallbacks=tuple(chain for node in chains for chain in _chains(node)),
        settings=settings,
        unread=tuple(unread),
    )


def _fields(tree: Node, section: str) -> Iterator[tuple[str, Node]]:
    found = tree.get(section)
    yield from found.fields.items() if found is not None else ()


def _pairs(node: Node | None) -> Iterator[tuple[str, Node]]:
    yield from node.fields.items() if node is not None else ()


def _alias(node: Node) -> str | None:
    told = node if node.text else node.get("model")
    return told.text if told is not None else None


def _chains(node: Node) -> Iterator[tuple[Located, tuple[str, ...]]]:
    for item in node.items or (node,):
        for name, to in item.fields.items():
            yield Located(text=name, at=to.at), tuple(each.text for each in to.items or (to,) if each.text)


def _deployment(entry: Node, values: Mapping[str, str]) -> Deployment | None:
    name, given = entry.get("model_name"), entry.get("litellm_params")
    model = given.get("model") if given is not None else None
    if name is None or not name.text or given is None or model is None or not model.text:
        return None
    provider, slash, rest = _resolved(model.text, values).partition("/")
    base = given.get("api_base") or given.get("base_url")
    address = _resolved(base.text, values) if base is not None and base.text else None
    host, port = _host_of(address)
    key = given.get("api_key")
    told = key.text or "" if key is not None else ""
    taken = ("model", "api_base", "base_url", "api_key")
    return Deployment(
        name=name.text,
        at=name.at,
        provider=provider if slash else "openai",
        model=rest if slash else provider,
        host=host,
        port=port,
        base=Located(text=address, at=base.at) if base is not None and address else None,
        key=told.removeprefix(ENVIRONMENT) if told.startswith(ENVIRONMENT) else None,
        key_at=key.at if key is not None else None,
        bare_key=bool(told) and not told.startswith(ENVIRONMENT),
        other=tuple(Located(text=other, at=node.at) for other, node in given.fields.items() if other not in taken),
    )


def _resolved(text: str, values: Mapping[str, str]) -> str:
    return values.get(text.removeprefix(ENVIRONMENT), text) if text.startswith(ENVIRONMENT) else text


def _host_of(address: str | None) -> tuple[str | None, int | None]:
    if address is None:
        return None, None
    try:
        parts = urlsplit(address)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None
