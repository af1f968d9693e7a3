"""The log files of the processes runtime: their ends, what is young enough, and what comes while they are read."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from stackwright.runtime import LogLine, LogRequest
from stackwright.runtime.log_files import moment_of, read_log_files, young_lines

NOON = datetime(2026, 11, 29, 12, 0, 0).astimezone()


def test_the_last_lines_of_each_service_are_told(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("one\ntwo\nthree\n")
    (tmp_path / "gateway.log").write_text("four\nno end")
    request = LogRequest(services=("engine", "redis", "gateway"), tail=2)
    told = list(read_log_files(tmp_path, request))
    assert told == [
        LogLine("engine", "two"),
        LogLine("engine", "three"),
        LogLine("gateway", "four"),
        LogLine("gateway", "no end"),
    ]


def test_what_is_written_meanwhile_is_told_through_a_new_file(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("old\nhalf")
    lines = read_log_files(tmp_path, LogRequest(services=("engine",), follow=True))
    assert next(lines) == LogLine("engine", "old")
    with log.open("a") as more:
        more.write(" and whole\n")
    assert next(lines) == LogLine("engine", "half and whole")
    log.rename(tmp_path / "engine.log.1")
    log.write_text("first of the next\n")
    assert list(islice(lines, 1)) == [LogLine("engine", "first of the next")]


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("(EngineCore pid=7) INFO 11-29 11:35:01 [core.py:1] ready", "2026-11-29 11:35:01"),
        ("11:35:01 - LiteLLM Proxy:INFO: up", "2026-11-29 11:35:01"),
        ("7:M 29 Nov 2026 11:35:01.123 * Ready to accept connections", "2026-11-29 11:35:01"),
        ("2026-11-29 11:35:01,123 INFO spawned", "2026-11-29 11:35:01"),
        ("2026-11-29T11:35:01Z spawned", "2026-11-29 11:35:01"),
        ("no time in here: 12-29", None),
        ("INFO 13-45 11:35:01 [no such day]", None),
    ],
)
def test_the_time_of_a_line_is_read(line: str, moment: str | None) -> None:
    found = moment_of(line, NOON)
    assert (None if found is None else f"{found:%Y-%m-%d %H:%M:%S}") == moment


def test_a_time_without_a_day_or_year_is_the_last_one() -> None:
    night = datetime(2027, 1, 1, 0, 10).astimezone()
    assert moment_of("00:05:00 - LiteLLM", night) == datetime(2027, 1, 1, 0, 5).astimezone()
    assert moment_of("23:58:00 - LiteLLM", night) == datetime(2026, 12, 31, 23, 58).astimezone()
    assert moment_of("INFO 12-31 23:59:00 [x]", night) == datetime(2026, 12, 31, 23, 59).astimezone()


def test_lines_are_as_old_as_the_last_time_before_them() -> None:
    lines = ["11:00:00 - old", "of the old", "11:50:00 - young", "of the young"]
    assert young_lines(lines, NOON - timedelta(minutes=30), NOON) == lines[2:]
    assert young_lines(lines, NOON, NOON) == []
    assert young_lines(lines, NOON - timedelta(days=1), NOON) == lines
    assert young_lines(["no", "time"], NOON, NOON) == ["no", "time"]


def test_yesterdays_evening_is_not_young_after_midnight() -> None:
    night = datetime(2026, 11, 30, 0, 10).astimezone()
    lines = ["23:40:00 - old", "00:05:00 - young"]
    assert young_lines(lines, night - timedelta(minutes=10), night) == lines[1:]
