"""The stand-in for CUDA's graphs and streams does what a GPU does, and finds what one may not."""

import pytest
import torch

from tests.emulated_cuda_graph import Gone, NotCapturable, Race, emulated


def captured(call):
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        made = call()
    return graph, made


def test_a_capture_does_nothing_and_a_replay_all_of_it():
    x, total = torch.ones(3), torch.zeros(3)
    with emulated():
        graph, made = captured(lambda: (total.add_(x), x * 2)[1])
        assert total.tolist() == [0, 0, 0]
        assert made.isnan().all()
        for _ in range(2):
            graph.replay()
        assert total.tolist() == [2, 2, 2]
        assert made.tolist() == [2, 2, 2]


def test_a_replay_reads_what_lies_there_then():
    x = torch.ones(2, 3)
    with emulated():
        graph, made = captured(lambda: torch.cat([x.t().reshape(-1), x[0, 1:]]).exp_())
        x.copy_(torch.arange(6).reshape(2, 3))
        graph.replay()
        assert made.log().round().tolist() == [0, 3, 1, 4, 2, 5, 1, 2]


def test_gradients_are_captured():
    weight, x = torch.ones(3, requires_grad=True), torch.ones(3)

    def call():
        weight.grad = None
        (weight * x).square().sum().backward()
        return weight.grad

    with emulated():
        graph, gradient = captured(call)
        x.fill_(2.0)
        graph.replay()
        assert gradient.tolist() == [8, 8, 8]


def test_what_nobody_keeps_is_gone():
    kept = [torch.ones(2, 3)]
    with emulated():
        graph, made = captured(lambda: kept[0][1] * 2)
        graph.replay()
        assert made.tolist() == [2, 2, 2]
        kept.clear()
        with pytest.raises(Gone, match=r"a tensor of \(3,\) that was captured is no more"):
            graph.replay()


@pytest.mark.parametrize("ask", [torch.Tensor.item, bool, torch.nonzero])
def test_what_waits_for_the_device_is_refused(ask):
    x = torch.ones(())
    with emulated(), pytest.raises(NotCapturable):
        captured(lambda: ask(x + 1))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("order", ["write, read", "read, write", "write, write"])
def test_a_stream_that_does_not_wait_races(order, waits):
    x = torch.ones(3)
    use = {"write": lambda: x.add_(1), "read": lambda: x + 1}
    first, second = (use[word] for word in order.split(", "))
    with emulated():
        stream = torch.cuda.Stream()
        first()
        if waits:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if waits:
                second()
            else:
                with pytest.raises(Race, match=r"\(3,\) of another stream"):
                    second()


def test_reading_side_by_side_is_no_race_and_waiting_reaches_on():
    x = torch.ones(3)
    with emulated() as device:
        streams = [torch.cuda.Stream() for _ in range(3)]
        for stream in streams[:2]:
            with torch.cuda.stream(stream):
                _ = x + 1
        with torch.cuda.stream(streams[2]), pytest.raises(Race):
            x.add_(1)
        streams[1].wait_stream(streams[0])
        streams[2].wait_stream(streams[1])
        with torch.cuda.stream(streams[2]):
            x.add_(1)
        with pytest.raises(Race):
            x.add_(1)
        device.synchronize()
        x.add_(1)


def test_new_memory_at_an_old_address_is_new():
    with emulated():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(100):
                torch.ones(3).add_(1)
        for _ in range(100):
            torch.ones(3).add_(1)


def test_afterwards_all_is_as_it_was():
    before = torch.cuda.Stream, torch.cuda.graph
    with emulated():
        assert torch.cuda.graph is not before[1]
    assert (torch.cuda.Stream, torch.cuda.graph) == before
