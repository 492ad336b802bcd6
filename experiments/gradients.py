"""How far the fast kernel gradient of a trained network is from the exact one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.cells import Cell
from lipjax import ops
from lipjax.models.lipconvnet import LipConvnet
from lipjax.training.loop import train
from lipjax.workdir import load_trained

BATCHES = 4
APPROXIMATE = tuple(gradient for gradient in ops.GRADIENTS if gradient != "exact")


def measure(cell: Cell, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """Train as the cell says, then compare the gradients on the first training images, batch by batch.

    Returns:
      {'errors': {gradient: {'relative_error': [one a batch], 'cosine': [one a batch]}}}: of the gradient of the mean
      cross entropy with respect to all raw kernels, as one vector, against the exact one.
    """
    train(cell.config(data_dir), workdir)
    trained = load_trained(workdir, data_dir)
    config, model, variables, dataset = trained.config, trained.model, trained.variables, trained.dataset()
    assert isinstance(model, LipConvnet)
    errors: dict[str, dict[str, list[float]]] = {how: {"relative_error": [], "cosine": []} for how in APPROXIMATE}
    functions = {how: _gradient_function(model.clone(gradient=how)) for how in ("exact", *APPROXIMATE)}
    for batch in range(BATCHES):
        part = slice(batch * config.run.batch_size, (batch + 1) * config.run.batch_size)
        images = dataset.train.images[part].astype(np.float32) / np.float32(dataset.pixel_max)
        exact, *others = (
            _kernels(function(variables["params"], variables["spectral"], images, dataset.train.labels[part]))
            for function in functions.values()
        )
        for how, gradient in zip(APPROXIMATE, others, strict=True):
            length = float(np.linalg.norm(exact))
            errors[how]["relative_error"].append(float(np.linalg.norm(gradient - exact)) / length)
            errors[how]["cosine"].append(float(gradient @ exact / np.linalg.norm(gradient)) / length)
    return {"errors": errors, "images": BATCHES * config.run.batch_size}


def _gradient_function(model: LipConvnet):
    @jax.jit
    def gradient(params, spectral, images, labels):
        def loss(params):
            logits = model.apply({"params": params, "spectral": spectral}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    return gradient


def _kernels(gradient: Mapping[str, Any]) -> np.ndarray:
    """The gradients of all convolution kernels as one vector, float64."""
    return np.concatenate([np.asarray(g["kernel"], float).ravel() for g in gradient.values() if "kernel" in g])
