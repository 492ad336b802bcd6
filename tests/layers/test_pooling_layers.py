import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax import ops
from lipjax.layers import ACTIVATIONS, POOLINGS
from lipjax.layers.activations import Householder, Householder2, MaxMin
from lipjax.layers.pooling import PointPool, PolylinePool, ProjectionPool

CHANNELS = 24
LAYERS = {
    "cone": ProjectionPool(),
    "polyline 3": PolylinePool(3),
    "polyline 4": PolylinePool(),
    "polyline 8 from max": PolylinePool(8, start="max", corner=1.0),
    "point 2": PointPool(),
    "point 3": PointPool(3),
    "point 12": PointPool(12),
    "max_min": MaxMin(),
    "householder": Householder(),
    "householder2": Householder2(),
}
GROUPS = {"point 3": 3, "point 12": 12}


@pytest.fixture(params=LAYERS)
def layer(request, float64):
    """(layer, random parameters, size of its groups)."""
    module = LAYERS[request.param]
    variables = module.init(jax.random.key(0), jnp.zeros((1, CHANNELS)))
    moved = jax.tree.map(lambda p: p + 0.5 * jax.random.normal(jax.random.key(1), p.shape), variables)
    return module, moved, GROUPS.get(request.param, 2)


def test_one_lipschitz_on_each_group(layer, rng):
    module, variables, n = layer
    assert module.proof(variables, (CHANNELS,)).lipschitz == 1.0
    apply = jax.jit(module.apply)
    for scale in (1e-3, 1.0, 1e3):
        x = scale * rng.normal(size=(2000, CHANNELS))
        y = x + scale * 10.0 ** rng.uniform(-8, 1, (2000, 1)) * rng.normal(size=x.shape)
        moved = np.asarray(apply(variables, x) - apply(variables, y)).reshape(2000, -1, CHANNELS // n)
        apart = np.linalg.norm((x - y).reshape(2000, n, CHANNELS // n), axis=1)
        sizes = np.abs(x).max() + np.abs(y).max() + 10
        assert (np.linalg.norm(moved, axis=1) <= apart + 16 * np.finfo(float).eps * sizes).all()
        assert (np.linalg.norm(moved, axis=1) > 0.7 * apart).any()


def test_gradients_are_finite_everywhere(layer):
    module, variables, n = layer
    inputs = [jnp.zeros((1, CHANNELS)), jnp.ones((1, CHANNELS))]
    if "point" in variables.get("params", {}):
        inputs.append(variables["params"]["point"].T.reshape(1, -1))
    for x in inputs:
        gradients = jax.grad(lambda v, x: jnp.sum(module.apply(v, x)), argnums=(0, 1))(variables, x)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        assert np.linalg.norm(np.asarray(gradients[1]).reshape(n, -1), axis=0).max() <= n**0.5 + 1e-12


@pytest.mark.parametrize("vertices", [3, 4, 9])
def test_polylines_start_as_cones(float64, rng, vertices):
    module = PolylinePool(vertices)
    x = jnp.asarray(3 * rng.normal(size=(500, 10)))
    variables = module.init(jax.random.key(3), x)
    corner = np.asarray(variables["params"]["vertices"])[:, vertices // 2]
    np.testing.assert_array_equal(corner, 0)
    first = np.asarray(variables["params"]["vertices"])[:, 0]
    theta = 2 * np.arctan2(first[:, 1], first[:, 0])
    assert ((theta > 0) & (theta < np.pi)).all()
    # Parameters are float32: the vertices of a ray lie on it to 1e-7 only.
    np.testing.assert_allclose(module.apply(variables, x), ops.projection_pool(x, theta), rtol=0, atol=1e-5)


@pytest.mark.parametrize("vertices", [3, 4, 9])
def test_polylines_start_as_max_pooling(float64, rng, vertices):
    module = PolylinePool(vertices, start="max", corner=2.0)
    x = jnp.asarray(2 - 10 * rng.exponential(size=(500, 10)))
    variables = module.init(jax.random.key(3), x)
    np.testing.assert_allclose(module.apply(variables, x), ops.max_pool(x), rtol=1e-12, atol=1e-12)


def test_point_pool_is_the_distance_to_the_point(float64, rng):
    x = rng.normal(size=(7, 12))
    module = PointPool(3)
    variables = module.init(jax.random.key(0), x)
    point = np.asarray(variables["params"]["point"])
    expected = [[np.linalg.norm(row[c::4] - point[c]) for c in range(4)] for row in x]
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-14)


def test_householder_starts_as_max_min_with_halves_swapped(rng):
    x = jnp.asarray(rng.normal(size=(5, 8)), jnp.float32)
    module = Householder()
    y = module.apply(module.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, np.roll(ops.max_min(x), 4, axis=-1), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"pooling": pooling}, {"projection": "theta", "polyline": "vertices", "point": "point"}.get(pooling))
        for pooling in POOLINGS
    ]
    + [({"activation": name}, {"householder": "angle", "householder2": "angle2"}.get(name)) for name in ACTIVATIONS],
)
def test_networks_of_every_kind_are_lipschitz_and_learn_their_manifolds(options, names, rng):
    model = lipjax.LipConvnet(init_channels=4, input_size=8, in_channels=1, num_classes=3, **options)
    x = jnp.asarray(rng.random((4, 8, 8, 1)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    bound = model.lipschitz_bound(model.tightened(variables))
    assert bound <= 1 / 0.2507 * (1 + 1e-6)
    y = x + 1e-2 * jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    a, b = (model.apply(variables, z, method="features") for z in (x, y))
    assert (np.linalg.norm(a - b, axis=1) <= bound * np.linalg.norm((x - y).reshape(4, -1), axis=1) * (1 + 1e-4)).all()
    gradient = jax.grad(lambda p: jnp.sum(model.apply({**variables, "params": p}, x) ** 2))(variables["params"])
    paths = {path[-1].key: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
    assert names is None or np.abs(paths[names]).max() > 0


@pytest.mark.parametrize(
    ("module", "channels", "text"),
    [
        (PolylinePool(2), 4, "num_vertices must be at least 3, got 2"),
        (PolylinePool(start="square"), 4, "start must be one of .*'cone', 'max'.*, got 'square'"),
        (PolylinePool(), 5, "PolylinePool: the number of channels .* must be even"),
        (PointPool(1), 4, "channels must be a multiple of dimensions >= 2, got 4 and 1"),
        (PointPool(3), 4, "channels must be a multiple of dimensions >= 2, got 4 and 3"),
        (ProjectionPool(), 5, "must be even"),
        (Householder(), 5, "must be even"),
    ],
)
def test_bad_input(module, channels, text):
    with pytest.raises(ValueError, match=text):
        module.init(jax.random.key(0), jnp.zeros((1, channels)))


def test_models_refuse_too_few_vertices():
    with pytest.raises(ValueError, match="pool_vertices=2: must be an integer >= 3"):
        lipjax.LipConvnet(pooling="polyline", pool_vertices=2)
