"""The gradient through time, derived by hand.

The forward pass makes the input product of all steps at once, so that its loop holds nothing but
the recurrent product and the gates. The backward pass rests on one observation: given the stored
activations, the gradient of step t is *linear* in what arrives from step t+1. So the factors that
only depend on activations are computed for all t at once, before the loop; the loop multiplies
them by the arriving gradient; the gradients of the weights wait until after the loop and are one
product over all T·B rows.

Notation: ``a`` are the gates before their activation, ``δv`` is the gradient of the loss by ``v``,
``⊙`` the elementwise product, σ' and tanh' are written by the activations themselves:
σ' = σ(1 − σ), tanh' = 1 − tanh². ``δh_t`` holds all that h_t meets: ``δy_t`` from above, and step
t+1. Products (``a_t = x_t W_ihᵀ + b_ih + h_{t−1} W_hhᵀ + b_hh``) give for every cell

    δW_ih = Σ_t δa_tᵀ x_t      δW_hh = Σ_t δa_tᵀ h_{t−1}      δb = Σ_t δa_t      δx_t = δa_t W_ih

RNN, ``h_t = φ(a_t)``:

    δa_t = φ'(h_t) ⊙ δh_t
    δh_{t−1} = δy_{t−1} + δa_t W_hh

LSTM, ``c_t = f c_{t−1} + i g``, ``h_t = o tanh(c_t)``, from δh_t and the δc_t of step t+1:

    δc_t ← δc_t + o (1 − tanh² c_t) ⊙ δh_t
    δa_i = g i(1 − i) ⊙ δc_t            δa_f = c_{t−1} f(1 − f) ⊙ δc_t
    δa_g = i (1 − g²) ⊙ δc_t            δa_o = tanh(c_t) o(1 − o) ⊙ δh_t
    δc_{t−1} = f ⊙ δc_t                 δh_{t−1} = δy_{t−1} + δa_t W_hh

GRU, ``h_t = n + z (h_{t−1} − n)``, ``n = tanh(x_n + r m)`` with ``m = h_{t−1} W_hnᵀ + b_hn``. Its
recurrent product sees r ⊙ δa_n where the input product sees δa_n:

    δa_n = (1 − z)(1 − n²) ⊙ δh_t       δa_z = (h_{t−1} − n) z(1 − z) ⊙ δh_t
    δm = r ⊙ δa_n                       δa_r = m r(1 − r) ⊙ δa_n
    δh_{t−1} = δy_{t−1} + z ⊙ δh_t + [δa_r δa_z δm] W_hh

Sources: backpropagation through time, Werbos 1990; the equations are derivatives of those in
``deeprnn.cells``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deeprnn.cells import State
from deeprnn.stack import DeepRNN
from kernels.derivative import gradient_by_hand

# In one pass over memory, into a given tensor: δ σ(1 − σ) and δ (1 − tanh²).
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input

Function = Callable[[Tensor], Tensor]


class ManualGradient(DeepRNN):
    """Input product hoisted out of the loop; the gradient through time derived by hand."""

    has_gradient_by_hand = True

    def layer(self, layer: int, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, *final = Layer.apply(self.cell, x, *self.parameters_of(layer), *state)
        return y, tuple(final)


class Layer(torch.autograd.Function):
    """One recurrent layer: the products that all cells share, around the loop of one cell."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: str,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        bias = bias_ih if cell == "gru" else bias_ih + bias_hh  # GRU adds b_hh inside the loop
        gates = torch.addmm(bias, x.flatten(0, 1), weight_ih.t()).view(*x.shape[:2], -1)
        memory = LOOPS[cell].forward(gates, weight_hh, bias_hh, state)
        ctx.cell = cell
        ctx.save_for_backward(x, weight_ih, weight_hh, *memory)
        ctx.set_materialize_grads(False)
        states = memory[: len(state)]  # (T+1, B, H) each, from the initial state to the final one
        return states[0][1:], *(s[-1].clone() for s in states)

    @staticmethod
    @gradient_by_hand
    def backward(ctx: Any, dy: Tensor | None, *dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, *memory = ctx.saved_tensors
        h = memory[0]
        dy = torch.zeros_like(h[1:]) if dy is None else dy
        dstate = [torch.zeros_like(h[0]) if d is None else d for d in dfinal]
        dgates_x, dgates_h, dinitial = LOOPS[ctx.cell].backward(dy, dstate, weight_hh, memory)
        needs = ctx.needs_input_grad[1:]
        if needs[5]:  # the last product of the chain, which training has no use for
            dinitial[0] = dinitial[0] + dgates_h[: len(dinitial[0])] @ weight_hh
        dbias_ih = dgates_x.sum(0) if needs[3] else None
        dbias_hh = dbias_ih if dgates_h is dgates_x else None
        if needs[4] and dbias_hh is None:
            dbias_hh = dgates_h.sum(0)
        return (
            None,
            (dgates_x @ weight_ih).view_as(x) if needs[0] else None,
            dgates_x.t() @ x.flatten(0, 1) if needs[1] else None,
            dgates_h.t() @ h[:-1].flatten(0, 1) if needs[2] else None,
            dbias_ih,
            dbias_hh if needs[4] else None,
            *dinitial,
        )


class BackwardProduct:
    """``addend + rows @ weight`` of the backward loop, T times with one weight.

    On a CPU the columns are dealt out to the threads: one product a thread, in one batch. For a
    product this thin and this deep the library splits K instead, and its threads then wait for
    one another inside every link of the chain; where cores are shared that took four times as long.
    """

    def __init__(self, weight: Tensor, num_rows: int) -> None:
        num_columns = weight.size(1)
        threads = torch.get_num_threads() if weight.device.type == "cpu" else 1
        self.parts = threads if num_columns % threads == 0 else 1
        # Weight (K = G·H, N = H) by part: (P, K, N/P); its product: (P, B, N/P).
        self.weight = weight.unflatten(1, (self.parts, -1)).transpose(0, 1).contiguous()
        self.product = weight.new_empty(self.parts, num_rows, num_columns // self.parts)
        self.columns = self.product.transpose(0, 1)  # (B, P, N/P)
        self.by_part = (self.parts, num_columns // self.parts)

    def plus(self, addend: Tensor, rows: Tensor, out: Tensor) -> Tensor:
        """``addend (B, N) + rows (B, K) @ weight``, into ``out (B, N)``, which may be addend."""
        if self.parts == 1:
            return torch.addmm(addend, rows, self.weight[0], out=out)
        torch.bmm(rows.expand(self.parts, *rows.shape), self.weight, out=self.product)
        shape = (*addend.shape[:-1], *self.by_part)
        torch.add(addend.view(shape), self.columns, out=out.view(self.columns.shape))
        return out


class RNNLoop:
    """Time loops of the tanh and the relu RNN. ``memory`` is ``h (T+1, B, H)`` alone."""

    def __init__(self, activation_: Function, derivative: Function) -> None:
        self.activation_ = activation_
        self.derivative = derivative  # in terms of the activation

    def forward(
        self, gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State
    ) -> list[Tensor]:
        h = with_room_for_steps(state[0], len(gates))
        weight = weight_hh.t().contiguous()
        for before, h_t, a_t in zip(h[:-1], h[1:], gates, strict=True):  # (B, H) each
            self.activation_(torch.addmm(a_t, before, weight, out=h_t))
        return [h]

    def backward(
        self, dy: Tensor, dstate: list[Tensor], weight_hh: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        (h,) = memory
        dgates = self.derivative(h[1:])
        recurrent = BackwardProduct(weight_hh, h.size(1))
        dh = dstate[0] + dy[-1]
        for t, (da_t,) in backwards(dgates):
            da_t.mul_(dh)
            if t > 0:
                recurrent.plus(dy[t - 1], da_t, out=dh)
        dgates = dgates.flatten(0, 1)
        return dgates, dgates, [torch.zeros_like(dh)]


class LSTMLoop:
    """Time loops of the LSTM. ``memory`` is h and c ``(T+1, B, H)``, the gates, tanh of c."""

    @staticmethod
    def forward(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State) -> list[Tensor]:
        h, c = (with_room_for_steps(s, len(gates)) for s in state)
        tanh_c = torch.empty_like(h[1:])
        size = h.size(-1)
        # (H, 4H), a copy in any case: part of it is changed below
        weight = weight_hh.t().clone(memory_format=torch.contiguous_format)
        i, f, g, o = gates.chunk(4, -1)  # (T, B, H) each
        # On a CPU tanh x = 2σ(2x) − 1, for g in one pass with the three sigmoids: ATen spreads
        # tanh over its threads from 2,048 elements on, and waking a thread costs more than (B, H)
        # is worth. The price is an error that is absolute, 1e-7 in float32, and not relative.
        by_sigmoid = gates.device.type == "cpu" and gates.dtype.itemsize >= 4
        if by_sigmoid:
            g.mul_(2)
            weight[:, 2 * size : 3 * size].mul_(2)
        for a_t, i_f_t, i_t, f_t, g_t, o_t, before, h_t, c_before, c_t, tanh_c_t in zip(
            gates, gates[..., : 2 * size], i, f, g, o, h[:-1], h[1:], c[:-1], c[1:], tanh_c,
            strict=True,
        ):  # fmt: skip
            a_t.addmm_(before, weight)
            if by_sigmoid:
                a_t.sigmoid_()
                g_t.mul_(2).sub_(1)
            else:
                i_f_t.sigmoid_()
                g_t.tanh_()
                o_t.sigmoid_()
            torch.mul(f_t, c_before, out=c_t).addcmul_(i_t, g_t)
            if by_sigmoid:
                torch.add(c_t, c_t, out=tanh_c_t).sigmoid_().mul_(2).sub_(1)
            else:
                torch.tanh(c_t, out=tanh_c_t)
            torch.mul(o_t, tanh_c_t, out=h_t)
        return [h, c, gates, tanh_c]

    @staticmethod
    def backward(
        dy: Tensor, dstate: list[Tensor], weight_hh: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        h, c, gates, tanh_c = memory
        i, f, g, o = gates.chunk(4, -1)  # (T, B, H) each
        dgates = torch.empty_like(gates)
        di, df, dg, do = dgates.chunk(4, -1)
        sigmoid_backward(g, i, grad_input=di)
        sigmoid_backward(c[:-1], f, grad_input=df)
        tanh_backward(i, g, grad_input=dg)
        sigmoid_backward(tanh_c, o, grad_input=do)
        h_to_c = tanh_backward(o, tanh_c, grad_input=torch.empty_like(tanh_c))
        difg = dgates.unflatten(-1, (4, -1))[:, :, :3]  # (T, B, 3, H)
        recurrent = BackwardProduct(weight_hh, h.size(1))
        dh, dc = dstate[0] + dy[-1], dstate[1].clone()
        for t, (da_t, difg_t, do_t, f_t, h_to_c_t) in backwards(dgates, difg, do, f, h_to_c):
            dc.addcmul_(h_to_c_t, dh)
            difg_t.mul_(dc.unsqueeze(1))
            do_t.mul_(dh)
            dc.mul_(f_t)
            if t > 0:
                recurrent.plus(dy[t - 1], da_t, out=dh)
        dgates = dgates.flatten(0, 1)
        return dgates, dgates, [torch.zeros_like(dh), dc]


class GRULoop:
    """Time loops of the GRU. ``memory`` is h ``(T+1, B, H)``, the gates, and m."""

    @staticmethod
    def forward(gates: Tensor, weight_hh: Tensor, bias_hh: Tensor, state: State) -> list[Tensor]:
        h = with_room_for_steps(state[0], len(gates))
        size = h.size(-1)
        products = torch.empty_like(gates)
        weight = weight_hh.t().contiguous()
        columns = (gates[..., : 2 * size], *gates.chunk(3, -1))
        of_product = (products, products[..., : 2 * size], products[..., 2 * size :])
        for rz_t, r_t, z_t, n_t, product_t, product_rz_t, m_t, before, h_t in zip(
            *columns, *of_product, h[:-1], h[1:], strict=True
        ):
            torch.addmm(bias_hh, before, weight, out=product_t)
            rz_t.add_(product_rz_t).sigmoid_()
            n_t.addcmul_(r_t, m_t).tanh_()
            torch.lerp(n_t, before, z_t, out=h_t)
        return [h, gates, products[..., 2 * size :]]

    @staticmethod
    def backward(
        dy: Tensor, dstate: list[Tensor], weight_hh: Tensor, memory: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        h, gates, m = memory
        r, z, n = gates.chunk(3, -1)  # (T, B, H) each
        # δm stands before δa_r δa_z δa_n, so that the recurrent product finds its three side by
        # side, and the input product too.
        size = h.size(-1)
        factors = gates.new_empty(*gates.shape[:2], 4, size)
        dm, dr, dz, dn = factors.unbind(2)
        tanh_backward(1 - z, n, grad_input=dn)
        torch.mul(dn, r, out=dm)
        sigmoid_backward(dn * m, r, grad_input=dr)
        sigmoid_backward(h[:-1] - n, z, grad_input=dz)
        rows = factors.flatten(2)  # (T, B, 4H)
        recurrent = BackwardProduct(weight_hh.roll(size, 0), h.size(1))  # rows m r z
        dh = dstate[0] + dy[-1]
        for t, (by_gate, da_t, z_t) in backwards(factors, rows[..., : 3 * size], z):
            by_gate.mul_(dh.unsqueeze(1))
            dh.mul_(z_t)
            if t > 0:
                recurrent.plus(dh.add_(dy[t - 1]), da_t, out=dh)
        dgates_x = rows[..., size:].flatten(0, 1)
        dgates_h = torch.cat((rows[..., size : 3 * size], dm), -1).flatten(0, 1)
        return dgates_x, dgates_h, [dh]


def backwards(*sequences: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """``t`` and what the sequences hold at t, from the last step to the first."""
    return zip(
        reversed(range(len(sequences[0]))),
        zip(*(reversed(s.unbind()) for s in sequences), strict=True),
        strict=True,
    )


def with_room_for_steps(state: Tensor, num_steps: int) -> Tensor:
    """``(T+1, B, H)``, of which only the first is filled: with ``state (B, H)``."""
    states = state.new_empty(num_steps + 1, *state.shape)
    states[0] = state
    return states


LOOPS: dict[str, Any] = {
    "rnn_tanh": RNNLoop(torch.tanh_, lambda h: 1 - h * h),
    "rnn_relu": RNNLoop(torch.relu_, lambda h: (h > 0).to(h.dtype)),
    "gru": GRULoop,
    "lstm": LSTMLoop,
}
