"""LiResNet: trains by the recipe of its paper, and certifies what it has learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lipjax
from lipjax.config import default_config
from lipjax.data import DataOptions, loaded
from lipjax.models.liresnet import liresnet
from lipjax.training.loop import train

SMALL = {"width": 8, "depth": 2, "dense_width": 16, "dense_depth": 2, "neck_stride": 2}


def digits_config(**model):
    config = default_config()
    config.data.name = "digits"
    config.data.crop_padding = 0
    config.data.flip = False
    config.model.name = "liresnet"
    config.model.update({**SMALL, **model})
    config.loss.name = "emma"
    config.loss.epsilon = 0.5
    config.loss.ramp = 0.5
    config.optimizer.name = "nadam"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 3.0
    config.optimizer.lookahead = 6
    config.optimizer.schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.1}
    config.run.epochs = 3
    config.run.batch_size = 64
    return config


def made(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, *model.image_shape)))


def test_it_learns_the_digits_and_certifies_them(tmp_path):
    config = digits_config()
    state = train(config, tmp_path, say=lambda line: None)
    data = loaded(DataOptions("digits"), lambda line: None)
    model = liresnet(data.image_shape, data.num_classes, **SMALL)
    variables = model.tightened({"params": state.params, "spectral": state.spectral})
    proven = lipjax.prove(model, variables)
    estimate = float(model.estimated_bound(variables))
    assert estimate * (1 - 1e-5) <= proven.lipschitz_bound <= 1.03 * estimate
    images = data.test.images[:200].astype(np.float32) / data.pixel_max
    certificate = proven.certify(images, data.test.labels[:200])
    assert np.mean(certificate.radius > 0) > 0.6
    assert np.mean(certificate.radius > 0.25) > 0.3
    assert proven.rounding < 1e-8


def test_parameters_of_the_published_sizes():
    """Counted by hand: 5·5·3·w + w, depth·(9 w² + w + w), 16 w² + w, and so on."""

    def count(**options):
        model = liresnet((32, 32, 3), 10, **options)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    trunk = 75 * 64 + 64 + 6 * (9 * 64**2 + 2 * 64) + 16 * 64**2 + 64
    assert count() == trunk + 1024 * 256 + 256 + 4 * (256**2 + 2 * 256) + 2560 + 10
    assert 82.5e6 < count(width=512, depth=12, dense_width=2048, dense_depth=8) < 83.5e6


OPTIONS = {
    "rectangle": ((9, 6, 2), {}),
    "stride 1": ((6, 6, 1), {"stem_stride": 1, "stem_kernel_size": 3}),
    "patches": ((8, 8, 3), {"stem_stride": 2, "stem_kernel_size": 2, "neck_width": 6}),
    "cayley": ((8, 8, 1), {"dense_kind": "cayley", "activation": "householder"}),
    "no dense layers": ((8, 8, 1), {"dense_depth": 0, "kernel_size": 5}),
    "crc": ((8, 8, 1), {"head": "crc", "hidden": 8}),
    "remat": ((8, 8, 1), {"remat": True, "mean": (0.3,), "std": 0.35}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_bound_holds_and_is_near_the_estimate(name, rng):
    shape, options = OPTIONS[name]
    model = liresnet(shape, 3, **{**SMALL, **options})
    variables = made(model)
    images = rng.uniform(size=(5, *shape)).astype(np.float32)
    for _ in range(3):  # running means
        _, updated = model.apply(variables, images, True, mutable=["spectral"])
        variables = {**variables, **updated}
    variables = model.tightened(variables)
    proven = lipjax.prove(model, variables)
    estimate = float(model.estimated_bound(variables))
    assert estimate * (1 - 1e-3) <= proven.lipschitz_bound <= 1.1 * estimate
    with jax.enable_x64(True):
        features = jax.vmap(jax.jacobian(lambda x: proven.outputs(x[None], jnp.float64)[0][0]))
        jacobians = np.asarray(features(jnp.asarray(images, jnp.float64))).reshape(len(images), -1, np.prod(shape))
    assert np.linalg.norm(jacobians, 2, axis=(1, 2)).max() <= proven.lipschitz_bound
    classes, radii = proven.predict(images)
    assert (radii >= 0).all()
    np.testing.assert_array_equal(classes, np.argmax(model.apply(variables, images), axis=1))
    folded, folded_variables = lipjax.fold(model, variables)
    np.testing.assert_allclose(lipjax.prove(folded, folded_variables).predict(images)[1], radii, rtol=1e-6, atol=1e-9)


def test_recomputed_layers_have_the_same_gradient(rng):
    shape, x = (8, 8, 1), jnp.asarray(rng.uniform(size=(3, 8, 8, 1)), jnp.float32)
    variables, gradients = made(liresnet(shape, 3, **SMALL)), []
    for remat in (False, True):
        model = liresnet(shape, 3, **SMALL, remat=remat)

        def loss(params, model=model):
            logits, updated = model.apply({**variables, "params": params}, x, True, mutable=["spectral"])
            return jnp.sum(jnp.sin(logits)) + model.estimated_bound({**updated, "params": params})

        gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)
    assert np.abs(gradients[0]["trunk0"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 7}, "width=7: must be an even number"),
        ({"depth": 0}, "depth=0: must be"),
        ({"stem_kernel_size": 1}, "stem_kernel_size=1: must be at least stem_stride=2"),
        ({"dense_kind": "qr"}, "dense_kind='qr': must be one of"),
        ({"head": "linear"}, "head='linear': must be one of"),
        ({"neck_width": 3}, "neck_width=3: must be an even number >= 2, or None"),
    ],
)
def test_errors_name_the_option(options, message):
    with pytest.raises(ValueError, match=message):
        liresnet((8, 8, 1), 3, **options)


def test_bfloat16_and_clean_cross_entropy_train(tmp_path):
    config = digits_config(compute_dtype="bfloat16")
    config.loss = {"name": "cross_entropy"}
    config.run.epochs = 1
    state = train(config, tmp_path, say=lambda line: None)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
