"""One JSON file a finished cell: written once, read by the renderer."""

import json
import statistics
from pathlib import Path
from typing import Any

import jax

from experiments.tables import Cell
from lipjax.certified_split import certify_run
from lipjax.config import older_config, read_config
from lipjax.training import METRICS_FILE, train
from lipjax.whole_file import write_whole

FORMAT = 1


class ResultError(RuntimeError):
    """A results file that cannot be used; names it."""


def path_of(cell: Cell, results: Path) -> Path:
    """results/SCALE/NAME.json."""
    return results / cell.scale / f"{cell.name}.json"


def read(cell: Cell, results: Path) -> dict[str, Any] | None:
    """The cell's result, None if it has not been run.

    Raises:
      ResultError: not a results file of this format, or of another config.
    """
    path = path_of(cell, results)
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise ResultError(f"{path}: not JSON ({error}); remove it to run the cell again") from error
    found = result.get("format") if isinstance(result, dict) else result
    if found != FORMAT:
        raise ResultError(f"{path}: needs format {FORMAT}, got {found!r}")
    there, expected = older_config(result.get("config", {})), _published(cell.config())
    differing = sorted(key for key in expected if there.get(key) != expected[key])
    if differing:
        key = differing[0]
        raise ResultError(
            f"{path}: of another config: {key} is {there.get(key)!r}, the table asks for {expected[key]!r}"
        )
    return result


def run(cell: Cell, runs: Path, results: Path, data_dir: str | None) -> dict[str, Any]:
    """Train and certify a cell, from where it was stopped, and write its result.

    Raises:
      As `lipjax.training.train` and `lipjax.certified_split.certify_run`.
    """
    workdir = runs / cell.scale / cell.name
    train(cell.config(data_dir), workdir)
    summary = certify_run(workdir)
    epochs = [json.loads(line)["seconds"] for line in (workdir / METRICS_FILE).read_text().splitlines()]
    kept = ("num_examples", "standard_accuracy", "certified_accuracy", "average_certified_radius", "lipschitz_bound")
    result = {
        "format": FORMAT,
        "cell": cell.name,
        "scale": cell.scale,
        "config": _published(read_config(workdir)),
        "summary": {key: summary[key] for key in (*kept, "exact_fraction", "params_sha256")},
        "median_epoch_seconds": statistics.median(epochs),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }
    path = path_of(cell, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(result, indent=1) + "\n")
    return result


def _published(config) -> dict[str, Any]:
    """The config as JSON gives it back, without where the data was on the machine."""
    return {key: value for key, value in json.loads(config.to_json()).items() if key != "data_dir"}
