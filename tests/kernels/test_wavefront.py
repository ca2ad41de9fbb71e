"""`wavefront_stack` against `torch.nn` in float64. In the interpreter: one slice, all layers."""

import pytest
import torch

from kernels import chips, tiling, wavefront
from kernels.cells import GATES
from kernels.stack import wavefront_stack, why_no_wavefront

from .stacks import Stack, hold

CELLS = tuple(GATES)


def covering_sizes():
    """Every T, B, H and L with every cell; large B with few steps, as the interpreter is slow."""
    sizes = [(1, 1, 32, 2), (2, 3, 48, 3), (7, 3, 32, 2), (2, 32, 48, 1), (1, 32, 32, 3)]
    for cell in CELLS:
        for T, B, H, L in sizes:
            yield pytest.param(cell, T, B, H, L, id=f"{cell}-T{T}-B{B}-H{H}-L{L}")


@pytest.mark.parametrize(("cell", "T", "B", "H", "L"), list(covering_sizes()))
def test_outputs_and_gradients(cell, T, B, H, L, device, poisoned):
    hold(Stack(cell, T, B, H, L), device)


@pytest.mark.parametrize("cell", CELLS)
def test_marked_rows_give_the_same(cell, device, poisoned):
    """In the interpreter without a look: what is read was written before."""
    marked = {"marked": True}
    if why_no_wavefront(cell, 3, 256, 2, torch.float32, "ieee", torch.device(device), **marked):
        pytest.skip("does not fit")
    hold(Stack(cell, 2, 3, 256 if device == "cuda" else 48, 2), device, **marked)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_groups_of_rows_have_counters_of_their_own(cell, device, poisoned, monkeypatch):
    if not chips.INTERPRETED:
        pytest.skip("the interpreter's tiles")
    tile = tiling.Tile(block_b=16, block_h=32, block_k=16, num_warps=2, num_stages=1)
    monkeypatch.setattr(tiling, "sequence_tiles", lambda *arguments, **options: (tile, tile))
    hold(Stack(cell, 3, 40, 20, 2), device)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_bfloat16(cell, device, poisoned):
    hold(Stack(cell, 4, 3, 32, 2, dtype=torch.bfloat16), device, bound=5e-2)


def test_without_gradients(device):
    stack = Stack("lstm", 3, 2, 20, 2)
    with_gradients = stack.run(device)["y"]
    for parameter in stack.module.parameters():
        parameter.requires_grad_(False)
    parameters = [p.detach().float().to(device) for p in stack.module.parameters()]
    x, *states = (tensor.float().to(device) for tensor in stack.inputs)
    y, _ = wavefront_stack("lstm", x @ parameters[0].T, parameters[1:], tuple(states))
    assert torch.equal(y, with_gradients)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_gradient_that_is_asked_for_alone_is_the_same(cell, device):
    """Some are made together: a bias's with all layers', a weight's with its neighbour's."""
    stack = Stack(cell, 3, 2, 20, 3)
    together = stack.run(device)
    x, *states = (tensor.float().to(device) for tensor in stack.inputs)
    named = {name: p.detach().float().to(device) for name, p in stack.module.named_parameters()}
    gates_x = x @ named.pop("weight_ih_l0").T
    for name, parameter in named.items():
        parameter.requires_grad_()
        y, final = wavefront_stack(
            cell, gates_x, list(named.values()), tuple(states) if cell == "lstm" else states[0]
        )
        outputs = [y, *(final if isinstance(final, tuple) else (final,))]
        pairs = zip(outputs, stack.upstream, strict=True)
        sum((output * up.to(output)).sum() for output, up in pairs).backward()
        torch.testing.assert_close(parameter.grad, together[name], msg=name)
        others = [other.grad for key, other in named.items() if key != name]
        assert not any(gradient is not None for gradient in others)
        parameter.requires_grad_(False).grad = None


def test_a_parameter_of_another_type_is_named(device):
    stack = Stack("gru", 2, 2, 16, 2)
    x, h = (tensor.float().to(device) for tensor in stack.inputs)
    weight_ih, *parameters = (p.detach().float().to(device) for p in stack.module.parameters())
    parameters[5] = parameters[5].half()
    with pytest.raises(TypeError, match=r"bias_ih of layer 1 is torch.float16 but its layer"):
        wavefront_stack("gru", x @ weight_ih.T, parameters, h)


def test_a_list_of_states_is_as_good_as_a_pair(device):
    stack = Stack("lstm", 2, 2, 16, 2)
    x, *states = (tensor.float().to(device) for tensor in stack.inputs)
    weight_ih, *parameters = (p.detach().float().to(device) for p in stack.module.parameters())
    y, _ = wavefront_stack("lstm", x @ weight_ih.T, parameters, states)
    assert torch.equal(y, wavefront_stack("lstm", x @ weight_ih.T, parameters, tuple(states))[0])


@pytest.mark.parametrize(("is_training", "passes"), [(False, 6), (True, 5)])
def test_one_launch_each_way_and_every_layer_arrives_at_every_step(
    is_training, passes, device, monkeypatch
):
    made, launches = [], []
    plain = wavefront.counters
    monkeypatch.setattr(
        wavefront, "counters", lambda *arguments: made.append(plain(*arguments)) or made[-1]
    )

    class Counting:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launches.append(grid)
            return self.kernel[grid]

    for name in ("wavefront_forward_kernel", "wavefront_backward_kernel"):
        monkeypatch.setattr(wavefront, name, Counting(getattr(wavefront, name)))
    Stack("gru", 5, 2, 20, 3).run(device, is_training=is_training)
    assert len(launches) == len(made) == 2
    # backward there is one pass more where the initial state needs a gradient
    for (slices, groups, layers), counter, times in zip(launches, made, (5, passes), strict=True):
        assert (groups, layers) == (1, 3)
        found = counter.view(-1, wavefront.STRIDE)[:, 0].tolist()
        assert found == [times * slices] * layers


def test_what_does_not_fit_is_refused_with_the_reason(device, monkeypatch):
    monkeypatch.setattr(
        tiling, "sequence_tiles", lambda *arguments, **options: "too wide for this test"
    )
    reason = why_no_wavefront("gru", 2, 16, 2, torch.float32, "ieee", torch.device(device))
    assert reason == "too wide for this test"
    with pytest.raises(ValueError, match="too wide for this test"):
        Stack("gru", 2, 2, 16, 2).run(device)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a["parameters"].pop(), r"parameters must be 3 \+ 4·\(L − 1\) tensors; got 6"),
        (lambda a: a.update(state=a["state"][:1]), r"the state of 2 layers must be \(2, B, H\)"),
        (lambda a: a.update(state=(a["state"],) * 2), "of a rnn_tanh is a tensor; got tuple"),
        (lambda a: a.update(state=(a["state"],) * 3, cell="lstm"), "is a pair"),
        (
            lambda a: a["parameters"].__setitem__(3, torch.zeros(16, 9)),
            r"weight_ih of layer 1 must have shape \(16, 16\); got \(16, 9\)",
        ),
        (lambda a: a["parameters"].__setitem__(1, torch.zeros(9)), "bias_ih of layer 0 must have"),
        (
            lambda a: a["parameters"].__setitem__(3, torch.zeros(16, 16, device="meta")),
            "weight_ih of layer 1 is on meta but its layer on",
        ),
        (lambda a: a.update(cell="elman"), "cell must be one of"),
        (lambda a: a.update(input_precision="tf16"), "input_precision must be one of"),
    ],
)
def test_wrong_arguments_are_named(change, said, device):
    def zeros(*shape):
        return torch.zeros(shape, device=device)

    square = [zeros(16, 16), zeros(16, 16), zeros(16), zeros(16)]
    arguments = {
        "cell": "rnn_tanh",
        "gates_x": zeros(3, 2, 16),
        "parameters": [*square[1:], *square],
        "state": zeros(2, 2, 16),
        "input_precision": "ieee",
    }
    change(arguments)
    precision = arguments.pop("input_precision")
    with pytest.raises(ValueError, match=said):
        wavefront_stack(*arguments.values(), input_precision=precision)
