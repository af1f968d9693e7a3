"""`stackwright keys`: made, shown once, listed, rotated, revoked, and what was used."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from keys import Caller, Limits
from stackwright.domain.access_key import NAME_WORDS, Rights
from stackwright.domain.environment import Environment, EnvironmentPaths
from stackwright.project.access_keys import add_key, keys_file, read_keys

from tests.cli.commands import CPU, Run

TEXT = re.compile(r"sk-[0-9a-f]{72}\n")
SHOWN_ONCE = "is shown only once; keep it now. A running gateway accepts it within two seconds"


@pytest.fixture
def stored(run: Run, project: Path) -> Path:
    """Configure dev, and return the file of its keys, which is not there yet."""
    assert run(*CPU, host="cpu-small").code == 0
    return project / "envs/.secrets/dev/keys/keys.json"


def test_a_key_is_shown_once_and_stored_as_a_hash(run: Run, stored: Path) -> None:
    ran = run("keys", "add", "anna", "dev", "--model=smoke", "--requests-per-minute=60", "--tokens-per-day=0")
    assert (ran.code, ran.err) == (0, f"the key of `anna` {SHOWN_ONCE}\n")
    assert TEXT.fullmatch(ran.out)
    text = ran.out.strip()
    assert text[11:] not in stored.read_text()
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.parent.stat().st_mode & 0o777 == 0o700
    for words in (("list", "dev"), ("list", "dev", "--json"), ("usage", "dev")):
        told = run("keys", *words)
        assert (told.code, text[11:] in told.out + told.err) == (0, False)


@pytest.mark.usefixtures("stored")
def test_keys_as_a_table_and_as_json(run: Run) -> None:
    assert run("keys", "list", "dev").err == "no keys; make one: `stackwright keys add NAME dev`\n"
    run("keys", "add", "anna@example.org", "dev", "--model=smoke", "--requests-per-minute=60", "--tokens-per-day=0")
    run("keys", "add", "ci", "dev", "--expires=2999-12-31")
    heads, first, second = run("keys", "list", "dev").out.splitlines()
    assert re.split(r"  +", heads) == ["name", "key", "models", "limits", "created", "last day"]
    assert re.split(r"  +", first)[2:4] == ["smoke", "60 requests/min, no limit of tokens/day"]
    assert re.split(r"  +", second)[2:] == ["all", "default", re.split(r"  +", first)[4], "2999-12-31"]
    told = run("keys", "list", "dev", "--json").json
    assert told["environment"] == "dev"
    assert [{**key, "id": 0, "created": 0} for key in told["keys"]] == [
        {
            "name": "anna@example.org",
            "id": 0,
            "created": 0,
            "models": ["smoke"],
            "requests_per_minute": 60,
            "tokens_per_minute": None,
            "tokens_per_day": 0,
            "expires": None,
            "metrics_only": False,
            "acts_for": False,
        },
        {
            "name": "ci",
            "id": 0,
            "created": 0,
            "models": [],
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "tokens_per_day": None,
            "expires": "3000-01-01T00:00:00Z",
            "metrics_only": False,
            "acts_for": False,
        },
    ]


def test_a_rotated_key_has_another_text_and_the_same_rights(run: Run, stored: Path) -> None:
    first = run("keys", "add", "anna", "dev", "--tokens-per-minute=5", "--json").json
    second = run("keys", "rotate", "anna", "dev", "--json").json
    assert first["key"] != second["key"]
    assert {**first, "key": 0, "id": 0} == {**second, "key": 0, "id": 0}
    assert json.loads(stored.read_text())["keys"][0]["id"] == second["id"]


def test_a_rotated_key_of_an_addition_is_where_its_service_reads_it(run: Run, project: Path) -> None:
    assert run(*CPU, "--with", "webui", host="cpu-small").code == 0
    ran = run("keys", "rotate", "webui", "dev")
    assert (project / "envs/.secrets/dev/webui_gateway_key").read_text() == ran.out.strip()
    assert ran.err.endswith("`start-environment dev` gives it to webui\n")
    assert run(*CPU, host="cpu-small").code == 0
    assert (project / "envs/.secrets/dev/webui_gateway_key").read_text() == ran.out.strip()


def test_somebodys_key_with_an_additions_name_is_refused_before_anything_is_written(
    run: Run, project: Path, stored: Path
) -> None:
    assert run("keys", "add", "webui", "dev").code == 0
    files = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}

    ran = run(*CPU, "--with", "webui", host="cpu-small")

    assert ran.code == 2
    assert "dev has a key `webui` that is not the one of `webui` beside the models" in ran.err
    assert "`stackwright keys revoke webui dev`" in ran.err
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == files
    assert json.loads(stored.read_text())["keys"][0]["name"] == "webui"


def test_an_additions_key_of_an_earlier_release_gets_the_right_that_its_service_needs(
    run: Run, project: Path, stored: Path
) -> None:
    assert run(*CPU, "--with", "multimodal", host="cpu-small").code == 0
    document = json.loads(stored.read_text())
    (own,) = document["keys"]
    assert own["rights"].pop("acts_for") is True
    own["rights"]["models"] = ["small"]
    stored.write_text(json.dumps(document))
    text = (project / "envs/.secrets/dev/multimodal_gateway_key").read_text()

    assert run(*CPU, "--with", "multimodal", host="cpu-small").code == 0
    (after,) = json.loads(stored.read_text())["keys"]
    assert (after["rights"]["acts_for"], after["rights"]["models"], after["hash"]) == (True, ["small"], own["hash"])
    assert (project / "envs/.secrets/dev/multimodal_gateway_key").read_text() == text


def test_a_rotated_master_key_is_what_key_prints(run: Run, project: Path, stored: Path) -> None:
    before = run("key", "dev").out
    ran = run("keys", "rotate", "master", "dev")
    assert ran.err == (
        "`stackwright key dev` prints the master key again. A running gateway accepts it within two seconds\n"
    )
    assert before != ran.out == run("key", "dev").out
    assert run("keys", "rotate", "master", "dev", "--json").json == {
        "name": "master",
        "key": run("key", "dev").out[:-1],
    }
    assert (project / "envs/.secrets/dev/litellm_master_key").samefile(stored.with_name("litellm_master_key"))
    assert not stored.exists()


def test_a_revoked_key_is_gone(run: Run, stored: Path) -> None:
    made = run("keys", "add", "anna", "dev", "--json").json
    ran = run("keys", "revoke", "anna", "dev")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"revoked `anna` (sk-{made['id']}…); a running gateway refuses it within two seconds\n"
    assert json.loads(stored.read_text()) == {"schema": 1, "keys": []}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (
            ("add", "anna", "dev"),
            "dev has a key `anna` already",
            "a new text for it: `stackwright keys rotate anna dev`",
        ),
        (("add", "-x", "dev"), "stackwright keys add: unknown flag `-x`", None),
        (("add", "a b", "dev"), f"key name: found `a b`, allowed: {NAME_WORDS}", "for example `anna` or `ci-bot`"),
        (("add", "master", "dev"), "`master` is the administrator's key", "choose another name"),
        (("add", "x", "dev", "--model=smok"), "--model: dev serves no `smok`", "did you mean `smoke`?"),
        (("add", "x", "dev", "--model=zzz"), "--model: dev serves no `zzz`", "models: smoke"),
        (("add", "x", "dev", "--expires=2020-01-31"), "--expires: 2020-01-31 is over", None),
        (("add", "x", "dev", "--expires=soon"), "--expires: found `soon`, allowed: a date YYYY-MM-DD", None),
        (
            ("add", "x", "dev", "--expires=9999-12-31"),
            "--expires: found `9999-12-31`, allowed: a date YYYY-MM-DD",
            None,
        ),
        (
            ("add", "x", "dev", "--tokens-per-day=-1"),
            "--tokens-per-day: found `-1`, allowed: a whole number, 0 to 1000000000000",
            "for example `--tokens-per-day 60`",
        ),
        (("revoke", "ana", "dev"), "dev has no key `ana`", "did you mean `anna`?"),
        (("rotate", "zzz", "dev"), "dev has no key `zzz`", "`stackwright keys list dev` shows them"),
        (("usage", "dev", "--key=ana"), "dev has no key `ana`", "did you mean `anna`?"),
        (("ad", "x", "dev"), "stackwright keys: unknown action `ad`", "did you mean `add`?"),
        (
            ("add", "x", "nowhere"),
            "unknown environment `nowhere`, allowed: dev, staging, prod, development, production",
            None,
        ),
        (("list", "dev", "--jsn"), "stackwright keys list: unknown flag `--jsn`", "did you mean `--json`?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_mistake_is_one_sentence(
    words: tuple[str, ...], message: str, hint: str | None, run: Run, stored: Path
) -> None:
    run("keys", "add", "anna", "dev")
    before = stored.read_text()
    ran = run("keys", *words)
    assert (ran.code, ran.out, ran.told[0]) == (2, "", message)
    assert hint in (None, ran.told[1])
    assert stored.read_text() == before


def test_a_key_needs_a_configured_environment(run: Run) -> None:
    ran = run("keys", "add", "anna", "prod")
    assert (ran.code, ran.told[1]) == (5, "run `configure-gpu prod`")


@pytest.mark.parametrize("damage", ["{", '{"schema": 1, "keys": [{"name": "anna"}]}', '{"schema": 1, "kys": []}', "[]"])
def test_a_damaged_file_is_told_and_left_alone(damage: str, run: Run, stored: Path) -> None:
    stored.write_text(damage)
    for words in (("add", "bert", "dev"), ("list", "dev"), ("revoke", "anna", "dev")):
        ran = run("keys", *words)
        assert (ran.code, ran.told[0].startswith(f"{stored}: ")) == (2, True)
        assert "damaged" in ran.told[0]
        assert stored.read_text() == damage


def test_a_newer_file_is_refused(run: Run, stored: Path) -> None:
    stored.write_text('{"schema": 2, "keys": []}')
    assert run("keys", "list", "dev").told[0] == f"{stored}: schema is not 1"


@pytest.mark.usefixtures("stored")
def test_what_was_used(run: Run, project: Path) -> None:
    assert run("keys", "usage", "dev").err == "nothing was used yet\n"
    limits = Limits(project / "envs/.usage/dev", lambda: 1_795_996_770.0)
    for key, model in (("anna", "small"), ("anna", "big"), ("master", "small")):
        asyncio.run(limits.count(Caller(name=key), model, 10, 300))
    assert run("keys", "usage", "dev").out.splitlines() == [
        "day         key     model  requests  prompt tokens  completion tokens  refused",
        "2026-11-29  anna    (all)         2             20                600        0",
        "                    big           1             10                300",
        "                    small         1             10                300",
        "2026-11-29  master  (all)         1             10                300        0",
        "                    small         1             10                300",
    ]
    told = run("keys", "usage", "dev", "--key=master", "--days=1", "--json").json
    assert told == {
        "environment": "dev",
        "usage": [
            {
                "day": "2026-11-29",
                "key": "master",
                "refused": 0,
                "models": [{"model": "small", "requests": 1, "prompt_tokens": 10, "completion_tokens": 300}],
            }
        ],
    }


def test_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    paths = EnvironmentPaths(root=tmp_path, state=tmp_path, environment=Environment.DEV)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_key(paths, f"key-{number}", Rights()), range(32)))
    assert len(read_keys(paths).keys) == 32
    assert [path.name for path in keys_file(paths).parent.iterdir()] == ["keys.json"]


@pytest.mark.subprocess
def test_validation_finds_damaged_open_and_useless_keys(run: Run, project: Path, stored: Path) -> None:
    run("keys", "add", "anna", "dev", "--model=smoke")

    def found() -> dict[str, str]:
        told = run("validate-environment", "dev", "--runtime=processes", "--json").json["findings"]
        return {finding["check"]: finding["found"] for finding in told if finding["check"].startswith("keys")}

    assert found() == {}
    stored.chmod(0o644)
    assert found() == {"keys-mode": f"{stored} is readable by others"}
    stored.chmod(0o600)
    stored.write_text(stored.read_text().replace("smoke", "gone"))
    assert found() == {"keys-model": "`anna` may ask gone"}
    master = project / "envs/.secrets/dev/litellm_master_key"
    text = master.read_text()
    master.unlink()
    master.write_text(text)
    master.chmod(0o600)
    assert found() == {
        "keys-model": "`anna` may ask gone",
        "keys-master": f"{master} was replaced, which a container does not see",
    }
    run("keys", "revoke", "anna", "dev")
    assert found() == {}
    stored.write_text("{")
    assert found() == {"keys-damaged": f"{stored}: damaged: not JSON: the gateway accepts the master key only"}
