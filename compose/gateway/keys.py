"""Keys of people and programs: whose a key is, what it may ask for, and what has been used with it.

`stackwright keys` writes keys.json and reads the counts. Neither needs a restart: the files are looked at once a
second. The master key is the administrator's, and is followed in the same way. Standard library only; runs inside the
gateway, in each of its workers (docs/how-to/keys.md).
"""

import asyncio
import contextlib
import fcntl
import hmac
import json
import math
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

Clock = Callable[[], float]

SCHEMA = 1
MASTER = "master"
"""The administrator's name in the counts; no key of keys.json may have it."""

MOUNTED_AT = "/run/stackwright/"
"""Where a container has its folders."""

CALLER, KEY = "stackwright.caller", "stackwright.key"
"""Where a request's scope tells for whom it is, and the key that it showed."""

ACTS_FOR = "x-stackwright-for"
"""The header in which a service of the stack names the key for which it asks a model."""

LOOK_EVERY_S = 1.0

LONGEST_KEY = 512
"""Longer texts are no keys. Hashing whatever a client sends would cost what it likes."""

ID = slice(3, 11)
"""Where a key, `sk-` with 8 and 64 hexadecimal digits, tells which key it is."""

MINUTE_S, DAY_S = 60, 86_400

LOCKED_MOST_S, FROZEN_MOST_S, LOCKED_AGAIN_S = 1.0, 0.01, 0.0005
"""How long a request waits for the counts, which are held for microseconds: after that, their holder is frozen. The
next ones then wait for less, until the counts are free.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """What a key may do. `name` is `master` for the administrator; no models mean all, and 0 means no limit.

    `expires` is in Unix time. `metrics_only`: it may read the figures, and ask no model. `acts_for`: it may ask in the
    name of another key, with the rights and the limits of that one.
    """

    name: str
    models: frozenset[str] = frozenset()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    expires: float | None = None
    metrics_only: bool = False
    acts_for: bool = False

    def may_ask(self, model: str) -> bool:
        """Return whether the key is for this model, by its served name."""
        return not self.metrics_only and (not self.models or model in self.models)


class ActingError(Exception):
    """A key asks in the name of another, and that cannot be: the status, and why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class LimitError(Exception):
    """A request beyond a limit of its key: the status, which limit and when it ends, and the seconds until then."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after_s = 429, sentence, retry_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key as stored."""

    salt: bytes
    hash: bytes
    caller: Caller


NOBODY = Entry(salt=bytes(16), hash=bytes(32), caller=Caller(name=""))
"""Compared with a key that names no entry, so that it takes as long as any other."""


def hash_key(key: bytes, salt: bytes) -> bytes:
    """Return what is stored of a key. A quick hash: nobody guesses 256 random bits, and every request pays for it."""
    return blake2b(key, digest_size=32, salt=salt, person=b"stackwright key").digest()


def open_keys(environment: Mapping[str, str]) -> "Keys":
    """Return the keys of the gateway that runs with these variables.

    A container is given the master key as a secret, which stays what it was when another file is renamed over it, and
    in the folder of the keys, where it changes.
    """
    folder, name = Path(environment.get("GATEWAY_KEYS", MOUNTED_AT + "keys")), "litellm_master_key"
    secrets = Path(environment.get("SECRETS_DIRECTORY", "/run/secrets"))
    is_shared = "SECRETS_DIRECTORY" not in environment and os.access(folder / name, os.R_OK)
    return Keys(folder / "keys.json", (folder if is_shared else secrets) / name)


def open_limits(environment: Mapping[str, str]) -> "Limits":
    """Return the counts of the gateway that runs with these variables."""
    return Limits(Path(environment.get("GATEWAY_USAGE", MOUNTED_AT + "usage")))


class Keys:
    """The keys in force: those of keys.json, and the master key."""

    def __init__(self, keys_file: Path, master_file: Path, clock: Clock = time.time) -> None:
        self.keys_file, self.master_file, self._clock = keys_file, master_file, clock
        self._defaults = {
            "requests_per_minute": int(os.environ.get("GATEWAY_KEY_REQUESTS_PER_MINUTE") or 0),
            "tokens_per_minute": int(os.environ.get("GATEWAY_KEY_TOKENS_PER_MINUTE") or 0),
            "tokens_per_day": 0,
        }
        self._administrator = Caller(
            name=MASTER,
            requests_per_minute=self._defaults["requests_per_minute"],
            tokens_per_minute=self._defaults["tokens_per_minute"],
        )
        self._entries: Mapping[str, Entry] = {}
        self._named: Mapping[str, Caller] = {}
        self._master = b""
        self._seen: dict[Path, object] = {}
        self._looked_s = -math.inf
        self.problem: str | None = None
        """Why the keys of people are refused, where keys.json is damaged."""

    def find(self, key: str) -> Caller | None:
        """Return whose key this is; None where it is nobody's, or has expired."""
        now = self._clock()
        if abs(now - self._looked_s) >= LOOK_EVERY_S:
            self._looked_s = now
            self._look()
        given = key.encode("utf-8", "surrogatepass")
        if len(given) > LONGEST_KEY:
            return None
        entry = self._entries.get(key[ID], NOBODY)
        is_master = hmac.compare_digest(given, self._master) and bool(given)
        is_theirs = hmac.compare_digest(hash_key(given, entry.salt), entry.hash)
        if is_master:
            return self._administrator
        return entry.caller if is_theirs and not _has_expired(entry.caller, now) else None

    def acting_for(self, actor: Caller, name: str) -> Caller:
        """Return whose rights and limits hold for a request that one key makes in the name of another.

        Models that either may not ask are left out.

        Raises:
            ActingError: 403 where it may not, or where no model is left; 401 where there is no such key, or not yet.
        """
        if not actor.acts_for:
            raise ActingError(403, f"the key `{actor.name}` may not ask in the name of another")
        caller = self._administrator if name == MASTER else self._named.get(name)
        if caller is None:
            raise ActingError(401, f"there is no key `{name[:64]}` to ask for")
        if _has_expired(caller, self._clock()):
            raise ActingError(403, _expiry(caller))
        if not actor.models or caller.metrics_only:
            return caller
        models = caller.models & actor.models if caller.models else actor.models
        if not models:
            raise ActingError(403, f"the key `{actor.name}` is for no model of `{caller.name}`")
        return replace(caller, models=models)

    def refusal(self, key: str) -> str:
        """Return why `find` knows nobody by this key, for the client who shows it."""
        entry = self._entries.get(key[ID], NOBODY)
        given = key.encode("utf-8", "surrogatepass")[:LONGEST_KEY]
        if entry.caller.expires is not None and hmac.compare_digest(hash_key(given, entry.salt), entry.hash):
            return _expiry(entry.caller)
        return "wrong or missing key"

    def _look(self) -> None:
        """Read the files that have changed. Of a master key that is being written, the one before stays in force."""
        if self._has_changed(self.master_file):
            try:
                self._master = self.master_file.read_bytes().strip() or self._master
            except OSError as failure:
                _tell(f"{self.master_file}: {failure.strerror}; the master key read before stays in force")
        if self._has_changed(self.keys_file):
            self._entries, self.problem = self._read()
            self._named = {entry.caller.name: entry.caller for entry in self._entries.values()}
            if self.problem is not None:
                _tell(f"{self.keys_file}: {self.problem}; only the master key is accepted")

    def _has_changed(self, file: Path) -> bool:
        try:
            found = file.stat()
            stamp: object = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        except OSError as failure:
            stamp = failure.errno
        has_changed = self._seen.get(file) != stamp
        self._seen[file] = stamp
        return has_changed

    def _read(self) -> tuple[Mapping[str, Entry], str | None]:
        """Return the keys of the file, by their ids; none of a damaged one, and what is wrong with it."""
        try:
            text = self.keys_file.read_bytes()
        except FileNotFoundError:
            return {}, None
        except OSError as failure:
            return {}, f"cannot be read: {failure.strerror}"
        try:
            document = json.loads(text)
            if document["schema"] != SCHEMA:
                return {}, f"schema {document['schema']!r} is not {SCHEMA}"
            return {str(row["id"]): _entry(row, self._defaults) for row in document["keys"]}, None
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as failure:
            return {}, f"damaged: {type(failure).__name__}: {str(failure)[:100]}"


def _entry(row: Mapping[str, Any], defaults: Mapping[str, int]) -> Entry:
    """Return a key of the file; a limit that it does not set is the setting's. Raises where anything is amiss."""
    salt, hashed, rights = bytes.fromhex(row["salt"]), bytes.fromhex(row["hash"]), row["rights"]
    is_named = row["name"].isascii() and row["name"] not in ("", MASTER)
    if not is_named or len(salt) != 16 or len(hashed) != 32 or not isinstance(rights["models"], list):
        raise ValueError(f"the key `{row['name']}`")
    limits = {name: default if rights[name] is None else int(rights[name]) for name, default in defaults.items()}
    caller = Caller(
        name=row["name"],
        models=frozenset(map(str, rights["models"])),
        requests_per_minute=limits["requests_per_minute"],
        tokens_per_minute=limits["tokens_per_minute"],
        tokens_per_day=limits["tokens_per_day"],
        expires=None if rights["expires"] is None else float(rights["expires"]),
        # A file of before has no such rights.
        metrics_only=rights.get("metrics_only") is True,
        acts_for=rights.get("acts_for") is True,
    )
    if caller.expires is not None:
        _utc(caller.expires)  # raises where it is no time
    return Entry(salt=salt, hash=hashed, caller=caller)


def _has_expired(caller: Caller, now: float) -> bool:
    return caller.expires is not None and now >= caller.expires


def _expiry(caller: Caller) -> str:
    return f"the key `{caller.name}` expired at {_utc(caller.expires or 0)}"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _tell(sentence: str) -> None:
    print(f"stackwright keys: {sentence}", file=sys.stderr, flush=True)


RECORD = struct.Struct("<64s256s7q")
"""A row of a day's file: the key's name, the model's, and `Counts`. A key's row without a model is for all its models.

`stackwright keys usage` reads it too (generator/stackwright/project/key_usage.py).
"""

ROOM_BYTES = 128 * RECORD.size
"""What a day's file has from its start, so that a disk that fills up later takes no count away."""

MOST_BYTES = 65_536 * RECORD.size

ENDING = ".counts"


@dataclass(slots=True)
class Counts:
    """What was used in a day, and in the last minute that anything was, in the order of the file.

    `requests` are answered ones; `refused` are those beyond a limit.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: int = 0
    minute: int = 0
    minute_requests: int = 0
    minute_tokens: int = 0

    def begin_minute(self, minute: int) -> None:
        """Forget what was used in another minute."""
        if minute != self.minute:
            self.minute, self.minute_requests, self.minute_tokens = minute, 0, 0


Row = tuple[str, str]
"""A key's name, and a model's or nothing."""


class DayFile:
    """The counts of one day, in a file that all workers share; of this worker alone where it cannot be written.

    `async with` holds it for a change, in which nothing may be awaited.
    """

    def __init__(self, folder: Path, day: str) -> None:
        self.day, self.problem = day, ""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = -1
        try:
            self._file = os.open(folder / f"{day}{ENDING}", flags, 0o600)
            os.posix_fallocate(self._file, 0, ROOM_BYTES)
        except OSError as failure:
            self.problem = f"{folder}: {failure.strerror}"
            if self._file >= 0:
                os.close(self._file)
            self._file = os.memfd_create(day)
        self._places: dict[Row, int] = {}
        self._end = 0
        self._patience_s = LOCKED_MOST_S

    async def __aenter__(self) -> None:
        """Take hold, unless the holder is frozen: a count may then be lost, and nobody waits for it."""
        until: float | None = None
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                now = time.monotonic()
                until = now + self._patience_s if until is None else until
                if now >= until:
                    self._patience_s = FROZEN_MOST_S
                    return
                await asyncio.sleep(LOCKED_AGAIN_S)
            else:
                self._patience_s = LOCKED_MOST_S
                return

    async def __aexit__(self, kind: object, failure: object, trace: object) -> None:
        """Let go."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def rows(self) -> "Iterator[tuple[int, Row, Counts]]":
        """Yield every row."""
        return read_rows(self._file)

    def change(self, row: Row, minute: int) -> tuple[int, Counts]:
        """Return where a row is or is to be, and its counts in this minute; the file is held."""
        place = self._places.get(row)
        if place is None:
            place = self._find(row)
        counts = Counts(*RECORD.unpack(os.pread(self._file, RECORD.size, place))[2:])
        counts.begin_minute(minute)
        return place, counts

    def write(self, place: int, row: Row, counts: Counts) -> None:
        """Write a row."""
        day = (counts.requests, counts.prompt_tokens, counts.completion_tokens, counts.refused)
        numbers = (*day, counts.minute, counts.minute_requests, counts.minute_tokens)
        os.pwrite(self._file, RECORD.pack(row[0].encode(), row[1].encode()[:256], *numbers), place)

    def _find(self, row: Row) -> int:
        for place, of, _ in read_rows(self._file, self._end):
            self._places[of] = place
            self._end = place + RECORD.size
        if row not in self._places:
            if self._end >= MOST_BYTES:
                raise OSError(f"more than {MOST_BYTES // RECORD.size} keys and models in a day")
            self.write(self._end, row, Counts())
            self._places[row] = self._end
            self._end += RECORD.size
        return self._places[row]


def read_rows(file: int, place: int = 0) -> "Iterator[tuple[int, Row, Counts]]":
    """Yield the rows of an open file from a place on: where, of which key and model, and their counts."""
    while len(row := os.pread(file, RECORD.size, place)) == RECORD.size:
        key, model, *numbers = RECORD.unpack(row)
        if not key.rstrip(b"\0"):
            return
        names = (key.rstrip(b"\0").decode(errors="replace"), model.rstrip(b"\0").decode(errors="replace"))
        yield place, names, Counts(*numbers)
        place += RECORD.size


class Limits:
    """What each key has used, over all workers, and whether that leaves room for one more request.

    A minute is one of the clock's, and a day is one of UTC's. Tokens are known when they are counted, after the answer.
    """

    def __init__(self, folder: Path, clock: Clock = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._today: DayFile | None = None
        self._past: tuple[str, dict[Row, Counts]] = ("", {})
        self._problem = ""
        self._retry_at_s = -math.inf

    async def admit(self, caller: Caller) -> None:
        """Count a request against the limits of its key. Raises LimitError where it is beyond one."""
        if not (caller.requests_per_minute or caller.tokens_per_minute or caller.tokens_per_day):
            return
        now = self._clock()
        refusal = None
        with self._telling():
            today = self._open(now)
            async with today:
                row = (caller.name, "")
                place, counts = today.change(row, int(now // MINUTE_S))
                refusal = _refusal(caller, counts, now)
                if refusal is None:
                    counts.minute_requests += 1
                else:
                    counts.refused += 1
                today.write(place, row, counts)
        if refusal is not None:
            raise refusal

    async def count(self, caller: Caller, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer of a model, by its served name."""
        now = self._clock()
        with self._telling():
            today = self._open(now)
            async with today:
                for row in ((caller.name, model), (caller.name, "")):
                    place, counts = today.change(row, int(now // MINUTE_S))
                    counts.requests += 1
                    counts.prompt_tokens += prompt_tokens
                    counts.completion_tokens += completion_tokens
                    counts.minute_tokens += prompt_tokens + completion_tokens
                    today.write(place, row, counts)

    def totals(self) -> dict[Row, Counts]:
        """Return what was ever counted by key and model; without a model, for a key as a whole."""
        today = self._open(self._clock())
        if self._past[0] != today.day:
            past: dict[Row, Counts] = {}
            for path in self._folder.glob(f"*{ENDING}"):
                if path.stem != today.day:
                    with path.open("rb") as file:
                        _add(past, read_rows(file.fileno()))
            self._past = (today.day, past)
        totals = {row: replace(counts) for row, counts in self._past[1].items()}
        _add(totals, today.rows())
        return totals

    def metrics(self) -> str:
        """Return the totals in Prometheus' text format, each with its key's name; the same of every worker."""
        totals = sorted(self.totals().items())
        of_models = [(of, counts) for of, counts in totals if of[1]]
        lines = ["# TYPE stackwright_key_requests_total counter"]
        lines += [f"stackwright_key_requests_total{_labels(*of)} {counts.requests}" for of, counts in of_models]
        for kind in ("prompt", "completion"):
            metric = f"stackwright_key_{kind}_tokens_total"
            lines.append(f"# TYPE {metric} counter")
            lines += [f"{metric}{_labels(*of)} {getattr(counts, f'{kind}_tokens')}" for of, counts in of_models]
        lines.append("# TYPE stackwright_key_refused_total counter")
        of_keys = [(of, counts) for of, counts in totals if not of[1]]
        lines += [f"stackwright_key_refused_total{_labels(of[0])} {counts.refused}" for of, counts in of_keys]
        return "\n".join(lines) + "\n"

    def _open(self, now: float) -> DayFile:
        """Return today's file. One that could not be opened is tried again each minute."""
        day, today = datetime.fromtimestamp(now, UTC).date().isoformat(), self._today
        if today is not None and today.day == day and (not today.problem or now < self._retry_at_s):
            return today
        opened = DayFile(self._folder, day)
        self._retry_at_s = now + MINUTE_S
        if opened.problem:
            self._notice(f"{opened.problem}; each worker counts for itself, and usage is lost")
            if today is not None and today.day == day:
                opened.close()
                return today
        if today is not None:
            today.close()
        self._today = opened
        return opened

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell of a failure to count: it is no reason to refuse a request."""
        try:
            yield
        except OSError as failure:
            self._notice(f"usage is not counted: {failure.strerror or failure}")

    def _notice(self, problem: str) -> None:
        """Tell of a problem once."""
        if problem != self._problem:
            self._problem = problem
            _tell(problem)


def _refusal(caller: Caller, counts: Counts, now: float) -> LimitError | None:
    """Return which limit a further request would be beyond; None where there is room."""
    minute_s, day_s = (math.ceil(length - now % length) for length in (MINUTE_S, DAY_S))
    tokens = counts.prompt_tokens + counts.completion_tokens
    for limit, used, what, left_s in (
        (caller.requests_per_minute, counts.minute_requests, "requests a minute", minute_s),
        (caller.tokens_per_minute, counts.minute_tokens, "tokens a minute", minute_s),
        (caller.tokens_per_day, tokens, "tokens a day", day_s),
    ):
        if limit and used >= limit:
            ends = f"in {left_s} s" if left_s <= MINUTE_S else f"at {_utc(now + left_s)}"
            return LimitError(f"the key `{caller.name}` has used its {limit} {what}; the limit ends {ends}", left_s)
    return None


def _add(totals: dict[Row, Counts], rows: Iterator[tuple[int, Row, Counts]]) -> None:
    for _, row, counts in rows:
        total = totals.setdefault(row, Counts())
        for name in ("requests", "prompt_tokens", "completion_tokens", "refused"):
            setattr(total, name, getattr(total, name) + getattr(counts, name))


def _labels(key: str, model: str | None = None) -> str:
    labels = {"key": key} if model is None else {"key": key, "model": model}
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in labels.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(labels, quoted, strict=True)) + "}"
