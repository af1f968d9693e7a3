"""What people and programs are shown: words on stderr, results on stdout, progress as the terminal allows."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath

import pytest
from msgspec.structs import replace
from stackwright import report
from stackwright.domain.environment import Environment
from stackwright.domain.finding import error, warning
from stackwright.errors import UsageError
from stackwright.project.write import FileChange
from stackwright.rendering import RenderedFile
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import plan_for, recorded

ROOT = Path(__file__).parent.parent


def change(path: str, text: str, before: str | None) -> FileChange:
    """Return one file beside what stands on the disk."""
    return FileChange(
        file=RenderedFile(path=PurePosixPath(path), text=text), target=Path(path), before=before, edited=False
    )


CHANGES = (change("a", "1\n", None), change("b", "2\n", "1\n"), change("c", "3\n", "3\n"))


def test_a_failure_is_one_line_and_its_hint_another(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_error(UsageError("x: wrong", hint="do y"))
    assert capsys.readouterr() == ("", "error: x: wrong\nhint: do y\n")
    report.show_error(UsageError("x: wrong"))
    assert capsys.readouterr() == ("", "error: x: wrong\n")


def test_what_is_quoted_cannot_end_a_line_or_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_error(UsageError("found `a\nerror: b\x1b[2J\u2028\x85`", hint="c\rd"))
    report.warn("GPU \x07")
    report.show_findings([error("x", found="\n", expected="\x1b", fix="\t")])
    assert capsys.readouterr() == (
        "",
        (
            "error: found `a\\nerror: b\\x1b[2J\\u2028\\x85`\nhint: c\\rd\n"
            "warning: GPU \\x07\n"
            "error: x: \\n; expected \\x1b\n  fix: \\t\n"
        ),
    )


def test_findings_say_what_was_found_expected_and_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        error("port-taken", found="127.0.0.1:4000", expected="a free port", fix="`--set GATEWAY_PORT=…`"),
        warning("file-edited", found="edited", expected="as rendered", fix="move it"),
    ]
    report.show_findings(findings)
    assert capsys.readouterr() == (
        "",
        (
            "error: port-taken: 127.0.0.1:4000; expected a free port\n  fix: `--set GATEWAY_PORT=…`\n"
            "warning: file-edited: edited; expected as rendered\n  fix: move it\n"
        ),
    )
    assert report.count_errors(findings) == 1


@pytest.mark.parametrize(
    ("dry_run", "diff", "out", "err"),
    [
        (False, False, "", "write a\nchange b\n"),
        (
            True,
            True,
            "--- /dev/null\n+++ a\n@@ -0,0 +1 @@\n+1\n--- b\n+++ b\n@@ -1 +1 @@\n-1\n+2\n",
            "would write a\nwould change b\n",
        ),
    ],
)
def test_changes_are_named_and_differences_printed(
    dry_run: bool, diff: bool, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report.show_changes(CHANGES, dry_run=dry_run, diff=diff)
    assert capsys.readouterr() == (out, err)


def test_nothing_to_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report.show_changes(CHANGES[2:], dry_run=False, diff=True)
    assert capsys.readouterr() == ("", "nothing to change\n")


def test_json_is_one_document_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """So that it is the same document whatever the terminal's encoding is."""
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    named = replace(plan, warnings=("2× größer\n\x1b",))
    report.print_json(named)
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert json.loads(out)["warnings"] == ["2× größer\n\x1b"]


@pytest.mark.subprocess
def test_an_encoding_without_a_letter_is_no_failure() -> None:
    """A terminal in ASCII is shown an escape."""
    ended = subprocess.run(
        [sys.executable, "-c", "from stackwright import report; report.print_text('2× RTX'); report.tell('2× RTX')"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (ended.stdout, ended.stderr) == (b"2\\xd7 RTX\n", b"2\\xd7 RTX\n")


def test_the_files_of_a_folder_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    """As a shell reads them; what only programs read is in no difference."""
    report.show_changes(
        (change("f/a", "1\n", None), change("g", "", None), change("f/b.json", "2\n", None)), dry_run=False, diff=True
    )
    out, err = capsys.readouterr()
    assert err == "write f/{a,b.json}\nwrite g\n"
    assert ("+1" in out, "+2" in out) == (True, False)


def test_every_setting_is_shown_as_its_file_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    report.print_settings([plan])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert lines == [f"{key}={setting.value}" for key, setting in flat_settings(plan).items()]


def test_every_setting_has_its_reason_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    report.print_reasons([plan])
    text = " ".join(capsys.readouterr().out.split())
    assert report.POPULAR_SETTINGS in text
    for key, setting in flat_settings(plan).items():
        assert f" {key}=" in text
        assert " ".join(setting.reason.split()) in text
        assert setting.source in text


def test_what_environments_have_alike_is_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    plans = [plan_for(recorded("2x-rtx3090-nvlink"), environment) for environment in Environment]
    report.print_reasons(plans)
    text = capsys.readouterr().out
    assert text.count(" REDIS_IMAGE=") == 1
    assert text.count(" GATEWAY_PORT=") == 3


def test_a_finding_quotes_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    finding = error("env-value", found="LITELLM_IMAGE=me:geheim@reg/x", expected="an image's name", fix="correct it")
    report.show_findings([finding])
    told = [one.found for one in report.pasteable_findings([finding])]
    assert told[0] in capsys.readouterr().err
    assert "geheim" not in told[0]


def test_progress_off_a_terminal_is_one_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    """With the time since that service was first spoken of."""
    ticks = count(step=10)
    with report.Progress(clock=lambda: float(next(ticks))) as progress:
        for text in ("pulling", "pulling", "pulling [1/2]", "starting\x1b[2J"):
            progress.say("engine", text)
        progress.say("redis", "starting")
    assert capsys.readouterr() == (
        "",
        "engine: pulling\nengine: pulling [1/2] (10s)\nengine: starting\\x1b[2J (20s)\nredis: starting\n",
    )


SHOW = """
from stackwright import report
with report.Progress(clock=lambda: 0.0) as progress:
    progress.say("engine", "pulling [/b] [red]x[/red] 1 of 2")
    progress.say("redis", "starting")
    progress.say("engine", "loading")
report.tell("done")
"""


STEPS = """
from pathlib import Path
from stackwright import report
import sys
line = report.Headline()
line.step("change 1")
with report.aside(Path(sys.argv[1]), line.detail):
    report.tell("engine: " + "loading " * 12)
line.stay("change 1: better")
line.step("change 2")
line.clear()
report.tell("done")
"""


DRAW = """
from stackwright import report
from stackwright.rendering.summary import NextStep
from tests.planning_requests import plan_for, recorded
report.show_summaries([(plan_for(recorded("2x-rtx3090-nvlink")), NextStep(url="http://127.0.0.1:4002"))])
"""


WATCH = """
import fcntl, struct, termios
from stackwright import report
from tests.rendering.test_status_page import STATUS
def pages():
    for rows in (40, 12):
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        yield STATUS
    raise KeyboardInterrupt
report.watch_status(pages())
"""


def on_a_terminal(script: str = SHOW, *words: str, **environment: str) -> str:
    """Return what a terminal of 80 columns is sent."""
    leader, follower = pty.openpty()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM", "FORCE_COLOR", "LINES")
    }
    told = {**kept, "COLUMNS": "80", **environment}
    program = subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=ROOT, env=told, stdout=follower, stderr=follower
    )
    os.close(follower)
    sent = io.BytesIO()
    try:
        for part in _read(leader):
            sent.write(part)
        assert program.wait(timeout=60) == 0
    finally:
        program.kill()
        program.wait()
        os.close(leader)
    return sent.getvalue().decode()


def _read(leader: int) -> Iterator[bytes]:
    """Yield what arrives until the program has closed its end, which Linux tells as an input error."""
    while select.select([leader], [], [], 60)[0]:
        try:
            part = os.read(leader, 4096)
        except OSError:
            return
        if not part:
            return
        yield part


@pytest.mark.subprocess
def test_progress_on_a_terminal_is_drawn_in_place() -> None:
    """The last drawing stays, one line for each service; brackets are the service's own."""
    sent = on_a_terminal(TERM="xterm-256color")
    assert "\x1b[" in sent
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", sent)
    shown = [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert shown[-3:] == ["engine  loading  0s", "redis   starting  0s", "done"]
    assert all(not line.startswith("engine  pulling") or "[/b] [red]x[/red]" in line for line in shown)


@pytest.mark.subprocess
def test_a_watched_page_says_what_a_lower_window_leaves_out() -> None:
    """Each page on the terminal's second screen; the last one, whole, stays on the first."""
    watched, left, stays = on_a_terminal(WATCH, TERM="xterm", NO_COLOR="1").partition("\x1b[?1049l")
    assert left
    assert "\x1b[?1049h" in watched
    high, _, low = watched.rpartition("Ctrl-C ends")
    assert "changed since: A=1 → 2" in high
    assert "more lines: make the window higher" not in high
    assert "more lines: make the window higher" in low
    assert "changed since" not in low
    assert "changed since: A=1 → 2" in stays


@pytest.mark.subprocess
def test_a_dumb_terminal_gets_lines() -> None:
    sent = on_a_terminal(TERM="dumb")
    assert sent.splitlines() == [
        "engine: pulling [/b] [red]x[/red] 1 of 2",
        "redis: starting",
        "engine: loading (0s)",
        "done",
    ]


@pytest.mark.subprocess
def test_a_headline_moves_on_a_terminal_and_what_stays_stays(tmp_path: Path) -> None:
    """Each drawing takes the line of the one before, and is shorter than the line; the words themselves are kept."""
    log = tmp_path / "words"
    sent = on_a_terminal(STEPS, str(log), TERM="xterm").replace("\r\n", "\n")
    drawn = [part.strip("\n") for part in sent.split("\r\x1b[2K")]
    whole = f"engine: {'loading ' * 12}"
    assert drawn == ["", "change 1", f"change 1: {whole}"[:79], "change 1: better", "change 2", "done"]
    assert log.read_text() == whole + "\n"


def test_a_headline_elsewhere_is_a_line_for_each_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = report.Headline()
    line.step("change 1")
    with report.aside(tmp_path / "words", line.detail):
        report.tell("engine: loading")
        report.warn("it takes long")
    line.stay("change 1: better\x1b[2J")
    assert capsys.readouterr() == ("", "change 1\nchange 1: better\\x1b[2J\n")
    assert (tmp_path / "words").read_text() == "engine: loading\nwarning: it takes long\n"
    with pytest.raises(UsageError, match="cannot be written"), report.aside(tmp_path, line.detail):
        pass


@pytest.mark.subprocess
def test_no_color_sends_no_colour() -> None:
    """Moving the cursor is not colour."""
    sent = on_a_terminal(TERM="xterm-256color", NO_COLOR="1")
    assert re.findall(r"\x1b\[[0-9;]*m", sent) == []


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
    ids=["terminal", "dumb", "no-color"],
)
def test_a_picture_has_colours_where_they_are_shown_and_wanted(environment: dict[str, str], coloured: bool) -> None:
    """The text is the same, and no line is wider than the terminal."""
    sent = on_a_terminal(DRAW, **environment)
    assert bool(re.search(r"\x1b\[[0-9]+m", sent)) is coloured
    lines = re.sub(r"\x1b\[[0-9]*m", "", sent).splitlines()
    assert lines[0] == "prod   2× RTX 3090 ═NVLink═   Qwen/Qwen3-0.6B · vLLM 0.33.0 · tensor parallel 2"
    assert max(map(len, lines)) <= 80


@pytest.mark.subprocess
def test_a_terminal_in_ascii_gets_a_picture_in_ascii() -> None:
    sent = on_a_terminal(DRAW, TERM="dumb", PYTHONIOENCODING="ascii", COLUMNS="60")
    assert sent.isascii()
    assert "\\x" not in sent
    assert "=NVLink=" in sent
