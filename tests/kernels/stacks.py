"""A stack of layers through `wavefront_stack` beside `torch.nn` in float64."""

import torch

from kernels.stack import wavefront_stack


class Stack:
    """L layers of `torch.nn` in float64 with values that `dtype` holds exactly."""

    def __init__(self, cell, T, B, H, L, dtype=torch.float32):
        torch.manual_seed(0)
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(cell, torch.nn.RNN)
        extra = {} if cell in ("lstm", "gru") else {"nonlinearity": cell.removeprefix("rnn_")}
        self.module = kind(12, H, L, dtype=torch.float64, **extra)

        def exact(tensor):
            return tensor.to(dtype).double()

        for parameter in self.module.parameters():
            parameter.data.copy_(exact(parameter.data))
        count = 2 if cell == "lstm" else 1
        random = torch.Generator().manual_seed(1)

        def normal(*shape):
            return exact(torch.randn(*shape, generator=random, dtype=torch.float64))

        self.cell, self.L, self.dtype = cell, L, dtype
        self.inputs = [normal(T, B, 12), *(normal(L, B, H) for _ in range(count))]
        self.upstream = [normal(T, B, H), *(normal(L, B, H) for _ in range(count))]

    def reference(self):
        inputs = [tensor.clone().requires_grad_() for tensor in self.inputs]
        states = inputs[1:]
        y, final = self.module(inputs[0], tuple(states) if len(states) == 2 else states[0])
        return self._collect(y, final, inputs, dict(self.module.named_parameters()))

    def run(self, device, shift=0, is_training=False, **options):
        """`shift`: elements by which the initial state lies beside an aligned address.

        In training no gradient of the initial state.
        """
        inputs = [t.to(device, self.dtype) for t in self.inputs]
        for tensor in inputs[: 1 if is_training else None]:
            tensor.requires_grad_()
        named = {
            name: parameter.detach().to(device, self.dtype).requires_grad_()
            for name, parameter in self.module.named_parameters()
        }
        gates_x = inputs[0] @ named["weight_ih_l0"].T
        parameters = [named[f"{name}_l0"] for name in ("weight_hh", "bias_ih", "bias_hh")]
        for layer in range(1, self.L):
            parameters += [named[f"{name}_l{layer}"] for name in
                           ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
        states = [shifted(tensor, shift) for tensor in inputs[1:]]
        state = tuple(states) if len(states) == 2 else states[0]
        y, final = wavefront_stack(self.cell, gates_x, parameters, state, **options)
        return self._collect(y, final, inputs, named)

    def _collect(self, y, final, inputs, named):
        outputs = [y, *(final if isinstance(final, tuple) else (final,))]
        pairs = zip(outputs, self.upstream, strict=True)
        total = sum((output * up.to(output)).sum() for output, up in pairs)
        inputs = [tensor for tensor in inputs if tensor.requires_grad]
        gradients = torch.autograd.grad(total, [*inputs, *named.values()])
        names = ["y", *(f"final {i}" for i in range(len(outputs) - 1)), "grad x"]
        names += [f"grad state {i}" for i in range(len(inputs) - 1)]
        return dict(zip([*names, *named], [*outputs, *gradients], strict=True))


def shifted(tensor, shift):
    """The same numbers in a view that begins `shift` elements after an aligned address."""
    if not shift:
        return tensor
    return torch.cat([tensor.new_zeros(shift), tensor.flatten()])[shift:].view_as(tensor)


def hold(stack, device, bound=1e-5, **options):
    """Every output and gradient within the bound, or its name and error."""
    ours, wrong = stack.run(device, **options), {}
    for name, wanted in stack.reference().items():
        difference = (ours[name].detach().double().cpu() - wanted.detach()).norm().item()
        if not difference <= bound * wanted.norm().item():
            wrong[name] = difference / wanted.norm().item()
    assert not wrong, f"relative errors above {bound}: {wrong}"
