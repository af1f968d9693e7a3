"""What the installed engine says of the settings: asked once, judged by the doctor's rules, and never a guess."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from stackwright.diagnosis.load import load_rules
from stackwright.domain.finding import Finding, Severity, harden
from stackwright.domain.machine import ModelFiles, Seen, Unseen
from stackwright.domain.service import Service, Word
from stackwright.models.smoke_model import write_smoke_model
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import ClientAnswer, Stack, Trial
from stackwright.runtime.processes import ProcessesRuntime
from stackwright.runtime.trial import text_in_container
from stackwright.validation.check import Machine, Observation
from stackwright.validation.compose_config import MERGED
from stackwright.validation.engine_answer import AskedEngine, ask_engines, check_engines
from stackwright.validation.model import MODELS, InspectedModel

from tests.planning_requests import plan_for, recorded, with_replicas

TOO_LONG = (
    "Value error, User-specified max_model_len (99999) is greater than the derived max_model_len "
    "(max_position_embeddings=32768.0 or model_max_length=None in model's config.json)."
)
TAKEN = ClientAnswer(0, '[{"refused": null, "values": {}}]', "")


def findings(*answers: str | None, whole: bool = True) -> list[Finding]:
    """Judge what an engine said of its models."""
    plan = plan_for(recorded("cpu-small"))
    asked = AskedEngine(
        service="engine",
        kind="engine",
        models=tuple(f"m{i}" for i in range(len(answers))),
        whole=whole,
        answers=answers,
    )
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    return list(check_engines(plan, env, (asked,), load_rules()))


def test_settings_that_are_taken_have_no_finding() -> None:
    assert findings(None) == []


def test_a_refusal_has_the_doctors_cause_and_fix() -> None:
    [found] = findings(None, TOO_LONG)
    assert (found.check, found.severity) == ("engine-refuses", Severity.ERROR)
    assert found.found == (
        "m1: the installed vLLM refuses these settings: the context is set to 99999 tokens; the model's limit is 32768"
    )
    assert found.fix == "`configure-gpu prod --set VLLM_MAX_MODEL_LEN=32768`"


@pytest.mark.parametrize(
    "words", ["api: error: argument --zz: not known before", "ValueError: no such thing\nmore", "Value error, no such"]
)
def test_where_no_rule_matches_the_engines_first_words_stand(words: str) -> None:
    [found] = findings(words)
    assert found.check == "engine-refuses"
    assert found.found.endswith(f"refuses these settings: {words.partition(chr(10))[0]}")


@pytest.mark.parametrize(
    "words",
    [
        "LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified revision",
        "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
        "ModuleNotFoundError: No module named 'vllm.engine'",
        "RuntimeError: something on the device",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB.",
    ],
)
def test_what_says_nothing_of_the_settings_is_not_checked(words: str) -> None:
    [found] = findings(words)
    assert (found.check, found.severity) == ("not-checked", Severity.WARNING)
    assert words in found.found


def test_a_model_that_is_not_whole_is_refused_by_a_known_failure_alone() -> None:
    assert [found.check for found in findings("ValueError: odd", TOO_LONG, whole=False)] == [
        "not-checked",
        "engine-refuses",
    ]


def test_an_engine_that_is_to_come_is_a_note_that_stays_one() -> None:
    plan = plan_for(recorded("cpu-small"))
    asked = AskedEngine(service="engine", kind="engine", models=("m",), waits_for="vLLM is not installed here yet")
    found = tuple(check_engines(plan, {}, (asked,), ()))
    assert [finding.severity for finding in harden(found)] == [Severity.NOTE]
    assert list(check_engines(plan, {}, (replace(asked, waits_for=""),), ())) == []


class Place(ProcessesRuntime):
    """A runtime in which the engine's place answers as it is told to."""

    def __init__(self, stack: Stack, answer: ClientAnswer | None = TAKEN, installed: str = "image-1") -> None:
        super().__init__(stack)
        self.answer, self.installed = answer, installed
        self.asked: list[str] = []

    def trial(self, service: Service, words: Iterable[Word]) -> Trial | None:
        """Be there where there is an answer."""
        answer = self.answer
        if answer is None:
            return None

        def run(source: str, given: str, limit_s: float) -> ClientAnswer:
            assert "create_engine_config" in source
            assert limit_s == 60
            self.asked.append(given)
            return answer

        texts = tuple(text_in_container(self._stack, word) for word in words)
        return Trial(installed=self.installed, variables={"A": service.name}, texts=texts, run=run)


@dataclass
class Asker:
    """Looks at one stack as often as it is told to."""

    stack: Stack
    place: Place
    complete: bool = True
    merged: Seen[dict[str, Any] | None] = None
    said: list[str] = field(default_factory=list)

    def ask(self, *, silent: bool = False) -> AskedEngine:
        """Look once, as one command does."""
        location = self.stack.env["VLLM_MODEL"]
        model = InspectedModel(location=location, files=ModelFiles(folder=location, complete=self.complete))
        say = None if silent else self.said.append
        seen: dict[Observation[Any], object] = {MODELS: (model,), MERGED: self.merged}
        machine = Machine(self.stack, self.stack.plan.host, self.place, compose=False, seen=seen, say=say)
        [asked] = ask_engines(machine)
        return asked


@pytest.fixture
def asker(tmp_path: Path) -> Asker:
    """Give a stack with a whole model and an installed engine that takes everything."""
    stack = stack_of(tmp_path)
    return Asker(stack=stack, place=Place(stack))


def stack_of(root: Path) -> Stack:
    """Return a stack of the smoke model in a folder."""
    plan = plan_for(recorded("cpu-small"), model="smoke")
    write_smoke_model(root / "smoke")
    env = {key: setting.value for key, setting in flat_settings(plan).items()}
    env |= {"VLLM_MODEL": str(root / "smoke"), "HF_HOME": str(root / "hf")}
    return Stack(root=root, state=root / "state", plan=plan, env=env)


def test_a_question_has_the_values_in_force_and_is_offline(asker: Asker) -> None:
    assert asker.ask().answers == (None,)
    [[question]] = [json.loads(given) for given in asker.place.asked]
    arguments: list[str] = question["arguments"]
    assert arguments[arguments.index("--model") + 1] == asker.stack.env["VLLM_MODEL"]
    variables: Mapping[str, str] = question["environment"]
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == asker.stack.env["VLLM_CPU_KVCACHE_SPACE"]
    assert asker.said == ["engine: asking vLLM whether it takes these settings"]


def test_the_same_question_is_asked_once(asker: Asker) -> None:
    answers = [asker.ask().answers for _ in range(2)]
    assert (answers, len(asker.place.asked), len(asker.said)) == ([(None,), (None,)], 1, 1)
    asker.place.installed = "image-2"
    asker.ask()
    asker.stack = replace(asker.stack, env={**asker.stack.env, "VLLM_MAX_MODEL_LEN": "77"})
    asker.place._stack = asker.stack
    asker.ask()
    config = Path(asker.stack.env["VLLM_MODEL"]) / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    asker.ask()
    assert len(asker.place.asked) == 4


@pytest.mark.parametrize(
    ("words", "complete", "times"),
    [
        (TOO_LONG, True, 1),
        (TOO_LONG, False, 2),  # a file may have been missing
        ("OSError: not here", True, 2),
        ("RuntimeError: full", True, 2),
    ],
)
def test_only_what_lasts_is_kept(words: str, complete: bool, times: int, asker: Asker) -> None:
    asker.complete = complete
    asker.place.answer = ClientAnswer(0, json.dumps([{"refused": words, "values": {}}]), "")
    assert [asker.ask().answers, asker.ask().answers] == [(words,), (words,)]
    assert len(asker.place.asked) == times


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ClientAnswer(None, "", "no answer in 60 seconds"), "no answer in 60 seconds"),
        (ClientAnswer(1, "", "Traceback\nImportError: libnuma.so.1"), "ImportError: libnuma.so.1"),
        (ClientAnswer(0, "nonsense", ""), "its answer is unreadable"),
        (ClientAnswer(0, "[]", ""), "its answer is unreadable"),
        (ClientAnswer(0, '[{"refused": 3}]', ""), "its answer is unreadable"),
    ],
)
def test_no_answer_is_no_refusal_and_is_asked_again(answer: ClientAnswer, why: str, asker: Asker) -> None:
    asker.place.answer = answer
    assert [asker.ask().answers, asker.ask().answers] == [Unseen(why=why), Unseen(why=why)]
    assert len(asker.place.asked) == 2


def test_what_is_not_here_yet_is_waited_for(asker: Asker) -> None:
    asker.place.answer = None
    assert asker.ask().waits_for == "vLLM is not installed here yet"
    asker.place.answer = TAKEN
    (Path(asker.stack.env["VLLM_MODEL"]) / "config.json").unlink()
    assert asker.ask().waits_for == "a model's config.json is not here yet"
    assert asker.place.asked == []


def test_files_that_compose_refuses_are_told_of_by_themselves(asker: Asker) -> None:
    asker.merged = Unseen(why="Docker refused: no")
    asked = asker.ask()
    assert (asked.answers, asked.waits_for, asker.place.asked) == (None, "", [])


def test_who_does_not_want_to_wait_gets_what_is_kept(asker: Asker) -> None:
    assert asker.ask(silent=True).answers is None
    assert asker.place.asked == []
    asker.ask()
    assert asker.ask(silent=True).answers == (None,)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2, "answers": {}}', '{"schema": 1, "answers": {"a": 3}}'])
def test_a_damaged_file_of_answers_is_none(text: str, asker: Asker) -> None:
    asker.stack.state.mkdir()
    (asker.stack.state / "engine-answers.json").write_text(text, encoding="utf-8")
    assert asker.ask().answers == (None,)


def test_of_replicas_that_are_alike_one_is_asked(asker: Asker) -> None:
    [first] = asker.stack.plan.replicas
    plan = with_replicas(asker.stack.plan, first, *(replace(first, name=f"engine-{number}") for number in (2, 3)))
    asker.stack = replace(asker.stack, plan=plan)
    asker.place._stack = asker.stack
    assert asker.ask().service == first.name
    assert len(asker.place.asked) == 1
