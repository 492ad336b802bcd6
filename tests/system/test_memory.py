"""Memory that is left: never more than the machine has, nor than a container's limit leaves."""

import psutil
import pytest

from lipjax.system import memory


@pytest.mark.parametrize(("limit", "left"), [("1000", 700), ("max", None), (str(1 << 62), None), ("200", 0)])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit, left):
    """500 bytes are used, 200 of these by files that may be dropped."""
    monkeypatch.setattr(memory, "_CONTAINER", tmp_path)
    contents = {"max": limit, "current": "500", "stat": "anon 300\ninactive_file 200"}
    for name, content in contents.items():
        (tmp_path / f"memory.{name}").write_text(content + "\n", encoding="utf-8")
    found = memory.available_on_host()
    assert (found == left) if left is not None else 1000 < found <= psutil.virtual_memory().total
