"""Networks of one's own: what an id means, what is refused, and how it is asked for again."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import custom
from bench.results import TRAINING
from bench.rows import run_command
from bench.workloads import PROFILES, UsageError
from deeprnn.minibatches import tokens_needed

CPU = {"profile": "custom", "device": "cpu", "seed": 0, "threads": 2, "case_seconds": 600.0}
CPU |= {"corpus": {"asked": "timemachine"}}


def _request(*workloads, epochs=0, learning_rate=0.0, profile=None):
    return {
        "profile": profile,
        "workloads": list(workloads),
        "epochs": epochs,
        "learning_rate": learning_rate,
    }


def test_what_is_left_out_is_the_published_task():
    (quick, *_) = PROFILES["quick"].workloads
    found = custom.parse("lstm-H256", quick.epochs, 0)
    published = replace(quick, published_tokens_per_second=None, published_note="")
    assert found == published


@given(
    cell=st.sampled_from(sorted(custom.CELLS)),
    layers=st.integers(1, 9),
    hidden=st.integers(1, 4096),
    batch=st.integers(1, 512),
    steps=st.integers(1, 512),
    precision=st.sampled_from(sorted(custom.PRECISIONS)),
    order=st.permutations(range(5)),
)
def test_an_id_comes_back_and_its_text_suffices(
    cell, layers, hidden, batch, steps, precision, order
):
    parts = [f"L{layers}", f"H{hidden}", f"B{batch}", f"T{steps}", precision]
    workload = custom.parse("-".join([cell, *(parts[i] for i in order)]), 10, 0)
    assert workload.id == "-".join([cell, *parts])
    assert custom.parse(workload.id, 10, 0) == workload
    # whatever the offset: eight minibatches to train on, one to validate
    largest_offset = tokens_needed(batch, steps) - batch * steps - 1
    usable = workload.num_train - largest_offset - 1
    assert usable // batch // steps >= 8
    assert workload.num_validation >= tokens_needed(batch, steps)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("foo-H3", "'foo'"),
        ("lstm", "H"),
        ("lstm-256", "'256'"),
        ("lstm-H0", "'H0'"),
        ("lstm-H-3", "'H'"),
        ("lstm-H3-H4", "'H4'"),
        ("lstm-H3-fp32-tf32", "'tf32'"),
        ("lstm-H3-fp64", "'fp64'"),
        ("lstm-H99999999", "'H99999999'"),
        ("lstm-H٣", "'H٣'"),
        ("rnn_tanh-L2-H512-B32-T35-fp32-recurrent1-normal", "'recurrent1'"),
    ],
)
def test_what_cannot_be_read_is_named(text, named):
    with pytest.raises(UsageError, match="--workload") as refused:
        custom.parse(text, 10, 0)
    assert named in str(refused.value)
    assert "lstm-H384" in str(refused.value)  # how to write it
    assert "\n" not in str(refused.value)


def test_options_that_contradict_each_other_are_refused():
    assert custom.request({"profile": "quick"}) is None
    with pytest.raises(UsageError, match="--profile quick"):
        custom.request(_request("gru-H8", profile="quick"))
    with pytest.raises(UsageError, match="--epochs 3"):
        custom.request(_request(epochs=3))
    with pytest.raises(UsageError, match=r"--learning-rate 0\.5"):
        custom.request(_request(learning_rate=0.5))


def test_a_profile_of_ones_own():
    chosen = custom.request(_request("gru-H8", "gru-L2-H8", "rnn_tanh-H9", learning_rate=0.5))
    on_cpu, on_gpu = custom.profile(chosen, "cpu"), custom.profile(chosen, "cuda")
    assert [w.id for w in on_cpu.workloads] == [
        "gru-L2-H8-B32-T35-fp32",  # once: the second asks for the same
        "rnn_tanh-L2-H9-B32-T35-fp32",
    ]
    assert {w.learning_rate for w in on_cpu.workloads} == {0.5}
    assert {w.epochs for w in on_cpu.workloads} == {w.epochs for w in PROFILES["quick"].workloads}
    assert {w.epochs for w in on_gpu.workloads} == {PROFILES["full"].workloads[0].epochs}
    with pytest.raises(UsageError, match="--epochs 1"):
        custom.profile(chosen | {"epochs": 1}, "cpu")


@pytest.mark.parametrize(
    ("text", "title", "learning_rate"),
    [
        ("lstm-H9", "LSTM, 2 layers of 9", 2.0),
        ("gru-L1-H9-B64", "GRU, 1 layer of 9, B 64", 2.0),
        ("rnn_tanh-L3-H9-T7-tf32", "tanh RNN, 3 layers of 9, T 7, TF32", 1.0),
        ("rnn_relu-H9-B1-T2-bf16", "ReLU RNN, 2 layers of 9, B 1, T 2, bfloat16", 1.0),
        ("lstm-H9-fp16", "LSTM, 2 layers of 9, float16", 2.0),
    ],
)
def test_a_title_says_what_is_not_usual_and_the_rate_is_the_published_one(
    text, title, learning_rate
):
    workload = custom.parse(text, 10, 0)
    assert workload.title == title
    assert workload.learning_rate == learning_rate
    assert custom.parse(text, 10, 0.25).learning_rate == 0.25


@pytest.mark.parametrize(("epochs", "every"), [(2, 1), (20, 1), (21, 10)])
def test_many_epochs_are_validated_now_and_then(epochs, every):
    profile = custom.profile(custom.request(_request("gru-H8", epochs=epochs)), "cpu")
    assert profile.validate_every == every
    assert {workload.epochs for workload in profile.workloads} == {epochs}
    assert f"more than {epochs} epochs" in profile.leaves_out[0]


def test_the_command_of_a_row_asks_for_its_network_alone():
    chosen = custom.request(_request("gru-H8", "lstm-H9", epochs=5, learning_rate=0.25))
    plan = {**CPU, "custom": chosen}
    all_of_it = run_command(plan, [])
    assert all_of_it[3:].count("--workload") == 2
    assert "--case-seconds" not in all_of_it  # the usual
    row = " ".join(run_command(plan, ["lstm-L2-H9-B32-T35-fp32/torch_nn/eager"]))
    assert "--workload lstm-H9 --epochs 5 --learning-rate 0.25 --only lstm-L2-H9" in row
    assert "gru" not in row
    assert run_command(plan, ["torch_nn"]).count("--workload") == 2


def test_a_network_of_ones_own_is_measured_and_its_own_command_goes_on(tmp_path):
    text, output = tmp_path / "text.txt", tmp_path / "report"
    text.write_text("the time traveller for so it will be convenient to speak of him " * 400)
    only = "gru-L1-H9-B64-T30-fp32/torch_nn/eager"
    chosen = custom.request(_request("gru-L1-H9-B64-T30", epochs=3))
    words = run_command({**CPU, "custom": chosen} | {"corpus": {"asked": str(text)}}, [only])
    command = [sys.executable, *words[1:], "--output", str(output)]
    project = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(project)}

    def bench(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    done = bench()
    assert done.returncode == 0, done.stderr
    (row,) = TRAINING.load(output).to_dict("records")
    assert (row["case_id"], row["status"], row["epochs"], row["rounds"]) == (only, "ok", 3, 2)
    assert row["batch_size"] == 64
    assert row["learning_rate"] == 2
    assert "--workload gru-L1-H9-B64-T30 --epochs 3" in row["command"]
    again = bench("--resume")
    assert again.returncode == 0, again.stderr
    assert "Resuming: 1 of 1 cases have a row" in again.stdout
    other = bench("--resume", "--epochs", "4")
    assert other.returncode == 2
    assert "epochs 3" in other.stderr
    assert "epochs 4" in other.stderr
