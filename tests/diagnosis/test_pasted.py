"""A log without its stack: the best known failure, else the first error, and nothing of a start that went well."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.diagnosis.pasted import judge_log
from stackwright.diagnosis.rules import Rule

from benchmarks.diagnosis import Report, read_reports
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


REPORTS = read_reports()


@pytest.mark.parametrize("report", REPORTS, ids=[f"{at}-{report.rule}" for at, report in enumerate(REPORTS)])
def test_a_public_report_is_named_or_left_alone(report: Report) -> None:
    assert [judged.rule for judged in judge_log(report.text, RULES, VALUES)] == ([report.rule] if report.rule else [])


# What follows in vLLM's log when a worker of it ends, whatever ended it, and what other services then say.
FOLLOWED = """
(APIServer pid=1)   File "/site-packages/vllm/v1/engine/utils.py", line 1031, in wait_for_engine_startup
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
ERROR 07-04 17:35:16 [multiproc_executor.py:140] Worker proc VllmWorker-1 died unexpectedly, shutting down executor.
(EngineCore pid=22) TimeoutError: RPC call to sample_tokens timed out.
"""
BESIDE = """\
gateway-1  | litellm.InternalServerError: InternalServerError: Hosted_vllmException - Connection error.
proxy-1  | [error] 6#6: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 172.21.0.1
"""
GENERAL = {rule.id for rule in RULES if rule.general} | {"killed"}  # which tells no more than that


def test_what_followed_does_not_hide_the_cause() -> None:
    for report in REPORTS[::8]:  # an eighth, which takes seconds
        if report.rule is not None and report.rule not in GENERAL:
            behind = BESIDE + "\n".join(f"engine-1  | {line}" for line in report.text.split("\n"))
            for text in (report.text + FOLLOWED, behind):
                assert judge_log(text, RULES, VALUES)[0].rule == report.rule, text


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_healthy_start_is_not_accused(path: Path) -> None:
    assert judge_log(path.read_text(encoding="utf-8"), RULES, VALUES) == ()


def test_the_first_error_is_shown_where_no_rule_knows_it() -> None:
    text = """\
(EngineCore pid=7) INFO 11-28 10:00:00 [core.py:1] a note that quotes ValueError: nothing
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] Traceback (most recent call last):
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2]   File "x.py", line 1, in f
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] mylib.SomethingNewError
(EngineCore pid=7) RuntimeError: Engine core initialization failed. See root cause above.
"""
    (judged,) = judge_log(text, RULES, VALUES)
    assert judged.cause == "no known failure; the first error is: mylib.SomethingNewError"
    assert (judged.rule, judged.fix, judged.source) == (None, None, None)


def test_what_it_led_to_stands_beside_the_first_error() -> None:
    text = """\
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] zlib.error: Error -3 while decompressing
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] During handling of the above exception, another one occurred:
(Worker_TP0 pid=9) ERROR 11-28 10:00:01 [worker.py:2] mylib.LoadError: shard 3
(EngineCore pid=7) ERROR 11-28 10:00:02 [core.py:2] Exception: WorkerProc initialization failed due to an exception
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
    (judged,) = judge_log(text, RULES, VALUES)
    assert judged.lines == ("mylib.LoadError: shard 3",)


@pytest.mark.parametrize(
    "before",
    [
        "engine-1  | ",
        "2026-11-28T10:00:01.123456789Z stderr F ",
        "Nov 28 10:00:01 host engine[77]: ",
        "(EngineCore_DP0 pid=7) ERROR 11-28 10:00:01 [core.py:700] ",
        "\x1b[1;36m(EngineCore_DP0 pid=7)\x1b[0;0m ERROR 11-28 10:00:01 [core.py:700] ",
        "ESC[1;36m(Worker_TP0 pid=7)ESC[0;0m ",
        "engine-1  | (Worker pid=5) (Worker_TP0 pid=5) ERROR 11-28 10:00:01 [multiproc_executor.py:880] ",
        "[rank0]: ",
        "> ",
    ],
)
def test_what_stands_before_a_line_does_not_hide_it(before: str) -> None:
    lines = (
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in f',
        "OSError: [Errno 24] Too many open files",
    )
    (judged,) = judge_log("\n".join(before + line for line in lines), RULES, VALUES)
    assert judged.rule == "too-many-files"
    assert judged.lines == (lines[-1],)


@pytest.mark.parametrize(
    "level", ["INFO 11-28 10:00:01 [core.py:7] ", "DEBUG 11-28 10:00:01 [core.py:7] ", "INFO:     "]
)
def test_what_is_information_accuses_nobody(level: str) -> None:
    quoted = "No available shared memory broadcast block found in 60 seconds; NCCL error: unhandled system error"
    assert judge_log(f"(EngineCore pid=7) {level}{quoted}\n", RULES, VALUES) == ()


def test_a_message_that_a_terminal_broke_is_read() -> None:
    message = "ValueError: LoRA rank 64 is greater than max_lora_rank 16."
    for width in (12, 25, 40):
        broken = "\n".join(message[at : at + width] for at in range(0, len(message), width))
        assert [judged.rule for judged in judge_log(broken, RULES, VALUES)] == ["lora-rank"], width


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
