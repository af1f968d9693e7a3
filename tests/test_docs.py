"""Every command that the docs show is one that the parser takes, and every path that they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from stackwright.cli import parse
from stackwright.errors import UsageError

from tests.test_layers import PACKAGE

ROOT = PACKAGE.parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown_commands(text: str) -> list[str]:
    """Return the command lines of our scripts in a page's shell blocks and workflows, comments cut off."""
    blocks = re.findall(r"```(?:sh|yaml)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"^(?:- )?run: ", "", line) for line in lines]
    whole = [line.split(" #")[0].strip() for line in lines if line.startswith("./scripts/")]
    inner = [match for line in lines for match in re.findall(r"\$\((\./scripts/[^)]*)\)", line)]
    return whole + inner


COMMANDS = sorted({command for page in PAGES for command in shown_commands(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.startswith("./scripts/test")])
def test_a_shown_command_is_one_that_is_taken(command: str) -> None:
    script, *arguments = shlex.split(command)
    name = Path(script).name
    assert (ROOT / script).exists()
    parse(arguments if name == "stackwright" else [name, *arguments])


def test_the_two_commands_of_the_readme_are_shown() -> None:
    assert {"./scripts/start-environment development", "./scripts/test"} <= set(COMMANDS)


def test_commands_are_found_and_a_wrong_one_is_refused() -> None:
    page = '```sh\n./scripts/configure-gpu cpu --dryrun   # try\ncurl x -H "B $(./scripts/stackwright key dev)"\n```\n'
    assert shown_commands(page) == ["./scripts/configure-gpu cpu --dryrun", "./scripts/stackwright key dev"]
    with pytest.raises(UsageError):
        parse(["configure-gpu", "cpu", "--dryrun"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_line_has_at_most_120_characters(page: Path) -> None:
    """Rows of tables left out, which Markdown cannot break."""
    lines = page.read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_named_file_is_there(page: Path) -> None:
    """Code spans that look like a path of this project, no placeholders or rendered files; and a claim's tests."""
    text = page.read_text("utf-8")
    spans = re.findall(r"`((?:generator|tests|scripts|compose|benchmarks|requirements)/[\w./-]+)`", text)
    spans += re.findall(r"(?<!`)\btests/[\w/]+\.py\b", text)
    assert [span for span in spans if not (ROOT / span).exists() and "generated" not in span] == []


def test_every_page_is_in_the_index() -> None:
    """Decisions have an index of their own."""
    docs = ROOT / "docs"
    for folder in (docs, docs / "decisions"):
        index = folder / ("index.md" if folder == docs else "README.md")
        linked = set(re.findall(r"\]\(([^)#]+\.md)", index.read_text("utf-8")))
        pages = {str(page.relative_to(folder)) for page in folder.rglob("*.md") if page != index}
        missing = {page for page in pages - linked if not page.startswith("decisions/")}
        assert missing == set(), f"{index.name} links to no {missing}"
