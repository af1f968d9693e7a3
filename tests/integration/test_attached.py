"""What a person gives a model is met by real vLLM behind the real gateway: an adapter, a chat template, a name.

One start as processes, of the smoke model in a folder of its own. Its answers mean nothing; whose they are, and how
long the prompt became, does.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.gateway.tiny import write_adapter
from tests.integration.project import CHECKOUT, Project

# Each message with so many words before it as the model's own template does not have.
TEMPLATE = "{% for message in messages %}" + "hello " * 20 + "{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def project(state_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a folder whose development environment serves the model with all three, and runs."""
    folder, given = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("given")
    for name, write in (("model", write_smoke_model), ("adapter", write_adapter)):
        (given / name).mkdir(exist_ok=True)
        write(given / name)
    (given / "template.jinja").write_text(TEMPLATE, encoding="utf-8")
    wishes = yaml.safe_load((CHECKOUT / "envs" / "dev.yaml").read_text(encoding="utf-8"))
    wished = {
        "name": str(given / "model"),
        "served_name": "assistant",
        "lora": {"sql": str(given / "adapter")},
        "chat_template": str(given / "template.jinja"),
    }
    (folder / "envs").mkdir()
    text = yaml.safe_dump(wishes | {"model": None, "models": [wished]})
    (folder / "envs" / "dev.yaml").write_text(text, encoding="utf-8")
    made = Project.new(folder, state_folder)
    try:
        done = made.command("start-environment", "dev", "--runtime=processes", *made.pins)
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.command("stop-environment", "dev", "--runtime=processes", "--now")


def answer(project: Project, model: str) -> dict[str, Any]:
    """Return a model's whole answer to one short question."""
    status, body = project.ask(project.secrets["litellm_master_key"], model=model)
    assert status == 200, body
    whole: dict[str, Any] = json.loads(body)
    return whole


def test_clients_see_the_name_and_the_adapter(project: Project) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{project.port}/v1/models",
        headers={"Authorization": f"Bearer {project.secrets['litellm_master_key']}"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        assert sorted(row["id"] for row in json.load(response)["data"]) == ["assistant", "sql"]


def test_both_answer_and_the_template_is_the_one_that_was_given(project: Project) -> None:
    """Twenty words more than the eight or so of the question, in the tokens of the prompt, for both."""
    whole = {model: answer(project, model) for model in ("assistant", "sql")}
    assert all(each["choices"][0]["message"]["content"] for each in whole.values())
    assert min(each["usage"]["prompt_tokens"] for each in whole.values()) > 20


def test_a_name_that_nobody_gave_is_refused(project: Project) -> None:
    status, body = project.ask(project.secrets["litellm_master_key"], model="smoke")
    assert status in (400, 404), body
