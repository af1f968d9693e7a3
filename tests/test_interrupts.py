"""Signals: each ends a command cleanly, and the first one during its cleaning up does not end that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from stackwright.interrupts import clean_end, shielded

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), clean_end():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


class Interrupting:
    """Sends a signal where Python swallows what is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_not_lost_in_a_finalizer_that_swallows_what_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt), clean_end():
        finalize_and_wait()


def finalize_and_wait() -> None:
    """Return only where the signal was lost."""
    Interrupting()
    threading.Event().wait(60)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_in_a_shield_only_warns(number: signal.Signals) -> None:
    warned: list[int] = []
    with shielded(lambda: warned.append(1)):
        os.kill(os.getpid(), number)
        went_on = True
    assert (warned, went_on) == ([1], True)
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice(number, warned)
    assert warned == [1, 2]


def interrupt_twice(number: int, warned: list[int]) -> None:
    """Send two signals into a shield."""
    with shielded(lambda: warned.append(2)):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)


@pytest.mark.subprocess
def test_what_nohup_has_set_aside_stays_so() -> None:
    code = """
import os, signal
from stackwright.interrupts import clean_end, shielded
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with clean_end(), shielded(lambda: None):
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "goes on\n"


@pytest.mark.parametrize(("opens", "done"), [(True, ["went on"]), (False, ["went on", "ended"])])
def test_an_interruption_waits_at_a_shut_gate_until_it_opens_or_the_block_ends(opens: bool, done: list[str]) -> None:
    went: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pass_a_gate(went, opens=opens)
    assert went == done


def pass_a_gate(went: list[str], *, opens: bool) -> None:
    """Send a signal while the gate is shut; write down how far it goes."""
    with clean_end() as gate:
        gate.shut = True
        os.kill(os.getpid(), signal.SIGTERM)
        went.append("went on")
        if opens:
            gate.open()
        went.append("ended")
