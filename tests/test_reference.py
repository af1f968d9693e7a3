"""The reference pages say what the code says: they are made from it, and compared whole.

`pytest tests/test_reference.py --update-golden` writes them again.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby

import pytest
from stackwright.catalog.load import load_gpus, load_guides
from stackwright.cli import build_parser, leaves
from stackwright.diagnosis.load import load_rules
from stackwright.domain.catalog import Guide
from stackwright.domain.setting_spec import Kind, SettingSpec
from stackwright.engines.protocol import EngineMetrics
from stackwright.engines.vllm.engine import VLLM
from stackwright.settings import all_settings, declared_settings
from stackwright.validation.checks import CHECKS

from tests.monitored import ALERTS, METRICS
from tests.test_layers import PACKAGE

REFERENCE = PACKAGE.parents[1] / "docs" / "reference"


def settings_page() -> str:
    """Write docs/reference/settings.md from the declarations."""
    return "\n".join(settings_lines()) + "\n"


def settings_lines() -> Iterator[str]:
    """Yield the page, one table for each section."""
    yield "# Settings"
    yield ""
    yield "After this page you know every key of `envs/.env.<env>`, its values, and how to change it."
    yield "The page is made from `generator/stackwright/settings.py`. A plan emits only the keys that something reads"
    yield "on that host; `stackwright plan ENV --explain` shows each with its reason and source. Of several"
    yield "models, the settings of the second one end in `_2`, and so on."
    yield ""
    yield "A value comes from the plan. A pin beats it: `settings:` in `envs/<env>.yaml`, then `--set KEY=VALUE`."
    yield "`envs/.env.<env>.local` beside the generated file is yours: its lines win when the stack starts, and are"
    yield "never overwritten. Where the plan's reason says that no flag is written, the engine takes its own default:"
    yield "another value needs a pin."
    for section, members in groupby(all_settings(), key=lambda spec: spec.section):
        yield ""
        yield f"## {section}"
        yield ""
        yield "| key | means | values | engine flag | pin |"
        yield "|---|---|---|---|---|"
        for spec in members:
            pin = "yes" if spec.pinnable else "no: it follows from other settings"
            flag = f"`{spec.flag}`" if spec.flag else ""
            yield f"| `{spec.key}` | {spec.meaning} | {allowed_values(spec)} | {flag} | {pin} |"


def allowed_values(spec: SettingSpec) -> str:
    """Say in a few words what a value may be."""
    if spec.choices:
        return ", ".join(f"`{choice}`" for choice in spec.choices)
    words = {
        Kind.INTEGER: "whole number",
        Kind.FRACTION: "number",
        Kind.CONTEXT: "`auto`, or tokens",
        Kind.SECONDS_OR_OFF: "`off`, or seconds",
        Kind.ADDRESS: "IPv4 address",
        Kind.SIZE: "size, such as `2gb`",
        Kind.PATH: "absolute path",
        Kind.URL: "http or https URL",
        Kind.BUCKET: "`folder`, or `s3://BUCKET/PREFIX`",
        Kind.IMAGE: "an image's name, without a scheme, user or password",
        Kind.HOST: "`any`, or a host's name",
        Kind.NAME: "lower-case letters, digits, `-`, `_`",
        Kind.TEXT: "text",
        Kind.BOOLEAN: "`true`, `false`",
        Kind.JSON: "JSON object",
        Kind.WORDS: "words",
    }[spec.kind]
    bounded = spec.kind in (Kind.INTEGER, Kind.FRACTION)
    return f"{words}, {spec.minimum:g} to {spec.maximum:.10g}" if bounded else words


def commands_page() -> str:
    """Write docs/reference/commands.md from the parser."""
    return "\n".join(commands_lines()) + "\n"


def commands_lines() -> Iterator[str]:
    """Yield the page, one section for each command."""
    yield "# Commands"
    yield ""
    yield "After this page you know every command and argument. In a clone run them as `./scripts/configure-gpu`"
    yield "or `./scripts/stackwright detect`; once installed, without `./scripts/`. Results and JSON go to stdout,"
    yield "messages and progress to stderr. The page is made from `generator/stackwright/cli.py` and the modules in"
    yield "`generator/stackwright/commands/`."
    for parser in (leaf for command in build_parser()[1].values() for leaf in leaves(command)):
        yield ""
        yield f"## `{parser.prog}`"
        yield ""
        yield parser.description or ""
        yield ""
        yield "| argument | means |"
        yield "|---|---|"
        for action in parser._actions:
            words = ", ".join(action.option_strings)
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            yield f"| `{(words + value).strip()}` | {action.help} |"


def checks_page() -> str:
    """Write docs/reference/checks.md from the table of checks."""
    return "\n".join(checks_lines()) + "\n"


def checks_lines() -> Iterator[str]:
    """Yield the page, one row for each check."""
    yield "# Checks"
    yield ""
    yield "After this page you know what `validate-environment` checks, as does `start-environment` before it starts"
    yield "anything. All findings come at once: what is wrong, what is expected, and the fix as a command. An error"
    yield "stops a start (exit code 5); a warning does not, unless `--strict` is given; a note asks for nothing."
    yield "A check that cannot run gives the warning `not-checked` with the reason. Nothing is changed, downloaded or"
    yield "pulled. The page is made from `generator/stackwright/validation/checks.py`."
    yield ""
    yield "| check | covers | when | findings |"
    yield "|---|---|---|---|"
    for check in CHECKS:
        names = ", ".join(f"`{name}`" for name in check.findings)
        yield f"| {check.name} | {check.about} | {check.when.words} | {names} |"
    yield from ASKED


ASKED = """
## The engine's own answer

The check `engine` puts the planned arguments to the engine that is installed: its image under Compose, its virtual
environment otherwise. The engine makes its configuration as at a start and loads no weights. A setting that it
refuses is the error `engine-refuses`, with the cause and the fix of `stackwright doctor` where a rule knows them.

- Under Compose this is a container like the engine's (user, folders, GPUs, variables, read-only), without network,
  ports and secrets; it is removed again. A process runs in the engine's virtual environment. Both are offline.
- An answer may take 60 s; one that takes longer is `not-checked`. Files that are missing, a full GPU and the like
  are `not-checked` too, since they say nothing of the settings.
- Answers are kept in `engine-answers.json` of the state folder (`STACKWRIGHT_STATE`), the newest 64. The same
  question is asked once: image or environment, arguments, variables, the model's `config.json`, driver and GPUs.
- An engine or a `config.json` that is not here yet is the note `engine-unasked`. `start-environment` then asks
  after it has pulled or installed the engine, before weights are downloaded.
- `stackwright doctor` tells a kept answer and asks nothing.
""".splitlines()
"""What the page says of the one check that takes long."""


def failures_page() -> str:
    """Write docs/reference/failures.md from the rules."""
    return "\n".join(failures_lines()) + "\n"


def failures_lines() -> Iterator[str]:
    """Yield the page, one row for each rule, in the order in which they are told."""
    yield "# Known failures"
    yield ""
    yield "After this page you know the failures that `stackwright doctor` and a failed start can name, with their"
    yield "fixes. The first that a log shows is reported first. Permanent: the same start cannot succeed, so it is not"
    yield "retried. Words in braces are filled in: values from the log, settings in force, and `{command}`, which is"
    yield "`configure-gpu` with the settings of that column pinned. The page is made from"
    yield "`generator/stackwright/diagnosis/failures.yaml` and from the `failures.yaml` of each engine's folder."
    yield ""
    yield "| failure | cause | fix | permanent | settings | source |"
    yield "|---|---|---|---|---|---|"
    for rule in load_rules():
        pins = ", ".join(f"`{key}`" for key in rule.settings)
        link = f"[{rule.seen}]({rule.source})" if rule.source.startswith("https") else f"`{rule.source}`"
        fix = rule.fix.replace("|", "\\|")
        yield f"| `{rule.id}` | {rule.cause} | {fix} | {'yes' if rule.permanent else ''} | {pins} | {link} |"


def popular_settings_page() -> str:
    """Write docs/explanation/popular-settings.md from the claims of the catalog."""
    return "\n".join(popular_settings_lines()) + "\n"


def popular_settings_lines() -> Iterator[str]:
    """Yield the page: below each setting its claims, each with the fact, the GPUs concerned and the source."""
    yield "# Popular settings"
    yield ""
    yield from fill(
        "After this page you know which popular advice on GPUs is wrong, and why a plan does not follow it. Each claim"
        " stands below the setting that it would change. The page is made from"
        " `generator/stackwright/catalog/guides.yaml`; `stackwright plan --explain` gives a plan's own reasons."
    )
    claims = sorted(load_guides(), key=lambda row: list(declared_settings().by_key).index(row.setting))
    for setting, rows in groupby(claims, key=lambda row: row.setting):
        yield ""
        yield f"## `{setting}`"
        for row in rows:
            yield ""
            yield from fill(f"**“{capitalized(row.claim)}.”** {capitalized(row.fact)}.")
            yield ""
            yield from fill(f"- Concerns: {concerned(row)}")
            yield from fill(f"- Source: {row.source} ({row.date})")


def concerned(row: Guide) -> str:
    """Say which GPUs a claim is made of."""
    gpus = {gpu.id: gpu.names[0] for gpu in load_gpus()}
    joined = {None: "", True: ", where NVLink joins two of them", False: ", where no NVLink joins them"}
    size = f" with at most {row.memory_gb_at_most} GB" if row.memory_gb_at_most is not None else ""
    return (", ".join(gpus[name] for name in row.gpus) or "any GPU") + size + joined[row.nvlink]


def metrics_page() -> str:
    """Write docs/reference/metrics.md from the table that dashboards and rules are made of."""
    return "\n".join(metrics_lines()) + "\n"


def metrics_lines() -> Iterator[str]:
    """Yield the page, one table for each job, then the alerts."""
    yield "# Metrics and alerts"
    yield ""
    yield from fill(
        "After this page you know what each metric of the dashboards says and who tells it, and when each alert fires."
        " The page is made from `generator/stackwright/rendering/monitoring/` and the modules of the additions; how to"
        " switch monitoring on stands in"
        " [watch with Prometheus and Grafana](../how-to/monitoring.md). What begins with `engine:` has the engine's own"
        " name."
    )
    names = {f"engine:{field}": own[0] for field in EngineMetrics.__struct_fields__ if (own := _names(field))}
    for job, rows in groupby(METRICS, key=lambda row: row.job):
        yield ""
        yield f"## `{job}`"
        yield ""
        yield "| metric | says | source |"
        yield "|---|---|---|"
        for row in rows:
            known = f" (`{names[row.name]}`)" if row.name in names else ""
            yield f"| `{row.name}`{known} | {row.says} | {row.source} |"
    yield ""
    yield "## Alerts"
    yield ""
    yield "| alert | fires | after | urgency |"
    yield "|---|---|---|---|"
    for alert in ALERTS:
        link = alert.link.removeprefix("docs/")
        when = alert.when.replace("|", "\\|")
        yield f"| [{alert.name}](../{link}) | `{when}` | {alert.lasts} | {alert.urgency} |"


def _names(field: str) -> tuple[str, ...]:
    value = getattr(VLLM.metrics, field)
    return value if isinstance(value, tuple) else ()


def capitalized(text: str) -> str:
    """Begin a sentence; a name in code begins as it is."""
    return text if "=" in text.split(maxsplit=1)[0] else text[0].upper() + text[1:]


def fill(text: str) -> list[str]:
    """Break a paragraph, or a point of a list, into lines of 100 characters."""
    return textwrap.wrap(
        text,
        100,
        subsequent_indent="  " if text.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


PAGES = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "checks.md": checks_page,
    "failures.md": failures_page,
    "metrics.md": metrics_page,
    "../explanation/popular-settings.md": popular_settings_page,
}


@pytest.mark.parametrize(("name", "page"), PAGES.items(), ids=PAGES)
def test_page_is_what_the_code_says(name: str, page: Callable[[], str], update_golden: bool) -> None:
    if update_golden:
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    assert (REFERENCE / name).read_text(encoding="utf-8") == page()
