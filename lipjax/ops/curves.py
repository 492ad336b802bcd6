"""Distance of points of the plane to piecewise-linear curves (paper, section 6, Theorem 2 and Corollary 1).

The distance d(p) = min over q in M of ‖p − q‖ to any closed set M is 1-Lipschitz.  Let s be ±1 and constant on each
component of the complement of M.  Then s·d is 1-Lipschitz too: if s(p) ≠ s(p'), the segment from p to p' meets M at
some q, so |s d(p) − s' d(p')| = d(p) + d(p') <= ‖p − q‖ + ‖q − p'‖ = ‖p − p'‖.

The sign comes from a winding number, which is constant off the curve whatever its shape: crossings of the curve with
the half-line from p along +x are counted with their signs.  Rounding cannot lose one.  Comparing the second coordinates
of p and of a vertex is exact, and the same for both segments of that vertex.  So a segment a → b is asked for the side
of p only where p is at a height between those of a and b; with p = a + q and d = b − a the exact
d_x q_y − d_y q_x is then d_y times the step along x from p to the segment, and its computed sign can be wrong only
where that step is within 4 eps (|p| + |a| + |b|).  (At an axis, not at a generic direction: there all three would be
rounded, and p on the prolongation of a segment along the half-line, however far away, could be given the wrong sign.)
Ends of rays along the half-line count as if it were turned by an infinitesimal positive angle.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.ops.arithmetic import in_float64

_DOUBTFUL = 1e-5  # hundreds of times the rounding of float32


def curve_distance(
    points: jax.Array, vertices: jax.Array, *, closed: bool = False, rays: bool = False, signed: bool = False
) -> jax.Array:
    """Distance of points to the curves through the given vertices: 1-Lipschitz in the points, whatever the vertices.

    The minimum over the segments of the distance to the segment.  Memory is that of the points, not points × segments.

    Not covered: coordinates so large or small that squares and products of their differences overflow or underflow
    (safe: 0 and 1e±150 in float64, 1e±18 in float32); second derivatives; the sign of a traced curve that crosses
    itself, other than being constant off the curve; rays that meet farther than max |vertex| / √eps away, which count
    as parallel.

    Args:
      points: (…, *B, 2), may broadcast.  NaN gives NaN.
      vertices: (*B, V, 2), V >= 2; consecutive ones may coincide.
      closed: the last vertex is joined to the first.
      rays: the first and the last segment that are not points go on without end past the first and the last vertex.
      signed: negative inside (closed: where the winding number is not 0) or on the left of the direction of travel
        (rays).

    Returns:
      (…, *B).  Its gradient has norm 1 in the points off the curve, and is 0 on it.

    Raises:
      ValueError: shapes that do not fit, fewer than 2 vertices, `closed` with `rays`, `signed` with neither; where
        vertices are not traced: entries that are not finite, and for `signed` a curve that crosses or touches itself
        up to rounding, or is a point (traced, such a curve has a sign that is constant off it, and the result is
        1-Lipschitz all the same).
    """
    is_traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(vertices))
    concrete = None if is_traced else np.asarray(vertices)  # inside jit, jnp.asarray makes tracers of constants
    points, vertices = jnp.asarray(points), jnp.asarray(vertices)
    dtype = jnp.result_type(points, vertices, 1.0)
    if vertices.ndim < 2 or vertices.shape[-1] != 2 or vertices.shape[-2] < 2:
        raise ValueError(f"curve_distance: vertices must be (*B, V, 2) with V >= 2, got {vertices.shape}")
    if points.ndim < vertices.ndim - 1 or points.shape[-1] != 2 or not _fit(points.shape[:-1], vertices.shape[:-2]):
        raise ValueError(f"curve_distance: points must be (…, *B, 2) for vertices {vertices.shape}, got {points.shape}")
    if closed and rays:
        raise ValueError("curve_distance: a curve is closed or has rays, not both")
    if signed and not (closed or rays):
        raise ValueError("curve_distance: signed=True needs closed=True or rays=True: an open curve separates nothing")
    if concrete is not None:
        concrete = concrete.astype(dtype).astype(np.float64)
        if not np.isfinite(concrete).all():
            raise ValueError("curve_distance: vertices must be finite")
        if signed and _crosses_itself(concrete.reshape(-1, *concrete.shape[-2:]), closed, float(jnp.finfo(dtype).eps)):
            raise ValueError("curve_distance: signed=True needs curves that neither cross nor touch themselves")
    points, vertices = points.astype(dtype), vertices.astype(dtype)
    return _distance((closed, rays, signed), points[..., 0], points[..., 1], vertices[..., 0], vertices[..., 1])


def signed_distance_to_rays(x: jax.Array, y: jax.Array, vertices: jax.Array) -> jax.Array:
    """`curve_distance(…, rays=True, signed=True)` without its checks: curves may cross themselves.

    x, y (…, *B), vertices (*B, V, 2) → (…, *B).
    """
    return _distance((False, True, True), x, y, vertices[..., 0], vertices[..., 1])


def _fit(shape, other) -> bool:
    try:
        np.broadcast_shapes(shape, other)
    except ValueError:
        return False
    return True


class _Segments(NamedTuple):
    """Segments a → b of curves, (*B, S) each."""

    ax: jax.Array
    ay: jax.Array
    dx: jax.Array  # b − a
    dy: jax.Array
    ux: jax.Array  # unit vector, or 0
    uy: jax.Array
    inverse: jax.Array  # of the length, or 0
    low: jax.Array  # the segment is a + [low, high] u
    high: jax.Array
    from_y: jax.Array  # second coordinates of the ends, ±inf for rays
    to_y: jax.Array


class _Nearest(NamedTuple):
    """What the loop over segments has found for each point."""

    squared: jax.Array  # distance to the nearest segment so far
    x: jax.Array  # from the nearest point to p
    y: jax.Array
    position: jax.Array  # of the nearest point on its segment: 0 at its start, 1 at its end
    segment: jax.Array
    winding: jax.Array


@partial(jax.jit, static_argnums=0)  # outside jit, the loop would be compiled anew at each call
def _distance(kind, px, py, vx, vy):
    return _plain_distance(kind, px, py, vx, vy)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _plain_distance(kind, px, py, vx, vy):
    return _nearest(kind, px, py, vx, vy)[0]


@_plain_distance.defjvp
def _distance_jvp(kind, primals, tangents):
    """d = ±‖p − q‖ with q = (1 − τ) a + τ b the nearest point: as it is the nearest, τ may be held constant."""
    distance, nearest = _nearest(kind, *primals)
    # Not nearest.squared: XLA may round the x, y in it otherwise, and near the curve they are all rounding.
    length = jnp.sqrt(nearest.x * nearest.x + nearest.y * nearest.y)
    off = length != 0
    safe = jnp.where(off, jnp.where(distance < 0, -length, length), 1)
    batch, count = primals[2].shape[:-1], primals[2].shape[-1]
    # Gathered off a flat array, as the transpose, a scatter, is one pass over the points however many the segments.
    first = count * np.arange(np.prod(batch, dtype=int)).reshape(batch)
    start, end = first + nearest.segment, first + (nearest.segment + 1) % count
    change = 0.0
    for r, p_dot, v_dot in zip((nearest.x, nearest.y), tangents[:2], tangents[2:], strict=True):
        normal, flat = jnp.where(off, r / safe, 0), v_dot.reshape(-1)
        change += normal * p_dot - normal * (1 - nearest.position) * flat[start] - normal * nearest.position * flat[end]
    return distance, change


def _nearest(kind, px, py, vx, vy) -> tuple[jax.Array, _Nearest]:
    """The distances, and what they come from."""
    closed, _, signed = kind
    segments, left_from = _segments(kind, vx, vy)
    in_front = [jnp.moveaxis(v, -1, 0) for v in segments]

    def visit(found, s):
        on = _Segments(*(v[s] for v in in_front))
        qx, qy = px - on.ax, py - on.ay
        along = jnp.clip(qx * on.ux + qy * on.uy, on.low, on.high)
        rx, ry = qx - along * on.ux, qy - along * on.uy
        squared = rx * rx + ry * ry
        nearer = squared < found.squared
        winding = found.winding
        if signed:
            is_from_above, is_to_above = on.from_y > py, on.to_y > py
            side = on.dx * qy - on.dy * qx
            up = ~is_from_above & is_to_above & (side > 0)
            down = is_from_above & ~is_to_above & (side < 0)
            winding = winding + up - down
        return _Nearest(
            jnp.minimum(squared, found.squared),  # keeps NaN
            jnp.where(nearer, rx, found.x),
            jnp.where(nearer, ry, found.y),
            jnp.where(nearer, along * on.inverse, found.position),
            jnp.where(nearer, s, found.segment),
            winding,
        )

    shape = jnp.broadcast_shapes(px.shape, vx.shape[:-1])
    zero, none = jnp.zeros(shape, px.dtype), jnp.zeros(shape, jnp.int32)
    found = _Nearest(jnp.full(shape, jnp.inf, px.dtype), zero, zero, zero, none, none)
    # Not unrolled: XLA would go through the whole loop once for each of its results that is used.
    steps = jnp.arange(segments.ax.shape[-1], dtype=jnp.int32)
    found = lax.scan(lambda found, s: (visit(found, s), None), found, steps)[0]
    distance = jnp.sqrt(found.squared)
    if signed:
        is_negative = found.winding != 0 if closed else found.winding >= left_from
        distance = jnp.where(is_negative, -distance, distance)
    return distance, found


def _segments(kind, vx, vy) -> tuple[_Segments, jax.Array]:
    """The segments, and the winding number from which on a point is on the left of a curve with rays.

    A ray at an end where vertices coincide belongs to the first or the last segment that has a length.
    """
    closed, rays, _ = kind
    ax, ay = (v if closed else v[..., :-1] for v in (vx, vy))
    bx, by = (jnp.roll(v, -1, -1) if closed else v[..., 1:] for v in (vx, vy))
    dx, dy = bx - ax, by - ay
    length = jnp.sqrt(dx * dx + dy * dy)
    inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
    plain = _Segments(ax, ay, dx, dy, dx * inverse, dy * inverse, inverse, jnp.zeros_like(length), length, ay, by)
    if not rays:
        return plain, jnp.ones(vx.shape[:-1], jnp.int32)
    (is_first, x0, y0), (is_last, x1, y1) = _rays(plain)
    is_up0, is_up1 = ((y > 0) | ((y == 0) & (x < 0)) for x, y in ((x0, y0), (x1, y1)))
    segments = plain._replace(
        low=jnp.where(is_first, -jnp.inf, plain.low),
        high=jnp.where(is_last, jnp.inf, plain.high),
        from_y=jnp.where(is_first, jnp.where(is_up0, jnp.inf, -jnp.inf)[..., None], ay),
        to_y=jnp.where(is_last, jnp.where(is_up1, jnp.inf, -jnp.inf)[..., None], by),
    )
    # The angle the curve sweeps, seen from p, is φ1 − φ0 + 2π winding, with φ the angles of the rays from the
    # half-line, in (0, 2π).  It is positive for points on the left.
    grows = jnp.where(is_up0 == is_up1, x0 * y1 - y0 * x1 > 0, is_up0)
    # Rays that run nearly alike: φ1 − φ0 is a multiple of 2π, and of which sign the rest is, is seen far out.
    order, _ = _order_far_out(x0, y0, x1, y1, vx, vy)
    turns = jnp.where(x0 + x1 > 0, is_up0.astype(jnp.int32) - is_up1, 0)
    return segments, 1 - jnp.where(x0 * x1 + y0 * y1 > 0, turns + (order > 0), grows)


def _rays(plain: _Segments) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """For the first and the last ray of each curve: (*B, S) which segment it belongs to; (*B,), (*B,) its direction."""
    has_length = plain.high > 0  # the length of a plain segment
    rank = jnp.cumsum(has_length, axis=-1)
    is_first, is_last = (has_length & (rank == r) for r in (1, rank[..., -1:]))
    return tuple(  # type: ignore[return-value]
        (of_ray, *(sign * jnp.where(of_ray, u, 0).sum(-1) for u in (plain.ux, plain.uy)))
        for of_ray, sign in ((is_first, -1), (is_last, 1))
    )


def _order_far_out(x0, y0, x1, y1, vx, vy) -> tuple[jax.Array, jax.Array]:
    """(order, far): on a circle of radius `far` round all vertices, where rounding of directions does not matter, the
    last ray is so far counter-clockwise from the first."""
    far = 8 * jnp.maximum(abs(vx).max(-1), abs(vy).max(-1))
    order = x0 * (vy[..., -1] - vy[..., 0]) - y0 * (vx[..., -1] - vx[..., 0]) + far * (x0 * y1 - y0 * x1)
    return order, far


def rays_are_doubtful(vertices: np.ndarray) -> bool:
    """Whether in any curve of (B, V, 2) rays run so nearly alike that rounding may decide which side is the left."""
    vx, vy = (jnp.asarray(vertices[..., i]) for i in range(2))
    (_, x0, y0), (_, x1, y1) = _rays(_segments((False, False, False), vx, vy)[0])
    order, far = _order_far_out(x0, y0, x1, y1, vx, vy)
    return bool(((x0 * x1 + y0 * y1 > 0.5) & (abs(order) <= _DOUBTFUL * far)).any())


def plain_rays(vertices: np.ndarray) -> dict[str, np.ndarray]:
    """Curves (B, V, 2) with rays as the numbers (B, S) that `signed_distance_to_rays` makes of their segments.

    Segment a + [low, high] u; from_y, to_y: heights of its ends, ±inf of rays; left_from (B,): the winding number from
    which a point is on the left.  All float64.
    """
    with in_float64():
        segments, left_from = _segments(
            (False, True, True), jnp.asarray(vertices[..., 0]), jnp.asarray(vertices[..., 1])
        )
    fields = ("ax", "ay", "dx", "dy", "ux", "uy", "low", "high", "from_y", "to_y")
    return {**{name: np.asarray(getattr(segments, name)) for name in fields}, "left_from": np.asarray(left_from, float)}


def _crosses_itself(vertices: np.ndarray, closed: bool, eps: float) -> bool:
    """Whether in any curve of (N, V, 2) two segments meet anywhere but at the vertex that neighbours share.

    Curves that are not closed are taken with their rays.  One that separates nothing counts too: a point, or closed
    with fewer than three segments.
    """
    ends = np.roll(vertices, -1, axis=1)
    starts, steps = (vertices, ends - vertices) if closed else (vertices[:, :-1], (ends - vertices)[:, :-1])
    is_point = (steps == 0).all(-1)
    order = np.argsort(is_point, axis=1, kind="stable")[..., None]  # points last: the others still form a chain
    starts, steps = np.take_along_axis(starts, order, 1), np.take_along_axis(steps, order, 1)
    lasts = (~is_point).sum(1)[:, None] - 1
    if (lasts < (2 if closed else 0)).any():
        return True
    far = abs(vertices).max((1, 2))[:, None] / np.sqrt(eps)

    def cross(a, b):
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    def dot(a, b):
        return (a * b).sum(-1)

    for apart in range(1, steps.shape[1]):
        i = np.arange(steps.shape[1] - apart)[None]
        j = i + apart
        a, b, offset = steps[:, i[0]], steps[:, j[0]], starts[:, j[0]] - starts[:, i[0]]
        is_pair = j <= lasts
        neighbours = is_pair & ((apart == 1) | (closed & (i == 0) & (j == lasts)))
        turn = cross(a, b)
        low = np.where((i == 0) & (not closed), -np.inf, 0.0)
        high = np.where((j == lasts) & (not closed), np.inf, 1.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t, s = cross(offset, b) / turn, cross(offset, a) / turn
            is_seen = ~((t < 0) & (s > 1) & (-t * np.sqrt(dot(a, a)) > far))
            meet = (turn != 0) & (low <= t) & (t <= 1) & (0 <= s) & (s <= high) & is_seen
            # On one line: b covers the stretch between these positions along a.
            from_, to = dot(offset, a) / dot(a, a), (dot(offset, a) + high * dot(a, b)) / dot(a, a)
            overlap = (
                (turn == 0) & (cross(offset, a) == 0) & (np.minimum(from_, to) <= 1) & (np.maximum(from_, to) >= low)
            )
        back = (turn == 0) & (dot(a, b) < 0)
        if np.where(neighbours, back, is_pair & (meet | overlap)).any():
            return True
    return False
