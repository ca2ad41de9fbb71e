"""``kernels.md``: what was timed, who is the fastest, and how steady the machine was."""

from bench import kernel_page
from bench.kernel_rows import Row
from bench.kernel_table import KERNELS, Spec


def filled(kernel, part="stack", mode="forward", **changes):
    row = Row(Spec("lstm", 2, 256, 32, 35, "tf32"), part, kernel, "cuda_graph", mode).columns()
    figures = {"microseconds_per_step": 4.25, "microseconds_per_step_low": 4.125,
               "microseconds_per_step_high": 4.5, "gradient_error": 2e-4}  # fmt: skip
    return {**row, "status": "ok", "device": "A GPU", "commit": "abc", **figures, **changes}


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
    page = kernel_page.write(tmp_path).read_text("utf-8")
    assert "Device: A GPU. Commit: abc." in page
    assert "## lstm, 2 × 256, B 32, T 35, TF32" in page
    assert "| kernel | graph, forward | graph, forward + backward | largest error |" in page
    assert "| triton_step | 4.25 (4.12–4.5) | 12 (4.12–4.5) | 2.0e-04 |" in page
    assert "| triton_sequence | 4.25 (4.12–4.5) | 1.45 | – | 2.0e-04 |" in page
    assert "| barrier | 4.25 (4.12–4.5) |" in page
    assert "- oom: out of | memory: `lstm-L2-H256-B32-T35-tf32/stack/torch_nn" in page


def test_a_layer_without_a_figure_has_no_section(tmp_path):
    late = filled("torch_nn", status="timeout", reason="no time", row_id="late/torch_nn")
    page = page_of(tmp_path, filled("triton_step"), {**late, "hidden_size": 512})
    assert page.count("\n## lstm") == 1
    assert "- timeout: no time: `late/torch_nn`" in page


def timed(kernel, median, low, high, part="stack", execution="cuda_graph", **changes):
    figures = dict(zip(("", "_low", "_high"), (median, low, high), strict=True))
    row = filled(kernel, part, "forward_backward")
    row["row_id"] = f"{part}/{kernel}/{execution}"
    row |= {f"microseconds_per_step{end}": value for end, value in figures.items()}
    return {**row, "execution": execution, **changes}


def page_of(tmp_path, *rows):
    KERNELS.path(tmp_path).unlink(missing_ok=True)
    KERNELS.append(tmp_path, rows)
    return kernel_page.write(tmp_path).read_text("utf-8")


def test_the_page_begins_with_the_fastest_of_each_layer(tmp_path):
    eager = timed("torch_nn", 12.0, 11.0, 13.0, execution="eager")
    reference, second = timed("torch_nn", 6.0, 5.9, 6.1), timed("b", 3.0, 2.9, 3.1)
    fastest = timed("a", 2.0, 1.9, 2.1, sm_clock_mhz=1410.0)
    control = timed("torch_nn", 6.6, 6.5, 6.7, part="control", sm_clock_mhz=1980.0)
    layer = "| lstm, 2 × 256, B 32, T 35, TF32 | `a` | 2 (1.9–2.1) "
    page = page_of(tmp_path, eager, reference, second, fastest, control)
    # (6.0 + 6.6) / 2 / 2.0 = 3.15, 5.9 / 2.1 = 2.81 and 6.7 / 1.9 = 3.53: of both timings
    compared = "| 3.15 (2.81–3.53) | 6.00 (5.24–6.84) | `b`, 3 (2.9–3.1) |"
    assert layer + compared in page
    heads = "| µs a step | × `torch_nn` in a graph | × `torch_nn` eager | second |"
    assert f"| layers | fastest {heads}\n|---|---|---|---|---|---|\n{layer}" in page
    assert "once more, after all the others: 6.6 (6.5–6.7)" in page
    assert "+10.0 %; **ratios of this layer are no finer than that**." in page
    assert "Clock of the multiprocessors: 1,410–1,980 MHz." in page
    assert page.index("fastest of each layer") < page.index("## lstm")
    head = (
        "| kernel | eager, forward + backward | graph, forward + backward | × `torch_nn`, both in a"
    )
    assert head in page
    assert "| torch_nn | 12 (11–13) | 6 (5.9–6.1) | 1 |" in page
    assert "| b | – | 3 (2.9–3.1) | 2.10 (1.90–2.31) |" in page

    page = page_of(tmp_path, fastest, timed("torch_nn", 6.6, 0, 0, status="crashed"))
    assert layer + "| – | – | – |" in page
    assert "once more, after all" not in page
    assert "processors: 1,410 MHz" in page

    page = page_of(tmp_path, reference, timed("c", 7.0, 6.9, 7.1), eager)
    assert "`torch_nn` | 6 (5.9–6.1) | – | 2.00 (1.80–2.20) | `c`, 7 (6.9–7.1) |" in page
    page = page_of(tmp_path, reference, {**control, "microseconds_per_step": 6.12})
    assert "+2.0 %." in page
    page = page_of(tmp_path, reference, {**control, "microseconds_per_step": 5.7})
    assert "-5.0 %; **ratios" in page
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
        "- **Throttled (power cap)** while it was timed: `stack/a/cuda_graph`, "
        "`stack/c/cuda_graph`.\n- **Contended** while it was timed: `stack/b/cuda_graph`.\n"
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
    page = kernel_page.write(tmp_path).read_text("utf-8")
    assert (
        "| stack | k | lstm, 2 × 256, B 32, TF32 | cuda_graph | forward | 35, 140 | 2 (1.98" in page
    )
    KERNELS.path(tmp_path).unlink()
    KERNELS.append(tmp_path, rows[:1])
    assert "A step alone" not in kernel_page.write(tmp_path).read_text("utf-8")


def test_the_reference_timed_once_more_has_no_step_of_its_own(tmp_path):
    rows = [timed("torch_nn", 6.0, 5.9, 6.1, part, num_steps=T)
            for T in (35, 140) for part in ("stack", "control")]  # fmt: skip
    page = page_of(tmp_path, *rows)
    assert "| stack | torch_nn | lstm, 2 × 256, B 32, TF32 | cuda_graph |" in page
    assert "| control |" not in page


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
        tile("forward 8x8", 2.0, num_steps=140),
    )  # fmt: skip
    assert "| triton_sequence | forward | 8x8 | 2 (2–2) | 1.00 (1.00–1.00) |" in page
    assert "| triton_sequence | forward | **16x8** | 1.6 (1.6–1.6) | 1.25 (1.25–1.25) |" in page
    assert "| triton_sequence | forward | 16x16 | 4 (4–4) | 0.50 (0.50–0.50) |" in page
    assert "| triton_dataflow | forward | **8x16** | 3 (3–3) | 1.00 (1.00–1.00) |" in page
    assert "- crashed: spoilt: `triton_dataflow/forward 32x8`" in page
    assert "A step alone" not in page
    assert page.count("Each tile that fits") == 2  # one a layer


def test_a_table_from_before_there_were_tiles_is_read(tmp_path):
    page_of(tmp_path, timed("torch_nn", 6.0, 5.9, 6.1))
    path = KERNELS.path(tmp_path)
    lines = [line.split(",") for line in path.read_text("utf-8").splitlines()]
    place = lines[0].index("tile")
    older = [",".join(fields[:place] + fields[place + 1 :]) for fields in lines]
    path.write_text("\n".join(older) + "\n", "utf-8")
    assert "| torch_nn |" in kernel_page.write(tmp_path).read_text("utf-8")
