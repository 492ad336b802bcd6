"""A network of another program: what is proven of it beside what its program claims, and where the two differ."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lipjax.config import Run, default_config, parse_radii
from lipjax.data import DataOptions, Dataset, Description, loaded
from lipjax.evaluation.asked import Asked
from lipjax.evaluation.audit_report import reasons, table
from lipjax.evaluation.split import certify_trained
from lipjax.interop import Claim, Foreign, network_of
from lipjax.interop.witness import gain_found
from lipjax.layers import Sequential
from lipjax.layers.layer import own_of
from lipjax.models import Proven
from lipjax.system.devices import in_float32
from lipjax.system.files import atomic_write
from lipjax.system.lock import FolderLock
from lipjax.workdir import Trained, folder_of


@in_float32
def audit(
    weights: str | os.PathLike,
    like: str,
    dataset: str | Dataset,
    data_dir: str | None = None,
    output: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    **asked: Any,
) -> dict[str, Any]:
    """Certify a network of another program, and compare; writes OUTPUT/certificates/ with audit.json and audit.csv.

    The proven bound of each layer stands beside the constant that the program takes, and beside a gain that was found,
    which no true constant is below; the certified accuracy by the proof beside that by the program's formula with its
    own constant, in float32 as it computes.  Returns what is in audit.json.

    Args:
      weights: a file, see `interop.read_weights`; like: a key of `interop.PROGRAMS`.
      dataset: a name, or a `Dataset`.
      output: a folder; None: that of the file, under its name without the suffix.
      settings: what is in no state dict (docs/interop.md).
      asked: see `Asked`.

    Raises:
      ValueError: see `interop.network_of`; a network of other images or classes than those of the dataset.
      CertificateViolated: an attack succeeded inside a certified radius.
    """
    wanted, path = Asked(**asked), Path(weights).expanduser()
    if wanted.split != "test":
        raise ValueError(f"split={wanted.split!r}: must be 'test', as nothing is known of the training of this network")
    options = DataOptions("given" if isinstance(dataset, Dataset) else dataset, data_dir)
    found = network_of(path, like, settings or {})
    images = dataset if isinstance(dataset, Dataset) else loaded(options, say)
    _check(found, images, path)
    folder = folder_of(path.with_suffix("") if output is None else output)
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder, "auditing.lock", "auditing", say):
        return _audited(wanted, found, like, options, images, folder, path, say)


def _audited(wanted: Asked, found: Foreign, like: str, options, images: Dataset, folder: Path, path: Path, say):
    """The certification and what is said of it."""
    say(f"{path}: a network of {like}, {len(found.claim.layers)} layers")
    trained = _trained(found, like, options, images, folder)
    summary, proven = certify_trained(wanted, trained, images, wanted.folder(folder), say)
    result: dict[str, Any] = {
        "program": like,
        "source": found.claim.source,
        "weights": str(path),
        "dataset": images.name,
    }
    result |= {"num_examples": summary["num_examples"], "lipjax": summary["lipjax"]}
    result |= _layers(found, proven)
    radii = parse_radii(trained.config.run.radii if wanted.radii is None else wanted.radii)
    result |= _certificates(found.claim, result["claimed"], proven, images, radii, wanted.folder(folder), wanted)
    result["reasons"] = reasons(result)
    atomic_write(wanted.folder(folder) / "audit.json", json.dumps(result, indent=2) + "\n")
    say(f"{table(result)}\nwrote {wanted.folder(folder)}/audit.json and audit.csv")
    return result


def _check(found: Foreign, images: Dataset, path: Path) -> None:
    """ValueError unless the network takes these images and has these classes."""
    shape, classes = found.model.shape_of_images(), found.model.num_outputs()
    if shape != images.image_shape:
        raise ValueError(f"{path}: its network takes images {shape}, those of {images.name!r} are {images.image_shape}")
    if classes != images.num_classes:
        raise ValueError(f"{path}: its network has {classes} classes, {images.name!r} has {images.num_classes}")


def _trained(found: Foreign, like: str, options: DataOptions, images: Dataset, folder: Path) -> Trained:
    """The network as one of ours, for what certifies those."""
    config = default_config()
    config.update({"data": dataclasses.asdict(options), "run": dataclasses.asdict(Run())})
    config.model = type(config)({"name": f"{like} (interop)"})
    described = Description.of(images, options, given=True)
    return Trained(folder, config, found.model, found.variables, described, config.run.epochs, found.variables)


def _layers(found: Foreign, proven: Proven) -> dict[str, Any]:
    """For each layer the proven bound, the claim, and the gain that was found; and the products."""
    backbone, own = found.model.backbone, proven.variables
    assert isinstance(backbone, Sequential)
    rows, constants = [], found.claim.constants()
    shapes = backbone.input_shapes(own, proven.image_shape)
    for (name, layer), claimed, constant, size, (_, proof) in zip(
        backbone.layers, found.claim.layers, constants, shapes, proven.proof.parts, strict=True
    ):
        is_plain = constant == 1.0 and proof.lipschitz <= 1.0 and claimed.how == "by construction"
        gain = None if is_plain and not own_of(own, name) else gain_found(layer, own_of(own, name), size)
        row = {"layer": name, "kind": proof.kind, "proven": proof.lipschitz, "claimed": constant}
        rows.append(row | {"found": gain, "how": claimed.how, "method": proof.why})
    return {"layers": rows, "proven": proven.lipschitz_bound, "claimed": float(np.prod(constants))}


def _certificates(
    claim: Claim, lipschitz: float, proven: Proven, dataset: Dataset, radii: Mapping[str, float], folder: Path, wanted
) -> dict[str, Any]:
    """Certified accuracy by both, where they differ, and ties; audit.csv has a line an image."""
    ours = np.genfromtxt(folder / "per_image.csv", delimiter=",", names=True, ndmin=1)
    images = dataset.test.images[: len(ours)]
    classes, theirs, margins = _claimed(claim, lipschitz, proven, images, dataset.pixel_max, wanted.batch_size)
    labels = ours["label"].astype(int)
    right, proven_radius = classes == labels, ours["radius"]
    accuracy: dict[str, Any] = {"standard": {"proven": float(np.mean(ours["prediction"] == labels))}}
    accuracy["standard"]["claimed"] = float(right.mean())
    for text, radius in radii.items():
        by_claim, by_proof = right & claim.certified(theirs, radius), proven_radius > radius
        accuracy[text] = {"proven": float(by_proof.mean()), "claimed": float(by_claim.mean())}
        accuracy[text] |= {"only_claimed": int((by_claim & ~by_proof).sum())}
        accuracy[text] |= {"only_proven": int((by_proof & ~by_claim).sum())}
    smallest = min(radii.values())
    ties = right & (margins == 0) & claim.certified(theirs, smallest)
    result = {"accuracy": accuracy, "formula": claim.formula, "strict": claim.strict, "ties": int(ties.sum())}
    result["refuted"] = _refuted(folder, right, theirs)
    columns = zip(labels.tolist(), classes.tolist(), theirs.tolist(), proven_radius.tolist(), strict=True)
    lines = [",".join(map(repr, (index, *row))) for index, row in enumerate(columns)]
    head = "index,label,claimed_prediction,claimed_radius,proven_radius"
    atomic_write(folder / "audit.csv", "\n".join([head, *lines]) + "\n")
    return result


def _claimed(claim: Claim, lipschitz: float, proven: Proven, images, pixel_max: int, batch: int):
    """(classes, radii, margins) by the program's formula, of its logits in float32."""
    weight = np.float32(proven.variables["params"]["head"]["weight"])
    rows = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    parts = []
    for start in range(0, len(images), batch):
        pixels = images[start : start + batch].astype(np.float32) / np.float32(pixel_max)
        with jax.default_matmul_precision("highest"):
            logits = np.asarray(proven.outputs(pixels, np.float32)[1])
        top = np.sort(logits, axis=1)[:, -2:]
        parts.append((*claim.radii(lipschitz, logits, rows), top[:, 1] - top[:, 0]))
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _refuted(folder: Path, right: np.ndarray, theirs: np.ndarray) -> int | None:
    """How many claimed certificates the attack refutes: a misclassified point nearer than claimed; None: no attack."""
    path = folder / "attack.csv"
    if not path.exists():
        return None
    distance = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)["distance"]
    return int((right & (distance < theirs)).sum())
