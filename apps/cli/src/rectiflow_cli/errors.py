"""From an exception to one line on stderr and an exit code.

Codes: 0 done, 1 our fault, 2 the user's input, 130 interrupted. An error counts as the user's when
code of this project, or of a domain that another adds, raised it on purpose: a validated input.
The same exception type coming out of a third-party library, or out of an operation of ours that
merely failed, is a defect.
"""

from __future__ import annotations

import dis
import io
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

DONE, OUR_FAULT, USER_INPUT, INTERRUPTED = 0, 1, 2, 130

_ON_PURPOSE = (ValueError, TypeError, KeyError, ImportError)
_CONFIG_LIBRARIES = ("hydra.errors", "omegaconf.errors")
_RAISE = dis.opmap["RAISE_VARARGS"]


class UsageError(ValueError):
    """The command line itself is wrong."""


def _innermost(trace: TracebackType) -> TracebackType:
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def raised_by_us(error: BaseException) -> bool:
    """Say whether a ``raise`` statement of a ``rectiflow*`` module made this error."""
    if error.__traceback__ is None:
        return False
    last = _innermost(error.__traceback__)
    frame = last.tb_frame
    module = str(frame.f_globals.get("__name__", ""))
    is_ours = module.startswith("rectiflow") or module.partition(".")[0] in _domain_packages()
    return is_ours and frame.f_code.co_code[last.tb_lasti] == _RAISE


def _domain_packages() -> set[str]:
    from rectiflow_cli.domains import DOMAINS  # which needs the errors above

    return {domain.package.partition(".")[0] for domain in DOMAINS}


def root_of(error: BaseException) -> BaseException:
    """Unwrap the errors that Hydra puts around the one that matters."""
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    return error


def exit_code(error: BaseException) -> int:
    """Classify an error: 2 for the user's input, 1 for a defect."""
    error = root_of(error)
    if isinstance(error, UsageError) or (isinstance(error, OSError) and _said(error)):
        return USER_INPUT
    if any(base.__module__.startswith(_CONFIG_LIBRARIES) for base in type(error).__mro__):
        return USER_INPUT
    return USER_INPUT if isinstance(error, _ON_PURPOSE) and raised_by_us(error) else OUR_FAULT


def _said(error: OSError) -> str | None:
    """Return the sentence of what the machine refuses, or of what we refuse by its errors."""
    from rectiflow.storage.faults import said

    return said(error) or (str(error) if error.errno is None and raised_by_us(error) else None)


def _one_line(text: str) -> str:
    """Join the lines of a message; Hydra's list of search paths is left out."""
    told = text.partition("\nConfig search path")[0]
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    joined = "".join(f"{line} " if line[-1] in ".,:;" else f"{line}; " for line in lines)
    return joined.rstrip(" ;") if len(lines) > 1 else "".join(lines)


def message_of(error: BaseException) -> str:
    """Return what to tell the user, without the type's name when the text speaks for itself."""
    error = root_of(error)
    # str(KeyError) is the repr of its argument: quotes and escapes around a sentence.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = _one_line((_said(error) if isinstance(error, OSError) else None) or text)
    if exit_code(error) == USER_INPUT and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def guarded(command: Callable[[list[str]], int], argv: list[str], *, debug: bool = False) -> int:
    """Run a command and turn whatever it raises into an exit code.

    Parameters
    ----------
    command : callable
        Takes the remaining words and returns an exit code.
    argv : list of str
        The remaining words.
    debug : bool, default False
        Print the traceback as well.

    Returns
    -------
    int
        0, 1, 2 or 130.
    """
    make_streams_safe()
    try:
        try:
            code = command(argv)
        except SystemExit:  # argparse, after help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not when Python ends
        return code
    except KeyboardInterrupt:
        # Writers use a temporary name and clean up as this passes through them.
        _tell("\ninterrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout)  # the reader of a pipe left
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = exit_code(error)
        hint = "" if debug or code == USER_INPUT else " (run again with --debug for the traceback)"
        _tell(f"rectiflow: error: {message_of(error)}{hint}\n")
        if isinstance(error, OSError):
            _discard_if_broken(sys.stdout)
        return code


def make_streams_safe() -> None:
    """Let output go on whatever the terminal is: closed, or of an encoding that lacks letters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed before we started
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard_if_broken(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream nowhere: Python's shutdown would flush into it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
