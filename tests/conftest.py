"""What every test shares: the guard, the order of tests, and the option that rewrites golden files."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.guard import Permission, install

PERMISSION = Permission()
ROOT = Path(__file__).parent.parent
INTEGRATION = Path(__file__).parent / "integration"
NVIDIA_DEVICE = Path("/dev/nvidiactl")
LONG_S = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options; CI gives none."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files with what is produced now")
    parser.addoption("--long", action="store_true", help="also run the tests that are marked `long`")


def pytest_configure() -> None:
    """Begin to watch what tests do.

    A shell starts background jobs with SIGINT ignored, and every program below inherits that: tests that interrupt one
    would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Under nohup the same holds of SIGHUP, which a command then rightly lets pass.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Programs that tests start import the package and the tests from here, wherever they work.
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT / "generator"), str(ROOT)))
    # How long an example takes depends on what else the machine does; benchmarks/ measures speed.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    install(PERMISSION)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what lies under integration/, leave out or skip what is not for this run, and run the quick tests first."""
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.integration)
        if item.get_closest_marker("gpu") and not NVIDIA_DEVICE.exists():
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU ({NVIDIA_DEVICE} is not there)"))
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how long each file took, fixtures included, where that is long: tests/README.md argues these."""
    seconds: Counter[str] = Counter()
    for report in (each for kind in terminalreporter.stats.values() for each in kind):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += round(report.duration * 1000)
    long = [(name, spent // 1000) for name, spent in seconds.most_common() if spent >= LONG_S * 1000]
    if long:
        terminalreporter.section("files that take long")
        for name, spent in long:
            terminalreporter.write_line(f"{spent:5} s  {name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Give each test, its fixtures included, only what its marks allow."""
    real = item.get_closest_marker("integration") is not None or item.get_closest_marker("gpu") is not None
    PERMISSION.network = real
    PERMISSION.programs = real or item.get_closest_marker("subprocess") is not None
    try:
        return (yield)
    finally:
        PERMISSION.network = PERMISSION.programs = True


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Say whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
