"""Certification of a whole split: measures of every image, the summary, the table and the page."""

import dataclasses
import datetime
import functools
import hashlib
import io
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
from lipjax.data.larger import at_size
from lipjax.evaluation import report
from lipjax.evaluation.asked import Asked
from lipjax.evaluation.attack import Attack, check_remembered
from lipjax.evaluation.float32 import Float32
from lipjax.evaluation.html_report import Adversarial, Certified, attacked_until, extremes, write_html_report
from lipjax.evaluation.kept import keep, keep_present
from lipjax.evaluation.measure import Measure, Rows, batch_at, measured
from lipjax.evaluation.paper_protocol import PaperProtocol
from lipjax.evaluation.precision import Precision
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.summary_table import table
from lipjax.models import Proven, pgd
from lipjax.system.devices import in_float32
from lipjax.system.files import atomic_write
from lipjax.system.lock import FolderLock
from lipjax.system.versions import program
from lipjax.workdir import Trained, flattened, folder_of, load_trained, training_of

FILES = ("per_image", "attack", "precision", "float32", "paper_protocol")  # .csv


@in_float32
def certify_run(
    workdir: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    say: Callable[[str], None] = print,
    *,
    trust_code: bool = True,
    folder: Path | None = None,
    dataset: Dataset | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """Certify a split of a trained workdir; writes certificates/{report.html, summary.json, per_image.csv, curve.png}.

    One that was stopped goes on where it was, to the same bytes; earlier results stay until the new ones are whole, and
    those of whatever else was asked stay in certificates/kept (`kept.name_of`).  Returns the summary:
    standard_accuracy, certified_accuracy by radius as typed, lipschitz_bound, …

    Args:
      data_dir: where the data is; None: as in the config.
      say: takes lines of progress and the table.
      trust_code: False refuses a workdir whose network is made by a Python file (`workdir.load_trained`).
      folder: where to write; None: certificates, or certificates_SPLIT, in the workdir.
      dataset: the one that the training was given, where it was.
      asked: see `Asked`.

    Raises:
      ValueError, FileNotFoundError, CheckpointError: bad arguments, an empty split, no training there.
      LockedError: another process is certifying there.
      CertificateViolated: an attack succeeded inside a certified radius.
    """
    wanted, workdir = Asked(**asked), folder_of(workdir)
    trained = load_trained(workdir, data_dir, trust_code)
    if trained.epochs < trained.config.run.epochs:
        say(f"the training is not finished: {trained.epochs} of {trained.config.run.epochs} epochs are done")
    say(f"reading {trained.data.name} …")
    name = trained.data.name if dataset is None else dataset.name
    dataset = trained.dataset(say=say, given=dataset)
    whole, own = images_of(dataset, wanted.split, trained.config), wanted.folder(workdir)
    folder = own if folder is None else folder
    folder.mkdir(exist_ok=True)
    with FolderLock(folder, "certifying.lock", "certifying", say):
        return _Certification(wanted, trained, dataset, name, whole, folder, own, say).run()


def certify_trained(
    wanted: Asked, trained: Trained, dataset: Dataset, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], Proven]:
    """`certify_run` of a network and a dataset that are at hand; the summary, and the proof."""
    whole = images_of(dataset, wanted.split, trained.config)
    folder.mkdir(exist_ok=True)
    with FolderLock(folder, "certifying.lock", "certifying", say):
        certification = _Certification(wanted, trained, dataset, dataset.name, whole, folder, folder, say)
        return certification.run(), certification.proven


@dataclasses.dataclass
class _Certification:
    """Of the images of `whole`, a split of the dataset of that name; violations are remembered in the folder `own`."""

    wanted: Asked
    trained: Trained
    dataset: Dataset
    name: str
    whole: Split
    folder: Path
    own: Path
    say: Callable[[str], None]

    @functools.cached_property
    def proven(self) -> Proven:
        """The proof of the network; in a folder of its own, for `verify_run`, of nothing that was computed before."""
        return self.trained.prove(curvature_is_kept=self.folder == self.own)

    def run(self) -> dict[str, Any]:
        """All that is asked, to the files; the summary."""
        wanted, trained, say, started = self.wanted, self.trained, self.say, time.perf_counter()
        radii = parse_radii(trained.config.run.radii if wanted.radii is None else wanted.radii)
        images = Split(*(part[: wanted.num_examples] for part in self.whole))
        images_sha256 = sha256(images._asdict())
        variables_sha256 = sha256(trained.variables)
        say("proving a bound of the Lipschitz constant …")
        proven = self.proven
        network = [variables_sha256, proven.program_sha256, trained.config.to_json(), wanted.split, images_sha256]
        network += [self.dataset.pixel_max, jax.default_backend(), *program()]
        say(f"certifying {len(images.labels)} images …")
        about = (images, self.dataset.pixel_max, self.folder, network, wanted.batch_size, say)
        measure = Radius(proven, wanted.float_slack)
        first = measured(measure, *about)
        shown = [int(i) for end in extremes(first.found) for i in end]
        others = self._others(proven, list(radii.values()), variables_sha256, shown)
        self._check_remembered(variables_sha256, images, first.found["radius"])
        rows: dict[str, tuple[Measure, Rows]] = {measure.name: (measure, first)}
        rows |= {other.name: (other, measured(other, *about, radius=first.found["radius"])) for other in others}
        summary = {"dataset": self.name, "split": wanted.split, "num_examples": len(images.labels)}
        summary |= {"images_in_split": len(self.whole.labels)} | _summarised(rows, radii)
        summary |= {"float_slack": wanted.float_slack, "seconds": time.perf_counter() - started}
        summary |= _about(trained, proven, images_sha256, rows["per_image"][1])
        found = {name: found for name, (_, found) in rows.items()}
        closest = found["attack"].found["distance"] if "attack" in found else None
        page = Certified(summary, first.found, closest, images.images, self.dataset.pixel_max)
        if closest is not None:
            attacks = self._adversarial(rows["attack"][0], proven, images, first.found["radius"], closest, shown)
            page = page._replace(adversarial=attacks)
        config = {key: value for key, value in flattened(trained.config.to_dict()).items() if key != "data.data_dir"}
        page = page._replace(config=config, training=training_of(trained.workdir))
        kept = _write(self.folder, page, found)
        files = "report.html, summary.json, per_image.csv and curve.png"
        say(f"{table(summary)}\nwrote {self.folder}/{files}; they stay in {kept}")
        return summary

    def _check_remembered(self, network: str, images: Split, radius: np.ndarray) -> None:
        pixels = images.images.astype(np.float32) / np.float32(self.dataset.pixel_max)
        check_remembered(self.own, self.proven, network, pixels, radius, forget=self.folder == self.own)

    def _others(self, proven: Proven, radii: list[float], network: str, shown: list[int]) -> list[Measure]:
        """The measures that are asked for beside the certified radius."""
        wanted, trained, border = self.wanted, self.trained, self.dataset.border
        of_attack = (radii, wanted.attack, self.folder, network, wanted.attack_domain, border, shown)
        makers: list[tuple[bool, Callable[[], Measure]]] = [
            (wanted.attack != "none", lambda: Attack(proven, *of_attack)),
            (wanted.precision == "float32", lambda: Float32(proven, trained.prove("float32"), wanted.float_slack)),
            (wanted.precisions, lambda: Precision(proven)),
            (wanted.paper_protocol, lambda: PaperProtocol(proven, self._estimated_bound())),
        ]
        return [make() for is_wanted, make in makers if is_wanted]

    def _adversarial(self, attack, proven, images: Split, radius, closest, shown) -> dict[int, Adversarial]:
        """What the attack found of the images shown; batches that were on disk before are attacked once more."""
        size = self.wanted.batch_size
        wanted = {i for i in shown if np.isfinite(closest[i])}
        for start in sorted({i // size * size for i in wanted - attack.adversarial.keys()}):
            attack.batch(batch_at(start, images, self.dataset.pixel_max, size, radius))
        points = {i: attack.adversarial[i] for i in sorted(wanted & attack.adversarial.keys())}
        if not points:
            return {}
        classes = pgd.classes_of_program(proven, np.stack(list(points.values())))
        return {i: Adversarial(point, int(k)) for (i, point), k in zip(points.items(), classes, strict=True)}

    def _estimated_bound(self) -> float:
        return float(self.trained.model.estimated_bound(self.trained.variables))


def _summarised(rows: Mapping[str, tuple[Measure, Rows]], radii: Mapping[str, float]) -> dict[str, Any]:
    """What each measure says of all images; None of those that were not taken."""
    missing = dict.fromkeys(("attack", "precision", "float32", "paper_protocol_not_a_proof"))
    return missing | {k: v for measure, found in rows.values() for k, v in measure.summary(found.found, radii).items()}


def _about(trained: Trained, proven: Proven, images_sha256: str, rows: Rows) -> dict[str, Any]:
    """What the numbers of a summary are of: the proof, and digests of all that they come from."""
    return {
        "epochs": trained.epochs,
        "class_names": list(trained.data.class_names),
        "lipschitz_bound": proven.lipschitz_bound,
        "rounding": {"precision": proven.precision, "error_bound": proven.rounding, "unknown": proven.unproven},
        "chain_of_proof": chain_of_proof(proven),
        "params_sha256": sha256(trained.variables["params"]),
        "images_sha256": images_sha256,
        "per_image_sha256": hashlib.sha256(rows.text().encode()).hexdigest(),
        "lipjax": metadata.version("lipjax"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


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
    return at_size(dataset, chosen)


def _write(folder: Path, page: Certified, rows: Mapping[str, Rows]) -> Path:
    """All files; those of an earlier certification stay until these are whole.  Where they are kept."""
    keep_present(folder)
    curve = io.BytesIO()
    title = f"{page.summary['dataset']}, {page.summary['split']} split"
    right = page.rows["prediction"] == page.rows["label"]
    until = attacked_until(page.summary)
    report.plot_certified_accuracy(curve, page.rows["radius"], right, page.closest, title, until)
    atomic_write(folder / "curve.png", curve.getvalue())
    for name in FILES:
        if name in rows:
            rows[name].write()
        else:  # that of an earlier certification may be of other parameters
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_html_report(folder / "report.html", page)
    atomic_write(folder / "summary.json", json.dumps(page.summary, indent=2) + "\n")
    names = ["curve.png", "report.html", "summary.json", *(f"{name}.csv" for name in FILES if name in rows)]
    kept = keep(folder, names, page.summary)
    for on_disk in rows.values():
        on_disk.remove()
    return kept


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
