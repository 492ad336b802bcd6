"""One JSON file a finished cell: written once, read by the renderer."""

import json
from pathlib import Path
from typing import Any

import jax

from experiments import accuracy, gradients, held_out, times
from experiments.cells import Cell, published
from lipjax.system.files import atomic_write
from lipjax.workdir import FLAT, sectioned

FORMAT = 1
# The key that each kind of result is about.
_CONTENT = {"accuracy": "summary", "time": "timed", "gradient": "errors", "held_out": "held_out"}


class ResultError(RuntimeError):
    """A results file that cannot be used; names it."""


def path_of(cell: Cell, results: Path) -> Path:
    """results/SCALE/NAME.json."""
    return results / cell.scale / f"{cell.name}.json"


def read(cell: Cell, results: Path) -> dict[str, Any] | None:
    """The cell's result, None if it has not been run.

    Raises:
      ResultError: not a whole results file of this format, or of another config.
    """
    path = path_of(cell, results)
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path}: not JSON ({error}); remove it to run the cell again") from error
    found = result.get("format") if isinstance(result, dict) else result
    if found != FORMAT:
        raise ResultError(f"{path}: needs format {FORMAT}, got {found!r}")
    config = result.get("config", {})
    if not isinstance(config, dict):
        raise ResultError(f"{path}: needs a config, got {config!r}")
    there, expected = _in_sections(path, config), cell.identity()
    differing = sorted(key for key in expected if there.get(key) != expected[key])
    if differing:
        key = differing[0]
        raise ResultError(
            f"{path}: of another config: {key} is {there.get(key)!r}, the table asks for {expected[key]!r}"
        )
    if _CONTENT[cell.kind] not in result:
        raise ResultError(f"{path}: has no {_CONTENT[cell.kind]!r}; remove it to run the cell again")
    return result


def _in_sections(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a results file, in sections or flat as those of lipjax 0.1, with keys that were added since."""
    is_flat, flat = not any("." in key for key in config), dict(config)
    variants = flat.pop("variants", None)
    try:
        there = published(sectioned(flat if is_flat else _nested(flat)))
    except ValueError as error:
        raise ResultError(f"{path}: of another config: {error}") from error
    if variants is None:
        return there
    named = {n: {FLAT[key] if is_flat else key: v for key, v in keys.items()} for n, keys in variants.items()}
    return there | {"variants": named}


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{'section': {'key': value}} of {'section.key': value}."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, key = path.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = value
    return nested


def run(cell: Cell, runs: Path, results: Path, data_dir: str | None) -> dict[str, Any]:
    """Run a cell, from where it was stopped, and write its result.

    Raises:
      As `lipjax.training.loop.train` and `lipjax.evaluation.split.certify_run`.
    """
    workdir = runs / cell.scale / cell.name
    if cell.kind == "time":
        content = times.measure(cell)
    elif cell.kind == "gradient":
        content = gradients.measure(cell, workdir, data_dir)
    elif cell.kind == "held_out":
        content = held_out.measure(cell, workdir, data_dir)
    else:
        content = accuracy.measure(cell, workdir, data_dir)
    result = {
        "format": FORMAT,
        "cell": cell.name,
        "scale": cell.scale,
        "config": cell.identity(),
        **content,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }
    path = path_of(cell, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(result, indent=1) + "\n")
    return result
