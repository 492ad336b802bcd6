"""Certification of a whole split: measures of every image, the summary, the table and the page."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lipjax.checkpoint import sha256
from lipjax.config import parse_radii
from lipjax.data import Dataset, Split
from lipjax.evaluation import report
from lipjax.evaluation.attack import Attack, check_remembered
from lipjax.evaluation.float32 import Float32
from lipjax.evaluation.html_report import write_html_report
from lipjax.evaluation.measure import Measure, Rows, measured
from lipjax.evaluation.paper_protocol import PaperProtocol
from lipjax.evaluation.precision import Precision
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.summary_table import table
from lipjax.models import Proven
from lipjax.models.pgd import DOMAINS, STRENGTHS
from lipjax.models.program import BATCH_SIZE, PRECISIONS
from lipjax.system.files import atomic_write
from lipjax.workdir import Trained, load_trained

SPLITS = ("test", "train", "validation")
ATTACKS = ("none", *STRENGTHS)
FILES = ("per_image", "attack", "precision", "float32", "paper_protocol")  # .csv


def certify_run(
    workdir: str | os.PathLike,
    data_dir: str | None = None,
    num_examples: int | None = None,
    radii: str | None = None,
    say: Callable[[str], None] = print,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
    attack: str = "none",
    attack_domain: str = "images",
    float_slack: float = 0.0,
    precisions: bool = False,
    paper_protocol: bool = False,
    trust_code: bool = True,
    precision: str = "float64",
    folder: Path | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Certify a split of a trained workdir; writes certificates/{report.html, summary.json, per_image.csv, curve.png}.

    One that was stopped goes on where it was, to the same bytes; earlier results stay until the new ones are whole.
    Returns the summary: standard_accuracy, certified_accuracy by radius as typed, lipschitz_bound, …

    Args:
      data_dir, radii: where the data is; l2, pixels in [0, 1], such as '36/255,0.5'; None: as in the config.
      num_examples, say: certify only the first so many images, None: all; takes lines of progress and the table.
      split, batch_size, attack, attack_domain: one of SPLITS; images at a time; one of ATTACKS; one of `pgd.DOMAINS`.
      float_slack, precisions, paper_protocol, precision: see `Radius`, `Precision`, `PaperProtocol`, `Float32`.
      trust_code: False refuses a workdir whose network is made by a Python file (`workdir.load_trained`).
      folder, dataset: where to write, None: in the workdir; the dataset that the training was given, where it was.

    Raises:
      ValueError, FileNotFoundError, CheckpointError: bad arguments, an empty split, no training there.
      CertificateViolated: an attack succeeded inside a certified radius.
    """
    _check_arguments(num_examples, batch_size, float_slack, split, attack, attack_domain, radii, precision)
    workdir, trained = Path(workdir), load_trained(workdir, data_dir, trust_code)
    dataset = trained.dataset(say=say, given=dataset)
    named_radii = parse_radii(trained.config.run.radii if radii is None else radii)
    whole = images_of(dataset, split, trained.config)
    images = Split(*(part[:num_examples] for part in whole))
    started = time.perf_counter()
    say("proving a bound of the Lipschitz constant …")
    proven = trained.prove()
    (folder := folder_of(workdir, split) if folder is None else folder).mkdir(exist_ok=True)
    images_sha256 = sha256(images._asdict())
    network = [sha256(trained.variables), trained.config.to_json(), split, images_sha256, *_program()]
    certification = hashlib.sha256(json.dumps([*network, float_slack]).encode()).hexdigest()
    check_remembered(folder_of(workdir, split), certification, forget=folder == folder_of(workdir, split))
    asked = {"attack": attack != "none", "float32": precision == "float32", "precision": precisions}
    asked["paper_protocol"] = paper_protocol
    of_attack = (list(named_radii.values()), attack, folder, certification, attack_domain, dataset.border)
    others = _others(asked, trained, proven, of_attack)
    about = (images, dataset.pixel_max, folder, network, batch_size, say)
    rows = _measured(Radius(proven, float_slack), others, lambda m, **known: measured(m, *about, **known))
    summary = {"dataset": trained.data.name, "split": split, "num_examples": len(images.labels)}
    summary["images_in_split"] = len(whole.labels)
    summary |= _summarised(rows, named_radii) | {"float_slack": float_slack, "seconds": time.perf_counter() - started}
    summary |= _about(trained, proven, images_sha256, rows["per_image"][1])
    _write(folder, summary, {name: found for name, (_, found) in rows.items()}, images, dataset.pixel_max)
    say(f"{table(summary)}\nwrote {folder}/report.html, summary.json, per_image.csv and curve.png")
    return summary


def _others(asked, trained: Trained, proven: Proven, attack: tuple) -> list[Measure]:
    """The measures that are asked for, by name, beside the certified radius; `attack`: what `Attack` is made with."""
    makers: dict[str, Callable[[], Measure]] = {
        "attack": lambda: Attack(proven, *attack),
        "float32": lambda: Float32(proven, trained.prove("float32")),
        "precision": lambda: Precision(proven),
        "paper_protocol": lambda: PaperProtocol(proven, trained.model.nominal_bound()),
    }
    return [make() for name, make in makers.items() if asked[name]]


def _program() -> list[str]:
    """What the results of an image depend on beside network and images, to the last bit."""
    return [jax.default_backend(), jax.__version__, metadata.version("lipjax")]


def _summarised(rows: Mapping[str, tuple[Measure, Rows]], radii: Mapping[str, float]) -> dict[str, Any]:
    """What each measure says of all images; None of those that were not taken."""
    missing = dict.fromkeys(("attack", "precision", "float32", "paper_protocol_not_a_proof"))
    return missing | {k: v for measure, found in rows.values() for k, v in measure.summary(found.found, radii).items()}


def _about(trained: Trained, proven: Proven, images_sha256: str, rows: Rows) -> dict[str, Any]:
    """What the numbers of a summary are of: the proof, and digests of all that they come from."""
    return {
        "class_names": list(trained.data.class_names),
        "lipschitz_bound": proven.lipschitz_bound,
        "rounding": {"precision": proven.precision, "error_bound": proven.rounding, "unknown": proven.unproven},
        "chain_of_proof": chain_of_proof(proven),
        "params_sha256": sha256(trained.variables["params"]),
        "images_sha256": images_sha256,
        "per_image_sha256": hashlib.sha256(rows.text().encode()).hexdigest(),
        "lipjax": metadata.version("lipjax"),
    }


def _measured(radius: Radius, others: list[Measure], run: Callable[..., Rows]) -> dict[str, tuple[Measure, Rows]]:
    """{name: (measure, its rows)}, the certified radius first: an attack asks for it."""
    first = run(radius)
    found: dict[str, tuple[Measure, Rows]] = {radius.name: (radius, first)}
    return found | {other.name: (other, run(other, radius=first.found["radius"])) for other in others}


def folder_of(workdir: Path, split: str) -> Path:
    """Where the certificates of a split are."""
    return workdir / ("certificates" if split == "test" else f"certificates_{split}")


def _check_arguments(num_examples, batch_size, float_slack, split, attack, domain, radii, precision) -> None:
    if radii is not None:
        parse_radii(radii)
    for name, value in {"num_examples": num_examples, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if not 0 <= float_slack < np.inf:
        raise ValueError(f"float_slack={float_slack!r}: must be a finite number >= 0")
    given = (("split", split, SPLITS), ("attack", attack, ATTACKS), ("precision", precision, PRECISIONS))
    for name, choice, allowed in (*given, ("attack_domain", domain, DOMAINS)):
        if choice not in allowed:
            raise ValueError(f"{name}={choice!r}: must be one of {allowed}")


def images_of(dataset: Dataset, split: str, config: ConfigDict) -> Split:
    """The images of a split; ValueError where none were held out."""
    if split == "test":
        return dataset.test
    fraction = config.data.validation_fraction
    training, validation = dataset.hold_out(fraction, config.run.seed)
    chosen = training if split == "train" else validation
    if not len(chosen.labels):
        raise ValueError(
            f"split={split!r}: has no images; config.data.validation_fraction={fraction} of the training images were "
            "held out"
        )
    return chosen


def _write(folder: Path, summary: Mapping[str, Any], rows: Mapping[str, Rows], images: Split, pixel_max: int) -> None:
    """All files; those of an earlier certification stay until these are whole."""
    certified = rows["per_image"].found
    closest = rows["attack"].found["distance"] if "attack" in rows else None
    right = certified["prediction"] == certified["label"]
    title = f"{summary['dataset']}, {summary['split']} split"
    report.plot_certified_accuracy(folder / "curve.tmp", certified["radius"], right, closest, title)
    (folder / "curve.tmp").replace(folder / "curve.png")
    for name in FILES:
        if name in rows:
            rows[name].write()
        else:  # that of an earlier certification may be of other parameters
            (folder / f"{name}.csv").unlink(missing_ok=True)
    page = folder / "report.html"
    write_html_report(page, summary, table(summary), certified, closest, images.images, pixel_max)
    atomic_write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    for on_disk in rows.values():
        on_disk.remove()


def chain_of_proof(proven: Proven) -> list[dict[str, Any]]:
    """A link for each layer from pixels to features, and the head, whose distances take the place of a bound."""
    links = [
        {
            **{
                "layer": name,
                "kind": proof.kind,
                "lipschitz": proof.lipschitz,
                "method": proof.why,
                "norm": proof.norm,
            },
            "rounding": None if proof.rounding is None else list(proof.rounding),
        }
        for name, proof in proven.proof.links()
    ]
    head = {"layer": "head", "kind": proven.head.kind, "lipschitz": None, "method": proven.head.why}
    head |= {"norm": None, "rounding": None}
    return [*links, head]
