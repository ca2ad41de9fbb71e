"""Which cases a paired gate pairs, verifies, refuses or leaves alone."""

import pytest

from bench.gate_driver import Refused, chosen, sort_cases
from bench.gate_source import Source
from bench.worker_process import PROJECT

IDS = [
    "lstm-L2/torch_nn/eager",
    "lstm-L2/torch_nn_persistent/eager",
    "gru-L2/torch_nn/cuda_graph",
    "gru-L2/gru_loop/eager",
]


def test_patterns_choose_as_in_a_run():
    assert chosen(IDS, ["torch_nn*"]) == IDS[:3]
    assert chosen(IDS, []) == IDS


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(Refused, match="--only 'tensorflow' matches none of the 4 cases"):
        chosen(IDS, ["torch_nn", "tensorflow"])


def plan(**cases: str) -> dict:
    """A plan of one workload; by implementation, why it is unsupported, or how it runs."""
    return {
        "workloads": [{"workload": "w"}],
        "cases": [
            {
                "case_id": f"w/{name}/eager",
                "workload": "w",
                "implementation": name,
                "execution": "eager",
                "interpreted": how == "interpreted",
                "unsupported": "" if how in ("runs", "interpreted") else how,
            }
            for name, how in cases.items()
        ],
    }


@pytest.mark.parametrize("side", ["base", "head"])
def test_what_an_interpreter_runs_on_one_side_alone_cannot_be_compared(side):
    plans = {"base": plan(kernel="runs"), "head": plan(kernel="runs")}
    plans[side] = plan(kernel="interpreted")
    paired, checked, (measurement,) = sort_cases(plans, [])
    assert (paired, checked, measurement.kind) == ([], [], "invalid")
    assert measurement.reason == f"an interpreter runs it in {side} alone"


def test_a_side_without_a_package_of_its_own_has_nobody_elses(tmp_path):
    for package in ("bench", "deeprnn"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    assert Source(tmp_path, tmp_path).lacks() == ["kernels"]
    assert Source(PROJECT, tmp_path).lacks() == []
    with pytest.raises(RuntimeError, match="processes would import"):
        Source(tmp_path, tmp_path).check("cpu", 1)


def test_every_case_of_either_side_has_its_place():
    base = plan(both="runs", gone="runs", lost="runs", never="no", came="no", kernel="interpreted")
    head = plan(
        both="runs", lost="no GPU", never="no", came="runs", kernel="interpreted", new="runs"
    )
    paired, checked, rest = sort_cases({"base": base, "head": head}, [])
    assert [case.implementation for case in paired] == ["both"]
    assert {case.implementation: case.measurement.kind for case in checked} == {
        "came": "new",
        "new": "new",
        "kernel": "untimed",
    }
    assert {m.case_id.split("/")[1]: (m.kind, m.reason) for m in rest} == {
        "gone": ("invalid", "head lacks it"),
        "lost": ("invalid", "head unsupported: no GPU"),
        "never": ("untimed", "unsupported: no"),
    }
