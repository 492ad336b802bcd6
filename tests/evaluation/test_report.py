import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import lipjax
from lipjax.evaluation import report
from lipjax.layers import Flatten, LastLayerNormalization, PointPool, Sequential


@pytest.mark.parametrize("pooling", ["projection", "polyline", "point"])
def test_level_sets_are_drawn_for_every_learned_pooling(tmp_path, pooling):
    model = lipjax.LipConvnet(init_channels=4, input_size=8, in_channels=1, pooling=pooling)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    path = tmp_path / "levels.png"
    report.plot_level_sets(path, model, variables, pairs=2)
    image = np.asarray(Image.open(path).convert("L"))
    assert image.shape[0] > image.shape[1] > 200  # three layers with two pairs each
    assert (image < 100).mean() > 0.01


def test_pooling_inside_of_other_layers_is_drawn_too(tmp_path):
    inner = Sequential((("pool", PointPool()),))
    model = lipjax.Network(Sequential((("inner", inner), ("flatten", Flatten()))), LastLayerNormalization(2), (2, 2, 4))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 4)))
    report.plot_level_sets(tmp_path / "levels.png", model, variables, pairs=2)
    assert (np.asarray(Image.open(tmp_path / "levels.png").convert("L")) < 100).mean() > 0.01


def test_nothing_to_draw_for_max_pooling(tmp_path):
    model = lipjax.LipConvnet(init_channels=2, input_size=4, in_channels=1)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    with pytest.raises(ValueError, match="no layer is a pooling with something to learn"):
        report.plot_level_sets(tmp_path / "levels.png", model, variables)
