"""Score the doctor: which logs of real failures it names, and which messages of the programs it knows.

    python benchmarks/diagnosis.py [--each] [--out FILE]

Logs: tests/diagnosis/logs (with them the rules were written), tests/diagnosis/reports.yaml (public reports), and the
starts that went well. Each is judged without saying who wrote it.

Messages: benchmarks/cases/messages.tsv, which `python -m stackwright.catalog.messages` takes out of the programs'
sources. A message is known where a rule matches it with its gaps filled in. Rules that quote whatever the engine
refuses are counted apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from msgspec import Struct

# Run as a file, Python looks for modules beside it only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stackwright.catalog.messages import GAP, NUMBER, Message, read_table
from stackwright.diagnosis.load import load_rules
from stackwright.diagnosis.pasted import judge_log
from stackwright.diagnosis.rules import diagnose_log
from stackwright.errors import StackError
from stackwright.reading import read_yaml

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
LOGS = TESTS / "diagnosis" / "logs"
REPORTS = TESTS / "diagnosis" / "reports.yaml"
MESSAGES = HERE / "cases" / "messages.tsv"
# What a person sees around the words of a part of the container engine.
_AROUND = {
    "runc": "OCI runtime create failed: runc create failed: unable to start container process: {}: unknown",
    "nvidia-container-toolkit": (
        "OCI runtime create failed: could not apply required modification to OCI specification: {}: unknown"
    ),
    "moby": "Error response from daemon: {}",
}
# What may stand in a gap: a rule asks for the kind of value that a message has.
_FILLINGS = (("8", "word"), ("8", "8"), ("8", "'Word'"), ("8", "fp8"), ("8", "/a/b.json"), ("8", "org/model"))


class Report(Struct, frozen=True, kw_only=True):
    """A log of a public report. `rule`: what has to name it, None for a start that went well.

    `kind`: `seen` before the rules were written, `held` back until then, or `words` of a program's source. `blind`:
    what the rules said of one that was held back when it was first put to them.
    """

    rule: str | None
    kind: str
    source: str
    text: str
    blind: str | None = None


def read_reports(path: Path = REPORTS) -> tuple[Report, ...]:
    """Read the logs of public reports."""
    return read_yaml(path, tuple[Report, ...], StackError)


def read_logs() -> Iterator[tuple[str, Report]]:
    """Yield the group and the log of everything that is at hand."""
    for path in sorted(LOGS.glob("*.txt")):
        rule, place, source, text = path.read_text(encoding="utf-8").split("\n", 3)
        # A state is our own sentence about a service; nobody pastes it.
        if place.removeprefix("# place: ") != "state":
            group = "shared cases" if path.stem.endswith("-case") else "logs of the tests"
            yield group, Report(rule=rule.removeprefix("# rule: "), kind="log", source=source, text=text)
    for report in read_reports():
        yield f"reports, {report.kind}", report
    for path in sorted((*(LOGS / "healthy").glob("*.txt"), *(TESTS / "watching" / "logs").glob("[ce]*.log"))):
        yield "healthy", Report(rule=None, kind="healthy", source=path.name, text=path.read_text(encoding="utf-8"))


def verdict(report: Report) -> str:
    """Judge one log: `right`, `wrong`, `none` (the first error is shown), `accused` or `healthy`."""
    judged = judge_log(report.text, load_rules(), {})
    named = [judgement.rule for judgement in judged if judgement.rule is not None]
    if report.rule is None:
        return "accused" if judged else "healthy"
    return "right" if named[:1] == [report.rule] else "wrong" if named else "none"


def filled(message: Message) -> Iterator[str]:
    """Yield logs that hold a message: with several values in its gaps, below the frame that raised it."""
    path, _, line = message.where.rpartition(":")
    for number, other in _FILLINGS:
        text = message.shape.replace(NUMBER, number).replace(GAP, other)
        if not path.endswith(".py"):
            yield _AROUND[message.program].format(text)
            continue
        yield f'  File "/site-packages/{path}", line {line}, in start\n    raise\n{text}'
        if "/config/" in path:
            yield f"1 validation error for VllmConfig\n  Value error, {text.partition(': ')[2]} [type=value_error]"


def rule_of(message: Message) -> str | None:
    """Return the rule that names a message, the most particular one that any filling finds."""
    found = [diagnosis.rule for text in filled(message) for diagnosis in diagnose_log(text, load_rules())[:1]]
    return next((rule for rule in found if rule not in _general()), found[0] if found else None)


@cache
def _general() -> frozenset[str]:
    return frozenset(rule.id for rule in load_rules() if rule.general)


def score_messages(messages: Iterable[Message]) -> tuple[dict[str, Counter[str]], dict[str, list[str]]]:
    """Count for each program the messages of its newest release that may end a start, and list those unknown."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    unknown: dict[str, list[str]] = defaultdict(list)
    for message in messages:
        counts[message.program]["shapes"] += 1
        if not message.start or message.last is not None:
            continue
        rule = rule_of(message)
        counts[message.program]["start-critical"] += 1
        counts[message.program]["unknown" if rule is None else "general" if rule in _general() else "particular"] += 1
        if rule is None:
            unknown[message.program].append(f"{message.where} {message.shape}"[:160])
    return counts, unknown


def main() -> None:
    """Judge all logs and messages, print the shares, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "diagnosis.json", help="where the result goes")
    parser.add_argument("--each", action="store_true", help="print every log that is not named rightly")
    given = parser.parse_args()
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for group, report in read_logs():
        said = verdict(report)
        groups[group][said] += 1
        if given.each and said not in ("right", "healthy"):
            print(f"{said:8} {report.rule} {report.source}")
    blind = Counter(
        report.blind if report.rule else f"healthy, {report.blind}" for report in read_reports() if report.blind
    )
    for group, count in groups.items():
        print(f"{group:22} {dict(count)}")
    print(f"{'held back, at first':22} {dict(blind)}")
    messages, unknown = score_messages(read_table(MESSAGES))
    for program, shapes in messages.items():
        print(f"{program:22} {dict(shapes)}")
    result = {
        "rules": len(load_rules()),
        "logs": groups,
        "held back, at first": blind,
        "messages": messages,
        "start-critical and unknown": unknown,
    }
    given.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
