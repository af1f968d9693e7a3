"""Clients of a stack's multimodal worker, each with a key made for it. Touches the project's folder and loopback."""

from __future__ import annotations

import json

from tests.integration.project import Project, wait_until
from tests.multimodal.client import Client


def client_of(project: Project, name: str, *rights: str) -> Client:
    """Give a client with a key that is made for it."""
    done = project.command("keys", "add", name, "dev", "--json", *rights)
    assert done.returncode == 0, done.stderr
    port = json.loads((project.folder / "compose/generated/dev/plan.json").read_text())["settings"]["MULTIMODAL_PORT"]
    client = Client(port=int(port["value"]), keys={name: json.loads(done.stdout)["key"]}, name=name)
    # The worker looks at the keys once a second.
    wait_until(lambda: client.ask("GET", "/v1/jobs").status == 200)
    return client
