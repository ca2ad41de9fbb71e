"""The child process that owns one case: its memory, its compile caches, its crash.

It is started as ``python -m bench.worker`` and speaks JSON, one object a line. The first line on
standard input is the job; then come commands ``{"turn": n}`` (train n epochs) and
``{"finish": true}``. Each is answered by one line. With ``{"turn": n, "slice": k}`` the worker
stops after every k minibatches, says ``{"paused": true}`` and waits for any line before it goes on.
When standard input ends, so does the worker: no orphan keeps a machine busy.
"""

from __future__ import annotations

import functools
import json
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch

from bench import measurement, verification
from bench.workloads import Workload
from deeprnn import language_model
from deeprnn.generation import generate
from deeprnn.language_model import LanguageModel
from deeprnn.minibatches import Minibatches, split
from deeprnn.support import Unsupported
from deeprnn.training import Trainer, evaluate
from deeprnn.vocabulary import Vocabulary


@dataclass(frozen=True)
class Job:
    """What the runner sends first."""

    workload: Workload
    implementation: str
    execution: str
    device: str
    seed: int
    threads: int
    text: str  # normalised
    validate_every: int
    sample_prefix: str
    sample_length: int
    # The chapter's exercises train on texts of their own; without them text is cut as published.
    training_text: str | None = None
    validation_text: str | None = None
    held_out: dict[str, str] = field(default_factory=dict)  # by name, all of one length
    passage: int = 0  # characters of a passage of the held-out texts; 0: each is one
    more_prefixes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, line: str) -> Job:
        fields = json.loads(line)
        workload = fields["workload"]
        if workload["recurrent"] is not None:
            workload["recurrent"] = tuple(workload["recurrent"])
        workload["training"] = tuple((name, count) for name, count in workload.get("training", ()))
        fields["more_prefixes"] = tuple(fields.get("more_prefixes", ()))
        return cls(**{**fields, "workload": Workload(**workload)})


class Failed(Exception):
    """The case ends here with a status and a one-line reason."""

    def __init__(self, status: str, reason: str, **figures: Any) -> None:
        super().__init__(reason)
        self.status = status
        self.figures = figures


class BestWeights:
    """The weights with the lowest validation perplexity so far, and when to stop looking."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.epoch = 0
        self.perplexity = math.inf
        self._weights: dict[str, torch.Tensor] = {}
        self._misses = 0

    def offer(self, model: LanguageModel, epoch: int, perplexity: float) -> None:
        """Keep a copy of the weights if they validate better than all before."""
        if perplexity < self.perplexity:
            self.epoch, self.perplexity, self._misses = epoch, perplexity, 0
            self._weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            self._misses += 1

    @property
    def is_over(self) -> bool:
        """Whether as many validations in a row as patience allows brought nothing better."""
        return 0 < self.patience <= self._misses

    def restore(self, model: LanguageModel) -> None:
        model.load_state_dict(self._weights)


class Interruptible(Minibatches):
    """Minibatches between which something else may be done, if it is asked for."""

    between: Callable[[], None] | None = None
    every = 0  # minibatches; 0: never

    def epoch(self, index: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number, pair in enumerate(super().epoch(index)):
            if self.between is not None and self.every and number and number % self.every == 0:
                self.between()
            yield pair


class CaseRun:
    """One case from its construction to its last epoch.

    ``hand_over`` is called within a turn in slices, with the stopwatch paused and the device done,
    and returns when it is this worker's turn again.
    """

    def __init__(self, job: Job, hand_over: Callable[[], None] = lambda: None) -> None:
        self.job = job
        self.hand_over = hand_over
        workload = job.workload
        self.device = torch.device(job.device)
        self.dtype = getattr(torch, workload.dtype)
        torch.set_num_threads(job.threads)
        measurement.set_precision(workload.matmul_precision, workload.dtype)
        self.vocabulary = Vocabulary(job.text)
        if job.training_text is None or job.validation_text is None:
            tokens = self._encode(job.text)
            train, validation = split(tokens, workload.num_train, workload.num_validation)
        else:
            train, validation = self._encode(job.training_text), self._encode(job.validation_text)
        sizes = (workload.batch_size, workload.num_steps)
        self.minibatches = Interruptible(train, *sizes, seed=job.seed)
        self.validation = Minibatches(validation, *sizes, seed=job.seed)
        self.epochs_done = 0
        self.best = BestWeights(workload.patience)
        self.captured_memory = 0.0  # MiB

    def _encode(self, text: str) -> torch.Tensor:
        return self.vocabulary.encode(text).to(self.device)

    def prepare(self) -> dict[str, Any]:
        """Build, compile, take a first step (the cold start); then check; then start afresh.

        Returns ``cold_start_seconds``, ``backend`` and ``gradient_error``, which is relative.
        Raises ``Failed`` where the check does not pass.
        """
        workload = self.job.workload
        measurement.synchronize(self.device)  # creates the CUDA context: not the case's cost
        start = time.perf_counter()
        model = self._build(self.job.implementation)
        initial = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        trainer = Trainer(
            model, self.minibatches, workload.learning_rate, execution=self.job.execution
        )
        measurement.reset_peak_memory(self.device)
        steps = trainer.prepare()
        steps.start()
        steps.run(*next(iter(self.minibatches.epoch(0))))
        measurement.synchronize(self.device)
        cold_start = time.perf_counter() - start
        # A replay allocates nothing: what a graph needs was allocated when it was captured.
        if self.job.execution == "cuda_graph":
            self.captured_memory = measurement.peak_memory(self.device)[0]

        x = next(iter(self.minibatches.epoch(0)))[0]
        one_hot = torch.nn.functional.one_hot(x, len(self.vocabulary)).to(self.dtype)
        figures: dict[str, Any] = {
            "cold_start_seconds": cold_start,
            "backend": model.rnn.backend(model.rnn(one_hot)[0]),
        }
        figures |= self._verify(model)

        model.load_state_dict(initial)
        if self.job.execution != "eager":
            eager = Trainer(model, self.minibatches, workload.learning_rate)
            self._accept(verification.verify_replay(trainer, eager, self._bound))
        self.model, self.trainer = model, trainer
        measurement.synchronize(self.device)
        measurement.reset_peak_memory(self.device)
        return figures

    def _build(self, implementation: str, **changes: Any) -> LanguageModel:
        workload = self.job.workload
        torch.manual_seed(self.job.seed)  # the same initial weights for every implementation
        model = language_model.build(
            implementation,
            workload.cell,
            len(self.vocabulary),
            workload.hidden_size,
            workload.num_layers,
            recurrent=workload.recurrent,
            initialization=workload.initialization,
        )
        return model.to(self.device, changes.get("dtype", self.dtype))

    def _verify(self, model: LanguageModel) -> dict[str, Any]:
        workload = self.job.workload
        checks = [(model, self._bound, workload.matmul_precision, workload.dtype)]
        if self._bound > verification.BOUNDS["ieee"]:
            # A loose bound is for rounding, not for bugs: what precisions share must be exact in
            # float32. (A kernel's product may be another one there: tests/kernels looks at those.)
            exact = self._build(self.job.implementation, dtype=torch.float32)
            checks.append((exact, verification.BOUNDS["ieee"], "ieee", "float32"))
        errors = []
        for candidate, allowed, precision, dtype in checks:
            measurement.set_precision(precision, dtype)
            outcome = verification.verify(
                candidate.rnn,
                workload.batch_size,
                workload.num_steps,
                seed=self.job.seed + 1,
                bound=allowed,
            )
            measurement.set_precision(workload.matmul_precision, workload.dtype)
            self._accept(outcome)
            errors.append(outcome.error)
        return {"gradient_error": errors[0]}

    @property
    def _bound(self) -> float:
        workload = self.job.workload
        return verification.bound_for(workload.dtype, workload.matmul_precision, workload.cell)

    @staticmethod
    def _accept(outcome: verification.Verification) -> None:
        """Go on if it passed."""
        if not outcome.passed:
            raise Failed("incorrect", str(outcome), gradient_error=outcome.error)

    def turn(self, epochs: int, minibatches_a_slice: int = 0) -> dict[str, Any]:
        """Train for some epochs, each of them one timed round.

        Returns ``rounds``, in the columns of ``rounds.csv``, and whether training ``is_over``.
        Raises ``Failed`` once the perplexity is not finite, with the rounds so far.
        """
        rounds: list[dict[str, Any]] = []
        others = spent = 0.0
        self.minibatches.every = minibatches_a_slice
        for _ in range(epochs):
            with measurement.timed() as timing:
                self.minibatches.between = functools.partial(self._interrupt, timing)
                result = self.trainer.epoch(self.epochs_done)
            self.epochs_done += 1
            entry = {
                "epoch": self.epochs_done,
                "tokens": result.tokens,
                "seconds": timing.seconds,
                "other_cpu": timing.other_cpu,
                "mark": timing.mark,
                **timing.state,
                "train_perplexity": result.perplexity,
                "validation_perplexity": None,
            }
            rounds.append(entry)
            others, spent = others + timing.others_seconds, spent + timing.seconds
            if not math.isfinite(result.perplexity):
                reason = f"training perplexity became {result.perplexity} in epoch {entry['epoch']}"
                raise Failed("diverged", reason, rounds=rounds)
            is_last = self.epochs_done == self.job.workload.epochs
            if is_last or self.epochs_done % self.job.validate_every == 0:
                evaluated = language_model.twin(self.model)
                perplexity = evaluate(evaluated, self.validation)
                entry["validation_perplexity"] = perplexity
                if self.job.held_out or self.job.workload.patience:
                    self.best.offer(self.model, self.epochs_done, perplexity)
                if self.best.is_over:
                    break
        if measurement.is_contended(others, spent):
            for entry in rounds:  # too short to be judged one by one
                entry["mark"] = entry["mark"] or "contended"
        return {"rounds": rounds, "is_over": self.best.is_over}

    def _interrupt(self, timing: measurement.Timing) -> None:
        measurement.synchronize(self.device)
        timing.pause()
        self.hand_over()
        timing.resume()

    def finish(self) -> dict[str, Any]:
        """What is known only at the end: peak memory, and what the model writes."""
        peak, kind = measurement.peak_memory(self.device)
        peak = self.captured_memory or peak  # what validates outside of a graph is no part of it
        model = language_model.twin(self.model)
        prefixes = (self.job.sample_prefix, *self.job.more_prefixes)
        samples = [generate(model, self.vocabulary, p, self.job.sample_length) for p in prefixes]
        return {
            "peak_memory_mib": peak,
            "peak_memory_kind": kind,
            "sample": samples[0],
            "samples": [
                {"prefix": p, "text": text, "verbatim": self._verbatim(text[len(p) :])}
                for p, text in zip(prefixes, samples, strict=True)
            ],
            "held_out": self._held_out(model),
        }

    def _verbatim(self, continuation: str) -> int:
        """How many characters of it, from its first, stand like that in the training text."""
        trained_on = self.vocabulary.decode(self.minibatches.tokens)
        return next(n for n in range(len(continuation), -1, -1) if continuation[:n] in trained_on)

    def _held_out(self, model: LanguageModel) -> list[dict[str, Any]]:
        """Bits of the held-out texts, by the last weights and by those that validated best."""
        if not self.job.held_out:
            return []
        # Here, because the gate also runs commits of deeprnn that are older than this module.
        from deeprnn.held_out import bits_by_passage

        tokens = torch.stack([self._encode(text) for text in self.job.held_out.values()], dim=1)
        passage = self.job.passage or len(tokens)
        found = []
        for weights, epoch in (("last", self.epochs_done), ("best", self.best.epoch)):
            if weights == "best":
                self.best.restore(model)
            bits = bits_by_passage(model, tokens, passage)  # (passages, texts)
            for column, name in enumerate(self.job.held_out):
                found += [
                    {
                        "weights": weights,
                        "epoch": epoch,
                        "text": name,
                        "passage": index,
                        "characters": min(passage, len(tokens) - index * passage),
                        "bits": float(bits[index, column]),
                    }
                    for index in range(len(bits))
                ]
        return found


def failure(error: BaseException) -> dict[str, Any]:
    """The status and the one-line reason that ``error`` amounts to."""
    if isinstance(error, Failed):
        return {"status": error.status, "reason": str(error), **error.figures}
    while error.__context__ is not None and "during capture" in str(error):
        error = error.__context__  # ending a capture that failed says only that it failed
    first = (str(error).strip() or "no message").splitlines()[0]
    reason = f"{type(error).__name__}: {first}"
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "reason": first}
    is_out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
    return {"status": "oom" if is_out_of_memory else "crashed", "reason": reason}


def _answer(channel: TextIO, content: dict[str, Any]) -> None:
    channel.write(json.dumps(content) + "\n")
    channel.flush()


def _read_commands(commands: queue.Queue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)  # the runner is gone; so is the reason to compute


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's business
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    commands: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()

    def hand_over() -> None:
        _answer(channel, {"paused": True})
        commands.get()

    try:
        run = CaseRun(Job.from_json(commands.get()), hand_over)
        _answer(channel, run.prepare())
        while True:
            command = json.loads(commands.get())
            if "finish" in command:
                _answer(channel, run.finish())
                return 0
            _answer(channel, run.turn(command["turn"], command.get("slice", 0)))
    except Exception as error:
        if not isinstance(error, (Failed, Unsupported)):
            import traceback

            traceback.print_exc()  # to the case's log
        _answer(channel, failure(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
