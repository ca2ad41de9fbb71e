"""Networks of one's own, ``--workload lstm-L1-H512-B64-tf32``: the profile ``custom``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from bench.workloads import PROFILES, Profile, UsageError, Workload

NAME = "custom"

CELLS = {"rnn_tanh": "tanh RNN", "rnn_relu": "ReLU RNN", "gru": "GRU", "lstm": "LSTM"}

PRECISIONS = {
    "fp32": ("float32", "ieee"),
    "tf32": ("float32", "tf32"),
    "bf16": ("bfloat16", "ieee"),
    "fp16": ("float16", "ieee"),
}
"""The last part of an id: the type, and how its float32 products are made."""

USUAL = {"L": 2, "B": 32, "T": 35}
"""What an id need not name."""

_ACCEPTED = (
    "write a cell, then H and what differs from L2, B32, T35, fp32, for example lstm-H384 or "
    f"gru-L1-H512-B64-T100-tf32 (cells: {', '.join(CELLS)}; precisions: {', '.join(PRECISIONS)})"
)

_EPOCHS = {"cpu": 10, "cuda": 41}  # as the profiles quick and full have them
_FEWEST_MINIBATCHES = 8  # of an epoch, as in the published task


class Request(TypedDict):
    """What the options were given, 0 for the usual; ``plan.json`` keeps it."""

    workloads: list[str]
    epochs: int
    learning_rate: float


def request(options: Mapping[str, Any]) -> Request | None:
    """The part of the command line's ``options`` that asks for networks of one's own, or None.

    Raises ``UsageError`` where they contradict each other or mean nothing.
    """
    chosen: Request = {
        "workloads": list(options.get("workloads", [])),
        "epochs": options.get("epochs", 0),
        "learning_rate": options.get("learning_rate", 0.0),
    }
    if chosen["workloads"]:
        if options["profile"] is not None:
            raise UsageError(
                f"--profile {options['profile']} has workloads of its own; leave it out, or "
                "--workload"
            )
        return chosen
    for option, value in (
        ("--epochs", chosen["epochs"]),
        ("--learning-rate", chosen["learning_rate"]),
    ):
        if value:
            raise UsageError(
                f"{option} {value:g} is for a --workload; a profile has its own, which "
                "`python -m bench list` shows"
            )
    return None


def profile(chosen: Request, device: str) -> Profile:
    """The profile ``custom``: the networks of ``chosen``, timed as a profile's are.

    Raises ``UsageError`` for an id that cannot be read, or too few epochs to time one.
    """
    epochs = chosen["epochs"] or _EPOCHS[device]
    if epochs < 2:
        raise UsageError(
            f"--epochs {epochs} leaves nothing to time, because the first one only warms up; "
            "give 2 or more"
        )
    workloads = dict.fromkeys(
        parse(text, epochs, chosen["learning_rate"]) for text in chosen["workloads"]
    )
    return Profile(
        name=NAME,
        purpose=(
            f"Networks of one's own, {epochs} epochs each, by every implementation that can "
            "express them."
        ),
        workloads=tuple(workloads),
        validate_every=1 if epochs <= 20 else 10,
        leaves_out=(
            f"learning to the end, as far as that takes more than {epochs} epochs (--epochs)",
            "kernels that only an interpreter can run on this device (profile smoke)",
        ),
    )


def profile_of(plan: Mapping[str, Any]) -> Profile:
    """The profile that ``plan`` was made from, ``custom`` or one by name."""
    if plan["profile"] == NAME:
        return profile(plan["custom"], plan["device"])
    return PROFILES[plan["profile"]]


def parse(text: str, epochs: int, learning_rate: float) -> Workload:
    """The workload that an id such as ``lstm-L1-H512-B64-T100-tf32`` names.

    A learning rate of 0 is the published one: 2 for LSTM and GRU, 1 for a plain RNN. The text it
    trains on is long enough for eight minibatches, as many as the published task has.

    Raises ``UsageError``: what was given, and what is accepted.
    """
    cell, *parts = text.strip().split("-")
    if cell not in CELLS:
        raise UsageError(f"--workload {text!r}: there is no cell {cell!r}; {_ACCEPTED}")
    sizes: dict[str, int] = {}
    precision = None
    for part in parts:
        if part in PRECISIONS and precision is None:
            precision = part
        elif (size := re.fullmatch(r"([LHBT])([1-9][0-9]{0,5})", part)) and size[1] not in sizes:
            sizes[size[1]] = int(size[2])
        else:
            raise UsageError(f"--workload {text!r}: {part!r} is not understood there; {_ACCEPTED}")
    if "H" not in sizes:
        raise UsageError(f"--workload {text!r} lacks its number of hidden units; {_ACCEPTED}")
    sizes = USUAL | sizes
    dtype, matmul_precision = PRECISIONS[precision or "fp32"]
    one_minibatch = sizes["B"] * sizes["T"]
    around = sizes["T"] + 1  # the largest offset, and the last target
    return Workload(
        cell=cell,
        num_layers=sizes["L"],
        hidden_size=sizes["H"],
        learning_rate=learning_rate or (1.0 if cell.startswith("rnn") else 2.0),
        epochs=epochs,
        title=_title(cell, sizes, precision or "fp32"),
        batch_size=sizes["B"],
        num_steps=sizes["T"],
        dtype=dtype,
        matmul_precision=matmul_precision,
        num_train=max(10_000, _FEWEST_MINIBATCHES * one_minibatch + around),
        num_validation=max(5_000, one_minibatch + around),
    )


def words(chosen: Request, only: Sequence[str] = ()) -> list[str]:
    """The words of a command line that asks for ``chosen`` again, as far as ``only`` needs it."""
    texts = {parse(text, 2, 0).id: text for text in chosen["workloads"]}
    cases_of = [pattern.split("/")[0] for pattern in only]
    if cases_of and all(name in texts for name in cases_of):
        texts = {name: texts[name] for name in cases_of}
    found = [word for text in texts.values() for word in ("--workload", text)]
    if chosen["epochs"]:
        found += ["--epochs", str(chosen["epochs"])]
    if chosen["learning_rate"]:
        found += ["--learning-rate", str(chosen["learning_rate"])]
    return found


def _title(cell: str, sizes: dict[str, int], precision: str) -> str:
    layers = f"{sizes['L']} layer{'' if sizes['L'] == 1 else 's'} of {sizes['H']}"
    words = [CELLS[cell], layers]
    if sizes["B"] != USUAL["B"]:
        words.append(f"B {sizes['B']}")
    if sizes["T"] != USUAL["T"]:
        words.append(f"T {sizes['T']}")
    if precision != "fp32":
        words.append({"tf32": "TF32", "bf16": "bfloat16", "fp16": "float16"}[precision])
    return ", ".join(words)
