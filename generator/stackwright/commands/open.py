"""`stackwright open`: the addresses of what is published, and which of them need a key."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import Struct

from stackwright import report
from stackwright.commands.options import add_environment, add_json, add_out, record_of
from stackwright.commands.paths import find_paths, working_folder
from stackwright.commands.stack import load_stack, page_words, pages_of
from stackwright.domain.environment import Environment
from stackwright.domain.service import Service
from stackwright.errors import UsageError
from stackwright.project.credentials import gateway_key
from stackwright.project.location import name_command
from stackwright.runtime import Stack
from stackwright.runtime.ports import is_free
from stackwright.watching.probe import endpoint_of, published_endpoint, published_url

NO_KEY, ANY_KEY, METRICS_KEY = "no key", "a key", "the master key, or one for metrics only"

# What compose/gateway/admission.py serves, and to whom.
PATHS = (
    ("OpenAI API", "/v1", ANY_KEY),
    ("models", "/v1/models", ANY_KEY),
    ("metrics", "/metrics/", METRICS_KEY),
    ("health", "/health/readiness", NO_KEY),
)


class OpenArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `open`."""

    environment: Environment
    browser: bool = False
    json: bool = False
    out: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_environment(parser)
    parser.add_argument("--browser", action="store_true", help="open what needs no key in a browser")
    for add in (add_json, add_out):
        add(parser)


def read_arguments(given: argparse.Namespace) -> OpenArguments:
    """Turn the parsed words into the record."""
    return record_of(OpenArguments, given)


def run(arguments: OpenArguments) -> None:
    """Print the addresses, and how the key is read."""
    stack = load_stack(find_paths(arguments.out).of(arguments.environment))
    endpoint, environment = endpoint_of(stack), stack.plan.environment.value

    def command(*words: str) -> str:
        return name_command("stackwright", *words, environment, root=stack.root, working=working_folder())

    rows = [{"name": name, "url": endpoint.url + path, "needs": needs} for name, path, needs in PATHS]
    is_down = is_free(endpoint.bind, endpoint.port)
    # Without containers, some have no program on this machine.
    shown = [(service, page) for service, page in pages_of(stack) if is_down or _listens(stack, service)]
    pages = [
        {"name": service.name, "url": published_url(stack, service) + page.path, "needs": page.title}
        for service, page in shown
    ]
    key = str(gateway_key(stack.secrets))
    if arguments.json:
        report.print_json({"urls": [*rows, *pages], "key_file": key, "certificate": endpoint.certificate})
    else:
        lines = [f"{row['name']:<10}  {row['url']}  ({row['needs']})" for row in rows]
        lines += [page_words(stack, service, page) for service, page in shown]
        lines += ["", f"the master key: `{command('key')}`, from {key}"]
        lines += [f"a key for a person or program: `{command('keys', 'add', 'NAME')}`"]
        if endpoint.certificate is not None:
            lines.append(f"certificate: {endpoint.certificate}")
        report.print_text("\n".join(lines))
        if is_down:
            report.tell(f"nothing listens there yet; start it: `start-environment {environment}`")
    if arguments.browser:
        _browse(next(row["url"] for row in rows if row["needs"] == NO_KEY))


def _listens(stack: Stack, service: Service) -> bool:
    endpoint = published_endpoint(stack, service)
    return not is_free(endpoint.bind, endpoint.port)


def _browse(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        raise UsageError("no browser could be started", hint=f"open {url} in one yourself")
