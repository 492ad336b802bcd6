"""Memory that is left: never more than the machine has, nor than the limits of a process and its groups leave."""

import platform
import resource
import subprocess
import sys

import psutil
import pytest

from lipjax.system import memory


@pytest.mark.parametrize(("limit", "left"), [("1000", 700), ("max", None), (str(1 << 62), None), ("200", 0)])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, limit, left):
    """500 bytes are used, 200 of these by files that may be dropped."""
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    contents = {"max": limit, "current": "500", "stat": "anon 300\ninactive_file 200"}
    for name, content in contents.items():
        (tmp_path / f"memory.{name}").write_text(content + "\n", encoding="utf-8")
    found = memory.available_on_host()
    assert (found == left) if left is not None else 1000 < found <= psutil.virtual_memory().total


@pytest.fixture(autouse=True)
def _nothing_freed(request, monkeypatch):
    if "freed" not in request.node.name:
        monkeypatch.setattr(memory, "_freed", lambda: 0)


def write_group(folder, names, limit, used, droppable):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n", encoding="utf-8")
    (folder / names[1]).write_text(f"{used}\n", encoding="utf-8")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {droppable}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ("0::/a/b", 600),  # of its own
        ("0::/c/d", 800),  # of the one above
        ("0::/../x", 2000),  # outside what is mounted here
        ("4:cpu,memory:/e\n0::/", 300),  # of version 1
        ("4:memory:/gone\n0::/", 400),
        ("nonsense", 400),
    ],
)
def test_the_limits_of_all_groups_count(tmp_path, monkeypatch, own, left):
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text(own + "\n", encoding="utf-8")
    write_group(tmp_path, memory._V2, 3000, 1000, 0)
    write_group(tmp_path / "a", memory._V2, 1000, 300, 0)
    write_group(tmp_path / "a" / "b", memory._V2, 900, 400, 100)
    write_group(tmp_path / "c", memory._V2, 900, 100, 0)
    write_group(tmp_path / "c" / "d", memory._V2, "max", 100, 0)
    if "memory" in own or own == "nonsense":
        write_group(tmp_path / "memory", memory._V1, 500, 100, 0)
        write_group(tmp_path / "memory" / "e", memory._V1, 400, 300, 200)
    assert memory.available_on_host() == left


def test_the_limit_of_the_address_space_counts(monkeypatch):
    taken = psutil.Process().memory_info().vms
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (taken + 10**7, resource.RLIM_INFINITY))
    assert memory.available_on_host() <= 10**7
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (1000, resource.RLIM_INFINITY))
    assert memory.available_on_host() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library gives freed memory back as it likes")
def test_what_is_freed_is_taken_again_without_a_page_fault():
    """The second array of 64 MB of a process: it has no pages to fault in if those of the first were kept."""
    program = """
import resource, sys, numpy as np
from lipjax.system import memory
if sys.argv[1] == "kept":
    assert memory.keep_freed()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept < 10 < given_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does not tell what is freed")
def test_what_is_freed_and_kept_is_available():
    """To a process that may have 1 GB of addresses, 256 MB of which it has taken, and freed again."""
    program = """
import resource, numpy as np, psutil
from lipjax.system import memory
assert memory.keep_freed()
taken = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, resource.RLIM_INFINITY))
before = memory.available_on_host()
array = np.ones(2**25)
assert memory.available_on_host() < before - 2**27
del array
print(before - memory.available_on_host())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert abs(int(done.stdout)) < 2**24


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does not tell what is freed")
def test_what_was_freed_untouched_counts_once():
    """4 GB of addresses that never lay in memory."""
    program = """
import numpy as np
from lipjax.system import memory
memory.keep_freed()
array = np.empty(2**32, np.uint8)
del array
print(memory._freed())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2**30


def test_another_c_library_frees_as_it_did(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed()
    assert memory._freed() == 0
