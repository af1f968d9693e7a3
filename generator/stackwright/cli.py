"""From a command line to an exit code: the one place where commands are chosen and failures are shown."""

from __future__ import annotations

import sys

from stackwright import report
from stackwright.commands.arguments import Arguments, parse_arguments
from stackwright.errors import EXIT_DONE, EXIT_INTERRUPTED, StackError
from stackwright.interrupts import clean_end


def main(argv: list[str]) -> int:
    """Run one command and return its exit code. Nothing but an asked-for traceback reaches the person raw."""
    try:
        with clean_end():
            _dispatch(parse_arguments(argv))
    except StackError as failure:
        report.show_error(failure)
        return failure.exit_code
    except KeyboardInterrupt:
        # Interrupted in an `exec`, as dataclasses run one, Python notes a Ctrl-C that nobody caught, and `python -m` then
        # dies of it whatever is returned here; the next `exec` takes the note back (CPython, run_eval_code_obj).
        exec("")  # noqa: S102  # it runs nothing
        report.tell("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has gone (`… | head`): not our failure, and nothing is left to say.
        sys.stdout = None
        return EXIT_DONE
    except Exception as failure:  # the last resort: whatever it is, no traceback unasked
        if "--debug" in argv:
            raise
        report.show_error(
            StackError(
                f"unexpected fault: {type(failure).__name__}: {str(failure)[:200]}",
                hint="the same command with --debug shows where; please report it",
            )
        )
        return StackError.exit_code
    return EXIT_DONE


def _dispatch(arguments: Arguments) -> None:
    if arguments.command == "detect":
        from stackwright.commands import machine

        machine.detect(arguments)
        return
    if arguments.command in ("plan", "configure-gpu"):
        from stackwright.commands.machine import get_host

        host = get_host(arguments)
        # Not before: what this imports is loaded while the container engine makes up its answer.
        from stackwright.commands import configure

        {"plan": configure.show_plan, "configure-gpu": configure.configure}[arguments.command](arguments, host)
        return
    if arguments.fit is not None:
        from stackwright.commands import fit

        fit.forecast_for(arguments.fit)
        return
    if arguments.command == "doctor":
        from stackwright.commands import doctor

        doctor.doctor(arguments)
        return
    if arguments.command == "pin-images":
        from stackwright.commands import pin

        pin.pin_images(arguments)
        return
    from stackwright.commands import run, start, validate

    {
        "validate-environment": validate.validate,
        "start-environment": start.start,
        "stop-environment": run.stop,
        "rollback": run.rollback,
        "status": run.status,
        "key": run.key,
    }[arguments.command](arguments)
