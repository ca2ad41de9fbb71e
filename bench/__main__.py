"""The command line: ``python -m bench`` and a command; ``--help`` lists them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench import terminal
from bench.gate_commands import gate, noise
from bench.kernels_command import kernels
from bench.options import chosen_device, chosen_threads
from bench.results import ResultsError
from bench.run_commands import CHAPTER_EPILOG, RUN_EPILOG, chapter, list_cases, run
from bench.terminal import refuse

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""How fast can a stacked recurrent network be trained, written in which way?

\b
Examples:
  python -m bench doctor                              what is here, and what is missing
  python -m bench list --profile smoke                every case of a profile
  python -m bench run                                 quick on a CPU, full on a GPU
  python -m bench run --profile published --only lstm the published LSTM, 500 epochs
  python -m bench run -w lstm-H384 -w gru-L1-H512     networks of your own
  python -m bench chapter                             the chapter's runs and exercises
  python -m bench kernels                             microseconds a step; needs a GPU
  python -m bench report reports/my-machine/quick     render a stored report again
  python -m bench gate revisions --base main          did my commit make training slower?

\b
Exit codes: 0 done; 1 a case was incorrect, diverged, crashed, or ran out of time or memory
(the others are done all the same); 2 wrong use; 130 stopped with Ctrl-C.""",
)


def _print_version(asked: bool) -> None:
    if asked:
        from bench import environment

        typer.echo(f"deeprnn-bench {environment.version()}, commit {environment.commit()}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Version and commit."
        ),
    ] = False,
) -> None:
    pass  # without words of its own, which would stand in the place of the help above


app.command("list")(list_cases)
app.command(epilog=RUN_EPILOG, short_help="Train every case of a profile; write the report.")(run)
app.command(epilog=CHAPTER_EPILOG, short_help="The chapter's published runs and exercises.")(
    chapter
)


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(help="What `run`, `chapter` or `kernels` wrote.", metavar="DIR")
    ],
) -> None:
    """Render a stored report again, from its files alone."""
    from bench import session

    try:
        session.show(directory, terminal.console())
    except ResultsError as error:
        refuse(str(error))


@app.command()
def doctor() -> None:
    """Say what is here, what is missing, and what to do about it."""
    from bench.worker_process import worker_environment

    device = chosen_device("auto")
    done = subprocess.run(
        [sys.executable, "-m", "bench.doctor"],
        env=worker_environment(device, chosen_threads(0, device)),
        check=False,
        start_new_session=True,
    )
    raise typer.Exit(done.returncode)


app.add_typer(gate, name="gate")
app.command(short_help="How small an effect can this machine resolve?")(noise)
app.command()(kernels)


def main() -> None:
    # A shell starts background jobs with SIGINT ignored, and children inherit that. A run must be
    # able to stop its children with it, and to be stopped and resumed itself.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminal.run(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
