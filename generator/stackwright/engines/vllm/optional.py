"""The settings that vLLM gets only where a person pinned them, and the interval of streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from stackwright.domain.catalog import Catalog
from stackwright.domain.forecast import EngineSettings
from stackwright.domain.objective import Objective
from stackwright.domain.plan import Setting
from stackwright.domain.setting_spec import SettingSpec
from stackwright.domain.shape import Shape
from stackwright.engines.protocol import EngineTask
from stackwright.engines.vllm.memory.releases import Release
from stackwright.engines.vllm.memory.runner import second_runner
from stackwright.engines.vllm.parsers import PARSER_KEYS
from stackwright.engines.vllm.settings import ATTACHED_SETTINGS, NO_PARSER, OPTIONAL_SETTINGS, STREAM_INTERVAL
from stackwright.errors import NoPlanError

# Judgement, 2026-11-29: most of the traffic is saved, and a step of text is still shorter than a line.
TOKENS_OF_AN_EVENT = 8
# The first token comes at once, the rest at the end (0.33.0 v1/engine/output_processor.py, make_request_output).
_SOURCE = "docs/decisions/0015-objectives.md; vLLM 0.33.0 config/scheduler.py"
# Reports, read 2026-11-29: an event of several tokens loses tool calls, their arguments, or the end of the reasoning.
# Drafters that read what the target's layers compute (0.29.0 v1/worker/gpu/model_runner.py, __init__).
_DRAFTS_FROM_STATES = ("eagle3", "dflash", "dspark", "extract_hidden_states")
_LOSSES = "github.com/vllm-project/vllm/issues/31501, /41691, /48020, /55082"


def optional_settings(
    task: EngineTask, parsers: Mapping[str, Setting], catalog: Catalog, release: str
) -> dict[str, Setting]:
    """Return the pinned settings of those that a plan leaves to the engine, and the interval of streams.

    Raises:
        NoPlanError: the release does not have the flag of a pinned one.
    """
    # With an interval a pooling model fails at its first request (0.33.0 output_processor.py: it has no detokenizer).
    streams = (STREAM_INTERVAL,) if task.role.generates else ()
    pinned = {
        spec.key: _pinned(task, spec, catalog, release)
        for spec in (*OPTIONAL_SETTINGS, *ATTACHED_SETTINGS, *streams)
        if spec.key in task.pins
    }
    return {**_stream_interval(task, parsers, catalog, release), **pinned}


def _pinned(task: EngineTask, spec: SettingSpec, catalog: Catalog, release: str) -> Setting:
    if spec.flag and catalog.flags().has(spec.flag, release) is False:
        raise NoPlanError(
            f"{spec.key} is pinned, but vLLM {release} does not have {spec.flag}",
            hint="remove the pin, or request another release with --engine",
        )
    return Setting(value=task.pins[spec.key], reason="pinned by the user", source="--set")


def check_drafter(settings: EngineSettings, shape: Shape, release: str) -> None:
    """Refuse a drafter that the release cannot run beside pipeline stages. Raises NoPlanError."""
    method = settings.speculative_method
    if settings.pp == 1 or method not in _DRAFTS_FROM_STATES:
        return
    judged = Release(release)
    if second_runner(shape, judged) and not judged.hands_states_on:
        raise NoPlanError(
            f"speculative decoding is set to {method}, which vLLM {release} refuses with {settings.pp} pipeline stages",
            hint="leave it out, split by tensor parallelism alone, or request vLLM 0.30.0 or newer with --engine",
        )


def _stream_interval(
    task: EngineTask, parsers: Mapping[str, Setting], catalog: Catalog, release: str
) -> dict[str, Setting]:
    """Return the tokens of an event where throughput was asked for; nothing else, and on a release without the flag."""
    asked = task.objective is Objective.THROUGHPUT and task.role.generates
    if not asked or not catalog.flags().has(STREAM_INTERVAL.flag or "", release):
        return {}
    if any(task.pins.get(key, parsers[key].value) != NO_PARSER for key in PARSER_KEYS):
        reason = (
            "one event for each token: with more, vLLM's tool call and reasoning parsers can lose parts of a stream"
        )
        return {STREAM_INTERVAL.key: Setting(value="1", reason=reason, source=_LOSSES)}
    reason = (
        f"for throughput, a judgement: one event for {TOKENS_OF_AN_EVENT} tokens, "
        f"1/{TOKENS_OF_AN_EVENT} of the event traffic; text comes in steps of {TOKENS_OF_AN_EVENT} tokens"
    )
    return {STREAM_INTERVAL.key: Setting(value=str(TOKENS_OF_AN_EVENT), reason=reason, source=_SOURCE)}
