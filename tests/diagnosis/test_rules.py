"""Known failures against real logs (logs/README.md): each is named first, and a healthy log names none."""

from __future__ import annotations

import re
import re._parser as regex  # type: ignore[import-not-found]  # the one way to see a pattern as a tree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from stackwright.catalog.load import load_formats
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.rules import (
    LONGEST_LINE,
    LONGEST_QUOTE,
    UNKNOWN,
    EvidenceKind,
    Rule,
    blanks,
    clean_lines,
    diagnose_log,
    fill,
    state_line,
)
from stackwright.domain.service import ServicePhase, ServiceState
from stackwright.domain.setting_spec import problem_with
from stackwright.services import additions, base_services
from stackwright.services.engine import ENGINE
from stackwright.services.monitoring import (
    DCGM_EXPORTER,
    GPU_EXPORTER,
    GRAFANA,
    NODE_EXPORTER,
    PROMETHEUS,
    REDIS_EXPORTER,
)
from stackwright.services.retrieval import DATABASE
from stackwright.settings import declared_settings

from benchmarks.diagnosis import read_reports

HERE = Path(__file__).parent / "logs"
HEALTHY = (
    *sorted((HERE / "healthy").glob("*.txt")),
    *sorted((HERE.parent.parent / "watching" / "logs").glob("[ce]*.log")),
)
RULES = load_rules()
KINDS = (
    *(service.kind for service in base_services()),
    *additions(),
    *(service.kind for service in (DATABASE, PROMETHEUS, GRAFANA)),
    *(service.kind for service in (NODE_EXPORTER, REDIS_EXPORTER, GPU_EXPORTER, DCGM_EXPORTER)),
    *EvidenceKind,
)
# What a rule's texts may name beside its own groups: the values in force, the environment, the command, and a port.
KNOWN = frozenset(declared_settings().by_key) | {"environment", "command", "taken_port", "port_key"}
VALUES = {
    "environment": "prod",
    "GATEWAY_PORT": "4000",
    "WEBUI_PORT": "3002",
    "PROMETHEUS_PORT": "9092",
    "GRAFANA_PORT": "3012",
    "MULTIMODAL_PORT": "8022",
    "DATA_HOME": "/data/stackwright-prod",
    "VLLM_MODEL": "org/model",
    "HF_HOME": "/cache/hf",
    "VLLM_CACHE_ROOT": "/cache/vllm",
    "VLLM_MAX_NUM_BATCHED_TOKENS": "8192",
    "VLLM_GPU_MEMORY_UTILIZATION": "0.90",
}


class Recorded(Struct, frozen=True, kw_only=True):
    """One log with the rule that names its failure, and where it was written."""

    name: str
    rule: str
    kind: str
    source: str
    text: str


def read_log(path: Path) -> Recorded:
    """Read a log and the three lines above it."""
    rule, kind, source, text = path.read_text(encoding="utf-8").split("\n", 3)
    return Recorded(
        name=path.stem,
        rule=rule.removeprefix("# rule: "),
        kind=kind.removeprefix("# place: "),
        source=source.removeprefix("# source: "),
        text=text,
    )


LOGS = [read_log(path) for path in sorted(HERE.glob("*.txt"))]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_a_failure_is_named_first_by_its_rule(log: Recorded) -> None:
    named = diagnose_log(log.text, RULES, kind=log.kind, values=VALUES)
    assert [diagnosis.rule for diagnosis in named][:1] == [log.rule]
    first = named[0]
    assert first.line.strip() in "\n".join(clean_lines(log.text))
    assert UNKNOWN not in first.cause, "every group of the cause was found"
    assert "{" not in first.cause + first.fix
    assert all(problem_with(declared_settings().by_key[key], value) is None for key, value in first.settings)
    assert log.source.startswith(("https://", "recorded: "))


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_log_names_nothing(path: Path, kind: str) -> None:
    assert diagnose_log(path.read_text(encoding="utf-8"), RULES, kind=kind) == ()


def test_every_rule_has_a_real_log_and_every_log_a_rule() -> None:
    reported = {report.rule for report in read_reports() if report.rule}
    assert {log.rule for log in LOGS} | reported == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert len(HEALTHY) >= 4


@pytest.mark.parametrize(
    ("code", "rule"),
    [(-4, "illegal-instruction"), (-7, "bus-error"), (-9, "core-killed"), (-11, "segmentation-fault")],
)
def test_the_signal_that_ended_an_engines_core_stands_in_the_engines_log(code: int, rule: str) -> None:
    """Its server ends with exit code 1, whatever ended the core."""
    text = f"RuntimeError: Engine core initialization failed. Failed core proc(s): {{'EngineCore_DP0': {code}}}"
    assert [diagnosis.rule for diagnosis in diagnose_log(text, RULES, kind="engine")] == [rule]


def test_every_format_that_left_the_engine_is_named_as_one() -> None:
    """The rule knows those that the catalog read out of the releases, and no one is sent to a newer engine for them."""
    gone = [name for name, (_, last) in load_formats().methods.items() if last is not None and name.islower()]
    assert "bitsandbytes" in gone
    for name in gone:
        named = diagnose_log(f"Value error, Unknown quantization method: {name}. Must be one of ['awq']", RULES)
        assert [diagnosis.rule for diagnosis in named] == ["format-left"], name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_is_whole(rule: Rule) -> None:
    groups = {name for pattern in rule.patterns for name in re.compile(pattern).groupindex}
    assert {name for name, _ in blanks(rule)} - groups - KNOWN == set()
    assert {filter_name for _, filter_name in blanks(rule)} <= {"", "digits", "half", "less", "whole"}
    assert all(declared_settings().by_key[key].pinnable for key in rule.settings)
    assert ("{command}" in rule.fix) == bool(rule.settings)
    assert rule.source.startswith(("https://", "docs/"))
    assert re.fullmatch(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]", rule.seen)
    assert rule.where
    assert set(rule.where) <= set(KINDS), "a kind of service that nothing has"
    assert not rule.cause.endswith(".")


def tangles(parsed: Any, *, repeated: bool = False) -> list[str]:
    """Name what could make a match take longer than its line's length squared: one open repeat inside another."""
    found: list[str] = []
    for operation, argument in parsed:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            low, high, inner = argument
            many = high is regex.MAXREPEAT or high - low > 1
            found += ["a repeat inside a repeat"] if many and repeated else []
            found += tangles(inner, repeated=repeated or many)
        elif name == "SUBPATTERN":
            found += tangles(argument[-1], repeated=repeated)
        elif name == "BRANCH":
            found += [each for branch in argument[1] for each in tangles(branch, repeated=repeated)]
        elif name in ("ASSERT", "ASSERT_NOT"):
            found += tangles(argument[1], repeated=repeated)
        elif name == "GROUPREF":
            found.append("a reference back")
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_no_pattern_can_run_away(rule: Rule) -> None:
    for pattern in (*rule.patterns, *filter(None, (rule.also, rule.unless))):
        assert tangles(regex.parse(pattern)) == []
        assert re.search(r"\.[*+]", pattern) is None, "what lies between two words has a bound"


def test_a_tangled_pattern_is_found() -> None:
    assert tangles(regex.parse(r"(a+)+b")) == ["a repeat inside a repeat"]
    assert tangles(regex.parse(r"(x{0,9}y)*")) == ["a repeat inside a repeat"]
    assert tangles(regex.parse(r"(?P<a>x{3})\1")) == ["a reference back"]
    assert tangles(regex.parse(r"a{0,80}b|c+")) == []


@settings(deadline=None)
@given(st.text(), st.sampled_from((None, *KINDS)))
def test_any_text_is_read(text: str, kind: str | None) -> None:
    for diagnosis in diagnose_log(text, RULES, kind=kind, values=VALUES):
        assert diagnosis.line.isprintable() or "\t" in diagnosis.line


PIECES = st.sampled_from([line for log in LOGS for line in log.text.splitlines() if line.strip()])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(PIECES, st.text(max_size=40)), max_size=8).map("\n".join), st.integers(0, 3))
def test_torn_and_mixed_lines_are_read(text: str, cut: int) -> None:
    """Lines of real logs in any order, with any text between and the beginning cut off."""
    for diagnosis in diagnose_log(text[cut:], RULES, values={}):
        assert len(diagnosis.line) <= LONGEST_QUOTE
        assert len(diagnosis.line.splitlines()) <= 1
        assert all(
            problem_with(declared_settings().by_key[key], value) is None or value for key, value in diagnosis.settings
        )


def test_a_line_without_an_end_is_cut() -> None:
    text = "x" * LONGEST_LINE + " unrecognized arguments: --late"
    assert diagnose_log(text, RULES) == ()
    assert [len(line) for line in clean_lines(text)] == [LONGEST_LINE]


def test_the_last_of_several_lines_is_told() -> None:
    """Both runtimes append to one log when they start a service again."""
    line = "ValueError: max_num_seqs (256) exceeds available Mamba cache blocks ({}). Each decode sequence"
    (named,) = diagnose_log(f"{line.format(161)}\n…\n{line.format(95)}", RULES, kind=ENGINE.kind, values=VALUES)
    assert named.settings == (("VLLM_MAX_NUM_SEQS", "95"),)
    assert named.fix == "`configure-gpu prod --set VLLM_MAX_NUM_SEQS=95`"


def test_what_is_not_known_is_left_open_and_no_pin() -> None:
    (named,) = diagnose_log("torch.OutOfMemoryError: CUDA out of memory.", RULES, kind=ENGINE.kind)
    assert named.rule == "oom-serving"
    assert named.settings == ()
    assert "leave more memory free: `configure-gpu ENV --set VLLM_GPU_MEMORY_UTILIZATION=…`" in named.fix


def test_a_rule_needs_what_it_asks_for_beside_its_line() -> None:
    rule = replace(RULES[0], patterns=("one",), also="two", unless="three", settings={})
    assert [len(diagnose_log(text, (rule,))) for text in ("one", "one\ntwo", "one\ntwo\nthree", "two")] == [0, 1, 0, 0]


CLASH = """  File "/x/site-packages/{}/hub.py", line 89, in <module>
    Layer()
  File "/x/site-packages/{}/layer.py", line 7, in __init__
    raise ValueError("no version")
ValueError: no version"""


def test_only_two_packages_can_fail_to_go_together() -> None:
    assert [named.rule for named in diagnose_log(CLASH.format("one", "two"), RULES, kind=ENGINE.kind)] == [
        "package-import"
    ]
    assert "package-import" not in {
        named.rule for named in diagnose_log(CLASH.format("one", "one"), RULES, kind=ENGINE.kind)
    }


def test_of_a_match_that_begins_with_a_frame_the_line_that_says_why_is_told() -> None:
    (named,) = diagnose_log(CLASH.format("one", "two"), RULES, kind=ENGINE.kind)
    assert named.line == 'raise ValueError("no version")'


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{a|digits}", "131072"),
        ("{b|whole}", "10"),
        ("{c|half}", "128"),
        ("{d|less}", "0.85"),
        ("{a} {c}", "131,072 256"),
        ("{nothing}", UNKNOWN),
        ("{word|half}", UNKNOWN),
        ("{word|less}", UNKNOWN),
        ("{small|less}", UNKNOWN),
        ("{zero|half}", UNKNOWN),
        ("{one|half}", "1"),
    ],
)
def test_a_template_is_filled(template: str, filled: str) -> None:
    values = {
        "a": "131,072",
        "b": "10.34",
        "c": "256",
        "d": "0.90",
        "word": "x",
        "small": "0.1",
        "zero": "0",
        "one": "1",
    }
    assert fill(template, values) == filled


def state(phase: ServicePhase, **more: Any) -> ServiceState:
    """Return an engine's state."""
    return ServiceState(name="engine-2", phase=phase, **more)


def test_a_state_is_told_as_a_line() -> None:
    assert state_line(state(ServicePhase.EXITED, exit_code=137, detail="out of memory")) == (
        "engine-2 ended with exit code 137 (out of memory)"
    )
    assert state_line(state(ServicePhase.STARTING, restarts=2)) == "engine-2 is starting, restarted 2 times"
    assert state_line(state(ServicePhase.UNHEALTHY)) == "engine-2 is unhealthy, restarted 0 times"
    assert state_line(state(ServicePhase.HEALTHY)) == ""
