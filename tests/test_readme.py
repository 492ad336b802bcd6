"""The Python of the README runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_python_of_the_readme_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert len(blocks) == 2
    assert names["certificate"].radius.shape == (360,)
    printed = capsys.readouterr().out
    assert "block  (1 − 0.5) x + 0.5 f(x): 1  (sum)" in printed
    assert printed.splitlines()[1].startswith("one after the other: 2.857")
