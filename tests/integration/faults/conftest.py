"""What the fault tests share: images, projects under either runtime, and the check that each fault has to pass.

def test_something(project, fault):
    case = fault("what happens", project)           # takes note of the person's files
    ended = run(project, "start-environment", "dev", "--runtime=compose")
    case.ends(ended, code=6, says=("the message's words", "the hint's words"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.faults.command import Ended
from tests.integration.faults.left import files_of, find_left
from tests.integration.faults.table import Row, append, plain
from tests.integration.images import Images
from tests.integration.project import Project, plain_projects

INTERRUPTED = 130


class Fault:
    """One fault on one project: made before it happens, and asked after it what the person is left with."""

    def __init__(self, name: str, project: Project, runtime: str) -> None:
        self.name, self._project, self._runtime = name, project, runtime
        self._before = files_of(project)

    def ends(
        self,
        ended: Ended,
        *,
        code: int,
        says: tuple[str, ...] = (),
        left: str = "nothing",
        changed: tuple[str, ...] = (),
        engine: bool = True,
        seconds: float | None = None,
    ) -> None:
        """Check how a command ended, and note the row of the table.

        Args:
            code: the documented exit code, or minus the signal that ended the command.
            says: words that have to stand in the one message, hint included; for 0 and 130, anywhere on stderr.
            left: what is still there, as `Left` words it; or, where it begins with `runs`, what the test has checked
                itself: then only temporary files and locks are looked for here. With `at work`, another command goes
                on, whose end the test looks at.
            changed: the files that the fault or the command may change, by their path in the project folder.
            engine: look into the container engine, too; not where none answers.
            seconds: the time of the row, where it is not the command's.
        """
        assert ended.code == code, ended.said + ended.printed
        saw = self._saw(ended)
        for words in says:
            assert words in saw, f"`{words}` is not in what was seen:\n{saw}\n--- all of it\n{ended.said}"
        self.leaves(left, changed=changed, engine=engine)
        row = Row(
            fault=self.name,
            runtime=self._runtime,
            saw=plain(self._told(saw, code, says), self._project),
            exit_code=code,
            left=left,
            seconds=round(ended.seconds if seconds is None else seconds, 1),
        )
        append(row)

    def leaves(self, left: str = "nothing", *, changed: tuple[str, ...] = (), engine: bool = True) -> None:
        """Check what is still there, and that the files are what they were."""
        found = find_left(self._project, engine=engine)
        if left.startswith("runs"):
            assert (found.locks, [name for name in found.temporary if not name.startswith("run/")]) == ((), [])
        elif not left.startswith("at work"):
            assert str(found) == left
        after = files_of(self._project)
        names = sorted(self._before.keys() | after.keys())
        differ = [name for name in names if self._before.get(name) != after.get(name) and name not in changed]
        assert differ == []

    @staticmethod
    def _saw(ended: Ended) -> str:
        """Return the one message of a failure, hint and findings included; of what did not fail, everything."""
        assert "Traceback" not in ended.said + ended.printed, ended.said
        if ended.code in (0, INTERRUPTED) or ended.code < 0:
            assert ended.errors == [], ended.said
            return ended.said.strip()
        assert len(ended.errors) == 1, ended.said
        # What `doctor` prints: the cause and the fix, without the line of the log and the source.
        told = [line for line in ended.printed.splitlines() if not line.startswith(("{", "  said: ", "  see: "))]
        return "\n".join([*told, *ended.findings, *ended.errors])

    @staticmethod
    def _told(saw: str, code: int, says: tuple[str, ...]) -> str:
        """Return what of it a row shows: of a failure everything, else the lines that the test names, or the last."""
        lines = saw.splitlines()
        if code not in (0, INTERRUPTED) and code > 0:
            return saw
        return "\n".join([line for line in lines if any(words in line for words in says)] or lines[-1:])


MakeFault = Callable[..., Fault]


@pytest.fixture
def fault() -> MakeFault:
    """Give a maker of faults, to be called before the fault happens."""

    def make(name: str, project: Project, runtime: str = "compose") -> Fault:
        return Fault(name, project, runtime)

    return make


@pytest.fixture(scope="session")
def pins(images: Images) -> list[str]:
    """Give the settings that put the built images in the place of the official ones, real vLLM among them."""
    return images.pins()


@pytest.fixture(scope="module")
def make_plain_project(
    state_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Project]]:
    """Give a maker of project folders where no container engine answers; what they started is gone after the module."""
    yield from plain_projects(state_folder, tmp_path_factory)


@pytest.fixture(scope="module")
def make_quick_project(quick_state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Project]]:
    """Give such a maker whose projects have a quick engine in vLLM's place."""
    yield from plain_projects(quick_state, tmp_path_factory)
