"""Retrieval in a whole stack under Docker Compose: documents survive a stop and come back from a backup.

Real LiteLLM, proxy and PostgreSQL, in images that stand in for the official ones (images.py); the engines answer at
once. The tests share one stack and run in the order written.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.conftest import MakeProject
from tests.integration.images import Images
from tests.integration.project import Project, free_port, wait_until

RUNTIME = "--runtime=compose"
WISHES = """\
schema: 1
model: null
models:
  - smoke
  - {{name: {folder}/vectors, role: embedding}}
gpu_memory_utilization: 0.8
max_model_len: null
gateway: {{bind: 127.0.0.1, port: 4000}}
services: {{retrieval: true}}
settings: {{VLLM_CPU_KVCACHE_SPACE_2: "1"}}
"""
TEXTS = ["The pressure valve opens at three bar.", "The ferry to Lysekil was late."]


@pytest.fixture(scope="module")
def pins(images: Images) -> list[str]:
    """Give the settings that name the images, and a port of the test's own."""
    own = {"RETRIEVAL_IMAGE": images.retrieval, "POSTGRES_IMAGE": images.postgres, "RETRIEVAL_PORT": str(free_port())}
    return [*images.pins(images.quick_engine), *(f"--set={key}={value}" for key, value in own.items())]


@pytest.fixture(scope="module")
def project(make_project: MakeProject, pins: list[str]) -> Iterator[Project]:
    """Give a project whose stack has retrieval, and stop it in the end."""
    made = make_project()
    write_smoke_model(made.folder / "vectors")
    (made.folder / "envs").mkdir()
    (made.folder / "envs" / "dev.yaml").write_text(WISHES.format(folder=made.folder))
    data = f"--set=DATA_HOME={made.folder / 'data'}"
    done = made.command("start-environment", "dev", RUNTIME, *made.pins, *pins, data)
    assert done.returncode == 0, done.stderr + made.logs()
    assert "retrieval: answered" in done.stderr
    yield made
    made.stop()


@pytest.fixture(scope="module")
def key(project: Project) -> str:
    """Give a person's key, once the proxy knows it."""
    done = project.command("keys", "add", "anna", "dev", "--json")
    assert done.returncode == 0, done.stderr
    text: str = json.loads(done.stdout)["key"]
    wait_until(lambda: is_known(project, text))
    return text


def is_known(project: Project, key: str) -> bool:
    """Return whether the proxy has looked at the keys since this one was made: it does so once a second."""
    try:
        return bool(ask(project, key, "/v1/collections")["object"] == "list")
    except urllib.error.HTTPError as refusal:
        if refusal.code != 401:
            raise
        return False


def ask(project: Project, key: str, path: str, fields: object = None) -> Any:
    """Ask the published port as a person would."""
    plan = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())
    url = f"http://127.0.0.1:{plan['settings']['RETRIEVAL_PORT']['value']}{path}"
    body = None if fields is None else json.dumps(fields).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return json.load(answer)


def found(project: Project, key: str) -> list[str]:
    """Return the texts that a search for the valve gives."""
    fields = {"query": "At which pressure does the valve open?", "collections": ["house"]}
    return [row["text"] for row in ask(project, key, "/v1/search", fields)["data"]]


def test_a_document_is_found_and_an_answer_cites_it(project: Project, key: str) -> None:
    ask(project, key, "/v1/collections/house/documents", {"texts": TEXTS})
    path = "/v1/collections/house/documents"
    wait_until(lambda: {row["state"] for row in ask(project, key, path)["data"]} == {"done"})

    messages = [{"role": "user", "content": "At which pressure does the valve open?"}]
    answer = ask(
        project, key, "/v1/chat/completions", {"model": "smoke", "messages": messages, "collections": ["house"]}
    )

    assert found(project, key)[0] == TEXTS[0]
    assert answer["choices"][0]["message"]["content"]
    assert answer["sources"][0]["text"] == TEXTS[0]


def test_only_the_proxy_is_published_and_the_database_is_no_root(project: Project, key: str) -> None:  # noqa: ARG001
    bindings = {name: project.inspect(name)["HostConfig"]["PortBindings"] or {} for name in ("postgres", "retrieval")}
    assert bindings["postgres"] == {}
    assert [row["HostIp"] for rows in bindings["retrieval"].values() for row in rows] == ["127.0.0.1"]
    told = project.docker("top", project.container("postgres"), "-eo", "pid,uid,comm").splitlines()[1:]
    owners = {row.split()[1] for row in told if row.split()[2] == "postgres"}
    assert (project.folder / "data" / "postgres").is_dir()
    assert owners
    assert "0" not in owners


def test_documents_come_back_from_a_backup_and_survive_a_stop(project: Project, key: str, tmp_path: Path) -> None:
    saved = project.command("backup", "dev", str(tmp_path / "all.tar"))
    assert saved.returncode == 0, saved.stderr
    ask(project, key, "/v1/collections/house/documents", {"texts": ["The pressure valve was replaced."]})
    wait_until(lambda: len(found(project, key)) == 2)

    restored = project.command("restore", "dev", str(tmp_path / "all.tar"), "--overwrite")
    assert restored.returncode == 0, restored.stderr
    wait_until(lambda: found(project, key) == TEXTS[:1])

    project.stop()
    project.start()
    assert found(project, key) == TEXTS[:1]
