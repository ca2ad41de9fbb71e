"""The columns, defined once: append a row, load a table, refuse a damaged one.

A report directory holds plain CSV files with one header line and a fixed order of columns. A
figure that was not measured is an empty field: never 0, never copied from elsewhere.
"""

from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time where it is needed: `--help` need not wait for it
    import pandas as pd

STATUSES = ("ok", "incorrect", "diverged", "oom", "timeout", "crashed", "unsupported")
"""What can become of a case. Each but ``ok`` comes with a one-line reason."""


_ONE_WRITER = threading.Lock()


class ResultsError(ValueError):
    """A stored file is missing, damaged, or not of this schema; the message is one line."""


@dataclass(frozen=True)
class Table:
    """One CSV file: its name and its columns in order, each with the type of its values."""

    filename: str
    columns: Mapping[str, type]
    added: tuple[str, ...] = ()  # later than the first reports, which lack them

    def path(self, directory: Path) -> Path:
        return directory / self.filename

    def append(self, directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add ``rows`` and put them on disk before returning.

        A file with an earlier header keeps it, and with it fewer columns.

        Raises ``ResultsError`` for a row with a column that the table does not have.
        """
        path = self.path(directory)
        with _ONE_WRITER:
            columns = self._columns_of(path)
            lines = [self._line(row, columns) for row in rows]
            with path.open("a", newline="", encoding="utf-8") as file:
                is_new = file.tell() == 0
                writer = csv.writer(file, lineterminator="\n")
                if is_new:
                    writer.writerow(columns)
                writer.writerows(lines)
                file.flush()
                os.fsync(file.fileno())

    def _columns_of(self, path: Path) -> Mapping[str, type]:
        """The columns of a file: without some that were added since, if it is an earlier one's."""
        if not path.is_file() or path.stat().st_size == 0:
            return self.columns
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            header = file.readline().rstrip("\r\n").split(",")
        lacking = set(self.added) - set(header)
        return {name: kind for name, kind in self.columns.items() if name not in lacking}

    def _line(self, row: Mapping[str, Any], columns: Mapping[str, type]) -> list[str]:
        unknown = sorted(set(row) - set(self.columns))
        if unknown:
            raise ResultsError(f"{self.filename} has no column {', '.join(unknown)}")
        return [_to_text(row.get(name), kind) for name, kind in columns.items()]

    def load(self, directory: Path) -> pd.DataFrame:
        """The table as a frame with typed columns; empty, with those columns, if there is no file.

        Columns that an earlier version did not write are empty in what it wrote.

        Raises ``ResultsError`` for a wrong header, a short or long line, or a value of the wrong
        type: file, line and column are named.
        """
        import pandas as pd

        path = self.path(directory)
        columns = self.columns
        records: list[list[Any]] = []
        if path.exists():
            try:
                columns = self._columns_of(path)
                with path.open(newline="", encoding="utf-8", errors="strict") as file:
                    self._read(path, csv.reader(file, strict=True), columns, records)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ResultsError(f"{path} is damaged: {error}; {RERUN}") from error
            except OSError as error:
                raise ResultsError(f"{path} cannot be read ({error.strerror})") from None
        frame = pd.DataFrame(records, columns=list(columns)).reindex(columns=list(self.columns))
        dtypes: dict[type, Any] = {str: object, bool: "boolean", int: "Int64", float: "float64"}
        return frame.astype({name: dtypes[kind] for name, kind in self.columns.items()})

    def drop_half_line(self, directory: Path) -> None:
        """Drop what stands behind the last newline: a killed writer or a full disk left it.

        Before anything is appended, lest the next row be glued to it.
        """
        path = self.path(directory)
        if path.is_file():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)

    def _read(
        self, path: Path, reader: Any, columns: Mapping[str, type], records: list[list[Any]]
    ) -> None:
        header = next(reader, None)
        if header is None:  # its writer was stopped before it had written a line
            return
        if header != list(columns):
            raise ResultsError(
                f"{path} is damaged: line 1 is not the header of this version; {RERUN}"
            )
        for fields in reader:
            where = f"{path} is damaged: line {reader.line_num}"
            if len(fields) != len(columns):
                raise ResultsError(f"{where} has {len(fields)} fields, not {len(columns)}; {RERUN}")
            record = []
            for (name, kind), field in zip(columns.items(), fields, strict=True):
                try:
                    record.append(_from_text(field, kind))
                except ValueError:
                    raise ResultsError(
                        f"{where}, column {name}: {field!r} is not of type {kind.__name__}; {RERUN}"
                    ) from None
            records.append(record)

    def keep(self, directory: Path, case_ids: Iterable[str]) -> None:
        """Drop every row whose case is not in ``case_ids``: what an interrupted case left behind.

        Raises ``ResultsError`` for a damaged file, which it leaves as it is.
        """
        path = self.path(directory)
        if not path.exists():
            return
        self.load(directory)
        kept, column = set(case_ids), list(self.columns).index("case_id")
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [*csv.reader(file)] or [list(self.columns)]
        temporary = path.with_name(path.name + ".part")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(row for row in rows if row[column] in kept)
        temporary.replace(path)


RERUN = "restore the file, or run the suite again into a new directory"
"""What to do about a damaged file."""


def _to_text(value: Any, kind: type) -> str:
    import pandas as pd

    if value is None or value is pd.NA or value != value:  # the last is NaN of any float type
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return f"{value:.9g}"
    return " ".join(str(value).splitlines()) if kind is str else str(int(value))


def _from_text(field: str, kind: type) -> Any:
    if kind is str:
        return field
    if field == "":
        return None
    if kind is bool:
        if field not in ("true", "false"):
            raise ValueError(field)
        return field == "true"
    if kind is int and not -(2**63) <= int(field) < 2**63:
        raise ValueError(field)  # larger than any count; pandas would overflow
    return kind(field)


TRAINING = Table(
    "training.csv",
    {
        "case_id": str,
        "status": str,
        "reason": str,  # why it is not "ok"
        "implementation": str,
        "backend": str,  # what really computed it, as far as it can be told
        "cell": str,
        "num_layers": int,
        "hidden_size": int,
        "batch_size": int,
        "num_steps": int,
        "dtype": str,
        "matmul_precision": str,
        "execution": str,
        "device": str,
        "interpreted": bool,
        "tokens_per_second": float,  # median over the rounds that count
        "tokens_per_second_low": float,  # 95 % interval of the median
        "tokens_per_second_high": float,
        "rounds": int,  # that count
        "step_milliseconds": float,  # one minibatch
        "cold_start_seconds": float,  # build, compile, first step
        "peak_memory_mib": float,
        "peak_memory_kind": str,  # "cuda_allocated" or "process_resident": bench/measurement.py
        "epochs": int,  # trained
        "learning_rate": float,
        "train_perplexity": float,
        "validation_perplexity": float,
        "seconds_to_target": float,  # of training, until target_perplexity
        "target_perplexity": float,
        "gradient_error": float,  # the largest relative error found before it was timed
        "flops_per_token": float,  # of the matrix products, forward and backward
        "fraction_of_peak": float,  # of the machine's own speed at large matrix products
        "speedup_over_torch_nn": float,  # paired by turn
        "published_tokens_per_second": float,
        "published_perplexity": float,
        "sample": str,
        "corpus": str,
        "corpus_sha256": str,
        "seed": int,
        "run_id": str,
        "commit": str,
        "command": str,
    },
)
"""One row a case."""

ROUNDS = Table(
    "rounds.csv",
    {
        "case_id": str,
        "epoch": int,  # from 1
        "turn": int,  # which of the interleaved turns of its workload, from 0
        "warm_up": bool,  # ran, is shown, does not count
        "tokens": int,
        "seconds": float,
        "tokens_per_second": float,
        "other_cpu": float,  # share of the machine's processors that others used meanwhile
        "mark": str,  # why the round is suspect ("contended", "throttled"); empty when it is not
        # The state of the machine right after the round; empty where nobody tells.
        "load_average": float,  # processes that ran or waited to, over the last minute
        "cpu_mhz": float,  # the mean over the processors
        "sm_clock_mhz": float,  # these three are the GPU's
        "temperature_celsius": float,
        "power_watts": float,
        "run_id": str,
    },
    added=("load_average", "cpu_mhz", "sm_clock_mhz", "temperature_celsius", "power_watts"),
)
"""Every timed round, raw: one epoch, synchronised once at its end."""

CURVES = Table(
    "curves.csv",
    {
        "case_id": str,
        "epoch": int,  # from 1
        "seconds": float,  # training time up to the end of this epoch, validation excluded
        "train_perplexity": float,
        "validation_perplexity": float,  # empty for epochs where it was not evaluated
        "run_id": str,
    },
)
"""Perplexity by epoch."""

HELD_OUT = Table(
    "held_out.csv",
    {
        "case_id": str,
        "weights": str,  # last: after the last epoch | best: of the lowest validation perplexity
        "epoch": int,  # of these weights
        "text": str,  # which held-out text
        "passage": int,  # which piece of it, from 0
        "characters": int,
        "bits": float,  # for the whole piece; over characters: bits a character
        "run_id": str,
    },
)
"""What trained networks make of text that none was trained on: the chapter's exercises."""

SAMPLES = Table(
    "samples.csv",
    {
        "case_id": str,
        "prefix": str,
        "text": str,
        "verbatim": int,  # characters after the prefix, from its end, that the training text holds
        "run_id": str,
    },
)
"""What a trained network writes after each of several prefixes."""

LAYERS = Table(
    "layers.csv",
    {
        "benchmark": str,  # pytest-benchmark's name, to use with -k
        "implementation": str,
        "cell": str,
        "mode": str,  # forward | forward_backward
        "hidden_size": int,
        "batch_size": int,
        "num_steps": int,
        "dtype": str,
        "device": str,
        "interpreted": bool,
        "rounds": int,
        "milliseconds": float,  # median
        "milliseconds_low": float,  # first quartile
        "milliseconds_high": float,  # third quartile
        "microseconds_per_step": float,
        "run_id": str,
    },
)
"""One layer alone, from pytest-benchmark."""


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content of ``path``. Raises ``ResultsError`` when it is missing or not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ResultsError(
            f"{path} does not exist: give a directory that `python -m bench` wrote"
        ) from None
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read ({error.strerror}): give a directory that "
            "`python -m bench run` wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsError(f"{path} is damaged: {error}; {RERUN}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The content of ``path``, which is a JSON object. Raises ``ResultsError`` when it is not."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ResultsError(f"{path} is damaged: it holds no JSON object; {RERUN}")
    return content
