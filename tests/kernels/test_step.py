"""`step_layer` against `torch.nn` in float64: outputs, final state, every gradient."""

import math

import pytest
import torch

from kernels import chips, step, tiling
from kernels.cells import GATES
from kernels.function import step_layer

CELLS = tuple(GATES)


def covering_sizes():
    """Every T, B and H, every pair of B and H, and every cell with each T: not the whole product.

    The interpreter needs seconds for a long sequence, so T 35 meets the smaller sizes only.
    """
    small = [(1, 1, 32), (2, 3, 48), (7, 32, 96), (1, 32, 48), (2, 1, 96), (7, 3, 32)]
    odd = {
        "lstm": [(35, 3, 48), (1, 3, 96), (2, 32, 32)],
        "gru": [(35, 1, 48), (7, 1, 48), (1, 3, 96)],
        "rnn_tanh": [(35, 32, 32), (2, 3, 5)],
        "rnn_relu": [(35, 3, 96), (1, 1, 1)],
    }
    for cell in CELLS:
        for T, B, H in small + odd[cell]:
            yield pytest.param(cell, T, B, H, id=f"{cell}-T{T}-B{B}-H{H}")


@pytest.mark.parametrize(("cell", "T", "B", "H"), list(covering_sizes()))
def test_outputs_and_gradients(cell, T, B, H, make_case, check, poisoned):
    check(step_layer, make_case(cell, T, B, H))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("upstream", ["y", "final_h", "final_c"])
def test_gradient_through_one_output_only(cell, upstream, make_case, check, poisoned):
    if upstream == "final_c" and cell != "lstm":
        pytest.skip("only an LSTM has c")
    check(step_layer, make_case(cell, 3, 2, 20), upstream=(upstream,))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("scale", "bound"), [(50.0, 1e-5), (1e4, 5e-2)])
def test_extreme_inputs(cell, scale, bound, make_case, check, device, poisoned):
    """Saturated gates: a naive exp would give inf/inf.

    At 1e4 float32 knows a gate's input to 1e-3 at best, and the only gradients left come from the
    few gates that happen to be near zero: the loose bound is the problem's, not the kernel's.
    """
    case = make_case(cell, 4, 3, 48, scale=scale)
    check(step_layer, case, bound)
    outputs, gradients = case.run(step_layer, torch.float32, device)
    assert all(tensor.isfinite().all() for tensor in (outputs | gradients).values())


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell != "rnn_relu"])
@pytest.mark.parametrize("value", [-1e30, -1e4, -50.0, 50.0, 1e4, 1e30])
def test_every_gate_saturated(cell, value, device):
    """All inputs at one extreme: the outputs are the limits themselves, the gradients finite."""
    G = GATES[cell]
    gates_x = torch.full((2, 1, G * 16), value, device=device, requires_grad=True)
    h = torch.full((1, 16), 0.5, device=device)
    weight, bias = torch.ones(G * 16, 16, device=device), torch.ones(G * 16, device=device)
    y, _ = step_layer(cell, gates_x, weight, bias, (h, h) if cell == "lstm" else h)
    up = value > 0
    limits = {
        "lstm": [math.tanh(1.5), math.tanh(2.5)] if up else [0.0, 0.0],
        "gru": [0.5, 0.5] if up else [-1.0, -1.0],
        "rnn_tanh": [1.0, 1.0] if up else [-1.0, -1.0],
    }
    wanted = torch.tensor(limits[cell], device=device)[:, None, None].expand_as(y)
    torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(y.sum(), gates_x)
    assert grad.isfinite().all()


@pytest.mark.parametrize("cell", CELLS)
def test_tiny_states_keep_relative_accuracy(cell, make_case, check):
    """States near 1e-3, where tanh by exp alone loses half its digits."""
    case = make_case(cell, 3, 2, 32)
    for name in case.inputs:
        case.inputs[name] = (case.inputs[name] * (1e-3 if name != "x" else 1.0)).float().double()
    check(step_layer, case)


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck_in_float64(cell, make_case):
    if not chips.INTERPRETED:
        pytest.skip("float64 is for the interpreter")
    case = make_case(cell, 2, 1, 2)
    names = [name for name in ("weight_hh", "bias_hh", "h", "c") if name in case.inputs]
    gates_x = torch.randn(2, 1, GATES[cell] * 2, dtype=torch.float64) + 0.1

    def function(gates_x, weight_hh, bias_hh, *state):
        y, final = step_layer(
            cell, gates_x, weight_hh, bias_hh, state if cell == "lstm" else state[0]
        )
        return (y, *final) if cell == "lstm" else (y, final)

    inputs = [gates_x, *(case.inputs[name] for name in names)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_with_float32_accumulation(cell, dtype, make_case, check, poisoned):
    # A relu's gradient is 0 or 1: one unit whose input rounds across zero costs these small layers
    # several percent, and bfloat16 moves about one of 720.
    bound = 0.15 if cell == "rnn_relu" else 5e-2
    check(step_layer, make_case(cell, 5, 3, 48, dtype=dtype), bound, dtype=dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_tf32_is_accepted(cell, make_case, check):
    bound = 0.15 if cell == "rnn_relu" else 1e-2  # on a device it rounds, as below
    check(step_layer, make_case(cell, 2, 2, 32), bound=bound, input_precision="tf32")


@pytest.mark.parametrize("cell", CELLS)
def test_many_tiles_agree_with_one(cell, make_case, check, monkeypatch):
    """Tiles smaller than every dimension, so that masks and offsets of each axis are at work."""
    tile = tiling.Tile(block_b=16, block_h=16, block_k=16, num_warps=4, num_stages=1, shares=1)
    monkeypatch.setattr(tiling, "step_tile", lambda *args, **options: tile)
    check(step_layer, make_case(cell, 2, 20, 40))


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_need_not_be_contiguous(cell, device):
    T, B, H, G = 3, 2, 20, GATES[cell]
    generator = torch.Generator().manual_seed(1)

    def strided(*shape):
        """The values of a fresh tensor, stored with its dimensions reversed."""
        tensor = torch.randn(*reversed(shape), generator=generator).to(device)
        return tensor.permute(*reversed(range(len(shape)))).requires_grad_()

    gates_x, weight = strided(T, B, G * H), strided(G * H, H)
    bias = torch.randn(2 * G * H, generator=generator).to(device)[::2].requires_grad_()
    state = strided(B, H)
    state = (state, strided(B, H)) if cell == "lstm" else state
    grad_y = strided(T, B, H).detach()

    def gradients(*tensors):
        y, _ = step_layer(cell, *tensors)
        flat = [*tensors[:3], *(tensors[3] if cell == "lstm" else tensors[3:])]
        return y, *torch.autograd.grad(y, flat, grad_y)

    dense = [tensor.detach().contiguous().requires_grad_() for tensor in (gates_x, weight, bias)]
    dense_state = (
        tuple(s.detach().contiguous().requires_grad_() for s in state)
        if cell == "lstm"
        else state.detach().contiguous().requires_grad_()
    )
    for a, b in zip(
        gradients(gates_x, weight, bias, state), gradients(*dense, dense_state), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_without_gradients_nothing_is_saved(make_case, device, monkeypatch):
    case = make_case("lstm", 2, 2, 32)
    seen = []
    plain = step.forward
    monkeypatch.setattr(
        step, "forward", lambda *args, **options: (seen.append(options), plain(*args, **options))
    )
    with torch.no_grad():
        inputs = {name: tensor.float().to(device) for name, tensor in case.inputs.items()}
        gates_x = inputs["x"] @ inputs["weight_ih"].T + inputs["bias_ih"]
        y, (h, c) = step_layer(
            "lstm", gates_x, inputs["weight_hh"], inputs["bias_hh"], (inputs["h"], inputs["c"])
        )
    outputs, _ = case.reference()
    assert seen[0]["save"] is False
    for actual, wanted in ((y, "y"), (h, "final_h"), (c, "final_c")):
        torch.testing.assert_close(
            actual.double().cpu(), outputs[wanted].detach(), rtol=1e-5, atol=1e-6
        )


def test_nan_is_not_swallowed(device):
    """A NaN input must reach the output: a clamp that hides it would hide divergence."""
    for cell in CELLS:
        G = GATES[cell]
        gates_x = torch.full((1, 1, G * 16), float("nan"), device=device)
        h = torch.zeros(1, 16, device=device)
        state = (h, h) if cell == "lstm" else h
        weight, bias = torch.zeros(G * 16, 16, device=device), torch.zeros(G * 16, device=device)
        y, _ = step_layer(cell, gates_x, weight, bias, state)
        assert y.isnan().all(), cell


def good_arguments(**changed):
    h = torch.zeros(2, 16)
    arguments = {
        "cell": "gru", "gates_x": torch.zeros(3, 2, 48), "weight_hh": torch.zeros(48, 16),
        "bias_hh": torch.zeros(48), "state": h,
    }  # fmt: skip
    return arguments | changed


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"cell": "mgu"}, ValueError, "one of rnn_tanh, rnn_relu, gru, lstm; got 'mgu'"),
        ({"input_precision": "tf16"}, ValueError, "got 'tf16'"),
        ({"cell": "lstm"}, ValueError, "pair"),
        (
            {"cell": "lstm", "state": (torch.zeros(2, 12), None)},
            ValueError,
            r"a pair \(h, c\) of tensors; got \(Tensor, NoneType\)",
        ),
        ({"state": (torch.zeros(2, 16),) * 2}, ValueError, "is a tensor; got tuple"),
        ({"gates_x": torch.zeros(2, 48)}, ValueError, "gates_x must be"),
        ({"gates_x": torch.zeros(0, 2, 48)}, ValueError, "T, B, H >= 1"),
        ({"gates_x": torch.zeros(3, 2, 50)}, ValueError, "gates_x must be"),
        ({"weight_hh": torch.zeros(16, 48)}, ValueError, r"weight_hh must have shape \(48, 16\)"),
        ({"bias_hh": torch.zeros(16)}, ValueError, "bias_hh must have shape"),
        ({"state": torch.zeros(1, 2, 16)}, ValueError, "h must have shape"),
        ({"weight_hh": torch.zeros(48, 16).double()}, TypeError, "weight_hh is torch.float64"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_wrong_arguments_are_named(changed, error, message):
    with pytest.raises(error, match=message):
        step_layer(**good_arguments(**changed))


@pytest.mark.parametrize(
    ("B", "H", "block_b", "most"), [(300_000, 8, 4, 262_140), (1 << 19, 1024, 32, 524_287)]
)
def test_more_rows_than_a_launch_takes_are_refused(B, H, block_b, most):
    tile = tiling.Tile(block_b, 32, 64, 4, 1)
    with pytest.raises(ValueError, match=f"B is {B}; a layer of this size takes {most} at once"):
        step.grid(B, H, 4, tile)
    assert step.grid(most, H, 4, tile)[1] <= step.MOST_GROUPS
