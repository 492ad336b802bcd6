"""The versions that lipjax was tested with, the extra `tested` of pyproject.toml; and what this program is."""

import functools
import hashlib
import logging
import os
import platform
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_TESTED = re.compile(r"""extra\s*==\s*['"]tested['"]""")


def tested() -> dict[str, Requirement]:
    """{package: what the extra `tested` says of it}; empty where lipjax is not installed."""
    try:
        lines = metadata.requires("lipjax") or []
    except metadata.PackageNotFoundError:
        lines = []
    return {found.name: found for found in map(Requirement, filter(_TESTED.search, lines))}


def untested() -> str | None:
    """A line that names each package whose version is beyond those tested; None where there is none."""
    beyond = [
        f"{name} {version} (tested: {requirement.specifier})"
        for name, requirement in tested().items()
        if (version := _version(name)) and not requirement.specifier.contains(version, prereleases=True)
    ]
    return f"lipjax was not tested with {', '.join(beyond)}" if beyond else None


def warn() -> None:
    """Log that line, if there is one."""
    if line := untested():
        logging.getLogger("lipjax").warning(line)


@functools.cache
def program() -> tuple[str, ...]:
    """What numbers depend on beside their inputs, to the last bit: the files of lipjax, packages, the flags of XLA."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py")):
        if not name.startswith("configs/"):  # which say what to train; in a clone they lie elsewhere
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    packages = [f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "numpy", "scipy")]
    return digest.hexdigest(), *packages, os.environ.get("XLA_FLAGS", "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def here() -> str:
    """What is installed, of all that the extra names."""
    found = [f"{name} {_version(name)} ({requirement.specifier} is tested)" for name, requirement in tested().items()]
    return ", ".join([f"Python {platform.python_version()}", *found])
