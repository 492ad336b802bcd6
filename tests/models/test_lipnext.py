"""LipNeXt: trained, resumed, certified and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import quiet, records, tiny_config

import lipjax
from lipjax.evaluation.split import certify_run
from lipjax.models.lipnext import lipnext
from lipjax.training.loop import train
from lipjax.workdir import load_trained


def config_of(**changes):
    config = tiny_config()
    config.model = {"name": "lipnext", "width": 32, "depth": 2, "patch": 2}
    config.loss = {"name": "emma", "epsilon": 0.25, "trainable_scale": True}
    config.optimizer = {"name": "nadam", "learning_rate": 2e-2, "lookahead": 3, "weight_decay": 0.0}
    config.update_from_flattened_dict({"data.crop_padding": 0, "run.epochs": 8, "run.batch_size": 64, **changes})
    config.update_from_flattened_dict({"run.eval_every": 8})
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, final state) of an unbroken run."""
    workdir = tmp_path_factory.mktemp("lipnext") / "run"
    return workdir, train(config_of(), workdir, say=quiet)


def small(image_shape=(6, 5, 3), **options):
    return lipnext(image_shape, 4, **{"width": 16, "depth": 2, "patch": 2, "shift": 0.25, **options})


def made(model):
    return model.init(jax.random.key(0), jnp.zeros((1, *model.image_shape)))


def test_it_learns_and_is_certified(run):
    workdir, state = run
    assert records(workdir)[-1]["validation_accuracy"] > 0.6
    summary = certify_run(workdir, num_examples=100, say=quiet, attack="fast")
    assert 0.4 < summary["certified_accuracy"]["0.1"] <= summary["standard_accuracy"]
    assert 1 <= summary["lipschitz_bound"] <= 1 + 1e-6
    assert not state.spectral
    for name, tree in state.params.items():
        for matrix in (leaf for leaf in tree.values() if leaf.ndim == 2 and name != "head"):
            matrix = np.asarray(matrix, float) if matrix.shape[0] >= matrix.shape[1] else np.asarray(matrix, float).T
            assert np.linalg.norm(matrix.T @ matrix - np.eye(matrix.shape[1]), 2) < 4e-6


def test_a_stopped_run_resumes_bit_equal(run, tmp_path):
    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("epoch 3/8  loss"):
            raise Stop

    with pytest.raises(Stop):
        train(config_of(), tmp_path, say=stop)
    resumed = train(config_of(), tmp_path, say=quiet)
    jax.tree.map(np.testing.assert_array_equal, resumed, run[1])
    assert records(tmp_path) == records(run[0])


def test_no_distance_grows_and_the_error_of_the_program_is_bounded(run):
    trained = load_trained(run[0])
    proven = lipjax.prove(trained.model, trained.model.tightened(trained.variables))
    assert proven.lipschitz_bound <= 1 + 1e-6
    images = trained.dataset().test.images[:30].astype(np.float64) / 16
    with jax.enable_x64(True):
        features = jax.vmap(jax.jacobian(lambda x: proven.outputs(x[None], jnp.float64)[0][0]))
        norms = np.linalg.norm(np.asarray(features(images)).reshape(30, -1, 64), 2, axis=(1, 2))
    assert norms.max() <= proven.lipschitz_bound
    assert norms.max() > 0.4  # the pooling loses some


@pytest.mark.parametrize(
    "options",
    [
        {"image_shape": (7, 4, 1), "patch": 3},
        {"image_shape": (4, 4, 3), "patch": 1, "pool": 2, "position": "channel"},
        {"image_shape": (2, 2, 3), "patch": 2, "pool": 1, "position": "none"},
        {"activation": "max_min", "head": "crc", "hidden": 8},
        {"activation": "n", "mean": (0.1, 0.2, 0.3)},
        {"beta": 1.0, "remat": True, "compute_dtype": "bfloat16"},
    ],
)
def test_networks_of_every_kind_are_proven_and_keep_their_bound(options, rng):
    model = small(**options)
    variables = model.tightened(made(model))
    proven = lipjax.prove(model, variables)
    assert 1 <= proven.lipschitz_bound <= 1 + 2e-6
    assert proven.rounding is not None
    x = rng.uniform(size=(6, *model.image_shape))
    classes, radii = proven.predict(x)
    assert (radii > 0).all()
    y = x + 1e-3 * rng.normal(size=x.shape)
    a, b = (proven.features(np.clip(z, 0, 1)) for z in (x, y))
    apart = np.linalg.norm((np.clip(y, 0, 1) - x).reshape(6, -1), axis=1)
    assert (np.linalg.norm(a - b, axis=1) <= apart * (1 + 1e-6)).all()
    np.testing.assert_array_equal(classes, np.argmax(model.apply(variables, x.astype(np.float32)), axis=1))


def test_recomputed_blocks_have_the_same_gradients(rng, float64):
    x = rng.uniform(size=(3, 6, 5, 3))
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, float), made(small()))

    def gradient(model):
        return jax.grad(lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, x, train=True))))(
            variables["params"]
        )

    plain, again = gradient(small()), gradient(small(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), plain, again)
    assert all(np.linalg.norm(leaf) > 0 for leaf in jax.tree.leaves(plain))


def test_no_weight_decays_but_that_of_the_head():
    model = small()
    mask = model.decayed(made(model)["params"])
    assert mask.pop("head") == {"weight": True, "bias": False}
    assert not any(jax.tree.leaves(mask))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 2}, "width=2: must be an integer >= 4"),
        ({"depth": 0}, "depth=0: must be an integer >= 1"),
        ({"patch": 0}, "patch=0: must be an integer >= 1"),
        ({"shift": 0.3}, "shift=0.3: must be a fraction that times width=16 is a multiple of 4"),
        ({"beta": 2}, r"beta=2: must be a number in \[0, 1\]"),
        ({"position": "both"}, "position='both': must be one of"),
        ({"pool": 0}, "pool=0: must be an integer >= 1, or None"),
        ({"pool": 2}, r"pool=2: must divide the 3 × 3 patches"),
        ({"activation": "relu"}, "activation='relu': must be one of"),
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\): must be 3 finite numbers, one per channel"),
        ({"compute_dtype": "float16"}, "compute_dtype='float16': must be one of"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        small(**options)
