"""The front end: wired to the gateway by a key of its own, closed, offline, for this machine alone."""

from __future__ import annotations

import pytest
from stackwright.catalog.load import load_catalog
from stackwright.domain.environment import Environment
from stackwright.domain.role import Role
from stackwright.domain.service import Document
from stackwright.runtime.provision import locked_version
from stackwright.services import additions, services_of
from stackwright.services.webui import RECIPE, VERSION, webui_services

from tests.planning.several import CASES
from tests.planning.several import plan_of as plan_several
from tests.services.either_runtime import containers_of, programs_of
from tests.services.test_additions import plan_with

SECRETS = {"webui_secret_key", "webui_gateway_key", "tls_certificate"}


@pytest.mark.parametrize(("environment", "port"), [(Environment.DEV, "3000"), (Environment.PROD, "3002")])
def test_each_environment_has_a_page_of_its_own(environment: Environment, port: str) -> None:
    plan = plan_with("cpu-small", "webui", environment=environment)
    assert plan.settings["WEBUI_PORT"].value == port
    assert containers_of(plan)["webui"]["ports"] == [
        {"target": 8080, "published": "${WEBUI_PORT:?}", "host_ip": "${SERVICES_BIND:?}"}
    ]
    assert programs_of(plan)["webui"].arguments == ("--host", "127.0.0.1", "--port", port)


def test_it_reaches_the_gateway_on_the_inner_network_and_nothing_beyond() -> None:
    plan = plan_with("2x-rtx3090-nvlink", "webui")
    container = containers_of(plan)["webui"]
    assert container["networks"] == ["inside", "door"]
    assert container["environment"]["WEBUI_GATEWAY"] == "gateway:4000"
    assert programs_of(plan)["webui"].environment["WEBUI_GATEWAY"] == "127.0.0.1:4001"


def test_its_keys_are_files() -> None:
    container = containers_of(plan_with("cpu-small", "webui"))["webui"]
    assert set(container["secrets"]) >= SECRETS
    assert not [name for name in container["environment"] if "KEY" in name]


def test_nothing_is_fetched_and_nobody_signs_up_after_the_first() -> None:
    told = containers_of(plan_with("cpu-small", "webui"))["webui"]["environment"]
    for name, value in {
        "OFFLINE_MODE": "true",
        "USE_SLIM_DOCKER": "true",
        "ENABLE_VERSION_UPDATE_CHECK": "false",
        "ENABLE_COMMUNITY_SHARING": "false",
        "ENABLE_OLLAMA_API": "false",
        "ENABLE_SIGNUP": "false",
    }.items():
        assert told[name] == value


def test_only_models_to_chat_with_are_offered() -> None:
    host, asked = CASES["1x3090-shared"]
    plan = plan_several(host, *asked, environment=Environment.STAGING)
    roles = {model.name: model.role for model in plan.models}
    assert set(roles.values()) == {Role.CHAT, Role.EMBEDDING}
    (service,) = webui_services(plan)
    models = service.environment["WEBUI_MODELS"]
    assert models == Document(fields={"models": tuple(name for name, role in roles.items() if role is Role.CHAT)})


def test_lock_and_catalog_have_one_release() -> None:
    row = load_catalog().service("webui")
    assert RECIPE.lock is not None
    assert locked_version(RECIPE.lock, RECIPE.package) == VERSION == row.version
    assert row.image.endswith(f":v{VERSION}-slim")


def test_its_memory_is_in_the_plan() -> None:
    assert additions()["webui"].memory_bytes({}) > 300 * 10**6
    assert "webui" in {service.name for service in services_of(plan_with("cpu-small", "webui"))}
