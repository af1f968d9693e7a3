"""Which of the engine's parsers takes a model's tool calls and thoughts apart. Pure.

Wrong is worse than none: the engine does not start with a name that its release has not, and with another model's
parser it hands the calls out as text, or the answer as a thought. So only what the catalog knows of this very model is
emitted.
"""

from __future__ import annotations

from stackwright.domain.catalog import Catalog, ParserTable
from stackwright.domain.plan import Setting
from stackwright.engines.protocol import EngineTask
from stackwright.engines.vllm.settings import NO_PARSER
from stackwright.errors import NoPlanError

_SOURCE = "generator/stackwright/catalog/llms.yaml; vLLM docs, tool calling and reasoning outputs"
_WHAT = {"VLLM_TOOL_CALL_PARSER": "tool call", "VLLM_REASONING_PARSER": "reasoning"}
_KIND = {"VLLM_TOOL_CALL_PARSER": "tool_call", "VLLM_REASONING_PARSER": "reasoning"}
PARSER_KEYS = frozenset(_WHAT)


def parser_settings(task: EngineTask, catalog: Catalog, version: str) -> dict[str, Setting]:
    """Return the parsers for a model that writes; `none` with the reason where no right one is known.

    Raises:
        NoPlanError: a pinned parser is none of the release's.
    """
    if not task.role.generates:
        return {}
    facts = task.facts
    known = {"VLLM_TOOL_CALL_PARSER": facts.tool_call_parser, "VLLM_REASONING_PARSER": facts.reasoning_parser}
    return {key: _setting(task, catalog, version, key, name) for key, name in known.items()}


def problem_with_parser(table: ParserTable, key: str, name: str, version: str) -> str | None:
    """Return what is allowed for a key of `PARSER_KEYS` if a release has no such parser.

    None if it has, or nobody knows.
    """
    names = table.names(_KIND[key], version)
    return f"with vLLM {version}: {', '.join((NO_PARSER, *names))}" if names and name not in names else None


def _setting(task: EngineTask, catalog: Catalog, version: str, key: str, name: str | None) -> Setting:
    pinned = task.pins.get(key, NO_PARSER)
    if pinned != NO_PARSER and (problem := problem_with_parser(catalog.parsers(), key, pinned, version)):
        raise NoPlanError(
            f"{key}: found `{pinned}`, allowed {problem}",
            hint="pin one of these, or request another release with --engine",
        )
    if name is None:
        why = f"no {_WHAT[key]} parser is known for this model; set one with `--set {key}=…`"
        return Setting(value=NO_PARSER, reason=why, source=_SOURCE)
    if not catalog.parsers().has(_KIND[key], name, version):
        why = f"vLLM {version} is not known to have `{name}`, this model's {_WHAT[key]} parser"
        return Setting(value=NO_PARSER, reason=why, source="generator/stackwright/catalog/parsers.yaml")
    return Setting(value=name, reason=f"this model's {_WHAT[key]} parser", source=_SOURCE)
