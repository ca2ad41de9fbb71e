"""The plan: every combination once, each run or refused with a reason."""

from types import SimpleNamespace

import pytest
import torch

from bench.plan import plan
from bench.workloads import UsageError, find_profile
from deeprnn import implementations
from deeprnn.support import Request


@pytest.mark.parametrize("name", ["smoke", "quick", "published", "full"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_combination_is_planned_once(name, device):
    profile = find_profile(name)
    ids = [case.id for case in plan(profile, device)]
    executions = profile.executions if device == "cuda" else ("eager",)
    expected = {
        f"{workload.id}/{implementation}/{execution}"
        for workload in profile.workloads
        for implementation in implementations.names()
        for execution in executions
    }
    assert len(ids) == len(expected)
    assert set(ids) == expected


def test_an_implementation_is_asked_about_the_very_network(monkeypatch):
    """All that its answer may hang on: of each workload, in each execution."""
    asked = []

    def answer(name, request):
        asked.append(request)
        return "not today"

    monkeypatch.setattr(implementations, "why_unsupported", answer)
    for profile in (find_profile("full"), find_profile("published"), find_profile("smoke")):
        asked.clear()
        cases = plan(profile, "cuda", vocabulary_size=27)
        assert {case.unsupported for case in cases} == {"not today"}
        for case, request in zip(cases, asked, strict=True):
            assert request == Request(
                device="cuda",
                execution=case.execution,
                input_size=27,
                **{
                    name: getattr(case.workload, name)
                    for name in (
                        "cell", "dtype", "matmul_precision", "hidden_size", "num_layers",
                        "batch_size", "num_steps", "recurrent",
                    )
                },
            )  # fmt: skip


def test_on_a_cpu_interpreters_run_in_smoke_alone():
    smoke = plan(find_profile("smoke"), "cpu", ["triton_step"])
    assert all(case.interpreted and not case.unsupported for case in smoke)
    published = plan(find_profile("published"), "cpu", ["triton_step"])
    assert all("meaningless for speed" in case.unsupported for case in published)


def test_several_patterns_add_up():
    cases = plan(find_profile("smoke"), "cpu", ["torch_nn", "lstm"])
    expected = {"torch_nn"} | set(implementations.names())
    assert {case.implementation for case in cases} == expected
    assert {case.workload.cell for case in cases if case.implementation == "python_loop"} == {
        "lstm"
    }


def test_a_pattern_that_matches_nothing_names_what_there_is():
    with pytest.raises(UsageError, match=r"'tensorflow' matches none of the \d+ cases.*torch_nn"):
        plan(find_profile("smoke"), "cpu", ["lstm", "tensorflow"])


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(UsageError, match="'fast' is unknown; use one of smoke, quick"):
        find_profile("fast")


# H100's own answers to what implementations ask of a device.
H100 = SimpleNamespace(
    name="H100", major=9, minor=0, multi_processor_count=132, shared_memory_per_block=48 * 1024,
    shared_memory_per_block_optin=227 * 1024,
)  # fmt: skip


@pytest.fixture
def on_an_h100(monkeypatch):
    """Plans as on a machine with that GPU; nothing runs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H100)


@pytest.mark.parametrize("workload", ["lstm-L2-H256-B32-T35-bf16", "gru-L2-H256-B32-T35-bf16"])
def test_bfloat16_is_run_by_all_but_the_one_that_is_for_float16(workload, on_an_h100):
    cases = plan(find_profile("full"), "cuda", [workload])
    refused = {case.implementation: case.unsupported for case in cases if case.unsupported}
    ran = {case.implementation for case in cases if not case.unsupported}
    assert refused["torch_nn_persistent"] == "dtype bfloat16 is not implemented here, only float16"
    assert {"python_loop", "manual_gradient", "torch_nn", "torchscript"} <= ran


def test_float16_is_run_by_the_vendors_library_both_ways(on_an_h100):
    cases = plan(find_profile("full"), "cuda", ["lstm-L2-H256-B32-T35-fp16"])
    ran = {(case.implementation, case.execution) for case in cases if not case.unsupported}
    for name in ("torch_nn", "torch_nn_persistent"):
        assert {(name, "eager"), (name, "cuda_graph")} <= ran


@pytest.mark.parametrize("pattern", ["", " "])
def test_an_empty_pattern_is_not_everything(pattern):
    """`--only "$UNSET"` in a script."""
    with pytest.raises(UsageError, match="--only '' is empty"):
        plan(find_profile("quick"), "cpu", [pattern])
