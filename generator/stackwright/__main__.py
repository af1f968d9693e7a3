"""Entry points. The only module that exits."""

from __future__ import annotations

import gc
import os
import signal
import sys

# A standard stream that is closed (`>&-`) would give its number to the next file that is opened, such as a lock.
while (taken := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
os.close(taken)

# Until `main` is at work there is nothing to clean up: Ctrl-C ends it at once, without the traceback of an import.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Imports and plans make many objects and hardly any garbage: looking for it is a twentieth of a short command's time.
gc.set_threshold(100_000)

# msgspec asks for typing_extensions before typing, and that brings inspect, ast and dis: a twentieth, too. From Python
# 3.11 on typing has all that it takes (msgspec 0.22, _utils.py).
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec.structs  # noqa: F401  # imported for what it looks for

del sys.modules["typing_extensions"]

from stackwright.cli import main  # the imports are what the lines above are for


def stackwright() -> None:
    """Run `stackwright COMMAND`."""
    sys.exit(main(sys.argv[1:]))


def configure_gpu() -> None:
    """Run `configure-gpu`."""
    sys.exit(main(["configure-gpu", *sys.argv[1:]]))


def start_environment() -> None:
    """Run `start-environment`."""
    sys.exit(main(["start-environment", *sys.argv[1:]]))


def stop_environment() -> None:
    """Run `stop-environment`."""
    sys.exit(main(["stop-environment", *sys.argv[1:]]))


def validate_environment() -> None:
    """Run `validate-environment`."""
    sys.exit(main(["validate-environment", *sys.argv[1:]]))


if __name__ == "__main__":
    stackwright()
