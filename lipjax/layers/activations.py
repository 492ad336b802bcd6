"""Activations of channels and of pairs (c, c + C/2): 1-Lipschitz, gradient-norm preserving (docs/pooling.md)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.config import flag
from lipjax.layers import plain
from lipjax.layers.checks import check_field
from lipjax.layers.initializers import uniform_angles
from lipjax.layers.layer import Layer, Shape, Variables, isometry, norm_at_zero
from lipjax.layers.rounding import SINE, Rounding, enlarged, gamma, moved, underflow

_WHY = "isometries, continuous where they meet"
_LARGEST_ANGLE = 1000.0  # beyond, the sines of some library lose digits


def of_sectors(own: Variables, shape: Shape, angle: float = 0.0, apart: float = 1.0) -> Rounding:
    """Of pairs z that are reflected or turned sector by sector, by angles that are off by `angle` units of roundoff.

    Sines and cosines are then off by e = SINE + `angle` units, a 2×2 matrix of them by 2 e; products and sums add
    √2 + 1.
    On which side of a ray z is, is decided by z_2 cos − z_1 sin, known to d = (√2 e + 1) u ‖z‖.  So the sector whose
    map is applied has a point q with ‖z − q‖ <= `apart` d; the map F and that of the sector agree at q and enlarge no
    distance, hence differ at z by 2 `apart` d at most.

    Raises:
      ValueError: an angle beyond ±1000, where the sines of some library lose digits.
    """
    for name, value in own["params"].items():
        largest = float(np.abs(np.asarray(value)).max(initial=0.0))
        if largest > _LARGEST_ANGLE:
            raise ValueError(f"{name} must lie within ±{_LARGEST_ANGLE:g}, got {largest:g}")
    e = SINE + angle
    turned, misplaced = 2 * e + math.sqrt(2) + 1, 2 * apart * (math.sqrt(2) * e + 1)
    return enlarged(gamma(turned + misplaced), underflow(math.prod(shape), 20))


class MaxMin(Layer):
    """(max(a, b), min(a, b)) of the pairs (a, b) of channels (c, c + C/2), (…, C) → (…, C); no parameters.

    Of neighbours: of the pairs (2 c, 2 c + 1), each where it was.

    Bound: 1.  A permutation of each pair on either side of a = b, where the two agree; so norms of gradients stay.

    Rounding: none, as numbers are moved; subnormal ones may come out as 0.

    Source: Anil, Lucas & Grosse, ICML 2019; pairs as those of Singla & Feizi, NeurIPS 2022 (`ops.max_min`).

    Attributes:
      neighbours: which pairs.
    """

    neighbours: bool = False

    def __post_init__(self):
        check_field("MaxMin", "neighbours", self.neighbours, flag())
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        if not self.neighbours:
            return ops.max_min(x)
        if x.shape[-1] % 2:
            raise ValueError(f"MaxMin: channels must be even, got {x.shape[-1]}")
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        return jnp.stack([pairs.max(axis=-1), pairs.min(axis=-1)], axis=-1).reshape(x.shape)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'max_min'", _WHY, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "max_min", "pairing": "neighbours" if self.neighbours else "halves"}]


class BetaAbs(Layer):
    """|x| of the first round(β C) channels, x of the others, (…, C) → (…, C); no parameters.

    Bound: 1.  Slopes are ±1 and the map is continuous.

    Rounding: none, as a sign is changed; subnormal numbers may come out as 0.

    Source: LipNeXt, arXiv 2601.18513 (`ops.beta_abs`).

    Attributes:
      beta: of the channels, rounded to a whole number of them.

    Raises:
      ValueError: beta outside [0, 1].
    """

    beta: float = 0.5

    def __post_init__(self):
        beta = float(self.beta) if isinstance(self.beta, int | float) else math.nan
        if not 0 <= beta <= 1:
            raise ValueError(f"BetaAbs: beta must be a number in [0, 1], got {self.beta!r}")
        object.__setattr__(self, "beta", beta)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.beta_abs(x, round(self.beta * x.shape[-1]))

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'beta_abs'", _WHY, rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [plain.activation("abs", channels=round(self.beta * shape[-1]))]


class NActivation(Layer):
    """x − 2a for x <= a, −x for a <= x <= b, x − 2b for b <= x, a <= b of each channel, (…, C) → (…, C).

    Params: theta (C, 2), a and b in any order, initialised (−100, 0), |x| for all x > −100, as its authors do.

    Bound: 1.  Slopes are ±1 and the map is continuous.

    Source: Prach & Lampert, arXiv 2311.06103 (`ops.n_activation`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.n_activation(x, self.param("theta", _as_absolute, (x.shape[-1], 2)))

    @nn.nowrap
    def proof(self, own, shape):
        """N(0) is −2 a for a > 0, −2 b for b < 0, else 0.

        Rounding: for x <= a (alike for x >= b), of 2 a and of the difference.  For a < 0 these are at most 2 |x| and
        |x| in size, for a > 0 |N(0)| and |x| + |N(0)|.
        """
        theta = np.asarray(own["params"]["theta"], np.float64)
        at_zero = 2 * np.maximum(np.maximum(theta.min(axis=1), -theta.max(axis=1)), 0)
        offset = norm_at_zero(at_zero, shape)
        rounding = enlarged(gamma(3), gamma(2) * offset + underflow(math.prod(shape), 2))
        return isometry("activation 'n'", _WHY, offset, rounding)

    @nn.nowrap
    def plain(self, own, shape):
        theta = plain.array(own["params"]["theta"])
        return [plain.activation("n", low=theta.min(axis=1), high=theta.max(axis=1))]


def _as_absolute(key, shape, dtype=jnp.float32):
    del key
    return jnp.broadcast_to(jnp.asarray((-100, 0), dtype), shape)


class Householder(Layer):
    """z, or z mirrored at the line of angle θ/2, of the pairs z of channels (c, c + C/2), (…, C) → (…, C).

    z stays where it is on the counter-clockwise side of the line, z_2 cos θ/2 >= z_1 sin θ/2.

    Params: angle (C/2,), θ, initialised π/2 (MaxMin with its halves swapped).

    Bound: 1.  Orthogonal on either side of the line, where the two agree.

    Rounding: `of_sectors`, by sines and cosines within 4 units of roundoff and comparisons that may fail near the line.

    Source: Singla, Singla & Feizi, ICLR 2022 (`ops.householder`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.householder(x, self.param("angle", nn.initializers.constant(jnp.pi / 2), (x.shape[-1] // 2,)))

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("activation 'householder'", _WHY, rounding=of_sectors(own, shape))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "householder", "angle": plain.array(own["params"]["angle"])}]


class Householder2(Layer):
    """A pair z of channels (c, c + C/2) by its sector: z, mirrored, turned by −θ2, mirrored; (…, C) → (…, C).

    Four sectors, counter-clockwise from the angle θ0/2, of widths θ1/2, θ2/2, π − θ1/2, π − θ2/2; mirrors at the lines
    of angles (θ0 + θ1)/2 and θ0/2.

    Params: angle0, angle1, angle2 (C/2,), initialised U(0, π); values beyond [0, 2π] count as the nearest end.

    Bound: 1.  Orthogonal on each sector, and neighbours agree on the ray between them.

    Source: Singla, Singla & Feizi, ICLR 2022, order 2 (`ops.householder2`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.householder2(x, *(self.param(f"angle{i}", uniform_angles, (x.shape[-1] // 2,)) for i in range(3)))

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding (`of_sectors`): angles are clipped to [0, 2π], of which the end is known to 2π u, and added: half a
        sum of three is known to (6 + 4 + 6) π u / 2, a whole sum of two to (4 + 4) π u.  A wrong comparison puts z at
        most d beyond the ray of a sector next to the right one, and a wrong half plane as far again.
        """
        rounding = of_sectors(own, shape, 8 * math.pi, 2.0)
        return isometry("activation 'householder2'", _WHY, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        angles = [plain.array(own["params"][f"angle{i}"]) for i in range(3)]
        return [{"kind": "householder2", "angles": np.clip(angles, 0, 2 * np.pi)}]
