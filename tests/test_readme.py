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
    assert "SkewOrthogonalConv_1 0.99" in capsys.readouterr().out
