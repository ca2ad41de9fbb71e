"""``kernels.md`` and ``kernels.html``: what was timed, who is the fastest, how steady it was."""

import html
import re

import pandas as pd
import pytest
import typer.testing

from bench import kernel_page, kernels_command
from bench.__main__ import app
from bench.kernel_comparison import verdict
from bench.kernel_rows import Row
from bench.kernel_table import KERNELS, Spec
from bench.stored import REMARKS

from .conftest import filled, timed
from .rendered import Page


def rendered(directory):
    """``kernels.md``; the page beside it nests and says the same things."""
    page = Page(kernel_page.render(directory).page.read_text("utf-8"))
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.removeprefix("#") in page.ids or (directory / link).exists(), link
    text = (directory / "kernels.md").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("| ") or line.startswith("- "):
            for words in re.split(r"[|`]| \(|\)", html.unescape(line.strip("|- "))):
                assert words.strip("\\: ") in page.text, words
    return text


def test_the_page_is_made_from_the_stored_table(tmp_path):
    KERNELS.append(
        tmp_path,
        [
            filled("triton_step"),
            filled("triton_step", mode="forward_backward", microseconds_per_step=12.0),
            filled("triton_sequence", "recurrence", predicted_microseconds_per_step=1.45),
            filled("barrier", "floor", gradient_error=None),
            filled("torch_nn", status="oom", reason="out of | memory", microseconds_per_step=None),
        ],
    )
    page = rendered(tmp_path)
    assert "Device A GPU, commit abc, run not stored." in page
    assert "## lstm, 2 × 256, B 32, T 35, TF32" in page
    assert "| kernel | graph, forward | graph, forward + backward | largest error |" in page
    assert "| triton_step | 4.25 (4.12 to 4.50) | 12.0 (4.12 to 4.50) | 2.0e-04 |" in page
    assert "| triton_sequence | 4.25 (4.12 to 4.50) | 1.45 | – | 2.0e-04 |" in page
    assert "| barrier | 4.25 (4.12 to 4.50) |" in page
    assert "- oom: out of \\| memory: `lstm-L2-H256-B32-T35-tf32/stack/torch_nn" in page


def test_a_layer_without_a_figure_has_no_section(tmp_path):
    late = filled("torch_nn", status="timeout", reason="no time", row_id="late/torch_nn")
    page = page_of(tmp_path, filled("triton_step"), {**late, "hidden_size": 512})
    assert page.count("\n## lstm") == 1
    assert "- timeout: no time: `late/torch_nn`" in page


def page_of(tmp_path, *rows):
    KERNELS.path(tmp_path).unlink(missing_ok=True)
    KERNELS.append(tmp_path, rows)
    return rendered(tmp_path)


def html_of(tmp_path, *rows):
    page_of(tmp_path, *rows)
    return Page((tmp_path / "kernels.html").read_text("utf-8")).text


def test_the_page_begins_with_the_fastest_of_each_layer(tmp_path):
    eager = timed("torch_nn", 12.0, 11.0, 13.0, execution="eager")
    reference, second = timed("torch_nn", 6.0, 5.9, 6.1), timed("b", 3.0, 2.9, 3.1)
    fastest = timed("a", 2.0, 1.9, 2.1, sm_clock_mhz=1410.0)
    control = timed("torch_nn", 6.6, 6.5, 6.7, part="control", sm_clock_mhz=1980.0)
    layer = "| lstm, 2 × 256, B 32, T 35, TF32 | `a` | 2.00 (1.90 to 2.10) "
    page = page_of(tmp_path, eager, reference, second, fastest, control)
    # (6.0 + 6.6) / 2 / 2.0 = 3.15, 5.9 / 2.1 = 2.81 and 6.7 / 1.9 = 3.53: of both timings
    compared = "| 3.15 (2.81 to 3.53) | 6.00 (5.24 to 6.84) | `b` (3.00) |"
    assert layer + compared in page
    heads = "| µs a step | × `torch_nn` in a graph | × `torch_nn` eager | second |"
    assert f"| layers | fastest {heads}\n|---|---|---|---|---|---|\n{layer}" in page
    assert "once more, after all the others: 6.60 (6.50 to 6.70)" in page
    assert (
        "+10.0 %; × is against the mean of both; ratios of this layer are no finer than that."
        in page
    )
    assert "Clock of the multiprocessors: 1,410–1,980 MHz." in page
    assert page.index("fastest of each layer") < page.index("## lstm")
    head = (
        "| kernel | eager, forward + backward | graph, forward + backward | × `torch_nn`, both in a"
    )
    assert head in page
    assert "| torch_nn | 12.0 (11.0 to 13.0) | 6.00 (5.90 to 6.10) | 1 |" in page
    assert "| b | – | 3.00 (2.90 to 3.10) | 2.10 (1.90 to 2.31) |" in page

    page = page_of(tmp_path, fastest, timed("torch_nn", 6.6, 0, 0, status="unsupported"))
    assert layer + "| – | – | – |" in page
    assert "once more, after all" not in page
    assert "processors: 1,410 MHz" in page

    page = page_of(tmp_path, reference, timed("c", 7.0, 6.9, 7.1), eager)
    assert "`torch_nn` | 6.00 (5.90 to 6.10) | – | 2.00 (1.80 to 2.20) | `c` (7.00) |" in page
    page = page_of(tmp_path, reference, {**control, "microseconds_per_step": 6.12})
    assert "+2.0 %; × is against the mean of both." in page
    page = page_of(tmp_path, reference, {**control, "microseconds_per_step": 5.7})
    assert "-5.0 %; × is against the mean of both; ratios" in page
    page = page_of(tmp_path, eager)
    assert "fastest of each" not in page
    assert "× `torch_nn`" not in page


def test_precisions_are_called_by_their_names(tmp_path):
    kinds = {"IEEE float32": ("float32", "ieee"), "TF32": ("float32", "tf32")}
    kinds["bfloat16"] = ("bfloat16", "ieee")
    for name, (dtype, precision) in kinds.items():
        row = timed("a", 2.0, 1.9, 2.1, dtype=dtype, matmul_precision=precision)
        assert f"\n## lstm, 2 × 256, B 32, T 35, {name}\n" in page_of(tmp_path, row)


def test_rows_of_a_disturbed_gpu_are_named(tmp_path):
    rows = [
        timed("a", 2.0, 1.9, 2.1, mark="throttled (power cap)"),
        timed("b", 2.0, 1.9, 2.1, mark="contended"),
        timed("c", 2.0, 1.9, 2.1, mark="throttled (power cap)"),
        timed("d", 2.0, 1.9, 2.1),
    ]
    page = page_of(tmp_path, *rows)
    assert (
        "- Throttled (power cap) while it was timed: `stack/a/cuda_graph`, "
        "`stack/c/cuda_graph`.\n- Contended while it was timed: `stack/b/cuda_graph`.\n"
    ) in page
    assert "while it was timed: " not in page_of(tmp_path, rows[-1])


def test_what_more_steps_add_is_a_step_without_the_launch(tmp_path):
    """A call of 10 µs and 2 µs a step: 2.29 µs over 35, 2.07 over 140, and 2 for a step alone."""
    rows = []
    for T in (35, 140):
        spent = (10 + 2 * T) / T
        row = Row(Spec("lstm", 2, 256, 32, T, "tf32"), "stack", "k", "cuda_graph", "forward")
        rows.append(
            {
                **row.columns(),
                "status": "ok",
                "microseconds_per_step": spent,
                "microseconds_per_step_low": spent - 0.01,
                "microseconds_per_step_high": spent + 0.01,
            }
        )
    KERNELS.append(tmp_path, rows)
    page = rendered(tmp_path)
    assert (
        "| k | stack | lstm, 2 × 256, B 32, TF32 | cuda_graph | forward | 35, 140 | 2.00 (1.98"
        in page
    )
    KERNELS.path(tmp_path).unlink()
    KERNELS.append(tmp_path, rows[:1])
    assert "A step alone" not in rendered(tmp_path)


def test_the_reference_timed_once_more_has_no_step_of_its_own(tmp_path):
    rows = [timed("torch_nn", 6.0, 5.9, 6.1, part, num_steps=T, row_id=f"{T}/{part}")
            for T in (35, 140) for part in ("stack", "control")]  # fmt: skip
    page = page_of(tmp_path, *rows)
    assert "| torch_nn | stack | lstm, 2 × 256, B 32, TF32 | cuda_graph |" in page
    assert "| torch_nn | control |" not in page


def test_the_verdict_says_who_wins_how_often_and_by_how_much():
    reference = timed("torch_nn", 6.0, 6.0, 6.0)

    def said(*layers):
        return verdict({str(place): pd.DataFrame(rows) for place, rows in enumerate(layers)})

    one = [reference, timed("a", 2.0, 1.9, 2.1)]
    two = [reference, timed("a", 1.5, 1.4, 1.6)]
    lost = [reference, timed("a", 7.0, 7.0, 7.0)]
    (alone,) = said(one)
    assert alone == (
        "`a` is the fastest in 1 of 1 stack, 3.00 times as fast as `torch_nn`: forward + "
        "backward, all in a CUDA graph."
    )
    assert said(lost, one, two) == [
        "`a` is the fastest in 2 of 3 stacks, 3.00 to 4.00 times as fast as `torch_nn`: forward "
        "+ backward, all in a CUDA graph.",
        "`torch_nn` is the fastest in 1 of 3 stacks.",
    ]
    nobody = ["No stack of layers was timed whole beside `torch_nn` in a CUDA graph."]
    assert said([timed("a", 2.0, 1.9, 2.1)]) == said() == nobody


def test_who_cannot_be_told_from_the_fastest_did_not_lose(tmp_path):
    reference = timed("torch_nn", 6.0, 5.9, 6.1)
    page = page_of(tmp_path, reference, timed("a", 2.0, 1.9, 2.1), timed("b", 2.05, 2.0, 2.2))
    assert "**`a` and `b` cannot be told apart as the fastest in 1 of 1 stack, 3.00 tim" in page
    assert "| `b` (2.05, not told apart) |" in page
    page = page_of(tmp_path, reference, timed("a", 6.05, 5.8, 6.2))
    assert "**`a` and `torch_nn` cannot be told apart as the fastest in 1 of 1 stack: forw" in page


def test_the_reference_is_ranked_by_what_factors_are_of(tmp_path):
    """First 6.0, later 5.6: a kernel with 5.9 is ahead of the first alone."""
    rows = [
        timed("torch_nn", 6.0, 6.0, 6.0),
        timed("a", 5.9, 5.9, 5.9),
        timed("torch_nn", 5.6, 5.6, 5.6, part="control"),
    ]
    page = page_of(tmp_path, *rows)
    assert "| `torch_nn` | 5.80 (5.60 to 6.00) | – |" in page
    assert "0.98 times as fast" not in page


def test_without_a_kernels_figure_nobody_is_the_fastest(tmp_path):
    reference, slow = timed("torch_nn", 6.0, 5.9, 6.1), timed("a", 3.0, 2.9, 3.1)
    late = timed("b", None, None, None, status="timeout", reason="no time")
    page = page_of(tmp_path, reference, slow, late)
    assert "**No stack of layers was timed whole beside `torch_nn` in a CUDA graph.**" in page
    assert "TF32 | not told: `b` without a figure | – | – | – | – |" in page
    other = [{**row, "hidden_size": 512, "row_id": f"512/{n}"} for n, row in
             enumerate([reference, slow])]  # fmt: skip
    page = page_of(tmp_path, reference, slow, late, *other)
    assert "**`a` is the fastest in 1 of 1 stack timed whole, 2.00 times" in page
    assert "- 1 more stack cannot be judged: kernels lack figures." in page
    cannot = {**late, "status": "unsupported"}
    assert "`a` is the fastest in 1 of 1" in page_of(tmp_path, reference, slow, cannot)


def test_a_run_that_was_cut_judges_whole_layers_alone(tmp_path):
    """Rows that were not reached are not there; a layer's last is its control."""
    whole = [
        timed("torch_nn", 6.0, 5.9, 6.1), timed("a", 3.0, 2.9, 3.1),
        timed("torch_nn", 6.0, 5.9, 6.1, part="control"),
    ]  # fmt: skip
    cut = [{**row, "hidden_size": 512, "row_id": f"512/{n}"} for n, row in enumerate(whole[:2])]
    said = '{"Run": {"Planned rows": %d}}'
    (tmp_path / "environment.json").write_text(said % 9, "utf-8")
    page = page_of(tmp_path, *whole, *cut)
    assert "- The run was cut: 4 of 9 planned rows are not here." in page
    assert "`a` is the fastest in 1 of 1 stack, 2.00" in page
    (tmp_path / "environment.json").write_text(said % 5, "utf-8")
    page = page_of(tmp_path, *whole, *cut)
    assert "The run was cut" not in page
    assert "`a` is the fastest in 2 of 2 stacks, 2.00" in page


def test_what_to_know_before_a_figure_is_believed_comes_first(tmp_path):
    sound = [timed("torch_nn", 6.0, 5.9, 6.1), timed("a", 2.0, 1.9, 2.1)]
    assert "Read this first" not in html_of(tmp_path, *sound)
    page = html_of(
        tmp_path,
        *sound,
        timed("torch_nn", 6.6, 6.5, 6.7, part="control", mark="contended"),
        timed("b", 2.0, 1.9, 2.1, status="crashed", reason="spoilt"),
        timed("c", 2.0, 1.9, 2.1, status="unsupported", reason="not here"),
    )
    assert "Read this first" in page
    assert "1 of 4 rows have no figure: 1 crashed." in page
    assert "1 row contended while timed; their layers name them." in page
    assert "TF32: the machine moved by +10.0 % meanwhile." in page
    assert page.index("Read this first") < page.index("The fastest of each layer")


def test_what_was_found_out_later_comes_before_all(tmp_path):
    (tmp_path / REMARKS).write_text("The fan was broken.\n")
    page = page_of(tmp_path, filled("triton_step"), filled("a", status="oom", reason="full"))
    assert page.index("- The fan was broken.") < page.index("have no figure")


def test_unsupported_rows_are_counted_apart(tmp_path):
    refused = filled("a", status="unsupported", reason="too wide", row_id="refused")
    lacking = filled("b", status="oom", reason="full", row_id="lacking")
    page = page_of(tmp_path, filled("triton_step"), refused, lacking)
    assert "- 1 of 2 rows have no figure: 1 oom. (1 more are unsupported.)" in page


def test_stacks_of_which_nothing_was_timed_are_counted_as_well(tmp_path):
    """What was planned and not reached is no part of what a winner won."""
    whole = [timed("a", 2.0, 2.0, 2.0), timed("torch_nn", 6.0, 6.0, 6.0)]
    late = filled(
        "a", status="timeout", reason="no time", row_id="late", execution="cuda_graph",
        mode="forward_backward", microseconds_per_step=None,
    )  # fmt: skip
    page = page_of(tmp_path, *whole, {**late, "hidden_size": 512})
    assert "**`a` is the fastest in 1 of 1 stack timed whole, 3.00 times" in page
    assert "- 1 more stack cannot be judged: kernels lack figures." in page


def test_the_command_beneath_a_layer_times_it_again(tmp_path, monkeypatch):
    row = timed("a", 2.0, 1.9, 2.1, dtype="bfloat16", matmul_precision="ieee")
    page = page_of(tmp_path, row)
    (command,) = re.findall(r"Repeat it: `python -m bench (.*)`", page)
    asked = []
    monkeypatch.setattr(kernels_command, "_print_predictions", asked.extend)
    done = typer.testing.CliRunner().invoke(app, [*command.split(), "--predicted"])
    assert done.exit_code == 0, done.output
    assert asked == [Spec("lstm", 2, 256, 32, 35, "bfloat16")]
    assert "--tiles" not in command
    assert "--tiles`" in page_of(tmp_path, {**row, "part": "tile", "tile": "forward 8x8"})


def test_what_is_stored_of_the_machine_is_shown(tmp_path):
    assert "Nothing about the machine" in html_of(tmp_path, timed("a", 2.0, 1.9, 2.1))
    (tmp_path / "environment.json").write_text('{"GPU": {"Driver": "570.1"}}', "utf-8")
    assert "Driver 570.1" in html_of(tmp_path, timed("a", 2.0, 1.9, 2.1))
    assert "GPU: Driver 570.1." in rendered(tmp_path)


def test_rendering_again_gives_the_same_bytes_and_evil_words_stay_words(tmp_path):
    evil = "<script>alert(1)</script> & {{ 7 * 7 }}"
    page_of(
        tmp_path,
        timed("torch_nn", 6.0, 5.9, 6.1, device=evil, commit=evil),
        timed("a", 6.0, 5.9, 6.1, status="crashed", reason=evil),
    )
    names = ("kernels.md", "kernels.html", "plots/stacks.svg", "plots/stacks.png")
    before = [(tmp_path / name).read_bytes() for name in names]
    rendered(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    text = before[1].decode()
    assert "<script" not in text
    assert text.count("{{ 7 * 7 }}") >= 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([timed("a", 2.0, 1.9, 2.1)] * 2, "has two rows for stack/a/cuda_graph"),
        ([timed("a", 2.0, 1.9, 2.1, status="fine")], "has the status 'fine', which is none of ok"),
        ([timed("a", 2.0, 1.9, 2.1, num_layers=None)], "stack/a/cuda_graph has no num_layers"),
        ([timed("a", 2.0, 1.9, 2.1, cell="")], "stack/a/cuda_graph has no cell"),
        ([timed("a", 2.0, 0.0, 2.1)], "stack/a/cuda_graph was timed and has no figure"),
        ([timed("a", None, None, None)], "stack/a/cuda_graph was timed and has no figure"),
        ([timed("a", 2.0, 1.9, float("inf"))], "was timed and has no figure"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(rows, said, tmp_path):
    KERNELS.append(tmp_path, rows)
    done = typer.testing.CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.splitlines()) == 1


def test_report_draws_a_table_of_kernels_again(tmp_path):
    KERNELS.append(tmp_path, [timed("torch_nn", 6.0, 5.9, 6.1), timed("a", 2.0, 1.9, 2.1)])
    done = typer.testing.CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("a is the fastest in 1 of 1 stack, 3.00 times as fast as torch")
    assert f"Page: {tmp_path / 'kernels.html'}" in done.output.replace("\n", "")


def test_tiles_stand_beside_the_usual_one(tmp_path):
    def tile(name, median, kernel="triton_sequence", **changes):
        row = timed(kernel, median, median, median, part="tile", **changes)
        return {**row, "tile": name, "mode": "forward", "row_id": f"{kernel}/{name}"}

    page = page_of(
        tmp_path,
        timed("torch_nn", 6.0, 5.9, 6.1),
        tile("forward 8x8", 2.0), tile("forward 16x8", 1.6), tile("forward 16x16", 4.0),
        tile("forward 8x16", 3.0, "triton_dataflow"),
        tile("forward 32x8", 3.0, "triton_dataflow", status="crashed", reason="spoilt"),
        # Of another T: a step alone is reckoned from the usual tiles.
        {**tile("forward 8x8", 2.0, num_steps=140), "row_id": "longer"},
    )  # fmt: skip
    assert "| triton_sequence | forward | 8x8 | 2.00 (2.00 to 2.00) | 1.00 (1.00 to 1.00) |" in page
    faster = "1.60 (1.60 to 1.60) | 1.25 (1.25 to 1.25)"
    assert f"| triton_sequence | forward | 16x8, the fastest | {faster} |" in page
    assert (
        "| triton_sequence | forward | 16x16 | 4.00 (4.00 to 4.00) | 0.50 (0.50 to 0.50) |" in page
    )
    alone = "3.00 (3.00 to 3.00) | 1.00 (1.00 to 1.00)"
    assert f"| triton_dataflow | forward | 8x16, the fastest | {alone} |" in page
    assert "- crashed: spoilt: `triton_dataflow/forward 32x8`" in page
    assert "| 32x8" not in page
    assert "A step alone" not in page
    assert page.count("Each tile that fits") == 2  # one a layer


def test_tiles_have_no_factor_where_the_usual_one_has_no_figure(tmp_path):
    rows = [
        {**timed("a", median, median, median, part="tile", status=status, tile=f"forward {tile}"),
         "row_id": tile}
        for tile, median, status in
        (("8x8", None, "crashed"), ("16x8", 1.6, "ok"), ("16x16", 2.0, "ok"))
    ]  # fmt: skip
    page = page_of(tmp_path, *rows)
    assert "| a | forward | 8x8 | – | – |" in page
    assert "| a | forward | 16x8, the fastest | 1.60 (1.60 to 1.60) | – |" in page


def test_a_table_from_before_there_were_tiles_is_read(tmp_path):
    page_of(tmp_path, timed("torch_nn", 6.0, 5.9, 6.1))
    path = KERNELS.path(tmp_path)
    lines = [line.split(",") for line in path.read_text("utf-8").splitlines()]
    place = lines[0].index("tile")
    older = [",".join(fields[:place] + fields[place + 1 :]) for fields in lines]
    path.write_text("\n".join(older) + "\n", "utf-8")
    assert "| torch_nn |" in rendered(tmp_path)
