"""What a person does at the front end, in a real browser: signs up, chooses the model, asks, and reads to the end."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect

PERSON = {"name": "Ada", "email": "ada@example.org", "password": "a first account's password"}
STRANGER = {"name": "Eve", "email": "eve@example.org", "password": "a second account's password"}
QUESTION = "Say hello."
# A small machine that starts other things beside: the page alone loads several MB of scripts.
PATIENCE_MS = 180_000


class Visit:
    """One person's browser at one front end, and all that it asked for."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url, self.context = url, open_context(browser)
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("websocket", lambda socket: self.asked.append(socket.url))
        self.page.on("pageerror", lambda failure: self.faults.append(str(failure)))

    def strange(self) -> list[str]:
        """Return what was asked of anybody else."""
        own = (self.url, self.url.replace("http", "ws", 1), "data:", "blob:")
        return [url for url in self.asked if not url.startswith(own)]


def open_context(browser: Browser) -> BrowserContext:
    """Return a browser of somebody who was never here."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    return context


def sign_up(visit: Visit) -> None:
    """Make the first account, which is the administrator's."""
    page = visit.page
    page.goto(visit.url)
    page.get_by_role("button", name="Get started").click()
    for field, text in PERSON.items():
        page.fill(f"#{field}", text)
    page.get_by_role("button", name="Create Admin Account").click()
    page.get_by_role("button", name="Okay, Let's Go!").click()


def choose_model(visit: Visit, model: str) -> list[str]:
    """Choose a model by its name; return the names that there are to choose from."""
    page = visit.page
    page.click("#model-selector-model-button")
    names = page.get_by_role("option")
    names.first.wait_for()
    offered = [name.strip() for name in names.all_inner_texts()]
    page.get_by_role("option", name=model).click()
    return offered


def ask(visit: Visit, question: str, answer: str) -> None:
    """Ask, and wait until the answer is there whole and its stream has ended."""
    page = visit.page
    page.click("#chat-input")
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    expect(page.get_by_text(answer).first).to_be_visible(timeout=PATIENCE_MS)
    # While a stream runs there is a button to stop it, and none to ask again.
    expect(page.get_by_role("button", name="Regenerate").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def knock(browser: Browser, url: str, picture: Path | None = None) -> tuple[str, int]:
    """Come as a stranger: return the words of the page, and the status of a sign-up that is asked for all the same."""
    context = open_context(browser)
    page = context.new_page()
    page.goto(url)
    page.locator("#email").wait_for()
    words = page.inner_text("body")
    if picture is not None:
        page.screenshot(path=picture)
    answer = context.request.post(f"{url}/api/v1/auths/signup", data=STRANGER)
    context.close()
    return words, answer.status
