from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapely

from lipjax import ops
from lipjax.ops import curves

pytestmark = pytest.mark.usefixtures("float64")
EPS = np.finfo(np.float64).eps
RAYS = {"rays": True, "signed": True}
CLOSED = {"closed": True, "signed": True}

distance = jax.jit(ops.curve_distance, static_argnames=("closed", "rays", "signed"))  # traced: no checks of vertices


@partial(jax.jit, static_argnames=("closed", "rays", "signed"))
def slopes(points, vertices, **options):
    return jax.grad(lambda p, v: ops.curve_distance(p, v, **options).sum(), (0, 1))(points, vertices)


def random_curve(rng, count):
    return rng.normal(size=(count, 2))


def star(rng, count):
    """A simple polygon, counter-clockwise."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    return rng.uniform(0.5, 2, (count, 1)) * np.stack([np.cos(angles), np.sin(angles)], -1)


def turned(vertices, angle):
    return vertices @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def by_numpy(points, vertices, closed=False, rays=False):
    """Minimum over the segments, one by one; points (N, 2), vertices (V, 2)."""
    best = np.full(len(points), np.inf)
    ends = np.roll(vertices, -1, 0) if closed else vertices[1:]
    for s, (a, b) in enumerate(zip(vertices, ends, strict=False)):
        d = b - a
        t = (points - a) @ d / (d @ d) if d.any() else np.zeros(len(points))
        low = -np.inf if rays and s == 0 else 0.0
        high = np.inf if rays and s == len(ends) - 1 else 1.0
        best = np.minimum(best, np.linalg.norm(points - a - np.clip(t, low, high)[:, None] * d, axis=1))
    return best


# ---------------------------------------------------------------------------------------------------------- distance


@pytest.mark.parametrize("count", [2, 3, 7, 40, 300])
def test_open_and_closed_against_shapely(rng, count):
    vertices, points = random_curve(rng, count), 2 * rng.normal(size=(500, 2))
    there = shapely.points(points)
    expected = shapely.distance(there, shapely.LineString(vertices))
    np.testing.assert_allclose(distance(points, vertices), expected, rtol=1e-12, atol=1e-12)
    ring = shapely.LineString(np.concatenate([vertices, vertices[:1]]))
    np.testing.assert_allclose(distance(points, vertices, closed=True), shapely.distance(there, ring), atol=1e-12)
    np.testing.assert_allclose(
        distance(points, vertices, rays=True), by_numpy(points, vertices, rays=True), rtol=1e-12, atol=1e-12
    )


def test_rays_against_shapely(rng):
    """Rays as segments of length 1e4: their far ends round by 1e4 eps, hence the directions by as much."""
    for count in (2, 3, 6):
        vertices, points = random_curve(rng, count), 2 * rng.normal(size=(500, 2))
        first, last = vertices[0] - vertices[1], vertices[-1] - vertices[-2]
        far = [vertices[0] + 1e4 * first / np.linalg.norm(first), vertices[-1] + 1e4 * last / np.linalg.norm(last)]
        line = shapely.LineString([far[0], *vertices, far[1]])
        expected = shapely.distance(shapely.points(points), line)
        np.testing.assert_allclose(distance(points, vertices, rays=True), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("count", [3, 5, 33, 34, 100])
def test_signed_polygons_against_shapely(rng, count):
    for _ in range(5):
        vertices, points = star(rng, count), rng.normal(size=(1000, 2))
        polygon, there = shapely.Polygon(vertices), shapely.points(points)
        expected = shapely.distance(there, polygon.exterior)
        expected = np.where(shapely.contains(polygon, there), -expected, expected)
        for v in (vertices, vertices[::-1]):
            np.testing.assert_allclose(ops.curve_distance(points, v, **CLOSED), expected, rtol=1e-12, atol=1e-12)


def test_signed_rays_against_shapely(rng):
    """A graph over the first axis, turned: closed far off to the left of travel, it bounds the negative side."""
    for angle in np.concatenate([rng.uniform(0, 7, 12), np.pi / 4 * np.arange(8)]):
        count = rng.integers(4, 9)
        vertices = np.stack([np.sort(rng.uniform(-1, 1, count)), rng.normal(size=count)], -1)
        vertices[:2, 1], vertices[-2:, 1] = vertices[0, 1], vertices[-1, 1]  # level rays
        points = rng.uniform(-3, 3, (500, 2))
        polygon = [(-100, vertices[0, 1]), *vertices, (100, vertices[-1, 1]), (100, 100), (-100, 100)]
        inside = shapely.contains(shapely.Polygon(polygon), shapely.points(points))
        off = by_numpy(points, vertices, rays=True)
        expected = np.where(inside, -off, off)
        got = ops.curve_distance(turned(points, angle), turned(vertices, angle), **RAYS)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
        back = ops.curve_distance(turned(points, angle), turned(vertices, angle)[::-1], **RAYS)
        np.testing.assert_allclose(back, -expected, rtol=1e-12, atol=1e-12)


def test_left_of_travel_is_negative():
    up = np.array([[0.0, 0.0], [0.0, 1.0]])
    assert ops.curve_distance(np.array([-2.0, 5.0]), up, **RAYS) == -2
    assert ops.curve_distance(np.array([2.0, -5.0]), up, **RAYS) == 2
    for angle in np.pi / 4 * np.arange(8):
        line = turned(np.array([[-1.0, 0.0], [1.0, 0.0]]), angle)
        sides = ops.curve_distance(turned(np.array([[7.0, 3.0], [-7.0, -3.0]]), angle), line, **RAYS)
        np.testing.assert_allclose(sides, [-3, 3], atol=1e-12)


def test_parallel_rays_in_one_direction(rng):
    """A hairpin sweeps 0 or ±2π: which side is left shows only in the order of its rays."""
    hairpin = np.array([[5.0, -1.0], [0.0, -1.0], [0.0, 1.0], [5.0, 1.0]])  # the outside is on the left
    points, expected = np.array([[1.0, 0.0], [-3.0, 0.0], [2.0, 5.0], [2.0, -5.0], [1e6, 0.5]]), [1, -3, -4, -4, 0.5]
    for angle in np.concatenate([np.pi / 4 * np.arange(8), rng.uniform(0, 7, 50)]):  # rounding tilts the rays
        p, v = turned(points, angle), turned(hairpin, angle)
        np.testing.assert_allclose(ops.curve_distance(p, v, **RAYS), expected, rtol=1e-9)
        np.testing.assert_allclose(ops.curve_distance(p, v[::-1], **RAYS), np.negative(expected), rtol=1e-9)
        small = ops.curve_distance(p[:4].astype(np.float32), v.astype(np.float32), **RAYS)
        np.testing.assert_allclose(small, expected[:4], rtol=1e-5)
        for tilt in (1e-3, 0.3, 1.2, 1.6, 2.5, 3.1):  # opened, up to the rays pointing nearly backwards
            v = hairpin.copy()
            v[0], v[3] = v[1] + turned(np.array([1.0, 0.0]), -tilt), v[2] + turned(np.array([1.0, 0.0]), tilt)
            v[[0, 3]], near = v[[0, 3]], np.array([[1.0, 0.0], [-0.01, 0.0]])
            if tilt > 3:
                v[1:3, 0] += 5  # as far as the rays go back, the middle stays in front
                near = near + np.array([5.0, 0.0])
            signs = np.sign(ops.curve_distance(turned(near, angle), turned(v, angle), **RAYS))
            np.testing.assert_array_equal(signs, [1, -1])


def test_equals_the_cone_and_max_pooling(rng):
    theta = np.concatenate([rng.uniform(0, np.pi, 30), [1e-9, 1e-3, np.pi / 2, np.pi]])
    x = 3 * rng.normal(size=(300, 2 * len(theta)))
    c, s, zero = np.cos(theta / 2), np.sin(theta / 2), np.zeros_like(theta)
    vertices = np.stack([np.stack([c, s], -1), np.stack([zero, zero], -1), np.stack([c, -s], -1)], 1)
    points = np.stack(np.split(x, 2, -1), -1)
    pooled = ops.projection_pool(jnp.asarray(x), jnp.asarray(theta))
    np.testing.assert_allclose(ops.curve_distance(points, vertices, **RAYS), pooled, rtol=1e-12, atol=1e-12)
    corner = 4.0
    vertices = np.array([[corner, -3.0], [corner, corner], [-3.0, corner]])
    points = corner - abs(3 * rng.normal(size=(500, 2)))
    got = ops.curve_distance(points, vertices, **RAYS) + corner
    np.testing.assert_allclose(got, points.max(-1), rtol=1e-12, atol=1e-12)


def test_batches_equal_single_curves(rng):
    vertices, points = rng.normal(size=(2, 3, 5, 2)), rng.normal(size=(4, 2, 3, 2))
    for options in ({}, CLOSED, RAYS):
        together = distance(points, vertices, **options)
        assert together.shape == (4, 2, 3)
        for i, j in np.ndindex(2, 3):
            alone = distance(points[:, i, j], vertices[i, j], **options)
            np.testing.assert_allclose(together[:, i, j], alone, rtol=1e-13, atol=1e-14)
        mapped = jax.vmap(jax.vmap(partial(ops.curve_distance, **options), (1, 0), 1), (1, 0), 1)(points, vertices)
        np.testing.assert_allclose(mapped, together, rtol=1e-13, atol=1e-14)
        broadcast = distance(points[:, :1, :1], vertices, **options)
        same = distance(np.broadcast_to(points[:, :1, :1], points.shape), vertices, **options)
        np.testing.assert_array_equal(broadcast, same)
        gradients = slopes(points, vertices, **options)
        for i, j in np.ndindex(2, 3):
            alone = slopes(points[:, i, j], vertices[i, j], **options)
            np.testing.assert_allclose(gradients[0][:, i, j], alone[0], rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(gradients[1][i, j], alone[1], rtol=1e-11, atol=1e-12)
    assert ops.curve_distance(points[0, 0, 0], vertices[0, 0]).shape == ()
    assert ops.curve_distance(np.zeros((0, 2)), vertices[0, 0], rays=True).shape == (0,)


def test_memory_does_not_grow_with_the_segments(rng):
    def floats_per_point(count, step):
        lowered = jax.jit(step).lower(np.zeros((10_000, 2)), random_curve(rng, count))
        return lowered.compile().memory_analysis().temp_size_in_bytes / 8 / 10_000

    def value(p, v):
        return ops.curve_distance(p, v, **RAYS)

    for step in (value, jax.grad(lambda p, v: value(p, v).sum(), (0, 1))):
        few, many = floats_per_point(5, step), floats_per_point(400, step)
        assert many < few + 4 < 20  # 400 × a few numbers per curve are not free either


# ------------------------------------------------------------------------------------------------- the Lipschitz bound


def adversarial_curves(rng, curves, count):
    """Shapes (curves, count, 2), crossing themselves as they like."""
    v = rng.normal(size=(curves, count, 2))
    kind = np.arange(curves) % 12
    at = {k: kind == k for k in range(12)}
    v[at[1], -2:] = v[at[1], 1::-1] + 1.0  # rays parallel, equal directions
    v[at[2], -1] = v[at[2], -2] + v[at[2], 1] - v[at[2], 0]  # rays opposite
    v[at[3], :2, 1] = v[at[3], :1, 1]  # first ray along the half-line
    v[at[4], -2:, 1] = v[at[4], -1:, 1]  # last one
    v[at[5]] = np.round(v[at[5]])  # a grid: vertices on the half-lines of others, repeats, rays over segments
    v[at[6], :, 1] *= 1e-16  # everything nearly along it
    v[at[6], :, 1] += 1.0
    v[at[7], 1:3] = v[at[7], :1]  # repeated first vertex, zero-length end
    v[at[8], -2:] = v[at[8], -3:-2]  # repeated last vertex
    v[at[9]] = v[at[9], :1]  # a point
    v[at[10]] = turned(np.round(v[at[10]]), 1.0)  # the grid at one radian
    v[at[11]] = v[at[11], :1] + 1e-9 * v[at[11]]  # a tiny curve, away from the origin
    return v


def adversarial_pairs(rng, v, number):
    """(number, curves, 2) twice: near vertices, on prolonged segments, on bisectors, across the curve, far away."""
    curves, count, _ = v.shape
    index = rng.integers(0, count, (number, curves))
    a = v[np.arange(curves), index]
    b = v[np.arange(curves), (index + 1) % count]
    c = v[np.arange(curves), (index + 2) % count]
    t = rng.uniform(-2, 3, (number, curves, 1))
    tiny = 10.0 ** rng.uniform(-17, 0, (number, curves, 1))
    choices = [
        a + tiny * rng.normal(size=a.shape),  # at a vertex
        a + t * (b - a),  # on a line
        a + t * (b - a) + tiny * rng.normal(size=a.shape),
        np.stack([a[..., 0] + 5 * rng.normal(size=index.shape), a[..., 1]], -1),  # a vertex on the half-line
        b + t * ((a - b) + (c - b)),  # near a bisector
        10 * rng.normal(size=a.shape),
        1e8 * rng.normal(size=a.shape),
    ]
    x = np.choose(rng.integers(0, len(choices), (number, curves, 1)), choices)
    normal = np.stack([-(b - a)[..., 1], (b - a)[..., 0]], -1)
    moves = [
        tiny * rng.normal(size=a.shape),
        tiny * normal,
        2 * tiny * (a - x),  # through a vertex, to its other side
        np.stack([np.zeros(index.shape), tiny[..., 0] * rng.normal(size=index.shape)], -1),
        5 * rng.normal(size=a.shape),
        np.nextafter(x, x[..., ::-1]) - x,
    ]
    return x, x + np.choose(rng.integers(0, len(moves), (number, curves, 1)), moves)


@pytest.mark.parametrize("options", [{}, {"closed": True}, {"rays": True}, CLOSED, RAYS], ids=str)
def test_one_lipschitz_on_a_million_pairs(rng, options):
    """10⁶ pairs for each kind and V; self-crossing curves, traced; two of the scales are extreme."""
    if not options.get("signed"):
        counts, number = (4,), 8334
    else:
        counts, number = (2, 3, 4, 9), 2084
    worst = -np.inf
    for count in counts:
        v = adversarial_curves(rng, 120, max(count, 3))[:, :count]
        x, y = adversarial_pairs(rng, v, number)
        for scale in (1.0, 2.0**400, 2.0**-400) if count == 4 else (1.0,):
            p, q, w = scale * x, scale * y, scale * v
            moved = abs(np.asarray(distance(p, w, **options)) - np.asarray(distance(q, w, **options)))
            apart = np.hypot(*np.moveaxis(p - q, -1, 0))
            size = np.hypot(*np.moveaxis(p, -1, 0)) + np.hypot(*np.moveaxis(q, -1, 0))
            size += np.hypot(*np.moveaxis(w, -1, 0)).max(-1)
            assert np.isfinite(moved).all()
            worst = max(worst, ((moved - apart)[size > 0] / (EPS * size[size > 0])).max())
    assert worst <= 8


def test_prolonged_segments_do_not_change_the_sign(rng):
    """Points far behind a segment that runs along a fixed direction, where heights are equal up to rounding."""
    for angle in np.concatenate([[0.0, 1.0, np.pi / 2, np.pi], rng.uniform(0, 7, 20)]):
        along, across = turned(np.array([1.0, 0.0]), angle), turned(np.array([0.0, 1.0]), angle)
        corner = rng.normal(size=(200, 1, 2))
        v = np.concatenate(
            [corner + along - across, corner + along, corner + 2 * along, corner + 2 * along + across], 1
        )
        p = corner[:, 0] + rng.uniform(-5, 0.5, (500, 200, 1)) * along + 1e-16 * rng.normal(size=(500, 200, 1)) * across
        for options in (RAYS, CLOSED):
            d = np.asarray(distance(p, v, **options))
            assert (np.sign(d) == np.sign(d[:1])).all()


# -------------------------------------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("options", [{}, {"closed": True}, {"rays": True}, CLOSED, RAYS], ids=str)
def test_gradients_against_finite_differences(rng, options):
    vertices, points = rng.normal(size=(6, 5, 2)), 2 * rng.normal(size=(40, 6, 2))

    def values(p, v):
        return distance(p, v, **options)

    h = 1e-6
    directions = rng.normal(size=(8, *points.shape)), rng.normal(size=(8, *vertices.shape))
    agree = 0
    for p_dot, v_dot in zip(*directions, strict=True):
        for one, other in ((p_dot, 0 * v_dot), (0 * p_dot, v_dot), (p_dot, v_dot)):
            value, slope = jax.jvp(values, (points, vertices), (one, other))
            forward = (values(points + h * one, vertices + h * other) - value) / h
            backward = (value - values(points - h * one, vertices - h * other)) / h
            smooth = abs(forward - backward) < 1e-3  # a tie within h makes them differ by O(1)
            agree += smooth.mean() / 24
            np.testing.assert_allclose(slope[smooth], ((forward + backward) / 2)[smooth], rtol=1e-5, atol=1e-6)
            cotangent = rng.normal(size=value.shape)
            gp, gv = jax.vjp(values, points, vertices)[1](jnp.asarray(cotangent))
            np.testing.assert_allclose((gp * one).sum() + (gv * other).sum(), (cotangent * slope).sum(), rtol=1e-10)
    assert agree > 0.97
    gp = jax.grad(lambda p: values(p, vertices).sum())(points)
    np.testing.assert_allclose(np.hypot(gp[..., 0], gp[..., 1]), 1, rtol=1e-12)


def test_gradients_are_finite_everywhere(rng):
    v = adversarial_curves(rng, 60, 6)
    points = np.concatenate([np.moveaxis(v, 1, 0), np.moveaxis((v + np.roll(v, -1, 1)) / 2, 1, 0)])
    points = np.concatenate([points, np.nextafter(points, 1e9), np.full_like(points, 3e7)])
    for options in ({}, {"closed": True}, {"rays": True}, CLOSED, RAYS):
        gp, gv = slopes(points, v, **options)
        assert np.isfinite(gp).all()
        assert np.isfinite(gv).all()
        assert (np.hypot(gp[..., 0], gp[..., 1]) <= 1 + 1e-9).all()
    for vertex in v[0, 1:3]:
        np.testing.assert_array_equal(jax.grad(lambda p: distance(p, v[0], **RAYS))(vertex), 0)


def test_float32_and_other_types(rng):
    points, vertices = rng.normal(size=(100, 2)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
    small = distance(points, vertices, **RAYS)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, distance(points.astype(float), vertices.astype(float), **RAYS), atol=2e-6)
    gp, gv = jax.grad(lambda p, v: distance(p, v, **RAYS).sum(), (0, 1))(points, vertices)
    assert gp.dtype == gv.dtype == np.float32
    assert distance(points.astype(jnp.bfloat16), vertices.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert ops.curve_distance(np.array([3, 4]), np.array([[0, 0], [-1, 0]])) == 5
    assert np.isnan(ops.curve_distance(np.array([np.nan, 0.0]), vertices))


def test_without_checks(rng):
    points, vertices = rng.normal(size=(50, 3, 2)), rng.normal(size=(3, 6, 2))
    got = curves.signed_distance_to_rays(points[..., 0], points[..., 1], vertices)
    np.testing.assert_allclose(got, distance(points, vertices, **RAYS), rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------- repeated vertices, bad input


@pytest.mark.parametrize("options", [{}, {"closed": True}, {"rays": True}, CLOSED, RAYS], ids=str)
def test_repeated_vertices_change_nothing(rng, options):
    vertices, points = star(rng, 5), rng.normal(size=(300, 2))
    if options == RAYS:
        vertices = vertices[[0, 1, 2]]
    expected = ops.curve_distance(points, vertices, **options)
    for repeats in ([2, 1, 1], [1, 2, 1]):
        repeats = repeats + [1] * (len(vertices) - 3)
        for times in (repeats, repeats[::-1]):
            got = ops.curve_distance(points, np.repeat(vertices, times, 0), **options)
            np.testing.assert_allclose(got, expected, rtol=1e-13)
    gradient = slopes(points, np.repeat(vertices, 2, 0), **options)[1]
    plain = slopes(points, vertices, **options)[1]
    np.testing.assert_allclose(gradient.reshape(-1, 2, 2).sum(1), plain, rtol=1e-10, atol=1e-12)
    point = np.zeros((3, 2))
    if not options.get("signed"):
        np.testing.assert_allclose(ops.curve_distance(points, point, **options), np.hypot(*points.T), rtol=1e-13)


SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
REFUSED = [
    (SQUARE[[0, 2, 1, 3]], True),  # a figure of eight
    (SQUARE[:2], True),  # there and back
    (SQUARE[[0, 0, 1, 1]], True),
    (SQUARE[[0, 1, 2, 1]], True),
    (np.array([[0.0, 0], [4, 0], [4, 4], [2, 0], [0, 4]]), True),  # a vertex on an edge
    (np.array([[0.0, 0], [4, 0], [4, 4], [0, 0], [-4, 4]]), True),  # a vertex on a vertex
    (np.array([[0.0, 0], [4, 0], [4, 1], [3, 0], [1, 0], [0, 1]]), True),  # an edge on an edge
    (SQUARE[[0, 0]], False),  # a point
    (SQUARE[[0, 1, 0]], False),  # there and back
    (np.array([[0.0, 0], [4, 0], [4, 4], [2, 2], [2, -2]]), False),
    (np.array([[-1.0, -1], [0, 0], [0, 5], [3, 5], [2, 4]]), False),  # the last ray meets the first segment
    (np.array([[0.0, 1], [0, 0], [4, 0], [3, 1]]), False),  # the rays meet
    (np.array([[0.0, 2], [0, 1], [1, 1], [1, 3], [0, 3], [0, 4]]), False),  # a ray on a ray
    (np.array([[0.0, 0], [1, 0], [1, 1], [-3, 1], [-3, 0], [-2, 0]]), False),  # rays towards one another
]


@pytest.mark.parametrize(("vertices", "closed"), REFUSED)
def test_refuses_to_sign_curves_that_cross_themselves(vertices, closed):
    options = {"closed": closed, "rays": not closed}
    for angle in np.pi / 2 * np.arange(4):
        quarter = np.round(turned(vertices, angle))
        for v in (quarter, quarter[::-1], np.repeat(quarter, 2, 0), quarter.astype(np.float32)):
            with pytest.raises(ValueError, match="neither cross nor touch themselves"):
                ops.curve_distance(np.zeros(2), v, signed=True, **options)
            assert np.isfinite(ops.curve_distance(np.zeros(2), v, **options))
            assert np.isfinite(distance(np.zeros(2), v, signed=True, **options))
    fine = SQUARE if closed else SQUARE[[0, 1, 2]]
    fine = fine[np.minimum(np.arange(len(vertices)), len(fine) - 1)] if len(vertices) >= len(fine) else None
    if fine is not None:
        ops.curve_distance(np.zeros(2), fine, signed=True, **options)
        with pytest.raises(ValueError, match="neither cross nor touch"):  # one of a batch
            ops.curve_distance(np.zeros((2, 2)), np.stack([fine, vertices]), signed=True, **options)


def test_bad_input(rng):
    zero, line = np.zeros(2), np.array([[0.0, 0.0], [1.0, 0.0]])
    for vertices in (np.zeros((1, 2)), np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(2), np.zeros((4, 1, 2))):
        with pytest.raises(ValueError, match=r"vertices must be \(\*B, V, 2\) with V >= 2, got"):
            ops.curve_distance(zero, vertices)
    for points, vertices in ((np.zeros(3), line), (np.zeros((5, 2)), np.zeros((4, 3, 2))), (zero, np.zeros((4, 3, 2)))):
        with pytest.raises(ValueError, match=r"points must be \(…, \*B, 2\) for vertices"):
            ops.curve_distance(points, vertices)
    with pytest.raises(ValueError, match="points must be"):
        ops.curve_distance(np.float64(1.0), line)
    with pytest.raises(ValueError, match="closed or has rays, not both"):
        ops.curve_distance(zero, line, closed=True, rays=True)
    with pytest.raises(ValueError, match="signed=True needs closed=True or rays=True"):
        ops.curve_distance(zero, line, signed=True)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="vertices must be finite"):
            ops.curve_distance(zero, np.array([[0.0, bad], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="vertices must be finite"):
        ops.curve_distance(np.float32([0, 0]), np.float32([[0, np.inf], [1, 0]]))
    eight = SQUARE[[0, 2, 1, 3]]
    with pytest.raises(ValueError, match="neither cross nor touch"):  # a constant inside jit is no tracer
        jax.jit(lambda p: ops.curve_distance(p, eight, **CLOSED))(zero)


def test_checks_of_many_segments_are_quick(rng):
    vertices = np.stack([star(rng, 200) for _ in range(20)])
    assert (ops.curve_distance(np.zeros((20, 2)), vertices, **CLOSED) < 0).all()
