"""From where an engine fetches what a request names by address: from nowhere, unless a person names a host."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog, load_flags
from stackwright.domain.plan import Plan
from stackwright.domain.role import Role
from stackwright.engines.vllm.media import MEDIA_RELEASE
from stackwright.errors import NoPlanError, UsageError
from stackwright.models.config import takes_media
from stackwright.planning.planner import make_plan
from stackwright.project.pins import check_pins
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import plan_for, recorded, request

FLAG, KEY, REDIRECTS = "--allowed-media-domains", "VLLM_ALLOWED_MEDIA_DOMAINS", "VLLM_MEDIA_URL_ALLOW_REDIRECTS"
SEEING = "Qwen/Qwen3-VL-8B-Instruct"


def hosts_of(plan: Plan) -> str | None:
    """Return the host that the plan's first replica may fetch from; None where it may from all."""
    arguments = plan.replicas[0].args
    return arguments[arguments.index(FLAG) + 1] if FLAG in arguments else None


def test_an_engine_that_sees_fetches_nothing() -> None:
    plan = plan_for(recorded("1x-h200"), model=SEEING)
    assert hosts_of(plan) == flat_settings(plan)[KEY].value == "nowhere.invalid"
    assert dict(plan.replicas[0].env)[REDIRECTS] == "0"


def test_a_host_that_is_named_does_not_send_it_on() -> None:
    plan = plan_for(recorded("1x-h200"), model=SEEING, pins={KEY: "images.example.org"})
    assert hosts_of(plan) == "images.example.org"
    assert dict(plan.replicas[0].env)[REDIRECTS] == "0"


def test_any_leaves_it_to_the_engine() -> None:
    plan = plan_for(recorded("1x-h200"), model=SEEING, pins={KEY: "any"})
    assert hosts_of(plan) is None
    assert REDIRECTS not in dict(plan.replicas[0].env)


def test_an_engine_that_only_reads_is_told_nothing() -> None:
    plan = plan_for(recorded("1x-h200"), model="Qwen/Qwen3-8B")
    assert hosts_of(plan) is None
    assert KEY not in flat_settings(plan)
    assert REDIRECTS not in dict(plan.replicas[0].env)


def test_every_model_of_the_catalog_is_told_by_its_configuration() -> None:
    """A model for chat that sees as well would fetch just as one whose role it is."""
    llms = load_catalog().llms()
    wrong = [llm.name for llm in llms if llm.role is Role.VISION and not takes_media(llm.config)]
    text = [llm.name for llm in llms if llm.role is not Role.VISION and takes_media(llm.config)]
    assert (wrong, text) == ([], [])


def test_the_flag_is_there_from_the_release_that_is_asked_for() -> None:
    assert load_flags().has(FLAG, MEDIA_RELEASE)
    assert not load_flags().has(FLAG, "0.10.2")
    asked = request(recorded("1x-h200"), model="Qwen/Qwen2.5-VL-7B-Instruct")
    older = replace(asked, needs=replace(asked.needs, exact="0.10.2", allow_vulnerable=True))
    with pytest.raises(NoPlanError, match=re.escape(MEDIA_RELEASE)):
        make_plan(older, load_catalog())


@pytest.mark.parametrize("host", ["https://images.example.org", "a b", "-a", "images.example.org.", "a,b", "A"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="any, or a host"):
        check_pins({KEY: host}, where="--set")
