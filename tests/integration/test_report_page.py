"""The pages of a plan and of a load test in a real browser: no fault, nothing fetched, and a keyboard reaches all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from stackwright.cli import main
from stackwright.domain.load import common_points, compare_points
from stackwright.rendering.load_report import render_load_page

from tests.planning_requests import HOSTS
from tests.rendering.test_load_report import A, B

pytestmark = pytest.mark.integration
FOCUSED = "document.activeElement.getAttribute('href') || document.activeElement.tagName.toLowerCase()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    page = folder / "plan.html"
    host = HOSTS / "8x-h100-nvswitch" / "host.yaml"
    assert main(["plan", f"--host={host}", f"--out={folder}", f"--report={page}"]) == 0
    return page


@pytest.fixture(scope="module")
def load_report(report: Path) -> Path:
    page = report.with_name("load.html")
    rows = [(one, compare_points(one, other)) for one, other in common_points(A, B)]
    page.write_text(render_load_page([A, B], "1.2.3", rows), encoding="utf-8")
    return page


@pytest.fixture(params=["report", "load_report"])
def any_page(request: pytest.FixtureRequest) -> Path:
    page: Path = request.getfixturevalue(request.param)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_opens_without_a_fault(browser: Browser, any_page: Path, scheme: str, width: int) -> None:
    report = any_page
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else None)
    said: list[str] = []
    fetched: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda failure: said.append(str(failure)))
    page.on("request", lambda request: fetched.append(request.url))
    page.goto(report.as_uri(), wait_until="load")
    assert said == []
    assert [url for url in fetched if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 24, 28)") == (scheme == "dark")
    page.close()


def test_a_keyboard_goes_through_it_in_order(browser: Browser, any_page: Path) -> None:
    page = browser.new_page()
    page.goto(any_page.as_uri())
    links = page.eval_on_selector_all("nav a", "links => links.map(link => link.getAttribute('href'))")
    reached = [press_tab(page) for _ in links]
    assert reached == links
    tops = []
    while press_tab(page) != "body":
        tops.append(page.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
    assert len(tops) > 5
    assert tops == sorted(tops)
    page.close()


def press_tab(page: Page) -> str:
    """Go one step on, and return what has the focus: a link's target, or the kind of element."""
    page.keyboard.press("Tab")
    return str(page.evaluate(FOCUSED))


def test_the_documents_open_and_are_those_of_the_command(
    browser: Browser, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.click("summary >> text=prod")
    shown = page.inner_text("details[open] pre")
    host = HOSTS / "8x-h100-nvswitch" / "host.yaml"
    capsys.readouterr()
    assert main(["plan", "prod", "--json", f"--host={host}", f"--out={report.parent}"]) == 0
    assert json.loads(shown) == json.loads(capsys.readouterr().out)
    page.close()


def test_it_prints(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert not page.is_visible("nav")
    assert page.pdf().startswith(b"%PDF")
    page.close()
