"""The site of docs/: it builds without a warning, and works from a folder, its search included."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def mkdocs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of requirements/docs.txt, in an environment of its own."""
    venv = tmp_path_factory.mktemp("docs") / "venv"
    make: list[str | Path] = [
        sys.executable,
        "-I",
        ROOT / "scripts" / "virtual_environment.py",
        venv,
        ROOT / "requirements",
        "docs",
    ]
    subprocess.run(make, check=True)
    return venv / "bin" / "mkdocs"


def build(mkdocs: Path, project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [mkdocs, "build", "--config-file", project / "mkdocs.yml", "--site-dir", site]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(mkdocs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(mkdocs, ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_what_pages_link_to_outside_docs_comes_along(site: Path) -> None:
    assert (site / "benchmarks" / "results" / "soak.svg").is_file()
    assert 'href="benchmarks/results/soak.svg"' in (site / "proven.html").read_text("utf-8")
    assert '="../benchmarks/results/gateway.svg"' in (site / "explanation" / "gateway.html").read_text("utf-8")


def test_rows_and_items_are_not_run_into_a_paragraph(site: Path) -> None:
    """What a forge shows as a table or a list may be text to another reader of Markdown."""
    swallowed = re.compile(r"<p>(?:(?!</p>).)*?\n(?:\| |- |```)", re.DOTALL)
    assert [page.name for page in site.rglob("*.html") if swallowed.search(page.read_text("utf-8"))] == []


def test_it_is_searched_from_a_folder_and_fetches_nothing(site: Path, browser: Browser) -> None:
    said: list[str] = []
    fetched: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda failure: said.append(str(failure)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto((site / "how-to" / "gpus.html").as_uri())
    words = page.locator("input.md-search__input")
    words.click()
    words.press_sequentially("NVLink island")
    page.locator(".md-search-result__item a[href*='how-to/gpus.html']").first.wait_for()
    page.close()
    assert said == []
    assert [url for url in fetched if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("[gone](how-to/gone.md)", "gone.md"),
        ("[gone](../benchmarks/gone.svg)", "gone.svg"),
        ("[gone](how-to/gpus.md#gone)", "#gone"),
    ],
)
def test_a_broken_link_fails_the_build(mkdocs: Path, tmp_path: Path, line: str, named: str) -> None:
    """Of a small project with the real settings."""
    config = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(config, "utf-8")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "site_links.py", tmp_path / "scripts")
    (tmp_path / "docs" / "how-to").mkdir(parents=True)
    shutil.copytree(ROOT / "docs" / "assets", tmp_path / "docs" / "assets")
    (tmp_path / "docs" / "how-to" / "gpus.md").write_text("# GPUs\n", "utf-8")
    index = tmp_path / "docs" / "index.md"
    index.write_text("# Start\n\n[GPUs](how-to/gpus.md)\n", "utf-8")
    whole = build(mkdocs, tmp_path, tmp_path / "site")
    assert whole.returncode == 0, whole.stderr
    index.write_text(f"# Start\n\n{line}\n", "utf-8")
    broken = build(mkdocs, tmp_path, tmp_path / "site")
    assert broken.returncode != 0
    assert named in broken.stderr
