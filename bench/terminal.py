"""How a command meets its surroundings: where output goes, what stops it, how wrong use ends."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

OUT_OF_REACH = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EIO,
}  # fmt: skip
"""Errors that are the disk's or its owner's, not this program's."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def refuse(message: str) -> NoReturn:
    """One clear line, exit code 2."""
    typer.echo(f"bench: {message}", err=True)
    raise typer.Exit(2)


def console() -> Console:
    """Where tables and sentences go: nothing is cut off at 80 columns in a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def open_streams() -> None:
    """Give closed standard streams a place, and let no character of another alphabet stop a line.

    A caller may close them (``>&-``); then the next file that is opened would take their number,
    and what a child process prints would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            if not _is_open(number):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def stop_like_ctrl_c() -> None:
    """A scheduler's SIGTERM, and the SIGHUP of a terminal that closes, end a run as Ctrl-C does.

    What was started with ``nohup`` ignores SIGHUP, and goes on doing so.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def run(command: Callable[[], Any]) -> NoReturn:
    """Call ``command`` and leave with the exit code that it returns, or with 0.

    What cannot be parsed, and a disk that is full or may not be written to, get one line and exit
    code 2; a reader of the output who has left, nothing and exit code 1.
    """
    open_streams()
    try:
        code = command()
        sys.stdout.flush()
    except OSError as error:
        output_is_lost = _output_is_lost()
        if isinstance(error, BrokenPipeError) and output_is_lost:
            sys.exit(1)
        if error.errno not in OUT_OF_REACH:
            raise
        where = f"{error.filename}: " if error.filename else "writing: "
        remedy = "Make room" if error.errno in NO_ROOM else "Make it accessible"
        typer.echo(
            f"bench: {where}{error.strerror}; what was stored is kept. {remedy}, or choose "
            "another place, and repeat the command (a measurement goes on with --resume)",
            err=True,
        )
        sys.exit(2)
    except Exception as error:
        # typer brought its own copy of click at some time: the classes differ, their methods not.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        name = context.command_path if context is not None else "python -m bench"
        said = _with_what_was_given(error) or error.format_message().strip().rstrip(".")
        if "\n" in said:  # a command alone: its help
            typer.echo(said, err=True)
        else:
            typer.echo(f"bench: {said[:1].lower()}{said[1:]} (see `{name} --help`)", err=True)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _with_what_was_given(error: Any) -> str:
    """The line for a value that typer's parser refused, which does not say it; else nothing."""
    found: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not found or getattr(error, "param", None) is None:
        return ""
    name = max(error.param.opts, key=len)
    accepted = found[0]["msg"].partition(",")[0]
    return f"{name} {found[0]['input']!r} is not accepted: {accepted[:1].lower()}{accepted[1:]}"


def _output_is_lost() -> bool:
    """Whether standard output takes nothing any more; then what is left for it goes nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
