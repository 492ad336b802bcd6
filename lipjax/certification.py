"""From images to certified radii, and the table and files of a whole test split."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lipjax import report
from lipjax.certificates import Certificate, certify_crc, certify_lln
from lipjax.checkpoint import Checkpoints, sha256
from lipjax.config import build_model, parse_radii, read_config
from lipjax.curvature_cache import CurvatureCache
from lipjax.data import Dataset, Split, load
from lipjax.models import LipConvnet
from lipjax.proof import product
from lipjax.recipe import TrainState, initial_state, make_optimizer
from lipjax.rows import PartialRows, Row, write_whole

BATCH_SIZE = 500
SPLITS = ("test", "train", "validation")
PROGRESS_SECONDS = 10.0


def certify(model: LipConvnet, variables: Mapping[str, Any], images, labels) -> Certificate:
    """Certified radii of images: no l2 change of the pixels smaller than `radius` changes the prediction.

    radius = (head's certificate at the features g(x)) / Lip(g) with `model.lipschitz_bound(variables)`, the paper's
    Proposition 1.  Features are computed at full float32 precision (float64 if the images are float64 under
    `jax.enable_x64`), the head and the radii in float64.

    Args:
      model, variables: a `LipConvnet` and its {'params': …, 'spectral': …}.
      images: (N, H, W, C) float32 or float64 in [0, 1].
      labels: (N,) integers.

    Returns:
      A `Certificate` in input space.  `exact` and `upper` are those of the head: upper is the largest radius that any
      certificate through this Lipschitz bound could give.

    Raises:
      ValueError: images outside [0, 1], not finite, of another shape or in half precision; labels out of range.
    """
    return certify_with_bound(model, variables, images, labels, model.lipschitz_bound(variables))


def certify_with_bound(model, variables, images, labels, lipschitz_bound: float, curvature=None) -> Certificate:
    """`certify` with a bound of Lip(g), and curvature bounds of a CRC head, that are already known."""
    images = np.asarray(images)
    if images.dtype.name not in ("float32", "float64"):
        raise ValueError(f"images: dtype must be float32 or float64 in [0, 1], got {images.dtype}")
    if not (np.isfinite(images).all() and images.min(initial=0.0) >= 0 and images.max(initial=1.0) <= 1):
        raise ValueError(f"images: pixels must lie in [0, 1], got {images.min()} to {images.max()}")
    features = penultimate_features(model, variables, images)
    return certify_features(model, variables, features, labels, lipschitz_bound, curvature)


def penultimate_features(model: LipConvnet, variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    """g(x) for images (N, H, W, C), batch by batch, every product at full precision (no TF32, no bf16)."""
    if jax.config.read("jax_enable_x64"):
        images = images.astype(np.result_type(images, *jax.tree.leaves(variables["params"])))
    size = min(BATCH_SIZE, max(len(images), 1))
    batches = [images[start : start + size] for start in range(0, max(len(images), 1), size)]
    padded = [np.concatenate([b, np.zeros((size - len(b), *b.shape[1:]), b.dtype)]) for b in batches]
    with jax.default_matmul_precision("highest"):
        features = [np.asarray(_features(model, variables, jnp.asarray(b))) for b in padded]
    return np.concatenate(features)[: len(images)]


@jax.jit(static_argnums=0)
def _features(model, variables, images):
    return model.apply(variables, images, method="features")


def certify_features(model, variables, features, labels, lipschitz_bound: float, curvature=None) -> Certificate:
    """The head's certificates at the features, divided by the bound of Lip(g)."""
    head = variables["params"]["head"]
    if model.head == "crc":
        feature_space = certify_crc(features, head, labels, curvature=curvature)
    else:
        feature_space = certify_lln(features, head["weight"], head["bias"], labels)
    # One rounding of the division, downwards, keeps the quotient a lower bound.
    radius = feature_space.radius / lipschitz_bound
    radius = np.where((radius > 0) & (radius < np.inf), np.nextafter(radius, 0), radius)
    return dataclasses.replace(feature_space, radius=radius, upper=feature_space.upper / lipschitz_bound)


def certified_accuracy(certificate: Certificate, radius: float) -> float:
    """Fraction of inputs that are predicted right with a certified radius strictly above `radius`."""
    return float(np.mean(certificate.radius > radius))


def load_trained(workdir: str | os.PathLike, data_dir: str | None = None):
    """(config, dataset, model, variables) of a workdir, from its best checkpoint if there is one, else its last.

    Held norms are tightened (`LipConvnet.tightened`), so that every layer is 1-Lipschitz by proof.

    Reads config.json and the checkpoint only: no Python config is executed and nothing is unpickled.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    if data_dir is not None:
        config.data_dir = data_dir
    checkpoints = Checkpoints(workdir)
    kind = "best" if checkpoints.has("best") else "last"
    checkpoints.metadata(kind)  # fails first where there is none, before any data is read
    dataset = load(config.dataset, config.data_dir)
    model = build_model(config, dataset.image_shape, dataset.num_classes)
    template = jax.eval_shape(lambda: initial_state(model, make_optimizer(config, 1), config.seed))
    state: TrainState = checkpoints.restore(kind, template)[0]
    return config, dataset, model, model.tightened({"params": state.params, "spectral": state.spectral})


def certify_run(
    workdir: Path,
    data_dir: str | None = None,
    num_examples: int | None = None,
    radii: str | None = None,
    say: Callable[[str], None] = print,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Certify a split of a trained workdir; writes certificates/{summary.json, per_image.csv, curve.png}.

    Rows go to per_image.partial.csv batch by batch.  A certification that was stopped goes on from there, to the same
    bytes; results of an earlier one stay until the new ones are whole.

    Args:
      split: 'test'; 'validation', the held-out training images; or 'train', the others.  The folder of a split other
        than 'test' is certificates_SPLIT.
      batch_size: images at a time.

    Returns:
      The summary: standard_accuracy, certified_accuracy by radius as typed, lipschitz_bound, chain_of_proof, …

    Raises:
      ValueError, FileNotFoundError, CheckpointError: bad arguments, an empty split, no training there, a damaged
        checkpoint.
    """
    for name, value in {"num_examples": num_examples, "batch_size": batch_size}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: must be one of {SPLITS}")
    named_radii = parse_radii(radii) if radii is not None else None
    config, dataset, model, variables = load_trained(workdir, data_dir)
    named_radii = named_radii or parse_radii(config.radii)
    images, labels = (part[:num_examples] for part in _split(dataset, split, config))
    if not len(labels):
        raise ValueError(
            f"split={split!r}: has no images; config.validation_fraction={config.validation_fraction} of the training "
            "images were held out"
        )
    started = time.perf_counter()
    say("proving a bound of the Lipschitz constant …")
    chain = model.chain_of_proof(variables)
    lipschitz_bound = product(chain)
    curvature = None
    if model.head == "crc":
        head = variables["params"]["head"]
        curvature = CurvatureCache(workdir / "checkpoints" / "curvature.npz", head["w1"], head["w2"])

    folder = workdir / ("certificates" if split == "test" else f"certificates_{split}")
    folder.mkdir(exist_ok=True)
    params_sha256 = sha256(variables["params"])
    # What the radius of an image depends on, beside its number in the split.
    key = json.dumps([config.dataset, split, params_sha256, lipschitz_bound, batch_size])
    partial = PartialRows(folder / "per_image.partial.csv", key, batch_size)
    del partial.rows[len(labels) :]
    first = len(partial.rows)
    if first:
        say(f"going on after {first} images")
    progress = Progress(say, first, len(labels))
    for start in range(first, len(labels), batch_size):
        batch = images[start : start + batch_size].astype(np.float32) / np.float32(dataset.pixel_max)
        own = labels[start : start + batch_size]
        partial.append(rows(start, certify_with_bound(model, variables, batch, own, lipschitz_bound, curvature), own))
        progress(len(partial.rows))

    radius = np.array([row.radius for row in partial.rows])
    right = np.array([row.prediction == row.label for row in partial.rows])
    exact = np.array([row.exact for row in partial.rows])
    summary = {
        "dataset": config.dataset,
        "split": split,
        "num_examples": len(labels),
        "standard_accuracy": float(np.mean(right)),
        "certified_accuracy": {text: float(np.mean(radius > r)) for text, r in named_radii.items()},
        "average_certified_radius": _finite_or_none(radius.mean()),
        "lipschitz_bound": lipschitz_bound,
        "chain_of_proof": [*(link._asdict() for link in chain), _head_link(model)],
        "exact_fraction": float(exact[right].mean()) if right.any() else None,
        "seconds": time.perf_counter() - started,
        "params_sha256": params_sha256,
    }
    report.plot_certified_accuracy(folder / "curve.png", radius, right, title=f"{config.dataset}, {split} split")
    write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    partial.finish(folder / "per_image.csv")
    say(table(summary))
    say(f"wrote {folder}/summary.json, per_image.csv and curve.png")
    return summary


def _split(dataset: Dataset, split: str, config: ConfigDict) -> Split:
    if split == "test":
        return dataset.test
    return dataset.hold_out(config.validation_fraction, config.seed)[SPLITS.index(split) - 1]


def _head_link(model: LipConvnet) -> dict[str, Any]:
    """The last link: distances to the head's decision boundaries take the place of a Lipschitz bound."""
    if model.head == "crc":
        kind, method = "curvature head", "weak duality with a proven curvature bound, all rivals (docs/crc.md)"
    else:
        kind, method = "last-layer normalization", "distance to each rival's hyperplane, all rivals, closed form"
    return {"layer": "head", "kind": kind, "lipschitz": None, "method": method, "norm": None}


def rows(start: int, certificate: Certificate, labels: np.ndarray) -> list[Row]:
    """Rows of a batch of images whose first one has the index `start`."""
    columns = (labels, certificate.prediction, certificate.rival, certificate.radius, certificate.exact)
    return [
        Row(start + i, int(label), int(prediction), int(rival), float(radius), int(exact))
        for i, (label, prediction, rival, radius, exact) in enumerate(zip(*columns, strict=True))
    ]


class Progress:
    """A line every ten seconds: images done, images/s and time left."""

    def __init__(self, say: Callable[[str], None], first: int, total: int):
        self._say, self._first, self._total = say, first, total
        self._started = self._last = time.perf_counter()

    def __call__(self, done: int) -> None:
        now = time.perf_counter()
        if now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        rate = (done - self._first) / (now - self._started)
        left = (self._total - done) / rate
        self._say(f"{done}/{self._total} images  {rate:.0f} images/s  {left:.0f} s left")


def _finite_or_none(value) -> float | None:
    """JSON has no infinity: an average over a radius without end has no value."""
    return float(value) if np.isfinite(value) else None


def _shown(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def table(summary: Mapping[str, Any]) -> str:
    """The summary as printed by certify.py."""
    certified = summary["certified_accuracy"].items()
    rows = [("standard accuracy", f"{summary['standard_accuracy']:.2%}")]
    rows += [(f"certified accuracy at {radius}", f"{accuracy:.2%}") for radius, accuracy in certified]
    rows += [
        ("average certified radius", _shown(summary["average_certified_radius"], ".4f")),
        ("proven bound of Lip(features)", f"{summary['lipschitz_bound']:.5f}"),
        ("head certificates that are exact", _shown(summary["exact_fraction"], ".2%")),
    ]
    head = f"{summary['dataset']}, {summary['split']} split, {summary['num_examples']} images"
    head += f" ({summary['seconds']:.1f} s); radii: l2, pixels in [0, 1]"
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {name:<{width}}  {value:>9}" for name, value in rows)])
