"""The command blocks of the tutorial and the how-to pages do what they show, as far as they need no stack.

Each page is followed from top to bottom in a project folder of its own, for a recorded host. What starts, asks or reads
a running stack, or reads this machine, is left to other tests.

- A block of YAML that begins with `# envs/NAME.yaml` is written into that file; the commands below it see it.
- `<!-- screen: HOST -->`, which readers do not see, before a block: this is what the last command above it prints on
  that recorded host; with a command behind HOST, what that one prints. `pytest --update-golden` writes the block.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from stackwright.cli import main
from stackwright.errors import EXIT_DONE, NoPlanError

from tests.planning_requests import HOSTS
from tests.test_docs import ROOT, shown_commands

DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
FOR_A_HOST = {"configure-gpu", "plan", "fit", "models", "recommend", "gpus", "import"}
WITHOUT_HOST = {"recommend"}
IN_A_FOLDER = {"configure-gpu", "plan", "fit", "models", "recommend", "import", "key", "keys"}
RUN = FOR_A_HOST | {"completion", "key", "keys"}
# A folder of the reader's, a value to fill in, something that runs; the whole matrix, which takes long and is a page of
# its own (tests/test_compatibility.py).
NOT_HERE = ("/models/", "…", "--observed prod", "--matrix")
# What a start takes beside what planning takes: a word, or a flag with its value.
OF_A_START = re.compile(r" --no-rollback| --(?:runtime|timeout|replace)[ =]\S+")
HOST = "2x-rtx3090-nvlink"
BLOCK = re.compile(r"(?:<!-- screen: (?P<screen>[^\n]*) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to do. `kind`: `run` a command, `write` wishes into a file, or compare a `screen`."""

    kind: str
    what: str
    text: str = ""
    start: int = 0
    host: str = HOST


def steps_of(page: str) -> list[Step]:
    """Return what a page tells to do, in order.

    A command whose screen follows is run for the host of that screen, the others for the host of the first screen.
    """
    steps: list[Step] = []
    first = re.search(r"<!-- screen: ([^\n ]+)", page)
    usual = first[1] if first else HOST
    for block in BLOCK.finditer(page):
        text = block["text"]
        if block["screen"]:
            host, _, command = block["screen"].partition(" ")
            if command:
                steps.append(Step(kind="run", what=f"./scripts/stackwright {command}"))
            steps[-1] = replace(steps[-1], host=host)
            steps.append(Step(kind="screen", what=steps[-1].what, text=text, start=block.start("text")))
        elif block["kind"] == "yaml" and (name := re.match(r"# (envs/\w+\.yaml)\n", text)):
            steps.append(Step(kind="write", what=name[1], text=text))
        elif block["kind"] in {"sh", "yaml"}:
            steps += [
                Step(kind="run", what=command, host=usual) for command in shown_commands(block[0]) if is_run(command)
            ]
    return steps


def words_of(command: str) -> list[str]:
    """Return a shown command as the arguments of `main`. Of a start only the first part is done: the plan."""
    script, *words = shlex.split(OF_A_START.sub("", command).replace("/start-environment", "/configure-gpu"))
    return words if Path(script).name == "stackwright" else [Path(script).name, *words]


def is_run(command: str) -> bool:
    """Say whether a command can be run here."""
    words = words_of(command)
    log_alone = words[:2] == ["doctor", "--log"] and "-" not in words
    return (log_alone or bool(RUN & set(words[:1]))) and not any(part in command for part in NOT_HERE)


def prepare(folder: Path) -> None:
    """Lay the project folder, and the files that pages take as given."""
    shutil.copytree(ROOT / "envs", folder / "envs", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "compose", folder / "compose", ignore=shutil.ignore_patterns("generated"))
    for name in ("host", "server", "other"):
        shutil.copy(HOSTS / HOST / "host.yaml", folder / f"{name}.yaml")
    setup = ROOT / "tests" / "importing" / "config-full-of-clouds"
    shutil.copy(setup / "docker-compose.yml", folder)
    shutil.copy(setup / "proxy_server_config.yaml", folder / "config.yaml")
    shutil.copy(ROOT / "tests" / "watching" / "logs" / "compiled.log", folder / "engine.log")


def run(step: Step, folder: Path) -> int:
    """Run a command as it is shown, for the step's host and in the project folder."""
    words = words_of(step.what)
    name = words[0]
    if name in FOR_A_HOST - WITHOUT_HOST and "--host" not in words:
        words += ["--host", str(HOSTS / step.host / "host.yaml")]
    if name in IN_A_FOLDER and "--out" not in words:
        words += ["--out", str(folder)]
    return main(words)


def answers_of(step: Step) -> set[int]:
    """Return the exit codes that are an answer: `fit` also says that a model does not fit."""
    return {EXIT_DONE, NoPlanError.exit_code} if words_of(step.what)[0] == "fit" else {EXIT_DONE}


def write(step: Step, folder: Path) -> None:
    """Write keys into a file of wishes."""
    file = folder / step.what
    wishes = yaml.safe_load(file.read_text("utf-8")) | yaml.safe_load(step.text)
    file.write_text(yaml.safe_dump(wishes), "utf-8")


def shown(printed: str) -> str:
    """Return what a reader sees, who has given neither host nor folder."""
    plain = re.sub(r" --(?:host|out) [^\s`]+", "", printed).replace(f"{ROOT}/scripts/", "./scripts/")
    return "".join(f"{line.rstrip()}\n" for line in plain.splitlines())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HOME", "STACKWRIGHT_STATE", "VLLM_CACHE_ROOT"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, value in {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_followed(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config
) -> None:
    text = page.read_text("utf-8")
    steps = steps_of(text)
    if any(step.what.startswith("./scripts/stackwright key") for step in steps):
        steps.insert(0, Step(kind="run", what="./scripts/configure-gpu", host="cpu-small"))
    screens: list[tuple[Step, str]] = []
    printed = ""
    for step in steps:
        if step.kind == "write":
            write(step, folder)
        elif step.kind == "screen":
            screens.append((step, shown(printed)))
        else:
            capsys.readouterr()
            code = run(step, folder)
            printed = "".join(reversed(capsys.readouterr()))
            assert code in answers_of(step), f"{step.what}\n{printed}"
    if pytestconfig.getoption("--update-golden"):
        for step, seen in reversed(screens):
            text = text[: step.start] + seen + text[step.start + len(step.text) :]
        page.write_text(text, "utf-8")
    else:
        assert [seen for _, seen in screens] == [step.text for step, _ in screens]


def test_blocks_of_yaml_are_whole_and_what_a_cache_depends_on_is_there() -> None:
    blocks = [
        block["text"] for page in PAGES for block in BLOCK.finditer(page.read_text("utf-8")) if block["kind"] == "yaml"
    ]
    assert all(yaml.safe_load(block) for block in blocks)
    depends = [
        name
        for block in blocks
        for call in re.findall(r"hashFiles\((.*?)\)", block, re.DOTALL)
        for name in re.findall("'(.*?)'", call)
    ]
    assert depends
    assert [name for name in depends if not any(ROOT.glob(name))] == []


def test_what_a_page_tells_is_found() -> None:
    page = (
        "```sh\n./scripts/stackwright status prod\n./scripts/start-environment prod --timeout 9\n```\n\n"
        "<!-- screen: 1x-h200 -->\n"
        "```text\nprod\n```\n\n```yaml\n# envs/prod.yaml\nmodel: smoke\n```\n"
    )
    run_, screen, written = steps_of(page)
    assert (run_.kind, words_of(run_.what), run_.host) == ("run", ["configure-gpu", "prod"], "1x-h200")
    assert (screen.kind, screen.text) == ("screen", "prod\n")
    assert (written.kind, written.what) == ("write", "envs/prod.yaml")
