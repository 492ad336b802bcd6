"""How much memory there is, before it is taken."""

import contextlib
import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import jax
import psutil

# Of the options of mallopt in glibc: trim the heap from so much that is free, blocks outside it, heaps of threads.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_GROUPS = Path("/sys/fs/cgroup")  # where Linux tells the limits of groups of processes, such as a container
_OWN = Path("/proc/self/cgroup")  # the groups that this process is in

# Of cgroup v2 and v1: the files of the limit and of what is used, and the line of what may be dropped at once.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def keep_freed() -> bool:
    """Keep what is freed, for the next step of a program, and do not give it back to the system; whether glibc can.

    On a CPU a step allocates its activations anew: in pages that the system clears first, 27,000 of them a step of a
    small LipNeXt.  The whole process then holds what it ever held, or 39 % more (benchmarks/freed_memory.py).
    """
    options = _of_glibc("mallopt")
    return options is not None and all(
        options(*option) for option in ((_M_TRIM_THRESHOLD, -1), (_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1))
    )


def _of_glibc(name: str) -> Any:
    """A function of glibc; None with another C library."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


class _Heap(ctypes.Structure):
    """mallinfo2 of glibc."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "used", "free", "top")
    ]


def _freed() -> int:
    """Bytes that this process has freed and holds: they count as used, and it can take them again.

    Not those that were never touched: all that it uses and these together are no more than lies in memory.
    """
    heap = _of_glibc("mallinfo2")
    if heap is None:
        return 0
    heap.restype = _Heap
    found = heap()
    return max(min(found.free, psutil.Process().memory_info().rss - found.used), 0)


def available_on_host() -> int:
    """Bytes that this process can still take: of the machine, of each group that it is in, of its address space."""
    free = [psutil.virtual_memory().available]
    for folder, names in _groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max": no limit
            allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in names[:2])
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            stat = dict(line.split() for line in lines)
            free.append(allowed - used + int(stat[names[2]]))  # a cache of files makes room
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    return max(min(free), 0) + _freed()


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The groups that may limit this process, from its own up to the root, with the names of their files.

    In a container the path of /proc/self/cgroup may be one of the host, of which only the root is seen.
    """
    paths = {"": "/", "memory": "/"}
    with contextlib.suppress(OSError, ValueError):
        for line in _OWN.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            paths |= {name: path for name in controllers.split(",") if name in paths}
    for controller, root, names in (("", _GROUPS, _V2), ("memory", _GROUPS / "memory", _V1)):
        own = PurePosixPath(paths[controller].lstrip("/"))
        for part in () if ".." in own.parts else (own, *own.parents):
            yield root / part, names
        yield root, names


def available_on_device() -> int:
    """Bytes that are free on each device of this process, on that with the fewest; CPUs share those of the host."""
    devices = jax.local_devices()
    stats = [device.memory_stats() for device in devices]
    known = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats if s and "bytes_limit" in s]
    return min(known) if len(known) == len(devices) else available_on_host() // len(devices)


def in_words(count: float) -> str:
    """'1.23 GB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
