"""What the kernel tests share: the interpreter where there is no GPU, and the float64 reference."""

import os

import torch

# Triton reads this once, when a kernel is defined: it must be set before `kernels` is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest

from kernels.cells import GATES

CELLS = tuple(GATES)


@pytest.fixture(autouse=True, scope="session")
def language_patched_once():
    """A launch in the interpreter puts its own functions into `triton.language`.

    So does every device function that a kernel calls, once more and for nothing, unless it is one
    of Triton's own, which see another part of the language. That takes half of these tests' time.
    """
    from triton.runtime.interpreter import InterpretedFunction

    plain = InterpretedFunction.__call__

    def call(self, *arguments, **options):
        if self.fn.__module__.startswith("triton."):
            return plain(self, *arguments, **options)
        return self.rewrite()(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "__call__", call)
        yield


@pytest.fixture
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


class Case:
    """One recurrent layer of `torch.nn` in float64: inputs, initial state, upstream gradients.

    Outputs and gradients are dictionaries by name, so that a failure says what is wrong.
    """

    def __init__(self, cell, T, B, H, *, scale=1.0, seed=0,
                 dtype=torch.float32):  # fmt: skip
        self.cell, self.T, self.B, self.H = cell, T, B, H
        generator = torch.Generator().manual_seed(seed)

        def random(*shape, divide=1.0):
            """Values that `dtype` holds exactly: the comparison measures the kernel, not a cast."""
            values = torch.randn(*shape, generator=generator, dtype=torch.float64) / divide
            return values.to(dtype).double()

        G = GATES[cell]
        self.inputs = {
            "x": random(T, B, 20, divide=1 / scale),
            "weight_ih": random(G * H, 20, divide=H**0.5),
            "weight_hh": random(G * H, H, divide=H**0.5),
            "bias_ih": random(G * H, divide=H**0.5),
            "bias_hh": random(G * H, divide=H**0.5),
            "h": random(B, H),
        }
        self.upstream = {"y": random(T, B, H), "final_h": random(B, H)}
        if cell == "lstm":
            self.inputs["c"] = random(B, H)
            self.upstream["final_c"] = random(B, H)

    def reference(self, upstream=("y", "final_h", "final_c")):
        """Outputs and gradients by `torch.nn`, float64, CPU."""
        kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
        kind = kinds.get(self.cell, torch.nn.RNN)
        extra = {} if self.cell in kinds else {"nonlinearity": self.cell.removeprefix("rnn_")}
        module = kind(20, self.H, dtype=torch.float64, **extra)
        inputs = {name: tensor.clone() for name, tensor in self.inputs.items()}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(module, f"{name}_l0").data.copy_(inputs[name])
            inputs[name] = getattr(module, f"{name}_l0")
        for name in ("x", "h", "c"):
            if name in inputs:
                inputs[name].requires_grad_()
        state = inputs["h"][None]
        y, final = module(inputs["x"], (state, inputs["c"][None]) if "c" in inputs else state)
        final = final if isinstance(final, tuple) else (final,)
        outputs = {"y": y} | dict(zip(("final_h", "final_c"), (s[0] for s in final), strict=False))
        return outputs, self._gradients(inputs, outputs, upstream)

    def run(self, layer, dtype, device, upstream=("y", "final_h", "final_c"),
            is_training=False, **options):  # fmt: skip
        """The same through `layer`, a function of `kernels.function`.

        In training no gradient of the initial state.
        """
        inputs = {name: tensor.to(device, dtype) for name, tensor in self.inputs.items()}
        for name, tensor in inputs.items():
            tensor.requires_grad_(not is_training or name not in ("h", "c"))
        gates_x = inputs["x"] @ inputs["weight_ih"].T + inputs["bias_ih"]
        state = (inputs["h"], inputs["c"]) if self.cell == "lstm" else inputs["h"]
        y, final = layer(
            self.cell, gates_x, inputs["weight_hh"], inputs["bias_hh"], state, **options
        )
        final = final if isinstance(final, tuple) else (final,)
        outputs = {"y": y} | dict(zip(("final_h", "final_c"), final, strict=False))
        return outputs, self._gradients(inputs, outputs, upstream)

    def _gradients(self, inputs, outputs, upstream):
        total = sum(
            (outputs[name] * self.upstream[name].to(outputs[name])).sum()
            for name in upstream
            if name in outputs
        )
        asked = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
        grads = torch.autograd.grad(total, list(asked.values()))
        return {f"grad {name}": grad for name, grad in zip(asked, grads, strict=True)}


def relative_error(actual, reference):
    """‖a − r‖ / ‖r‖; where the reference is zero, ‖a‖."""
    actual = actual.detach().double().cpu()
    reference = reference.detach()
    norm = reference.norm().item()
    return (actual - reference).norm().item() / (norm if norm > 0 else 1.0)


@pytest.fixture
def check(device):
    """check(layer, case, bound): every output and gradient of `layer` against the reference."""

    def run(layer, case, bound=1e-5, dtype=torch.float32,
            upstream=("y", "final_h", "final_c"), **options):  # fmt: skip
        outputs, gradients = case.run(layer, dtype, device, upstream, **options)
        wanted_outputs, wanted_gradients = case.reference(upstream)
        errors = {
            name: relative_error((outputs | gradients)[name], wanted)
            for name, wanted in (wanted_outputs | wanted_gradients).items()
        }
        wrong = {name: error for name, error in errors.items() if not error <= bound}
        assert not wrong, f"relative errors above {bound}: {wrong}"

    return run


@pytest.fixture
def make_case():
    return Case


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh buffers hold NaN, so a value that a kernel forgets to write cannot pass as a zero."""
    plain = torch.Tensor.new_empty

    def new_empty(self, *shape, **options):
        tensor = plain(self, *shape, **options)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(
        torch, "empty_like", lambda tensor, **options: tensor.new_empty(tensor.shape)
    )
