"""What the chapter trains: its three published runs and its four exercises, by budget.

Source: Dive into Deep Learning, chapter 9.3 "Deep Recurrent Neural Networks" of its first edition;
the printed programs are described in `bench/workloads.py`.

Every need is a case of the suite. Two exercises that need the same case share it, and train it as
long as the more demanding of them asks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.workloads import PUBLISHED_GRU, PUBLISHED_LSTM, PUBLISHED_SCRATCH, Workload

HELD_OUT_CHARACTERS = 7_500
"""Of each text the last 15,000 characters are never trained on: half to choose epochs by, half to
judge by."""

WELLS, MORE_WELLS, AUSTEN, KAFKA = "timemachine", "moreau", "pride", "metamorphosis"
TEXTS = (WELLS, MORE_WELLS, AUSTEN, KAFKA)

SIZES = (5_000, 10_000, 20_000, 40_000, 80_000)
"""Training characters of exercise 3; then come all that are not held out, and more."""

ALL_OF_IT = 170_580
MORE_TEXT = 212_000  # of The Island of Doctor Moreau: all but its held-out end


@dataclass(frozen=True)
class Budget:
    """How much is trained for the chapter."""

    name: str
    purpose: str
    run_epochs: int  # of the published runs
    run_seeds: int
    epochs: int  # of exercises 1 and 2
    seeds: int
    timed_epochs: int  # of the cases that are timed
    hidden_size: int  # of the GRU of exercises 3 and 4
    updates: int  # the most that it is trained with
    text_seeds: int  # of exercises 3 and 4
    portion: int  # characters of each text in exercise 4
    implementations: int = 1  # how many learn in exercise 2: the fastest, then also the library

    @property
    def is_reduced(self) -> bool:
        """Whether the published runs are shorter than published, or seeds fewer than asked."""
        return self.run_epochs < PUBLISHED_LSTM.epochs or self.seeds < 5


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            name="quick",
            purpose="every figure and table from little training, in under 10 minutes on a CPU",
            run_epochs=40,
            run_seeds=1,
            epochs=30,
            seeds=2,
            timed_epochs=4,
            hidden_size=128,
            updates=800,
            text_seeds=1,
            portion=20_000,
        ),
        Budget(
            name="standard",
            purpose=(
                "the published runs as published, the exercises with fewer epochs: "
                "about two hours on two CPU cores"
            ),
            run_epochs=500,
            run_seeds=3,
            epochs=100,
            seeds=5,
            timed_epochs=8,
            hidden_size=256,
            updates=3_000,
            text_seeds=3,
            portion=40_000,
        ),
        Budget(
            name="full",
            purpose=(
                "the published runs with three seeds, the exercises with five, up to 6,000 "
                "updates on the longer texts: meant for a GPU, half a day on a CPU"
            ),
            run_epochs=500,
            run_seeds=3,
            epochs=500,
            seeds=5,
            timed_epochs=30,
            hidden_size=256,
            updates=6_000,
            text_seeds=5,
            portion=60_000,
            implementations=2,
        ),
    )
}


@dataclass(frozen=True)
class Need:
    """A case that a part of the chapter needs, and what it is there."""

    part: str
    role: str
    workload: Workload
    is_timed: bool = False
    is_rival: bool = False  # to be run by the library, not by the fastest of our own
    held_out: tuple[str, ...] = (WELLS,)  # texts to be judged on
    validation: str = WELLS


PARTS = {
    "runs": "The three published runs",
    "exercise-1": "Exercise 1: a two-layer network from scratch",
    "exercise-2": "Exercise 2: a GRU instead of the LSTM",
    "exercise-3": "Exercise 3: more training data",
    "exercise-4": "Exercise 4: texts of different authors",
}


def needs(budget: Budget) -> list[Need]:
    """All that the chapter needs under ``budget``, part by part, seed by seed."""
    return [
        *_runs(budget),
        *_exercise_1(budget),
        *_exercise_2(budget),
        *_exercise_3(budget),
        *_exercise_4(budget),
    ]


RIGHT_SCRATCH = replace(
    PUBLISHED_SCRATCH,
    recurrent=None,
    title="tanh RNN from scratch, 2 layers of 512, both recurrent",
    published_tokens_per_second=None,
    published_perplexity=None,
    published_note="",
)
DEEP_GRU = replace(
    PUBLISHED_GRU,
    num_layers=2,
    title="GRU, 2 layers of 256",
    published_tokens_per_second=None,
    published_perplexity=None,
    published_note="",
)


def parameters(workload: Workload, vocabulary_size: int = 28) -> int:
    """Numbers that training changes: recurrent stack and output layer."""
    from deeprnn.cells import GATES  # here, so that the command line starts without torch

    total = 0
    for layer in range(workload.num_layers):
        inputs = vocabulary_size if layer == 0 else workload.hidden_size
        is_recurrent = workload.recurrent is None or workload.recurrent[layer]
        columns = inputs + 1 + (workload.hidden_size + 1 if is_recurrent else 0)
        total += GATES[workload.cell] * workload.hidden_size * columns
    return total + (workload.hidden_size + 1) * vocabulary_size


def wide_gru() -> Workload:
    """The two-layer GRU whose number of parameters is nearest to the published LSTM's."""
    wanted = parameters(PUBLISHED_LSTM)
    size = min(
        range(PUBLISHED_LSTM.hidden_size, 2 * PUBLISHED_LSTM.hidden_size),
        key=lambda hidden: abs(parameters(replace(DEEP_GRU, hidden_size=hidden)) - wanted),
    )
    return replace(DEEP_GRU, hidden_size=size, title=f"GRU, 2 layers of {size}")


def _learning(
    part: str, networks: dict[str, Workload], epochs: int, seeds: int, is_rival: bool = False
) -> list[Need]:
    return [
        Need(
            part,
            role,
            replace(network, epochs=epochs, seed=seed, validate_every=5),
            is_rival=is_rival,
        )
        for seed in range(seeds)
        for role, network in networks.items()
    ]


def _timed(part: str, networks: dict[str, Workload], budget: Budget) -> list[Need]:
    return [
        Need(part, role, replace(network, epochs=budget.timed_epochs), True, is_rival)
        for role, network in networks.items()
        for is_rival in (False, True)
    ]


def _runs(budget: Budget) -> list[Need]:
    networks = {"lstm": PUBLISHED_LSTM, "scratch": PUBLISHED_SCRATCH, "gru": PUBLISHED_GRU}
    return [
        *_timed("runs", networks, budget),
        *_learning("runs", networks, budget.run_epochs, budget.run_seeds),
    ]


def _exercise_1(budget: Budget) -> list[Need]:
    networks = {"printed": PUBLISHED_SCRATCH, "right": RIGHT_SCRATCH}
    return [
        *_timed("exercise-1", networks, budget),
        *_learning("exercise-1", networks, budget.epochs, budget.seeds),
    ]


def _exercise_2(budget: Budget) -> list[Need]:
    networks = {
        "lstm": PUBLISHED_LSTM,
        "printed gru": PUBLISHED_GRU,
        "gru of equal layers and width": DEEP_GRU,
        "gru of equal parameters": wide_gru(),
    }
    found = _timed("exercise-2", networks, budget)
    for is_rival in (False, True)[: budget.implementations]:
        found += _learning("exercise-2", networks, budget.epochs, budget.seeds, is_rival=is_rival)
    return found


def _on_texts(
    part: str,
    role: str,
    training: tuple[tuple[str, int], ...],
    seed: int,
    budget: Budget,
    held_out: tuple[str, ...],
    validation: str = WELLS,
) -> Need:
    """The GRU trained on the beginnings of some texts until it validates no better."""
    characters = sum(count for _, count in training)
    updates_an_epoch = max(1, characters // PUBLISHED_GRU.batch_size // PUBLISHED_GRU.num_steps)
    workload = replace(
        PUBLISHED_GRU,
        hidden_size=budget.hidden_size,
        title=f"GRU, 1 layer of {budget.hidden_size}, "
        + " + ".join(f"{count:,} of {name}" for name, count in training),
        training=training,
        seed=seed,
        epochs=max(1, round(budget.updates / updates_an_epoch)),
        validate_every=max(1, round(60 / updates_an_epoch)),
        patience=8,
        published_tokens_per_second=None,
        published_perplexity=None,
        published_note="",
    )
    return Need(part, role, workload, held_out=held_out, validation=validation)


def _exercise_3(budget: Budget) -> list[Need]:
    rest = ALL_OF_IT - 2 * HELD_OUT_CHARACTERS
    both = (WELLS, MORE_WELLS)
    found = []
    for seed in range(budget.text_seeds):
        for size in (*SIZES, rest):
            role = f"{size:,} characters"
            found.append(_on_texts("exercise-3", role, ((WELLS, size),), seed, budget, both))
        more = ((WELLS, rest), (MORE_WELLS, MORE_TEXT))
        role = f"{rest:,} characters and {MORE_TEXT:,} of another book by Wells"
        found.append(_on_texts("exercise-3", role, more, seed, budget, both))
        # The whole book leaves nothing of itself to judge by: only the other book does.
        whole = ((WELLS, ALL_OF_IT),)
        role = f"all {ALL_OF_IT:,} characters"
        found.append(_on_texts("exercise-3", role, whole, seed, budget, (MORE_WELLS,), MORE_WELLS))
    return found


def mixtures(portion: int) -> dict[str, tuple[tuple[str, int], ...]]:
    """Exercise 4: equal Wells plus extra, equal totals, and single authors."""
    third = 2 * portion // 3
    return {
        "Wells": ((WELLS, portion),),
        "twice as much Wells": ((WELLS, 2 * portion),),
        "Wells + other Wells": ((WELLS, portion), (MORE_WELLS, portion)),
        "Wells + Austen": ((WELLS, portion), (AUSTEN, portion)),
        "Wells + Kafka + Austen": ((WELLS, portion), (KAFKA, portion), (AUSTEN, portion)),
        "a third each of Wells, Kafka, Austen": ((WELLS, third), (KAFKA, third), (AUSTEN, third)),
        "Austen": ((AUSTEN, portion),),
        "Kafka": ((KAFKA, portion),),
    }


def _exercise_4(budget: Budget) -> list[Need]:
    found = []
    for seed in range(budget.text_seeds):
        for role, training in mixtures(budget.portion).items():
            first = training[0][0]  # Wells wherever there is Wells
            found.append(_on_texts("exercise-4", role, training, seed, budget, TEXTS, first))
    return found
