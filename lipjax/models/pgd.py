"""l2 attacks on images: what an adversary does find, beside what the certificates say he cannot.

An attack proves that an image is not robust at some distance.  That it fails proves nothing.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.certificates.certificate import checked_labels
from lipjax.models.program import checked_images
from lipjax.ops.arithmetic import arithmetic
from lipjax.system.devices import over_devices

Proven = Any  # `models.Proven`, which has an attack of its own and so stands above

# (steps, starts); the first start is the image itself.
STRENGTHS = {"fast": (10, 1), "strong": (50, 5)}
# images: pixels in [0, 1], and 0 in the border that surrounds an image; space: all points, as certificates are about.
DOMAINS = ("images", "space")
NO_BORDER = ((0, 0), (0, 0))
MOMENTUM = 0.75
BISECTIONS = 10
PROJECTIONS = 8  # after as many the pixels that are clipped are known, but for a few


class Attack(NamedTuple):
    """The images (N, H, W, C) of smallest margin that were found, and those margins f_l − max_{i ≠ l} f_i, (N,)."""

    images: np.ndarray
    margins: np.ndarray


class Limits(NamedTuple):
    """The least and the largest value that a pixel may take, (H, W, 1) each: what an attack may reach is a box."""

    low: np.ndarray
    high: np.ndarray


def limits_of(domain: str, image_shape: tuple[int, ...], border=NO_BORDER) -> Limits:
    """The box of one of DOMAINS.

    Args:
      border: ((top, bottom), (left, right)), what surrounds the images (H, W, C) and is no part of them, in pixels.

    Raises:
      ValueError: another domain, a border that leaves no image.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain={domain!r}: must be one of {DOMAINS}")
    inner = [size - sum(sides) for size, sides in zip(image_shape[:2], border, strict=True)]
    if min(inner) < 1 or min(map(min, border)) < 0:
        raise ValueError(f"border={border!r}: must be ((top, bottom), (left, right)) inside {image_shape[:2]} pixels")
    if domain == "space":
        endless = np.full((*image_shape[:2], 1), np.inf, np.float32)
        return Limits(-endless, endless)
    high = np.pad(np.ones((*inner, 1), np.float32), (*border, (0, 0)))
    return Limits(0 * high, high)


def checked_attack(proven: Proven, images, labels, radii, strength, key, domain, border) -> Attack:
    """`Proven.attack`."""
    images = checked_images(images, proven.image_shape).astype(np.float32)
    labels = checked_labels(labels, len(images), proven.num_classes)
    if strength not in STRENGTHS:
        raise ValueError(f"strength={strength!r}: must be one of {tuple(STRENGTHS)}")
    limits, radii = limits_of(domain, proven.image_shape, border), np.asarray(radii, np.float64)
    if not ((limits.low <= images) & (images <= limits.high)).all():
        raise ValueError(f"border={border!r}: the images must be 0 there")
    if radii.shape not in ((), (len(images),)) or not (radii >= 0).all():
        raise ValueError(f"radii: must be a number >= 0 or {len(images)} of them, got {radii}")
    radii, key = np.broadcast_to(radii, len(images)), jax.random.key(0) if key is None else key
    found = l2_attack(proven, images, labels, radii, key, *STRENGTHS[strength], limits)
    return found._replace(margins=margins_of_program(proven, found.images, labels))


def l2_attack(
    proven: Proven, images, labels, radius, key: jax.Array, steps: int, starts: int, limits: Limits
) -> Attack:
    """Projected gradient descent on the margin f_l − max over i ≠ l of f_i within ‖x' − x‖ <= radius and the limits.

    Steps have the length radius · 5 / steps · (1 − t / steps) along a running mean of unit gradients; the points
    with the smallest margin of all steps and starts are returned.  They keep the limits to the last bit, and their
    distance, in float64, is at most the radius.

    Args:
      images: (N, H, W, C) float32 within the limits; labels: (N,) integers.
      radius: (N,), one for each image, l2, pixels in [0, 1]; at 0 nothing moves; above the diagonal of [0, 1]^n, the
        largest distance of two images, that is taken.
      key: starts but the first, which is the image, are at random points of the sphere, projected.
      steps, starts: such as those of STRENGTHS.
    """
    reach = np.minimum(np.asarray(radius, np.float64), math.sqrt(math.prod(images.shape[1:])))
    moved, labels, network = over_devices(images), jnp.asarray(labels), (proven, proven.variables)
    radius = jnp.asarray(reach, moved.dtype).reshape(-1, 1, 1, 1)
    found = moved, jnp.full(len(moved), jnp.inf, moved.dtype)
    for start in range(starts):
        points = moved
        if start:
            direction = _unit(jax.random.normal(jax.random.fold_in(key, start), moved.shape, moved.dtype))
            points = _projected(moved, radius * direction, radius, limits)
        velocity = jnp.zeros_like(moved)
        for step in range(steps):
            length = 5 / steps * (1 - step / steps)
            state = points, velocity, found
            points, velocity, found = _step(*network, moved, labels, radius, length, limits, state)
        found = _better(points, _margins(*network, points, labels), found)
    best, margins = map(np.asarray, found)
    inside = _drawn_in(np.asarray(images), best, reach)
    if inside is not best:
        margins = np.asarray(_margins(*network, over_devices(inside), labels))
    return Attack(inside, margins)


def bisected(proven: Proven, images, labels, attack: Attack) -> Attack:
    """The attack with each misclassified point moved towards its image, by bisection, as far as it stays that.

    Each pixel ends between its value in the image and that in the attack: within the limits and the radius.  Margins
    are those in the program that certifies; a point that only float32 misclassifies is not moved.
    """
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
    is_wrong = margins(ends) <= 0
    reached = between(np.where(is_wrong, high, 1.0))
    own = margins_of_program(proven, reached, labels)
    if (is_wrong & (own > 0)).any():
        reached = between(np.where(is_wrong & (own <= 0), high, 1.0))
        own = margins_of_program(proven, reached, labels)
    return Attack(np.asarray(reached), own)


def distance(images, others) -> np.ndarray:
    """‖x' − x‖, l2, of each pair of images (N, H, W, C), (N,), in float64."""
    difference = np.asarray(others, np.float64) - np.asarray(images, np.float64)
    return np.sqrt((difference**2).sum(axis=(1, 2, 3)))


def margins_of_program(proven: Proven, images, labels) -> np.ndarray:
    """f_l − max_{i ≠ l} f_i, (N,), in the precision in which the network is certified."""
    with arithmetic(proven.precision):
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf, proven.precision), proven.variables)
        margins = _margins(proven, own, jnp.asarray(np.asarray(images), proven.precision), jnp.asarray(labels))
        return np.asarray(margins, np.float64)


def classes_of_program(proven: Proven, images) -> np.ndarray:
    """The classes (N,) that the program which certifies gives to images, be they points of space or images."""
    with arithmetic(proven.precision):
        points = jnp.asarray(np.asarray(images), proven.precision)
        return np.argmax(np.asarray(proven.outputs(points, proven.precision)[1]), axis=-1)


@jax.jit(static_argnums=0)
def _margins(proven, variables, images, labels):
    _, logits = proven.apply(variables, images)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    rivals = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0] - rivals


@jax.jit(static_argnums=0)
def _step(proven, variables, images, labels, radius, length, limits, state):
    points, velocity, found = state

    def margins_of(points):
        margins = _margins(proven, variables, points, labels)
        return jnp.sum(margins), margins

    gradient, margins = jax.grad(margins_of, has_aux=True)(points)
    found = _better(points, margins, found)
    velocity = MOMENTUM * velocity + (1 - MOMENTUM) * _unit(gradient)
    delta = points - images - length * radius * _unit(velocity)
    return _projected(images, delta, radius, limits), velocity, found


def _projected(images, delta, radius, limits: Limits):
    """The point within the radius and the limits that is nearest to x + δ, for images x within the limits.

    By its KKT conditions it is clip(x + s δ) with the largest s <= 1 for which ‖clip(x + s δ) − x‖ <= radius.  s grows
    from radius / ‖δ‖, as if nothing were clipped: whatever is clipped at one s leaves room for a larger one, and none
    on the way goes past the radius, as pixels are clipped at smaller distances than they are counted with.
    """
    room = jnp.where(delta > 0, limits.high - images, images - limits.low)
    size, tiny = jnp.abs(delta), jnp.finfo(delta.dtype).tiny
    scale = jnp.minimum(1, radius / jnp.maximum(_norm(delta), tiny))
    for _ in range(PROJECTIONS):
        stopped = scale * size >= room
        left = radius**2 - jnp.sum(jnp.where(stopped, room, 0) ** 2, axis=(1, 2, 3), keepdims=True)
        free = _norm(jnp.where(stopped, 0, size))
        scale = jnp.clip(jnp.sqrt(jnp.maximum(left, 0)) / jnp.maximum(free, tiny), scale, 1)
    return jnp.clip(images + scale * delta, limits.low, limits.high)


def _drawn_in(images: np.ndarray, points: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The points themselves where none is beyond its radius, by rounding; else those that are, moved towards x.

    A pixel x + s (x' − x) with 0 <= s < 1 − 2^-20 is between x and x', rounded or not: it keeps the limits.
    """
    for power in range(20, -1, -1):
        far = distance(images, points)
        outside = far > radius
        if not outside.any():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(outside, radius / far * (1 - 2.0**-power), 1.0).reshape(-1, 1, 1, 1)
        nearer = (images + scale * (points.astype(np.float64) - images)).astype(points.dtype)
        points = np.where(outside.reshape(-1, 1, 1, 1), nearer, points)
    return points


def _better(images, margins, found):
    best, smallest = found
    nearer = margins < smallest
    return jnp.where(nearer[:, None, None, None], images, best), jnp.minimum(margins, smallest)


def _norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3), keepdims=True))


def _unit(x):
    return x / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny)
