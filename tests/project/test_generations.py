"""Generations of rendered files: which are kept, how they fare, and putting one back."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest
from stackwright.errors import UsageError
from stackwright.project.generations import KEPT, Generations, GenerationState, Running
from stackwright.project.write import compare_files, write_files
from stackwright.rendering import RenderedFile

from tests.planning_requests import paths_of

ENVIRONMENT, OVERRIDE = "envs/.env.dev", "compose/generated/dev/override.yaml"


def generated(root: Path) -> Path:
    """Name the generated folder."""
    return root / "compose" / "generated" / "dev"


def render(root: Path, value: int, override: str = "a: 1\n") -> None:
    """Write one environment's files, as a command does."""
    texts = {ENVIRONMENT: f"A={value}\n", OVERRIDE: override}
    files = tuple(RenderedFile(path=PurePosixPath(path), text=text) for path, text in texts.items())
    write_files({generated(root): compare_files(root, generated(root), files)})


def files(root: Path) -> dict[str, str]:
    """Return every file of the project where it stands, but the generations."""
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and not {"generations", ".sets"} & set(path.parts)
    }


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    """Give the generations of an environment with none yet."""
    return Generations(paths_of(tmp_path))


def test_each_distinct_set_is_one_generation(tmp_path: Path, generations: Generations) -> None:
    numbers = []
    for value in (1, 1, 2, 1):
        render(tmp_path, value)
        numbers.append(generations.record().number)
    assert numbers == [1, 1, 2, 1]
    assert [(each.number, each.state) for each in generations.all()] == [
        (1, GenerationState.WRITTEN),
        (2, GenerationState.WRITTEN),
    ]


def test_an_edit_and_a_local_file_make_another(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    first = generations.record()
    (tmp_path / OVERRIDE).write_text("mine: 1\n")
    edited = generations.record()
    (tmp_path / "envs/.env.dev.local").write_text("A=3\n")
    assert [first.number, edited.number, generations.record().number] == [1, 2, 3]
    assert generations.local_file(3).read_text() == "A=3\n"
    assert not generations.local_file(2).exists()


def test_only_the_owner_may_read_them(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    generations.record()
    below = [generated(tmp_path) / "generations", *(generated(tmp_path) / "generations").rglob("*")]
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in below} == {(True, 0o700), (False, 0o600)}


def test_the_last_ones_are_kept_and_what_runs_and_the_last_good_ones(tmp_path: Path, generations: Generations) -> None:
    for value in range(1, 16):
        render(tmp_path, value)
        number = generations.record().number
        if value in (1, 2, 3, 4, 5):
            generations.mark(number, GenerationState.GOOD)
        if value == 2:
            generations.set_running(Running(number=2, stack="s", runtime="compose"))
    assert [each.number for each in generations.all()] == [2, 3, 4, 5, *range(16 - KEPT, 16)]


def test_trials_take_no_place_of_others_and_go_with_the_next(tmp_path: Path, generations: Generations) -> None:
    for value in range(1, KEPT + 1):
        render(tmp_path, value)
        generations.record()
    before = [each.number for each in generations.all()]
    for value in (10, 11, 12):
        render(tmp_path, value)
        generations.set_running(Running(number=generations.record(trial=True).number, stack="s", runtime="compose"))
    assert [(each.number, each.trial) for each in generations.all()][len(before) - 1 :] == [
        (KEPT, False),
        (KEPT + 2, True),
        (KEPT + 3, True),
    ]
    generations.drop_trials()
    assert [each.number for each in generations.all()] == [*before, KEPT + 3]
    render(tmp_path, KEPT)
    assert generations.record(trial=True).trial is False
    generations.set_running(None)
    generations.drop_trials()
    assert [each.number for each in generations.all()] == before


def test_one_that_has_answered_stays_good(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    number = generations.record().number
    for state in (GenerationState.FAILED, GenerationState.GOOD, GenerationState.FAILED):
        generations.mark(number, state)
    assert [each.state for each in generations.all()] == [GenerationState.GOOD]


def test_putting_back_restores_every_byte_and_what_is_an_edit(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    (tmp_path / OVERRIDE).write_text("mine: 1\n")
    generations.record()
    before = files(tmp_path)
    render(tmp_path, 2, "a: 2\n")
    generations.record()
    (tmp_path / ENVIRONMENT).write_text("A=2\nMINE=2\n")
    kept = generations.put_back(1)
    assert kept == ("envs/.env.dev was edited: your version is kept as envs/.env.dev.edited-1",)
    aside = {"envs/.env.dev.edited-1": "A=2\nMINE=2\n", "compose/generated/dev/override.yaml.edited-1": "mine: 1\n"}
    assert files(tmp_path) == before | aside
    # The override of generation 1 had been edited, and is known to be: the next rendering keeps it aside again.
    render(tmp_path, 3, "a: 3\n")
    assert (tmp_path / f"{OVERRIDE}.edited-1").read_text() == "mine: 1\n"


def test_a_persons_local_file_is_never_put_back(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    local = tmp_path / "envs/.env.dev.local"
    local.write_text("B=1\n")
    generations.record()
    local.write_text("B=2\n")
    assert generations.local_differs(1)
    generations.put_back(1)
    assert local.read_text() == "B=2\n"
    local.write_text("B=1\n")
    assert not generations.local_differs(1)


@pytest.mark.parametrize("harm", ["environment", "override.yaml", "generation.json"])
def test_one_that_has_been_changed_or_is_gone_is_refused(harm: str, tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    generations.record()
    (generated(tmp_path) / "generations" / "1" / harm).write_text("{")
    before = files(tmp_path)
    with pytest.raises(UsageError):
        generations.put_back(1)
    with pytest.raises(UsageError, match="generation 7 is not kept"):
        generations.put_back(7)
    assert files(tmp_path) == before
    render(tmp_path, 2)
    assert generations.record().number == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"number": "1"}', '{"number": 1}', "[" * 100_000])
def test_a_damaged_record_is_none(text: str, tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    generations.record()
    folder = generated(tmp_path) / "generations"
    for name in ("1/generation.json", "running.json"):
        (folder / name).write_text(text)
    assert generations.all() == ()
    assert generations.running() is None


def test_what_a_killed_command_has_begun_is_swept_away(tmp_path: Path, generations: Generations) -> None:
    folder = generated(tmp_path) / "generations"
    (folder / ".1.0123456789ab.tmp").mkdir(parents=True)
    (folder / ".1.0123456789ab.tmp" / "plan.json").write_text("{")
    render(tmp_path, 1)
    assert generations.record().number == 1
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_what_runs_is_noted_until_it_is_stopped(tmp_path: Path, generations: Generations) -> None:
    render(tmp_path, 1)
    number = generations.record().number
    running = Running(number=number, stack="stackwright-dev", runtime="processes")
    generations.set_running(running)
    assert generations.running() == running
    assert json.loads((generated(tmp_path) / "generations/running.json").read_text())["number"] == 1
    for _ in range(2):
        generations.set_running(None)
    assert generations.running() is None
