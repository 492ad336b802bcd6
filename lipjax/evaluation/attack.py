"""Attacks on certified images, and the check that none succeeds inside a certified radius."""

import io
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np

from lipjax.data.dataset import Border
from lipjax.evaluation.measure import Measure
from lipjax.models import Proven, pgd
from lipjax.system.files import atomic_write

INSIDE = 1 - 1e-6  # the fraction of its certified radius at which each image is attacked
SLACK = 1e-4  # float32 margins up to this are looked at in float64


class CertificateViolated(RuntimeError):
    """A point inside a certified radius is not classified as the label: the certificate is wrong."""


class Attack(Measure):
    """Columns of attack.csv: l2 distance, pixels in [0, 1], of the closest misclassified point that was found, and its
    factor to the certified radius.

    Each image is attacked at each of the radii, within the domain, and inside its own certified radius at any point,
    as that is what certificates are about.  Whichever attack finds it: a point that is closer, in float64, than the
    certified radius, and that the program that certified misclassifies, raises `CertificateViolated`.

    The distance is 0 where the image itself is misclassified, inf where no point of the domain was found; the factor is
    inf where nothing is certified.  The least factor is by how much all radii would have to be enlarged for the attack
    to find one wrong.

    Args:
      radii: l2.
      strength: a key of `pgd.STRENGTHS`.
      folder: where a violation is saved, as violation_INDEX.npz.
      network: the digest of its variables, with which a violation is remembered (`check_remembered`).
      domain, border: see `pgd.limits_of`; robust accuracy is bounded over the points of this domain.
      shown: the images, by index, whose closest misclassified points are kept in `adversarial`, (H, W, C) each.
    """

    name = "attack"
    done = "attacked"
    columns: ClassVar = {"distance": "f8", "factor": "f8"}

    def __init__(
        self,
        proven: Proven,
        radii: list[float],
        strength: str,
        folder: Path,
        network: str = "",
        domain: str = "images",
        border: Border = pgd.NO_BORDER,
        shown: Collection[int] = (),
    ):
        self._proven, self._radii, self._strength, self._folder = proven, radii, strength, folder
        self._network, self._domain, self._border = network, domain, border
        self._limits = pgd.limits_of(domain, proven.image_shape, border)
        self._shown = frozenset(shown)
        self.adversarial: dict[int, np.ndarray] = {}

    def key(self):
        return [self._proven.lipschitz_bound, self._strength, self._radii, self._domain, self._border]

    def batch(self, batch):
        images, labels, certified = batch.images, batch.labels, batch.radius
        steps, starts = pgd.STRENGTHS[self._strength]
        closest = np.full(len(labels), np.inf)
        attacks = [(certified * INSIDE, pgd.limits_of("space", images.shape[1:]))]
        attacks += [(np.full(len(labels), radius), self._limits) for radius in self._radii]
        for number, (radius, limits) in enumerate(attacks):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), batch.start), number)
            batch.stage(f"attack {number + 1} of {len(attacks)}")
            attack = pgd.l2_attack(self._proven, images, labels, radius, key, steps, starts, limits)
            nearer = pgd.bisected(self._proven, images, labels, attack)
            for found in (attack, nearer):
                self._check(batch, found)
            if number:
                distance = np.where(nearer.margins <= 0, pgd.distance(images, nearer.images), np.inf)
                self._keep(batch.start, nearer.images, distance < closest)
                closest = np.minimum(closest, distance)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(certified > 0, closest / certified, np.inf)
        return {"distance": closest, "factor": np.where(np.isnan(factor), np.inf, factor)}

    def summary(self, found, radii):
        steps, starts = pgd.STRENGTHS[self._strength]
        # Robust accuracy cannot be above what the attack leaves.
        upper = {text: float(np.mean(found["distance"] > r)) for text, r in radii.items()}
        least = float(found["factor"].min())
        about = {"strength": self._strength, "steps": steps, "starts": starts, "domain": self._domain}
        about["detection_factor"] = least if np.isfinite(least) else None
        return {"attack": {**about, "robust_accuracy_upper_bound": upper}}

    def _keep(self, start: int, images: np.ndarray, is_closest: np.ndarray) -> None:
        for i in np.flatnonzero(is_closest):
            if start + int(i) in self._shown:
                self.adversarial[start + int(i)] = images[i]

    def _check(self, batch, attack: pgd.Attack) -> None:
        distance = pgd.distance(batch.images, attack.images)
        suspects = np.flatnonzero((attack.margins <= SLACK) & (distance < batch.radius))
        if not len(suspects):
            return
        margins = pgd.margins_of_program(self._proven, attack.images[suspects], batch.labels[suspects])
        for i, margin in zip(suspects, margins, strict=True):
            if margin <= 0:
                index, label, radius = batch.start + i, batch.labels[i], batch.radius[i]
                path = self._folder / f"violation_{index}.npz"
                message = (
                    f"image {index}: certified radius {radius!r}, but at distance {distance[i]!r} the margin of "
                    f"label {label} is {margin!r}; saved as {path}"
                )
                found = {"image": batch.images[i], "adversarial": attack.images[i], "label": label, "radius": radius}
                about = {"index": index, "distance": distance[i], "of": self._network, "message": message}
                content = io.BytesIO()
                np.savez(content, **found, **about)
                atomic_write(path, content.getvalue())
                raise CertificateViolated(message)


def check_remembered(
    folder: Path, proven: Proven, network: str, images: np.ndarray, radius: np.ndarray, forget: bool = True
) -> None:
    """Raise `CertificateViolated` if one of these images is misclassified within its radius where it was before.

    Each point is run again, whatever has changed since; a violation is forgotten only once it was, and where it is of
    other variables.

    Args:
      network: the digest of the variables that are certified, as `Attack` has it.
      images: (N, H, W, C) as they are certified, float32 in [0, 1]; radius: (N,), their certificates.
      forget: remove those of other networks.
    """
    for path in sorted(folder.glob("violation_*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                there = {name: file[name] for name in ("image", "adversarial", "label", "index", "of", "message")}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CertificateViolated(
                f"{path}: a violation that cannot be read ({error}); look at it, and remove it"
            ) from error
        index, point = int(there["index"]), there["adversarial"][None]
        if index < len(images) and np.array_equal(images[index], there["image"]):
            inside = radius[index] > pgd.distance(images[index : index + 1], point)[0]
            if inside and pgd.margins_of_program(proven, point, there["label"][None])[0] <= 0:
                raise CertificateViolated(f"found before, and still so: {there['message']}")
            if forget and str(there["of"]) != network:
                path.unlink()
