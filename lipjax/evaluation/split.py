"""Certification of a whole split: rows on disk as they come, the summary, the table and the curve."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lipjax.certificates.certificate import Certificate
from lipjax.checkpoint import sha256
from lipjax.config import parse_radii
from lipjax.data import Dataset, Split
from lipjax.evaluation import report
from lipjax.evaluation.attack import AttackRow, attack_batch
from lipjax.evaluation.batches import remaining
from lipjax.evaluation.html_report import write_html_report
from lipjax.evaluation.paper_protocol import PaperRow, paper_batch
from lipjax.evaluation.pgd import STRENGTHS
from lipjax.evaluation.precision import PrecisionRow, precision_batch, precision_summary
from lipjax.evaluation.rows import PartialRows
from lipjax.evaluation.summary_table import table
from lipjax.models import Proven, prove
from lipjax.models.proven import BATCH_SIZE
from lipjax.system.files import atomic_write
from lipjax.workdir import load_trained

SPLITS = ("test", "train", "validation")
ATTACKS = ("none", *STRENGTHS)
FILES = ("per_image", "attack", "precision", "paper_protocol")  # .csv


def certify_run(
    workdir: Path,
    data_dir: str | None = None,
    num_examples: int | None = None,
    radii: str | None = None,
    say: Callable[[str], None] = print,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
    attack: str = "none",
    float_slack: float = 0.0,
    precisions: bool = False,
    paper_protocol: bool = False,
    trust_code: bool = True,
) -> dict[str, Any]:
    """Certify a split of a trained workdir; writes certificates/{report.html, summary.json, per_image.csv, curve.png}.

    With an attack also attack.csv: index and distance of the closest misclassified point found (`attacked.AttackRow`).

    Rows go to per_image.partial.csv batch by batch.  A certification that was stopped goes on from there, to the same
    bytes; results of an earlier one stay until the new ones are whole.

    Args:
      data_dir: where the data is; None: as in the config.
      num_examples: certify only the first so many images; None: all.
      radii: l2, pixels in [0, 1], such as '36/255,0.5'; None: those of the config.
      say: takes lines of progress and the table.
      split: 'test'; 'validation', the held-out training images; or 'train', the others.  The folder of a split other
        than 'test' is certificates_SPLIT.
      batch_size: images at a time.
      attack: 'none', or a key of `pgd.STRENGTHS`: each image is attacked at each of the radii and just inside its own.
      float_slack: an error of the features, in l2, that is taken off every certificate (`certification.certify`).
      precisions: also measure how far features and logits are from those in float64, per image to precision.csv.
      paper_protocol: also what the paper's protocol gives, which is no proof, per image to paper_protocol.csv.
      trust_code: False refuses a workdir whose network is made by a Python file (`workdir.load_trained`).

    Returns:
      The summary: standard_accuracy, certified_accuracy by radius as typed, lipschitz_bound, chain_of_proof, …

    Raises:
      ValueError, FileNotFoundError, CheckpointError: bad arguments, an empty split, no training there, a damaged
        checkpoint.
      CertificateViolated: an attack succeeded inside a certified radius.
    """
    for name, value in {"num_examples": num_examples, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= float_slack < np.inf:
        raise ValueError(f"float_slack={float_slack!r}: must be a finite number >= 0")
    for name, choice, allowed in (("split", split, SPLITS), ("attack", attack, ATTACKS)):
        if choice not in allowed:
            raise ValueError(f"{name}={choice!r}: must be one of {allowed}")
    named_radii = parse_radii(radii) if radii is not None else None
    config, dataset, model, variables = load_trained(workdir, data_dir, trust_code)
    named_radii = named_radii or parse_radii(config.run.radii)
    images, labels = (part[:num_examples] for part in _split(dataset, split, config))
    if not len(labels):
        raise ValueError(
            f"split={split!r}: has no images; config.data.validation_fraction={config.data.validation_fraction} of the "
            "training images were held out"
        )
    started = time.perf_counter()
    say("proving a bound of the Lipschitz constant …")
    proven = prove(model, variables, curvature_file=workdir / "checkpoints" / "curvature.npz")
    lipschitz_bound = proven.lipschitz_bound

    folder = workdir / ("certificates" if split == "test" else f"certificates_{split}")
    folder.mkdir(exist_ok=True)
    params_sha256 = sha256(variables["params"])
    # What the results of an image depend on, beside its number in the split, to the last bit.
    program = [jax.default_backend(), jax.__version__]
    network = [sha256(variables), config.to_json(), split, len(labels), batch_size, *program]
    key = [*network, lipschitz_bound, float_slack]

    def batch(start: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(start, start + batch_size)
        return images[part].astype(np.float32) / np.float32(dataset.pixel_max), labels[part]

    files: dict[str, PartialRows] = {}

    def measure(name: str, row: type, key: list, done: str, of_batch: Callable[..., list]) -> list:
        """The rows of NAME.csv: those on disk, and those of the batches that are missing."""
        files[name] = PartialRows(folder / f"{name}.partial.csv", json.dumps(key), batch_size, row)
        for start in remaining(files[name], len(labels), batch_size, say, done):
            files[name].append(of_batch(start, *batch(start)))
        return files[name].rows

    def certified_rows(start, pixels, own):
        return rows(start, proven.certify(pixels, own, float_slack=float_slack), own)

    certified = measure("per_image", Row, key, "certified", certified_rows)
    radius = np.array([row.radius for row in certified])
    right = np.array([row.prediction == row.label for row in certified])
    exact = np.array([row.exact for row in certified])
    closest = None
    if attack != "none":
        distances = list(named_radii.values())

        def attacked_rows(start, pixels, own):
            inside = radius[start : start + batch_size]
            return attack_batch(model, variables, pixels, own, inside, distances, attack, start, folder)

        attacked = measure("attack", AttackRow, [*key, attack, distances], "attacked", attacked_rows)
        closest = np.array([row.distance for row in attacked])
    precision = paper = None
    if precisions:

        def precision_rows(start, pixels, own):
            return precision_batch(model, variables, pixels, start)

        precision = precision_summary(measure("precision", PrecisionRow, network, "compared", precision_rows))
    if paper_protocol:

        def paper_rows(start, pixels, own):
            return paper_batch(proven, model.nominal_bound(), pixels, own, start)

        papers = measure("paper_protocol", PaperRow, network, "done by the paper's protocol", paper_rows)
        paper = {text: float(np.mean([row.radius > r for row in papers])) for text, r in named_radii.items()}

    summary = {
        "dataset": config.data.name,
        "split": split,
        "num_examples": len(labels),
        "standard_accuracy": float(np.mean(right)),
        "certified_accuracy": {text: float(np.mean(radius > r)) for text, r in named_radii.items()},
        "average_certified_radius": _finite_or_none(radius.mean()),
        "attack": None if closest is None else _attack_summary(attack, closest, radius, named_radii),
        "precision": precision,
        "paper_protocol_not_a_proof": paper,
        "float_slack": float_slack,
        "lipschitz_bound": lipschitz_bound,
        "chain_of_proof": chain_of_proof(proven),
        "exact_fraction": float(exact[right].mean()) if right.any() else None,
        "seconds": time.perf_counter() - started,
        "params_sha256": params_sha256,
    }
    report.plot_certified_accuracy(folder / "curve.tmp", radius, right, closest, f"{config.data.name}, {split} split")
    (folder / "curve.tmp").replace(folder / "curve.png")
    for name in FILES:
        if name in files:
            files[name].write(folder / f"{name}.csv")
        else:  # that of an earlier certification may be of other parameters
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_html_report(folder / "report.html", summary, table(summary), certified, closest, images, dataset.pixel_max)
    atomic_write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    for rows_on_disk in files.values():
        rows_on_disk.remove()
    say(table(summary))
    say(f"wrote {folder}/report.html, summary.json, per_image.csv and curve.png")
    return summary


def _split(dataset: Dataset, split: str, config: ConfigDict) -> Split:
    if split == "test":
        return dataset.test
    training, validation = dataset.hold_out(config.data.validation_fraction, config.run.seed)
    return training if split == "train" else validation


def chain_of_proof(proven: Proven) -> list[dict[str, Any]]:
    """A link for each layer from pixels to features, and the head, whose distances take the place of a bound."""
    links = [
        {"layer": name, "kind": proof.kind, "lipschitz": proof.lipschitz, "method": proof.why, "norm": proof.norm}
        for name, proof in proven.proof.links()
    ]
    head = {"layer": "head", "kind": proven.head.kind, "lipschitz": None, "method": proven.head.why, "norm": None}
    return [*links, head]


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of per_image.csv."""

    index: int
    label: int
    prediction: int
    rival: int
    radius: float
    exact: int


def rows(start: int, certificate: Certificate, labels: np.ndarray) -> list[Row]:
    """Rows of a batch of images whose first one has the index `start`."""
    columns = (labels, certificate.prediction, certificate.rival, certificate.radius, certificate.exact)
    return [
        Row(start + i, int(label), int(prediction), int(rival), float(radius), int(exact))
        for i, (label, prediction, rival, radius, exact) in enumerate(zip(*columns, strict=True))
    ]


def _attack_summary(strength: str, closest: np.ndarray, certified: np.ndarray, radii: Mapping[str, float]):
    """Robust accuracy cannot be above what the attack leaves."""
    steps, starts = STRENGTHS[strength]
    return {
        "strength": strength,
        "steps": steps,
        "starts": starts,
        "robust_accuracy_upper_bound": {text: float(np.mean(closest > r)) for text, r in radii.items()},
        # Those that float64 confirms are an error; these are roundings of the float32 network next to a boundary.
        "inside_certified_radius_in_float32": int(np.sum(closest < certified)),
    }


def _finite_or_none(value) -> float | None:
    """JSON has no infinity: an average over a radius without end has no value."""
    return float(value) if np.isfinite(value) else None
