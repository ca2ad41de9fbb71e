"""The harness is nearly free: a round costs what a bare loop around the same model costs.

``python tests/bench/test_overhead.py [ROUNDS]`` prints the ratio with its interval; the test below
allows more, because a shared machine may be doing anything while it runs.
"""

import json
import sys
import time
from dataclasses import asdict, replace

import torch
from torch import nn
from torch.nn import functional as F

from bench.statistics import Ratio, paired_log_ratio
from bench.worker import CaseRun, Job
from bench.workloads import PUBLISHED_LSTM

TEXT = "the time traveller for so it will be convenient to speak of him was expounding " * 200


def bare_epoch(rnn: nn.LSTM, output: nn.Linear, batches: list, learning_rate: float) -> float:
    """Seconds of one epoch with nothing around it; one wait for the loss at the end."""
    parameters = [*rnn.parameters(), *output.parameters()]
    start = time.perf_counter()
    total, state = torch.zeros(()), None
    for x, y in batches:
        for parameter in parameters:
            parameter.grad = None
        hidden, state = rnn(F.one_hot(x, rnn.input_size).float(), state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(output(hidden).flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        with torch.no_grad():
            torch._foreach_add_(parameters, [p.grad for p in parameters], alpha=-learning_rate)
        total += loss.detach()
    total.item()
    return time.perf_counter() - start


def measure(rounds: int, hidden_size: int, threads: int = 2) -> Ratio:
    """The harness's tokens/s over the bare loop's, paired by round, ABBA, in one process."""
    workload = replace(PUBLISHED_LSTM, hidden_size=hidden_size)
    job = Job.from_json(
        json.dumps(
            {
                "workload": asdict(workload),
                "implementation": "torch_nn",
                "execution": "eager",
                "device": "cpu",
                "seed": 0,
                "threads": threads,
                "text": TEXT,
                "validate_every": 10**9,
                "sample_prefix": "time",
                "sample_length": 1,
            }
        )
    )
    run = CaseRun(job)
    run.prepare()
    vocabulary = len(run.vocabulary)
    rnn, output = nn.LSTM(vocabulary, hidden_size, 2), nn.Linear(hidden_size, vocabulary)

    def harness() -> float:
        (result,) = run.turn(1)["rounds"]
        return float(result["seconds"])

    def bare(index: int) -> float:
        batches = list(run.minibatches.epoch(index))
        return bare_epoch(rnn, output, batches, workload.learning_rate)

    harness(), bare(0)
    seconds: dict[str, list[float]] = {"harness": [], "bare": []}
    for index in range(rounds):
        order = ("harness", "bare") if index % 2 == 0 else ("bare", "harness")
        for which in order:
            seconds[which].append(harness() if which == "harness" else bare(index))
    return paired_log_ratio(seconds["bare"], seconds["harness"])


def test_the_harness_is_nearly_free():
    ratio = measure(rounds=6, hidden_size=64)
    assert ratio.ratio > 0.85, f"the harness runs at {ratio.ratio:.3f} of a bare loop"


if __name__ == "__main__":
    outcome = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 30, hidden_size=256)
    print(
        f"harness / bare loop, tokens/s: {outcome.ratio:.4f} "
        f"(95 % interval {outcome.low:.4f} to {outcome.high:.4f}, {outcome.pairs} pairs)"
    )
