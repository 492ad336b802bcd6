"""Attacks on batches of certified images, and the check that none succeeds inside a certified radius."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lipjax.evaluation import pgd
from lipjax.models import Classifier

INSIDE = 1 - 1e-6  # the fraction of its certified radius at which each image is attacked
SLACK = 1e-4  # float32 margins up to this are looked at in float64


@dataclasses.dataclass(frozen=True)
class AttackRow:
    """One image: l2 distance, pixels in [0, 1], of the closest point found that is not classified as the label.

    0 where the image itself is not, inf where none was found.
    """

    index: int
    distance: float


class CertificateViolated(RuntimeError):
    """A point inside a certified radius is not classified as the label: the certificate is wrong."""


def attack_batch(
    model: Classifier,
    variables: Mapping[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    certified: np.ndarray,
    radii: list[float],
    strength: str,
    first: int,
    folder: Path,
) -> list[AttackRow]:
    """Attack images (N, H, W, C), float32, at each of the radii and inside their own certified ones, (N,).

    Args:
      strength: a key of `pgd.STRENGTHS`.
      first: index of the first image in the split; random starts are derived from it.
      folder: where a violation is saved, as violation_INDEX.npz.

    Raises:
      CertificateViolated: the float64 network, too, misclassifies a point that is closer, in float64, than the
        certified radius.
    """
    steps, starts = pgd.STRENGTHS[strength]
    closest = np.full(len(labels), np.inf)
    inside = np.where(np.isfinite(certified), certified * INSIDE, 0.0)
    for number, radius in enumerate([inside, *(np.full(len(labels), radius) for radius in radii)]):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), first), number)
        attack = pgd.l2_attack(model, variables, images, labels, radius, key, steps, starts)
        nearer = pgd.bisected(model, variables, images, labels, attack)
        for found in (attack, nearer):
            _check(model, variables, images, labels, certified, found, first, folder)
        distance = pgd.distance(images, nearer.images)
        closest = np.minimum(closest, np.where(nearer.margins <= 0, distance, np.inf))
    return [AttackRow(first + i, float(distance)) for i, distance in enumerate(closest)]


def _check(model, variables, images, labels, certified, attack, first, folder) -> None:
    distance = pgd.distance(images, attack.images)
    suspects = np.flatnonzero((attack.margins <= SLACK) & (distance < certified))
    if not len(suspects):
        return
    margins = pgd.margins_in_float64(model, variables, attack.images[suspects], labels[suspects])
    for i, margin in zip(suspects, margins, strict=True):
        if margin <= 0:
            path = folder / f"violation_{first + i}.npz"
            np.savez(path, image=images[i], adversarial=attack.images[i], label=labels[i], radius=certified[i])
            raise CertificateViolated(
                f"image {first + i}: certified radius {certified[i]!r}, but at distance {distance[i]!r} the margin of "
                f"label {labels[i]} is {margin!r}; saved as {path}"
            )
