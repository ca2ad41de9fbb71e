"""What is trained: the published configurations, and the profiles that choose among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

CHAPTER_SECONDS = 3 * 3600.0
"""What a case of the chapter may take."""

SUFFIXES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}


class UsageError(ValueError):
    """A wrong use of the command line: what was given, what is accepted, what to do next."""


@dataclass(frozen=True)
class Workload:
    """One training task. Everything that changes what is computed stands here.

    Sizes in the symbols of the project: ``cell``, ``L``, ``H``, ``B``, ``T``.
    """

    cell: str
    num_layers: int
    hidden_size: int
    learning_rate: float
    epochs: int
    title: str
    batch_size: int = 32
    num_steps: int = 35
    dtype: str = "float32"
    matmul_precision: str = "ieee"
    initialization: str = "uniform"
    recurrent: tuple[bool, ...] | None = None  # by layer; None: every layer
    num_train: int = 10_000  # characters
    num_validation: int = 5_000
    training: tuple[tuple[str, int], ...] = ()  # text and its first characters; (): one text, above
    seed: int | None = None  # None: that of the run
    patience: int = 0  # validations without improvement that end the training; 0: all epochs
    validate_every: int | None = None  # epochs; None: as the profile says
    published_tokens_per_second: float | None = None
    published_perplexity: float | None = None
    published_note: str = ""

    @property
    def id(self) -> str:
        """Stable and readable, ``lstm-L2-H256-B32-T35-fp32``: what a step computes.

        How long and how fast it learns is not in it; a plan has one workload of an id.
        """
        precision = SUFFIXES[self.dtype]
        if self.dtype == "float32" and self.matmul_precision == "tf32":
            precision = "tf32"
        parts = [
            self.cell,
            f"L{self.num_layers}",
            f"H{self.hidden_size}",
            f"B{self.batch_size}",
            f"T{self.num_steps}",
            precision,
        ]
        if self.recurrent is not None and not all(self.recurrent):
            # The layers that do have a recurrent weight, counted from 1.
            which = "+".join(str(i + 1) for i, is_on in enumerate(self.recurrent) if is_on)
            parts.append(f"recurrent{which}")
        if self.initialization != "uniform":
            parts.append(self.initialization)
        if self.training:
            parts.append("+".join(f"{name}{count}" for name, count in self.training))
        if self.seed is not None:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def flops_per_token(self, vocabulary_size: int) -> float:
        """Floating-point operations of one training step a token, matrix products alone.

        A product of ``m`` by ``n`` costs ``2 m n`` forward, as much again for the gradient of its
        weight and once more for that of its input. The one-hot input needs no gradient. Gates,
        loss and optimiser are left out: they are below 2 % here.
        """
        from deeprnn.cells import GATES  # here, so that the command line starts without torch

        total = 0.0
        for layer in range(self.num_layers):
            rows = GATES[self.cell] * self.hidden_size
            inputs = vocabulary_size if layer == 0 else self.hidden_size
            total += 2 * rows * inputs * (2 if layer == 0 else 3)
            if self.recurrent is None or self.recurrent[layer]:
                total += 2 * rows * self.hidden_size * 3
        return total + 2 * self.hidden_size * vocabulary_size * 3


PUBLISHED_LSTM = Workload(
    cell="lstm",
    num_layers=2,
    hidden_size=256,
    learning_rate=2.0,
    epochs=500,
    title="LSTM, 2 layers of 256",
    published_tokens_per_second=116_173.5,
    published_perplexity=1.0,
    published_note="published run, GPU not named",
)

PUBLISHED_SCRATCH = Workload(
    cell="rnn_tanh",
    num_layers=2,
    hidden_size=512,
    learning_rate=1.0,
    epochs=500,
    title="tanh RNN from scratch, 2 layers of 512, the second without recurrence",
    initialization="normal",
    recurrent=(True, False),
    published_tokens_per_second=63_514.3,
    published_perplexity=1.0,
    published_note="published run as printed (layer 2 has no recurrent weight), GPU not named",
)

PUBLISHED_GRU = Workload(
    cell="gru",
    num_layers=1,
    hidden_size=256,
    learning_rate=2.0,
    epochs=500,
    title="GRU, 1 layer of 256",
    published_tokens_per_second=230_590.6,
    published_perplexity=1.0,
    published_note="published run as printed (num_layers is not passed: one layer), GPU not named",
)

PUBLISHED = (PUBLISHED_LSTM, PUBLISHED_SCRATCH, PUBLISHED_GRU)


@dataclass(frozen=True)
class Profile:
    """A choice of workloads and of how much to do with each."""

    name: str
    purpose: str
    workloads: tuple[Workload, ...]
    executions: tuple[str, ...] = ("eager", "cuda_graph")
    runs_interpreted: bool = False  # also what only an interpreter can run on this device
    hurried: bool = False  # prepare in parallel, share compile caches: cold starts mean nothing
    case_seconds: float = 600.0  # a case that takes longer is stopped
    warm_up_epochs: int = 1
    validate_every: int = 1  # epochs
    layers_seconds: float = 0.0  # about how long to time single layers; 0: not at all
    leaves_out: tuple[str, ...] = ()


def _unpublished(workload: Workload, **changes: object) -> Workload:
    """``workload`` changed, and so without the published figures."""
    return replace(
        workload,
        published_tokens_per_second=None,
        published_perplexity=None,
        published_note="",
        **changes,  # type: ignore[arg-type]
    )


def _tiny(cell: str, title: str) -> Workload:
    return Workload(
        cell=cell,
        num_layers=2,
        # No power of two, so that kernels must mask; V of the real text, so that one compiled step
        # serves both layers.
        hidden_size=28,
        learning_rate=1.0,
        epochs=3,
        title=f"{title}, 2 layers of 28",
        batch_size=4,
        num_steps=3,
        num_train=45,
        num_validation=40,
    )


_QUICK_EPOCHS = 10
_QUICK_WORKLOADS = (
    replace(PUBLISHED_LSTM, epochs=_QUICK_EPOCHS, published_perplexity=None),
    _unpublished(PUBLISHED_GRU, num_layers=2, epochs=_QUICK_EPOCHS, title="GRU, 2 layers of 256"),
    _unpublished(
        PUBLISHED_SCRATCH,
        hidden_size=256,
        recurrent=None,
        initialization="uniform",
        epochs=_QUICK_EPOCHS,
        title="tanh RNN, 2 layers of 256",
    ),
)

_FULL_WORKLOADS = (
    _unpublished(PUBLISHED_LSTM),
    _unpublished(PUBLISHED_GRU, num_layers=2, title="GRU, 2 layers of 256"),
    _unpublished(
        PUBLISHED_SCRATCH,
        recurrent=None,
        initialization="uniform",
        title="tanh RNN, 2 layers of 512",
    ),
)

_HALF_WORKLOADS = tuple(
    replace(workload, epochs=20, dtype=dtype, title=f"{workload.title}, {dtype}")
    for workload, dtype in (
        (_FULL_WORKLOADS[0], "bfloat16"),
        (_FULL_WORKLOADS[1], "bfloat16"),
        (_FULL_WORKLOADS[0], "float16"),  # the vendor's library at its best
    )
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            purpose=(
                "Checks that everything works: every implementation × every cell at tiny sizes. "
                "Its speeds mean nothing."
            ),
            workloads=(
                _tiny("rnn_tanh", "tanh RNN"),
                _tiny("rnn_relu", "ReLU RNN"),
                _tiny("gru", "GRU"),
                _tiny("lstm", "LSTM"),
            ),
            executions=("eager",),
            runs_interpreted=True,
            hurried=True,
            case_seconds=180.0,
            layers_seconds=10.0,  # a busy machine takes four for pytest and PyTorch to begin
            leaves_out=(
                "speeds and cold starts worth citing: sizes are tiny and cases start in parallel",
                "CUDA graphs",
            ),
        ),
        Profile(
            name="quick",
            purpose=(
                f"A first ranking in minutes: {_QUICK_EPOCHS} epochs of the LSTM, the GRU and the "
                "tanh RNN with 2 layers of 256."
            ),
            workloads=_QUICK_WORKLOADS,
            case_seconds=120.0,
            layers_seconds=20.0,
            leaves_out=(
                f"learning to the end: {_QUICK_EPOCHS} epochs instead of 500 "
                "(the profile published trains to perplexity 1)",
                "the ReLU RNN (profile smoke), the printed scratch network of 2 × 512 and the "
                "one-layer GRU (profile published)",
                "kernels that only an interpreter can run on this device (profile smoke)",
            ),
        ),
        Profile(
            name="published",
            purpose=(
                "The three published runs, 500 epochs each, by every implementation that can "
                "express them."
            ),
            workloads=PUBLISHED,
            case_seconds=3600.0,
            validate_every=10,
            leaves_out=("kernels that only an interpreter can run on this device (profile smoke)",),
        ),
        Profile(
            name="full",
            purpose=(
                "The figures to cite from a GPU: LSTM 2 × 256, GRU 2 × 256 and tanh RNN 2 × 512, "
                "in IEEE float32 and in TF32, the gated ones in bfloat16 and the LSTM in float16, "
                "eager and as a CUDA graph."
            ),
            workloads=(
                *(
                    replace(
                        workload,
                        epochs=41,  # 40 count, in 20 turns: ten stretches of two turns
                        matmul_precision=precision,
                        title=workload.title + (", TF32" if precision == "tf32" else ""),
                    )
                    for workload in _FULL_WORKLOADS
                    for precision in ("ieee", "tf32")
                ),
                *_HALF_WORKLOADS,
            ),
            case_seconds=240.0,
            validate_every=10,
            layers_seconds=60.0,
            leaves_out=(
                "learning to the end: 41 epochs, in half precision 20, instead of 500 "
                "(profile published)",
                "the GRU in float16 and the tanh RNN in half precision",
                "sizes other than the published ones",
            ),
        ),
    )
}


def find_profile(name: str) -> Profile:
    """The profile of that name. Raises ``UsageError`` naming those there are."""
    if name not in PROFILES:
        raise UsageError(f"profile {name!r} is unknown; use one of {', '.join(PROFILES)}")
    return PROFILES[name]
