"""``nn.RNN``, ``nn.GRU``, ``nn.LSTM``: the vendor's library on a GPU, oneDNN or ATen on a CPU."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.func import functional_call

from deeprnn.cells import State
from deeprnn.cudnn_algorithm import Gpu, algorithms, dotted
from deeprnn.stack import DeepRNN, graph_node_names

MODULES: dict[str, Callable[..., nn.RNNBase]] = {
    "rnn_tanh": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="tanh", **options),
    "rnn_relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class TorchNN(DeepRNN):
    """All neighbouring recurrent layers in one module of ``torch.nn``.

    The modules share this object's parameters; they are kept out of its registered children, so
    that its own parameter names stay those of ``torch.nn``.
    """

    timed_parts = ("stack",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._modules_by_first_layer: dict[int, nn.RNNBase] = {}
        for is_recurrent, group in groupby(range(self.num_layers), lambda i: self.recurrent[i]):
            layers = list(group)
            if is_recurrent:
                self._modules_by_first_layer[layers[0]] = MODULES[self.cell](
                    self.input_size if layers[0] == 0 else self.hidden_size,
                    self.hidden_size,
                    len(layers),
                    device="meta",  # draws no random numbers; the shared parameters replace these
                )
        self._share_parameters()
        # Loaded with assign=True, parameters are other ones than before.
        self.register_load_state_dict_post_hook(share_again)

    def _share_parameters(self) -> None:
        self._shared = tuple(self._parameters.values())
        for first, module in self._modules_by_first_layer.items():
            for index in range(module.num_layers):
                own = self.parameters_of(first + index)
                for (name, _), parameter in zip(self._shapes(index), own, strict=True):
                    setattr(module, name, parameter)
            flatten_parameters(module)

    def _is_shared(self) -> bool:
        """Whether the modules have this object's parameters as they are now.

        Parameters that were assigned since are shared first. Tensors in their place, as
        ``torch.func.functional_call`` and parametrizations put them, cannot be.
        """
        own = tuple(self._parameters.values())
        if len(own) == len(self._shared) and all(map(operator.is_, own, self._shared)):
            return True
        if len(own) == len(self._shared) and all(isinstance(one, nn.Parameter) for one in own):
            self._share_parameters()
            return True
        return False

    def _tensors_of(self, first: int, module: nn.RNNBase) -> dict[str, Tensor]:
        """What stands for the parameters of the module that begins with layer ``first``."""
        return {
            name: tensor
            for index in range(module.num_layers)
            for (name, _), tensor in zip(
                self._shapes(index), self.parameters_of(first + index), strict=True
            )
        }

    def _apply(self, *arguments: Any, **options: Any) -> TorchNN:
        super()._apply(*arguments, **options)
        self._share_parameters()  # moved or converted: the modules must see the new tensors
        return self

    def train(self, mode: bool = True) -> TorchNN:
        super().train(mode)
        for module in self._modules_by_first_layer.values():
            module.train(mode)
        return self

    def flatten_parameters(self) -> None:
        for module in self._modules_by_first_layer.values():
            flatten_parameters(module)

    def stack(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        finals: list[State] = []
        layer = 0
        is_shared = self._is_shared()
        while layer < self.num_layers:
            if layer in self._modules_by_first_layer:
                module = self._modules_by_first_layer[layer]
                part = tuple(s[layer : layer + module.num_layers] for s in state)
                arguments = (x, part if self.cell == "lstm" else part[0])
                if is_shared:
                    x, final = module(*arguments)
                else:
                    x, final = functional_call(module, self._tensors_of(layer, module), arguments)
                finals.append(final if self.cell == "lstm" else (final,))
                layer += module.num_layers
            else:
                x, final = self.any_layer(layer, x, ())
                finals.append(tuple(s.unsqueeze(0) for s in final))
                layer += 1
        return x, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _algorithms(self, y: Tensor) -> str:
        """Which of cuDNN's algorithms the modules asked for."""
        T, B, gpu, found = y.size(0), y.size(1), Gpu.of(y.device), []
        for module in self._modules_by_first_layer.values():
            sizes = (module.input_size, module.hidden_size, module.num_layers, B, T)
            what = algorithms(self.cell, *sizes, y.dtype, gpu)
            found += [] if what in found else [what]
        return " and ".join(found)

    def backend(self, y: Tensor) -> str:
        nodes = graph_node_names(y)
        if any("Cudnn" in name for name in nodes):
            modules = self._modules_by_first_layer.values()
            is_copied = not all(is_in_one_piece(module) for module in modules)
            copied = ", weights copied at every call" if is_copied else ""
            return f"{cudnn_version()}, {self._algorithms(y)} by PyTorch's conditions{copied}"
        if any("Miopen" in name for name in nodes):
            return "MIOpen"
        if any("Mkldnn" in name for name in nodes):
            return "oneDNN"
        return super().backend(y)


def share_again(own: Any, _: object) -> None:
    """After ``load_state_dict``: a function of the module, so that a model can be pickled."""
    own._share_parameters()


def flatten_parameters(module: nn.RNNBase) -> None:
    """Puts the weights into one piece for cuDNN, which would else get a copy at every call.

    The module's own method leaves bfloat16 out, as ``torch.backends.cudnn.is_acceptable`` does,
    though cuDNN runs it and PyTorch takes such weights where they are in one piece. Elsewhere than
    on a GPU with cuDNN nothing changes.
    """
    module.flatten_parameters()
    weights = _weights_of(module)
    if _needs_flattening(weights):
        with torch.cuda.device_of(weights[0]), torch.no_grad():
            torch._cudnn_rnn_flatten_weight(
                weights,
                len(weights) // module.num_layers,
                module.input_size,
                get_cudnn_mode(module.mode),
                module.hidden_size,
                0,  # no projection
                module.num_layers,
                False,  # batch_first
                False,  # bidirectional
            )


def _weights_of(module: nn.RNNBase) -> list[Tensor]:
    return [weight for weight in module._flat_weights if isinstance(weight, Tensor)]


def _needs_flattening(weights: list[Tensor]) -> bool:
    """Whether these are bfloat16 weights that cuDNN's module will get, on a GPU that has it."""
    return (
        all(weight.is_cuda and weight.dtype == torch.bfloat16 for weight in weights)
        and torch.version.cuda is not None
        and torch.backends.cudnn.enabled
        and torch.backends.cudnn.is_available()
        and torch._use_cudnn_rnn_flatten_weight()
        and torch.cuda.get_device_capability(weights[0].device) >= (8, 0)
    )


def is_in_one_piece(module: nn.RNNBase) -> bool:
    """Whether all weights of a module lie in one storage."""
    return len({weight.untyped_storage().data_ptr() for weight in _weights_of(module)}) == 1


def cudnn_version() -> str:
    """cuDNN with its version."""
    return f"cuDNN {dotted(torch.backends.cudnn.version())}"
