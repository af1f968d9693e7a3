"""`validate-environment`: every check of a rendered stack on this machine, all findings at once."""

from __future__ import annotations

from stackwright import report
from stackwright.catalog.load import load_catalog
from stackwright.commands.arguments import Arguments
from stackwright.commands.stack import load_stack, reach
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding, harden
from stackwright.domain.host import Host
from stackwright.errors import ValidationError
from stackwright.runtime import Runtime, Stack
from stackwright.validation.live import check_files, check_secrets
from stackwright.validation.rules.environment import check_environment


def validate(arguments: Arguments) -> None:
    """`validate-environment`: every check, all findings at once."""
    stack = load_stack(arguments)
    findings = find_broken(stack) or find_all(stack, *reach(arguments, stack))
    findings = harden(findings) if arguments.strict else findings
    if arguments.json:
        report.print_json({"findings": findings})
    else:
        report.show_findings(findings)
    refuse(findings, stack.plan.environment)
    if not arguments.json:
        report.tell(f"{stack.plan.environment}: valid")


def find_broken(stack: Stack) -> tuple[Finding, ...]:
    """Find what is wrong with the values in force, with the files beside them; nothing where they can be read on."""
    found = check_environment(stack.plan, stack.env, load_catalog())
    if not any(finding.check.startswith("env-") for finding in found):
        return ()
    return (*found, *check_files(stack), *check_secrets(stack))


def find_all(stack: Stack, runtime: Runtime, host: Host) -> tuple[Finding, ...]:
    """Run every check that applies to this runtime on the host as it is now. To be asked where nothing is broken.

    Raises:
        RuntimeRefusedError: the runtime cannot say what runs.
    """
    from stackwright.commands.gather import gather
    from stackwright.validation.checks import find_in

    return tuple(find_in(gather(stack, runtime, host)))


def refuse(findings: tuple[Finding, ...], environment: Environment) -> None:
    """Raise ValidationError where a finding is an error; the findings themselves have been shown."""
    errors = report.count_errors(findings)
    if errors:
        raise ValidationError(f"{environment}: {errors} error{'s' if errors > 1 else ''} found, see above")
