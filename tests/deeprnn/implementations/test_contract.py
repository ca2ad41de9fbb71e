"""What every implementation must do, found by its file and held to torch.nn in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from deeprnn import implementations
from deeprnn.cells import CELLS, STATES
from deeprnn.compilation import inductor
from deeprnn.support import Request

BOUND = 1e-5  # of ‖a − r‖ / ‖r‖ in float32

SIZES = [  # T, B, I, H, L
    (1, 1, 3, 5, 1),
    (2, 3, 4, 6, 2),
    (7, 3, 5, 4, 3),
    (7, 1, 1, 7, 2),
]
SLOW_SIZES = [(3, 2, 16, 16, 2)]  # for what must be compiled, or interpreted
FEW = (3, 2, 16, 16, 2)


def is_slow(name: str) -> bool:
    try:
        requirements = implementations.load(name).support.requirements
    except implementations.MissingPackage:
        return False
    return inductor in requirements or implementations.interpreted(name, "cpu")


NAMES = implementations.names()
CASES = [
    pytest.param(name, cell, size, id=f"{name}-{cell}-T{size[0]}-B{size[1]}-H{size[3]}-L{size[4]}")
    for name in NAMES
    for cell in CELLS
    for size in (SLOW_SIZES if is_slow(name) else SIZES)
]
BY_CELL = [
    pytest.param(name, cell, id=f"{name}-{cell}")
    for name in NAMES
    for cell in CELLS
    if cell == "lstm" or not is_slow(name)
]


def build(name: str, cell: str, size: tuple[int, ...], **options) -> nn.Module:
    num_steps, batch_size, input_size, hidden_size, num_layers = size
    request = Request(
        cell=cell,
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        batch_size=batch_size,
        num_steps=num_steps,
        recurrent=options.get("recurrent"),
    )
    reason = implementations.why_unsupported(name, request)
    if reason is not None:
        pytest.skip(reason)
    return implementations.build(name, cell, input_size, hidden_size, num_layers, **options)


def torch_module(cell: str, input_size: int, hidden_size: int, num_layers: int) -> nn.RNNBase:
    sizes = (input_size, hidden_size, num_layers)
    if cell.startswith("rnn"):
        return nn.RNN(*sizes, nonlinearity=cell.removeprefix("rnn_"))
    return nn.GRU(*sizes) if cell == "gru" else nn.LSTM(*sizes)


def inputs(cell: str, size: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    num_steps, batch_size, input_size, hidden_size, num_layers = size
    x = torch.randn(num_steps, batch_size, input_size)
    shape = (num_layers, batch_size, hidden_size)
    return x, [torch.randn(shape) for _ in range(STATES[cell])]


def call(module, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """``y``, then the final states, whatever the cell."""
    y, final = module(x, tuple(states) if len(states) == 2 else states[0])
    return [y, *(final if isinstance(final, tuple) else (final,))]


def results(
    module, x: Tensor, states: list[Tensor], dtype: torch.dtype, *, final_only: bool = False
) -> dict[str, Tensor]:
    """Outputs, final states and every gradient of a fixed random sum over them."""
    module = module.to(dtype)
    x = x.to(dtype, copy=True).requires_grad_()
    states = [s.to(dtype, copy=True).requires_grad_() for s in states]
    outputs = call(module, x, states)
    generator = torch.Generator().manual_seed(5)
    weighted = [(o * torch.randn(o.shape, generator=generator).to(dtype)).sum() for o in outputs]
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(
        sum(weighted[1:] if final_only else weighted), [x, *states, *parameters.values()]
    )
    names = ["y", *(f"final {n}" for n in "hc"[: len(states)])]
    wanted = ["x", *(f"initial {n}" for n in "hc"[: len(states)]), *parameters]
    return {
        **dict(zip(names, (o.detach() for o in outputs), strict=True)),
        **{f"gradient of {n}": g for n, g in zip(wanted, gradients, strict=True)},
    }


def assert_same(ours: dict[str, Tensor], reference: dict[str, Tensor], bound: float) -> None:
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        assert ours[name].shape == expected.shape, name
        difference = torch.linalg.vector_norm(ours[name].double() - expected)
        # ≤ is False for NaN, so NaN fails. Where the reference is zero, only zero will do.
        assert difference <= bound * torch.linalg.vector_norm(expected), name


@pytest.mark.parametrize(("name", "cell", "size"), CASES)
def test_outputs_and_every_gradient_are_torchs(name, cell, size):
    torch.manual_seed(1)
    module = build(name, cell, size)
    reference = torch_module(cell, *size[2:])
    reference.load_state_dict(module.state_dict())
    x, states = inputs(cell, size)
    ours = results(module, x, states, torch.float32)
    assert_same(ours, results(reference, x, states, torch.float64), BOUND)


def layouts(module, column_major: bool) -> dict[str, Tensor]:
    """The module's parameters, matrices with columns that lie side by side if asked for."""
    return {
        name: p.detach().t().contiguous().t() if column_major and p.dim() == 2 else p.detach()
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize("size", [(3, 2, 1, 1, 2), (3, 2, 5, 4, 1)], ids=["one unit", "H 4"])
@pytest.mark.parametrize("column_major", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    ("name", "cell"), [p for p in BY_CELL if not is_slow(p.values[0])]
)  # fmt: skip
def test_a_call_changes_nothing_that_it_is_given(name, cell, column_major, size):
    """Of a transposed matrix `contiguous` may be the matrix itself."""
    torch.manual_seed(1)
    module = build(name, cell, size)
    module.load_state_dict(layouts(module, column_major), assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_()
    x, states = inputs(cell, size)
    given = [x, *states, *module.parameters()]
    before = [tensor.detach().clone() for tensor in given]
    y, *finals = call(module, x.requires_grad_(), [s.requires_grad_() for s in states])
    upstream = [torch.randn_like(tensor) for tensor in (y, *finals)]
    kept = [tensor.clone() for tensor in upstream]
    torch.autograd.backward([y, *finals], upstream)
    with torch.no_grad():
        call(module, x, states)
    for now, was in zip([*given, *upstream], [*before, *kept], strict=True):
        assert torch.equal(now.detach(), was)
    reference = torch_module(cell, *size[2:])
    reference.load_state_dict(module.state_dict())
    expected = results(reference, x.detach(), [s.detach() for s in states], torch.float64)
    found = results(module, x.detach(), [s.detach() for s in states], torch.float32)
    assert_same(found, expected, BOUND)


@pytest.mark.parametrize("name", [name for name in NAMES if not is_slow(name)])
@pytest.mark.parametrize("how", ["call", "assignment", "weight norm"])
def test_other_parameters_are_used_when_they_are_put_in_their_place(name, how):
    """As `torch.nn` does, for tensors that are no parameters as well."""
    module, other = (build(name, "gru", FEW) for _ in range(2))
    x, states = inputs("gru", FEW)
    first = call(module, x, states)
    wanted = call(other, x, states)
    if how == "call":
        tensors = {n: p.detach().clone() for n, p in other.named_parameters()}
        found, _ = torch.func.functional_call(module, tensors, (x, states[0]))
    elif how == "assignment":
        for key, parameter in other.named_parameters():
            setattr(module, key, nn.Parameter(parameter.detach().clone()))
        found = call(module, x, states)[0]
    else:
        if name == "torchscript":
            pytest.skip("a script has parameters, no properties")
        for key in dict(other.named_parameters()):
            nn.utils.parametrize.register_parametrization(module, key, nn.Identity())
        module.load_state_dict(
            {f"parametrizations.{n}.original": p for n, p in other.state_dict().items()}
        )
        found = call(module, x, states)[0]
    torch.testing.assert_close(found, wanted[0])
    if how == "call":
        torch.testing.assert_close(call(module, x, states), first)  # only for that call


@pytest.mark.parametrize("name", NAMES)
def test_assigned_parameters_are_those_that_are_used_and_trained(name):
    module, other = (build(name, "gru", FEW) for _ in range(2))
    x, states = inputs("gru", FEW)
    call(module, x, states)
    module.load_state_dict(other.state_dict(), assign=True)
    y, final = call(module, x, states)
    torch.testing.assert_close(y, call(other, x, states)[0], rtol=1e-4, atol=1e-5)
    torch.autograd.backward([y.sum(), final.sum()])
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_gradients_that_are_summed_up_over_two_calls_are_twice_one(name, cell):
    """No two parameters share one: clipping, or another call, changes what lies there."""
    module = build(name, cell, FEW)
    x, states = inputs(cell, FEW)
    once: list[Tensor] = []
    for _ in range(2):
        torch.autograd.backward([o.sum() for o in call(module, x, states)])
        once = once or [p.grad.clone() for p in module.parameters()]
    for (key, parameter), gradient in zip(module.named_parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_gradients_that_come_through_the_final_state_alone(name, cell):
    torch.manual_seed(2)
    module = build(name, cell, FEW)
    reference = torch_module(cell, *FEW[2:])
    reference.load_state_dict(module.state_dict())
    x, states = inputs(cell, FEW)
    ours = results(module, x, states, torch.float32, final_only=True)
    assert_same(ours, results(reference, x, states, torch.float64, final_only=True), BOUND)


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_training_and_evaluation_see_the_same_numbers(name, cell):
    """Training: neither x nor the state needs a gradient. Evaluation: nothing does."""
    torch.manual_seed(3)
    module = build(name, cell, FEW)
    reference = torch_module(cell, *FEW[2:])
    reference.load_state_dict(module.state_dict())
    x, _ = inputs(cell, FEW)
    y, _ = module(x)
    assert isinstance(module.backend(y), str)
    assert module.backend(y)
    y.sum().backward()
    reference(x)[0].sum().backward()
    for (key, ours), theirs in zip(module.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=key)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[0], y)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_without_recurrence_and_a_frozen_bias(name):
    torch.manual_seed(4)
    options = {"recurrent": (True, False), "initialization": "normal"}
    module = build(name, "rnn_tanh", FEW, **options)
    _, _, input_size, hidden_size, _ = FEW
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
    assert frozen == ["bias_hh_l0"]
    recurrent = nn.RNN(input_size, hidden_size).double()
    feedforward = nn.Linear(hidden_size, hidden_size).double()
    for own, theirs in zip(
        module.parameters(), [*recurrent.parameters(), *feedforward.parameters()], strict=True
    ):
        theirs.data.copy_(own.data)
    x, states = inputs("rnn_tanh", FEW)
    y, final = module(x, states[0])
    middle, first_final = recurrent(x.double(), states[0][:1].double())
    expected = torch.tanh(feedforward(middle))
    expected_final = torch.cat((first_final, expected[-1:]))
    y.sum().backward()
    expected.sum().backward()
    assert_same(
        {"y": y, "final": final, "weight_hh": module.weight_hh_l0.grad},
        {"y": expected, "final": expected_final, "weight_hh": recurrent.weight_hh_l0.grad},
        BOUND,
    )
    assert module.bias_hh_l0.grad is None


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_state_dicts_go_both_ways(name, cell):
    module, theirs = build(name, cell, FEW), torch_module(cell, *FEW[2:])
    module.load_state_dict(theirs.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), theirs.parameters(), strict=True)
    )
    module.reset_parameters()
    theirs.load_state_dict(module.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(module.parameters(), theirs.parameters(), strict=True)
    )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", NAMES)
def test_a_seed_draws_torchs_parameters_and_nothing_more(name, cell):
    torch.manual_seed(6)
    theirs, their_head = torch_module(cell, *FEW[2:]), nn.Linear(16, 3)
    torch.manual_seed(6)
    ours, our_head = build(name, cell, FEW), nn.Linear(16, 3)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(our_head.weight, their_head.weight)


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_input_without_a_batch(name, cell):
    module = build(name, cell, (3, 1, 16, 16, 2))
    x, states = inputs(cell, (3, 1, 16, 16, 2))
    batched = call(module, x, states)
    unbatched = call(module, x.squeeze(1), [s.squeeze(1) for s in states])
    for one, many in zip(unbatched, batched, strict=True):
        assert one.shape == (many.shape[0], many.shape[2])
        torch.testing.assert_close(one, many.squeeze(1))


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_the_wrong_shape_are_named(name):
    module = build(name, "lstm", FEW)
    x, (h, c) = inputs("lstm", FEW)
    for wrong, said in (
        ((x[..., :5], (h, c)), r"x has shape \(3, 2, 5\); expected \(T, B, 16\) or \(T, 16\)"),
        ((x[:0], (h, c)), r"x has shape \(0, 2, 16\); T and B must be at least 1"),
        ((x[:, :0], (h, c)), r"x has shape \(3, 0, 16\); T and B must be at least 1"),
        ((x[:0, 0], (h, c)), r"x has shape \(0, 16\); T and B must be at least 1"),
        ((x, (h[:1], c)), r"h has shape \(1, 2, 16\); expected \(L, B, H\) = \(2, 2, 16\)"),
        ((x, (h, c[:, :1])), r"c has shape \(2, 1, 16\); expected"),
    ):
        with pytest.raises(ValueError, match=said):
            module(*wrong)
    with pytest.raises(TypeError, match=r"the state of cell lstm is a tuple \(h, c\), not Tensor"):
        module(x, h)


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_a_copy_in_float64_lives_its_own_life(name, cell):
    torch.manual_seed(7)
    module = build(name, cell, FEW)
    x, states = inputs(cell, FEW)
    before = call(module, x, states)
    twin = copy.deepcopy(module).double()
    after = call(twin, x.double(), [s.double() for s in states])
    for ours, theirs in zip(before, after, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    for ours, again in zip(before, call(module, x, states), strict=True):
        torch.testing.assert_close(ours, again)


@pytest.mark.parametrize(("name", "cell"), BY_CELL)
def test_input_that_is_not_contiguous(name, cell):
    module = build(name, cell, FEW)
    x, states = inputs(cell, FEW)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(call(module, strided, states), call(module, x, states))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("torch_compile")])
def test_it_trains_under_autocast(name):
    """Also where the backward pass is called under it, which PyTorch advises against."""
    module = build(name, "lstm", FEW)
    x, states = inputs("lstm", FEW)
    exact = torch.autograd.grad(call(module, x, states)[0].sum(), list(module.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = call(module, x.bfloat16(), [s.bfloat16() for s in states])
        gradients = torch.autograd.grad(outputs[0].float().sum(), list(module.parameters()))
    for parameter, gradient, wanted in zip(module.parameters(), gradients, exact, strict=True):
        assert gradient.dtype == parameter.dtype
        assert (gradient - wanted).norm() < 0.05 * wanted.norm()
    if module.has_gradient_by_hand:
        assert {output.dtype for output in outputs} == {torch.float32}
