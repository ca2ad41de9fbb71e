"""The arithmetic of one time step, for every cell, forward and backward: all Triton knows of cells.

A kernel computes two things for each gate g and hands them to `cell_forward`:

    x_g = W_ih,g x_t + b_ih,g          the input's part, made before the time loop
    p_g = W_hh,g h_{t-1} + b_hh,g      the recurrent part, made inside it

Gates are numbered as in `torch.nn`: LSTM `i f g o`, GRU `r z n`, RNN a single one. Functions take
and return four of each, whatever the cell; the spare ones are passed through or are zero, and the
compiler drops them. Arithmetic is in the operands' type: float32, or float64 in tests.

    LSTM   i, f, o = σ(x + p)   g = tanh(x + p)   c = f·c' + i·g   h = o·tanh(c)
    GRU    r, z = σ(x + p)   n = tanh(x_n + r·p_n)   h = (1 − z)·n + z·h'
    RNN    h = tanh(x + p)  or  h = max(x + p, 0)

Source of the equations: the documentation of `torch.nn.LSTM`, `torch.nn.GRU`, `torch.nn.RNN`.
The GRU's reset gate multiplies the finished recurrent product, as there and in cuDNN.
"""

# A device function's arguments are Triton values, for which there are no Python types.
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

# G, the gates a cell has: rows of weight_hh are G·H.
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}

# S, the values of a unit and step that the backward pass needs besides h and c.
# LSTM: i f g o.   GRU: r z n and p_n, the product before the reset.   RNN: h alone is enough.
SAVED = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 4, "lstm": 4}


@triton.jit
def sigmoid(x):
    """σ(x). exp overflows to infinity for x far below zero, and 1/inf is the right limit, 0."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """tanh(x) for any x, infinities included, accurate in *relative* terms near zero.

    Far from zero, (1 − e)/(1 + e) with e = exp(−2|x|) never overflows. Near zero that form cancels
    and leaves an error of 1e-7 absolute, which is 1e-5 of a state of size 0.01, so a polynomial
    takes over: x + x³·P(x²), fitted on |x| ≤ 0.6 with a relative error of 3e-9. In float64 the
    cancellation is harmless and the polynomial would be the coarser of the two.
    """
    magnitude = tl.abs(x)
    e = tl.exp(-2.0 * magnitude)
    far = (1.0 - e) / (1.0 + e)
    far = tl.where(x < 0, -far, far)
    if x.dtype == tl.float64:
        return far
    z = x * x
    p = -0.005929906852543354 * z + 0.020828701555728912
    p = p * z - 0.053794704377651215
    p = p * z + 0.13332071900367737
    p = p * z - 0.3333330452442169
    near = x + x * z * p
    return tl.where(magnitude < 0.6, near, far)


@triton.jit
def cell_forward(CELL: tl.constexpr, x0, x1, x2, x3, p0, p1, p2, p3, h_prev, c_prev):
    """One step: the new state (h, c) and the four values to save for `cell_backward`.

    All arguments and results are tiles of one shape, (batch, units). What a cell does not have
    (c of a GRU, the saved values of an RNN) is zero.
    """
    none = tl.zeros_like(p0)
    if CELL == "lstm":
        i = sigmoid(x0 + p0)
        f = sigmoid(x1 + p1)
        g = tanh(x2 + p2)
        o = sigmoid(x3 + p3)
        c = f * c_prev + i * g
        return o * tanh(c), c, i, f, g, o
    elif CELL == "gru":
        r = sigmoid(x0 + p0)
        z = sigmoid(x1 + p1)
        n = tanh(x2 + r * p2)
        return n + z * (h_prev - n), none, r, z, n, p2
    elif CELL == "rnn_tanh":
        return tanh(x0 + p0), none, none, none, none, none
    else:
        tl.static_assert(CELL == "rnn_relu", "cell must be lstm, gru, rnn_tanh or rnn_relu")
        total = x0 + p0
        # not maximum(): a NaN must stay a NaN, and the comparison lets it through
        return tl.where(total < 0, 0.0, total), none, none, none, none, none


@triton.jit
def cell_backward(CELL: tl.constexpr, dh, dc, s0, s1, s2, s3, h, h_prev, c, c_prev):
    """Gradients of one step, from those of its new state, `dh` and `dc`.

    Returns d/dx_0..3, then d/dp_2 (the one product whose gradient differs from its x's: the GRU's
    reset gate stands between them), then the gradient that reaches h_{t-1} without passing
    through the recurrent product (GRU only), then that of c_{t-1}. Tiles (batch, units).
    """
    none = tl.zeros_like(dh)
    if CELL == "lstm":
        i, f, g, o = s0, s1, s2, s3
        squashed = tanh(c)
        dc = dc + dh * o * (1.0 - squashed * squashed)
        dx_i = dc * g * i * (1.0 - i)
        dx_f = dc * c_prev * f * (1.0 - f)
        dx_g = dc * i * (1.0 - g * g)
        dx_o = dh * squashed * o * (1.0 - o)
        return dx_i, dx_f, dx_g, dx_o, dx_g, none, dc * f
    elif CELL == "gru":
        r, z, n, p_n = s0, s1, s2, s3
        dx_n = dh * (1.0 - z) * (1.0 - n * n)
        dx_z = dh * (h_prev - n) * z * (1.0 - z)
        dx_r = dx_n * p_n * r * (1.0 - r)
        return dx_r, dx_z, dx_n, none, dx_n * r, dh * z, none
    elif CELL == "rnn_tanh":
        dx = dh * (1.0 - h * h)
        return dx, none, none, none, none, none, none
    else:
        tl.static_assert(CELL == "rnn_relu", "cell must be lstm, gru, rnn_tanh or rnn_relu")
        # as torch: no gradient where the output is zero; written to let a NaN through
        dx = tl.where(h > 0, dh, h * 0.0)
        return dx, none, none, none, none, none, none
