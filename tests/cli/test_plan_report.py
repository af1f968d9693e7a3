"""`plan --report`: one page, written whole, over nothing that is a person's."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commands import Run

HOST = "2x-rtx3090-nvlink"


def test_without_an_environment_all_are_side_by_side(run: Run, around: Path) -> None:
    page = around / "plan.html"
    ran = run("plan", f"--report={page}", host=HOST)
    assert ran.code == 0
    assert "<h1>Plan: dev, staging, prod</h1>" in page.read_text()
    assert ran.err.splitlines()[-1] == f"report: {page}"


def test_a_named_environment_alone_and_again(run: Run, around: Path) -> None:
    page = around / "plan.html"
    for name in ("prod", "dev"):
        assert run("plan", name, f"--report={page}", host=HOST).code == 0
        assert f"<h1>Plan: {name}</h1>" in page.read_text()


def test_a_file_that_is_none_of_ours_is_left_alone(run: Run, around: Path) -> None:
    mine = around / "mine.html"
    mine.write_text("<html>mine</html>")
    ran = run("plan", f"--report={mine}", host=HOST)
    assert ran.code == 2
    assert ran.told == (f"--report: {mine} is there already, and is no report of a plan", "name another file")
    assert mine.read_text() == "<html>mine</html>"


def test_a_folder_and_a_file_in_no_folder_are_refused_before_anything(run: Run, around: Path) -> None:
    assert run("plan", f"--report={around}", host=HOST).code == 2
    nowhere = around / "no" / "plan.html"
    ran = run("plan", f"--report={nowhere}", host=HOST)
    assert ran.code == 2
    assert ran.told == (f"--report: {nowhere.parent} is no folder", f"make it: `mkdir -p {nowhere.parent}`")


def test_a_file_in_the_place_of_the_folder_and_a_name_too_long_are_refused(run: Run, around: Path) -> None:
    mine = around / "mine"
    mine.write_text("mine")
    inside = run("plan", f"--report={mine / 'plan.html'}", host=HOST)
    assert (inside.code, inside.told) == (2, (f"--report: {mine} is no folder", "name a file in a folder"))
    long = around / f"{'x' * 300}.html"
    refused = run("plan", f"--report={long}", host=HOST)
    assert (refused.code, refused.told) == (
        2,
        (f"--report: {long}: cannot be written: File name too long", "name another file"),
    )


def test_a_page_is_not_written_to_a_file_called_dash(run: Run) -> None:
    ran = run("plan", "--report=-", host=HOST)
    assert (ran.code, ran.told) == (
        2,
        ("--report: the page is written to a file", "name it: `--report page.html`"),
    )
