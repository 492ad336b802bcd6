"""Attacks on certified images, and the check that none succeeds inside a certified radius."""

from pathlib import Path
from typing import ClassVar

import jax
import numpy as np

from lipjax.evaluation import pgd
from lipjax.evaluation.measure import Measure
from lipjax.models import Proven

INSIDE = 1 - 1e-6  # the fraction of its certified radius at which each image is attacked
SLACK = 1e-4  # float32 margins up to this are looked at in float64


class CertificateViolated(RuntimeError):
    """A point inside a certified radius is not classified as the label: the certificate is wrong."""


class Attack(Measure):
    """The column of attack.csv: l2 distance, pixels in [0, 1], of the closest misclassified point that was found.

    0 where the image itself is misclassified, inf where none was found.  Each image is attacked at each of the radii
    and inside its own certified one.  A point that is closer, in float64, than the certified radius, and that the
    float64 network misclassifies too, raises `CertificateViolated`.

    Args:
      radii: l2.
      strength: a key of `pgd.STRENGTHS`.
      folder: where a violation is saved, as violation_INDEX.npz.
    """

    name = "attack"
    done = "attacked"
    columns: ClassVar = {"distance": "f8"}

    def __init__(self, proven: Proven, radii: list[float], strength: str, folder: Path):
        self._proven, self._radii, self._strength, self._folder = proven, radii, strength, folder

    def key(self):
        return [self._proven.lipschitz_bound, self._strength, self._radii]

    def batch(self, batch):
        images, labels, certified = batch.images, batch.labels, batch.radius
        steps, starts = pgd.STRENGTHS[self._strength]
        closest = np.full(len(labels), np.inf)
        inside = np.where(np.isfinite(certified), certified * INSIDE, 0.0)
        for number, radius in enumerate([inside, *(np.full(len(labels), radius) for radius in self._radii)]):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), batch.start), number)
            attack = pgd.l2_attack(self._proven, images, labels, radius, key, steps, starts)
            nearer = pgd.bisected(self._proven, images, labels, attack)
            for found in (attack, nearer):
                self._check(batch, found)
            distance = pgd.distance(images, nearer.images)
            closest = np.minimum(closest, np.where(nearer.margins <= 0, distance, np.inf))
        return {"distance": closest}

    def summary(self, found, radii):
        steps, starts = pgd.STRENGTHS[self._strength]
        # Robust accuracy cannot be above what the attack leaves.
        upper = {text: float(np.mean(found["distance"] > r)) for text, r in radii.items()}
        about = {"strength": self._strength, "steps": steps, "starts": starts}
        return {"attack": {**about, "robust_accuracy_upper_bound": upper}}

    def _check(self, batch, attack: pgd.Attack) -> None:
        distance = pgd.distance(batch.images, attack.images)
        suspects = np.flatnonzero((attack.margins <= SLACK) & (distance < batch.radius))
        if not len(suspects):
            return
        margins = pgd.margins_in_float64(self._proven, attack.images[suspects], batch.labels[suspects])
        for i, margin in zip(suspects, margins, strict=True):
            if margin <= 0:
                index, label, radius = batch.start + i, batch.labels[i], batch.radius[i]
                path = self._folder / f"violation_{index}.npz"
                np.savez(path, image=batch.images[i], adversarial=attack.images[i], label=label, radius=radius)
                raise CertificateViolated(
                    f"image {index}: certified radius {radius!r}, but at distance {distance[i]!r} the margin of "
                    f"label {label} is {margin!r}; saved as {path}"
                )
