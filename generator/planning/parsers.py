"""Which of the engine's parsers takes a model's tool calls and thoughts apart. Pure.

Wrong is worse than none: the engine does not start with a name that its release has not, and with another model's parser it
hands the calls out as text, or the answer as a thought. So only what the catalog knows of this very model is emitted.
"""

from __future__ import annotations

from generator.domain.catalog import Catalog
from generator.domain.plan import Setting
from generator.errors import NoPlanError
from generator.planning.request import Request
from generator.settings import NO_PARSER

_SOURCE = "generator/catalog/llms.yaml; vLLM docs, tool calling and reasoning outputs"
_WHAT = {"VLLM_TOOL_CALL_PARSER": "tool calls", "VLLM_REASONING_PARSER": "thoughts"}


def parser_settings(request: Request, catalog: Catalog, version: str) -> dict[str, Setting]:
    """Return the parsers for a model that writes; `none` with the reason where no right one is known.

    Raises:
        NoPlanError: a pinned parser is none of the release's.
    """
    if not request.role.generates:
        return {}
    facts = request.facts
    known = {"VLLM_TOOL_CALL_PARSER": facts.tool_call_parser, "VLLM_REASONING_PARSER": facts.reasoning_parser}
    return {key: _setting(request, catalog, version, key, name) for key, name in known.items()}


def _setting(request: Request, catalog: Catalog, version: str, key: str, name: str | None) -> Setting:
    pinned = request.pins.get(key, NO_PARSER)
    if pinned != NO_PARSER:
        _check_pin(catalog, version, key, pinned)
    if name is None:
        why = f"no parser of {_WHAT[key]} is known to be right for this model: `--set {key}=…` names one"
        return Setting(value=NO_PARSER, reason=why, source=_SOURCE)
    if not catalog.parsers.has(key, name, version):
        why = f"vLLM {version} is not known to have `{name}`, this model's parser of {_WHAT[key]}"
        return Setting(value=NO_PARSER, reason=why, source="generator/catalog/parsers.yaml")
    return Setting(value=name, reason=f"how this model writes its {_WHAT[key]}", source=_SOURCE)


def _check_pin(catalog: Catalog, version: str, key: str, name: str) -> None:
    names = catalog.parsers.names(key, version)
    if names and name not in names:
        raise NoPlanError(
            f"{key}: found `{name}`, allowed with vLLM {version}: {', '.join((NO_PARSER, *names))}",
            hint="pin one of these, or another release with --engine",
        )
