"""``torch.nn`` in float16, a module a layer, padded so that cuDNN's persistent algorithm runs.

That algorithm keeps the recurrent weights on the chip for all time steps. PyTorch asks for it
under conditions (``deeprnn/cudnn_algorithm.py``) that two layers in one module never meet, and a
one-hot input of 28 neither. So each layer is a module of its own, and sizes are padded with zeros
to multiples of 128.

Padding changes nothing. A padded unit has zero weights and biases and starts from a zero state:

    LSTM   g = tanh 0 = 0, so c = σ(0)·0 + σ(0)·0 = 0 and h = σ(0)·tanh 0 = 0
    GRU    n = tanh 0 = 0, so h = (1 − σ(0))·0 + σ(0)·0 = 0
    RNN    h = tanh 0 = max(0, 0) = 0

so it stays zero for ever, and the weights that lead from it are zero besides. Backward, its output
is cut off and nothing else depends on it, so its gradients are zero, and cut off as well. A padded
input is zero, and so are its weights.

Training in pure float16 loses gradients below 6e-8 and keeps fewer than 11 bits of those below
6e-5. Nothing is scaled here: a layer's gradients are what ``torch.nn`` gives, and to scale the loss
would be the trainer's affair, for all implementations alike. The recipe computes its loss in
float32 and clips gradients, which only makes them smaller; what is lost shows in the perplexity.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprnn.cells import GATES, State
from deeprnn.cudnn_algorithm import MULTIPLE, PERSISTENT, Gpu, algorithms, why_not_persistent
from deeprnn.implementations.torch_nn import MODULES, cudnn_version, share_again
from deeprnn.stack import DeepRNN, graph_node_names
from deeprnn.support import Request, Support, device_present

FUNCTIONS = {
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
    "gru": torch.gru,
    "lstm": torch.lstm,
}


def padded(size: int) -> int:
    """``size`` rounded up to what the algorithm takes."""
    return -(-size // MULTIPLE) * MULTIPLE


def persistent_algorithm(request: Request) -> str | None:
    """Every layer meets PyTorch's conditions, once padded."""
    gpu, H = Gpu.of(request.device), padded(request.hidden_size)
    for width in (padded(request.input_size), H):  # the first layer's input, then the others'
        reason = why_not_persistent(
            request.cell, width, H, 1, request.batch_size, request.num_steps, gpu
        )
        if reason is not None:
            return f"cuDNN's persistent algorithm: {reason}"
        sizes = (request.cell, width, H, 1, request.batch_size, request.num_steps)
        chosen = algorithms(*sizes, torch.float16, gpu)
        if chosen != f"{PERSISTENT} algorithm":
            return f"PyTorch takes another algorithm at H {H}: {chosen}"
    return None


class TorchNNPersistent(DeepRNN):
    """One ``torch.nn`` module a layer, sizes padded with zeros to multiples of 128.

    Where nothing has to be padded, a module holds this object's own parameters, flattened as cuDNN
    wants them. Where something has, padded copies are made at every call, which costs a few small
    kernels; at the published sizes that is the first layer's, for the one-hot input alone.
    """

    support = Support(
        devices=("cuda",),
        dtypes=("float16",),
        requirements=(device_present, persistent_algorithm),
    )
    timed_parts = ("stack",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._modules_by_layer: dict[int, nn.RNNBase] = {}  # not children: names stay torch.nn's
        for layer in range(self.num_layers):
            width = self._input_size(layer)
            if self.recurrent[layer] and not self._needs_padding(width):
                # "meta" draws no random numbers; the shared parameters replace these
                self._modules_by_layer[layer] = MODULES[self.cell](
                    width, self.hidden_size, 1, device="meta"
                )
        self._share_parameters()
        # Loaded with assign=True, parameters are other ones than before.
        self.register_load_state_dict_post_hook(share_again)

    def _input_size(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size

    def _needs_padding(self, width: int) -> bool:
        return padded(width) != width or padded(self.hidden_size) != self.hidden_size

    def _share_parameters(self) -> None:
        for layer, module in self._modules_by_layer.items():
            for (name, _), own in zip(self._shapes(0), self.parameters_of(layer), strict=True):
                setattr(module, name, own)
            module.flatten_parameters()

    def _apply(self, *arguments: Any, **options: Any) -> TorchNNPersistent:
        super()._apply(*arguments, **options)
        self._share_parameters()  # moved or converted: the modules must see the new tensors
        return self

    def flatten_parameters(self) -> None:
        for module in self._modules_by_layer.values():
            module.flatten_parameters()

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        width, H = x.size(-1), self.hidden_size
        needs_padding = self._needs_padding(width)
        parameters = self._padded(layer) if needs_padding else self.parameters_of(layer)
        states = [_pad(s, padded(H)).unsqueeze(0).contiguous() for s in state]
        with warnings.catch_warnings():
            if needs_padding:  # copies do not lie in one piece, which cuDNN's caller regrets
                warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            # has_biases, num_layers, dropout, train, bidirectional, batch_first
            y, *final = FUNCTIONS[self.cell](  # type: ignore[operator]
                _pad(x, padded(width)), states if self.cell == "lstm" else states[0], parameters,
                True, 1, 0.0, self.training, False, False,
            )  # fmt: skip
        return y[..., :H], tuple(s.squeeze(0)[..., :H] for s in final)

    def _padded(self, layer: int) -> tuple[Tensor, ...]:
        """The layer's parameters with zeros for padded units and inputs, gate by gate."""
        G, H = GATES[self.cell], self.hidden_size
        columns = (self._input_size(layer), H, 1, 1)
        found = []
        for parameter, width in zip(self.parameters_of(layer), columns, strict=True):
            by_gate = parameter.view(G, H, width)
            wider = padded(width) - width if parameter.dim() == 2 else 0
            more = F.pad(by_gate, (0, wider, 0, padded(H) - H))  # (G, H padded, width padded)
            found.append(more.flatten() if parameter.dim() == 1 else more.flatten(0, 1))
        return tuple(found)

    def backend(self, y: Tensor) -> str:
        if not any("Cudnn" in name for name in graph_node_names(y)):
            return super().backend(y)
        T, B, gpu = y.size(0), y.size(1), Gpu.of(y.device)
        H, found = padded(self.hidden_size), []
        for layer in range(self.num_layers):
            if self.recurrent[layer]:
                width = padded(self._input_size(layer))
                what = algorithms(self.cell, width, H, 1, B, T, y.dtype, gpu)
                found += [] if what in found else [what]
        return f"{cudnn_version()}, {' and '.join(found)} by PyTorch's conditions"


def _pad(tensor: Tensor, size: int) -> Tensor:
    """Zeros behind the last dimension, up to ``size``."""
    missing = size - tensor.size(-1)
    return F.pad(tensor, (0, missing)) if missing else tensor
