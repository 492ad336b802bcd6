"""How much memory there is, before it is taken."""

import contextlib
from pathlib import Path

import jax
import psutil

_CONTAINER = Path("/sys/fs/cgroup")  # where Linux tells a container its limits


def available_on_host() -> int:
    """Bytes that a process can still take of the machine, or of the container that it is in."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        allowed = int((_CONTAINER / "memory.max").read_text(encoding="ascii"))
        used = int((_CONTAINER / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text(encoding="ascii").splitlines())
        free = min(free, allowed - used + int(stat["inactive_file"]))  # a cache of files makes room
    return max(free, 0)


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
