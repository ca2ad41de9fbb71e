"""The README's example is run, so that it stays true."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def test_the_example_trains_and_generates(monkeypatch, tmp_path, capsys):
    readme = (PROJECT / "README.md").read_text("utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1)
    assert len([line for line in example.splitlines() if line.strip()]) <= 16
    text = tmp_path / "text.txt"
    text.write_text("the time traveller for so it will be convenient to speak of him " * 300)
    # The same code at small sizes.
    assert 'corpus.load("timemachine")' in example
    assert "epochs=50" in example
    for real, small in (('"timemachine"', f'"{text}"'), ("epochs=50", "epochs=2"), ("256", "32")):
        example = example.replace(real, small)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "time traveller" in printed
    assert len(printed.rstrip("\n").splitlines()[-1]) == len("time traveller") + 50
