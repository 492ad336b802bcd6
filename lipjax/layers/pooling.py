"""Pooling as layers, each 1-Lipschitz: the larger of two channels, distances to learnable sets (paper, section 6)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax import ops
from lipjax.layers import plain
from lipjax.layers.checks import check_shapes
from lipjax.layers.initializers import uniform_angles
from lipjax.layers.layer import Layer, isometry, norm_at_zero
from lipjax.layers.rounding import SINE, SQUARE_ROOT, Rounding, enlarged, gamma, moved, underflow_of_squares
from lipjax.ops import curves
from lipjax.ops.activations import channel_halves
from lipjax.ops.arithmetic import in_float64

_DISTANCE = "a distance to a set, signed or not: Theorem 2 and Corollary 1"


class MaxPool(Layer):
    """max(a, b) of the pairs (a, b) of channels (c, c + C/2), (…, C) → (…, C/2); no parameters.

    Bound: 1, as |max(a, b) − max(a', b')| <= max(|a − a'|, |b − b'|), and no two pairs have a channel in common.

    Rounding: none, as numbers are moved; subnormal ones may come out as 0.

    Source: Singla & Feizi, NeurIPS 2022, section 6 (`ops.max_pool`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.max_pool(x)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("pooling 'max'", "the larger of two numbers", rounding=moved(math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "channel_max"}]


class L2Pool(Layer):
    """(Σ x²)^½ over windows of size × size pixels, of each channel, (N, H, W, C) → (N, H/size, W/size, C).

    Bound: 1, as |‖u‖ − ‖v‖| <= ‖u − v‖ in each window and channel, and no two have an entry in common.

    Rounding: of n squares, n − 1 sums and a root, relative to the norm: n/2 + 2 units.

    Source: BRONet, ICML 2025, and LipNeXt, arXiv 2601.18513 (`ops.l2_pool`).

    Attributes:
      size: of a window, in pixels.
    """

    size: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.l2_pool(x, self.size)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("pooling 'l2'", _NORMS, rounding=_of_norms(self.size**2, math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "l2_pool", "size": self.size}]


class GlobalL2Pool(Layer):
    """(Σ x²)^½ over all pixels, of each channel, (N, H, W, C) → (N, C).

    Bound: 1, as |‖u‖ − ‖v‖| <= ‖u − v‖ in each channel.

    Rounding: of n = H·W squares, n − 1 sums and a root, relative to the norm: n/2 + 2 units.

    Source: LipNeXt, arXiv 2601.18513 (`ops.l2_pool`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return ops.l2_pool(x)

    @nn.nowrap
    def proof(self, own, shape):
        return isometry("pooling 'l2' of all pixels", _NORMS, rounding=_of_norms(shape[0] * shape[1], math.prod(shape)))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "global_l2_pool"}]


_NORMS = "norms of entries that no two have in common"


def _of_norms(terms: int, entries: int) -> Rounding:
    """Norms of n numbers each, relative to them: n squares, n − 1 sums, half of that by the root, and SQUARE_ROOT."""
    return enlarged(gamma(terms / 2 + SQUARE_ROOT), underflow_of_squares(entries, terms))


class ProjectionPool(Layer):
    """Signed distance of channel pairs (x, y) = (c, c + C/2) to a cone: (…, C) → (…, C/2).

    The rays of the cone leave the origin at angles ±h, h = θ/2, around the first axis.  |y| cos h − x sin h where
    x cos h + |y| sin h >= 0, negative inside; ‖(x, y)‖ behind the origin.

    Params: theta (C/2,), initialised U(0, π); training keeps it in [0, π] by `projected` after each step.

    Bound: 1, as of every signed distance to a set (Theorem 2 and Corollary 1 of the paper; `ops.curves`), and no two
    pairs have a channel in common.

    Source: Singla & Feizi, NeurIPS 2022, section 6 and equation 9 (`ops.projection_pool`).
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        theta = self.param("theta", uniform_angles, (x.shape[-1] // 2,))
        return ops.projection_pool(x, theta)

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: sine and cosine are off by e = SINE + 2 units (θ is clipped to a π that is known to π u), |y| cos −
        x sin then by (√2 e + 2) u ‖(x, y)‖; so is t, whose sign decides, but where t is 0 both formulas agree, with
        equal derivatives in t.  ‖(x, y)‖ itself is off by SQUARE_ROOT + 1 units.
        """
        rounding = enlarged(gamma(math.sqrt(2) * (SINE + 2) + 2.01), underflow_of_squares(math.prod(shape), 2))
        return isometry("pooling 'projection'", _DISTANCE, rounding=rounding)  # at 0 every cone has its apex

    @nn.nowrap
    def projected(self, own):
        return {**own, "params": {**own["params"], "theta": jnp.clip(own["params"]["theta"], 0, jnp.pi)}}

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "cone_distance", "angle": np.clip(plain.array(own["params"]["theta"]), 0, np.pi)}]


# Of the vertices of a polyline that is proven; squares of shorter sides underflow in float32.
_LARGEST, _SHORTEST = 1e6, 1e-15


class PolylinePool(Layer):
    """Signed distance of channel pairs (c, c + C/2) to learnable polylines with end rays: (…, C) → (…, C/2).

    `ops.curve_distance(…, rays=True, signed=True)`, plus `corner` where it starts as max pooling.

    Bound: 1 wherever the vertices move within ±1e6, even where a polyline comes to cross itself: a distance to a set,
    and the sign is constant off the curve (`ops.curves`).

    Rounding: of sides, coordinates along them and distances across them: 40 units of ‖p‖ and 56 of the reach of the
    vertices (`PolylinePool._rounding`); none is stated where the sign may be in doubt.

    Source: ours (docs/pooling.md), by Theorem 2 and Corollary 1 of Singla & Feizi, NeurIPS 2022.

    Params: vertices (C/2, V, 2).

    Attributes:
      num_vertices: V >= 3.
      start: 'cone', two rays from the origin at ±θ/2 around the first axis, θ random in U(0, π) as in `ProjectionPool`;
        or 'max', rays from (T, T) to −∞ along both axes, where the output is max(x, y) for all x, y <= T.
      corner: T.

    Raises:
      ValueError: fewer than 3 vertices, another start, an odd number of channels.
    """

    num_vertices: int = 4
    start: str = "cone"
    corner: float = 4.0

    def __post_init__(self):
        if not isinstance(self.corner, int | float) or not np.isfinite(self.corner):
            raise ValueError(f"PolylinePool: corner must be a finite number, got {self.corner!r}")
        object.__setattr__(self, "corner", float(self.corner))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        if self.num_vertices < 3:
            raise ValueError(f"PolylinePool: num_vertices must be at least 3, got {self.num_vertices}")
        if self.start not in POLYLINE_STARTS:
            raise ValueError(f"PolylinePool: start must be one of {POLYLINE_STARTS}, got {self.start!r}")
        first, second = channel_halves("PolylinePool", x)
        init = self._cones if self.start == "cone" else self._corners
        vertices = self.param("vertices", init, (first.shape[-1], self.num_vertices, 2))
        distance = curves.signed_distance_to_rays(first, second, vertices)
        return distance if self.start == "cone" else distance + self.corner

    @nn.nowrap
    def proof(self, own, shape):
        check_shapes("PolylinePool", own["params"], vertices=(shape[-1] // 2, self.num_vertices, 2))
        vertices = np.asarray(own["params"]["vertices"], np.float64)
        sides = np.abs(np.diff(vertices, axis=1)).max(axis=2)
        if np.abs(vertices).max(initial=0) > _LARGEST or ((sides > 0) & (sides < _SHORTEST)).any():
            raise ValueError(
                f"PolylinePool: vertices must lie within ±{_LARGEST:g}, and neighbours coincide or differ by "
                f"{_SHORTEST:g}: beyond, the computed sides are not those of the curve"
            )
        norms = np.hypot(vertices[..., 0], vertices[..., 1])
        nearest = norms.min(axis=1)  # no curve is farther from 0 than a vertex
        shift = 0.0 if self.start == "cone" else abs(self.corner)
        offset = norm_at_zero(nearest + shift, shape)
        with in_float64():
            doubtful = curves.rays_are_doubtful(vertices)
        rounding = None if doubtful else self._rounding(norms.max(axis=1) + shift, shape)
        return isometry("pooling 'polyline'", _DISTANCE, offset, rounding)

    @nn.nowrap
    def _rounding(self, reach: np.ndarray, shape) -> Rounding:
        """For points p and vertices of norm <= M = `reach`, in units of u, with q = p − a, so ‖q‖ <= ‖p‖ + M:

        the side b − a is off by 1, its length ℓ by SQUARE_ROOT + 2 <= 4, its direction by 7; q by 1, its coordinate
        along the side by 10 ‖q‖, clipped to the side by 4 ℓ more, with ℓ <= 2 M; what remains across by 20 ‖q‖ + 4 ℓ,
        and its length by 3 ‖q‖ more.  The sign is wrong only where the curve is within 4 (2 ‖p‖ + 3 M) (`ops.curves`),
        and costs twice that.  Together (23 + 16) ‖p‖ + (23 + 8 + 24) M, and 1 of the result, at most ‖p‖ + M, for the
        corner.
        """
        lost = underflow_of_squares(math.prod(shape), 8)
        return enlarged(gamma(40), gamma(56) * norm_at_zero(reach, shape) + lost)

    def _offsets(self) -> np.ndarray:
        """Signed distances of the vertices from the middle one along the curve."""
        return np.arange(self.num_vertices) - self.num_vertices // 2

    def _cones(self, key, shape, dtype=jnp.float32):
        half = uniform_angles(key, shape[:1], dtype)[:, None] / 2
        offsets = self._offsets()
        # In along the upper ray, out along the lower one: the inside of the cone is on the left, hence negative.
        return jnp.stack([abs(offsets) * jnp.cos(half), -offsets * jnp.sin(half)], -1).astype(dtype)

    def _corners(self, key, shape, dtype=jnp.float32):
        del key
        offsets = self._offsets()
        corner = self.corner + np.stack([np.minimum(-offsets, 0), np.minimum(offsets, 0)], -1)
        return jnp.broadcast_to(jnp.asarray(corner, dtype), shape)

    @nn.nowrap
    def plain(self, own, shape):
        layer = {"kind": "polyline_distance", **curves.plain_rays(plain.array(own["params"]["vertices"]))}
        return [layer] if self.start == "cone" else [layer, plain.affine(1.0, self.corner)]


POLYLINE_STARTS = ("cone", "max")


class PointPool(Layer):
    """Distance of groups of n channels (c, c + C/n, …) to a learnable point u: (…, C) → (…, C/n).

    The set M_u = {u} of the paper, in n dimensions.  The gradient at u itself is 0.

    Bound: 1, as of every distance to a set, and no two groups have a channel in common.

    Source: Singla & Feizi, NeurIPS 2022, section 6 and Theorem 2.

    Params: point (C/n, n), initialised N(0, 1).

    Attributes:
      dimensions: n >= 2.

    Raises:
      ValueError: n < 2, or channels that are not a multiple of n.
    """

    dimensions: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        n, channels = self.dimensions, x.shape[-1]
        if n < 2 or channels % n:
            raise ValueError(f"PointPool: channels must be a multiple of dimensions >= 2, got {channels} and {n}")
        point = self.param("point", nn.initializers.normal(1.0), (channels // n, n))
        squared = jnp.sum((x.reshape(*x.shape[:-1], n, channels // n) - point.T) ** 2, axis=-2)
        return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)

    @nn.nowrap
    def proof(self, own, shape):
        """Rounding: of a distance, relative to it, n differences, squared, n − 1 sums, a root: (2 + 1 + n − 1) / 2
        units and SQUARE_ROOT.
        """
        point = np.asarray(own["params"]["point"], np.float64)
        offset, relative = norm_at_zero(point.ravel(), shape), gamma(self.dimensions / 2 + 1 + SQUARE_ROOT)
        lost = underflow_of_squares(math.prod(shape), self.dimensions)
        return isometry("pooling 'point'", _DISTANCE, offset, enlarged(relative, relative * offset + lost))

    @nn.nowrap
    def plain(self, own, shape):
        return [{"kind": "point_distance", "point": plain.array(own["params"]["point"])}]
