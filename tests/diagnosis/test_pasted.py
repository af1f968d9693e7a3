"""A log without its stack: the best known failure, else the first error, and nothing of a start that went well."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.diagnosis.pasted import judge_log
from stackwright.diagnosis.rules import Rule

from tests.diagnosis.test_rules import HEALTHY, LOGS, RULES, VALUES, Recorded

# They tell of a service's state, or of what only one runtime writes; nobody pastes them alone.
KINDS = ("engine", "runtime")


@pytest.mark.parametrize("log", [log for log in LOGS if log.kind in KINDS], ids=lambda log: log.name)
def test_a_known_failure_is_named_without_knowing_who_wrote_it(log: Recorded) -> None:
    (judged,) = judge_log(log.text, RULES, VALUES)
    assert judged.rule == log.rule
    assert judged.fix
    assert judged.source
    assert judged.lines


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_healthy_start_is_not_accused(path: Path) -> None:
    assert judge_log(path.read_text(encoding="utf-8"), RULES, VALUES) == ()


def test_the_first_error_is_shown_where_no_rule_knows_it() -> None:
    text = """\
(EngineCore pid=7) INFO 11-28 10:00:00 [core.py:1] a note that quotes ValueError: nothing
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] Traceback (most recent call last):
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2]   File "x.py", line 1, in f
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] KeyError: 'something new'
(EngineCore pid=7) RuntimeError: Engine core initialization failed. See root cause above.
"""
    (judged,) = judge_log(text, RULES, VALUES)
    assert judged.cause == "no known failure; the first error is: KeyError: 'something new'"
    assert (judged.rule, judged.fix, judged.source) == (None, None, None)


def test_each_service_of_a_compose_log_is_judged_apart() -> None:
    rules = (rule("one", "first thing"), rule("two", "second thing"))
    text = "engine-1   | first thing\ngateway-1  | second thing\nengine-1   | second thing\n"
    assert [judged.rule for judged in judge_log(text, rules, {})] == ["one", "two"]


@pytest.mark.parametrize("text", ["", "\n\n", "all is well\n", "\x00\x1b[31m\n"])
def test_nothing_is_said_of_nothing(text: str) -> None:
    assert judge_log(text, RULES, VALUES) == ()


def rule(name: str, pattern: str) -> Rule:
    """Return a rule that matches a pattern."""
    return Rule(
        id=name, where=("engine",), patterns=(pattern,), cause=name, fix=name, source="docs/", seen="", permanent=True
    )
