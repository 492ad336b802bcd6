"""l2 attacks on images: what an adversary does find, beside what the certificates say he cannot.

An attack proves that an image is not robust at some distance.  That it fails proves nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.system.devices import over_devices

Proven = Any  # `models.Proven`, which has an attack of its own and so stands above

# (steps, starts); the first start is the image itself.
STRENGTHS = {"fast": (10, 1), "strong": (50, 5)}
MOMENTUM = 0.75
BISECTIONS = 10


class Attack(NamedTuple):
    """The images (N, H, W, C) of smallest margin that were found, and those margins f_l − max_{i ≠ l} f_i, (N,)."""

    images: np.ndarray
    margins: np.ndarray


def l2_attack(proven: Proven, images, labels, radius, key: jax.Array, steps: int, starts: int) -> Attack:
    """Projected gradient descent on the margin f_l − max over i ≠ l of f_i within ‖x' − x‖ <= radius.

    Steps have the length radius · 2.5 / steps · (1 − t / steps) along a running mean of unit gradients; the points with
    the smallest margin of all steps and starts are returned.  Pixels may leave [0, 1], as they may for the certificate.

    Args:
      images: (N, H, W, C) float32; labels: (N,) integers.
      radius: (N,), one for each image, l2, pixels in [0, 1]; at 0 nothing moves.
      key: starts but the first, which is the image, are at random points of the sphere.
      steps, starts: such as those of STRENGTHS.
    """
    images, labels, network = over_devices(images), jnp.asarray(labels), (proven, proven.variables)
    radius = jnp.asarray(radius, images.dtype).reshape(-1, 1, 1, 1)
    found = images, jnp.full(len(images), jnp.inf, images.dtype)
    for start in range(starts):
        delta = jnp.zeros_like(images)
        if start:
            delta = radius * _unit(jax.random.normal(jax.random.fold_in(key, start), images.shape, images.dtype))
        velocity = jnp.zeros_like(images)
        for step in range(steps):
            length = 2.5 / steps * (1 - step / steps)
            delta, velocity, found = _step(*network, images, labels, radius, delta, velocity, length, found)
        margins = _margins(*network, images + delta, labels)
        found = _better(images + delta, margins, found)
    return Attack(*map(np.asarray, found))


def bisected(proven: Proven, images, labels, attack: Attack) -> Attack:
    """The attack with each misclassified point moved towards its image, by bisection, as far as it stays that."""
    images, labels, ends = jnp.asarray(images), jnp.asarray(labels), jnp.asarray(attack.images)

    def between(fraction):
        fraction = jnp.asarray(fraction, images.dtype).reshape(-1, 1, 1, 1)
        return jnp.where(fraction == 1, ends, images + fraction * (ends - images))

    def margins(points):
        return np.asarray(_margins(proven, proven.variables, points, labels))

    low, high = np.zeros(len(images)), np.where(margins(images) <= 0, 0.0, 1.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_wrong = margins(between(middle)) <= 0
        low, high = np.where(is_wrong, low, middle), np.where(is_wrong, middle, high)
    reached = between(np.where(margins(ends) <= 0, high, 1.0))
    return Attack(np.asarray(reached), margins(reached))


def distance(images, others) -> np.ndarray:
    """‖x' − x‖, l2, of each pair of images (N, H, W, C), (N,), in float64."""
    difference = np.asarray(others, np.float64) - np.asarray(images, np.float64)
    return np.sqrt((difference**2).sum(axis=(1, 2, 3)))


def margins_of_program(proven: Proven, images, labels) -> np.ndarray:
    """f_l − max_{i ≠ l} f_i, (N,), in the precision in which the network is certified."""
    dtype = np.dtype(proven.precision)
    with jax.enable_x64(dtype == np.float64):
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), proven.variables)
        margins = _margins(proven, own, jnp.asarray(np.asarray(images), dtype), jnp.asarray(labels))
        return np.asarray(margins, np.float64)


@jax.jit(static_argnums=0)
def _margins(proven, variables, images, labels):
    _, logits = proven.apply(variables, images)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    rivals = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0] - rivals


@jax.jit(static_argnums=0)
def _step(proven, variables, images, labels, radius, delta, velocity, length, found):
    def margins_of(delta):
        margins = _margins(proven, variables, images + delta, labels)
        return jnp.sum(margins), margins

    gradient, margins = jax.grad(margins_of, has_aux=True)(delta)
    found = _better(images + delta, margins, found)
    velocity = MOMENTUM * velocity + (1 - MOMENTUM) * _unit(gradient)
    delta = delta - length * radius * _unit(velocity)
    delta = delta * jnp.minimum(1, radius / jnp.maximum(_norm(delta), jnp.finfo(delta.dtype).tiny))
    return delta, velocity, found


def _better(images, margins, found):
    best, smallest = found
    nearer = margins < smallest
    return jnp.where(nearer[:, None, None, None], images, best), jnp.minimum(margins, smallest)


def _norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3), keepdims=True))


def _unit(x):
    return x / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny)
