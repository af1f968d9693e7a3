"""Completion as the shells themselves do it: commands, environments, models, settings, also by the path in a clone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from stackwright.cli import main

pytestmark = pytest.mark.subprocess
# What is typed, and words that must be offered for its last one.
LINES = {
    "stackwright st": {"start-environment", "stop-environment", "status"},
    "stackwright start-environment p": {"prod", "production"},
    "configure-gpu sin": {"single"},
    "./scripts/configure-gpu sin": {"single"},
    "configure-gpu --model Qwen/Qwen3-": {"Qwen/Qwen3-8B"},
    "configure-gpu --set GATEWAY_PO": {"GATEWAY_PORT="},
    "configure-gpu --obj": {"--objective"},
    "stackwright keys re": {"revoke"},
    "stackwright tune prod --goal l": {"latency"},
    "stackwright bench dev --preset a": {"agents"},
}
# readline's part of it: the line in words, and the function that stands for the command.
BASH = """
. "$SCRIPT"
COMP_WORDS=($LINE); [[ $LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMP_LINE=$LINE COMP_POINT=${#LINE}
function=$(complete -p "${COMP_WORDS[0]##*/}" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = 'source "$SCRIPT"; complete -C "$LINE"'
ZSH = 'autoload -U compinit; compinit -D; eval "$(<$SCRIPT)"; print -l ${(k)_comps}'


def script_for(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command prints for a shell."""
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def offered(shell: str, code: str, script: str, line: str, home: Path) -> set[str]:
    """Return what a shell would offer; skips where it is not installed."""
    program = shutil.which(shell, path="/bin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip(f"no {shell} here")
    file = home / "script"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [program, "-c", code],
        env={"PATH": "/bin:/usr/bin", "HOME": str(home), "SCRIPT": str(file), "LINE": line, "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return {row.partition("\t")[0].strip() for row in done.stdout.splitlines()}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("shell", "code"), [pytest.param("bash", BASH), pytest.param("fish", FISH, marks=pytest.mark.integration)]
)
def test_a_shell_offers(capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str, code: str, line: str) -> None:
    assert offered(shell, code, script_for(shell, capsys), line, tmp_path) >= LINES[line]


@pytest.mark.integration
def test_zsh_knows_every_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    known = offered("zsh", ZSH, script_for("zsh", capsys), "", tmp_path)
    assert known >= {"stackwright", "configure-gpu", "start-environment", "stop-environment", "validate-environment"}


def test_a_shell_may_be_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert script_for("/usr/bin/zsh", capsys) == script_for("zsh", capsys)


def test_a_stranger_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    said = "error: unknown shell `bsh`, allowed: bash, zsh, fish\nhint: did you mean `bash`?\n"
    assert capsys.readouterr().err == said
