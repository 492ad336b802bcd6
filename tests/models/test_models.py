import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax import ops
from lipjax.layers.activations import MaxMin
from lipjax.layers.layer import Proof
from lipjax.layers.pooling import ProjectionPool
from lipjax.layers.skew_orthogonal_conv import HEADROOM, RAW_NORM, SkewOrthogonalConv, held_polynomial
from lipjax.models.lipconvnet import architecture
from lipjax.models.network import fold, proof_of
from lipjax.ops.convolution import dense_operator


def settled(model, variables, times=20):
    """`model.settled`, which takes 50 power steps, so many times."""
    for _ in range(times):
        variables = model.settled(variables)
    return variables


def layer_bounds(model, variables):
    proof = proof_of(model.parts()[0], variables, model.shape_of_images())
    return {name: link.lipschitz for name, link in proof.links()}


POLYNOMIALS = {"held": held_polynomial(4, 1.9), "paper": ops.taylor(6)}


@pytest.fixture(scope="module", params=POLYNOMIALS)
def network(request):
    polynomial = POLYNOMIALS[request.param]
    model = lipjax.LipConvnet(
        init_channels=4, input_size=8, in_channels=2, num_classes=5, std=0.5, polynomial=polynomial
    )
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))


@pytest.mark.parametrize("depth", range(5, 41, 5))
@pytest.mark.parametrize("size", [4, 8, 16, 32, 64])
def test_architecture(depth, size):
    """Paper, Table 2: 1 + (depth/5)·log2(size) convolutions; channels double and pixels quarter from block to block."""
    blocks = int(np.log2(size))
    steps = architecture(depth, 32, size, 3, pool_last=True)
    assert len(steps) == 1 + depth // 5 * blocks
    assert (steps[0].size, steps[0].features, steps[0].rearrange, steps[0].pool) == ((size, size), 32, False, False)
    assert [step.kernel_size for step in steps] == [3] * (1 + depth // 5 * (blocks - 1)) + [1] * (depth // 5)
    assert sum(step.rearrange for step in steps) == sum(step.pool for step in steps) == blocks
    channels, pixels = 32, size
    for step in steps[1:]:
        if step.rearrange:
            channels, pixels = 4 * channels, pixels // 2
        assert (step.in_channels, step.features, step.size) == (channels, channels, (pixels, pixels))
        if step.pool:
            channels //= 2
    assert (pixels, channels) == (1, 32 * size)
    last_block = steps[-(depth // 5) :]
    assert [step.rearrange for step in last_block] == [True] + [False] * (depth // 5 - 1)
    for b in range(blocks - 1):
        block = steps[1 + b * depth // 5 : 1 + (b + 1) * depth // 5]
        assert [step.rearrange for step in block] == [False] * (depth // 5 - 1) + [True]


@pytest.mark.parametrize(
    ("depth", "size", "in_channels", "init_channels"), [(5, 4, 1, 2), (10, 16, 3, 4), (15, 8, 7, 4)]
)
def test_shapes(depth, size, in_channels, init_channels):
    model = lipjax.LipConvnet(depth, init_channels, size, in_channels, num_classes=3)
    images = jnp.zeros((2, size, size, in_channels))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 3)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    assert features.shape == (2, init_channels * size)


PAPER = [  # LipConvnet-10 of 8×8 grey images, init_channels 4: written down before images of other shapes were taken
    ("stem", 0, False, (8, 8), 1, 4, 3, False),
    ("block1_conv0", 1, False, (8, 8), 4, 4, 3, False),
    ("block1_conv1", 1, True, (4, 4), 16, 16, 3, True),
    ("block2_conv0", 2, False, (4, 4), 8, 8, 3, False),
    ("block2_conv1", 2, True, (2, 2), 32, 32, 3, True),
    ("block3_conv0", 3, True, (1, 1), 64, 64, 1, False),
    ("block3_conv1", 3, False, (1, 1), 64, 64, 1, True),
]


def test_squares_of_a_power_of_two_keep_the_network_of_the_paper():
    model = lipjax.LipConvnet(10, 4, input_size=8, in_channels=1)
    assert [tuple(step) for step in model.steps()] == PAPER
    assert next(iter(model.parts()[0].layers))[0] == "input"
    assert lipjax.LipConvnet(10, 4, input_size=(8, 8), in_channels=1) == model


@pytest.mark.parametrize(
    ("size", "options", "padded", "last"),
    [
        ((28, 28), {}, (32, 32), (1, 1)),
        ((12, 20), {}, (16, 32), (1, 2)),
        ((20, 12), {}, (32, 16), (2, 1)),
        ((96, 96), {}, (128, 128), (1, 1)),
        ((96, 96), {"blocks": 5}, (96, 96), (3, 3)),
        ((224, 224), {"patch": 4, "blocks": 3}, (224, 224), (7, 7)),
        ((9, 100), {"patch": 2}, (16, 112), (1, 7)),
        ((1, 3), {}, (4, 4), (1, 1)),
        ((33, 64), {"blocks": 1}, (34, 64), (17, 32)),
    ],
)
def test_images_of_any_size_are_padded_to_the_next_that_fits(size, options, padded, last):
    model = lipjax.LipConvnet(5, 2, input_size=size, in_channels=1, num_classes=3, **options)
    unit = options.get("patch", 1) * 2 ** model.num_blocks()
    assert model.padded_size() == padded
    assert all(0 <= after - before < unit for before, after in zip(size, padded, strict=True))
    assert (model.steps()[-1].size, model.image_shape) == (last, (*size, 1))
    images = jnp.zeros((2, *size, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, images)
    assert features.shape == (2, 2 * padded[0] * padded[1] // unit // options.get("patch", 1))


def test_a_padded_network_is_that_of_the_images_in_a_border(rng):
    """As datasets surrounded 6×6 images before: the same variables, and the same features and radii of the images."""
    options = {"init_channels": 2, "in_channels": 2, "num_classes": 3, "std": 0.5}
    small, large = (lipjax.LipConvnet(input_size=size, **options) for size in (6, 8))
    images = rng.random((4, 6, 6, 2)).astype(np.float32)
    around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    variables = jax.jit(small.init)(jax.random.key(0), images[:1])
    for a, b in zip(
        *map(jax.tree.leaves, (variables, jax.jit(large.init)(jax.random.key(0), around[:1]))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    variables = small.tightened(variables)
    ours, theirs = lipjax.prove(small, variables), lipjax.prove(large, variables)
    assert ours.lipschitz_bound == theirs.lipschitz_bound
    radii = ours.certify(images).radius
    assert radii.min() > 0
    np.testing.assert_allclose(radii, theirs.certify(around).radius, rtol=1e-9)


@pytest.mark.parametrize(("size", "options"), [((3, 5), {}), ((6, 6), {"blocks": 1})])
def test_bounds_of_rectangles_hold_and_are_close_layer_by_layer(size, options, rng, float64):
    model = lipjax.LipConvnet(init_channels=2, input_size=size, in_channels=1, num_classes=3, std=0.5, **options)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *size, 1)))
    variables = model.tightened(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), variables))
    bounds = layer_bounds(model, variables)
    assert bounds.get("border", 1) == 1
    for step in model.steps():
        layer = SkewOrthogonalConv(step.features, step.kernel_size, model.polynomial)
        own = {collection: variables[collection][step.name] for collection in ("params", "spectral")}
        shape = (*step.size, step.in_channels)
        jacobian = jax.jacobian(lambda x, layer=layer, own=own: layer.apply(own, x[None])[0])(jnp.zeros(shape))
        norm = np.linalg.norm(np.asarray(jacobian).reshape(-1, int(np.prod(shape))), 2)
        assert norm <= bounds[step.name] * (1 + 1e-12)
        assert bounds[step.name] <= 1.01 * norm
    x = rng.random((*size, 1))
    jacobian = jax.jacobian(lambda x: model.apply(variables, x[None], method="features").ravel())(x)
    norm = np.linalg.norm(np.asarray(jacobian).reshape(-1, x.size), 2)
    assert 0.5 * model.lipschitz_bound(variables) < norm <= model.lipschitz_bound(variables)
    images = rng.random((3, *size, 1))
    folded, own = fold(model, variables)
    proofs = lipjax.prove(model, variables), lipjax.prove(folded, own)
    np.testing.assert_allclose(*(proof.certify(images).radius for proof in proofs), rtol=2e-2)


def test_features_are_lipschitz_with_the_stated_bound(network):
    model, variables = network
    bound = model.lipschitz_bound(variables)
    assert 2.0 <= bound <= 2.0 * 1.03  # 1/std times layers whose gain is at most 1.0048 each
    rng = np.random.default_rng(0)
    x = rng.random((64, 8, 8, 2))
    for scale in (1.0, 1e-2):
        y = x + scale * rng.normal(size=x.shape)
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), variables)
            g = model.apply(double, jnp.asarray(np.concatenate([x, y])), method="features")
        assert g.dtype == np.float64
        distances = np.linalg.norm(np.asarray(g[:64] - g[64:]), axis=1)
        inputs = np.linalg.norm((x - y).reshape(64, -1), axis=1)
        assert (distances <= bound * inputs).all()
        assert (distances > 0.1 * bound * inputs).any()


def test_layer_bound_is_above_the_singular_values_and_close(network):
    model, variables = network
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), variables)
        for step in model.steps():
            layer = SkewOrthogonalConv(step.features, step.kernel_size, model.polynomial)
            own = {collection: double[collection][step.name] for collection in ("params", "spectral")}
            shape = (*step.size, step.in_channels)
            jacobian = jax.jacobian(lambda x, layer=layer, own=own: layer.apply(own, x[None])[0])(jnp.zeros(shape))
            norm = np.linalg.norm(np.asarray(jacobian).reshape(-1, int(np.prod(shape))), 2)
            bound = layer.proof(own, shape).lipschitz
            assert norm <= bound * (1 + 1e-12)
            assert bound <= 1.01 * norm


def test_bound_asks_activation_and_pooling(network, monkeypatch):
    model, variables = network
    monkeypatch.setattr(MaxMin, "proof", lambda self, own, shape: Proof("", 3.0, ""))
    activations = sum(not step.pool for step in model.steps())
    np.testing.assert_allclose(
        model.lipschitz_bound(variables),
        3.0**activations
        * np.prod([b for name, b in layer_bounds(model, variables).items() if "activation" not in name]),
        rtol=1e-12,
    )
    assert activations > 0


def test_bound_of_a_tiny_float64_kernel(rng, float64):
    """The layer divides by the tracked norm, however small; the bound must not take a larger one."""
    layer = SkewOrthogonalConv(4)
    kernel = jnp.asarray(1e-42 * rng.normal(size=(3, 3, 4, 4)))
    image = jnp.zeros((4, 4, 4))
    own = {"params": {"kernel": kernel, "bias": jnp.zeros(4)}, "spectral": {"image": image, "norm": jnp.asarray(1e-42)}}
    jacobian = jax.jacobian(lambda x: layer.apply(own, x[None])[0])(image)
    norm = np.linalg.norm(np.asarray(jacobian).reshape(64, 64), 2)
    assert norm > 1.5
    assert norm <= layer.proof(own, (4, 4, 4)).lipschitz * (1 + 1e-12)


def test_bound_with_unequal_std_takes_the_smallest(network):
    model, variables = network
    unequal = model.clone(std=(0.25, 0.5))
    np.testing.assert_allclose(unequal.lipschitz_bound(variables), 2 * model.lipschitz_bound(variables), rtol=1e-12)


def test_bound_holds_with_cold_power_vectors(network):
    """Whatever the tracked norms are, the bound is that of the kernels which result."""
    model, variables = network
    cold = jax.tree.map(lambda v: v * 0.3, variables["spectral"])
    bound = model.lipschitz_bound({**variables, "spectral": cold})
    assert bound > 100 * model.lipschitz_bound(variables)


def test_eval_polynomial_is_used_in_evaluation_only(network):
    model, variables = network
    other = model.clone(eval_polynomial=ops.taylor(3))
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2))
    same = model.clone(polynomial=dataclasses.replace(ops.taylor(3), norm=model.polynomial.norm))
    evaluated, trained = (other.apply(variables, x, train=train) for train in (False, True))
    np.testing.assert_allclose(evaluated, same.apply(variables, x), rtol=1e-6)
    assert np.abs(evaluated - trained).max() > 1e-3


def test_power_vectors_move_only_in_training(network):
    model, variables = network
    cold = jax.tree.map(lambda v: jnp.ones_like(v) / v.size**0.5, variables["spectral"])
    variables = {**variables, "spectral": cold}
    x = jnp.zeros((1, 8, 8, 2))
    _, updated = model.apply(variables, x, train=True, mutable=["spectral"])
    _, still = model.apply(variables, x, train=False, mutable=["spectral"])
    assert all(
        np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (updated["spectral"], cold)), strict=True)
    )
    jax.tree.map(np.testing.assert_array_equal, still.get("spectral", cold), cold)


def test_settle_reaches_the_norm(network):
    model, variables = network
    cold = jax.tree.map(lambda v: jnp.ones_like(v) / v.size**0.5, variables["spectral"])
    warm = settled(model, {**variables, "spectral": cold}, 6)
    assert jax.tree.structure(warm) == jax.tree.structure(dict(variables))
    np.testing.assert_allclose(
        model.lipschitz_bound(warm), model.lipschitz_bound(settled(model, variables, 6)), rtol=1e-3
    )


def operator_norms(model, variables):
    """The true norm of each layer's normalised operator, dense."""
    norms = {}
    for step in model.steps():
        kernel = np.asarray(variables["params"][step.name]["kernel"], float)
        kernel = (kernel - np.flip(kernel, (0, 1)).swapaxes(2, 3)) / 2
        scale = model.polynomial.norm / HEADROOM / float(variables["spectral"][step.name]["norm"])
        norms[step.name] = np.linalg.norm(dense_operator(kernel * scale, *step.size), 2)
    return norms


@pytest.fixture(scope="module")
def held():
    model = lipjax.LipConvnet(init_channels=4, input_size=8, in_channels=2, num_classes=5)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))


def test_norms_are_held_at_the_layer_resolution(held):
    model, variables = held
    for norm in operator_norms(model, settled(model, variables)).values():
        np.testing.assert_allclose(norm, 1.9, rtol=1e-5)


def test_held_norms_follow_the_kernels_in_training(held):
    """One step a call from a kernel that has changed; the gradient knows that the norm stays."""
    model, variables = held
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 2))
    params = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(2), p.shape), variables["params"])
    moved = {**variables, "params": params}
    assert max(operator_norms(model, moved).values()) > 1.92
    for _ in range(100):
        _, updated = model.apply(moved, x, train=True, mutable=["spectral"])
        moved = {**moved, "spectral": {**moved["spectral"], **updated["spectral"]}}
    np.testing.assert_allclose(list(operator_norms(model, moved).values()), 1.9, rtol=1e-2)

    layer = SkewOrthogonalConv(4)
    variables = layer.init(jax.random.key(0), x)
    gradient = jax.grad(
        lambda k: layer.apply({**variables, "params": {**variables["params"], "kernel": k}}, x, train=True)[0, 0, 0, 0]
    )(variables["params"]["kernel"])
    kernel = variables["params"]["kernel"]
    assert abs(jnp.vdot(gradient, kernel)) < 1e-4 * jnp.linalg.norm(gradient) * jnp.linalg.norm(kernel)


def test_projection_changes_the_scale_of_raw_kernels_only(held):
    model, variables = held
    variables = settled(model, variables)
    own = ProjectionPool().projected({"params": {"theta": jnp.array([-1.0, 1.0, 4.0])}})
    np.testing.assert_allclose(own["params"]["theta"], [0, 1, np.pi], rtol=1e-6)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2))
    projected = model.projected(variables)
    np.testing.assert_allclose(model.apply(projected, x), model.apply(variables, x), rtol=0, atol=1e-5)
    assert all(own["norm"] == RAW_NORM for own in projected["spectral"].values())
    after = settled(model, projected)["spectral"]
    np.testing.assert_allclose([own["norm"] for own in after.values()], RAW_NORM, rtol=1e-5)


def test_projection_leaves_the_kernels_of_paper_networks():
    model = lipjax.LipConvnet(init_channels=2, input_size=4, in_channels=1, polynomial=ops.taylor(6))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    jax.tree.map(np.testing.assert_array_equal, model.projected(variables), dict(variables))


def test_tightened_networks_are_one_lipschitz_by_proof(held, monkeypatch):
    """Norms tracked too low leave the interval: the bound says so, tightening brings them back and changes no other."""
    model, variables = held
    good = model.tightened(settled(model, variables))
    assert model.lipschitz_bound(good) <= (1 / 0.2507) * (1 + 1e-6)
    assert all(layer_bounds(model, good)[step.name] <= 1 for step in model.steps())
    low = jax.tree.map(lambda leaf: leaf, good)
    low["spectral"]["block1_conv0"]["norm"] *= 0.8
    bounds = layer_bounds(model, low)
    assert bounds["block1_conv0"] > 1.05
    layer = SkewOrthogonalConv(16, polynomial=model.polynomial)
    own = {collection: low[collection]["block1_conv0"] for collection in low}
    monkeypatch.setattr(SkewOrthogonalConv, "settled", lambda self, own: own)  # or it raises the norm itself
    tight = {**low, "spectral": {**low["spectral"], "block1_conv0": layer.tightened(own, (4, 4, 16))["spectral"]}}
    assert all(bound <= 1 for name, bound in layer_bounds(model, tight).items() if name != "input")
    norms = operator_norms(model, tight)
    assert model.polynomial.norm / 1.02 <= norms["block1_conv0"] <= model.polynomial.norm
    for name, own in tight["spectral"].items():
        if name != "block1_conv0":
            assert own["norm"] == good["spectral"][name]["norm"]


def test_tightening_leaves_paper_networks_as_they_are():
    model = lipjax.LipConvnet(init_channels=2, input_size=4, in_channels=1, polynomial=ops.taylor(6))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    jax.tree.map(np.testing.assert_array_equal, model.tightened(variables), dict(variables))


def test_held_norms_without_their_variables(held):
    model, variables = held
    with pytest.raises(ValueError, match="no 'spectral' collection, its tracked norms"):
        model.apply({"params": variables["params"]}, jnp.zeros((1, 8, 8, 2)))


def test_no_held_norm_without_interval():
    with pytest.raises(ValueError, match="was made for no interval"):
        _ = SkewOrthogonalConv(4, polynomial=ops.taylor(6)).held_norm


def test_channel_cut_and_padding():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    for features in (2, 6, 8):
        layer = SkewOrthogonalConv(features)
        variables = jax.jit(layer.init)(jax.random.key(1), x)
        assert variables["params"]["kernel"].shape == (3, 3, max(6, features), max(6, features))
        assert layer.apply(variables, x).shape == (2, 4, 4, features)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"depth": 12}, r"^depth=12: must be a multiple of 5 from 5 to 40"),
        ({"init_channels": 5}, r"^init_channels=.*: must be an even number"),
        ({"input_size": 0}, r"^input_size=0: must be an integer >= 1, or two of them, \(height, width\)"),
        ({"input_size": (4, 4, 3)}, r"^input_size=\(4, 4, 3\): must be an integer >= 1, or two"),
        ({"input_size": (8, 2.5)}, r"^input_size=\(8, 2.5\): must be an integer >= 1, or two"),
        ({"blocks": 6}, r"^blocks=6: must be an integer from 1 to 5, or None"),
        ({"blocks": 4, "patch": 4}, r"^blocks=4: must be an integer from 1 to 3, or None"),
        ({"input_size": 3, "patch": 2}, r"^patch=2: must be a power of two <= 1"),
        ({"num_classes": 1}, r"^num_classes=.*: must be an integer >= 2"),
        ({"head": "mlp"}, r"^head='mlp': must be one of .*'lln'.*"),
        ({"pooling": "mean"}, r"^pooling=.*: must be one of"),
        ({"activation": "relu"}, r"^activation=.*: must be one of"),
        ({"gradient": "slow"}, r"^gradient=.*: must be one of"),
        ({"polynomial": 6}, r"^polynomial=.*: must be a Polynomial"),
        ({"std": 0.0}, r"^std=.*: must be from 1e-30 to 1e\+30"),
        ({"std": (0.1, 0.2)}, r"^std=.*: must be a number or 3 numbers"),
        ({"mean": (0.1, np.nan, 0.1)}, r"^mean=.*: must be finite"),
    ],
)
def test_bad_attributes(attributes, text):
    with pytest.raises(ValueError, match=text):
        lipjax.LipConvnet(**attributes)


def test_bad_images(network):
    model, variables = network
    with pytest.raises(ValueError, match=r"images must have shape \(N, 8, 8, 2\), got \(1, 16, 16, 2\)"):
        model.apply(variables, jnp.zeros((1, 16, 16, 2)))
