"""The gateway's keys: whose a key is, what it has used over all workers, and files that change or are damaged."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keys as gateway
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys import MASTER, ActingError, Caller, Keys, LimitError, Limits, open_keys
from stackwright.domain import access_key
from stackwright.domain.access_key import Rights
from stackwright.domain.environment import KEYS_FOLDER, USAGE_FOLDER, Environment, EnvironmentPaths
from stackwright.project import key_usage
from stackwright.project.access_keys import (
    add_key,
    ensure_key_folders,
    keys_file,
    renew_master_key,
    revoke_key,
    rotate_key,
)
from stackwright.project.credentials import ensure_secrets, read_gateway_key
from stackwright.project.key_usage import ModelUsage, read_usage

CHECKOUT = Path(__file__).resolve().parents[2]
MASTER_KEY = "sk-the-master-key"
RIGHTS: Mapping[str, object] = {
    "models": [],
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "tokens_per_day": None,
    "expires": None,
}
# 2026-11-29 23:59:30 UTC.
NEAR_MIDNIGHT = 1_795_996_770.0


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = NEAR_MIDNIGHT

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@dataclass
class Door:
    """One environment's folders, and the keys that a gateway reads from them."""

    paths: EnvironmentPaths
    clock: Clock
    keys: Keys

    @property
    def usage(self) -> Path:
        """The folder of the counts."""
        return self.paths.folder(USAGE_FOLDER)

    def later(self, seconds: float = 1.0) -> None:
        """Let so much time pass."""
        self.clock.now += seconds


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    """Give the keys of an environment that has none yet but the master key."""
    monkeypatch.setenv("GATEWAY_KEY_REQUESTS_PER_MINUTE", "7")
    monkeypatch.setenv("GATEWAY_KEY_TOKENS_PER_MINUTE", "0")
    paths = EnvironmentPaths(root=tmp_path, state=tmp_path / "state", environment=Environment.PROD)
    paths.folder(KEYS_FOLDER).mkdir(parents=True)
    paths.folder(USAGE_FOLDER).mkdir(parents=True)
    (tmp_path / "master").write_text(f"{MASTER_KEY}\n")
    clock = Clock()
    return Door(paths=paths, clock=clock, keys=Keys(keys_file(paths), tmp_path / "master", clock))


def test_the_master_key_is_the_administrators_with_the_limits_of_the_settings(door: Door) -> None:
    caller = door.keys.find(MASTER_KEY)
    assert caller == Caller(name=MASTER, requests_per_minute=7)
    assert caller.may_ask("any")


@pytest.mark.parametrize(
    "wrong", ["", "sk-", MASTER_KEY[:-1], MASTER_KEY + "x", "sk-" + "0" * 72, "x" * 100_000, "é", "\udcff" * 9]
)
def test_a_wrong_key_is_nobodys(wrong: str, door: Door) -> None:
    add_key(door.paths, "anna", Rights())
    assert door.keys.find(wrong) is None
    assert door.keys.refusal(wrong) == "wrong or missing key"


def test_an_empty_key_is_nobodys_where_there_is_no_master_key(tmp_path: Path) -> None:
    assert Keys(tmp_path / "none", tmp_path / "none either").find("") is None


def test_a_key_is_its_owners_with_its_rights(door: Door) -> None:
    rights = Rights(models=("small",), requests_per_minute=0, tokens_per_day=9, expires=int(NEAR_MIDNIGHT) + 60)
    made = add_key(door.paths, "anna", rights)
    caller = door.keys.find(made.text)
    assert caller == Caller(
        name="anna", models=frozenset({"small"}), tokens_per_day=9, expires=float(NEAR_MIDNIGHT) + 60
    )
    assert (caller.may_ask("small"), caller.may_ask("big")) == (True, False)
    assert door.keys.find(made.text[:-1] + ("0" if made.text[-1] != "0" else "1")) is None


def test_a_key_for_the_metrics_asks_no_model(door: Door) -> None:
    caller = door.keys.find(add_key(door.paths, "monitoring", Rights(metrics_only=True)).text)
    assert caller == Caller(name="monitoring", requests_per_minute=7, metrics_only=True)
    assert not caller.may_ask("small")


def test_a_service_asks_with_the_rights_and_limits_of_the_key_that_it_names(door: Door) -> None:
    add_key(door.paths, "anna", Rights(models=("small", "big"), tokens_per_day=9))
    add_key(door.paths, "ben", Rights())
    free = whose(door, add_key(door.paths, "multimodal", Rights(acts_for=True)).text)
    bound = whose(door, add_key(door.paths, "bound", Rights(acts_for=True, models=("small", "other"))).text)

    anna = door.keys.acting_for(free, "anna")
    assert (anna.name, anna.models, anna.tokens_per_day) == ("anna", frozenset({"small", "big"}), 9)
    assert not anna.acts_for
    assert door.keys.acting_for(bound, "anna").models == frozenset({"small"})
    assert door.keys.acting_for(bound, "ben").models == frozenset({"small", "other"})
    assert door.keys.acting_for(free, MASTER) == door.keys.find(MASTER_KEY)


def test_nobody_else_asks_in_the_name_of_another(door: Door) -> None:
    add_key(door.paths, "watcher", Rights(metrics_only=True))
    add_key(door.paths, "late", Rights(expires=int(NEAR_MIDNIGHT) + 2))
    anna = whose(door, add_key(door.paths, "anna", Rights(models=("big",))).text)
    service = whose(door, add_key(door.paths, "multimodal", Rights(acts_for=True, models=("small",))).text)
    door.later()

    for actor, name, status, words in (
        (anna, "multimodal", 403, "the key `anna` may not ask in the name of another"),
        (anna, "anna", 403, "may not ask in the name"),
        (anna, MASTER, 403, "may not ask in the name"),
        (service, "nobody", 401, "there is no key `nobody` to ask for"),
        (service, "anna", 403, "the key `multimodal` is for no model of `anna`"),
        (service, "late", 403, "the key `late` expired"),
    ):
        with pytest.raises(ActingError, match=words) as refused:
            door.keys.acting_for(actor, name)
        assert refused.value.status == status
    assert not door.keys.acting_for(service, "watcher").may_ask("small")


def whose(door: Door, key: str) -> Caller:
    """Return whose a new key is."""
    door.later()
    caller = door.keys.find(key)
    assert caller is not None
    return caller


def test_a_limit_that_a_key_does_not_set_is_the_settings(door: Door) -> None:
    caller = door.keys.find(add_key(door.paths, "anna", Rights()).text)
    assert caller == Caller(name="anna", requests_per_minute=7)


def test_a_changed_file_is_followed_after_a_second(door: Door) -> None:
    assert door.keys.find(MASTER_KEY)
    first = add_key(door.paths, "anna", Rights())
    assert door.keys.find(first.text) is None
    door.later()
    assert door.keys.find(first.text)
    second = rotate_key(door.paths, "anna")
    door.later()
    assert (door.keys.find(first.text), door.keys.find(second.text)) == (
        None,
        Caller(name="anna", requests_per_minute=7),
    )
    revoke_key(door.paths, "anna")
    door.later()
    assert door.keys.find(second.text) is None
    assert door.keys.find(MASTER_KEY)


@pytest.mark.parametrize("in_container", [True, False], ids=["container", "process"])
def test_the_gateway_follows_a_rotated_master_key(in_container: bool, door: Door, tmp_path: Path) -> None:
    ensure_secrets(door.paths.secrets, {}, tmp_path / "hf")
    ensure_key_folders(door.paths)
    folders = {"GATEWAY_KEYS": str(door.paths.folder(KEYS_FOLDER))}
    folders |= {} if in_container else {"SECRETS_DIRECTORY": str(door.paths.secrets)}
    assert open_keys(folders).find(read_gateway_key(door.paths.secrets))
    keys = Keys(keys_file(door.paths), open_keys(folders).master_file, door.clock)
    before = read_gateway_key(door.paths.secrets)
    assert keys.find(before)
    after = renew_master_key(door.paths)
    door.later()
    assert (keys.find(before), keys.find(after)) == (None, Caller(name=MASTER, requests_per_minute=7))


@pytest.mark.parametrize("renamed", [True, False], ids=["renamed", "in place"])
def test_a_changed_master_key_is_followed(renamed: bool, door: Door, tmp_path: Path) -> None:
    assert door.keys.find(MASTER_KEY)
    written = tmp_path / ("new" if renamed else "master")
    written.write_text("sk-another")
    if renamed:
        written.replace(tmp_path / "master")
    door.later()
    assert (door.keys.find(MASTER_KEY), door.keys.find("sk-another") is not None) == (None, True)


def test_of_a_master_key_that_is_being_written_the_one_before_stays(door: Door, tmp_path: Path) -> None:
    assert door.keys.find(MASTER_KEY)
    for change in (lambda: (tmp_path / "master").write_text(""), (tmp_path / "master").unlink):
        change()
        door.later()
        assert door.keys.find(MASTER_KEY)
        assert door.keys.find("") is None


def test_an_expired_key_is_refused_with_the_moment(door: Door) -> None:
    text = add_key(door.paths, "anna", Rights(expires=int(NEAR_MIDNIGHT) + 30)).text
    door.later(29)
    assert door.keys.find(text)
    door.later(1)
    assert door.keys.find(text) is None
    assert door.keys.refusal(text) == "the key `anna` expired at 2026-11-30 00:00 UTC"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 2, "keys": []}',
        '{"schema": 1, "keys": [{}]}',
        '{"schema": 1, "keys": 3}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_a_damaged_file_refuses_people_and_keeps_the_master_key(
    damage: str, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    text = add_key(door.paths, "anna", Rights()).text
    assert door.keys.find(text)
    keys_file(door.paths).write_bytes(damage.encode("latin-1"))
    for _ in range(2):
        door.later()
        assert door.keys.find(text) is None
        assert door.keys.find(MASTER_KEY)
    assert door.keys.problem
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"stackwright keys: {keys_file(door.paths)}: ")
    assert told.endswith("; only the master key is accepted")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("name", name) for name in (MASTER, "", 3, "\ud800")),
        *(("salt", "00"), ("hash", "xx"), ("rights", None)),
        *(("rights", {**RIGHTS, name: value}) for name, value in (("models", "all"), ("tokens_per_day", math.inf))),
        *(("rights", {**RIGHTS, "expires": value}) for value in (math.nan, math.inf, -1e20, "soon")),
    ],
)
def test_a_key_that_is_not_as_stored_is_damage(field: str, value: object, door: Door) -> None:
    text = add_key(door.paths, "anna", Rights()).text
    document = json.loads(keys_file(door.paths).read_text())
    document["keys"][0][field] = value
    keys_file(door.paths).write_text(json.dumps(document))
    assert door.keys.find(text) is None
    assert door.keys.problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(change=st.tuples(st.sampled_from(["schema", "keys", "id", "name", "salt", "hash", "rights", *RIGHTS]), JSON))
def test_whatever_stands_in_the_file_the_master_key_opens(
    change: tuple[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("keys")
    rights: dict[str, object] = {**RIGHTS}
    row: dict[str, object] = {"id": "0" * 8, "name": "anna", "salt": "00" * 16, "hash": "00" * 32, "rights": rights}
    document: dict[str, object] = {"schema": 1, "keys": [row]}
    next(part for part in (document, row, rights) if change[0] in part)[change[0]] = change[1]
    (folder / "keys.json").write_text(json.dumps(document))
    (folder / "master").write_text(MASTER_KEY)
    keys = Keys(folder / "keys.json", folder / "master")
    assert keys.find(MASTER_KEY)
    assert keys.find("sk-" + "0" * 72) is None
    assert keys.refusal("sk-" + "0" * 72)


def admitted(limits: Limits, caller: Caller, times: int) -> int:
    """Return how many requests are admitted before the first refusal."""
    for number in range(times):
        try:
            asyncio.run(limits.admit(caller))
        except LimitError:
            return number
    return times


def refused(limits: Limits, caller: Caller) -> tuple[str, int]:
    """Return the sentence of a refusal, and its seconds."""
    with pytest.raises(LimitError) as refusal:
        asyncio.run(limits.admit(caller))
    assert refusal.value.status == 429
    return refusal.value.sentence, refusal.value.retry_after_s


def test_requests_a_minute(door: Door) -> None:
    limits, anna = Limits(door.usage, door.clock), Caller(name="anna", requests_per_minute=3)
    assert admitted(limits, anna, 9) == 3
    sentence = "the key `anna` has used its 3 requests a minute; the limit ends in 30 s"
    assert refused(limits, anna) == (sentence, 30)
    assert admitted(limits, Caller(name="bert", requests_per_minute=3), 3) == 3
    door.later(30)
    assert admitted(limits, anna, 3) == 3


def test_tokens_a_minute_and_a_day(door: Door) -> None:
    door.clock.now -= 3600
    limits, anna = Limits(door.usage, door.clock), Caller(name="anna", tokens_per_minute=30, tokens_per_day=60)
    asyncio.run(limits.count(anna, "small", 10, 20))
    sentence = "the key `anna` has used its 30 tokens a minute; the limit ends in 30 s"
    assert refused(limits, anna) == (sentence, 30)
    door.later(60)
    assert admitted(limits, anna, 1) == 1
    asyncio.run(limits.count(anna, "big", 10, 20))
    door.later(60)
    sentence = "the key `anna` has used its 60 tokens a day; the limit ends at 2026-11-30 00:00 UTC"
    assert refused(limits, anna) == (sentence, 3600 - 120 + 30)
    door.later(3600)
    assert admitted(limits, anna, 1) == 1


def test_usage_survives_a_restart_and_is_read_by_day_key_and_model(door: Door) -> None:
    anna, bert = Caller(name="anna", tokens_per_day=60), Caller(name="bert", requests_per_minute=1)
    first = Limits(door.usage, door.clock)
    asyncio.run(first.count(anna, "small", 1, 2))
    asyncio.run(first.count(anna, "Qwen/Qwen3-30B-Ä", 10, 50))
    assert admitted(first, bert, 2) == 1
    again = Limits(door.usage, door.clock)
    assert admitted(again, anna, 1) == 0
    door.later(60)
    asyncio.run(again.count(anna, "small", 5, 5))
    told = read_usage(door.paths, days=9)
    assert [(usage.day, usage.key, usage.refused) for usage in told] == [
        ("2026-11-30", "anna", 0),
        ("2026-11-29", "anna", 1),
        ("2026-11-29", "bert", 1),
    ]
    assert told[1].models == (
        ModelUsage(model="Qwen/Qwen3-30B-Ä", requests=1, prompt_tokens=10, completion_tokens=50),
        ModelUsage(model="small", requests=1, prompt_tokens=1, completion_tokens=2),
    )
    assert read_usage(door.paths, days=1, key="bert") == ()


def test_metrics_have_the_keys_name_and_never_fall(door: Door) -> None:
    anna, bert = Caller(name="anna"), Caller(name="bert", requests_per_minute=1)
    limits = Limits(door.usage, door.clock)
    asyncio.run(limits.count(anna, 'a "quoted" one', 1, 2))
    admitted(limits, bert, 2)
    for expected in (1, 2):
        assert (
            f'stackwright_key_requests_total{{key="anna",model="a \\"quoted\\" one"}} {expected}\n' in limits.metrics()
        )
        door.later(60)
        asyncio.run(limits.count(anna, 'a "quoted" one', 1, 2))
    lines = Limits(door.usage, door.clock).metrics().splitlines()
    assert 'stackwright_key_completion_tokens_total{key="anna",model="a \\"quoted\\" one"} 6' in lines
    assert 'stackwright_key_refused_total{key="bert"} 1' in lines


COUNTER = """
import asyncio, sys
from pathlib import Path
from keys import Caller, LimitError, Limits

async def work():
    limits, anna = Limits(Path(sys.argv[1])), Caller(name="anna", tokens_per_day=10**9)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(2000):
        await limits.admit(anna)
        await limits.count(anna, f"model-{number % 3}", 1, 2)

asyncio.run(work())
"""


@pytest.mark.subprocess
def test_workers_that_count_at_once_lose_nothing(door: Door) -> None:
    beside = {**os.environ, "PYTHONPATH": str(CHECKOUT / "compose" / "gateway"), "PYTHONDONTWRITEBYTECODE": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(door.usage)],
            env=beside,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("\n")
        assert worker.returncode == 0
    counted = [model for usage in read_usage(door.paths, days=2) for model in usage.models]
    assert sum(model.requests for model in counted) == 4000
    assert sum(model.completion_tokens for model in counted) == 8000
    assert {model.model for model in counted} == {"model-0", "model-1", "model-2"}


@pytest.mark.subprocess
def test_a_frozen_worker_that_holds_the_counts_stops_nobody(door: Door) -> None:
    hold = (
        "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    limits, anna = Limits(door.usage, door.clock), Caller(name="anna", requests_per_minute=2)
    asyncio.run(limits.admit(anna))
    (file,) = door.usage.iterdir()
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert admitted(limits, anna, 2) == 1
        holder.communicate()


def test_counts_that_cannot_be_kept_are_told_once_and_limit_all_the_same(
    door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    door.clock.now -= 3600
    limits, anna = Limits(door.usage / "missing", door.clock), Caller(name="anna", requests_per_minute=2)
    assert admitted(limits, anna, 9) == 2
    door.later(60)
    assert admitted(limits, anna, 9) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.endswith("No such file or directory; each worker counts for itself, and usage is lost")


def test_counts_are_kept_as_soon_as_they_can_be(door: Door) -> None:
    door.clock.now -= 3600
    limits, anna = Limits(door.usage / "later", door.clock), Caller(name="anna")
    asyncio.run(limits.count(anna, "small", 1, 1))
    (door.usage / "later").mkdir()
    asyncio.run(limits.count(anna, "small", 1, 1))
    assert list((door.usage / "later").iterdir()) == []
    door.later(60)
    asyncio.run(limits.count(anna, "small", 2, 2))
    assert (
        'stackwright_key_prompt_tokens_total{key="anna",model="small"} 2\n'
        in Limits(door.usage / "later", door.clock).metrics()
    )


def test_the_counts_are_private(door: Door) -> None:
    asyncio.run(Limits(door.usage, door.clock).count(Caller(name="anna"), "small", 1, 1))
    (file,) = door.usage.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_caller_without_limits_costs_no_file(door: Door) -> None:
    asyncio.run(Limits(door.usage, door.clock).admit(Caller(name="anna")))
    assert list(door.usage.iterdir()) == []


def test_the_command_and_the_gateway_agree() -> None:
    """The gateway's Python has nothing of the package, so each has its own words for what both read."""
    assert (gateway.SCHEMA, gateway.MASTER) == (access_key.KEYS_SCHEMA, access_key.MASTER)
    assert (gateway.RECORD.format, gateway.RECORD.size) == (key_usage.ROW.format, key_usage.ROW.size)
    assert (gateway.ENDING, gateway.MOST_BYTES) == (key_usage.ENDING, key_usage.MOST_BYTES)
    assert gateway.hash_key(b"sk-x", bytes(16)) == access_key.hash_key("sk-x", bytes(16))
    assert access_key.text_of_key("12345678", "9")[gateway.ID] == "12345678"
