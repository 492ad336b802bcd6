"""Distance of points of the plane to piecewise-linear curves (paper, section 6, Theorem 2 and Corollary 1).

The distance d(p) = min over q in M of ‖p − q‖ to any closed set M is 1-Lipschitz.  Let s be ±1 and constant on each
component of the complement of M.  Then s·d is 1-Lipschitz too: if s(p) ≠ s(p'), the segment from p to p' meets M at
some q, so |s d(p) − s' d(p')| = d(p) + d(p') <= ‖p − q‖ + ‖q − p'‖ = ‖p − p'‖.

The sign comes from a winding number, which is constant off the curve whatever its shape: crossings of the curve with a
half-line from p in a fixed direction are counted with their signs.  A vertex lies on one side of the line through that
half-line for both of its segments, so no crossing is counted twice or lost, whatever the rounding; on which side of a
segment p lies can be wrong only where p is on the segment up to rounding, where d is 0 up to rounding.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Direction of the half-line, at 1 radian: generic, as a ray of the curve parallel to it would make the count ambiguous.
_CUT = (0.5403023058681398, 0.8414709848078965)
_UNROLLED = 32  # segments up to which their loop is unrolled, so that XLA fuses it into one pass over the points


def curve_distance(
    points: jax.Array, vertices: jax.Array, *, closed: bool = False, rays: bool = False, signed: bool = False
) -> jax.Array:
    """Distance of points to the curves through the given vertices: 1-Lipschitz in the points, whatever the vertices.

    The minimum over the segments of the distance to the segment.  Memory is that of the points, not points × segments.
    Squares must be finite: coordinates within 1e±150 in float64, 1e±18 in float32.

    Args:
      points: (…, *B, 2).
      vertices: (*B, V, 2), V >= 2; consecutive ones may coincide.
      closed: the last vertex is joined to the first.
      rays: the first and the last segment go on without end past the first and the last vertex.
      signed: negative inside (closed: where the winding number is not 0) or on the left of the direction of travel
        (rays).

    Returns:
      (…, *B).  Its gradient has norm 1 in the points off the curve, and is 0 on it.

    Raises:
      ValueError: shapes that do not fit, fewer than 2 vertices, `closed` with `rays`, `signed` with neither; where
        vertices are not traced: entries that are not finite, and for `signed` a curve that crosses or touches itself
        (traced, such a curve has a sign that is constant off it, and the result is 1-Lipschitz all the same).
    """
    points, vertices = jnp.asarray(points), jnp.asarray(vertices)
    if vertices.ndim < 2 or vertices.shape[-1] != 2 or vertices.shape[-2] < 2:
        raise ValueError(f"curve_distance: vertices must be (*B, V, 2) with V >= 2, got {vertices.shape}")
    if points.ndim < vertices.ndim - 1 or points.shape[-1] != 2:
        raise ValueError(f"curve_distance: points must be (…, *B, 2) for vertices {vertices.shape}, got {points.shape}")
    if closed and rays:
        raise ValueError("curve_distance: a curve is closed or has rays, not both")
    if signed and not (closed or rays):
        raise ValueError("curve_distance: signed=True needs closed=True or rays=True: an open curve separates nothing")
    if not isinstance(vertices, jax.core.Tracer):
        concrete = np.asarray(vertices, np.float64)
        if not np.isfinite(concrete).all():
            raise ValueError("curve_distance: vertices must be finite")
        if signed and any(_crosses_itself(v, closed) for v in concrete.reshape(-1, *concrete.shape[-2:])):
            raise ValueError("curve_distance: signed=True needs curves that neither cross nor touch themselves")
    dtype = jnp.result_type(points, vertices)
    points, vertices = points.astype(dtype), vertices.astype(dtype)
    return _distance((closed, rays, signed), points[..., 0], points[..., 1], vertices[..., 0], vertices[..., 1])


class _Nearest(NamedTuple):
    """What the loop over segments has found for each point."""

    squared: jax.Array  # distance to the nearest segment so far
    x: jax.Array  # from the nearest point to p
    y: jax.Array
    position: jax.Array  # of the nearest point on its segment: 0 at its start, 1 at its end
    segment: jax.Array
    winding: jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _distance(kind, px, py, vx, vy):
    return _value(kind, _nearest(kind, px, py, vx, vy), vx, vy)


@_distance.defjvp
def _distance_jvp(kind, primals, tangents):
    """d = ±‖p − q‖ with q = (1 − τ) a + τ b the nearest point: as it is the nearest, τ may be held constant."""
    nearest = _nearest(kind, *primals)
    distance = _value(kind, nearest, *primals[2:])
    safe = jnp.where(nearest.squared > 0, distance, 1)
    normal = (jnp.where(nearest.squared > 0, nearest.x / safe, 0), jnp.where(nearest.squared > 0, nearest.y / safe, 0))
    change = 0.0
    for n, p_dot, v_dot in zip(normal, tangents[:2], tangents[2:], strict=True):
        change += n * (p_dot - _at(kind, nearest, v_dot))
    return distance, change


def _at(kind, nearest: _Nearest, values: jax.Array) -> jax.Array:
    """(1 − τ) values[a] + τ values[b] for the nearest segment a → b."""
    count = values.shape[-1]
    if count > _UNROLLED:
        index = jnp.moveaxis(jnp.broadcast_to(values, (*nearest.segment.shape, count)), -1, 0)
        start = jnp.take_along_axis(index, nearest.segment[None], 0)[0]
        end = jnp.take_along_axis(index, (nearest.segment[None] + 1) % count, 0)[0]
        return start + nearest.position * (end - start)
    total = jnp.zeros_like(nearest.position)
    for s in range(count if kind[0] else count - 1):
        a, b = values[..., s], values[..., (s + 1) % count]
        total += jnp.where(nearest.segment == s, a + nearest.position * (b - a), 0)
    return total


def _value(kind, nearest: _Nearest, vx, vy):
    distance = jnp.sqrt(nearest.squared)
    closed, _, signed = kind
    if not signed:
        return distance
    if closed:
        return jnp.where(nearest.winding != 0, -distance, distance)
    # The angle swept, seen from p, is φ1 − φ0 + 2π winding, with φ the angles of the two rays from the half-line, in
    # (0, 2π).  It is positive for points on the left.
    (x0, y0), (x1, y1) = _ray_directions(vx, vy)
    is_upper0, is_upper1 = _above_cut(x0, y0), _above_cut(x1, y1)
    grows = jnp.where(is_upper0 == is_upper1, x0 * y1 - y0 * x1 > 0, is_upper0)
    return jnp.where(nearest.winding + grows >= 1, -distance, distance)


def _ray_directions(vx, vy):
    """Outwards from the first and from the last vertex."""
    return (
        (vx[..., 0] - vx[..., 1], vy[..., 0] - vy[..., 1]),
        (vx[..., -1] - vx[..., -2], vy[..., -1] - vy[..., -2]),
    )


def _above_cut(x, y):
    return _CUT[0] * y - _CUT[1] * x >= 0


def _nearest(kind, px, py, vx, vy) -> _Nearest:
    closed, rays, signed = kind
    count = vx.shape[-1]
    segments = count if closed else count - 1
    height = _CUT[0] * py - _CUT[1] * px
    vertex_heights = _CUT[0] * vy - _CUT[1] * vx
    ends = [_above_cut(x, y) for x, y in _ray_directions(vx, vy)]

    def visit(found, s):
        """s is a Python integer, or a traced one inside the scan."""
        first, last = s == 0, s == segments - 1
        following = (s + 1) % count
        ax, ay, bx, by = (jnp.take(v, i, axis=-1) for i in (s, following) for v in (vx, vy))
        dx, dy = bx - ax, by - ay
        length = jnp.sqrt(dx * dx + dy * dy)
        inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
        ux, uy = dx * inverse, dy * inverse
        qx, qy = px - ax, py - ay
        along = qx * ux + qy * uy
        low, high = (jnp.where(rays & at_end, jnp.inf, 0) for at_end in (first, last))
        along = jnp.clip(along, -low, length + high)
        rx, ry = qx - along * ux, qy - along * uy
        squared = rx * rx + ry * ry
        nearer = squared < found.squared
        winding = found.winding
        if signed:
            a_above, b_above = (jnp.take(vertex_heights, i, axis=-1) >= height for i in (s, following))
            if rays:
                a_above, b_above = jnp.where(first, ends[0], a_above), jnp.where(last, ends[1], b_above)
            side = dx * qy - dy * qx
            up = ~a_above & b_above & (side > 0)
            down = a_above & ~b_above & (side < 0)
            winding = winding + up - down
        return _Nearest(
            jnp.where(nearer, squared, found.squared),
            jnp.where(nearer, rx, found.x),
            jnp.where(nearer, ry, found.y),
            jnp.where(nearer, along * inverse, found.position),
            jnp.where(nearer, s, found.segment),
            winding,
        )

    shape = jnp.broadcast_shapes(px.shape, vx.shape[:-1])
    zero, none = jnp.zeros(shape, px.dtype), jnp.zeros(shape, jnp.int32)
    found = _Nearest(jnp.full(shape, jnp.inf, px.dtype), zero, zero, zero, none, none)
    if segments <= _UNROLLED:
        for s in range(segments):
            found = visit(found, s)
        return found
    return lax.scan(lambda found, s: (visit(found, s), None), found, jnp.arange(segments, dtype=jnp.int32))[0]


def _crosses_itself(vertices: np.ndarray, closed: bool) -> bool:
    """Whether two segments of one curve (V, 2) meet anywhere but at the vertex that neighbours share.

    A curve that is not closed is taken with its rays.
    """
    keep = np.append(True, (np.diff(vertices, axis=0) != 0).any(axis=1))
    if closed and len(vertices) > 1 and (vertices[0] == vertices[-1]).all():
        keep[-1] = False
    vertices = vertices[keep]
    count = len(vertices)
    if count < (3 if closed else 2):
        return True  # a point, or a segment there and back: nothing is separated
    segments = count if closed else count - 1
    starts, steps = vertices[:segments], np.roll(vertices, -1, axis=0)[:segments] - vertices[:segments]
    low = np.where((np.arange(segments) == 0) & (not closed), -np.inf, 0.0)
    high = np.where((np.arange(segments) == segments - 1) & (not closed), np.inf, 1.0)

    def cross(a, b):
        return a[0] * b[1] - a[1] * b[0]

    for i, j in itertools.combinations(range(segments), 2):
        neighbours = j == i + 1 or (closed and i == 0 and j == segments - 1)
        turn, offset = cross(steps[i], steps[j]), starts[j] - starts[i]
        if neighbours:
            if turn == 0 and steps[i] @ steps[j] < 0:
                return True  # it turns back on itself
        elif turn != 0:
            t, s = cross(offset, steps[j]) / turn, cross(offset, steps[i]) / turn
            if low[i] <= t <= high[i] and low[j] <= s <= high[j]:
                return True
        elif cross(offset, steps[i]) == 0:  # on one line
            square = steps[i] @ steps[i]
            ends = [(offset + f * steps[j]) @ steps[i] / square for f in (low[j], high[j])]
            if min(ends) <= high[i] and max(ends) >= low[i]:
                return True
    return False
