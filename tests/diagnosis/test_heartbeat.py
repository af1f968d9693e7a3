"""What the program beside an engine has noted, as `status` and `doctor` tell it."""

from __future__ import annotations

import re

import msgspec
from stackwright.diagnosis.heartbeat import Hang, Heartbeat

NOW_S = 1_800_000_000.0


def test_nothing_is_said_of_an_engine_that_never_hung() -> None:
    assert Heartbeat().tell(NOW_S) is None


def test_the_last_hang_of_the_day_is_told_with_the_number_of_them() -> None:
    old, first, last = (Hang(at=NOW_S - ago, why=f"{ago} s ago") for ago in (90_000, 600, 60))
    assert re.fullmatch(r"hung at \d\d:\d\d: 60 s ago", Heartbeat(hung=(old, last)).tell(NOW_S) or "")
    assert re.fullmatch(r"hung 2 times, last at \d\d:\d\d: 60 s ago", Heartbeat(hung=(first, last)).tell(NOW_S) or "")
    assert Heartbeat(hung=(old,)).tell(NOW_S) is None


def test_gpus_that_went_come_first() -> None:
    told = Heartbeat(hung=(Hang(at=NOW_S, why="x"),), gpus=("GPU-1 is gone", "GPU-2 has 2 of 4 NVLinks")).tell(NOW_S)
    assert told is not None
    assert told.startswith("GPU fault: GPU-1 is gone; GPU-2 has 2 of 4 NVLinks; hung at ")


def test_the_file_is_read_as_it_is_written() -> None:
    text = b'{"schema": 1, "hung": [{"at": 1.5, "silent_s": 2, "why": "w"}], "gpus": ["g"]}\n'
    found = msgspec.convert(msgspec.json.decode(text), Heartbeat)
    assert found == Heartbeat(hung=(Hang(at=1.5, silent_s=2.0, why="w"),), gpus=("g",))
