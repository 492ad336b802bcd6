"""LiResNet: trains by the recipe of its paper, and certifies what it has learned."""

import jax
import jax.numpy as jnp
import numpy as np

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
