"""A run's folder: what train.py wrote there, for those who come after."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from lipjax.checkpoint import Checkpoints
from lipjax.config import build_model, read_config
from lipjax.data import load


def load_trained(workdir: str | os.PathLike, data_dir: str | None = None):
    """(config, dataset, model, variables) of a workdir, from its best checkpoint if there is one, else its last.

    Held norms are tightened (`Classifier.tightened`), so that every layer is as good as its proof can have it.

    Reads config.json and the checkpoint only: no Python config is executed and nothing is unpickled.

    Raises:
      FileNotFoundError, ValueError, CheckpointError, DataError: no training there, a damaged config or checkpoint, data
        that cannot be read.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    if data_dir is not None:
        config.data_dir = data_dir
    checkpoints = Checkpoints(workdir)
    kind = "best" if checkpoints.has("best") else "last"
    checkpoints.metadata(kind)  # fails first where there is none, before any data is read
    dataset = load(config.dataset, config.data_dir)
    model = build_model(config, dataset.image_shape, dataset.num_classes)
    image = jnp.zeros((1, *dataset.image_shape))
    template = jax.eval_shape(lambda: dict(model.init(jax.random.key(0), image)))
    variables, _ = checkpoints.restore(kind, template, partial=True)
    return config, dataset, model, model.tightened(variables)
