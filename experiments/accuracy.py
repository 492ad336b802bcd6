"""Standard and certified accuracy of a network that is trained for it."""

import json
import statistics
from pathlib import Path
from typing import Any

from experiments.cells import Cell
from lipjax.evaluation.split import certify_run
from lipjax.training.loop import METRICS_FILE, train

_KEPT = (
    *("num_examples", "standard_accuracy", "certified_accuracy", "average_certified_radius", "lipschitz_bound"),
    *("exact_fraction", "params_sha256"),
)


def measure(cell: Cell, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Train and certify, each from where it was stopped."""
    train(cell.config(data_dir), workdir)
    summary = certify_run(workdir)
    epochs = [json.loads(line)["seconds"] for line in (workdir / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return {
        "summary": {key: summary[key] for key in _KEPT},
        "median_epoch_seconds": statistics.median(epochs),
    }
