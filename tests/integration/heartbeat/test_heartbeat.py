"""An engine that hangs is ended, with its stacks in the log, so that what already restarts it does.

A stand-in of two processes, then real vLLM on the processor. Nothing here waits for a time: an engine is stopped, and
the test waits for the end of the program that watches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stackwright.engines.vllm.engine import VLLM
from stackwright.models.smoke_model import write_smoke_model
from stackwright.runtime.provision import ensure

from tests.integration.heartbeat.watched import HUNG, KILLED, Watched, stand_in, vllm
from tests.integration.project import free_port
from tests.integration.quick_engine.layout import planned_engine

Make = Callable[..., Watched]
ASKED = "stand-in: asked for a token"
LOADED_GRACE_S = "10"
"""Of real vLLM, on a machine on which other tests run."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a maker of watched stand-ins, each in a folder of its own."""
    with contextlib.ExitStack() as ended:

        def one(*words: str, notes: str = "", options: tuple[str, ...] = ()) -> Watched:
            folder = tmp_path / str(free_port())
            folder.mkdir()
            if notes:
                (folder / "notes.json").write_text(notes)
            engine: Watched = ended.enter_context(stand_in(folder, free_port(), *words, options=options))
            return engine

        yield one


def pids(engine: Watched) -> tuple[int, int]:
    """Return the server and the core of a stand-in."""
    found = engine.await_words(r"stand-in: server (\d+), core (\d+)")
    return int(found[1]), int(found[2])


def let_a_grace_pass(make: Make) -> None:
    """Let another engine hang: its end comes more than a grace after its start."""
    other = make()
    _, core = pids(other)
    other.await_words(ASKED)
    os.kill(core, signal.SIGSTOP)
    assert other.ends() == HUNG


def in_background(engine: Watched, **fields: object) -> threading.Thread:
    """Ask for a completion beside the test."""
    asked = threading.Thread(target=lambda: engine.complete(**fields), daemon=True)
    asked.start()
    return asked


def test_a_core_that_stops_while_idle_is_found_by_a_token(make: Make) -> None:
    engine = make()
    _, core = pids(engine)
    engine.await_words(ASKED)
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG
    (hang,) = engine.hangs()
    assert re.search(rf"1 request open, no token for \d+ s.*; .* {core} stopped by a signal", hang["why"])
    assert engine.said(r"heartbeat: hung: 1 request open")
    assert engine.said(r"Fatal Python error: Aborted[\s\S]*in make_tokens"), "no stack of the core"
    assert engine.said("heartbeat: ended; hang 1 within an hour, 3 are followed by a restart")


def test_a_server_that_stops_is_found(make: Make) -> None:
    engine = make()
    server, _ = pids(engine)
    engine.await_words(ASKED)
    os.kill(server, signal.SIGSTOP)
    assert engine.ends() == HUNG
    assert re.search(rf"its server has not answered for \d+ s; .* {server} stopped", engine.hangs()[0]["why"])


def test_nothing_is_asked_where_that_could_load_a_model(make: Make, tmp_path: Path) -> None:
    engine = make(options=("--ask-nothing",))
    _, core = pids(engine)
    engine.await_words("stand-in: listens")
    let_a_grace_pass(make)
    assert engine.said(ASKED) is None
    asked = in_background(engine, until=str(tmp_path / "never"))
    engine.await_words(ASKED)
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG
    asked.join()


def test_a_long_prompt_in_steps_is_no_hang(make: Make, tmp_path: Path) -> None:
    engine = make()
    engine.await_words("stand-in: listens")
    asked = in_background(engine, until=str(tmp_path / "enough"))
    engine.await_words(ASKED)
    let_a_grace_pass(make)
    assert engine.process.poll() is None
    (tmp_path / "enough").touch()
    asked.join()
    assert not engine.notes.exists()


def test_a_request_that_is_counted_and_not_there_is_no_hang(make: Make) -> None:
    engine = make("--leaks")
    engine.await_words(ASKED)
    let_a_grace_pass(make)
    assert engine.process.poll() is None
    assert not engine.notes.exists()


def test_a_start_is_not_judged(make: Make, tmp_path: Path) -> None:
    engine = make(f"--starts-at={tmp_path / 'loaded'}")
    pids(engine)
    let_a_grace_pass(make)
    assert engine.process.poll() is None
    (tmp_path / "loaded").touch()
    engine.await_words(ASKED)


def test_a_pause_of_everything_is_no_hang(make: Make) -> None:
    engine = make()
    _, core = pids(engine)
    engine.await_words(ASKED)
    os.killpg(engine.process.pid, signal.SIGSTOP)
    let_a_grace_pass(make)
    os.killpg(engine.process.pid, signal.SIGCONT)
    assert engine.complete() == 200
    assert not engine.notes.exists()
    os.kill(core, signal.SIGSTOP)
    assert engine.ends() == HUNG


def test_the_fourth_hang_within_an_hour_stays_down(make: Make) -> None:
    now = time.time()
    past = [{"at": now - ago, "silent_s": 1, "why": "before"} for ago in (4000, 3000, 2000, 1000)]
    engine = make(notes=json.dumps({"schema": 1, "hung": past}))
    os.kill(pids(engine)[1], signal.SIGSTOP)
    assert engine.ends() == 0
    assert engine.said("heartbeat: stays down: 4 hangs within an hour; `stackwright doctor` names them")
    assert [hang["why"] == "before" for hang in engine.hangs()] == [True, True, True, False]


def test_an_engine_that_ends_by_itself_has_failed(make: Make) -> None:
    engine = make()
    engine.await_words(ASKED)
    assert engine.ask("/v1/die", now=True) == 0
    assert engine.ends() == 1


def test_an_engine_that_is_killed_is_told_so(make: Make) -> None:
    engine = make()
    server, _ = pids(engine)
    os.kill(server, signal.SIGKILL)
    assert engine.ends() == KILLED


def test_an_engine_that_is_stopped_has_not_failed(make: Make) -> None:
    engine = make()
    engine.await_words(ASKED)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.ends() == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def python(state_folder: Path) -> Path:
    """Give the Python of the processor's engine."""
    return ensure(state_folder, VLLM.recipe(planned_engine(), on_gpus=False), lambda *_: None) / "bin" / "python"


@pytest.fixture
def start_vllm(python: Path, tmp_path: Path) -> Iterator[Make]:
    """Give a starter of real vLLM; several start side by side."""
    model = tmp_path / "model"
    model.mkdir()
    write_smoke_model(model)
    with contextlib.ExitStack() as ended:

        def one(*, ranks: int) -> Watched:
            folder = tmp_path / str(free_port())
            folder.mkdir()
            engine = vllm(folder, python, model, free_port(), grace_s=LOADED_GRACE_S, ranks=ranks)
            return ended.enter_context(engine)

        yield one


@pytest.mark.long  # benchmarks/heartbeat.py does the same with the grace that a plan has
def test_vllm_whose_core_or_server_stops(start_vllm: Make) -> None:
    loaded, idle = start_vllm(ranks=1), start_vllm(ranks=1)
    for engine in (loaded, idle):
        engine.await_answer()
    with loaded.writing():
        os.kill(loaded.named("VLLM::EngineCore")[0], signal.SIGSTOP)
        os.kill(idle.named("vllm.entrypoints.openai.api_server")[-1], signal.SIGSTOP)
        assert (loaded.ends(), idle.ends()) == (HUNG, HUNG)
    assert re.search(
        r"\d requests? open, no token for .* VLLM::EngineCor \d+ stopped by a signal", loaded.hangs()[0]["why"]
    )
    assert loaded.said(r"Fatal Python error: Aborted[\s\S]*v1/engine/core.py"), "no stack of the core"
    assert re.search(r"its server has not answered for .* python\S* \d+ stopped by a signal", idle.hangs()[0]["why"])


def test_vllm_whose_worker_stops_or_is_killed(start_vllm: Make) -> None:
    stopped, killed = start_vllm(ranks=2), start_vllm(ranks=2)
    for engine in (stopped, killed):
        engine.await_answer()
    os.kill(stopped.named("VLLM::Worker")[-1], signal.SIGSTOP)
    os.kill(killed.named("VLLM::Worker")[-1], signal.SIGKILL)
    assert killed.ends() != 0
    assert stopped.ends() == HUNG
    assert re.search(
        r"1 request open, no token for .* VLLM::Worker\S* \d+ stopped by a signal", stopped.hangs()[0]["why"]
    )
